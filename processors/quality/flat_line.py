"""Flat line: a value that does not move for too long (QARTOD test 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from processors.quality.memory import Rings
from qingtu.grouped import last_of_each
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from processors.quality.memory import Trace
    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput

_CELLS: Final = 1 << 20
"""Readings that are looked at together: bounds memory when a long history is driven through."""
_NEVER: Final = 1 << 40
"""Readings that never come."""


@dataclass(frozen=True, slots=True)
class FlatLimits:
    """Limits by series, shape (series,).

    Attributes:
        tolerance: float64, canonical unit; 0: not tested.
        suspect, fail: int64, so many readings before the judged one, with it, must be flat.
        least: int64, the smaller one.
        limited: bool.
    """

    tolerance: NDArray[np.float64]
    suspect: NDArray[np.int64]
    fail: NDArray[np.int64]
    least: NDArray[np.int64]
    limited: NDArray[np.bool_]


class FlatLine:
    """4 when the last ``fail_s`` are flat, 3 when the last ``suspect_s`` are, else 1; flat: range < tolerance.

    A time is as many readings as the declared interval puts into it, at least two, beside the judged one. Missing
    values are skipped inside; before so many readings have come the flag is 1. Without limit or not fresh 2, without
    value 9. Source: ioos_qc ``flat_line_test``, equal to it where its median interval is the declared one.
    """

    key = "flat_line"
    bit = 5

    def prepare(self, series: Sequence[Series]) -> FlatLimits | None:
        """Return limits by series, or None when nothing is limited."""
        tolerance = np.array([s.limits.flat_tolerance for s in series], np.float64)
        suspect = np.array([_readings(s.limits.flat_suspect_s, s.interval_s) for s in series], np.int64)
        fail = np.array([_readings(s.limits.flat_fail_s, s.interval_s) for s in series], np.int64)
        least = np.minimum(suspect, fail)
        limited = (tolerance > 0) & (least < _NEVER)
        return FlatLimits(tolerance, suspect, fail, least, limited) if limited.any() else None

    def memory(self, limits: FlatLimits) -> Runs:
        """Return room for the readings since each series last moved, as many as its longest limit looks back on."""
        finite = [np.where(n < _NEVER, n, 0) for n in (limits.suspect, limits.fail)]
        return Runs(np.where(limits.limited, np.maximum(*finite), 0))

    def __call__(self, data: CheckInput, limits: FlatLimits, memory: Runs) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        trace = memory.trace(data)
        moved = np.abs(trace.value - memory.before(trace)) >= limits.tolerance.take(trace.series)
        still, low, high = memory.runs(trace, moved)
        stands = (still > limits.least.take(trace.series)).nonzero()[0]
        flat = _stand(limits, memory, trace, stands, still, low, high) if len(stands) else stands
        memory.put(trace)
        memory.keep(trace, still, low, high)
        if not len(stands) and len(trace.row) == len(data.series):
            return data.passed, None
        flags = np.full(len(data.series), Flag.NOT_EVALUATED, np.uint8)
        flags[trace.row] = Flag.PASS
        row, series = trace.row[stands], trace.series[stands]
        flags[row[flat > limits.suspect[series]]] = Flag.SUSPECT
        flags[row[flat > limits.fail[series]]] = Flag.FAIL
        flags[data.missing] = Flag.MISSING
        return flags, None


class Runs(Rings):
    """The readings since each series last moved, and the least and greatest of them.

    A reading before those that were flat together with the newest cannot be flat with any later one: it is let go of.

    Attributes:
        low, high: float64 (series,), of the readings held, and perhaps of some before them that belong to the same run;
            NaN where none has a value. They follow from the readings, so they are not saved.
    """

    def __init__(self, reach: NDArray[np.int64]) -> None:
        super().__init__(reach)
        self.low = np.full(len(reach), np.nan)
        self.high = np.full(len(reach), np.nan)

    def runs(
        self, trace: Trace, moved: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return how many readings up to and with each of a trace came since the last that moved, and their range.

        Args:
            trace: t readings.
            moved: bool (t,), which of them moved; one that did is the first of its run.

        Returns:
            readings, int64 (t,), least and greatest value, float64 (t,) each, NaN where no reading has one.
        """
        if trace.alone:
            kept = ~moved
            held = self.held.take(trace.series) * kept + 1
            low, high = self.low.take(trace.series), self.high.take(trace.series)
            np.copyto(low, trace.value, where=moved)
            np.copyto(high, trace.value, where=moved)
            return held, np.fmin(low, trace.value), np.fmax(high, trace.value)
        place = np.arange(len(trace.row))
        start = np.maximum.accumulate(np.where(moved | (trace.rank == 0), place, 0))
        still: NDArray[np.int64] = place - start + 1
        low, high = trace.value.copy(), trace.value.copy()
        step = 1
        # Running range within each run by doubling: as many rounds as the longest run has binary digits.
        while step < len(place) and (same := place[step:] - step >= start[step:]).any():
            np.fmin(low[step:], np.where(same, low[:-step], np.nan), out=low[step:])
            np.fmax(high[step:], np.where(same, high[:-step], np.nan), out=high[step:])
            step *= 2
        # Where none moved in this pass the readings that are remembered go on.
        on = np.flatnonzero((trace.rank[start] == 0) & ~moved[start])
        series = trace.series[on]
        still[on] += self.held[series]
        low[on], high[on] = np.fmin(low[on], self.low[series]), np.fmax(high[on], self.high[series])
        return still, low, high

    def keep(self, trace: Trace, still: NDArray[np.int64], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """Hold no more than what :meth:`runs` returned, after :meth:`put`."""
        ends = trace.series
        if not trace.alone:
            last = last_of_each(ends)
            ends, still, low, high = ends[last], still[last], low[last], high[last]
        self.held[ends] = np.minimum(self.held.take(ends), still)
        self.low[ends], self.high[ends] = low, high

    def _fill(
        self, series: NDArray[np.int64], held: NDArray[np.int64], time: NDArray[np.int64], value: NDArray[np.float64]
    ) -> None:
        super()._fill(series, held, time, value)
        some = series[self.held[series] > 0]
        count, _, values = self._in_order(some)
        first = np.cumsum(count) - count
        self.low[series] = self.high[series] = np.nan
        if len(some):
            self.low[some], self.high[some] = np.fmin.reduceat(values, first), np.fmax.reduceat(values, first)


def _stand(
    limits: FlatLimits,
    memory: Runs,
    trace: Trace,
    stands: NDArray[np.int64],
    still: NDArray[np.int64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return how many readings up to and with each of those that did not move for long are flat, shape (k,).

    Args:
        limits: of all series.
        memory: before the trace is put into it.
        trace: t readings.
        stands: int64 (k,), places in the trace.
        still: int64 (t,), readings as :meth:`Runs.runs` gave them; changed where only a part of a run is flat.
        low: float64 (t,), likewise.
        high: float64 (t,), likewise.
    """
    # Whatever moved within its window is not flat, and a run within the tolerance is flat as a whole: only what creeps,
    # each step smaller than the tolerance and all together larger, is looked at reading by reading.
    tolerance = limits.tolerance[trace.series[stands]]
    flat: NDArray[np.int64] = np.where(np.abs(high[stands] - low[stands]) < tolerance, still[stands], 0)
    creeps = ((flat == 0) & ~np.isnan(trace.value[stands])).nonzero()[0]
    for part in _chunks(creeps, memory.reach[trace.series[stands]] + 1):
        which = stands[part]
        flat[part], low[which], high[which] = _flat(memory, trace, which, tolerance[part])
        still[which] = flat[part]
    return flat


def _readings(time_s: float, interval_s: float) -> int:
    return max(2, int(int(time_s) / interval_s)) if np.isfinite(time_s) else _NEVER


def _chunks(which: NDArray[np.int64], width: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut places of a trace into parts whose windows fit into memory."""
    if len(which):
        step = max(1, _CELLS // int(width[which].max()))
        for at in range(0, len(which), step):
            yield which[at : at + step]


def _flat(
    memory: Runs, trace: Trace, which: NDArray[np.int64], tolerance: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return how many readings, newest first, stay within the tolerance, and their range, shape (k,) each."""
    length = int(memory.reach[trace.series[which]].max()) + 1
    _, value, known = memory.window(trace, which, length)
    high = np.fmax.accumulate(value, axis=1)
    low = np.fmin.accumulate(value, axis=1)
    with np.errstate(invalid="ignore"):
        flat = (np.abs(high - low) < tolerance[:, None]) & known
    # The range only grows: what is flat stands in front.
    count: NDArray[np.int64] = flat.sum(axis=1)
    rows, at = np.arange(len(which)), np.maximum(count, 1) - 1
    return count, low[rows, at], high[rows, at]
