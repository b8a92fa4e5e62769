"""Air quality index of the United States (2024), with the NowCast for particles in the hourly report.

What it does not do: the NowCast of ozone (partial least squares over two weeks); the hourly report takes the 8 h mean
that ends with the hour. The 8 h windows of a day are those that lie wholly in it, not the US ones from 7:00 on.
Numbers: ``data/us_epa.yaml``.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from processors.indices.air import indicator
from processors.indices.contract import ITEMS_MISSING, MISSING, Index, Input, Level, Result
from processors.indices.numbers import between, cut, exact, half_up
from processors.indices.tables import table
from qingtu.properties import load_properties
from qingtu.units import MOLAR_VOLUME_L_MOL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processors.indices.contract import Period

POLLUTANTS: Final = frozenset({"so2", "no2", "co", "o3", "pm10", "pm25"})
_DAYS: Final = ("24h", "hour_max")


def index_of(indicator: str, concentration: Decimal) -> Decimal | None:
    """Return the index of one concentration by equation 1.

    Args:
        indicator: column of table 6, such as ``pm25_24h``.
        concentration: in the unit of the column; what is behind its decimals is cut off, below zero counts as zero.

    Returns:
        the index, a whole number, above 500 on the line of the last band; None where the column is blank.

    >>> index_of("o3_8h", Decimal("0.07853333"))
    Decimal('126')
    """
    rule = table("us_epa")
    value = max(cut(concentration, rule["decimals"][indicator]), Decimal(0))
    last = None
    for band, points in zip(rule["bands"], rule["breakpoints"][indicator], strict=True):
        if points is None:
            continue
        low, high = ((Decimal(c), Decimal(i)) for c, i in zip(points, band, strict=True))
        if value < low[0]:
            return None
        last = low, high
        if value <= high[0]:
            return half_up(between(value, low, high))
    assert last is not None
    return half_up(between(value, *last)) if indicator in rule["extrapolated"] else None


def nowcast(hours: Sequence[Decimal | None]) -> Decimal | None:
    """Return the NowCast of a particle concentration.

    Args:
        hours: the last hours, the newest last; None where there is no valid one.

    Returns:
        the weighted mean in the same unit; None when fewer than two of the last three hours are there.
    """
    rule = table("us_epa")["nowcast"]
    last = list(hours)[-rule["hours"] :][::-1]
    if sum(value is not None for value in last[: rule["of_last"]]) < rule["needed"]:
        return None
    known = [(ago, max(value, Decimal(0))) for ago, value in enumerate(last) if value is not None]
    largest = max(value for _, value in known)
    if not largest:
        return Decimal(0)
    smallest = min(value for _, value in known)
    weight = max(1 - (largest - smallest) / largest, rule["least_weight"])
    powers = [(weight**ago, value) for ago, value in known]
    return exact(sum(power * value for power, value in powers) / sum(power for power, _ in powers))


def level_of(aqi: Decimal) -> Level:
    """Return the category of an AQI."""
    for number, row in enumerate(table("us_epa")["categories"]["rows"], 1):
        if row["up_to"] is None or aqi <= row["up_to"]:
            return Level(number, row["zh"], row["en"], row["hex"], True, row["advice_zh"], row["advice_en"])
    raise AssertionError("the last category has no end")


def in_unit(value: Decimal, prop: str, unit: str) -> Decimal:
    """Turn µg/m³ (CO: mg/m³) at 298.15 K and 1013.25 hPa into ppm or ppb; particles stay as they are."""
    spec = load_properties()[prop]
    if unit == spec.unit:
        return value
    assert spec.gas_molar_mass is not None
    ppb = Fraction(value) * MOLAR_VOLUME_L_MOL / Fraction(str(spec.gas_molar_mass))
    ppb *= 1000 if spec.unit == "mg/m3" else 1
    return exact(_decimal(ppb / (1000 if unit == "[ppm]" else 1)))


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _figure(period: Period, prop: str, how: str, name: str) -> Input:
    rule = table("us_epa")
    if how == "nowcast":
        inputs = period.before(prop, rule["nowcast"]["hours"])
        value = nowcast([each.good for each in inputs])
        return Input(name, how, value, value is not None, "" if value is not None else MISSING)
    validity = rule["validity"]
    needed = {"8h": validity["hours_of_8"], "8h_max": validity["windows"]} | dict.fromkeys(_DAYS, validity["hours"])
    return indicator(period, prop, how, name, needed)


def evaluate(period: Period) -> Result | None:
    """Return the US AQI of an air station; None for stations that measure none of its pollutants."""
    if not POLLUTANTS & period.measured:
        return None
    rule = table("us_epa")
    inputs: dict[str, Input] = {}
    values: dict[str, Decimal] = {}
    for name, (prop, how) in rule[period.what].items():
        if prop not in period.measured or (name == "so2_24h" and not _asks_for_the_day(values, inputs)):
            continue
        figure = inputs[name] = _figure(period, prop, how, name)
        if figure.good is not None:
            index = index_of(name, in_unit(figure.good, prop, rule["units"][name]))
            if index is not None:
                values[name] = index
    if _asks_for_the_day(values, inputs) and "so2_24h" not in values:
        values["so2_1h"] = Decimal(rule["so2_fixed"]["index"])
    return _result(period, inputs, values)


def _asks_for_the_day(values: Mapping[str, Decimal], inputs: Mapping[str, Input]) -> bool:
    """Say whether the hour of SO2 is above its column: then its 24 h mean decides, and if that is low it is 200."""
    hour = inputs.get("so2_1h")
    return hour is not None and hour.good is not None and "so2_1h" not in values


def _result(period: Period, inputs: dict[str, Input], values: dict[str, Decimal]) -> Result:
    rule = table("us_epa")
    missing = [name for name, each in inputs.items() if each.good is None and name not in rule["optional"]]
    details: dict[str, Any] = {"indices": {name: int(value) for name, value in values.items()}, "missing": missing}
    aqi = max(values.values(), default=None)
    prop = {name: row[0] for name, row in rule[period.what].items()}
    primary = [prop[name] for name, value in values.items() if value == aqi]
    return Result(
        value=aqi,
        level=None if aqi is None else level_of(aqi),
        valid=aqi is not None and not missing,
        reason=MISSING if aqi is None else ITEMS_MISSING if missing else "",
        standard=rule["standard"],
        edition=rule["edition"],
        confidence=rule["confidence"],
        inputs=tuple(inputs.values()),
        primary=tuple(dict.fromkeys(primary)),
        details=details,
    )


def of_area(periods: Sequence[Period]) -> Result | None:
    """Return the US AQI of a district or city: that of the station where it is highest."""
    taking_part = [period for period in periods if period.station.attributes.get("area") is not False]
    made = [(period, result) for period in taking_part if (result := evaluate(period)) is not None]
    known = [one for one in made if one[1].value is not None]
    if not known:
        return made[0][1] if made else None
    worst = max(known, key=lambda one: (one[1].value, one[1].valid))
    return worst[1]


AQI: Final = Index(
    key="aqi_us",
    zh="空气质量指数(美国)",
    en="Air quality index (US EPA)",
    unit="1",
    domains=frozenset({"air"}),
    periods=frozenset({"hour", "day"}),
    evaluate=evaluate,
    reach_h=23,
    of_area=of_area,
)
