"""What checks remember between passes: one row a series, or the last readings of those series that are looked back on.

Both follow :class:`qingtu.contracts.Memory`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from processors.plan import carry
from qingtu.grouped import follows, last_of_each

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qingtu.contracts import CheckInput


class Rows:
    """One row for each series.

    Attributes:
        rows: shape (series,), structured; change it in place.
    """

    def __init__(self, empty: NDArray[Any], n: int) -> None:
        """Make ``n`` rows that start as ``empty``, shape (1,)."""
        self.rows = np.repeat(empty, n)

    def take(self, old: Rows, source: NDArray[np.int64]) -> None:
        """See :class:`qingtu.contracts.Memory`."""
        self.rows = carry(old.rows, source, self.rows)

    def state(self) -> dict[str, NDArray[Any]]:
        """See :class:`qingtu.contracts.Memory`."""
        return {"": self.rows}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See :class:`qingtu.contracts.Memory`."""
        self.rows = arrays[""]


@dataclass(frozen=True, slots=True)
class Trace:
    """The fresh readings of a pass whose series are looked back on; shape (f,) each.

    Attributes:
        row: int64, their rows in the pass.
        series: int32.
        time_us: int64.
        value: float64.
        rank: int64, how many readings of the same series stand before it in this trace.
    """

    row: NDArray[np.int64]
    series: NDArray[np.int32]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    rank: NDArray[np.int64]


class Rings:
    """The last fresh readings of each series, as many as a check says; none for the others.

    A check that looks back asks :meth:`trace` for its readings, :meth:`window` for what stands before them, and at last
    calls :meth:`put`. Only what is held is saved, so a check that can tell what it will never look at again may lower
    ``held``.

    Attributes:
        reach: int64 (series,), readings held at most.
        held: int64 (series,), readings held.
    """

    def __init__(self, reach: NDArray[np.int64]) -> None:
        self.reach = reach
        self.held = np.zeros(len(reach), np.int64)
        self._next = np.zeros(len(reach), np.int64)
        self._base = np.cumsum(reach) - reach
        self._time = np.zeros(int(reach.sum()), np.int64)
        self._value = np.full(int(reach.sum()), np.nan)

    def trace(self, data: CheckInput) -> Trace:
        """Return the fresh readings of series that are looked back on."""
        row = data.chain[self.reach[data.series[data.chain]] > 0]
        series = data.series[row]
        place = np.arange(len(row))
        rank = place - np.maximum.accumulate(np.where(follows(series), 0, place))
        return Trace(row, series, data.time_us[row], data.value[row], rank)

    def before(self, trace: Trace) -> NDArray[np.float64]:
        """Return the value right before each reading of a trace; NaN where there is none."""
        out = np.empty(len(trace.row))
        out[1:] = trace.value[:-1]
        first = np.flatnonzero(trace.rank == 0)
        series = trace.series[first]
        place = self._base[series] + (self._next[series] - 1) % self.reach[series]
        out[first] = np.where(self.held[series] > 0, self._value[place], np.nan)
        return out

    def window(
        self, trace: Trace, which: NDArray[np.int64], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return the last readings up to and with some readings of a trace, newest first.

        Args:
            trace: see :meth:`trace`.
            which: int64 (k,), places in the trace.
            length: at most ``reach`` + 1 of their series is there to be seen.

        Returns:
            times and values, shape (k, length), and where there is a reading at all, bool (k, length).
        """
        back = np.arange(length)
        rank, series = trace.rank[which, None], trace.series[which]
        inside = back <= rank
        here = np.where(inside, which[:, None] - back, 0)
        base, reach = self._base[series, None], self.reach[series, None]
        there = base + (self._next[series, None] - (back - rank)) % reach
        there = np.where(inside, base, there)
        time = np.where(inside, trace.time_us[here], self._time[there])
        value = np.where(inside, trace.value[here], self._value[there])
        known = (inside | (back - rank <= self.held[series, None])) & (back <= reach)
        return time, value, known

    def put(self, trace: Trace) -> None:
        """Remember the readings of a trace."""
        last = last_of_each(trace.series)
        # Only the series that occur are touched: a catalogue may have a hundred times as many.
        ends, n = trace.series[last], trace.rank[last] + 1
        series = trace.series
        kept = np.repeat(n, n) - trace.rank <= self.reach[series]
        series, rank = series[kept], trace.rank[kept]
        place = self._base[series] + (self._next[series] + rank) % self.reach[series]
        self._time[place], self._value[place] = trace.time_us[kept], trace.value[kept]
        self._next[ends] += n
        self.held[ends] = np.minimum(self.held[ends] + n, self.reach[ends])

    def take(self, old: Rings, source: NDArray[np.int64]) -> None:
        """See :class:`qingtu.contracts.Memory`."""
        new = np.flatnonzero(source >= 0)
        held, time, value = old._in_order(source[new])
        self._fill(new, held, time, value)

    def state(self) -> dict[str, NDArray[Any]]:
        """See :class:`qingtu.contracts.Memory`."""
        held, time, value = self._in_order(np.arange(len(self.reach)))
        return {"held": held, "time": time, "value": value}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See :class:`qingtu.contracts.Memory`."""
        self._fill(np.arange(len(self.reach)), arrays["held"], arrays["time"], arrays["value"])

    def _in_order(self, series: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return how many readings are held of series, and these behind each other, oldest first."""
        held = self.held[series]
        which, back = np.repeat(series, held), _countdown(held)
        place = self._base[which] + (self._next[which] - back) % np.maximum(self.reach[which], 1)
        return held, self._time[place], self._value[place]

    def _fill(
        self, series: NDArray[np.int64], held: NDArray[np.int64], time: NDArray[np.int64], value: NDArray[np.float64]
    ) -> None:
        """Take up what :meth:`_in_order` returned; of a series whose reach is smaller now, the newest."""
        keep = np.minimum(held, self.reach[series])
        back = _countdown(held)
        kept = back <= np.repeat(keep, held)
        which, back = np.repeat(series, held)[kept], back[kept]
        place = self._base[which] + np.repeat(keep, held)[kept] - back
        self._time[place], self._value[place] = time[kept], value[kept]
        self.held[series] = keep
        self._next[series] = keep


def _countdown(held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return held, held - 1 … 1 for each, behind each other.

    >>> _countdown(np.array([2, 0, 3])).tolist()
    [2, 1, 3, 2, 1]
    """
    ends = np.cumsum(held)
    out: NDArray[np.int64] = np.repeat(ends, held) - np.arange(int(ends[-1]) if len(ends) else 0)
    return out
