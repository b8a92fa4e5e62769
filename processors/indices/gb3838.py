"""Class of a section of surface water: GB 3838-2002, evaluated by 环办[2011]22号. Numbers: ``data/gb3838.yaml``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final

from processors.indices.contract import Index
from processors.indices.tables import table
from processors.indices.water import items_of, judge, result_of

if TYPE_CHECKING:
    from decimal import Decimal

    from processors.indices.contract import Period, Result
    from processors.indices.water import Item

_LAKES: Final = frozenset({"reservoir"})
_OXYGEN: Final = "dissolved_oxygen"


def saturation_mg_l(temperature: Decimal) -> Decimal | None:
    """Return dissolved oxygen at saturation in mg/L; None where the formula has no meaning.

    Args:
        temperature: of the water, °C.

    >>> saturation_mg_l(Decimal("20.4"))
    Decimal('9')
    """
    rule = table("gb3838")["saturation"]
    below = rule["b"] + temperature
    return rule["a"] / below if below > 0 else None


def evaluate(period: Period) -> Result | None:
    """Return the class of a river or reservoir station; None when it measures no item of the standard."""
    rule = table("gb3838")
    items = _items(lake=period.station.kind in _LAKES)
    together = period.station.attributes.get("water_all_items") is True
    left = frozenset[str]() if together else frozenset(rule["apart"]["items"])
    judged, inputs = judge(period, [item for item in items if item.key not in left])
    apart, beside = judge(period, [item for item in items if item.key in left])
    if not inputs and not beside:
        return None
    confidence = [rule["apart"]["confidence"]] if apart else []
    for i, one in enumerate(judged):
        if one.item.prop == _OXYGEN and one.number > 1 and _saturated(period, one.value):
            judged[i] = replace(one, number=1)
            confidence.append(rule["saturation"]["confidence"])
    result = result_of(rule, period, judged, inputs, apart=apart, confidence=confidence)
    return replace(result, inputs=(*result.inputs, *beside))


@cache
def _items(*, lake: bool) -> list[Item]:
    rule = table("gb3838")
    return items_of(rule["limits"]["items"], len(rule["classes"]), lake=lake)


def _saturated(period: Period, oxygen: Decimal) -> bool:
    """Say whether oxygen is class I by its saturation: at least 90 % at the water's temperature."""
    temperature = period.figure("water_temperature").good
    saturation = None if temperature is None else saturation_mg_l(temperature)
    if saturation is None:
        return False
    percent: int = table("gb3838")["limits"]["items"]["do"]["class_1_saturation_percent"]
    return oxygen * 100 >= percent * saturation


CLASS: Final = Index(
    key="surface_water_class",
    zh="地表水水质类别",
    en="Class of surface water",
    unit="1",
    domains=frozenset({"water"}),
    periods=frozenset({"hour", "day", "month"}),
    evaluate=evaluate,
    attributes={"water_all_items": "true: total nitrogen of lakes and fecal coliform take part in the class"},
)
