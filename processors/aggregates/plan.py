"""What a catalogue and the rules say of each series that was seen: zone, levels, kind, interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from processors.aggregates.kinds import KINDS
from processors.aggregates.periods import BIN, FIXED, end_of, holding, is_february, parts_in, start_of
from processors.aggregates.rules import READINGS, Rules, load_rules
from processors.aggregates.touched import Window
from qingtu.clock import SECOND
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from processors.aggregates.touched import Touched
    from qingtu.catalogue import Catalogue
    from qingtu.store.names import SeriesNames

Key = tuple[str, str, str]
"""(station, property, channel)."""


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """One series of the catalogue; ``levels`` are those that it has, by number."""

    kind: str
    zone: str
    interval_s: float
    levels: frozenset[int]


class Plan:
    """Series numbered as ``names`` numbers them, under one catalogue.

    Args:
        catalogue: in force.
        names: all series that were seen; what is added later needs a new plan.

    Attributes:
        series: by number; None when the catalogue does not have the series, or it has no figures.
    """

    def __init__(self, catalogue: Catalogue, names: SeriesNames) -> None:
        self.catalogue = catalogue
        self.rules: Rules = load_rules()
        self._names = names
        self.size = len(names)
        numbers = {level.name: i for i, level in enumerate(self.rules.levels)}
        self.above: list[list[int]] = [
            [numbers[upper.name] for upper in self.rules.levels if upper.below == level.name]
            for level in self.rules.levels
        ]
        self.series: list[SeriesPlan | None] = [self._of(key) for key in names.keys]
        planned = [one for one in self.series if one is not None]
        self._zones = sorted({one.zone for one in planned})
        code = {zone: i for i, zone in enumerate(self._zones)}
        self._zone = np.array([-1 if one is None else code[one.zone] for one in self.series], np.int32)
        self._has = np.array(
            [[one is not None and i in one.levels for one in self.series] for i in range(len(self.rules.levels))],
            np.bool_,
        ).reshape(len(self.rules.levels), self.size)
        self._counter = np.array([one is not None and one.kind == "counter" for one in self.series], np.bool_)
        self._weighs = self._weighed()

    def _of(self, key: Key) -> SeriesPlan | None:
        number = self.catalogue.series_index(*key)
        prop = load_properties().get(key[1])
        if number is None or prop is None or prop.agg not in KINDS:
            return None
        series = self.catalogue.series[number]
        levels = frozenset(i for i, level in enumerate(self.rules.levels) if level.covers(prop, series.interval_s))
        return SeriesPlan(prop.agg, series.timezone, series.interval_s, levels)

    def _weighed(self) -> NDArray[np.int64]:
        """Return for each speed the number of the direction that it weighs; -1: none."""
        out = np.full(self.size, -1, np.int64)
        for direction, key in enumerate(self._names.keys):
            speed = self.speed_of(key)
            number = None if speed is None or self.series[direction] is None else self._names.number(speed)
            if number is not None:
                out[number] = direction
        return out

    def speed_of(self, key: Key) -> Key | None:
        """Return the series that weighs a direction, or None: it is none, or its station has no such speed."""
        speed = self.rules.speed_of.get(key[1])
        if speed is None or self.catalogue.series_index(key[0], speed, key[2]) is None:
            return None
        return key[0], speed, key[2]

    def day_hours(self, station: str) -> tuple[int, int]:
        """Return the first hour of the day and of the night at a station."""
        found = self.catalogue.stations[station]
        own = found.day_hours or self.catalogue.networks[found.network].day_hours
        return own or self.rules.day_hours

    # ---------------------------------------------------------------------------------------------------- touching

    def sort_in(self, touched: Touched) -> None:
        """Turn touched bins into touched windows of the levels that are made from readings."""
        for number, mask in sorted(touched.bins.items()):
            series = np.flatnonzero(mask[: self.size])
            weighed = self._weighs[series]
            series = np.unique(np.concatenate([series, weighed[weighed >= 0]]))
            for code, zone in enumerate(self._zones):
                some = series[self._zone[series] == code]
                if len(some):
                    self._touch_from(touched, some, zone, number * BIN)
        touched.bins.clear()

    def _touch_from(self, touched: Touched, series: NDArray[np.int64], zone: str, time_us: int) -> None:
        counters = series[self._counter[series]]
        for i, level in enumerate(self.rules.levels):
            if level.below != READINGS:
                continue
            some = series[self._has[i, series]]
            start = start_of(level.name, zone, time_us)
            if len(some):
                touched.window(Window(i, start, end_of(level.name, zone, start), zone), some, self.size)
            # The next reading of a counter counts from this one, wherever it lies.
            some = counters[self._has[i, counters]]
            while len(some) and (start := end_of(level.name, zone, start)) < time_us + BIN + self.rules.lookback_us:
                touched.window(Window(i, start, end_of(level.name, zone, start), zone), some, self.size)

    def touch_above(self, touched: Touched, window: Window, series: NDArray[np.int64]) -> None:
        """Touch the windows that are made of a window."""
        for i in self.above[window.level]:
            some = series[self._has[i, series]]
            if not len(some):
                continue
            name = self.rules.levels[i].name
            for start in holding(name, window.zone, window.start):
                touched.window(Window(i, start, end_of(name, window.zone, start), window.zone), some, self.size)

    def still(self, window: Window, series: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say of which series a window is still one: the catalogue has them, in that zone, with that level."""
        inside = series < self.size
        out = np.zeros(len(series), np.bool_)
        some = series[inside]
        code = self._zones.index(window.zone) if window.zone in self._zones else -2
        out[inside] = self._has[window.level, some] & (self._zone[some] == code)
        return out

    # ---------------------------------------------------------------------------------------------------- validity

    def expected(self, series: SeriesPlan, window: Window) -> int:
        """Return how many readings or parts a window should have."""
        level = self.rules.levels[window.level]
        period = window.end - window.start
        by_interval = period / (series.interval_s * SECOND)
        if level.below == READINGS:
            return max(1, round(by_interval))
        parts = parts_in(level.name, level.below, window.zone, window.start, window.end)
        # A series that reports more seldom than once a part cannot fill each of them.
        seldom = series.interval_s * SECOND > FIXED.get(level.below, parts and period / parts)
        return max(1, min(parts, int(by_interval))) if seldom else parts

    def needed(self, prop: str, window: Window, expected: int) -> float:
        """Return how many of them a valid figure needs."""
        level = self.rules.levels[window.level].name
        february = level == "month" and is_february(window.zone, window.start)
        return self.rules.needed(prop, level, expected, february=february)
