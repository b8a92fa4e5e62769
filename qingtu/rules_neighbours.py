"""What a trial of rules needs beside raw: how far stations are from their neighbours.

Derive tells the pass these differences for the rules of the day alone, and they are not stored. So a trial has its
readings compared anew, by derive's own code, as of the ticks of then, and lets its passes hear it behind these ticks.
What raw says of the same period as well is known by its revision.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from processors.aggregates.comparing import Comparing
from processors.aggregates.neighbours import APART, groups_of
from processors.aggregates.rules import load_rules
from qingtu.catalogue_rules import FigureRule
from qingtu.contracts import Progress
from qingtu.records import ALERTS, PROCESSED, REJECTED, Frame, codes_of, decode
from qingtu.replay_bus import ReplayBus
from qingtu.replay_pass import Today, config_of
from qingtu.replay_raw import clock_us
from qingtu.stage import StageLoop
from qingtu.store.duckdb import DuckStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from processors.aggregates.plan import Key
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Outputs, ReadingQuery
    from qingtu.replay_raw import RawSource, Span
    from qingtu.settings import Settings

_NEVER: Final = 1 << 62
_NEVER_S: Final = 1 << 40
_AT_ONCE: Final = 20_000
"""Readings that wait for the store at most."""

Told = list[tuple[int, pa.RecordBatch]]
"""Clock of the tick, µs UTC, and command rows ``figures`` that derive would have told then; in order."""


def watched(*catalogues: Catalogue) -> bool:
    """Say whether a rule of these catalogues looks at how far stations are from their neighbours."""
    return any(isinstance(rule, FigureRule) and rule.what == APART for one in catalogues for rule in one.rules)


def compared(
    settings: Settings, raw: RawSource, spans: Sequence[Span], catalogues: Sequence[Catalogue],
    told: Callable[[int], None],
) -> dict[int, Told]:  # fmt: skip
    """Run raw once more, and compare stations with their neighbours.

    The readings that are compared lie in a file in the data folder meanwhile.

    Args:
        settings: limits of the pass, grace of figures, the data folder.
        raw: where raw is read.
        spans: of each partition.
        catalogues: whose rules are to be tried; they differ in their rules alone.
        told: is called with frames done.

    Returns:
        by partition what its pass must be told.
    """
    keys = {key for group in groups_of(catalogues[0], load_rules().levels).values() for key in group.keys}
    out: dict[int, Told] = {}
    with TemporaryDirectory(prefix="rules-try-", dir=settings.data) as folder:
        store = _Readings(Path(folder) / "readings.duckdb", settings, keys)
        try:
            grace_s, since_us = settings.figures.grace_s, _whole_from(raw, spans)
            derive = Comparing(store, catalogues, grace_s, since_us, partitions=len(spans))
            done = 0
            # The first partition compares, so it comes last: as of each of its ticks, all else is there.
            for p in (*range(1, len(spans)), 0):
                for frame, offset, at in _processed(settings, raw, spans, catalogues[0], p):
                    store.take(p, frame)
                    if p == 0:
                        _hear(derive.apply(frame, offset), frame.clock_us, out)
                    told(done + at - spans[p].warm)
                done += spans[p].last - spans[p].warm
        finally:
            store.close()
    return out


def _whole_from(raw: RawSource, spans: Sequence[Span]) -> int:
    """Return since when all readings are there, µs UTC: what raw begins with is whole, what it is cut at is not."""
    cut = [clock_us(raw, p, span.warm) for p, span in enumerate(spans) if 0 < span.warm < span.last]
    return max(cut, default=-_NEVER)


def _hear(outputs: Outputs, tick_us: int, out: dict[int, Told]) -> None:
    for place, data in outputs.items():
        assert not isinstance(place, str), "nothing but what the pass of some partition must be told"
        out.setdefault(place[1], []).append((tick_us, decode(data).sections["rows"]))


def _processed(
    settings: Settings, raw: RawSource, spans: Sequence[Span], catalogue: Catalogue, partition: int
) -> Iterator[tuple[Frame, int, int]]:
    """Yield what the pass makes of a partition: each frame, its offset, and the raw offset up to which it was run."""
    bus = ReplayBus(raw, spans)
    today = Today(catalogue, config_of(settings, catalogue), partition, len(spans))
    loop = StageLoop(bus, today, partition, state_every_s=_NEVER_S)
    while loop.step():
        for record in bus.read(PROCESSED, partition, bus.start(PROCESSED, partition), _NEVER):
            yield decode(record.data), record.offset, loop.next_offset
        for stream in (PROCESSED, ALERTS, REJECTED):
            bus.trim(stream, partition, bus.end(stream, partition))


class _Readings(DuckStore):
    """The readings that are compared, put into a file when somebody asks or many wait.

    Whoever asks how far it is hears that nothing is missing: all that comes before a tick was taken, and nobody makes
    figures.

    Args:
        path: of the file.
        settings: memory and threads.
        keys: series that are compared; others are left out.
    """

    def __init__(self, path: Path, settings: Settings, keys: set[Key]) -> None:
        super().__init__(path, settings.store.memory_limit, settings.store.threads)
        self._keys = keys
        self._waiting: dict[int, list[Frame]] = {}
        self._count, self._writing = 0, False

    def progress(self, stream: str, partition: int) -> Progress:
        """Return how far committed effects reach."""
        return super().progress(stream, partition) if self._writing else Progress(_NEVER, _NEVER)

    def readings(self, query: ReadingQuery) -> pa.Table:
        """Return readings; see the contract."""
        self._flush()
        return super().readings(query)

    def take(self, partition: int, frame: Frame) -> None:
        """Keep what counts of a frame of ``processed``."""
        batch = frame.get("readings")
        if batch is not None and (mask := self._compared(batch)).any():
            some = {"readings": batch.filter(pa.array(mask))}
            self._waiting.setdefault(partition, []).append(Frame(frame.header, some))
            self._count += int(mask.sum())
            if self._count >= _AT_ONCE:
                self._flush()

    def _flush(self) -> None:
        self._writing = True
        for partition, frames in self._waiting.items():
            self.apply(PROCESSED, partition, frames, 0)
        self._waiting, self._count, self._writing = {}, 0, False

    def _compared(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        columns = [codes_of(batch.column(name)) for name in ("station", "property", "channel")]
        codes = np.stack([code for code, _ in columns], axis=1)
        distinct, which = np.unique(codes, axis=0, return_inverse=True)
        names = [tuple(columns[i][1][code] for i, code in enumerate(row)) for row in distinct.tolist()]
        out: NDArray[np.bool_] = np.array([name in self._keys for name in names], np.bool_)[which.ravel()]
        return out


class TodayWith(Today):
    """The pass of today that is also told what :func:`compared` found; see :class:`qingtu.replay_pass.Today`.

    Args:
        told: of this partition. Rows stand behind those of the first frame that is as late as their tick: derive had
            told them a little later.
    """

    def __init__(
        self, catalogue: Catalogue, config: Mapping[str, Any], partition: int, partitions: int, told: Told
    ) -> None:
        super().__init__(catalogue, config, partition, partitions)
        self._to_tell = deque(told)
        self._behind: dict[int, list[pa.RecordBatch]] = {}

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Process one raw frame as of today, and what was told then."""
        while self._to_tell and self._to_tell[0][0] <= frame.clock_us:
            # By frame, for a frame is processed again when a later one fails.
            self._behind.setdefault(offset, []).append(self._to_tell.popleft()[1])
        if offset in self._behind:
            rows = [frame.sections["rows"], *self._behind[offset]]
            whole = pa.Table.from_batches(rows).unify_dictionaries().combine_chunks().to_batches()[0]
            frame = Frame(frame.header, {**frame.sections, "rows": whole})
            if only is not None:
                only = np.concatenate([only, np.ones(whole.num_rows - len(only), np.bool_)])
        return super().apply(frame, offset, only)


__all__ = ["TodayWith", "Told", "compared", "watched"]
