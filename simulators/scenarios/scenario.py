"""What a scenario is: a story that some stations tell for some hours, and what operators must hear of it.

A scenario lays *effects* over the undisturbed city and says which alerts must come, between which hours, and which
figures and flags; no other alert may be raised at its stations, and no other reading of them be flagged. It is a pure
function of catalogue and seed, as everything here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from qingtu.clock import HOUR
from simulators.signal import bell, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qingtu.catalogue import Catalogue
    from qingtu.catalogue_model import Station
    from simulators.signal import Times, Values

_WOBBLE = 0.01
"""Share of a value by which a sensor still moves while a story holds it; a still value would look stuck. What is added
leaves the sensor's own movement."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One series is led to a value and back.

    Attributes:
        station: id.
        property: key; every channel of it.
        target: canonical unit; the value while the story holds.
        from_h: hours after the start of the scenario at which it begins to change.
        rise_h: hours until the target is reached; 0: at once.
        hold_h: hours at the target.
        fall_h: hours until all is as before.
        added: the target is added to what would be, instead of taking its place.
    """

    station: str
    property: str
    target: float
    from_h: float
    rise_h: float = 1.0
    hold_h: float = 2.0
    fall_h: float = 1.0
    added: bool = False

    def lay_over(self, time_us: Times, values: Values, start_us: int, key: int) -> Values:
        """Return the values with this effect.

        Args:
            time_us: int64 (n,).
            values: float64 (n,), canonical unit.
            start_us: of the scenario.
            key: of the series' randomness.
        """
        hour = (time_us - start_us) / HOUR - self.from_h
        corners = np.cumsum([0.0, max(self.rise_h, 1e-6), self.hold_h, max(self.fall_h, 1e-6)])
        share = np.interp(hour, corners, [0.0, 1.0, 1.0, 0.0])
        share = share * share * (3 - 2 * share)  # without corners: a real sensor never turns in one sample
        if self.added:
            added: Values = values + share * self.target
            return added
        wobble = 1 + _WOBBLE * bell(key, time_us // 1_000_000)
        change = self.target * wobble - values
        result: Values = values + share * change
        return result


@dataclass(frozen=True, slots=True)
class Expected:
    """An alert that must open. One of the same rule and station outside of its hours is false.

    Attributes:
        rule: id.
        station: id; "" for an alert on a network or route.
        level: highest that it must reach, 1 blue … 4 red; neither less nor more.
        from_h: not before, hours after the start of the scenario.
        to_h: not after; by then the level must be reached.
        stations: of a situation: exactly those that it must be made of in the end; none: whichever.
    """

    rule: str
    station: str
    level: int
    from_h: float
    to_h: float
    stations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpectedFigure:
    """A figure or index that must come of the story.

    Attributes:
        station: id; of an area its code.
        property: key; of an index its key.
        what: such as ``hour`` or ``hour_index``: docs/aggregates.md, docs/indices.md.
        at_h: start of its period, hours after the start of the scenario.
        low: value at least, canonical unit; None: any.
        high: value at most; None: any.
        level: number of the class or level that an index must have; None: any.
        holds: it must hold by the rules of its standard; False: it must not, or not be there at all.
    """

    station: str
    property: str
    what: str
    at_h: float
    low: float | None = None
    high: float | None = None
    level: int | None = None
    holds: bool = True

    def fits(self, value: float, level: int | None) -> bool:
        """Return whether a figure that holds is as it must be."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.level is None or level == self.level)
        )


@dataclass(frozen=True, slots=True)
class ExpectedFlag:
    """A quality check that must find a series suspect or failing. Every flag that no such entry covers is false.

    Attributes:
        station: id.
        property: key.
        check: key of the check (docs/quality.md).
        from_h: hours after the start of the scenario; flagged readings are of no earlier time.
        to_h: nor of a later one.
    """

    station: str
    property: str
    check: str
    from_h: float
    to_h: float


@dataclass(frozen=True, slots=True)
class Story:
    """A scenario told by the stations of one catalogue.

    Attributes:
        hours: how long it lasts.
        stations: ids of all that take part, those that must stay quiet among them.
        effects: what happens.
        expected: what must be raised; all else at these stations is false.
        figures: what must come of it.
        flags: what quality control must find.
        silent: (station, from_h, to_h) of stations that send nothing in between.
    """

    hours: float
    stations: tuple[str, ...]
    effects: tuple[Effect, ...] = ()
    expected: tuple[Expected, ...] = ()
    figures: tuple[ExpectedFigure, ...] = ()
    flags: tuple[ExpectedFlag, ...] = ()
    silent: tuple[tuple[str, float, float], ...] = ()


class Told(Protocol):
    """Makes the story of a catalogue; LookupError when no station could tell it."""

    def __call__(self, catalogue: Catalogue) -> Story:
        """Choose stations and times."""
        ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story by name.

    Attributes:
        key: in SCENARIOS, on the command line and in docs/simulators.md.
        zh: what happens, in Chinese.
        en: the same in English.
        month: of the year in which it is told.
        tell: makes the story.
    """

    key: str
    zh: str
    en: str
    month: int
    tell: Told


class Staged:
    """A story on the clock: what it makes of each series.

    Args:
        story: what happens.
        start_us: when it begins, µs UTC.
        seed: of the run.
    """

    def __init__(self, story: Story, start_us: int, seed: int) -> None:
        self.story = story
        self.start_us = start_us
        self._seed = seed
        self._effects: dict[tuple[str, str], list[Effect]] = {}
        for effect in story.effects:
            self._effects.setdefault((effect.station, effect.property), []).append(effect)

    @property
    def end_us(self) -> int:
        """When it is over."""
        return self.start_us + round(self.story.hours * HOUR)

    def values(self, station: str, prop: str, time_us: Times, values: Values) -> Values:
        """Return a series as it is in the story."""
        for effect in self._effects.get((station, prop), ()):
            key = key_of(self._seed, station, prop, "story")
            values = effect.lay_over(time_us, values, self.start_us, key)
        return values

    def silent(self, station: str, time_us: int) -> bool:
        """Return whether the story keeps a station from sending at a time."""
        hour = (time_us - self.start_us) / HOUR
        return any(who == station and from_h <= hour < to_h for who, from_h, to_h in self.story.silent)


def able(
    catalogue: Catalogue, kinds: Iterable[str], *properties: str, count: int = 1, **attributes: str
) -> list[Station]:
    """Return the first stations, by id, of some kinds that measure all these properties and have these attributes.

    Raises:
        LookupError: there are fewer than ``count``.
    """
    wanted = set(kinds)
    found = [
        station
        for _, station in sorted(catalogue.stations.items())
        if station.kind in wanted
        and all(catalogue.series_index(station.id, prop) is not None for prop in properties)
        and all(station.attributes.get(name) == value for name, value in attributes.items())
    ]
    if len(found) < count:
        named = [*properties, *(f"{name}: {value}" for name, value in attributes.items())]
        raise LookupError(
            f"目录中的站点不够 / the catalogue has {len(found)} of {count} stations of kind "
            f"{', '.join(sorted(wanted))} with {', '.join(named)}"
        )
    return found[:count]


def beside(catalogue: Catalogue, station: Station, kinds: Iterable[str], *properties: str) -> list[Station]:
    """Return the other stations of some kinds that measure these properties, the nearest first.

    Raises:
        LookupError: there is none.
    """
    lon, lat = station.position

    def distance(other: Station) -> float:
        east = (other.position[0] - lon) * float(np.cos(np.deg2rad(lat)))
        return float(np.hypot(east, other.position[1] - lat))

    others = [one for one in catalogue.stations.values() if one.id != station.id]
    wanted = set(kinds)
    found = [
        one
        for one in others
        if one.kind in wanted and all(catalogue.series_index(one.id, prop) is not None for prop in properties)
    ]
    if not found:
        raise LookupError(
            f"目录中没有相邻站点 / the catalogue has no other station of kind {', '.join(sorted(wanted))}"
        )
    return sorted(found, key=lambda one: (distance(one), one.id))
