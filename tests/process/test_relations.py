"""Checks of several properties of one message: by the examples of their page, by oracles, and cut anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ioos_qc import qartod

from processors.relations import MESSAGE_CHECKS
from processors.relations.density_inversion import DensityInversion, density
from processors.relations.location import Location, distance_m
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from qingtu.catalogue_relations import CalmWind, NitrogenOxides, ParticleSizes
from qingtu.clock import SECOND
from tests.process.support import T0, catalogue, configure, drive, message, station

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.process.support import Result

PAGE = Path(__file__).parents[2] / "docs/quality.md"
EXAMPLES = [
    yaml.safe_load(text)
    for text in re.findall(r"```yaml relation\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
]


def related(
    names: Iterable[str], relations: Mapping[str, Any], depths: Mapping[str, float] | None = None, **more: Any
) -> Catalogue:
    """A catalogue of station A, whose device names fields ``property`` or ``property/channel``."""
    fields = {}
    for name in names:
        prop, _, channel = name.partition("/")
        fields[name] = {
            "property": prop, "channel": channel or "main", "depth_m": (depths or {}).get(channel),
        }  # fmt: skip
    return catalogue([station("A", [{"id": "a", "fields": fields}], relations=relations, **more)], [])


def sent(values: Mapping[str, float | None], at_s: float) -> dict[str, Any]:
    """An object of a payload."""
    return {"time": (T0 + round(at_s * SECOND)) // 1000, "readings": dict(values)}


def bad(result: Result, key: str, at_s: float) -> set[str]:
    """Names of the readings of one time that a check found bad."""
    bit = MESSAGE_CHECKS[key].bit
    rows = [r for r in result.readings if r["time"] == round(at_s * SECOND) and r["tests"] >> bit & 1]
    return {r["property"] if r["channel"] == "main" else f"{r['property']}/{r['channel']}" for r in rows}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e["check"])
def test_worked_examples_of_the_page_are_true(example: dict[str, Any]) -> None:
    """Each ``yaml relation`` block finds the readings bad that it names, with the flag that it says."""
    names = dict.fromkeys(name for values in example["messages"] for name in values)
    cat = related(names, example["relations"], example.get("depths"))
    rows = [configure(0, cat.version)]
    rows += [message("a", sent(values, 60 * i), 60 * i) for i, values in enumerate(example["messages"])]
    result = drive(rows, [cat])
    for i, told in enumerate(example["bad"]):
        assert bad(result, example["check"], 60 * i) == set(told), example["messages"][i]
        flags = {r["flag"] for r in result.readings if r["time"] == 60 * i * SECOND and r["property"] in told}
        assert flags <= {example.get("flag", 3)}, example["messages"][i]


def test_every_check_has_an_example() -> None:
    """A check without a worked example is not finished."""
    assert {example["check"] for example in EXAMPLES} == set(MESSAGE_CHECKS)


def test_only_readings_of_one_message_and_time_are_compared() -> None:
    """What another message says, or the same one of another time, says nothing of a reading."""
    cat = related(["pm25", "pm10"], {"particle_sizes": {"floor": 5}})
    rows = [
        configure(0, cat.version),
        message("a", sent({"pm25": 90, "pm10": 50}, 0), 0),
        message("a", sent({"pm25": 90}, 60), 60),
        message("a", sent({"pm10": 50}, 60), 61),
        message("a", [sent({"pm25": 90}, 120), sent({"pm10": 50}, 180)], 180),
        message("a", [sent({"pm25": 90, "pm10": 50}, 240), sent({"pm25": 20, "pm10": 50}, 300)], 300),
    ]
    result = drive(rows, [cat])
    both = {"pm25", "pm10"}
    assert [bad(result, "particle_sizes", at) for at in (0, 60, 120, 180, 240, 300)] == [
        both,
        set(),
        set(),
        set(),
        both,
        set(),
    ]


def test_late_readings_are_compared_too() -> None:
    """There is nothing to remember: a message that comes late is looked at like any other."""
    cat = related(["pm25", "pm10"], {"particle_sizes": {"floor": 5}})
    rows = [configure(0, cat.version), message("a", sent({"pm25": 1, "pm10": 5}, 600), 600)]
    rows.append(message("a", sent({"pm25": 90, "pm10": 50}, 0), 3600))
    assert bad(drive(rows, [cat]), "particle_sizes", 0) == {"pm25", "pm10"}


def test_channels_are_compared_among_themselves() -> None:
    """A backup instrument's fine particles are not held against the main one's coarse ones."""
    cat = related(["pm25", "pm10", "pm25/backup", "pm10/backup"], {"particle_sizes": {"floor": 5}})
    rows = [
        configure(0, cat.version),
        message("a", sent({"pm25": 20, "pm10": 50, "pm25/backup": 90, "pm10/backup": 60}, 0)),
    ]
    assert bad(drive(rows, [cat]), "particle_sizes", 0) == {"pm25/backup", "pm10/backup"}


def test_a_domain_says_what_its_stations_inherit() -> None:
    """All stations first, then the domain, then the station itself; each replaces what it names."""
    defaults = {
        "all": {"calm_wind": {"below": 0.2}, "particle_sizes": {"floor": 1}},
        "air": {"particle_sizes": {"floor": 2}, "nitrogen_oxides": {"share": 0.5}},
        "ocean": {"density": {"fail": 1}},
    }
    content = {
        "networks": [{"id": "n", "zh": "网", "en": "Net"}],
        "stations": [station("A", []), station("B", [], relations={"nitrogen_oxides": {"floor": 3}})],
        "defaults": {"relations": defaults},
    }
    cat = Catalogue(Content.model_validate(content))
    for same in (cat, Catalogue.from_json(cat.to_json())):
        of_a, of_b = same.relations_of("A"), same.relations_of("B")
        assert (of_a.calm_wind, of_a.density) == (of_b.calm_wind, None) == (CalmWind(below=0.2), None)
        assert of_a.particle_sizes == ParticleSizes(floor=2)
        assert of_b.nitrogen_oxides == NitrogenOxides(floor=3)


NAMES = ("pm25", "pm10", "wind_speed", "wind_direction", "nitric_oxide", "no2", "nox", "pm25/b", "pm10/b")
OBJECTS = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from([None, 0, 0.1, 5, 30, 80]), min_size=1, max_size=len(NAMES)
)
PAYLOADS = st.lists(st.tuples(OBJECTS, st.sampled_from([0, 0, 60, 120])), min_size=1, max_size=4)


def test_a_missing_value_is_flagged_as_missing() -> None:
    """Checks of several properties leave flag 9 alone, of readings that they look at and of all others."""
    cat = related(NAMES, {"particle_sizes": {"floor": 5}})
    values = {"pm25": None, "pm10": 50, "no2": None}
    result = drive([configure(0, cat.version), message("a", sent(values, 0), 0)], [cat])
    assert {r["property"]: r["flag"] for r in result.readings} == {"pm25": 9, "pm10": 1, "no2": 9}


@given(st.lists(PAYLOADS, min_size=1, max_size=12), st.data())
@settings(max_examples=100, deadline=None)
def test_cutting_changes_nothing(payloads: list[Any], data: st.DataObject) -> None:
    """Arrays of objects, parts of messages, repeated times: flags do not depend on frames or restarts."""
    limits = {
        "particle_sizes": {"floor": 5}, "calm_wind": {"below": 0.3}, "nitrogen_oxides": {},
        "multi_variate": [
            {"when": "wind_speed", "within": [1, 100], "expect": "pm25", "range": [0, 50]},
            {"when": "wind_speed", "within": [10, 100], "expect": "pm25", "range": [0, 10]},
        ],
    }  # fmt: skip
    cat = related(NAMES, limits)
    rows = [configure(0, cat.version)]
    for i, objects in enumerate(payloads):
        body = [sent(values, 60 * i - back) for values, back in objects]
        rows.append(message("a", body[0] if len(body) == 1 else body, 60 * i))
    cuts = data.draw(st.lists(st.integers(1, len(rows)), max_size=6), "cuts")
    whole = drive(rows, [cat]).comparable()
    assert drive(rows, [cat], cuts, cuts[:2]).comparable() == whole
    assert drive(rows, [cat], range(1, len(rows))).comparable() == whole


# --------------------------------------------------------------------------------------------------------- oracles


def test_density_is_that_of_the_equation_of_state() -> None:
    """Check values of UNESCO 1983, to the last digit."""
    content = yaml.safe_load((Path(__file__).parents[2] / "processors/relations/sea_water.yaml").read_text())
    salinity, temperature, expected = np.array(content["check_values"], np.float64).T
    assert np.round(density(temperature, salinity), 5).tolist() == expected.tolist()


def test_a_thousand_random_profiles_are_judged_as_ioos_qc_does() -> None:
    """Every depth of every profile, whatever the order in which the channels are named."""
    rng = np.random.default_rng(12)
    names = [f"{prop}/d{i}" for i in rng.permutation(6) for prop in ("sea_water_temperature", "practical_salinity")]
    depths = {f"d{i}": 2.0 + 3 * i for i in range(6)}
    suspect, fail = 0.03, 0.11
    cat = related(names, {"density": {"suspect": suspect, "fail": fail}}, depths)
    prepared = DensityInversion().prepare(cat)
    assert prepared is not None
    assert len(prepared.series) == 5
    z = np.array([2.0 + 3 * i for i in range(6)])
    found = 0
    for _ in range(1200):
        t = np.sort(rng.uniform(14, 16, 6))[::-1] + rng.normal(0, 0.5, 6)
        s = np.sort(rng.uniform(31, 31.2, 6)) + rng.normal(0, 0.05, 6)
        numbers = {(c.property, c.channel): i for i, c in enumerate(cat.series)}
        by_series = np.empty(12)
        for i in range(6):
            by_series[numbers["sea_water_temperature", f"d{i}"]] = t[i]
            by_series[numbers["practical_salinity", f"d{i}"]] = s[i]
        flags = DensityInversion()(by_series[prepared.series].T, np.arange(5), prepared.limits)
        mine = np.ones(6, np.int64)
        mine[:-1] = np.maximum(mine[:-1], flags[0])
        mine[1:] = np.maximum(mine[1:], flags[0])
        theirs = np.ma.getdata(qartod.density_inversion_test(density(t, s), z, -suspect, -fail))
        assert mine.tolist() == theirs.tolist()
        found += int((mine > 1).sum())
    assert found > 1200


def test_ten_thousand_random_positions_are_judged_as_ioos_qc_does() -> None:
    """Impossible ones, ones without the other, and ones outside a box or on its border."""
    rng = np.random.default_rng(3)
    n = 10_000
    lon = rng.choice([119.0, 120.0, 120.5, 121.0, 180.0, -180.0, 181.0, -200.0], n) + rng.choice([0, 0, 0.1], n)
    lat = rng.choice([35.0, 36.0, 36.5, 37.0, 90.0, -90.0, 91.0], n)
    lon[rng.random(n) < 0.1] = np.nan
    lat[rng.random(n) < 0.1] = np.nan
    kept = ~(np.isnan(lon) & np.isnan(lat))
    lon, lat = lon[kept], lat[kept]
    anywhere = Location()(np.stack([lon, lat]), np.zeros(len(lon), np.int64), _limits())
    assert anywhere[0].tolist() == np.ma.getdata(qartod.location_test(lon, lat)).tolist()
    boxed = Location()(np.stack([lon, lat]), np.zeros(len(lon), np.int64), _limits((120.0, 36.0, 121.0, 37.0)))
    both = ~np.isnan(lon) & ~np.isnan(lat)
    theirs = np.ma.getdata(qartod.location_bounds_test(lon, lat, [120.0, 36.0, 121.0, 37.0]))
    assert boxed[1][both].tolist() == theirs[both].tolist()


def _limits(box: Sequence[float] = (-np.inf, -np.inf, np.inf, np.inf)) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[*box, np.inf, np.inf, 120.3, 36.1]])


def test_distances_are_great_circles() -> None:
    """A degree of a meridian is 111,195 m on the mean sphere; and half around the earth is pi times its radius."""
    home = np.array([0.0, 120.0, 0.0])
    found = distance_m(np.array([0.0, 120.0, 180.0]), np.array([1.0, 36.0, 0.0]), home, np.array([0.0, 36.0, 0.0]))
    assert np.round(found).tolist() == [111195.0, 0.0, 20015114.0]
