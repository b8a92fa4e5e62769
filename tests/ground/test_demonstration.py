"""The demonstration catalogue: whole, true to the map, and every station watched."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml

from processors.indices import INDICES
from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.catalogue_model import Station
from qingtu.catalogue_rules import SilenceRule, ThresholdRule
from qingtu.catalogue_words import Domain, Kind
from qingtu.properties import load_properties

ROOT = Path(__file__).parents[2]
COAST = ROOT / "web" / "static" / "data" / "qingdao_coast_osm.geojson"
Point = tuple[float, float]
IN_WATER = {"sea_water", "buoy", "beach", "ranch"}
# Boxes (west, south, east, north) of the districts, computed from their outlines: standards table of the project,
# made from AMap polygons, so about 200 m exact.
DISTRICT_BOXES = {
    "370202": (120.2808, 36.0411, 120.4216, 36.092), "370203": (120.3, 36.0673, 120.4292, 36.1606),
    "370211": (119.5093, 35.5757, 120.3283, 36.1454), "370212": (120.4059, 35.8883, 120.9506, 36.3415),
    "370213": (120.3383, 36.134, 120.5064, 36.2381), "370214": (120.1014, 36.173, 120.5757, 36.3992),
    "370215": (120.1304, 36.3099, 121.0615, 36.6322), "370281": (119.6263, 36.0102, 120.211, 36.4987),
    "370283": (119.525, 36.4715, 120.3205, 37.0463), "370285": (120.2022, 36.5717, 120.6559, 37.1485),
}  # fmt: skip


@cache
def demonstration() -> Catalogue:
    return load_catalogue(ROOT / "stations")


@cache
def land() -> tuple[tuple[Point, ...], ...]:
    """Rings of land: the mainland's coast closed around the north-west, and each island."""
    lines = [[(x, y) for x, y in f["geometry"]["coordinates"]] for f in json.loads(COAST.read_text())["features"]]
    mainland, *islands = sorted(lines, key=len, reverse=True)
    (east_x, _), (_, south_y) = mainland[0], mainland[-1]
    assert all(island[0] == island[-1] for island in islands)
    return ((*mainland, (119.0, south_y), (119.0, 37.5), (east_x, 37.5)), *(tuple(ring) for ring in islands))


def on_land(point: Point) -> bool:
    return any(_inside(point, ring) for ring in land())


def _inside(point: Point, ring: tuple[Point, ...]) -> bool:
    """Count the edges that a ray to the east crosses."""
    x, y = point
    crossed = 0
    for (x1, y1), (x2, y2) in zip(ring, (*ring[1:], ring[0]), strict=True):
        crossed += (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1)
    return crossed % 2 == 1


@pytest.mark.parametrize(
    ("point", "is_land"),
    [
        ((120.3826, 36.0671), True),  # city hall
        ((120.62, 36.17), True),  # Jufeng peak
        ((120.163, 35.765), True),  # Lingshan island
        ((119.9392, 36.7814), True),  # Pingdu, far inland
        ((120.22, 36.12), False),  # in the middle of Jiaozhou bay
        ((120.5, 35.7), False),
        ((121.2, 36.2), False),
    ],
)
def test_land_and_sea_are_told_apart(point: Point, is_land: bool) -> None:
    assert on_land(point) is is_land


def test_it_says_that_it_is_a_demonstration() -> None:
    assert demonstration().demonstration


def test_every_domain_and_at_least_two_stations_of_every_kind() -> None:
    stations = demonstration().stations.values()
    assert len(stations) >= 64
    kinds = Counter(station.kind for station in stations)
    assert {kind for kind in get_args(Kind) if kinds[kind] < 2} == set()
    assert {station.domain for station in stations} == set(get_args(Domain))


@pytest.mark.parametrize("station", demonstration().stations.values(), ids=lambda s: s.id)
def test_station_stands_where_it_can(station: Station) -> None:
    if station.kind in IN_WATER:
        assert not on_land(station.position)
    elif not station.attributes.get("shore"):
        assert on_land(station.position)
    if station.kind == "tide_gauge":
        assert station.attributes["shore"] is True
    if station.district is not None:
        west, south, east, north = DISTRICT_BOXES[station.district]
        assert west <= station.position[0] <= east
        assert south <= station.position[1] <= north
    else:
        assert station.kind in IN_WATER


@pytest.mark.parametrize("station", demonstration().stations.values(), ids=lambda s: s.id)
def test_station_is_whole(station: Station) -> None:
    assert station.id.startswith("QD-")
    assert station.devices
    assert station.devices[0].id == station.id.lower()
    assert any("\u4e00" <= letter <= "\u9fff" for letter in station.zh)
    assert station.en.isascii()
    if station.kind in {"tide_gauge", "river", "reservoir"}:
        assert station.datum
    if station.kind in {"river", "reservoir", "sea_water", "beach", "ranch"}:
        assert station.water_class
    if station.kind == "noise":
        assert station.noise_class
    silence = [rule for rule in demonstration().rules_for(station.id) if isinstance(rule, SilenceRule)]
    assert len(silence) == 1, "silence of a station must raise exactly one alert"


def test_community_data_are_private() -> None:
    private = {network.id for network in demonstration().networks.values() if network.private}
    assert private == {"qd-community"}


@pytest.mark.parametrize(
    "rule", [rule for rule in demonstration().rules if isinstance(rule, ThresholdRule)], ids=lambda rule: rule.id
)
def test_threshold_rule_watches_something_and_can_be_reached(rule: ThresholdRule) -> None:
    found = demonstration()
    watched = {s.station for s in found.series if (s.property, s.channel) == (rule.property, rule.channel)}
    assert any(rule.where.covers(found.stations[station]) for station in watched)
    low, high = load_properties()[rule.property].plausible
    assert all(low <= number <= high for number in rule.levels.values())
    assert rule.hysteresis < high - low


@pytest.mark.parametrize(
    "rule", [rule for rule in demonstration().rules if isinstance(rule, ThresholdRule)], ids=lambda rule: rule.id
)
def test_no_level_is_beyond_what_quality_lets_pass(rule: ThresholdRule) -> None:
    """Readings that are found suspect raise nothing: a limit that is too narrow would silence the alert."""
    found = demonstration()
    for series in found.series:
        if (series.property, series.channel) == (rule.property, rule.channel) and rule.where.covers(
            found.stations[series.station]
        ):
            low = max(series.limits.suspect_min, series.limits.fail_min)
            high = min(series.limits.suspect_max, series.limits.fail_max)
            assert all(low <= number <= high for number in rule.levels.values()), series.station


WATCHED = ("air", "weather", "water", "ocean", "noise", "soil", "radiation", "source", "community")


@pytest.mark.parametrize("domain", WATCHED)
def test_every_domain_has_rules_of_several_kinds(domain: str) -> None:
    """Level, change, standing still, quality, clock and silence; a rule on no series or index would be idle."""
    found = demonstration()
    stations = [s for s in found.stations.values() if s.domain == domain]
    rules = {rule.id: rule for s in stations for rule in found.rules_for(s.id)}
    series = {(s.property, s.channel) for s in found.series if found.stations[s.station].domain == domain}
    series |= {(index.key, "main") for index in INDICES.values() if domain in index.domains}
    wanted = {r.id: (getattr(r, "property", None), getattr(r, "channel", None)) for r in rules.values()}
    assert [rule for rule, key in wanted.items() if key[0] and key not in series] == []
    kinds = {rule.kind for rule in rules.values()}
    assert {"rate_of_change", "stuck", "quality", "clock_wrong", "silence"} <= kinds


@pytest.mark.parametrize("zone", ["lingshan", "dagong", "urban"])
def test_every_zone_of_the_green_tide_near_the_city_is_watched(zone: str) -> None:
    """One station counts its areas there, the further north the nearer to the city."""
    watches = [s for s in demonstration().stations.values() if s.attributes.get("green_tide_zone") == zone]
    assert len(watches) == 1
    for prop in ("green_tide_distribution", "green_tide_coverage"):
        assert demonstration().series_index(watches[0].id, prop) is not None


def test_default_sentinels_are_never_plausible_for_the_field_they_are_applied_to() -> None:
    found = demonstration()
    applied = 0
    for entry in found.devices.values():
        for field in entry.fields.values():
            low, high = load_properties()[found.series[field.series_index].property].plausible
            assert not any(low <= number <= high for number in field.sentinels)
            applied += len(field.sentinels)
    assert applied > len(found.series)


def test_a_backup_gauge_has_its_own_channel() -> None:
    found = demonstration()
    assert found.series_index("QD-TG-001", "water_level", "backup") is not None


def test_archive_of_the_demonstration_is_exact() -> None:
    found = demonstration()
    again = Catalogue.from_json(found.to_json())
    assert (again.version, again.series, again.devices) == (found.version, found.series, found.devices)


def test_coast_names_its_owner() -> None:
    assert "OpenStreetMap contributors" in json.loads(COAST.read_text())["license"]


def test_every_yaml_value_that_looks_like_a_code_is_text() -> None:
    """District codes and zone names must not turn into numbers."""
    for path in sorted((ROOT / "stations").glob("*.yaml")):
        for block in yaml.safe_load(path.read_text(encoding="utf-8")).get("stations", []):
            assert all(isinstance(block.get(key, ""), str) for key in ("district", "noise_class", "water_class"))
