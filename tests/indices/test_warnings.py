"""Levels of marine warnings on both sides of every threshold."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.indices.marine_warnings import level_of, reached
from processors.indices.tables import table
from qingtu.catalogue_words import LEVELS
from tests.indices.support import DAY, Figures, catalogue, day_row, neighbours, row_of, station

TABLE = table("marine_warnings")
KINDS = {kind: rule for kind, rule in TABLE.items() if "cases" in rule}
CELLS = [
    (kind, case, colour, Decimal(limit))
    for kind, rule in KINDS.items()
    for case, limits in rule["cases"].items()
    for colour, limit in limits.items()
    if not isinstance(limit, str)
]


def warning(kind: str, value: float, **attributes: Any) -> dict[str, Any]:
    """The row of one warning of a station that measures its property."""
    prop = KINDS[kind]["property"]
    return day_row(kind, {prop: value}, what="hour", domain="ocean", kind="buoy", attributes=attributes)


@pytest.mark.parametrize(("kind", "case", "colour", "limit"), CELLS)
def test_both_sides_of_every_threshold(kind: str, case: str, colour: str, limit: Decimal) -> None:
    """The threshold itself reaches the colour; a little less has the one before, or none."""
    below, above = neighbours(limit)
    attribute = {KINDS[kind]["attribute"]: case}
    number = LEVELS.index(colour) + 1
    lower = [LEVELS.index(c) + 1 for k, s, c, n in CELLS if (k, s) == (kind, case) and n < limit]
    if "above_0" in KINDS[kind]["cases"][case].values():
        lower.append(1)
    assert warning(kind, float(limit), **attribute)["value"] == number
    assert warning(kind, float(above), **attribute)["value"] == number
    assert warning(kind, float(below), **attribute)["value"] == max(lower, default=0)


@pytest.mark.parametrize("number", range(5))
def test_names_and_colours(number: int) -> None:
    """In the order of the levels of alerts."""
    level = level_of(number)
    assert level.zh[0] == "无蓝黄橙红"[number]
    assert level.en.split()[0].lower() == ("no", *LEVELS)[number]
    assert not level.official


@given(st.lists(st.decimals(0, 20, places=1), min_size=4, max_size=4, unique=True), st.decimals(0, 20, places=1))
def test_reached_counts_thresholds(limits: list[Decimal], value: Decimal) -> None:
    """With rising thresholds the number is how many are not above the value."""
    rising = sorted(limits)
    assert reached(value, dict(zip(LEVELS, rising, strict=True))) == sum(limit <= value for limit in rising)


def test_thresholds_of_a_station() -> None:
    """One colour may be set, the others stay."""
    assert warning("wave_warning", 3.0, wave_yellow_m=2.9)["value"] == 2
    assert warning("wave_warning", 3.0)["value"] == 1
    row = warning("wave_warning", 3.0, wave_yellow_m=2.9)
    assert row["inputs"]["details"]["thresholds"]["yellow"] == 2.9


def test_surge_levels_are_the_stations_own_or_there_is_none() -> None:
    """The four levels of Qingdao's gauges were not found: nothing is made up."""
    with pytest.raises(KeyError, match="surge_warning"):
        warning("surge_warning", 9)
    own = {"surge_blue_m": 5.0, "surge_yellow_m": 5.2, "surge_orange_m": 5.4, "surge_red_m": 5.6}
    assert [warning("surge_warning", value, **own)["value"] for value in (4.99, 5.0, 5.3, 5.4, 5.7)] == [0, 1, 2, 3, 4]


def test_the_newer_tsunami_plan_is_marked_unconfirmed() -> None:
    """It is from memory; the older one is the default."""
    assert warning("tsunami_warning", 0.5)["inputs"]["confidence"] == "secondary"
    assert warning("tsunami_warning", 0.5)["inputs"]["zh"] == "蓝色预警"
    newer = warning("tsunami_warning", 0.5, tsunami_plan="newer")
    assert (newer["inputs"]["confidence"], newer["inputs"]["zh"]) == ("unconfirmed", "黄色预警")


def test_any_toxic_bloom_is_level_iv() -> None:
    """The one condition that a page confirms: toxic, below 200 km²."""
    assert warning("red_tide_warning", 0.5, red_tide_kind="toxic")["value"] == 1
    assert warning("red_tide_warning", 199.9, red_tide_kind="toxic")["value"] == 1
    assert warning("red_tide_warning", 0, red_tide_kind="toxic")["value"] == 0
    assert warning("red_tide_warning", 199.9)["value"] == 0


@pytest.mark.parametrize("zone", TABLE["green_tide_warning"]["zones"])
def test_green_tide_by_distribution_or_coverage(zone: str) -> None:
    """Either is enough; each zone has one colour that it can reach."""
    row = TABLE["green_tide_warning"]["zones"][zone]
    area, cover = float(row["distribution_km2"]), float(row["coverage_km2"])
    number = LEVELS.index(row["colour"]) + 1
    for values, expected in (((area, 0), number), ((0, cover), number), ((area - 0.1, cover - 0.01), 0)):
        props = dict(zip(("green_tide_distribution", "green_tide_coverage"), values, strict=True))
        where: dict[str, Any] = {"domain": "ocean", "kind": "sea_water", "attributes": {"green_tide_zone": zone}}
        made = day_row("green_tide_warning", props, **where)
        assert made["value"] == expected
        assert made["valid"]


def test_a_green_tide_needs_a_place() -> None:
    """Areas alone have no level: real blue warnings came at coverages far above red's."""
    with pytest.raises(KeyError, match="green_tide_warning"):
        day_row("green_tide_warning", {"green_tide_coverage": 500}, domain="ocean", kind="sea_water")


def test_green_tide_with_one_area_missing() -> None:
    """What is reached is reached; that nothing is reached needs both."""
    block = station(
        measures=("green_tide_distribution", "green_tide_coverage"), domain="ocean", kind="sea_water",
        attributes={"green_tide_zone": "far", "green_tide_coverage_km2": 60},
    )  # fmt: skip
    figures = Figures()
    figures.put("green_tide_coverage", "day", DAY, 60)
    made = row_of("green_tide_warning", catalogue(block), "day", DAY, figures)
    assert (made["value"], made["valid"]) == (1.0, True)
    figures.put("green_tide_coverage", "day", DAY, 59)
    made = row_of("green_tide_warning", catalogue(block), "day", DAY, figures)
    assert (made["value"], made["valid"], made["reason"]) == (0.0, False, "items_missing")
