"""Whatever figures there are: no index raises, all rows are whole and the same again; reports by another way."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processors.indices import INDICES
from processors.indices.run import WHATS, area_members, evaluate, evaluate_area
from processors.indices.tables import CONFIDENCE, table
from qingtu.records import FIGURE_ROWS
from tests.indices.support import AIR, DAY, Figures, catalogue, day_row, row_of, station
from tests.indices.test_aqi import other_iaqi, whole_day

EVERYTHING = {
    "air": (AIR, {"aqi_edition": "2012"}),
    "water": (("water_ph", "dissolved_oxygen", "water_temperature", "nh3n", "mercury", "fecal_coliform"), {}),
    "ocean": (
        ("sea_dissolved_oxygen", "sea_water_ph", "sea_cod", "inorganic_nitrogen", "active_phosphate", "water_level",
         "significant_wave_height", "tsunami_amplitude", "red_tide_area", "green_tide_coverage",
         "green_tide_distribution"),
        {"tide_mean_m": 2.4, "tide_set": "shijiusuo", "green_tide_zone": "urban", "surge_red_m": 6},
    ),
    "noise": (("noise_leq", "noise_lmax"), {}),
    "radiation": (("gamma_dose_rate", "rainfall"), {"gamma_background_ngy_h": 65, "gamma_sigma_ngy_h": 2}),
    "soil": (("soil_ph", "soil_cadmium", "soil_zinc"), {"soil_land": "paddy"}),
}  # fmt: skip
NUMBERS = st.one_of(st.floats(), st.floats(-10, 1000), st.sampled_from([0.0, -0.0, 1e300, -1e300, 5e-324, math.inf]))


class Anything:
    """A get that answers every question with the next of some values; the same question with the same answer."""

    def __init__(self, values: list[tuple[float | None, bool]]) -> None:
        self._values = values
        self._given: dict[tuple[Any, ...], dict[str, Any] | None] = {}

    def __call__(self, *asked: Any) -> dict[str, Any] | None:
        """Return a row or None."""
        if asked not in self._given:
            value, valid = self._values[len(self._given) % len(self._values)]
            row = None if value is None else {"value": value, "valid": valid, "reason": "" if valid else "too_few"}
            self._given[asked] = row
        return self._given[asked]


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(EVERYTHING)),
    st.sampled_from(sorted(WHATS)),
    st.lists(st.tuples(st.one_of(st.none(), NUMBERS), st.booleans()), min_size=1, max_size=40),
)
@example("air", "day", [(None, False), (None, False), (None, False), (1.6592799945698542e19, True)])
@example("air", "hour", [(1e30, True)])
def test_no_figures_make_an_index_raise(domain: str, what: str, values: list[tuple[float | None, bool]]) -> None:
    """Rows fit the stream, are plain data, say why they are not valid, and come out the same again."""
    measures, attributes = EVERYTHING[domain]
    more = {"noise_class": "4a"} if domain == "noise" else {"water_class": "II"} if domain == "water" else {}
    kinds = {"water": "reservoir", "ocean": "tide_gauge"}
    block = station(
        measures=measures,
        domain=domain,
        kind=kinds.get(domain, domain),
        attributes=attributes,
        district="370202",
        **more,
    )
    cat = catalogue(block)
    get = Anything(values)
    rows = evaluate(cat, "A", what, DAY, get)
    assert orjson.dumps(rows) == orjson.dumps(evaluate(cat, "A", what, DAY, get))
    for area in area_members(cat):
        rows += evaluate_area(cat, area, what, DAY, Anything(values))
    for row in rows:
        assert set(row) >= set(FIGURE_ROWS.names) - {"station", "property", "channel", "revision", "known_at"}
        assert row["what"] == WHATS[what]
        assert row["valid"] == (row["reason"] == "")
        assert not row["valid"] or math.isfinite(row["value"])
        assert 0 <= row["count"] <= row["expected"]
        assert row["inputs"]["confidence"] in CONFIDENCE
        assert math.isnan(row["value"]) or row["key"][1] == "surge_residual" or "level" in row["inputs"]["stats"]


@pytest.mark.parametrize("edition", ["2026", "2012"])
@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(AIR), st.decimals(0, 700, places=1), min_size=0))
def test_daily_report_by_the_words_of_the_rule(edition: str, values: dict[str, Any]) -> None:
    """AQI, primary pollutants, NA: from sub-indices that were computed the other way."""
    given_values = {prop: value / 20 if prop == "co" else value for prop, value in values.items()}
    floats: dict[str, Any] = {prop: float(given_values[prop]) if prop in values else None for prop in AIR}
    row = row_of("aqi", catalogue(station(attributes={"aqi_edition": edition})), "day", DAY, whole_day(**floats))
    columns = {"so2": ["so2_24h"], "no2": ["no2_24h"], "co": ["co_24h"], "pm10": ["pm10_24h"], "pm25": ["pm25_24h"],
               "o3": ["o3_8h"] if edition == "2026" else ["o3_8h", "o3_1h"]}  # fmt: skip
    sub: dict[str, int] = {}
    for prop, value in given_values.items():
        indices = [other_iaqi(edition, column, Fraction(str(float(value)))) for column in columns[prop]]
        sub[prop] = max(index for index in indices if index is not None)
    aqi = max(sub.values(), default=None)
    whole = len(sub) == len(AIR)
    if aqi is None or (edition == "2026" and not whole and aqi <= 100):
        assert (math.isnan(row["value"]), row["reason"]) == (True, "not_available")
        return
    assert row["value"] == aqi
    assert row["valid"] == (whole or edition == "2026")
    primary = {prop for prop, index in sub.items() if index == aqi} if aqi > 50 else set()
    assert set(row["inputs"].get("primary", [])) == primary
    exceeded = {prop for prop, index in sub.items() if index > 100} if edition == "2012" else set()
    assert {each["property"] for each in row["inputs"].get("exceeding", [])} == exceeded


def test_what_is_published_beside_the_value_stands_under_stats() -> None:
    """Scalars only: they become columns; another primary pollutant at the same AQI is another publication."""
    one = row_of("aqi", catalogue(), "day", DAY, whole_day(pm25=60))
    two = row_of("aqi", catalogue(), "day", DAY, whole_day(pm10=120))
    assert one["value"] == two["value"]
    assert one["inputs"]["stats"] == {"level": 2, "zh": "良", "en": "Good", "primary": "pm25"}
    assert two["inputs"]["stats"]["primary"] == "pm10"
    for key in INDICES:
        assert key.isidentifier()


def test_an_index_too_large_for_a_number_is_none() -> None:
    """Three absurd figures, each of which is a number."""
    factors = ("sea_cod", "inorganic_nitrogen", "active_phosphate")
    row = day_row("eutrophication", dict.fromkeys(factors, 1e300), domain="ocean", kind="sea_water")
    assert (math.isnan(row["value"]), row["valid"], row["reason"]) == (True, False, "out_of_range")


def test_levels_without_indices_give_nothing() -> None:
    """10 minutes, 8 hours and years; and a station whose domain has none."""
    for what in ("10min", "8h", "year"):
        assert evaluate(catalogue(), "A", what, DAY, Figures().get()) == []
    weather = station(domain="weather", kind="weather", measures=("air_temperature",))
    assert evaluate(catalogue(weather), "A", "hour", DAY, Figures().get()) == []
    assert set(WHATS) == {level for index in INDICES.values() for level in index.periods}
    assert table("hj633")["iaqi"][-1] == 500
