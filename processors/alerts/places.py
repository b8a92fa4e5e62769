"""Which alerts a situation may be made of, and which stations are of one place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from qingtu.catalogue_rules import SituationRule
from qingtu.catalogue_situations import upstream_of

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Transition

EARTH_RADIUS_KM = 6371.0088
"""Mean radius (IUGG), as :mod:`processors.relations.location` has it in metres."""


class Key(NamedTuple):
    """What an alert is of: one rule on one series, or on a station."""

    station: str
    rule: str
    property: str
    channel: str

    @classmethod
    def of(cls, transition: Transition) -> Key:
        """Return that of a transition."""
        return cls(transition.station, transition.rule, transition.property, transition.channel)


class Scope:
    """What one situation rule looks at in one catalogue."""

    def __init__(self, rule: SituationRule, catalogue: Catalogue) -> None:
        self.rule = rule
        self._stations = {s.id: s for s in catalogue.stations.values() if rule.where.covers(s)}
        self._rules = frozenset(one.id for one in catalogue.rules if not isinstance(one, SituationRule))
        self._upstream = upstream_of(catalogue.stations.values())

    def begins(self, key: Key) -> bool:
        """Say whether an alert is one of those that the rule is about, not only one of what follows downstream."""
        rule = self.rule
        return (rule.rules is None or key.rule in rule.rules) and (
            rule.properties is None or key.property in rule.properties
        )

    def follows(self, key: Key) -> bool:
        """Say whether an alert is one that follows downstream."""
        return key.rule in (self.rule.then or ())

    def counts(self, key: Key) -> bool:
        """Say whether an alert counts at all."""
        return key.station in self._stations and key.rule in self._rules and (self.begins(key) or self.follows(key))

    def together(self, first: str, other: str) -> bool:
        """Say whether a station is of the place of the first one."""
        if first not in self._stations or other not in self._stations:
            return False
        a, b = self._stations[first], self._stations[other]
        if first == other:
            return True
        match self.rule.place:
            case "district":
                return a.district is not None and a.district == b.district
            case "network":
                return a.network == b.network
            case "downstream":
                return self.above(first, other)
            case "radius":
                return distance_km(a.position, b.position) <= (self.rule.radius_km or 0.0)

    def above(self, first: str, other: str) -> bool:
        """Say whether a station lies upstream of another, next to it or further up."""
        return first in self._upstream.get(other, ())


def distance_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the great-circle distance of two places (longitude, latitude in degrees), by haversine.

    >>> round(distance_km((0, 0), (0, 90)))
    10008
    """
    (lon_a, lat_a), (lon_b, lat_b) = ((math.radians(x), math.radians(y)) for x, y in (a, b))
    half = math.sin((lat_a - lat_b) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_a - lon_b) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, half)))
