"""Gamma dose rate against the station's background, with rain looked at first. Numbers: ``data/gamma.yaml``.

The background is the station's own: nothing is said of a station whose catalogue block does not set it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from processors.indices.contract import MISSING, Index, Level, Result
from processors.indices.tables import table

if TYPE_CHECKING:
    from processors.indices.contract import Period

_DOSE, _RAIN = "gamma_dose_rate", "rainfall"


def level_of(excess: Decimal, sigma: Decimal | None, *, rain: bool) -> Level:
    """Return the level of an excess over the background.

    Args:
        excess: nGy/h above the background.
        sigma: its standard deviation, nGy/h; None when unknown.
        rain: whether it rained in the hours before.
    """
    rule = table("gamma")
    attention = rule["attention"]
    high = excess > attention["above_ngy_h"]
    raised = sigma is not None and excess > attention["sigmas"] * sigma
    number = 1
    if excess > rule["event"]["above_ngy_h"]:
        number = 4
    elif high or raised:
        number = 2 if rain and excess <= rule["rain"]["explains_up_to_ngy_h"] else 3
    row = rule["levels"][number - 1]
    return Level(number, row["zh"], row["en"], "", False, row.get("advice_zh", ""), row.get("advice_en", ""))


def evaluate(period: Period) -> Result | None:
    """Return the excess over the background in nGy/h; None for a station without a background of its own."""
    background = period.number("gamma_background_ngy_h")
    if background is None or _DOSE not in period.measured:
        return None
    rule = table("gamma")
    dose = period.figure(_DOSE)
    sigma = period.number("gamma_sigma_ngy_h")
    wet = period.before(_RAIN, rule["rain"]["hours"]) if _RAIN in period.measured else []
    amounts = [value for each in wet if (value := each.good) is not None]
    excess = None if dose.good is None else dose.good - background
    details: dict[str, Any] = {"background": background, "sigma": sigma, "rain_mm": sum(amounts) if amounts else None}
    return Result(
        value=excess,
        level=None if excess is None else level_of(excess, sigma, rain=sum(amounts, Decimal(0)) > 0),
        valid=excess is not None,
        reason=MISSING if excess is None else "",
        standard=rule["standard"],
        edition=rule["edition"],
        confidence=rule["confidence"],
        inputs=(dose,),
        details=details,
    )


EXCESS: Final = Index(
    key="gamma_excess",
    zh="γ剂量率超本底量",
    en="Gamma dose rate above background",
    unit="nGy/h",
    domains=frozenset({"radiation"}),
    periods=frozenset({"hour"}),
    evaluate=evaluate,
    reach_h=2,
    attributes={
        "gamma_background_ngy_h": "mean of the station's background",
        "gamma_sigma_ngy_h": "its standard deviation; without it only fixed steps count",
    },
)
