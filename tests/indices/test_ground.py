"""Noise by zone, gamma dose against background, soil against screening and control values."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.indices.gamma import level_of
from processors.indices.gb3096 import day_night, energy_mean
from processors.indices.gb15618 import values_of
from processors.indices.soil import risk
from processors.indices.tables import table
from qingtu.clock import HOUR
from tests.indices.support import DAY, Figures, catalogue, day_row, neighbours, row_of, station

# -------------------------------------------------------------------------------------------------------- noise


def noise(zone: str, day: float, night: float, lmax: float | None = None, **attributes: Any) -> dict[str, Any]:
    """A day of steady noise by day and by night."""
    figures = Figures()
    figures.hours("noise_leq", DAY, [night] * 6 + [day] * 16 + [night] * 2)
    measures = ["noise_leq"]
    if lmax is not None:
        figures.hours("noise_lmax", DAY, [lmax - 30] * 3 + [lmax] + [lmax - 30] * 2 + [200] * 16 + [lmax - 30] * 2)
        measures.append("noise_lmax")
    block = station(measures=measures, domain="noise", kind="noise", noise_class=zone, attributes=attributes)
    return row_of("noise_excess", catalogue(block), "day", DAY, figures)


@pytest.mark.parametrize("zone", sorted(table("gb3096")["zones"]))
@pytest.mark.parametrize("part", ["day", "night"])
@pytest.mark.parametrize("step", [-0.1, 0.0, 0.1])
def test_both_sides_of_every_limit(zone: str, part: str, step: float) -> None:
    """At the limit a zone complies; a tenth above it exceeds, by a tenth."""
    limits = {name: float(table("gb3096")["zones"][zone][name]) for name in ("day", "night")}
    values = {name: limit - 5 for name, limit in limits.items()} | {part: limits[part] + step}
    row = noise(zone, values["day"], values["night"])
    assert math.isclose(row["value"], step, abs_tol=1e-9)
    assert row["inputs"]["zh"] == ("超标" if step > 0 else "达标")
    names = [each["property"] for each in row["inputs"].get("exceeding", [])]
    assert names == ([{"day": "noise_ld", "night": "noise_ln"}[part]] if step > 0 else [])


def test_levels_are_averaged_in_energy_over_the_local_day() -> None:
    """One loud hour of 90 dB among 60 dB weighs in; hours of the night do not count by day."""
    figures = Figures()
    figures.hours("noise_leq", DAY, [40] * 6 + [60] * 15 + [90] + [40] * 2)
    block = station(measures=["noise_leq"], domain="noise", kind="noise", noise_class="2")
    row = row_of("noise_excess", catalogue(block), "day", DAY, figures)
    ld = 10 * math.log10((15 * 10**6 + 10**9) / 16)
    found = {each["name"]: each["value"] for each in row["inputs"]["of"]}
    assert math.isclose(found["noise_ld"], ld, abs_tol=1e-8)
    assert found["noise_ln"] == 40
    assert math.isclose(row["value"], ld - 60, abs_tol=1e-8)


def test_sudden_noise_at_night_may_be_15_db_above() -> None:
    """65 dB in zone 2 is allowed, 65.1 is not; by day 200 dB do not matter."""
    assert "exceeding" not in noise("2", 50, 40, 65.0)["inputs"]
    row = noise("2", 50, 40, 65.1)
    assert row["inputs"]["exceeding"] == [{"property": "noise_lmax", "value": 65.1, "limit": 65.0}]


def test_a_station_may_set_hours_and_limits() -> None:
    """Day from 7 to 23, limits of its own; a railway that was there before 2011."""
    figures = Figures()
    figures.hours("noise_leq", DAY, [40] * 7 + [60] * 16 + [40])
    attributes = {"noise_day_from": 7, "noise_day_to": 23}
    block = station(measures=["noise_leq"], domain="noise", kind="noise", noise_class="2", attributes=attributes)
    row = row_of("noise_excess", catalogue(block), "day", DAY, figures)
    assert {each["name"]: each["value"] for each in row["inputs"]["of"]} == {"noise_ld": 60.0, "noise_ln": 40.0}
    assert noise("2", 62, 40, noise_limit_day_db=62)["value"] == 0
    assert noise("2", 62, 40, noise_limit_day_db=62)["inputs"]["details"]["own_limits"] == ["day"]
    assert noise("4b", 60, 58)["value"] == -2
    assert noise("4b", 60, 58, noise_existing_railway=True)["value"] == 3


@pytest.mark.parametrize(("night_hours", "valid"), [(6, True), (5, False)])
def test_three_quarters_of_the_hours_are_needed(night_hours: int, valid: bool) -> None:
    """With five of eight night hours only the day is judged."""
    figures = Figures()
    figures.hours("noise_leq", DAY, [None] * (8 - night_hours) + [45] * (night_hours - 2) + [50] * 16 + [45] * 2)
    block = station(measures=["noise_leq"], domain="noise", kind="noise", noise_class="2")
    row = row_of("noise_excess", catalogue(block), "day", DAY, figures)
    assert (row["valid"], row["reason"]) == (valid, "" if valid else "items_missing")
    assert row["value"] == (-5 if valid else -10)


def test_levels_that_the_station_computes_are_taken() -> None:
    """noise_ld and noise_ln without noise_leq."""
    row = day_row("noise_excess", {"noise_ld": 61, "noise_ln": 49}, domain="noise", kind="noise", noise_class="2")
    assert row["value"] == 1


def test_day_night_level() -> None:
    """The test vector of the reference table: 60 by day and 50 by night is 60."""
    assert day_night(Decimal(60), Decimal(50)) == 60


@given(st.lists(st.decimals(0, 140, places=1), min_size=1, max_size=24))
def test_energy_mean_by_hand(levels: list[Decimal]) -> None:
    """The definition; never below the arithmetic mean, never above the loudest."""
    expected = 10 * math.log10(math.fsum(math.pow(10, float(level) / 10) for level in levels) / len(levels))
    found = energy_mean(levels)
    assert math.isclose(float(found), expected, abs_tol=1e-8)
    assert sum(levels, Decimal(0)) / len(levels) - Decimal("1e-8") <= found <= max(levels) + Decimal("1e-8")
    assert energy_mean([Decimal(5000)]) == 5000


# -------------------------------------------------------------------------------------------------------- gamma


@pytest.mark.parametrize(
    ("excess", "rain", "number"),
    [("0", False, 1), ("9", False, 1), ("9.1", False, 3), ("9.1", True, 2), ("100", True, 2), ("100.1", True, 3),
     ("100.1", False, 3), ("200", False, 3), ("200.1", True, 4), ("-20", False, 1)],
)  # fmt: skip
def test_levels_of_gamma(excess: str, rain: bool, number: int) -> None:
    """Both sides of 3 sigma (3 × 3), + 100 and + 200 nGy/h; rain explains what is up to 100."""
    assert level_of(Decimal(excess), Decimal(3), rain=rain).number == number


def test_without_sigma_only_fixed_steps_count() -> None:
    """50 above an unknown scatter is normal, 101 is not."""
    assert level_of(Decimal(50), None, rain=False).number == 1
    assert level_of(Decimal(101), None, rain=False).number == 3


@pytest.mark.parametrize(("hours_ago", "zh"), [(0, "降雨引起的升高"), (2, "降雨引起的升高"), (3, "高于本底")])
def test_rain_of_three_hours_is_looked_at(hours_ago: int, zh: str) -> None:
    """A rise of 20 nGy/h after rain is put down to it; rain of four hours ago is forgotten."""
    figures = Figures()
    now = DAY + 12 * HOUR
    figures.hours("rainfall", DAY, [0] * 13)
    figures.put("rainfall", "hour", now - hours_ago * HOUR, 3)
    figures.put("gamma_dose_rate", "hour", now, 85)
    attributes = {"gamma_background_ngy_h": 65, "gamma_sigma_ngy_h": 2.5}
    block = station(
        measures=("gamma_dose_rate", "rainfall"), domain="radiation", kind="radiation", attributes=attributes
    )
    row = row_of("gamma_excess", catalogue(block), "hour", now, figures)
    assert (row["value"], row["inputs"]["zh"]) == (20.0, zh)


def test_a_station_without_a_background_is_not_judged() -> None:
    """A guess would be worse than nothing."""
    with pytest.raises(KeyError, match="gamma_excess"):
        day_row("gamma_excess", {"gamma_dose_rate": 500}, what="hour", domain="radiation", kind="radiation")


# --------------------------------------------------------------------------------------------------------- soil

FARM, BUILDING = table("gb15618"), table("gb36600")
BINS = [("5.5", 0), ("5.6", 1), ("6.5", 1), ("6.6", 2), ("7.5", 2), ("7.6", 3), ("3", 0), ("9", 3)]


@pytest.mark.parametrize(("ph", "column"), BINS)
@pytest.mark.parametrize("metal", sorted(FARM["screening"]))
@pytest.mark.parametrize("land", FARM["lands"])
def test_farmland_limits_by_ph_and_land(ph: str, column: int, metal: str, land: str) -> None:
    """An edge belongs to the lower bin; both sides of both values of every cell."""
    row = FARM["screening"][metal]
    screening, control = values_of(metal, land, Decimal(ph))
    assert screening == (row[land] if land in row else row["other"])[column]
    assert control == (FARM["control"][metal][column] if metal in FARM["control"] else None)
    below, above = neighbours(screening)
    assert [risk(value, (screening, control)) for value in (below, screening, above)] == [1, 1, 2]
    if control is not None:
        below, above = neighbours(control)
        assert [risk(value, (screening, control)) for value in (below, control, above)] == [2, 2, 3]


@settings(deadline=None)
@given(st.sampled_from(sorted(FARM["screening"])), st.sampled_from(FARM["lands"]), st.decimals(3, 10, places=2))
def test_farmland_limits_as_the_table_is_read_by_eye(metal: str, land: str, ph: Decimal) -> None:
    """The bins as three conditions, the land's own column where it has one."""
    row = FARM["screening"][metal]
    limits = row[land] if land in row else row["other"]
    if ph <= Decimal("5.5"):
        expected = limits[0]
    elif ph <= Decimal("6.5"):
        expected = limits[1]
    else:
        expected = limits[2] if ph <= Decimal("7.5") else limits[3]
    assert values_of(metal, land, ph)[0] == expected


def farm(values: dict[str, float], **attributes: Any) -> dict[str, Any]:
    """The row of a farmland station."""
    return day_row("farmland_risk", values, domain="soil", kind="soil", attributes=attributes)


def test_farmland() -> None:
    """Cadmium of 0.5 in paddy soil of pH 6: above 0.4, below 2.0; the multiple is 0.25."""
    row = farm({"soil_cadmium": 0.5, "soil_lead": 50, "soil_ph": 6}, soil_land="paddy")
    assert (row["value"], row["inputs"]["zh"], row["inputs"]["primary"]) == (2.0, "可能存在风险", ["soil_cadmium"])
    assert row["inputs"]["exceeding"] == [{"property": "soil_cadmium", "value": 0.5, "limit": 0.4, "multiple": 0.25}]
    assert (row["valid"], row["expected"]) == (True, 3)


def test_without_ph_the_bin_is_unknown() -> None:
    """No bin is guessed."""
    row = farm({"soil_cadmium": 0.5})
    assert (math.isnan(row["value"]), row["reason"]) == (True, "missing")


@pytest.mark.parametrize("land", BUILDING["lands"])
@pytest.mark.parametrize("metal", sorted(BUILDING["values"]))
def test_building_land_on_both_sides_of_every_value(land: str, metal: str) -> None:
    """Screening and control value belong to the better side; farmland rules do not speak."""
    screening, control = (Fraction(value) for value in BUILDING["values"][metal][land])
    for value, number in ((screening, 1), (screening * 2, 2), (control, 2), (control * 2, 3)):
        figures = Figures()
        figures.put(metal, "day", DAY, float(value))
        block = station(measures=(metal,), domain="soil", kind="soil", attributes={"soil_land": land})
        row = row_of("building_land_risk", catalogue(block), "day", DAY, figures)
        assert row["value"] == number
        with pytest.raises(KeyError, match="farmland_risk"):
            row_of("farmland_risk", catalogue(block), "day", DAY, figures)
