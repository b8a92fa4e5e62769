"""What an index is: figures of one station and period in, one result out. Read this to write one.

An index is a pure function: no clock, no store, no state. It reads figures through :class:`Period`, which hides where
they come from, and returns a :class:`Result` or None when the station has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from processors.indices.numbers import exact
from qingtu.clock import HOUR

if TYPE_CHECKING:
    from decimal import Decimal
    from zoneinfo import ZoneInfo

    from qingtu.catalogue_model import Station

Get = Callable[[str, str, str, int], Mapping[str, Any] | None]
"""``get(property, channel, what, start_us)`` returns a figure row or None when there is none.

Of a figure row ``value`` (float, NaN when none), ``valid`` and ``reason`` are used.
"""
MAIN: Final = "main"
MISSING: Final = "missing"
"""Reason of an input for which there is no figure."""
ITEMS_MISSING: Final = "items_missing"
"""Reason of a result that some inputs were not good for: the true one may be worse."""


@dataclass(frozen=True, slots=True)
class Input:
    """One figure that a result was made of.

    Attributes:
        name: property, or the standard's indicator such as ``pm25_24h``.
        what: level of the figure, or how it was made of several (``8h_max``).
        value: canonical unit of the property; None when there is no figure.
        valid: whether the figure may be used.
        reason: why not, "" when valid.
    """

    name: str
    what: str
    value: Decimal | None
    valid: bool
    reason: str = ""

    @property
    def good(self) -> Decimal | None:
        """The value when it may be used, else None."""
        return self.value if self.valid else None


@dataclass(frozen=True, slots=True)
class Level:
    """One class or level of an index.

    Attributes:
        number: its rank; more is worse.
        zh: Chinese name.
        en: English name.
        colour: ``#RRGGBB``, "" when there is none.
        official: whether a document gives this very colour.
        advice_zh: what it means for people and what to do.
        advice_en: the same in English.
    """

    number: int
    zh: str
    en: str
    colour: str = ""
    official: bool = False
    advice_zh: str = ""
    advice_en: str = ""


@dataclass(frozen=True, slots=True)
class Exceeding:
    """An item beyond its limit.

    Attributes:
        name: property.
        value: what it is.
        limit: what it should be.
        multiple: ``(value - limit) / limit``; None where the standard has none (pH, dissolved oxygen).
    """

    name: str
    value: Decimal
    limit: Decimal
    multiple: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an index says about one station and period.

    Attributes:
        value: the index, or the number of the class; None when there is none.
        level: class or level; None when there is none.
        valid: whether it may be published.
        reason: why not, "" when valid.
        standard: document, such as ``HJ 633-2026``.
        edition: its year, or the version of a practice.
        confidence: of the numbers used, one of :data:`processors.indices.tables.CONFIDENCE`.
        inputs: figures it was made of, also those that are missing.
        primary: primary pollutants, or the items that decide the class.
        exceeding: items beyond the limit that applies.
        details: what else there is to say; plain data.
    """

    value: Decimal | None
    level: Level | None
    valid: bool
    reason: str = ""
    standard: str
    edition: str
    confidence: str
    inputs: tuple[Input, ...]
    primary: tuple[str, ...] = ()
    exceeding: tuple[Exceeding, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Period:
    """One station and period, and the way to its figures.

    Attributes:
        station: of the catalogue.
        measured: properties that the station measures on channel main.
        what: level of the period: hour, day or month.
        start_us: its start, µs UTC.
        zone: in which days begin.
        get: see :data:`Get`.
    """

    station: Station
    measured: frozenset[str]
    what: str
    start_us: int
    zone: ZoneInfo
    get: Get

    def figure(self, prop: str, what: str = "", start_us: int | None = None, name: str = "") -> Input:
        """Return one figure of the station on channel main.

        Args:
            prop: property.
            what: level; that of the period when not given.
            start_us: start; that of the period when not given.
            name: how the result calls it; the property when not given.
        """
        what = what or self.what
        row = self.get(prop, MAIN, what, self.start_us if start_us is None else start_us)
        if row is None or row["value"] is None or not isfinite(row["value"]):
            return Input(name or prop, what, None, False, (row or {}).get("reason") or MISSING)
        return Input(name or prop, what, exact(row["value"]), bool(row["valid"]), row["reason"])

    def before(self, prop: str, hours: int) -> list[Input]:
        """Return the hour figures of the last ``hours`` hours, this one last."""
        starts = range(self.start_us - (hours - 1) * HOUR, self.start_us + 1, HOUR)
        return [self.figure(prop, "hour", start) for start in starts]

    def day_hours(self) -> list[int]:
        """Return the starts of the hours of the period's local day, µs UTC; 24 of them but for changes of the clock."""
        midnight = self.local().replace(hour=0, minute=0, second=0, microsecond=0)
        end = midnight.replace(tzinfo=None) + timedelta(days=1)
        first, last = (round(at.timestamp()) * 1_000_000 for at in (midnight, end.replace(tzinfo=self.zone)))
        return list(range(first, last, HOUR))

    def local(self, at_us: int | None = None) -> datetime:
        """Return a time, or the period's start, in the station's zone."""
        at_us = self.start_us if at_us is None else at_us
        return datetime.fromtimestamp(at_us // 1_000_000, UTC).astimezone(self.zone)

    def number(self, name: str) -> Decimal | None:
        """Return a number among the station's attributes, or None when it is not set or no number."""
        value = self.station.attributes.get(name)
        return exact(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One line in the table of indices.

    Attributes:
        key: property of its figures; never that of a measured property with the same meaning of ``what``.
        zh: Chinese name.
        en: English name.
        unit: UCUM unit of the value.
        domains: domains of stations that it is for.
        periods: levels of figures after which it is evaluated.
        evaluate: the function; None when the station has nothing to do with it. Never raises on figures.
        reach_h: how many hours after its own a changed hour figure still counts (a 24 h moving mean: 23).
        of_area: the same for a district or city, from the periods of its stations; None when there is none.
        attributes: what a station of the catalogue may set, and what it means.
    """

    key: str
    zh: str
    en: str
    unit: str
    domains: frozenset[str]
    periods: frozenset[str]
    evaluate: Callable[[Period], Result | None]
    reach_h: int = 0
    of_area: Callable[[Sequence[Period]], Result | None] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def mean(inputs: Sequence[Input], name: str, what: str, needed: int) -> Input:
    """Average the good ones of several inputs; valid when at least ``needed`` are good."""
    good = [value for each in inputs if (value := each.good) is not None]
    if not good:
        return Input(name, what, None, False, MISSING)
    valid = len(good) >= needed
    # The sum is exact and the quotient has 28 digits: the same whatever the order.
    return Input(name, what, exact(sum(good) / len(good)), valid, "" if valid else "too_few")


def largest(inputs: Sequence[Input], name: str, what: str, needed: int) -> Input:
    """Return the largest good input; valid when at least ``needed`` are good."""
    good = [value for each in inputs if (value := each.good) is not None]
    if not good:
        return Input(name, what, None, False, MISSING)
    valid = len(good) >= needed
    return Input(name, what, max(good), valid, "" if valid else "too_few")
