"""Levels of marine warnings: waves, storm surge, tsunami, red and green tides. Numbers: ``data/marine_warnings.yaml``.

They say which threshold a figure reaches, not that a warning was issued: that is for the forecasting centre.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from processors.indices.contract import ITEMS_MISSING, MISSING, Index, Level, Result
from processors.indices.tables import table
from qingtu.catalogue_words import LEVELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors.indices.contract import Period

_DISTRIBUTION, _COVERAGE = "green_tide_distribution", "green_tide_coverage"
ABOVE_ZERO: Final = "above_0"
"""A threshold that any value above zero reaches."""


def reached(value: Decimal, thresholds: Mapping[str, Decimal | str]) -> int:
    """Return the number of the highest colour whose threshold a value reaches; 0 is none, 4 red.

    >>> reached(Decimal("3.5"), {"blue": Decimal("2.5"), "yellow": Decimal("3.5")})
    2
    """
    hit = [
        LEVELS.index(colour) + 1 for colour in LEVELS if colour in thresholds and _reaches(value, thresholds[colour])
    ]
    return max(hit, default=0)


def _reaches(value: Decimal, threshold: Decimal | str) -> bool:
    return value > 0 if isinstance(threshold, str) else value >= threshold


def level_of(number: int) -> Level:
    """Return name and colour of a warning level, 0 for none to 4 for red."""
    row = table("marine_warnings")["colours"]["rows"][number]
    return Level(number, row["zh"], row["en"], row["hex"])


def thresholds_of(period: Period, kind: str) -> tuple[dict[str, Decimal | str], str]:
    """Return the thresholds that hold for a station by colour, and the case of the table that they are from.

    An attribute such as ``wave_blue_m`` (the unit of the table behind it) takes the place of a number.
    """
    rule = table("marine_warnings")[kind]
    case = str(period.station.attributes.get(rule["attribute"] or "", ""))
    if case not in rule["cases"]:
        case = next(iter(rule["cases"]))
    found: dict[str, Decimal | str] = {
        colour: value if isinstance(value, str) else Decimal(value) for colour, value in rule["cases"][case].items()
    }
    stem = kind.removesuffix("_warning")
    for colour in LEVELS:
        own = period.number(f"{stem}_{colour}_{rule['unit']}")
        if own is not None:
            found[colour] = own
    return found, case


def by_threshold(period: Period, kind: str) -> Result | None:
    """Return the warning level of one property of a station; None where it is not measured or nothing is set."""
    rule = table("marine_warnings")[kind]
    if rule["property"] not in period.measured:
        return None
    thresholds, case = thresholds_of(period, kind)
    if not thresholds:
        return None
    figure = period.figure(rule["property"])
    number = None if figure.good is None else reached(figure.good, thresholds)
    return Result(
        value=None if number is None else Decimal(number),
        level=None if number is None else level_of(number),
        valid=number is not None,
        reason=figure.reason,
        standard=rule["standard"],
        edition=rule["edition"],
        confidence="unconfirmed" if case in rule.get("unconfirmed_cases", ()) else rule["confidence"],
        inputs=(figure,),
        details={"thresholds": thresholds, "case": case},
    )


def green_tide(period: Period) -> Result | None:
    """Return the level of a green tide: by distribution or coverage, and by the zone that the station lies in."""
    rule = table("marine_warnings")["green_tide_warning"]
    zone = rule["zones"].get(period.station.attributes.get("green_tide_zone"))
    props = [prop for prop in (_DISTRIBUTION, _COVERAGE) if prop in period.measured]
    if zone is None or not props:
        return None
    limits = {_DISTRIBUTION: Decimal(zone["distribution_km2"]), _COVERAGE: Decimal(zone["coverage_km2"])}
    limits |= {prop: own for prop in limits if (own := period.number(f"{prop}_km2")) is not None}
    figures = [period.figure(prop) for prop in props]
    hit = [each.good >= limits[each.name] for each in figures if each.good is not None]
    number = LEVELS.index(zone["colour"]) + 1 if any(hit) else 0
    # One area that reaches its threshold is enough; to say that none does, all must be there.
    short = len(hit) < len(figures) and not any(hit)
    details: dict[str, Any] = {"thresholds": limits, "zone_zh": zone["zh"], "zone_en": zone["en"]}
    return Result(
        value=Decimal(number) if hit else None,
        level=level_of(number) if hit else None,
        valid=bool(hit) and not short,
        reason=MISSING if not hit else ITEMS_MISSING if short else "",
        standard=rule["standard"],
        edition=rule["edition"],
        confidence=rule["confidence"],
        inputs=tuple(figures),
        details=details,
    )


def _index(kind: str, zh: str, en: str, attributes: Mapping[str, str]) -> Index:
    rule = table("marine_warnings")[kind]
    stem, unit = kind.removesuffix("_warning"), rule["unit"]
    own = {f"{stem}_{colour}_{unit}": f"threshold of {colour}, {unit}, in place of the table's" for colour in LEVELS}
    return Index(
        key=kind,
        zh=zh,
        en=en,
        unit="1",
        domains=frozenset({"ocean"}),
        periods=frozenset({"hour", "day"}),
        evaluate=partial(by_threshold, kind=kind),
        attributes={**attributes, **own},
    )


WAVE: Final = _index(
    "wave_warning", "海浪预警级别", "Level of wave warning", {"waters": "nearshore (when not set) or offshore"}
)
SURGE: Final = _index("surge_warning", "风暴潮预警级别", "Level of storm surge warning", {})
TSUNAMI: Final = _index(
    "tsunami_warning", "海啸预警级别", "Level of tsunami warning", {"tsunami_plan": "older (when not set) or newer"}
)
RED_TIDE: Final = _index(
    "red_tide_warning", "赤潮灾害级别", "Level of red tide", {"red_tide_kind": "non_toxic (when not set) or toxic"}
)
GREEN_TIDE: Final = Index(
    key="green_tide_warning",
    zh="绿潮预警级别",
    en="Level of green tide warning",
    unit="1",
    domains=frozenset({"ocean"}),
    periods=frozenset({"hour", "day"}),
    evaluate=green_tide,
    attributes={
        "green_tide_zone": "far, lingshan, dagong or urban: where the areas are counted",
        "green_tide_distribution_km2": "threshold of the distribution in place of the table's",
        "green_tide_coverage_km2": "threshold of the coverage in place of the table's",
    },
)
