"""Classes of surface water and sea water, and the eutrophication index."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.indices.gb3838 import saturation_mg_l
from processors.indices.hj442 import eutrophication, level_of
from processors.indices.tables import table
from processors.indices.water import in_unit, items_of
from qingtu.properties import load_properties
from tests.indices.support import DAY, Figures, catalogue, day_row, neighbours, row_of, station

FRESH, SEA = table("gb3838"), table("gb3097")
COLUMNS = [(FRESH, False), (FRESH, True), (SEA, False)]
CELLS = [
    (rule, lake, key, bound)
    for rule, lake in COLUMNS
    for key, row in rule["limits"]["items"].items()
    if row["property"] is not None and (lake or not row.get("lakes_only"))
    for bound in sorted(
        {Decimal(n) for n in (lake and row.get("limits_lake")) or row.get("limits", []) if n is not None}
        | {Decimal(n) for pair in [row.get("range", []), *row.get("ranges", [])] for n in pair}
    )
]


def other_class(rule: dict[str, Any], key: str, value: Fraction, *, lake: bool) -> int:
    """Count the classes that a value misses, from the words of the table; no class is better than a worse one."""
    row = rule["limits"]["items"][key]
    missed = 0
    for n in range(len(rule["classes"])):
        if "limits" in row:
            limit = ((lake and row.get("limits_lake")) or row["limits"])[n]
            if limit is None:
                bad = False
            elif row["direction"] == "max":
                bad = value > Fraction(limit)
            else:
                bad = value < Fraction(limit) or (row.get("strict", False) and value == Fraction(limit))
        else:
            low, high = row["ranges"][n] if "ranges" in row else row["range"]
            bad = not Fraction(low) <= value <= Fraction(high)
        missed += bad
    return missed + 1


def item(rule: dict[str, Any], key: str, *, lake: bool) -> Any:
    """The program's item."""
    return next(one for one in items_of(rule["limits"]["items"], len(rule["classes"]), lake=lake) if one.key == key)


@pytest.mark.parametrize(
    ("rule", "lake", "key", "bound"), CELLS, ids=[f"{r['edition']}-{k}-{b}{'-lake' * lk}" for r, lk, k, b in CELLS]
)
def test_both_sides_of_every_limit(rule: dict[str, Any], lake: bool, key: str, bound: Decimal) -> None:
    """The class at, just below and just above every limit of both standards."""
    below, above = neighbours(bound, "1e-9")
    one = item(rule, key, lake=lake)
    found = [one.class_of(value) for value in (below, bound, above)]
    assert found == [other_class(rule, key, Fraction(value), lake=lake) for value in (below, bound, above)]
    assert len(set(found)) > 1, "a limit makes a difference"


@settings(deadline=None)
@given(st.sampled_from(CELLS), st.decimals(0, 3, places=3))
def test_any_value_has_the_class_of_the_table(cell: tuple[Any, bool, str, Decimal], factor: Decimal) -> None:
    """Any value around any limit."""
    rule, lake, key, bound = cell
    value = bound * factor
    assert item(rule, key, lake=lake).class_of(value) == other_class(rule, key, Fraction(value), lake=lake)


@pytest.mark.parametrize(("rule", "lake"), COLUMNS)
def test_limits_never_get_stricter_towards_worse_classes(rule: dict[str, Any], lake: bool) -> None:
    """What meets a class meets every worse one; so the class is where a value first fits."""
    for one in items_of(rule["limits"]["items"], len(rule["classes"]), lake=lake):
        for (low, high), (low2, high2) in zip(one.bounds, one.bounds[1:], strict=False):
            assert low is None or (low2 is not None and low2 <= low)
            assert high is None or high2 is None or high2 >= high


def test_every_item_is_measured_by_a_property_whose_unit_converts() -> None:
    """Heavy metals come in µg/L, limits are in mg/L: 50 ng/L of mercury is the limit of class I."""
    for rule in (FRESH, SEA):
        for row in rule["limits"]["items"].values():
            if row["property"] is not None:
                assert row["property"] in load_properties()
                assert in_unit(Decimal(1), row["property"], row["unit"]) in {Decimal(1), Decimal("0.001")}
    assert in_unit(Decimal("0.05"), "mercury", "mg/L") == Decimal("0.00005")


def river(values: dict[str, float], water_class: str | None = None, **block: Any) -> dict[str, Any]:
    """The class of a river section."""
    more = {"domain": "water", "kind": "river", "water_class": water_class} | block
    return day_row("surface_water_class", values, **more)


def test_the_worst_item_decides() -> None:
    """With its name, multiple against the required class, and colour."""
    row = river({"codmn": 5, "nh3n": 1.8, "total_phosphorus": 0.1}, "III")
    inputs = row["inputs"]
    assert (row["value"], row["valid"], inputs["zh"], inputs["primary"]) == (5.0, True, "Ⅴ类", ["nh3n"])
    assert inputs["exceeding"] == [{"property": "nh3n", "value": 1.8, "limit": 1.0, "multiple": 0.8}]
    assert inputs["details"]["classes"] == {"codmn": "III", "nh3n": "V", "total_phosphorus": "II"}
    assert (inputs["details"]["required"], inputs["details"]["complies"]) == ("III", False)
    assert inputs["confidence"] == "secondary"


def test_worse_than_class_v() -> None:
    """劣V has number 6."""
    row = river({"nh3n": 2.01})
    assert (row["value"], row["inputs"]["zh"], row["inputs"]["details"]["classes"]["nh3n"]) == (6.0, "劣Ⅴ类", ">V")
    assert "required" not in row["inputs"]["details"]


def test_ph_and_oxygen_exceed_without_a_multiple() -> None:
    """The bound that was broken stands as limit."""
    exceeding = river({"water_ph": 9.5, "dissolved_oxygen": 3.5}, "III")["inputs"]["exceeding"]
    assert exceeding == [
        {"property": "water_ph", "value": 9.5, "limit": 9.0},
        {"property": "dissolved_oxygen", "value": 3.5, "limit": 5.0},
    ]
    assert river({"water_ph": 5.5}, "III")["inputs"]["exceeding"][0]["limit"] == 6.0


@pytest.mark.parametrize(("oxygen", "number"), [(7.5, 1), (7.2, 1), (7.0, 2)])
def test_warm_water_is_class_i_by_its_saturation(oxygen: float, number: int) -> None:
    """At 27 °C saturation is 7.99 mg/L, 90 % of it 7.19."""
    row = river({"dissolved_oxygen": oxygen, "water_temperature": 27}, "I")
    assert row["value"] == number
    assert row["inputs"]["confidence"] == ("unconfirmed" if oxygen == 7.2 else "secondary")
    assert ("exceeding" in row["inputs"]) == (number > 1)


def test_without_temperature_oxygen_is_judged_by_its_concentration() -> None:
    """7.2 mg/L is class II then; a temperature that makes no sense says nothing."""
    assert river({"dissolved_oxygen": 7.2})["value"] == 2
    assert river({"dissolved_oxygen": 7.2, "water_temperature": -31.6})["value"] == 2
    assert saturation_mg_l(Decimal("-31.6")) is None


def test_lakes_have_their_own_phosphorus_and_nitrogen_apart() -> None:
    """0.05 mg/L of phosphorus: class II in a river, III in a reservoir; nitrogen is told but does not decide."""
    values = {"total_phosphorus": 0.05, "total_nitrogen": 1.8}
    assert river(values)["value"] == 2
    assert "apart" not in river(values)["inputs"]["details"] or not river(values)["inputs"]["details"]["apart"]
    lake = river(values, "II", kind="reservoir")
    assert (lake["value"], lake["inputs"]["details"]["apart"]) == (3.0, {"total_nitrogen": "V"})
    assert {each["property"] for each in lake["inputs"]["exceeding"]} == {"total_phosphorus", "total_nitrogen"}
    assert lake["inputs"]["confidence"] == "unconfirmed"
    together = river(values, "II", kind="reservoir", attributes={"water_all_items": True})
    assert together["value"] == 5


def test_a_missing_item_makes_a_lower_bound() -> None:
    """The station measures ammonia, but there is none today."""
    figures = Figures()
    figures.put("codmn", "day", DAY, 3)
    block = station(measures=("codmn", "nh3n"), domain="water", kind="river")
    row = row_of("surface_water_class", catalogue(block), "day", DAY, figures)
    assert (row["value"], row["valid"], row["reason"]) == (2.0, False, "items_missing")
    assert row["inputs"]["details"]["missing"] == ["nh3n"]
    nothing = row_of("surface_water_class", catalogue(block), "day", DAY, Figures())
    assert (nothing["reason"], nothing["count"], nothing["expected"]) == ("missing", 0, 2)


# ---------------------------------------------------------------------------------------------------------- sea


def sea(values: dict[str, float], water_class: str | None = None, key: str = "sea_water_class") -> dict[str, Any]:
    """A row of a station at sea."""
    return day_row(key, values, domain="ocean", kind="sea_water", water_class=water_class)


@pytest.mark.parametrize(("oxygen", "number"), [(6.01, 1), (6.0, 2), (5.0, 3), (4.0, 4), (3.0, 5), (3.01, 4)])
def test_oxygen_of_sea_water_is_strict(oxygen: float, number: int) -> None:
    """Greater than the limit, not equal to it."""
    assert sea({"sea_dissolved_oxygen": oxygen})["value"] == number


def test_sea_water() -> None:
    """Nitrogen decides and exceeds; class, colour and required class."""
    row = sea({"inorganic_nitrogen": 0.42, "active_phosphate": 0.02, "sea_water_ph": 8.1}, "2")
    assert (row["value"], row["inputs"]["zh"], row["inputs"]["primary"]) == (4.0, "第四类", ["inorganic_nitrogen"])
    assert row["inputs"]["exceeding"] == [
        {"property": "inorganic_nitrogen", "value": 0.42, "limit": 0.3, "multiple": 0.4}
    ]
    assert sea({"inorganic_nitrogen": 0.51})["inputs"]["zh"] == "劣四类"


def test_a_buoy_without_items_has_no_class() -> None:
    """Waves are no quality."""
    with pytest.raises(KeyError, match="sea_water_class"):
        sea({"significant_wave_height": 1.0})


def test_eutrophication() -> None:
    """E of 1 mg/L, 0.3 and 0.015 is 1; all three must be measured."""
    row = sea({"sea_cod": 2, "inorganic_nitrogen": 0.45, "active_phosphate": 0.045}, key="eutrophication")
    assert (row["value"], row["inputs"]["zh"], row["valid"]) == (9.0, "中度富营养", True)
    assert row["inputs"]["confidence"] == "unconfirmed"
    with pytest.raises(KeyError, match="eutrophication"):
        sea({"sea_cod": 2, "inorganic_nitrogen": 0.45}, key="eutrophication")


@pytest.mark.parametrize(("value", "number"), [("0.999", 1), ("1", 2), ("3", 2), ("3.001", 3), ("9", 3), ("9.001", 4)])
def test_degrees_of_eutrophication(value: str, number: int) -> None:
    """Both sides of every bound."""
    assert level_of(Decimal(value)).number == number


@given(*[st.decimals(0, 10, places=4)] * 3)
def test_eutrophication_by_fractions(cod: Decimal, nitrogen: Decimal, phosphate: Decimal) -> None:
    """The formula, computed exactly."""
    expected = Fraction(cod) * Fraction(nitrogen) * Fraction(phosphate) * 10**6 / 4500
    assert abs(Fraction(eutrophication(cod, nitrogen, phosphate)) - expected) < Fraction(1, 10**18)
