"""Air quality index of China: test values, both sides of every break-point, and another way to compute it."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.indices.hj633 import iaqi, level_of
from processors.indices.run import area_members, evaluate, evaluate_area, touched
from processors.indices.tables import table
from qingtu.clock import DAY as DAY_US
from qingtu.clock import HOUR
from tests.indices.support import AIR, DAY, OLD_DAY, Figures, at, catalogue, row_of, station

VECTORS = yaml.safe_load((Path(__file__).parent / "standard_air.yaml").read_text(encoding="utf-8"))
TABLES = table("hj633")
COLUMNS = [(edition, column) for edition, rule in TABLES["editions"].items() for column in rule["breakpoints"]]
POINTS = [
    (edition, column, c, i)
    for edition, column in COLUMNS
    for c, i in zip(TABLES["editions"][edition]["breakpoints"][column], TABLES["iaqi"], strict=True)
    if c is not None
]


@pytest.mark.parametrize("case", VECTORS["china"], ids=str)
def test_test_values(case: dict[str, Any]) -> None:
    """The hand-computed cases of the reference tables."""
    assert iaqi(case["edition"], case["column"], Decimal(case["c"])).value == case["iaqi"]


# ------------------------------------------------------------------------------------- another way to compute


def rounded_half_even(value: Fraction, places: int) -> Fraction:
    """GB/T 8170, on fractions."""
    scaled = value * 10**places
    floor = scaled.numerator // scaled.denominator
    rest = scaled - floor
    more = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and floor % 2 == 1)
    return Fraction(floor + more, 10**places)


def other_iaqi(edition: str, column: str, concentration: Fraction) -> int | None:
    """Compute the sub-index from the words of the rule: count up, step by step, with fractions.

    The largest integer index whose concentration is still below the one in question, plus one.
    """
    rule = TABLES["editions"][edition]
    if edition == "2026":
        concentration = rounded_half_even(concentration, 1 if column.startswith("co_") else 0)
    if concentration <= 0:
        return 0
    known = [
        (Fraction(c), i) for c, i in zip(rule["breakpoints"][column], TABLES["iaqi"], strict=True) if c is not None
    ]
    if concentration > known[-1][0]:
        if edition == "2012" and column in {"so2_1h", "o3_8h"}:
            return None
        return {"so2_1h": 200, "o3_8h": 300}.get(column, 500)
    for index in range(501):
        below = [(c, i) for c, i in known if i <= index][-1]
        above = next((c, i) for c, i in known if i >= index)
        at = (
            below[0]
            if below == above
            else below[0] + (above[0] - below[0]) * Fraction(index - below[1], above[1] - below[1])
        )
        if at >= concentration:
            return index
    raise AssertionError("no index reaches it")


@settings(deadline=None)
@given(st.sampled_from(COLUMNS), st.decimals(-1, 4500, places=3), st.integers(1, 100))
def test_the_same_as_counted_by_fractions(where: tuple[str, str], value: Decimal, part: int) -> None:
    """Any concentration, in every column and edition."""
    edition, column = where
    value /= part if column.startswith("co_") else 1
    value = value.quantize(Decimal("0.000001"))
    assert iaqi(edition, column, value).value == other_iaqi(edition, column, Fraction(value))


@pytest.mark.parametrize(("edition", "column", "point", "index"), POINTS)
def test_both_sides_of_every_break_point(edition: str, column: str, point: int, index: int) -> None:
    """At the break-point its index; a little less gives no more; a little more gives the next or what lies beyond."""
    step = Decimal("0.1") if column.startswith("co_") else Decimal(1)
    exactly = iaqi(edition, column, Decimal(point))
    assert exactly.value == index
    assert not exactly.beyond
    for value in (point - step, point - step / 2, point + step / 2, point + step, point + Decimal("0.0001")):
        assert iaqi(edition, column, value).value == other_iaqi(edition, column, Fraction(value))
    if point:
        less = iaqi(edition, column, point - step).value
        assert less is not None
        assert less <= index
    more = iaqi(edition, column, point + step)
    assert more.beyond == (
        (edition, column, point) == next(p[:3] for p in reversed(POINTS) if p[:2] == (edition, column))
    )


@pytest.mark.parametrize(
    ("aqi", "zh", "colour"),
    [(0, "优", "#00E400"), (50, "优", "#00E400"), (51, "良", "#FFFF00"), (100, "良", "#FFFF00"),
     (101, "轻度污染", "#FF7E00"), (150, "轻度污染", "#FF7E00"), (151, "中度污染", "#FF0000"),
     (200, "中度污染", "#FF0000"), (201, "重度污染", "#99004C"), (300, "重度污染", "#99004C"),
     (301, "严重污染", "#7E0023"), (500, "严重污染", "#7E0023")],
)  # fmt: skip
def test_categories(aqi: int, zh: str, colour: str) -> None:
    """Names and colours on both sides of every bound; purple is the Chinese one."""
    level = level_of(Decimal(aqi))
    assert (level.zh, level.colour, level.official) == (zh, colour, True)
    assert level.advice_zh
    assert level.advice_en


def test_noise_of_binary_numbers_makes_no_other_index() -> None:
    """A mean that should be 35.5 rounds half to even, 36, though it came as a hair less."""
    figures = whole_day(pm25=math.nextafter(35.5, 0))
    assert aqi_of(figures)["inputs"]["details"]["iaqi"]["pm25_24h"] == 52


# ------------------------------------------------------------------------------------------------------ reports


def whole_day(start: int = DAY, of: str = "A", **values: float | None) -> Figures:
    """All figures of one good day; O3 as hour figures."""
    figures = Figures()
    low = {"pm25": 10, "pm10": 20, "so2": 8, "no2": 15, "co": 0.5, "o3": 60} | values
    for prop, value in low.items():
        if value is None:
            continue
        if prop == "o3":
            figures.hours("o3", start, [value] * 24, of=of)
        else:
            figures.put(prop, "day", start, value, of=of)
    return figures


def aqi_of(figures: Figures, start: int = DAY, **block: Any) -> dict[str, Any]:
    """The AQI row of the day."""
    return row_of("aqi", catalogue(station(**block)), "day", start, figures)


def test_daily_report() -> None:
    """AQI is the largest sub-index; class, colour, primary pollutant and what it was made of stand beside it."""
    row = aqi_of(whole_day(pm25=61))
    assert (row["what"], row["key"], row["value"], row["valid"], row["reason"]) == (
        "day_index", ("A", "aqi", "main"), 101.0, True, "",
    )  # fmt: skip
    inputs = row["inputs"]
    assert (inputs["zh"], inputs["en"], inputs["colour"]) == ("轻度污染", "Lightly polluted", "#FF7E00")
    assert (inputs["primary"], inputs["standard"], inputs["edition"]) == (["pm25"], "HJ 633-2026", "2026")
    assert inputs["confidence"] == "official"
    assert (row["count"], row["expected"]) == (6, 6)
    assert {each["name"] for each in inputs["of"]} == set(TABLES["editions"]["2026"]["day"])


def test_the_edition_follows_from_the_local_date_and_a_station_may_set_it() -> None:
    """The same 61 µg/m³ of PM2.5 are 82 + by the old table; the first day of 2026's edition is a local day."""
    last, first = at("2026-02-28"), at("2026-03-01")
    assert aqi_of(whole_day(last, pm25=61), last)["inputs"]["edition"] == "2012"
    assert aqi_of(whole_day(first, pm25=61), first)["inputs"]["edition"] == "2026"
    assert aqi_of(whole_day(pm25=61), attributes={"aqi_edition": "2012"})["value"] == 83


def test_ties_are_all_primary_and_an_excellent_day_has_none() -> None:
    """Both pollutants are named; at AQI 50 none is."""
    assert aqi_of(whole_day(pm25=60, pm10=120))["inputs"]["primary"] == ["pm10", "pm25"]
    assert "primary" not in aqi_of(whole_day(pm25=35))["inputs"]


def test_exceeded_pollutants_are_named_in_2012_only() -> None:
    """IAQI above 100; the definition is gone in 2026."""
    old = aqi_of(whole_day(OLD_DAY, pm25=80, pm10=160, o3=100), OLD_DAY)["inputs"]
    assert {each["property"] for each in old["exceeding"]} == {"pm25", "pm10"}
    assert "exceeding" not in aqi_of(whole_day(pm25=80, pm10=160))["inputs"]


@pytest.mark.parametrize(("pm25", "value"), [(60, None), (61, 101.0)])
def test_with_a_pollutant_missing_2026_publishes_only_above_100(pm25: float, value: float | None) -> None:
    """Up to 100 the answer is NA."""
    row = aqi_of(whole_day(pm25=pm25, so2=None))
    assert row["inputs"]["details"]["missing"] == ["so2_24h"]
    if value is None:
        assert math.isnan(row["value"])
        assert (row["valid"], row["reason"]) == (False, "not_available")
        assert "level" not in row["inputs"]
    else:
        assert (row["value"], row["valid"]) == (value, True)
    assert (row["count"], row["expected"]) == (5, 6)


def test_an_invalid_figure_counts_as_missing() -> None:
    """A day of too few hours does not enter."""
    figures = whole_day()
    figures.put("no2", "day", DAY, 500, valid=False)
    assert aqi_of(figures)["reason"] == "not_available"


def test_with_a_pollutant_missing_2012_gives_the_index_of_the_others() -> None:
    """But it is a lower bound, and marked."""
    row = aqi_of(whole_day(OLD_DAY, so2=None), OLD_DAY)
    assert (row["value"], row["valid"], row["reason"]) == (30.0, False, "items_missing")


def test_daily_ozone_is_the_largest_8h_mean_that_lies_in_the_day() -> None:
    """Eight hours of 130.4 are it; a window that reaches into the next day does not count."""
    figures = whole_day(o3=None)
    figures.hours("o3", DAY - 8 * HOUR, [500] * 8 + [50] * 8 + [130.4] * 8 + [50] * 8 + [400] * 24)
    assert aqi_of(figures)["inputs"]["details"]["iaqi"]["o3_8h_max"] == 75


@pytest.mark.parametrize(("hours", "valid"), [(19, True), (18, False)])
def test_daily_ozone_needs_14_windows_of_6_hours(hours: int, valid: bool) -> None:
    """With the last five hours missing the window of 13:00 to 21:00 is the 14th that has six."""
    figures = whole_day(o3=None)
    figures.hours("o3", DAY, [50] * hours + [None] * (24 - hours))
    assert (aqi_of(figures)["reason"] != "not_available") == valid


def test_above_the_tables() -> None:
    """Above the table's end the index is 500, which no document was read to say: marked unconfirmed."""
    row = aqi_of(whole_day(pm25=700))
    assert (row["value"], row["inputs"]["confidence"]) == (500.0, "unconfirmed")
    assert row["inputs"]["details"]["beyond"] == ["pm25_24h"]
    capped = aqi_of(whole_day(o3=900))
    assert (capped["value"], capped["inputs"]["confidence"]) == (300.0, "official")


def hour_of(start: int, edition: str, **values: float) -> dict[str, Any]:
    """The hourly AQI row of a station whose last 24 hours were all alike."""
    figures = Figures()
    low = {"pm25": 10, "pm10": 20, "so2": 8, "no2": 15, "co": 0.5, "o3": 60} | values
    for prop, value in low.items():
        figures.hours(prop, start - 23 * HOUR, [value] * 24)
    return row_of("aqi", catalogue(station(attributes={"aqi_edition": edition})), "hour", start, figures)


def test_hourly_report_2026_takes_the_hour_of_particles_and_2012_the_last_24() -> None:
    """One hour of 150 after 23 clean ones."""
    figures = Figures()
    for prop in AIR:
        figures.hours(prop, DAY, [1] * 24)
    figures.put("pm25", "hour", DAY + 23 * HOUR, 150)
    new = row_of("aqi", catalogue(), "hour", DAY + 23 * HOUR, figures)
    old = row_of("aqi", catalogue(station(attributes={"aqi_edition": "2012"})), "hour", DAY + 23 * HOUR, figures)
    assert (new["what"], new["value"]) == ("hour_index", 200.0)
    assert old["value"] == math.ceil(50 / 35 * (150 + 23) / 24)


def test_hourly_sulfur_dioxide_above_800() -> None:
    """2026 caps it at 200; 2012 reports by the 24 h mean."""
    assert hour_of(DAY, "2026", so2=801)["value"] == 200
    assert hour_of(DAY, "2012", so2=801)["value"] == math.ceil(200 + 100 * Fraction(1, 800))
    assert hour_of(DAY, "2012", so2=800)["value"] == 200


def test_ozone_8h_above_800_in_2012_is_reported_by_the_hour() -> None:
    """No 8 h sub-index; the 1 h one stands."""
    row = aqi_of(whole_day(OLD_DAY, o3=900), OLD_DAY)
    assert row["inputs"]["details"]["iaqi"]["o3_1h_max"] == 350
    assert "o3_8h_max" not in row["inputs"]["details"]["iaqi"]
    assert row["value"] == 350
    assert row["valid"]


def test_moving_mean_needs_20_hours() -> None:
    """With 19 the indicator is missing."""
    figures = Figures()
    for prop in AIR:
        figures.hours(prop, DAY, [10] * 24)
    cat = catalogue(station(attributes={"aqi_edition": "2012"}))
    for i in range(4):
        figures.put("pm25", "hour", DAY + i * HOUR, None)
    assert row_of("aqi", cat, "hour", DAY + 23 * HOUR, figures)["valid"]
    figures.put("pm25", "hour", DAY + 4 * HOUR, None)
    assert row_of("aqi", cat, "hour", DAY + 23 * HOUR, figures)["inputs"]["details"]["missing"] == ["pm25_24h"]


def test_a_station_of_another_domain_or_without_pollutants_has_no_aqi() -> None:
    """An index says nothing about what is not its business."""
    weather = station(domain="weather", kind="weather", measures=("air_temperature", "pm25"))
    park = station(measures=("air_temperature",))
    for block in (weather, park):
        assert evaluate(catalogue(block), "A", "day", DAY, Figures().get()) == []
    assert evaluate(catalogue(), "A", "8h", DAY, Figures().get()) == []


# -------------------------------------------------------------------------------------------------------- areas


def test_district_and_city_are_indices_of_means_over_stations() -> None:
    """The mean of 50 and 71 is 60.5, which rounds to even: 60; its index is 100, not the mean of two indices."""
    blocks = [station(i, district=d) for i, d in (("A", "370202"), ("B", "370202"), ("C", "370203"), ("D", None)) if d]
    blocks.append(station("D", district="370203", attributes={"area": False}))
    cat = catalogue(*blocks)
    assert area_members(cat) == {"370200": ("A", "B", "C", "D"), "370202": ("A", "B"), "370203": ("C", "D")}
    figures = Figures()
    for of, pm25 in (("A", 50), ("B", 71), ("C", 30), ("D", 400)):
        figures.rows |= whole_day(of=of, pm25=pm25).rows
    district = next(row for row in evaluate_area(cat, "370202", "day", DAY, figures.get_of) if row["key"][1] == "aqi")
    assert district["key"] == ("370202", "aqi", "main")
    assert district["value"] == 100
    assert district["inputs"]["confidence"] == "unconfirmed"
    assert district["inputs"]["details"]["stations"] == ["A", "B"]
    city = next(row for row in evaluate_area(cat, "370200", "day", DAY, figures.get_of) if row["key"][1] == "aqi")
    assert city["value"] == other_iaqi("2026", "pm25_24h", Fraction(151, 3))
    assert city["inputs"]["details"]["stations"] == ["A", "B", "C"]


@pytest.mark.parametrize(("good", "valid"), [(3, True), (2, False)])
def test_an_area_needs_three_quarters_of_its_stations(good: int, valid: bool) -> None:
    """Of four stations three; a city of two dead stations has no index from the other two."""
    cat = catalogue(*(station(i, district="370202") for i in "ABCD"))
    figures = Figures()
    for of in "ABCD"[:good]:
        figures.rows |= whole_day(of=of).rows
    row = next(row for row in evaluate_area(cat, "370202", "day", DAY, figures.get_of) if row["key"][1] == "aqi")
    assert row["valid"] == valid


# ------------------------------------------------------------------------------------------------------ touched


def test_touched_periods() -> None:
    """A changed hour asks for the 23 hours behind it and for its local day, of those that have ended."""
    cat = catalogue()
    hour = DAY + 20 * HOUR
    assert touched(cat, "A", "hour", hour, hour + HOUR) == [("hour", hour)]
    found = touched(cat, "A", "hour", hour, DAY + DAY_US)
    assert found == [*(("hour", hour + i * HOUR) for i in range(4)), ("day", DAY)]
    assert len(touched(cat, "A", "hour", hour, hour + 2 * DAY_US)) == 25
    assert touched(cat, "A", "day", DAY, hour) == [("day", DAY)]
    assert touched(cat, "A", "8h", DAY, hour) == []
    assert touched(cat, "A", "year", DAY, hour) == []


def test_every_period_that_looks_at_a_figure_is_touched_by_it() -> None:
    """What evaluate asks for and what touched tells agree, for hours and days of an air station under 2012."""
    cat = catalogue(station(attributes={"aqi_edition": "2012"}))
    for what, start in (("hour", DAY + 30 * HOUR), ("day", DAY)):
        asked: set[tuple[str, int]] = set()

        def get(prop: str, channel: str, level: str, start_us: int, asked: set[tuple[str, int]] = asked) -> None:
            del prop, channel
            asked.add((level, start_us))

        evaluate(cat, "A", what, start, get)
        assert asked
        for level, start_us in asked:
            assert (what, start) in touched(cat, "A", level, start_us, start + 2 * DAY_US)
