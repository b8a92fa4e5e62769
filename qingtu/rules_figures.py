"""What a trial of rules needs beside raw: the figures that rules look at, and how far stations are from neighbours.

Derive tells the pass what the rules of the day watched, and nothing else. So a trial has it all made anew, by derive's
own code, as of the ticks of then, and lets its passes hear it behind these ticks. What raw says of the same period as
well is known by its revision.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from processors.aggregates import DERIVED
from processors.aggregates.trial import Needed, TrialDerive
from qingtu.contracts import Progress
from qingtu.files import scratch
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, REJECTED, Frame, codes_of, decode
from qingtu.replay_bus import ReplayBus
from qingtu.replay_pass import Today, config_of
from qingtu.replay_raw import clock_us
from qingtu.stage import StageLoop
from qingtu.store.duckdb import DuckStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from processors.aggregates.plan import Key
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import FigureQuery, Outputs, ReadingQuery
    from qingtu.replay_raw import RawSource, Span
    from qingtu.settings import Settings

_NEVER: Final = 1 << 62
_NEVER_S: Final = 1 << 40
_AT_ONCE: Final = 20_000
"""Rows that wait for the store at most."""

Told = list[tuple[int, pa.RecordBatch]]
"""Clock of the tick, µs UTC, and command rows ``figures`` that derive would have told then; in order."""


def figures_told(
    settings: Settings, raw: RawSource, spans: Sequence[Span], needed: Needed, told: Callable[[int], None]
) -> dict[int, Told]:
    """Run raw once more, and make the figures that are needed.

    Their readings and what is made of them lie in a file in the data folder meanwhile.

    Args:
        settings: limits of the pass, grace of figures, the data folder.
        raw: where raw is read.
        spans: of each partition.
        needed: for the rules that are to be tried.
        told: is called with frames done.

    Returns:
        by partition what its pass must be told, in order of the ticks.
    """
    out: dict[int, Told] = {}
    with scratch(settings.data, "rules-try-") as folder:
        store = _Made(folder / "made.duckdb", settings, needed.read)
        try:
            grace_s, since_us, n = settings.figures.grace_s, _whole_from(raw, spans), len(spans)
            done = 0
            # The first partition compares, so it comes last: as of each of its ticks, all else is there.
            for p in (*range(1, n), 0):
                derive = TrialDerive(store, needed, grace_s, since_us, p, partitions=n, derived=DERIVED)
                for frame, offset, at in _processed(settings, raw, spans, needed.catalogue, p):
                    some = store.take(p, frame)
                    for place, data in derive.apply(some, offset).items():
                        _hear(place, decode(data), p, store, out)
                    told(done + at - spans[p].warm)
                done += spans[p].last - spans[p].warm
        finally:
            store.close()
    # What the first partition says to another stands behind all that the other says to itself.
    return {p: sorted(some, key=lambda one: one[0]) for p, some in out.items()}


def _whole_from(raw: RawSource, spans: Sequence[Span]) -> int:
    """Return since when all readings are there, µs UTC: what raw begins with is whole, what it is cut at is not."""
    cut = [clock_us(raw, p, span.warm) for p, span in enumerate(spans) if 0 < span.warm < span.last]
    return max(cut, default=-_NEVER)


def _hear(place: str | tuple[str, int], frame: Frame, partition: int, store: _Made, out: dict[int, Told]) -> None:
    """Keep one output of derive: figures are parts of others, and the pass of some partition must be told."""
    if place == FIGURES:
        store.wait(FIGURES, partition, frame, frame.sections["figures"].num_rows)
        return
    to = partition if place == RAW else int(place[1])
    out.setdefault(to, []).append((frame.clock_us, frame.sections["rows"]))


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


class _Made(DuckStore):
    """The readings that are needed and what was made of them, put into a file when somebody asks or many wait.

    Whoever asks how far it is hears that nothing is missing: all that comes before a tick was taken.

    Args:
        path: of the file.
        settings: memory and threads.
        keys: series that are needed; others are left out.
    """

    def __init__(self, path: Path, settings: Settings, keys: set[Key]) -> None:
        super().__init__(path, settings.store.memory_limit, settings.store.threads)
        self._keys = keys
        self._waiting: dict[tuple[str, int], list[Frame]] = {}
        self._count, self._writing = 0, False

    def progress(self, stream: str, partition: int) -> Progress:
        """Return how far committed effects reach."""
        return super().progress(stream, partition) if self._writing else Progress(_NEVER, _NEVER)

    def readings(self, query: ReadingQuery) -> pa.Table:
        """Return readings; see the contract."""
        self._flush()
        return super().readings(query)

    def figures_of(self, query: FigureQuery) -> pa.Table:
        """Return figures; see the contract."""
        self._flush()
        return super().figures_of(query)

    def take(self, partition: int, frame: Frame) -> Frame:
        """Keep what counts of a frame of ``processed``, and return it."""
        batch = frame.get("readings")
        mask = None if batch is None else self._counts(batch)
        if batch is None or mask is None or not mask.any():
            return Frame(frame.header)
        some = Frame(frame.header, {"readings": batch.filter(pa.array(mask))})
        self.wait(PROCESSED, partition, some, int(mask.sum()))
        return some

    def wait(self, stream: str, partition: int, frame: Frame, rows: int) -> None:
        """Keep a frame."""
        self._waiting.setdefault((stream, partition), []).append(frame)
        self._count += rows
        if self._count >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writing = True
        for (stream, partition), frames in self._waiting.items():
            self.apply(stream, partition, frames, 0)
        self._waiting, self._count, self._writing = {}, 0, False

    def _counts(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        columns = [codes_of(batch.column(name)) for name in ("station", "property", "channel")]
        codes = np.stack([code for code, _ in columns], axis=1)
        distinct, which = np.unique(codes, axis=0, return_inverse=True)
        names = [tuple(columns[i][1][code] for i, code in enumerate(row)) for row in distinct.tolist()]
        out: NDArray[np.bool_] = np.array([name in self._keys for name in names], np.bool_)[which.ravel()]
        return out


class TodayWith(Today):
    """The pass of today that is also told what :func:`figures_told` found; see :class:`qingtu.replay_pass.Today`.

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


__all__ = ["Needed", "TodayWith", "Told", "figures_told"]
