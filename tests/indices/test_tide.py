"""Harmonic analysis and prediction against formulas written by hand, and the residual of a tide gauge."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from utide import reconstruct, solve

from processors.indices.harmonics import (
    Constants,
    Constituent,
    analyse,
    attributes_of,
    constants_of,
    predict,
    wrong_attributes,
)
from processors.indices.tables import table
from processors.indices.tide import predicted_mean_m
from qingtu.clock import DAY as DAY_US
from qingtu.clock import HOUR, MINUTE
from tests.indices.support import DAY, Figures, catalogue, row_of, station

PUBLIC = table("tides")["sets"]["shijiusuo"]


def _public() -> Constants:
    found = constants_of({"tide_mean_m": 2.4, "tide_set": "shijiusuo"}, 35.383)
    assert found is not None
    return found


SET = _public()
J2000_US = 946_728_000_000_000


def textbook(name: str, time_us: int) -> float:
    """Return f cos(V + u - g) of unit amplitude and lag 0, from mean longitudes and the usual short nodal formulas.

    Longitudes of moon, sun and node: Meeus, Astronomical Algorithms; V, f and u: Schureman as the tide tables of many
    countries print them (f to about one percent, u to about half a degree).
    """
    centuries = (time_us - J2000_US) / DAY_US / 36525
    moon = 218.3164477 + 481267.88123421 * centuries
    sun = 280.46646 + 36000.76983 * centuries
    perigee = 83.3532465 + 4069.0137287 * centuries
    node = math.radians(125.0445479 - 1934.1362891 * centuries)
    day_angle = 360 * (time_us % DAY_US) / DAY_US
    argument, f, u = {
        "M2": (2 * (day_angle + sun - moon), 1.000 - 0.037 * math.cos(node), -2.14 * math.sin(node)),
        "S2": (2 * day_angle, 1.0, 0.0),
        "N2": (2 * day_angle + 2 * sun - 3 * moon + perigee, 1.000 - 0.037 * math.cos(node), -2.14 * math.sin(node)),
        "K1": (day_angle + sun + 90, 1.006 + 0.115 * math.cos(node), -8.86 * math.sin(node)),
        "O1": (day_angle + sun - 2 * moon - 90, 1.009 + 0.187 * math.cos(node), 10.80 * math.sin(node)),
    }[name]
    return f * math.cos(math.radians(argument + u))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["M2", "S2", "N2", "K1", "O1"]), st.integers(2000 * 365, 2080 * 365), st.integers(0, 1439))
def test_prediction_as_the_textbooks_have_it(name: str, days: int, minute: int) -> None:
    """Any moment of eighty years: the five large waves to three percent of their amplitude."""
    at = (days - 1970 * 365) * DAY_US + minute * MINUTE
    one = Constants(36.0, 0.0, (Constituent(name, 1.0, 0.0),))
    assert abs(float(predict(one, np.array([at]))[0]) - textbook(name, at)) < 0.03


def test_prediction_is_what_utide_reconstructs() -> None:
    """The library's own way from a fit to heights."""
    times = DAY + HOUR * np.arange(24 * 60)
    heights = predict(SET, times)
    moments = times.view("datetime64[us]")
    fit = solve(moments, heights, lat=SET.latitude, trend=False, verbose=False, constit=["M2", "S2", "K1", "O1"])
    later = times + 40 * DAY_US
    found = analyse(times, heights, SET.latitude, ["M2", "S2", "K1", "O1"])
    assert np.allclose(
        predict(found, later), reconstruct(later.view("datetime64[us]"), fit, verbose=False).h, atol=1e-9
    )


def test_a_year_gives_its_constants_back() -> None:
    """Noise of 10 cm, every tenth value missing; then each large wave to 1 cm and 1 degree, with an honest interval."""
    times = DAY + HOUR * np.arange(24 * 370)
    noise = np.random.default_rng(5).normal(0, 0.1, len(times))
    heights = predict(SET, times) + noise
    heights[::10] = np.nan
    found = analyse(times, heights, SET.latitude)
    assert abs(found.mean_m - 2.4) < 0.01
    by_name = {wave.name: wave for wave in found.constituents}
    for wave in SET.constituents:
        mine = by_name[wave.name]
        assert abs(mine.amplitude_m - wave.amplitude_m) < 0.01, wave
        assert mine.error_m < 0.02
        if wave.amplitude_m > 0.2:
            assert abs((mine.lag_deg - wave.lag_deg + 180) % 360 - 180) < 1, wave
    assert found.constituents[0].name == "M2"
    read = constants_of(attributes_of(found), SET.latitude)
    assert read is not None
    assert np.allclose(predict(read, times[:100]), predict(found, times[:100]), atol=0.02)
    assert wrong_attributes(attributes_of(found)) == []


def test_a_day_is_too_short() -> None:
    """No constants are made up from what cannot hold them."""
    times = DAY + HOUR * np.arange(24)
    with pytest.raises(ValueError, match="two days"):
        analyse(times, predict(SET, times), 36.0)
    with pytest.raises(ValueError, match="two days"):
        analyse(DAY + HOUR * np.arange(100), np.full(100, np.nan), 36.0)


def test_the_public_set_is_marked_as_what_it_is() -> None:
    """Not the tide of Qingdao, with its licence; never unless a station asks for it."""
    assert "CC BY 4.0" in PUBLIC["source"]
    assert SET.confidence == "secondary"
    assert constants_of({"tide_mean_m": 2.4}, 36.0) is None
    assert constants_of({"tide_set": "shijiusuo"}, 36.0) is None, "without a mean level there is no height"


def test_own_constants_come_before_a_public_set() -> None:
    """Amplitude and Greenwich lag in one text; what cannot be read is named."""
    own = constants_of({"tide_mean_m": 0, "tide_set": "shijiusuo", "tide_M2": "1.25 289.1"}, 36.0)
    assert own is not None
    assert [(w.name, w.amplitude_m, w.lag_deg) for w in own.constituents] == [("M2", 1.25, 289.1)]
    wrong = {"tide_mean_m": "high", "tide_set": "atlantis", "tide_M2": "1.25", "tide_X9": "1 2", "tide_S2": "nan 3"}
    assert wrong_attributes({**wrong, "tide_K1": "0.26 250", "other": 1}) == list(wrong)


# ----------------------------------------------------------------------------------------------------- residual


def residual(level: float | None, **attributes: Any) -> dict[str, Any]:
    """The residual of one hour of a gauge."""
    figures = Figures()
    figures.put("water_level", "hour", DAY, level)
    block = station(
        measures=("water_level",), domain="ocean", kind="tide_gauge", attributes=attributes, position=[119.55, 35.383]
    )
    return row_of("surge_residual", catalogue(block), "hour", DAY, figures)


def test_surge_is_observed_minus_predicted() -> None:
    """80 cm above the mean tide of that hour."""
    tide = float(predicted_mean_m(SET, DAY))
    assert abs(tide - float(np.mean(predict(SET, DAY + MINUTE // 2 + MINUTE * np.arange(60))))) < 0.001
    row = residual(tide + 0.8, tide_mean_m=2.4, tide_set="shijiusuo")
    assert math.isclose(row["value"], 0.8, abs_tol=1e-4)
    assert (row["valid"], row["inputs"]["confidence"]) == (True, "secondary")
    assert row["inputs"]["details"]["predicted_m"] == tide


def test_without_a_level_there_is_a_prediction_but_no_surge() -> None:
    """The reason is that of the figure."""
    row = residual(None, tide_mean_m=2.4, tide_set="shijiusuo")
    assert (math.isnan(row["value"]), row["reason"]) == (True, "too_few")
    assert row["inputs"]["details"]["predicted_m"]


def test_constants_that_cannot_be_read_are_told() -> None:
    """By name."""
    row = residual(3.0, tide_mean_m=2.4, tide_M22="1 2", tide_M2="1 2")
    assert (row["reason"], row["inputs"]["details"]["attributes"]) == ("bad_attributes", ["tide_M22"])
    assert residual(3.0, tide_set="shijiusuo")["reason"] == "bad_attributes"


def test_without_the_extra_the_result_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gauge that sets constants on a machine without utide."""
    monkeypatch.setitem(sys.modules, "utide", None)
    assert residual(3.0, tide_mean_m=2.4, tide_set="shijiusuo")["reason"] == "tides_extra_missing"


def test_a_gauge_without_constants_has_no_residual() -> None:
    """No tide of elsewhere is taken for its own."""
    with pytest.raises(KeyError, match="surge_residual"):
        residual(3.0)
