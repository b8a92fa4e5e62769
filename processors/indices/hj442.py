"""Eutrophication index of sea water, E = COD × DIN × DIP × 10⁶ / 4500 (mg/L each). Numbers: ``data/hj442.yaml``."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from processors.indices.contract import MISSING, Index, Level, Result
from processors.indices.tables import table

if TYPE_CHECKING:
    from processors.indices.contract import Period

_FACTORS: Final = ("sea_cod", "inorganic_nitrogen", "active_phosphate")


def eutrophication(cod: Decimal, nitrogen: Decimal, phosphate: Decimal) -> Decimal:
    """Return E.

    Args:
        cod: chemical oxygen demand (alkaline permanganate), mg/L.
        nitrogen: dissolved inorganic nitrogen, mg/L.
        phosphate: reactive phosphate as P, mg/L.

    >>> eutrophication(Decimal(1), Decimal("0.3"), Decimal("0.015"))
    Decimal('1')
    """
    rule = table("hj442")
    product = cod * nitrogen * phosphate * Decimal(rule["factor"])
    return (product / Decimal(rule["divisor"])).normalize() + 0


def level_of(index: Decimal) -> Level:
    """Return the degree of eutrophication; there are no official colours."""
    for number, row in enumerate(table("hj442")["rows"], 1):
        if ("below" in row and index < row["below"]) or ("up_to" in row and index <= row["up_to"]) or len(row) == 2:
            return Level(number, row["zh"], row["en"])
    raise AssertionError("the last degree has no end")


def evaluate(period: Period) -> Result | None:
    """Return E of a station that measures all three factors; None for others."""
    if not period.measured.issuperset(_FACTORS):
        return None
    rule = table("hj442")
    inputs = tuple(period.figure(prop) for prop in _FACTORS)
    cod, nitrogen, phosphate = (each.good for each in inputs)
    index = None
    if cod is not None and nitrogen is not None and phosphate is not None:
        index = eutrophication(*(max(each, Decimal(0)) for each in (cod, nitrogen, phosphate)))
    return Result(
        value=index,
        level=None if index is None else level_of(index),
        valid=index is not None,
        reason=MISSING if index is None else "",
        standard=rule["standard"],
        edition=rule["edition"],
        confidence=rule["confidence"],
        inputs=inputs,
        details={"missing": [each.name for each in inputs if each.good is None]},
    )


INDEX: Final = Index(
    key="eutrophication",
    zh="富营养化指数",
    en="Eutrophication index of sea water",
    unit="1",
    domains=frozenset({"ocean"}),
    periods=frozenset({"hour", "day", "month"}),
    evaluate=evaluate,
)
