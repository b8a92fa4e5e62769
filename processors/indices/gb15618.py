"""Risk of farmland soil by its pH and land use: GB 15618-2018. Numbers: ``data/gb15618.yaml``."""

from __future__ import annotations

from bisect import bisect_left
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from processors.indices.contract import Index
from processors.indices.soil import result_of
from processors.indices.tables import table

if TYPE_CHECKING:
    from processors.indices.contract import Period, Result
    from processors.indices.soil import Values


def values_of(metal: str, land: str, ph: Decimal) -> Values:
    """Return screening and control value of a metal in mg/kg.

    Args:
        metal: property.
        land: paddy, orchard or other.
        ph: of the soil; an edge belongs to the lower bin.
    """
    rule = table("gb15618")
    column = bisect_left(rule["ph_edges"], ph)
    rows, control = rule["screening"][metal], rule["control"].get(metal)
    screening = Decimal(rows.get(land, rows["other"])[column])
    return screening, None if control is None else Decimal(control[column])


def evaluate(period: Period) -> Result | None:
    """Return the risk of a farmland station; None when its land is not farmland or it measures no metal."""
    rule = table("gb15618")
    land = str(period.station.attributes.get("soil_land", "other"))
    metals = [metal for metal in rule["screening"] if metal in period.measured]
    if not metals or land not in rule["lands"]:
        return None
    ph = period.figure("soil_ph")
    values = {} if ph.good is None else {metal: values_of(metal, land, ph.good) for metal in metals}
    return result_of(rule, [period.figure(metal) for metal in metals], values, [ph], land=land)


RISK: Final = Index(
    key="farmland_risk",
    zh="农用地土壤污染风险",
    en="Risk of farmland soil",
    unit="1",
    domains=frozenset({"soil"}),
    periods=frozenset({"day", "month"}),
    evaluate=evaluate,
    attributes={"soil_land": "paddy, orchard or other (farmland; other when not set), building_1 or building_2"},
)
