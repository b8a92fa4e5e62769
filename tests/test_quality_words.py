"""Which check, and by which limit: in words, for every bit that can be set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from processors.bits import BITS, named
from qingtu.quality_words import CHECK_WORDS, checks_of
from tests.process.support import T0, catalogue, station

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue

LIMITS: dict[str, Any] = {
    "range": [-3, 9], "suspect": [-1, 6], "rate_per_h": {"suspect": 1.5}, "spike": {"fail": 0.5},
    "flat_line": {"tolerance": 0.005, "suspect_s": 3600}, "gap": {"fail_s": 7200},
    "climatology": [{"months": 1, "suspect": [0, 1]}, {"months": "autumn", "suspect": [0, 5], "fail": [-2, 8]}],
    "attenuated": {"suspect": 0.1, "window_s": 3600, "measure": "range"},
    "neighbour": {"suspect": 0.4, "radius_km": 5},
}  # fmt: skip
RELATIONS: dict[str, Any] = {
    "location": {"box": [120, 36, 121, 37]}, "density": {"fail": 0.3}, "calm_wind": {"below": 0.2},
    "particle_sizes": {}, "nitrogen_oxides": {},
    "multi_variate": [{"when": "wind_speed", "within": [10, 60], "expect": "water_level", "range": [1, 9]}],
}  # fmt: skip


def limited() -> Catalogue:
    """A station with every limit that there is."""
    device = {"id": "a", "properties": ["water_level"]}
    return catalogue([station("A", [device], limits={"water_level": LIMITS}, relations=RELATIONS)], [])


def test_every_bit_has_a_name_in_both_languages() -> None:
    """A check without words would be shown by its key."""
    assert set(CHECK_WORDS) == set(BITS)
    assert named((1 << 5) | (1 << 16)) == ["flat_line", "override"]


@pytest.mark.parametrize(
    ("check", "limits", "en"),
    [
        ("gross_range", {"fail_min": -3, "suspect_min": -1, "suspect_max": 6, "fail_max": 9},
         "Gross range (fails below -3, suspect below -1, suspect above 6, fails above 9 [m])"),
        ("rate_of_change", {"suspect_per_h": 1.5}, "Rate of change (suspect per hour 1.5 [m])"),
        ("spike", {"fail": 0.5, "method": "average"}, "Spike (fails 0.5, method average [m])"),
        ("flat_line", {"tolerance": 0.005, "suspect_s": 3600}, "Flat line (tolerance 0.005, suspect after 3600 [m])"),
        ("gap", {"fail_s": 7200}, "Gap before (fails after 7200 [m])"),
        ("climatology", {"fail_min": -2, "suspect_min": 0, "suspect_max": 5, "fail_max": 8},
         "Climatology (fails below -2, suspect below 0, suspect above 5, fails above 8 [m])"),
        ("neighbour", {"suspect": 0.4, "share": 0.0, "radius_km": 5.0, "minimum": 3},
         "Neighbour (suspect 0.4, share 0, radius km 5, stations at least 3 [m])"),
        ("calm_wind", {"below": 0.2}, "Direction at calm (below 0.2)"),
        ("multi_variate", {"relations": "wind_speed [10.0, 60.0] → water_level [1.0, 9.0]"},
         "Multi-variate (relations wind_speed [10.0, 60.0] → water_level [1.0, 9.0])"),
        ("missing", {}, "Missing"),
    ],
)  # fmt: skip
def test_a_check_is_told_with_its_limits(check: str, limits: dict[str, Any], en: str) -> None:
    """Those in force for this series in this month; what limits nothing is left out."""
    told = {one.check: one for one in checks_of(limited(), ("A", "water_level", "main"), T0)}
    assert told[check].limits == limits
    assert told[check].en == en
    assert told[check].zh.startswith(CHECK_WORDS[check][0])


def test_without_limits_a_check_is_told_by_name_alone() -> None:
    """Also of a series that has left the catalogue."""
    told = {one.check: one for one in checks_of(limited(), ("Z", "pm25", "main"), T0)}
    assert set(told) == set(BITS) - {"override", "receipt_time"}
    assert all(one.limits == {} and (one.zh, one.en) == CHECK_WORDS[one.check] for one in told.values())
