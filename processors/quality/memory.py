"""What checks remember between passes: one row a series, or the last readings of those series that are looked back on.

Both follow :class:`qingtu.contracts.Memory`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from processors.columns import Columns
from qingtu.grouped import follows, last_of_each

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qingtu.contracts import CheckInput


class Rows:
    """One row for each series.

    Attributes:
        rows: a column (series,) for each field; change it in place.
    """

    def __init__(self, empty: NDArray[Any], n: int) -> None:
        """Make ``n`` rows that start as ``empty``, shape (1,)."""
        self.rows = Columns(empty, n)

    def before(self, data: CheckInput, name: str, column: NDArray[Any]) -> NDArray[Any]:
        """Return what stands before each reading of the chain (f,): in ``column`` (m,), else in what is remembered."""
        known: NDArray[Any] = self.rows[name].take(data.fresh[0])
        return known if data.once else np.where(data.before < 0, known, column[data.before])

    def put(self, data: CheckInput, **columns: NDArray[Any]) -> None:
        """Remember what columns (f,) say at the last reading of each series."""
        series, last = data.fresh[0], data.last
        for name, column in columns.items():
            if data.once:
                self.rows[name][series] = column
            else:
                self.rows[name][series[last]] = column[last]

    def take(self, old: Rows, source: NDArray[np.int64]) -> None:
        """See :class:`qingtu.contracts.Memory`."""
        self.rows.take(old.rows, source)

    def state(self) -> dict[str, NDArray[Any]]:
        """See :class:`qingtu.contracts.Memory`."""
        return {"": self.rows.rows()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See :class:`qingtu.contracts.Memory`."""
        self.rows.restore(arrays[""])


@dataclass(frozen=True, slots=True)
class Trace:
    """The fresh readings of a pass whose series are looked back on; shape (f,) each.

    Attributes:
        row: int64, their rows in the pass.
        series: int64.
        time_us: int64.
        value: float64.
        rank: int64, how many readings of the same series stand before it in this trace.
        alone: no series has two.
    """

    row: NDArray[np.int64]
    series: NDArray[np.int64]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    rank: NDArray[np.int64]
    alone: bool


class Rings:
    """The last fresh readings of each series, as many as a check says; none for the others.

    A check that looks back asks :meth:`trace` for its readings, :meth:`window` for what stands before them, and at last
    calls :meth:`put`. Only what is held is saved, so a check that can tell what it will never look at again may lower
    ``held``.

    Attributes:
        reach: int64 (series,), readings held at most.
        held: int64 (series,), readings held.
        newest: float64 (series,), the last value held; NaN where none is.
    """

    def __init__(self, reach: NDArray[np.int64]) -> None:
        self.reach = reach
        self.held = np.zeros(len(reach), np.int64)
        self.newest = np.full(len(reach), np.nan)
        self._all = bool((reach > 0).all())
        self._next = np.zeros(len(reach), np.int64)
        self._base = np.cumsum(reach) - reach
        self._time = np.zeros(int(reach.sum()), np.int64)
        self._value = np.full(int(reach.sum()), np.nan)

    def trace(self, data: CheckInput) -> Trace:
        """Return the fresh readings of series that are looked back on."""
        row, (series, time, value) = data.chain, data.fresh
        if not self._all:
            some = self.reach.take(series) > 0
            row, series, time, value = row[some], series[some], time[some], value[some]
        if data.once:
            return Trace(row, series, time, value, np.zeros(len(row), np.int64), alone=True)
        place = np.arange(len(row))
        rank = place - np.maximum.accumulate(np.where(follows(series), 0, place))
        return Trace(row, series, time, value, rank, alone=False)

    def before(self, trace: Trace) -> NDArray[np.float64]:
        """Return the value right before each reading of a trace; NaN where there is none."""
        out: NDArray[np.float64] = self.newest.take(trace.series)
        if not trace.alone:
            out[1:] = np.where(trace.rank[1:] > 0, trace.value[:-1], out[1:])
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
        series = trace.series
        if trace.alone:
            reach, following = self.reach.take(series), self._next.take(series)
            place = self._base.take(series) + following % reach
            self._time[place], self._value[place] = trace.time_us, trace.value
            self._next[series] = following + 1
            self.held[series] = np.minimum(self.held.take(series) + 1, reach)
            self.newest[series] = trace.value
            return
        last = last_of_each(series)
        # Only the series that occur are touched: a catalogue may have a hundred times as many.
        ends, n = trace.series[last], trace.rank[last] + 1
        kept = np.repeat(n, n) - trace.rank <= self.reach[series]
        series, rank = series[kept], trace.rank[kept]
        place = self._base[series] + (self._next[series] + rank) % self.reach[series]
        self._time[place], self._value[place] = trace.time_us[kept], trace.value[kept]
        self._next[ends] += n
        self.held[ends] = np.minimum(self.held[ends] + n, self.reach[ends])
        self.newest[ends] = trace.value[last]

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
        self.newest[series] = np.nan
        some = series[keep > 0]
        self.newest[some] = self._value[self._base[some] + self.held[some] - 1]


def _countdown(held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return held, held - 1 … 1 for each, behind each other.

    >>> _countdown(np.array([2, 0, 3])).tolist()
    [2, 1, 3, 2, 1]
    """
    ends = np.cumsum(held)
    out: NDArray[np.int64] = np.repeat(ends, held) - np.arange(int(ends[-1]) if len(ends) else 0)
    return out
