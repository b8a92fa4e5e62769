"""How values of a period become one, by the property's kind of aggregation: pure array functions over segments.

A *segment* is a slice of the value column that holds what counts of one window, in order of time. A segment's result
depends on nothing but its own values, so it does not matter which windows are evaluated together. Each function takes
all segments of one kind at once: 50,000 windows cost a few array operations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Places = NDArray[np.int64]

ALL_COUNT: Final = frozenset({"sum", "counter", "max", "last"})
"""Kinds that take every part that has a value; of the others only valid parts count. See docs/aggregates.md."""
_CANCELLED: Final = 1e-9
"""Directions whose mean vector is shorter than this share of their mean length have no mean."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What counts, all windows behind each other, and where each window's segment is.

    Attributes:
        value: float64 (n,), canonical unit.
        first, last: int64 (w,), segment of each of w windows, end exclusive, never empty.
        stats: of parts, their statistics by name, float64 (n,); of readings empty.
        weight: float64 (n,), speed beside each direction; empty: all weigh 1.
    """

    value: Values
    first: Places
    last: Places
    stats: Mapping[str, Values] = field(default_factory=dict)
    weight: Values = field(default_factory=lambda: np.zeros(0))

    def only(self, which: Sequence[int]) -> Columns:
        """Return what counts of some windows, and nothing else: no kind sees the numbers of another."""
        first, counts = self.first[which], self.counts[which]
        last = np.cumsum(counts)
        start = last - counts
        rows = np.arange(counts.sum()) + np.repeat(first - start, counts)
        stats = {name: column[rows] for name, column in self.stats.items()}
        return Columns(self.value[rows], start, last, stats, self.weight[rows] if len(self.weight) else self.weight)

    @property
    def counts(self) -> Places:
        """How many values each window has, shape (w,)."""
        return self.last - self.first

    def reduce(self, how: np.ufunc, column: Values) -> Values:
        """Apply a ufunc over each segment of a column, shape (w,). Segments may overlap."""
        # One element more, so that an end may stand behind the last; what lies between the segments is thrown away.
        longer = np.append(column, 0.0)
        edges = np.stack([self.first, self.last], axis=1).ravel()
        out: Values = how.reduceat(longer, edges)[::2]
        return out

    def mean(self, column: Values) -> Values:
        """Return the arithmetic mean of each segment of a column."""
        return self.reduce(np.add, column) / self.counts


Result = tuple["Values", dict[str, "Values"]]
"""Values, shape (w,), NaN where there is none, and further statistics by name."""


def _extremes(data: Columns) -> dict[str, Values]:
    low, high = data.stats.get("min", data.value), data.stats.get("max", data.value)
    return {"min": data.reduce(np.minimum, low), "max": data.reduce(np.maximum, high)}


def mean(data: Columns) -> Result:
    """Arithmetic mean, with smallest and largest value."""
    return data.mean(data.value), _extremes(data)


def energy(data: Columns) -> Result:
    """Average levels in energy: ``10 lg(mean(10^(L/10)))`` (noise.yaml; GB 3096-2008).

    >>> two = Columns(np.array([60.0, 70.0]), np.array([0]), np.array([2]))
    >>> round(float(energy(two)[0][0]), 2)
    67.4
    """
    return 10 * np.log10(data.mean(10 ** (data.value / 10))), _extremes(data)


def rms(data: Columns) -> Result:
    """Root of the mean square."""
    return np.sqrt(data.mean(data.value**2)), _extremes(data)


def circular(data: Columns) -> Result:
    """Direction of the mean vector in degrees, each as long as its weight; NaN where the vectors cancel out.

    >>> north = Columns(np.array([350.0, 30.0]), np.array([0]), np.array([2]))
    >>> round(float(circular(north)[0][0]), 6)
    10.0
    """
    if data.stats:
        east, north, length = data.stats["east"], data.stats["north"], data.stats["length"]
    else:
        length = data.weight if len(data.weight) else np.ones(len(data.value))
        radians = np.deg2rad(data.value)
        east, north = length * np.sin(radians), length * np.cos(radians)
    stats = {"east": data.mean(east), "north": data.mean(north), "length": data.mean(length)}
    value = np.rad2deg(np.arctan2(stats["east"], stats["north"])) % 360
    value = np.where(value == 360, 0.0, value)  # what is a little less than 0 is rounded up to 360
    gone = np.hypot(stats["east"], stats["north"]) <= _CANCELLED * stats["length"]
    return np.where(gone, np.nan, value), stats


def total(data: Columns) -> Result:
    """Sum."""
    return data.reduce(np.add, data.value), {}


def largest(data: Columns) -> Result:
    """Maximum."""
    return data.reduce(np.maximum, data.value), {}


def newest(data: Columns) -> Result:
    """Value that is the last in time."""
    return data.value[data.last - 1], {}


KINDS: Final[Mapping[str, Callable[[Columns], Result]]] = {
    "mean": mean,
    "energy": energy,
    "rms": rms,
    "circular": circular,
    "sum": total,
    "counter": total,  # of steps: see steps()
    "max": largest,
    "last": newest,
}
"""By the key ``agg`` of qingtu/properties.yaml; ``none`` has no figures."""


def steps(value: Values, series: Places) -> Values:
    """Return by how much a counter went on since the reading before of the same series, shape (n,).

    A counter that was set back gives nothing for that step: how far it had come is not known. NaN: no reading before.

    Args:
        value: (n,), in order of series and time.
        series: (n,), which.

    >>> steps(np.array([10.0, 12.0, 1.0, 4.0]), np.array([0, 0, 0, 0])).tolist()
    [nan, 2.0, 0.0, 3.0]
    """
    out = np.full(len(value), np.nan)
    if len(value) > 1:
        same = series[1:] == series[:-1]
        out[1:] = np.where(same, np.maximum(np.diff(value), 0.0), np.nan)
    return out


def exceeded(data: Columns, percent: Sequence[int]) -> dict[str, Values]:
    """Return the levels that N percent of the samples exceed: L10, L50, L90 (noise.yaml).

    Between two samples it is interpolated, as numpy's percentile does.

    >>> ten = Columns(np.arange(11.0), np.array([0]), np.array([11]))
    >>> {name: float(level[0]) for name, level in exceeded(ten, [10, 50, 90]).items()}
    {'l10': 9.0, 'l50': 5.0, 'l90': 1.0}
    """
    counts = data.counts
    own = data.only(range(len(counts)))
    segment, start = np.repeat(np.arange(len(counts)), counts), own.first
    value = own.value[np.lexsort((own.value, segment))]
    out = {}
    for n in percent:
        at = (100 - n) / 100 * (counts - 1)
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, counts - 1)
        share = at - low
        out[f"l{n}"] = value[start + low] * (1 - share) + value[start + high] * share
    return out
