"""What the catalogue measures: from it dashboards take their panels, names and thresholds.

Nothing is listed by hand: a property has a panel when a station of the catalogue has a series of it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qingtu.catalogue_rules import SilenceRule, ThresholdRule
from qingtu.catalogue_words import LEVELS
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue
    from qingtu.catalogue_model import Station
    from qingtu.properties import Property


@dataclass(frozen=True, slots=True)
class Threshold:
    """Levels of an alert rule, for colouring.

    Attributes:
        below: True when low values are the bad ones.
        steps: (level name, value), from blue to red, in the property's canonical unit.
    """

    below: bool
    steps: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """One property and the stations that measure it on their main channel.

    Attributes:
        prop: row of the dictionary.
        stations: in the order of the catalogue.
        threshold: of the one rule that applies, or None when there is none or stations have different ones.
    """

    prop: Property
    stations: tuple[Station, ...]
    threshold: Threshold | None

    @property
    def key(self) -> str:
        """Return the property's key, which is the field in InfluxDB."""
        return self.prop.key

    @property
    def measurement(self) -> str:
        """Return the measurement in InfluxDB: the property's domain."""
        return self.prop.domain

    @property
    def label(self) -> str:
        """Return the name in Chinese and English."""
        return f"{self.prop.zh} {self.prop.en}" if self.prop.zh != self.prop.en else self.prop.zh


class Scope:
    """The catalogue seen by property."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Look the catalogue through.

        Args:
            catalogue: a checked catalogue; private networks are part of it (docs/grafana.md says what follows).
        """
        dictionary = load_properties()
        self.stations: tuple[Station, ...] = tuple(catalogue.stations.values())
        self.silence_rules: tuple[str, ...] = tuple(r.id for r in catalogue.rules if isinstance(r, SilenceRule))
        found: dict[str, list[Station]] = defaultdict(list)
        for series in catalogue.series:
            if series.channel == "main":
                found[series.property].append(catalogue.stations[series.station])
        self._measures = {
            prop.key: Measure(prop, tuple(found[prop.key]), _threshold(catalogue, prop.key, found[prop.key]))
            for prop in dictionary
            if prop.key in found
        }

    def __getitem__(self, key: str) -> Measure:
        return self._measures[key]

    def __contains__(self, key: object) -> bool:
        return key in self._measures

    def of_domain(self, *domains: str) -> list[Measure]:
        """Return the measures of these domains, in the order of the dictionary."""
        return [measure for measure in self._measures.values() if measure.prop.domain in domains]

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the measurements that hold readings, in the order of the dictionary."""
        return tuple(dict.fromkeys(measure.measurement for measure in self._measures.values()))

    @property
    def centre(self) -> tuple[float, float]:
        """Return (longitude, latitude) in the middle of all stations, degrees, rounded to 0.01."""
        longitudes = [station.position[0] for station in self.stations]
        latitudes = [station.position[1] for station in self.stations]
        return round((min(longitudes) + max(longitudes)) / 2, 2), round((min(latitudes) + max(latitudes)) / 2, 2)


def name_of(station: Station) -> str:
    """Return a station's name in Chinese and English."""
    return f"{station.zh} {station.en}"


def _threshold(catalogue: Catalogue, key: str, stations: list[Station]) -> Threshold | None:
    found = {
        Threshold(rule.direction == "below", tuple((name, rule.levels[name]) for name in LEVELS if name in rule.levels))
        for station in stations
        for rule in catalogue.rules_for(station.id)
        if isinstance(rule, ThresholdRule) and rule.property == key and rule.channel == "main"
    }
    return found.pop() if len(found) == 1 else None
