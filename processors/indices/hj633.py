"""Air quality index of China: HJ 633-2026 and HJ 633-2012, hourly and daily reports, stations and areas.

The edition follows from the local date of the period (2026 since 2026-03-01); the attribute ``aqi_edition`` of a
station takes its place. Numbers: ``data/hj633.yaml``.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from processors.indices.air import indicator
from processors.indices.contract import ITEMS_MISSING, Exceeding, Index, Input, Level, Result, mean
from processors.indices.numbers import between, half_even, up
from processors.indices.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processors.indices.contract import Period

POLLUTANTS: Final = frozenset({"so2", "no2", "co", "o3", "pm10", "pm25"})
NOT_AVAILABLE: Final = "not_available"
"""Reason of a result that HJ 633-2026 publishes as "NA"."""


class SubIndex(NamedTuple):
    """Individual air quality index of one indicator.

    Attributes:
        value: IAQI; None when the table of this indicator ends before the concentration and names no index.
        beyond: the concentration is above the end of the table.
        agreed: the document itself says what holds above the end; True within the table.
    """

    value: Decimal | None
    beyond: bool = False
    agreed: bool = True


def edition_of(period: Period) -> str:
    """Return the edition that holds for a period: that of the station's attribute, else by local date."""
    editions = table("hj633")["editions"]
    wanted = str(period.station.attributes.get("aqi_edition", ""))
    if wanted in editions:
        return wanted
    return "2026" if period.local().date().isoformat() >= editions["2026"]["effective"] else "2012"


def iaqi(edition: str, column: str, concentration: Decimal) -> SubIndex:
    """Return the sub-index of one concentration.

    Args:
        edition: "2026" or "2012".
        column: of table 1, such as ``pm25_24h``.
        concentration: µg/m³, CO in mg/m³; below zero counts as zero.

    >>> iaqi("2026", "pm25_24h", Decimal(36)).value
    Decimal('52')
    """
    tables = table("hj633")
    rule = tables["editions"][edition]
    if decimals := rule["decimals"]:
        concentration = half_even(concentration, decimals.get(column.partition("_")[0], decimals["default"]))
    concentration = max(concentration, Decimal(0))
    both = zip(rule["breakpoints"][column], tables["iaqi"], strict=True)
    points = [(Decimal(c), Decimal(i)) for c, i in both if c is not None]
    for low, high in pairwise(points):
        if concentration <= high[0]:
            return SubIndex(up(between(concentration, low, high)))
    if column in rule["beyond"]:
        return SubIndex(Decimal(rule["beyond"][column]), beyond=True)
    if column in rule["instead"]:
        return SubIndex(None, beyond=True)
    return SubIndex(Decimal(tables["above_the_table"]["iaqi"]), beyond=True, agreed=False)


def level_of(aqi: Decimal) -> Level:
    """Return the category of an AQI."""
    categories = table("hj633")["categories"]
    for number, row in enumerate(categories["rows"], 1):
        if row["up_to"] is None or aqi <= row["up_to"]:
            advice = (f"{row['effect_zh']}。{row['advice_zh']}。", f"{row['effect_en']} {row['advice_en']}")
            return Level(number, row["zh"], row["en"], row["hex"], True, *advice)
    raise AssertionError("the last category has no end")


def _indicators(period: Period, edition: str) -> dict[str, tuple[str, str, Input]]:
    """Return by indicator its column, property and figure; with those that stand in for others, under ``instead:``."""
    tables = table("hj633")
    rule, validity = tables["editions"][edition], tables["validity"]
    needed = {
        "8h": validity["moving_8h"]["hours"],
        "24h": validity["moving_24h"]["hours"],
        "hour_max": validity["o3_1h_max"]["hours"],
        "8h_max": validity["o3_8h_max"]["windows"],
    }
    out = {
        name: (column, prop, indicator(period, prop, how, name, needed))
        for name, (column, prop, how) in rule[period.what].items()
    }
    for column, other in rule["instead"].items():
        if other is not None and column in out:
            out[f"instead:{column}"] = (other[0], other[1], indicator(period, other[1], other[2], other[0], needed))
    return out


def report(edition: str, what: str, indicators: Mapping[str, tuple[str, str, Input]]) -> Result:
    """Make the report of a station or area from its indicators.

    Args:
        edition: "2026" or "2012".
        what: hour or day.
        indicators: by name: column of table 1, property, figure.
    """
    rule = table("hj633")["editions"][edition]
    used: list[Input] = []
    sub: dict[str, SubIndex] = {}
    for name in rule[what]:
        column, _, figure = indicators[name]
        used.append(figure)
        if figure.good is None:
            continue
        sub[name] = iaqi(edition, column, figure.good)
        if sub[name].value is None and rule["instead"][column] is not None:
            column, _, figure = indicators[f"instead:{column}"]
            used.append(figure)
            sub.pop(name)
            if figure.good is not None:
                sub[name] = iaqi(edition, column, figure.good)
    missing = [name for name in rule[what] if name not in sub]
    values = {name: each.value for name, each in sub.items() if each.value is not None}
    common = {"standard": rule["standard"], "edition": edition, "inputs": tuple(used)}
    details: dict[str, Any] = {"iaqi": {name: int(value) for name, value in values.items()}, "missing": missing}
    if beyond := [name for name, each in sub.items() if each.beyond]:
        details["beyond"] = beyond
    aqi = max(values.values(), default=None)
    if aqi is None or (missing and rule["na_up_to"] is not None and aqi <= rule["na_up_to"]):
        return Result(
            value=None, level=None, valid=False, reason=NOT_AVAILABLE, confidence=rule["confidence"], details=details,
            **common,
        )  # fmt: skip
    by_property = {name: indicators[name][1] for name in values}
    primary = [by_property[name] for name, value in values.items() if value == aqi] if aqi > 50 else []
    # With the text of 2012 an AQI of the others is published; that some are missing still makes it a lower bound.
    short = bool(missing) and rule["na_up_to"] is None
    agreed = all(each.agreed for each in sub.values() if each.value == aqi)
    return Result(
        value=aqi,
        level=level_of(aqi),
        valid=not short,
        reason=ITEMS_MISSING if short else "",
        confidence=rule["confidence"] if agreed else table("hj633")["above_the_table"]["confidence"],
        primary=tuple(dict.fromkeys(primary)),
        exceeding=_exceeding(rule, values, indicators),
        details=details,
        **common,
    )


def _exceeding(
    rule: Mapping[str, Any], values: Mapping[str, Decimal], indicators: Mapping[str, tuple[str, str, Input]]
) -> tuple[Exceeding, ...]:
    """Return the exceeded pollutants (2012): IAQI above 100, with the index as value; named once a property."""
    if rule["exceeded_above"] is None:
        return ()
    limit = Decimal(rule["exceeded_above"])
    worst: dict[str, Decimal] = {}
    for name, value in values.items():
        if value > limit:
            prop = indicators[name][1]
            worst[prop] = max(value, worst.get(prop, value))
    return tuple(Exceeding(prop, value, limit) for prop, value in worst.items())


def evaluate(period: Period) -> Result | None:
    """Return the AQI of an air station; None for stations that measure none of its pollutants."""
    if not POLLUTANTS & period.measured:
        return None
    edition = edition_of(period)
    return report(edition, period.what, _indicators(period, edition))


def of_area(periods: Sequence[Period]) -> Result | None:
    """Return the AQI of a district or city: the index of each indicator's mean over the stations that measure it.

    The concentrations of the stations are averaged as they are, and rounded by the edition's rule after that.
    """
    stations = [p for p in periods if POLLUTANTS & p.measured and p.station.attributes.get("area") is not False]
    if not stations:
        return None
    edition = edition_of(stations[0])
    share = table("hj633")["area"]
    each = [_indicators(period, edition) for period in stations]
    averaged = {}
    for name, (column, prop, figure) in each[0].items():
        inputs = [indicators[name][2] for indicators, p in zip(each, stations, strict=True) if prop in p.measured]
        part = share["share"] if len(inputs) >= 4 else share["share_of_less_than_4"]
        needed = max(1, int(up(part * len(inputs))))
        averaged[name] = (column, prop, mean(inputs, figure.name, f"{figure.what}_area", needed))
    result = report(edition, stations[0].what, averaged)
    details = {**result.details, "stations": [period.station.id for period in stations]}
    return replace(result, confidence=share["confidence"], details=details)


AQI: Final = Index(
    key="aqi",
    zh="空气质量指数",
    en="Air quality index (China)",
    unit="1",
    domains=frozenset({"air"}),
    periods=frozenset({"hour", "day"}),
    evaluate=evaluate,
    reach_h=23,
    of_area=of_area,
    attributes={
        "aqi_edition": '"2026" or "2012", instead of the edition in force on the day',
        "area": "false: the station takes no part in the values of its district and city",
    },
)
