"""Gateway's core, ordered pass, store and derive on a simulated clock, without anything around them.

Messages become raw frames as the gateway makes them, a tick comes every five minutes, and what derive tells the pass
comes back as raw. Nothing is connected, no thread is started, and the store lives in memory: the same world gives the
same alerts, flags and figures.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa

from ingest.core import GatewayCore
from ingest.raw import command_row, raw_frame, tick_row
from ingest.routes import RouteTable
from processors.aggregates import DERIVED
from processors.aggregates.derive import Derive
from processors.bits import named
from processors.process import CONFIGURE, Process
from qingtu.clock import MINUTE
from qingtu.contracts import FigureQuery
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, Cause, Flag, decode, times_of
from qingtu.store.duckdb import DuckStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Outputs
    from qingtu.records import Frame
    from qingtu.settings import Settings
    from simulators.world import World

STEP_US: Final = 5 * MINUTE
"""Of frames and ticks. The pass gives the same however messages are cut into frames."""
_GATEWAY: Final = "rehearsal"
_IN_MEMORY: Final = Path(":memory:")
"""DuckDB's word for a database without a file."""


@dataclass(frozen=True, slots=True)
class Found:
    """A figure as it was published last.

    Attributes:
        value: canonical unit of the property or index; None when there is none.
        level: number of the class or level of an index; None where it has none.
        valid: it holds by the rules of its standard.
        reason: why not, "" when it holds.
    """

    value: float | None
    level: int | None
    valid: bool
    reason: str


@dataclass(slots=True)
class FlagCount:
    """What one check said of one series, all in all.

    Attributes:
        readings: so many were found suspect or failed by it.
        first_us, last_us: time of the first and last of them, µs UTC.
    """

    readings: int
    first_us: int
    last_us: int


class Stage:
    """The stages of one partition, driven by hand. Close it after use.

    Args:
        catalogue: in force all the time.
        settings: routes, limits of the pass, grace of figures.
        watch: is shown every frame of ``processed`` with its readings, or None.

    Attributes:
        transitions: rows of the stream ``alerts`` so far, with ``known_us`` and ``time_us`` beside them.
        readings, flagged: how many readings came, and how many of them were found suspect or failed.
        flags: (station, property, check) → what that check said.
    """

    def __init__(self, catalogue: Catalogue, settings: Settings, watch: Callable[[Frame], None] | None = None) -> None:
        private = frozenset(network.id for network in catalogue.networks.values() if network.private)
        routes = RouteTable(settings.routes, private)
        self._catalogue = catalogue
        self._core = GatewayCore(
            routes, settings.mqtt, gateway=_GATEWAY, partitions=1, key=b"rehearsal", catalogue=catalogue.version
        )
        self._process = Process(lambda _: catalogue)
        self._process.restore(None)
        self._store = DuckStore(_IN_MEMORY)
        self._derive = Derive(self._store, lambda _: catalogue, settings.figures.grace_s, derived=DERIVED, tell=True)
        self._config = {
            "catalogue": catalogue.version,
            "routes": {route.name: route.decoder for route in settings.routes},
            **settings.process.model_dump(),
        }
        self._routes = [route.name for route in settings.routes]
        self._watch = watch
        self._raw = self._processed = 0
        self._waiting: list[Frame] = []
        self.transitions: list[dict[str, Any]] = []
        self.readings = self.flagged = 0
        self.flags: dict[tuple[str, str, str], FlagCount] = {}

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def play(self, world: World, from_us: int, to_us: int) -> Iterator[int]:
        """Drive a world's messages through everything; yield the time after each tick, µs UTC."""
        self._drive(self._own(command_row(from_us, CONFIGURE, _GATEWAY, self._config), from_us))
        self._core.connected(from_us, session_present=True)
        hearing = dict.fromkeys(self._routes, from_us)
        for now_us in range(from_us + STEP_US, to_us + STEP_US, STEP_US):
            for message in world.messages(now_us - STEP_US, now_us):
                self._core.receive(
                    message.topic.encode(), message.payload, qos=1, dup=False, retain=False, packet_id=1,
                    properties=None, now_us=message.at_us,
                )  # fmt: skip
            while (flush := self._core.take(now_us)) is not None:
                for frame in flush.frames.values():
                    self._drive(frame)
                self._core.flushed(flush)
            self._drive(self._own(tick_row(now_us, hearing), now_us))
            yield now_us

    def figure(self, key: tuple[str, str, str], what: str, start_us: int) -> Found | None:
        """Return the figure of a series, or of an index or area in its place, that starts at a time; None: none."""
        query = FigureQuery([key], start_us, start_us + 1, what=what)
        rows = self._store.figures_of(query).to_pylist()
        if not rows:
            return None
        (row,) = rows
        return Found(row["value"], orjson.loads(row["inputs"]).get("level"), row["valid"], row["reason"])

    def _own(self, row: Any, now_us: int) -> bytes:
        return raw_frame([row], gateway="", catalogue=self._catalogue.version, clock_us=now_us)

    def _drive(self, frame: bytes) -> None:
        """Let a raw frame go all the way, and what derive tells the pass because of it behind it."""
        waiting = deque([frame])
        while waiting:
            self._raw += 1
            outputs = self._process.apply(decode(waiting.popleft()), self._raw)
            self._collect(outputs)
            if PROCESSED in outputs:
                processed = decode(outputs[PROCESSED])
                self._count(processed)
                if self._watch is not None:
                    self._watch(processed)
                waiting.extend(self._make_figures(processed))

    def _make_figures(self, frame: Frame) -> list[bytes]:
        """Store a processed frame and let derive see it; return the raw frames that it tells."""
        self._processed += 1
        self._waiting.append(frame)
        if frame.header["ticks"]:  # only then derive asks the store
            self._store.apply(PROCESSED, 0, self._waiting, self._processed + 1)
            self._waiting = []
        made = self._derive.apply(frame, self._processed)
        if FIGURES in made:
            self._store.apply(FIGURES, 0, [decode(made[FIGURES])], self._processed + 1)
        return [data for key, data in made.items() if key in {RAW, (RAW, 0)}]

    def _collect(self, outputs: Outputs) -> None:
        if ALERTS in outputs:
            rows = decode(outputs[ALERTS]).sections["alerts"]
            times = zip(times_of(rows.column("known_at")).tolist(), times_of(rows.column("time")).tolist(), strict=True)
            for row, (known, at) in zip(rows.to_pylist(), times, strict=True):
                self.transitions.append({**row, "known_us": known, "time_us": at})

    def _count(self, frame: Frame) -> None:
        """Count readings and flags; one whose flag comes with the next reading is a revision, and counts once."""
        readings = frame.get("readings")
        if readings is None:
            return
        flags = readings.column("flag").to_numpy()
        bad = np.flatnonzero((flags == Flag.SUSPECT) | (flags == Flag.FAIL))
        self.readings += int((readings.column("cause").to_numpy() == Cause.READING).sum())
        self.flagged += len(bad)
        if not len(bad):
            return
        rows = readings.take(pa.array(bad))
        times = times_of(rows.column("time")).tolist()
        for row, at in zip(rows.select(["station", "property", "tests"]).to_pylist(), times, strict=True):
            for check in named(row["tests"]):
                found = self.flags.setdefault((row["station"], row["property"], check), FlagCount(0, at, at))
                found.readings += 1
                found.first_us, found.last_us = min(found.first_us, at), max(found.last_us, at)
