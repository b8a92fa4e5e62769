"""Risk of building-land soil, seven metals: GB 36600-2018. Numbers: ``data/gb36600.yaml``."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from processors.indices.contract import Index
from processors.indices.soil import result_of
from processors.indices.tables import table

if TYPE_CHECKING:
    from processors.indices.contract import Period, Result


def evaluate(period: Period) -> Result | None:
    """Return the risk of a building-land station; None when its land is no building land or it measures no metal."""
    rule = table("gb36600")
    land = str(period.station.attributes.get("soil_land", ""))
    metals = [metal for metal in rule["values"] if metal in period.measured]
    if not metals or land not in rule["lands"]:
        return None
    pairs = {metal: rule["values"][metal][land] for metal in metals}
    values = {metal: (Decimal(screening), Decimal(control)) for metal, (screening, control) in pairs.items()}
    return result_of(rule, [period.figure(metal) for metal in metals], values, land=land)


RISK: Final = Index(
    key="building_land_risk",
    zh="建设用地土壤污染风险",
    en="Risk of building-land soil",
    unit="1",
    domains=frozenset({"soil"}),
    periods=frozenset({"day", "month"}),
    evaluate=evaluate,
    attributes={"soil_land": "building_1 (first class) or building_2 (second class)"},
)
