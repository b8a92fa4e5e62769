"""What is aggregated and when it is valid, as ``aggregates.yaml`` beside this file says it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import yaml

from qingtu.clock import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.properties import Property

READINGS: Final = "readings"


@dataclass(frozen=True, slots=True)
class Level:
    """One length of period.

    Attributes:
        name: ``what`` of its figures.
        below: the level that it is made of, or :data:`READINGS`.
        properties, domains: of which properties it is made; empty: of all.
        max_interval_s: not of series that report more seldom; None: of all.
        not_kinds: not of these kinds of aggregation.
    """

    name: str
    below: str
    properties: frozenset[str]
    domains: frozenset[str]
    max_interval_s: float | None
    not_kinds: frozenset[str]

    def covers(self, prop: Property, interval_s: float) -> bool:
        """Say whether series of a property with a declared interval have this level."""
        return (
            (not self.properties or prop.key in self.properties)
            and (not self.domains or prop.domain in self.domains)
            and (self.max_interval_s is None or interval_s <= self.max_interval_s)
            and prop.agg not in self.not_kinds
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole file.

    Attributes:
        levels: from the lowest to the highest; a level stands behind the one that it is made of.
        speed_of: direction → speed that weighs it.
        day_night: properties with Ld, Ln and Ldn.
        day_hours: first hour of the day and first hour of the night, where the catalogue says nothing.
        night_penalty_db: added to Ln in Ldn.
        exceeded: percent of the time, for Lxx.
        lookback_us: of counters.
    """

    levels: tuple[Level, ...]
    speed_of: Mapping[str, str]
    day_night: frozenset[str]
    day_hours: tuple[int, int]
    night_penalty_db: float
    exceeded: tuple[int, ...]
    lookback_us: int
    _validity: tuple[Mapping[str, Any], ...]

    def level_of(self, what: str) -> Level | None:
        """Return the level whose period a figure has (``day`` of ``day_ldn``), or None."""
        return next((level for level in self.levels if what.split("_", maxsplit=1)[0] == level.name), None)

    def needed(self, prop: str, level: str, expected: int, *, february: bool = False) -> float:
        """Return how many readings or parts a valid figure needs.

        Args:
            prop: property key.
            level: name of the level.
            expected: how many there should be.
            february: the period is a February.
        """
        for rule in self._validity:
            how = rule.get(level, rule.get("default"))
            if how is None or ("properties" in rule and prop not in rule["properties"]):
                continue
            if "share" in how:
                return float(how["share"]) * expected
            return float(how["february"] if february and "february" in how else how["at_least"])
        raise LookupError(f"aggregates.yaml has no validity rule for {prop} and {level}")


@cache
def load_rules() -> Rules:
    """Return what ships with Qingtu; read once per process."""
    text = files("processors.aggregates").joinpath("aggregates.yaml").read_text(encoding="utf-8")
    raw = yaml.load(text, Loader=yaml.CSafeLoader)
    levels = tuple(
        Level(
            name,
            row["from"],
            frozenset(row.get("properties", ())),
            frozenset(row.get("domains", ())),
            row.get("max_interval_s"),
            frozenset(row.get("not_kinds", ())),
        )
        for name, row in raw["levels"].items()
    )
    first, night = raw["day_night"]["hours"]
    return Rules(
        levels=levels,
        speed_of={pair["direction"]: pair["speed"] for pair in raw["vectors"]},
        day_night=frozenset(raw["day_night"]["properties"]),
        day_hours=(first, night),
        night_penalty_db=float(raw["day_night"]["night_penalty_db"]),
        exceeded=tuple(raw["exceeded_percent"]),
        lookback_us=round(raw["counter"]["lookback_h"] * HOUR),
        _validity=tuple(raw["validity"]),
    )
