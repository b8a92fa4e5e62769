"""Evaluates windows: one question to the store for all series of neighbouring windows, then whole columns at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.aggregates.kinds import KINDS, Columns, exceeded, steps
from processors.aggregates.periods import FIXED
from processors.aggregates.rules import READINGS
from qingtu.clock import DAY, MINUTE
from qingtu.contracts import ReadingQuery
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from processors.aggregates.plan import Key, Plan
    from processors.aggregates.touched import Window
    from qingtu.contracts import Store
    from qingtu.store.names import SeriesNames

Row = dict[str, Any]
"""One figure: what, key (station, property, channel), start, value, count, expected, valid, reason, inputs."""
Due = list[tuple["Window", "NDArray[np.int64]"]]
"""Windows, each with the numbers of its series."""
_ROWS: Final = 100_000
"""Of one question about, when series report every minute."""
_EVERY: Final = {READINGS: MINUTE, **FIXED, "day": DAY}
UNDEFINED: Final = "undefined"
"""Reason of a direction whose vectors cancel out, or whose speed was nought all the time."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The windows of one question, a row for each window and series; shape (w,) each.

    Attributes:
        window: index into the windows.
        series: number.
        place: of the series among those that were asked for.
        keys: of the places; speeds that weigh directions stand behind the others.
        weight: place of the speed that weighs each place; -1: none.
        start, end: µs UTC, what was asked for.
    """

    windows: Sequence[Window]
    window: NDArray[np.int64]
    series: NDArray[np.int64]
    place: NDArray[np.int64]
    keys: Sequence[Key]
    weight: NDArray[np.int64]
    start: int
    end: int

    def code(self, place: NDArray[Any], time_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one number that sorts by place, then time."""
        return place.astype(np.int64) * (self.end - self.start + 1) + (time_us - self.start)

    def segments(self, code: NDArray[np.int64], place: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return for each row the slice of sorted codes that lies in its window."""
        starts = np.array([w.start for w in self.windows], np.int64)[self.window]
        ends = np.array([w.end for w in self.windows], np.int64)[self.window]
        return (
            np.searchsorted(code, self.code(place, starts)),
            np.searchsorted(code, self.code(place, ends)),
        )


class FromReadings:
    """Figures of the levels that are made of readings.

    Args:
        store: is asked.
        plan: under the catalogue of the tick.
        names: of series.
        at: position of the tick: readings count as they were then.
    """

    def __init__(self, store: Store, plan: Plan, names: SeriesNames, at: int) -> None:
        self._store = store
        self._plan = plan
        self._names = names
        self._at = at

    def rows(self, due: Due) -> list[Row]:
        """Return the figures of windows of one level; a window without any reading has none."""
        out: list[Row] = []
        for counters in (False, True):
            some = [(window, self._only(series, counters=counters)) for window, series in due]
            back = self._plan.rules.lookback_us if counters else 0
            for chunk in chunks([(w, s) for w, s in some if len(s)], self._plan):
                out += self._evaluate(asked(chunk, self._plan, self._names, back))
        return out

    def _only(self, series: NDArray[np.int64], *, counters: bool) -> NDArray[np.int64]:
        kinds = (self._plan.series[number] for number in series.tolist())
        return series[np.array([one is not None and (one.kind == "counter") == counters for one in kinds], np.bool_)]

    def _evaluate(self, ask: Asked) -> list[Row]:
        table = self._store.readings(ReadingQuery(ask.keys, ask.start, ask.end, as_of=self._at))
        place = np.asarray(table.column("series"))
        code = ask.code(place, np.asarray(table.column("time")))
        revision = np.asarray(table.column("revision"))
        value = table.column("value").to_numpy()
        counted = (np.asarray(table.column("flag")) <= Flag.NOT_EVALUATED) & ~np.isnan(value)
        value, weight, counted = self._steps_and_weights(ask, place, code, value, counted)
        first, last = ask.segments(code, ask.place)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counted)])
        newest = _newest(revision, first, last)
        speed = np.where(ask.weight[ask.place] >= 0, ask.weight[ask.place], 0)
        newest = np.where(
            ask.weight[ask.place] >= 0, np.maximum(newest, _newest(revision, *ask.segments(code, speed))), newest
        )
        data = Columns(value[counted], before[first], before[last], weight=weight[counted])
        some = np.flatnonzero(last > first)
        return make_rows(
            self._plan, ask, some, data, data.counts,
            lambda i: {"readings": int(last[i] - first[i]), "newest_revision": int(newest[i])},
        )  # fmt: skip

    def _steps_and_weights(
        self, ask: Asked, place: NDArray[np.int32], code: NDArray[np.int64], value: NDArray[np.float64],
        counted: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:  # fmt: skip
        """Turn what counters show into steps, and find the speed beside each direction; without them none counts."""
        weight = np.ones(len(value))
        first = self._plan.series[int(ask.series[0])]
        if first is not None and first.kind == "counter":  # then all are
            good = np.flatnonzero(counted)
            value = value.copy()
            value[good] = steps(value[good], place[good].astype(np.int64))
            return value, weight, counted & ~np.isnan(value)
        if (ask.weight >= 0).any():
            rows = np.flatnonzero(ask.weight[place] >= 0)
            width = ask.end - ask.start + 1
            wanted = code[rows] + (ask.weight[place[rows]] - place[rows]) * width
            at = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
            found = (code[at] == wanted) & counted[at]
            weight[rows] = value[at]
            counted = counted.copy()
            counted[rows] &= found
        return value, weight, counted


def chunks(due: Due, plan: Plan) -> Iterator[Due]:
    """Cut windows of one level, oldest first, into those that are asked for together: neighbours, and not too many."""
    chunk: Due = []
    rows, end = 0, 0
    for window, series in sorted(due, key=lambda one: one[0][1:]):
        length = window.end - window.start
        below = _EVERY[plan.rules.levels[window.level].below]
        more = len(series) * length // below
        if chunk and (rows + more > _ROWS or window.start > end + length):
            yield chunk
            chunk, rows, end = [], 0, 0
        chunk.append((window, series))
        rows, end = rows + more, max(end, window.end)
    if chunk:
        yield chunk


def asked(due: Due, plan: Plan, names: SeriesNames, back_us: int = 0) -> Asked:
    """Put the windows of one question together."""
    counts = [len(series) for _, series in due]
    series = np.concatenate([series for _, series in due])
    used, place = np.unique(series, return_inverse=True)
    keys = [names.keys[number] for number in used.tolist()]
    speeds = [plan.speed_of(key) for key in keys] if plan.rules.levels[due[0][0].level].below == READINGS else []
    behind = list(dict.fromkeys(key for key in speeds if key is not None))
    known = {key: i for i, key in enumerate(keys)}
    known |= {key: len(keys) + i for i, key in enumerate(key for key in behind if key not in known)}
    weight = np.full(len(known), -1, np.int64)
    for i, key in enumerate(speeds):
        weight[i] = -1 if key is None else known[key]
    windows = [window for window, _ in due]
    return Asked(
        windows, np.repeat(np.arange(len(due)), counts), series, place, list(known), weight,
        min(w.start for w in windows) - back_us, max(w.end for w in windows),
    )  # fmt: skip


def _newest(revision: NDArray[np.int64], first: NDArray[Any], last: NDArray[Any]) -> NDArray[np.int64]:
    """Return the greatest revision of each slice; -1 for an empty one."""
    out = np.full(len(first), -1, np.int64)
    some = np.flatnonzero(last > first)
    if len(some):
        edges = np.stack([first[some], last[some]], axis=1).ravel()
        out[some] = np.maximum.reduceat(np.append(revision, -1), edges)[::2]
    return out


def make_rows(
    plan: Plan, ask: Asked, some: NDArray[np.int64], data: Columns, counts: NDArray[np.int64], inputs: Any
) -> list[Row]:
    """Apply the kinds, and write one row a window.

    Args:
        plan: of the series.
        ask: the windows.
        some: of these, which have a figure.
        data: what counts of each of the windows.
        counts: int64 (w,), how many of them validity is judged by.
        inputs: of a window's index, what else to tell of what it was made of.
    """
    value = np.full(len(ask.series), np.nan)
    stats: list[Mapping[str, float]] = [{}] * len(ask.series)
    kinds = [one.kind for number in ask.series.tolist() if (one := plan.series[number]) is not None]
    of_kind: dict[str, list[int]] = {}
    for i in some.tolist():
        if data.last[i] > data.first[i]:
            of_kind.setdefault(kinds[i], []).append(i)
    for kind, which in of_kind.items():
        own = data.only(which)
        value[which], found = KINDS[kind](own)
        if kind == "energy" and not data.stats:
            found |= exceeded(own, plan.rules.exceeded)
        columns = {name: column.tolist() for name, column in found.items()}
        for n, i in enumerate(which):
            stats[i] = {name: column[n] for name, column in columns.items()}
    return [
        _row(plan, ask, i, float(value[i]), int(counts[i]), {**inputs(i), **({"stats": stats[i]} if stats[i] else {})})
        for i in some.tolist()
    ]


def _row(plan: Plan, ask: Asked, i: int, value: float, count: int, inputs: Mapping[str, Any]) -> Row:
    window = ask.windows[ask.window[i]]
    series = plan.series[int(ask.series[i])]
    assert series is not None  # those that the catalogue does not have were left out
    key = ask.keys[ask.place[i]]
    expected = plan.expected(series, window)
    reason = why_not(value, count, plan.needed(key[1], window, expected))
    inputs = {"kind": series.kind, **inputs}
    return figure(plan.rules.levels[window.level].name, key, window.start, value, count, expected, reason, inputs)


def why_not(value: float, count: int, needed: float) -> str:
    """Return the reason why a figure is not valid; "" when it is."""
    if not count and value != value:  # noqa: PLR0124 - NaN is not equal to itself
        return "none_good"
    if count < needed:
        return "too_few"
    return UNDEFINED if value != value else ""  # noqa: PLR0124


def figure(
    what: str, key: Key, start: int, value: float, count: int, expected: int, reason: str, inputs: Mapping[str, Any]
) -> Row:  # fmt: skip
    """Write one row."""
    return {
        "what": what, "key": key, "start": start, "value": value, "count": count, "expected": expected,
        "valid": not reason, "reason": reason, "inputs": dict(inputs),
    }  # fmt: skip
