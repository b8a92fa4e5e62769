"""US air quality index: the document's own examples, both sides of every break-point, NowCast another way."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.indices.run import evaluate_area
from processors.indices.tables import table
from processors.indices.us_epa import in_unit, index_of, level_of, nowcast
from qingtu.clock import HOUR
from tests.indices.support import DAY, Figures, catalogue, row_of, station

VECTORS = yaml.safe_load((Path(__file__).parent / "standard_air.yaml").read_text(encoding="utf-8"))["us"]
RULE = table("us_epa")
COLUMNS = sorted(RULE["breakpoints"])
POINTS = [
    (column, end, point, index[end])
    for column, bands in RULE["breakpoints"].items()
    for points, index in zip(bands, RULE["bands"], strict=True)
    if points is not None
    for end, point in enumerate(points)
]


@pytest.mark.parametrize("case", VECTORS, ids=str)
def test_test_values(case: dict[str, Any]) -> None:
    """What the reference tables and the document's worked examples say."""
    assert index_of(case["column"], Decimal(case["c"])) == case["aqi"]


def other_index(column: str, concentration: Fraction) -> int | None:
    """Equation 1 with fractions and whole numbers of the last kept decimal; bands looked for from above."""
    scale = 10 ** RULE["decimals"][column]
    whole = max(0, int(concentration * scale))
    rows = [
        (int(points[0] * scale), int(points[1] * scale), *band)
        for points, band in zip(RULE["breakpoints"][column], RULE["bands"], strict=True)
        if points is not None
    ]
    if whole > rows[-1][1] and column in {"so2_1h", "o3_8h"}:
        return None
    for low, high, first, last in reversed(rows):
        if whole >= low:
            twice = 2 * ((last - first) * (whole - low) + first * (high - low))
            return int((twice + high - low) // (2 * (high - low)))
    return None


@pytest.mark.parametrize(("column", "end", "point", "index"), POINTS)
def test_both_sides_of_every_break_point(column: str, end: int, point: int, index: int) -> None:
    """The ends of a band have its indices; what is cut off does not count; one step further is the next band."""
    step = Decimal(1).scaleb(-RULE["decimals"][column])
    here = Decimal(point)
    assert index_of(column, here) == index
    assert index_of(column, here + step * Decimal("0.99")) == index
    for value in (here - step, here - step / 100, here + step):
        assert index_of(column, value) == other_index(column, Fraction(value)), (end, value)


@settings(deadline=None)
@given(st.sampled_from(COLUMNS), st.decimals(-1, 4000, places=5), st.sampled_from([1, 10, 100, 1000, 10000]))
def test_the_same_as_with_whole_numbers(column: str, value: Decimal, part: int) -> None:
    """Any concentration in every column."""
    value = (value / part).quantize(Decimal("1e-9"))
    assert index_of(column, value) == other_index(column, Fraction(value))


def test_above_500_the_line_goes_on() -> None:
    """PM2.5 of 425.4: 100 above the end, 199/99.9 a step."""
    assert index_of("pm25_24h", Decimal("425.4")) == round(301 + Fraction(199 * 1999, 999))


@pytest.mark.parametrize(
    ("aqi", "en", "colour"),
    [(50, "Good", "#00E400"), (51, "Moderate", "#FFFF00"), (101, "Unhealthy for Sensitive Groups", "#FF7E00"),
     (151, "Unhealthy", "#FF0000"), (300, "Very Unhealthy", "#8F3F97"), (301, "Hazardous", "#7E0023"),
     (900, "Hazardous", "#7E0023")],
)  # fmt: skip
def test_categories(aqi: int, en: str, colour: str) -> None:
    """US purple is not the Chinese one."""
    assert (level_of(Decimal(aqi)).en, level_of(Decimal(aqi)).colour) == (en, colour)


# ------------------------------------------------------------------------------------------------------ NowCast


def other_nowcast(hours: list[Decimal | None]) -> Fraction | None:
    """The seven steps of the document, one after the other, newest hour first."""
    ago = [None if value is None else Fraction(value) for value in reversed(hours[-12:])]
    if len([value for value in ago[:3] if value is not None]) < 2:
        return None
    there = [value for value in ago if value is not None]
    if max(there) == 0:
        return Fraction(0)
    factor = 1 - (max(there) - min(there)) / max(there)
    factor = max(factor, Fraction(1, 2))
    above = below = Fraction(0)
    power = Fraction(1)
    for value in ago:
        if value is not None:
            above, below = above + power * value, below + power
        power *= factor
    return above / below


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.decimals(0, 1000, places=2)), min_size=1, max_size=14))
def test_nowcast_step_by_step(hours: list[Decimal | None]) -> None:
    """The same to nine decimals, and None for the same hours."""
    found, expected = nowcast(hours), other_nowcast(hours)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert abs(Fraction(found) - expected) <= Fraction(1, 10**9)


@pytest.mark.parametrize(("last", "there"), [([1, 1, None], True), ([1, None, None], False), ([None, 1, 1], True)])
def test_nowcast_needs_two_of_the_last_three_hours(last: list[int | None], there: bool) -> None:
    """However many there are before."""
    hours = [Decimal(5)] * 9 + [None if value is None else Decimal(value) for value in last]
    assert (nowcast(hours) is not None) == there


def test_nowcast_of_steady_air_is_its_value_and_of_a_burst_leans_to_now() -> None:
    """Weight 1 and weight one half."""
    assert nowcast([Decimal("12.5")] * 12) == Decimal("12.5")
    burst = nowcast([Decimal(0)] * 11 + [Decimal(100)])
    assert burst is not None
    assert 50 < burst < Decimal("50.02")


# ------------------------------------------------------------------------------------------------------ reports


def test_conversion_of_gases() -> None:
    """1 ppb of NO2 is 1.880 µg/m³, of O3 1.962; CO 1 ppm is 1.145 mg/m³ (published factors)."""
    assert round(in_unit(Decimal("188.0"), "no2", "[ppb]"), 1) == Decimal("100.0")
    assert round(in_unit(Decimal("196.2"), "o3", "[ppm]"), 4) == Decimal("0.1000")
    assert round(in_unit(Decimal("11.45"), "co", "[ppm]"), 2) == Decimal("10.00")
    assert in_unit(Decimal("35.4"), "pm25", "ug/m3") == Decimal("35.4")


def us_day(figures: Figures, **block: Any) -> dict[str, Any]:
    """The row of the US index of the day."""
    return row_of("aqi_us", catalogue(station(**block)), "day", DAY, figures)


def test_daily_report() -> None:
    """Particles by the day, ozone by its largest 8 h mean; the class, colour and main pollutant stand beside it."""
    figures = Figures()
    figures.put("pm25", "day", DAY, 35.5)
    figures.hours("o3", DAY, [100] * 24)
    row = us_day(figures, measures=("pm25", "o3"))
    assert (row["value"], row["valid"], row["inputs"]["primary"]) == (101.0, True, ["pm25"])
    assert (row["inputs"]["en"], row["inputs"]["edition"]) == ("Unhealthy for Sensitive Groups", "2024")
    assert row["inputs"]["details"]["indices"] == {"pm25_24h": 101, "o3_8h": 46}


def test_sulfur_dioxide_from_305_ppb_is_fixed_at_200_unless_the_day_says_more() -> None:
    """A single hour of 400 ppb; then a day of 310."""
    figures = Figures()
    ppb = 64.066 / 24.4654
    figures.hours("so2", DAY, [10] * 23 + [400 * ppb])
    figures.put("so2", "day", DAY, 30 * ppb)
    assert us_day(figures, measures=("so2",))["value"] == 200
    figures.put("so2", "day", DAY, 310.5 * ppb)
    assert us_day(figures, measures=("so2",))["value"] == other_index("so2_24h", Fraction(310))
    figures.hours("so2", DAY, [10] * 23 + [304.5 * ppb])
    figures.put("so2", "day", DAY, 30 * ppb)
    assert us_day(figures, measures=("so2",))["value"] == 200
    assert us_day(figures, measures=("so2",))["inputs"]["details"]["indices"]["so2_1h"] == 200


def test_hourly_report_uses_the_nowcast() -> None:
    """Twelve steady hours and one that is missing; with two of the last three missing there is no index."""
    figures = Figures()
    figures.hours("pm25", DAY, [20] * 11 + [None])
    cat = catalogue(station(measures=("pm25",)))
    row = row_of("aqi_us", cat, "hour", DAY + 11 * HOUR, figures)
    assert (row["value"], row["inputs"]["of"][0]["what"]) == (other_index("pm25_24h", Fraction(20)), "nowcast")
    figures.put("pm25", "hour", DAY + 10 * HOUR, None)
    assert row_of("aqi_us", cat, "hour", DAY + 11 * HOUR, figures)["reason"] == "missing"


def test_a_pollutant_that_is_measured_but_missing_makes_a_lower_bound() -> None:
    """The index of the others is given and marked."""
    figures = Figures()
    figures.put("pm25", "day", DAY, 20)
    row = us_day(figures, measures=("pm25", "no2"))
    assert (row["valid"], row["reason"]) == (False, "items_missing")
    assert row["value"] == 71


def test_an_area_has_the_index_of_its_worst_station() -> None:
    """Step 1 of the document: the highest concentration among the monitors."""
    cat = catalogue(*(station(i, measures=("pm25",), district="370202") for i in "AB"))
    figures = Figures()
    figures.put("pm25", "day", DAY, 9, of="A")
    figures.put("pm25", "day", DAY, 60, of="B")
    rows = {row["key"][1]: row for row in evaluate_area(cat, "370202", "day", DAY, figures.get_of)}
    assert rows["aqi_us"]["key"][0] == "370202"
    assert rows["aqi_us"]["value"] == other_index("pm25_24h", Fraction(60))


def test_a_station_that_takes_no_part_in_areas_is_left_out() -> None:
    """Attribute ``area``, as in the index of HJ 633."""
    shut = station("B", measures=("pm25",), district="370202", attributes={"area": False})
    cat = catalogue(station("A", measures=("pm25",), district="370202"), shut)
    figures = Figures()
    figures.put("pm25", "day", DAY, 9, of="A")
    figures.put("pm25", "day", DAY, 60, of="B")
    rows = {row["key"][1]: row for row in evaluate_area(cat, "370202", "day", DAY, figures.get_of)}
    assert rows["aqi_us"]["value"] == other_index("pm25_24h", Fraction(9))
