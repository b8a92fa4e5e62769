"""Derive of a trial of rules: it makes the figures that rules look at, over readings that are all there already.

A trial asks what derive would have told the ordered pass. Which periods are due at which tick, as of which positions,
what comes of them, and how far a station is from those around it, is worked out by derive itself; here stands only what
a trial leaves out: series, levels and stations that no rule needs, areas, whose figures no rule can look at, what raw
does not hold whole, and what derive would have revised.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from processors.aggregates.derive import Derive
from processors.aggregates.hooks import Reaching
from processors.aggregates.neighbours import APART, groups_of
from processors.aggregates.plan import Plan
from processors.aggregates.rules import READINGS, load_rules
from processors.alerts.facts import Watched
from processors.indices.contract import MAIN
from processors.indices.run import WHATS, inputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from processors.aggregates.areas import AreaPeriod
    from processors.aggregates.evaluate import Due, Row
    from processors.aggregates.hooks import Derived
    from processors.aggregates.neighbours import Judged
    from processors.aggregates.plan import Key, SeriesPlan
    from processors.aggregates.touched import Window
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store
    from qingtu.store.names import SeriesNames

_NONE: Final[frozenset[int]] = frozenset()


class Needed:
    """What must be made for the figure rules of catalogues that differ in their rules alone.

    Attributes:
        catalogue: the first one.
        facts: figures that a rule looks at.
        made: series → numbers of the levels that are made of it.
        compared: series → number of the level whose periods are compared with those of neighbours.
        stations: whose indices are made.
        read: series whose readings are needed.
    """

    def __init__(self, *catalogues: Catalogue) -> None:
        self.catalogue = catalogues[0]
        self.facts = Watched(*catalogues)
        of_station: dict[str, list[Key]] = {}
        for series in self.catalogue.series:
            of_station.setdefault(series.station, []).append(series[:3])
        self.stations = {station for station, what, _, _ in self.facts.keys if what in WHATS.values()}
        self.made: dict[Key, frozenset[int]] = {}
        for station, what, prop, channel in self.facts.keys:
            if what not in WHATS.values() and what != APART:
                key = (station, prop, channel)
                self.made[key] = self.made.get(key, _NONE) | _parts_of(what)
        # An index may ask for any level.
        whole = frozenset(range(len(load_rules().levels)))
        self.made |= {key: whole for one in self.stations for key in of_station.get(one, ()) if key[2] == MAIN}
        apart = any(what == APART for _, what, _, _ in self.facts.keys)
        groups = groups_of(self.catalogue, load_rules().levels).values() if apart else ()
        self.compared = {key: group.level for group in groups for key in group.keys}
        speeds = [(s, load_rules().speed_of[prop], c) for s, prop, c in self.made if prop in load_rules().speed_of]
        self.read = {*self.made, *self.compared, *speeds}

    def __bool__(self) -> bool:
        """Say whether a rule looks at any figure."""
        return bool(self.facts.keys)

    def levels(self, key: Key) -> frozenset[int]:
        """Return the numbers of the levels whose windows readings of a series touch."""
        return self.made.get(key, _NONE) | ({self.compared[key]} if key in self.compared else _NONE)


def _parts_of(what: str) -> frozenset[int]:
    """Return the numbers of the level of a figure, and of those that it is made of."""
    rules = load_rules()
    numbers = {level.name: i for i, level in enumerate(rules.levels)}
    level, out = rules.level_of(what), set()
    while level is not None:
        out.add(numbers[level.name])
        level = None if level.below == READINGS else rules.levels[numbers[level.below]]
    return frozenset(out)


class TrialDerive(Derive):
    """See :class:`processors.aggregates.derive.Derive`; what it tells is told of figures alone.

    Args:
        store: has the readings and figures of this partition, for partition 0 those of all.
        needed: what is to be made.
        grace_s: a period is due so long after its end.
        since_us: periods that begin before lack readings and are not made, nor what is made of them, µs UTC.
        partition: the one that this is for; partition 0 compares stations with their neighbours.
        partitions: how many there are.
        derived: what is made of figures.
    """

    def __init__(
        self, store: Store, needed: Needed, grace_s: int, since_us: int, partition: int = 0,
        *, partitions: int, derived: Sequence[Derived],
    ) -> None:  # fmt: skip
        self._needed = needed
        self._since_us = since_us
        some = [_OfStations(entry, needed, since_us) for entry in derived] if needed.stations else []
        super().__init__(
            store, lambda _: needed.catalogue, grace_s, partition, partitions=partitions, derived=some, tell=True
        )

    def _watching(self, version: str) -> Watched:
        del version
        return self._needed.facts

    def _new_plan(self, catalogue: Catalogue) -> Plan:
        return _NarrowPlan(catalogue, self._names, self._needed)

    def _evaluate(self, level: int, due: Due, at: int, plan: Plan) -> list[Row]:
        whole = [(w, series[self._whole(w, series, plan)]) for w, series in due if w.start >= self._since_us]
        return super()._evaluate(level, whole, at, plan)

    def _whole(self, window: Window, series: NDArray[np.int64], plan: Plan) -> NDArray[np.bool_]:
        """Say which series have a figure to be made of a window, and all that it is made of."""
        from_readings = plan.rules.levels[window.level].below == READINGS
        out = []
        for number in series.tolist():
            one = plan.series[number]
            back = plan.rules.lookback_us if from_readings and one is not None and one.kind == "counter" else 0
            made = self._needed.made.get(self._names.keys[number], _NONE)
            out.append(window.level in made and window.start - back >= self._since_us)
        return np.array(out, np.bool_)

    def _touch_groups(self, due: Due, plan: Plan) -> None:
        # What other partitions touched, they told on raw then.
        if self._needed.compared and not self._partition:
            super()._touch_groups(due, plan)

    def _judge_groups(self, due: Sequence[AreaPeriod], clock_us: int, at: int, version: str) -> None:
        cut = [period for period in due if period[2] < self._since_us or not self._needed.compared]
        self._areas.done(cut)
        super()._judge_groups([period for period in due if period not in cut], clock_us, at, version)

    def _revise(self, periods: Sequence[AreaPeriod], judged: Judged, clock_us: int) -> None:
        # What was said of flags stands on raw. What was not said then will never show, so it is not waited for.
        del judged, clock_us
        self._areas.done(periods)


class _NarrowPlan(Plan):
    """A plan that has no levels but those that are needed."""

    def __init__(self, catalogue: Catalogue, names: SeriesNames, needed: Needed) -> None:
        self._needed = needed
        super().__init__(catalogue, names)

    def _of(self, key: Key) -> SeriesPlan | None:
        one = super()._of(key)
        return None if one is None else replace(one, levels=one.levels & self._needed.levels(key))


class _OfStations:
    """An entry of DERIVED for the stations that are needed, without areas; see :mod:`processors.aggregates.hooks`."""

    def __init__(self, entry: Derived, needed: Needed, since_us: int) -> None:
        self._entry, self._needed, self._since_us = entry, needed, since_us

    def __call__(
        self, catalogue: Catalogue, station_id: str, what: str, start_us: int,
        get: Callable[[str, str, str, int], Row | None], /,
    ) -> list[Row]:  # fmt: skip
        """Return the rows that a rule looks at and whose inputs are all there."""
        if station_id not in self._needed.stations:
            return []
        rows = self._needed.facts.only(self._entry(catalogue, station_id, what, start_us, get))
        return [row for row in rows if self._is_whole(catalogue, row)]

    def again(
        self, catalogue: Catalogue, station_id: str, what: str, start_us: int,
        get: Callable[[str, str, str, int], Row | None], /,
    ) -> list[tuple[str, int]]:  # fmt: skip
        """Return the other periods for which the entry must be called too."""
        if station_id not in self._needed.stations or not isinstance(self._entry, Reaching):
            return []
        return self._entry.again(catalogue, station_id, what, start_us, get)

    def _is_whole(self, catalogue: Catalogue, row: Row) -> bool:
        station, index, _ = row["key"]
        asked = inputs_of(catalogue, station, index, row["what"], row["start"])
        return all(start >= self._since_us for *_, start in asked)


__all__ = ["Needed", "TrialDerive"]
