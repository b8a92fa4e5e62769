"""Class of sea water: GB 3097-1997, the worst of its items. Numbers: ``data/gb3097.yaml``."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from processors.indices.contract import Index
from processors.indices.tables import table
from processors.indices.water import items_of, judge, result_of

if TYPE_CHECKING:
    from processors.indices.contract import Period, Result
    from processors.indices.water import Item


def evaluate(period: Period) -> Result | None:
    """Return the class of a station at sea; None when it measures no item of the standard."""
    rule = table("gb3097")
    judged, inputs = judge(period, _items())
    return result_of(rule, period, judged, inputs) if inputs else None


@cache
def _items() -> list[Item]:
    rule = table("gb3097")
    return items_of(rule["limits"]["items"], len(rule["classes"]))


CLASS: Final = Index(
    key="sea_water_class",
    zh="海水水质类别",
    en="Class of sea water",
    unit="1",
    domains=frozenset({"ocean"}),
    periods=frozenset({"hour", "day", "month"}),
    evaluate=evaluate,
)
