"""The stages without threads: raw rows in, stepped by hand, killed and opened again at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ingest.raw import command_row, raw_frame, redrive_rows
from processors.aggregates.derive import WINDOWS, Derive
from processors.process import Process
from qingtu.audit import audit
from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SECOND, ManualClock
from qingtu.errors import RetryLater
from qingtu.ledger import Ledger
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, REJECTED, decode
from qingtu.stage import StageLoop
from qingtu.store.duckdb import DuckStore
from sinks.primary import StoreStage
from tests.process.support import T0, frame_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from processors.aggregates.hooks import Derived
    from qingtu.catalogue import Catalogue


class Pipeline:
    """Bus, process, store, derive and ledger in one folder.

    Args:
        folder: for the files.
        catalogues: all that raw names.
        grace_s: of the figures.
        derived: what is made of figures.
        tell: derive tells the pass what its rules watch.
        at_once: windows that derive evaluates at one tick at most.
    """

    def __init__(
        self,
        folder: Path,
        catalogues: Iterable[Catalogue],
        *,
        grace_s: int = 60,
        derived: Sequence[Derived] = (),
        tell: bool = False,
        at_once: int = WINDOWS,
    ) -> None:
        self._tell = tell
        self._at_once = at_once
        self._derived = derived
        self._folder = folder
        self._archive = {c.version: c for c in catalogues}
        self._grace_s = grace_s
        self._open()

    def _files(self) -> tuple[SqliteBus, DuckStore]:
        """Open bus and store on what was saved."""
        bus = SqliteBus(self._folder / "bus", free_floor_bytes=0)
        return bus, DuckStore(self._folder / "store.duckdb", "256MB", 1)

    def _open(self) -> None:
        self.bus, self.store = self._files()
        self.process = StageLoop(self.bus, Process(self._archive.__getitem__), state_every_s=1 << 30, batch=1)
        derive = Derive(
            self.store, self._archive.__getitem__, self._grace_s, derived=self._derived, tell=self._tell,
            at_once=self._at_once,
        )  # fmt: skip
        self.derive = StageLoop(self.bus, derive, state_every_s=1 << 30, batch=1)
        self.stores = [
            StoreStage(self.bus, self.store, stream, 0, ManualClock(T0), commit_ms=0)
            for stream in (PROCESSED, ALERTS, REJECTED, FIGURES)
        ]
        self.ledger = Ledger(self.bus, self.store)

    def kill(self) -> None:
        """Forget everything that was not saved, and start again."""
        self.close()
        self._open()

    def close(self) -> None:
        """Close the files, save nothing."""
        self.bus.close()
        self.store.close()

    def feed(self, *rows: Mapping[str, Any]) -> int:
        """Append one raw frame; return its offset."""
        return self.bus.append(RAW, 0, [frame_of(rows)]).result()[0]

    def feed_each(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append a raw frame for each row, all at once."""
        self.bus.append(RAW, 0, [frame_of([row]) for row in rows]).result()

    def redrive(self, ids: Sequence[int] | None = None, shift_s: float = 0, at_s: float = 0) -> int:
        """Drive quarantined messages again, as the service does; None takes all."""
        wanted = [(0, at) for at in ids] if ids is not None else self.store.in_quarantine()
        rows = self.store.raw_rows(wanted)
        driven = redrive_rows(rows, [at for _, at in wanted], round(shift_s * SECOND))
        now = T0 + round(at_s * SECOND)
        command = command_row(now, "redrive", "t", {})
        frame = raw_frame([command, driven], gateway="", catalogue=None, clock_us=now)
        return self.bus.append(RAW, 0, [frame]).result()[0]

    def apply_processed(self, frames: int) -> None:
        """Let the store apply so many processed frames more, each as a commit of its own."""
        stage = self.stores[0]
        for record in self.bus.read(PROCESSED, 0, stage.next_offset, frames):
            self.store.apply(PROCESSED, 0, [decode(record.data)], record.offset + 1)
            stage.next_offset = record.offset + 1

    def step(self, which: str) -> bool:
        """Step one of process, store, derive; waiting for another stage counts as nothing done."""
        try:
            if which == "store":
                return max([stage.step() for stage in self.stores])
            return (self.process if which == "process" else self.derive).step()
        except RetryLater:
            return False

    def run(self) -> None:
        """Step everything until there is nothing to do."""
        while max([self.step(which) for which in ("process", "store", "derive")]):
            pass

    def save(self) -> None:
        """Save the state of the stages and the ledger, as they do now and then."""
        self.process.save()
        self.derive.save()
        self.ledger.save()

    def report(self) -> dict[str, Any]:
        """The ledger as JSON data: through JSON, as everybody reads it."""
        out: dict[str, Any] = orjson.loads(orjson.dumps(self.ledger.report()))
        return out

    def audit(self) -> dict[str, Any]:
        """Recount, against the ledger of now."""
        return audit(self.bus, self.store, self.ledger)

    def everything(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Return all figures and all corrections, whole rows in an order that depends on nothing but them."""
        with self.store.cursor() as db:
            figures = db.execute("FROM figures ORDER BY ALL").fetchall()
            return figures, db.execute("FROM figure_corrections ORDER BY ALL").fetchall()

    def figures(self) -> list[tuple[Any, ...]]:
        """Return (station, property, hour after T0, value, count, expected, valid, reason, position) of all hours."""
        with self.store.cursor() as db:
            rows: list[tuple[Any, ...]] = db.execute(
                "SELECT station, property, (epoch_us(start) - ?) // 3600000000, value, count, expected, valid, reason, "
                "revision FROM figures WHERE what = 'hour' ORDER BY ALL",
                [T0],
            ).fetchall()
        return rows

    def figure_corrections(self) -> list[tuple[Any, ...]]:
        """Return (station, property, hour after T0, old value, new value, old position, new position) of all hours."""
        with self.store.cursor() as db:
            rows: list[tuple[Any, ...]] = db.execute(
                "SELECT station, property, (epoch_us(start) - ?) // 3600000000, old_value, new_value, old_revision, "
                "new_revision FROM figure_corrections WHERE what = 'hour' ORDER BY ALL",
                [T0],
            ).fetchall()
        return rows
