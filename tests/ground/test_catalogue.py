"""A right catalogue: what stations inherit, what fields mean, and that every version can be read again exactly."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qingtu.catalogue import Catalogue, Limits, load_catalogue, synthetic_catalogue
from qingtu.errors import ConfigError
from qingtu.properties import load_properties

NETWORK = {"id": "n", "zh": "网", "en": "Net", "interval_s": 60, "route": "hj212"}


def station(ident: str = "S1", **more: Any) -> dict[str, Any]:
    block = {
        "id": ident, "zh": "站", "en": "Station", "network": "n", "domain": "air", "kind": "air",
        "position": [120.3, 36.1], "devices": [{"id": ident.lower(), "properties": ["pm25"]}],
    }  # fmt: skip
    return block | more


def catalogue(folder: Path, *stations: dict[str, Any], **more: Any) -> Catalogue:
    data = {"networks": [NETWORK], "stations": list(stations)} | more
    (folder / "c.yaml").write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return load_catalogue(folder)


def test_short_form_maps_key_and_aliases_to_one_series(tmp_path: Path) -> None:
    found = catalogue(tmp_path, station())
    fields = found.fields_of(("n", "s1"))
    assert set(fields) == {"pm25", *load_properties()["pm25"].aliases}
    assert {field.series_index for field in fields.values()} == {0}
    assert {field.unit for field in fields.values()} == {"ug/m3"}
    assert len(found.series) == 1


def test_long_form_carries_unit_scale_channel_and_sentinels(tmp_path: Path) -> None:
    fields = {
        "temp": {"property": "air_temperature", "unit": "℉", "scale": 0.1, "offset": -2, "sentinels": [32767]},
        "dust": {"property": "pm25", "channel": "backup"},
    }
    found = catalogue(tmp_path, station(devices=[{"id": "d", "fields": fields, "properties": ["pm25"]}]))
    by_name = found.fields_of(found.devices["n", "d"])
    assert by_name["temp"][1:] == ("[degF]", 0.1, -2.0, (32767.0,), False)
    assert by_name["dust"].series_index == found.series_index("S1", "pm25", "backup")
    assert by_name["pm25"].series_index == found.series_index("S1", "pm25")
    assert found.series_index("S1", "pm10") is None


def test_explicit_field_takes_the_place_of_the_short_form(tmp_path: Path) -> None:
    device = {"id": "d", "fields": {"dust": {"property": "pm25", "unit": "mg/m3"}}, "properties": ["pm25", "pm10"]}
    fields = catalogue(tmp_path, station(devices=[device])).fields_of(("n", "d"))
    assert "pm25" not in fields
    assert fields["dust"].unit == "mg/m3"
    assert "pm10" in fields


def test_series_are_dense_and_ordered_by_station_property_channel(tmp_path: Path) -> None:
    fields = {"b": {"property": "co", "channel": "b"}, "a": {"property": "co"}, "c": "pm10"}
    found = catalogue(tmp_path, station("Z", devices=[{"id": "z", "fields": fields}]), station("A"))
    assert [(s.station, s.property, s.channel) for s in found.series] == [
        ("Z", "co", "b"), ("Z", "co", "main"), ("Z", "pm10", "main"), ("A", "pm25", "main"),
    ]  # fmt: skip
    for position, series in enumerate(found.series):
        assert found.series_index(series.station, series.property, series.channel) == position


def test_station_and_device_inherit_from_network(tmp_path: Path) -> None:
    plain = station("P")
    own = station("O", timezone="UTC", interval_s=5)
    devices = [{"id": "own-1", "route": "native", "interval_s": 2, "properties": ["pm25"]}]
    own |= {"devices": devices}
    found = catalogue(tmp_path, plain, own)
    first, second = found.devices["n", "p"], found.devices["n", "own-1"]
    assert (first.route, first.timezone, first.interval_s) == ("hj212", "Asia/Shanghai", 60)
    assert (second.route, second.timezone, second.interval_s) == ("native", "UTC", 2)
    assert [(s.timezone, s.interval_s) for s in found.series] == [("Asia/Shanghai", 60), ("UTC", 2)]


def test_limits_merge_dictionary_all_domain_station(tmp_path: Path) -> None:
    defaults = {
        "limits": {
            "all": {"pm25": {"suspect": [0, 500], "spike": {"suspect": 10, "fail": 20}}},
            "air": {"pm25": {"spike": {"suspect": 50}}},
        }
    }
    own = {"pm25": {"range": [0, 800], "rate_per_h": {"suspect": 100, "fail": 200}, "spike": {}}}
    found = catalogue(
        tmp_path, station("A"), station("B", limits=own), station("C", domain="community"), defaults=defaults
    )
    inf = math.inf
    assert found.series[0].limits == Limits(0, 1000, 0, 500, inf, inf, 50, inf)
    assert found.series[1].limits == Limits(0, 800, 0, 500, 100, 200, inf, inf)
    assert found.series[2].limits == Limits(0, 1000, 0, 500, inf, inf, 10, 20)
    assert np.array([s.limits[:8] for s in found.series]).shape == (3, 8)


def test_without_any_limits_the_plausible_range_fails(tmp_path: Path) -> None:
    assert catalogue(tmp_path, station()).series[0].limits == Limits(0, 1000)


def test_default_sentinel_that_may_be_a_real_value_is_not_applied(tmp_path: Path) -> None:
    fields = {
        "far": "visibility",
        "far_km": {"property": "visibility", "unit": "km", "channel": "backup"},
        "dust": "pm25",
        "own": {"property": "pm10", "sentinels": [500]},
    }
    found = catalogue(
        tmp_path, station(devices=[{"id": "d", "fields": fields}]), defaults={"sentinels": [-999, 9999]}
    ).fields_of(("n", "d"))
    assert list(found["far"].sentinels) == [-999]
    assert list(found["far_km"].sentinels) == [-999, 9999]
    assert list(found["dust"].sentinels) == [-999, 9999]
    assert list(found["own"].sentinels) == [500]


def test_series_domain_is_the_property_s(tmp_path: Path) -> None:
    found = catalogue(tmp_path, station(devices=[{"id": "d", "properties": ["pm25", "battery_level"]}]))
    assert [s.domain for s in found.series] == ["device", "air"]


def test_device_may_belong_to_another_network_than_its_station(tmp_path: Path) -> None:
    other = NETWORK | {"id": "m", "interval_s": 7, "timezone": "UTC"}
    devices = [{"id": "x", "properties": ["pm25"]}, {"id": "x", "network": "m", "properties": ["pm10"]}]
    found = catalogue(tmp_path, station(devices=devices), networks=[NETWORK, other])
    assert set(found.devices) == {("n", "x"), ("m", "x")}
    assert [(s.property, s.network, s.interval_s) for s in found.series] == [("pm10", "m", 7), ("pm25", "n", 60)]


def test_rules_cover_stations_by_every_given_key(tmp_path: Path) -> None:
    base = {"zh": "规", "en": "Rule"}
    rules = [
        base | {"id": "a", "kind": "threshold", "property": "pm25", "levels": {"blue": 1}, "where": {"kind": "park"}},
        base | {"id": "b", "kind": "silence", "after_s": 60, "where": {"domain": ["air", "soil"], "station": "A"}},
        base | {"id": "c", "kind": "silence", "after_intervals": 3},
    ]
    found = catalogue(tmp_path, station("A"), station("B", kind="park", district="370202"), rules=rules)
    assert [rule.id for rule in found.rules_for("A")] == ["b", "c"]
    assert [rule.id for rule in found.rules_for("B")] == ["a", "c"]


def test_files_are_merged_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"stations": [station("B")], "demonstration": True}))
    (tmp_path / "sub" / "a.yaml").write_text(yaml.safe_dump({"stations": [station("C")]}))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"networks": [NETWORK], "stations": [station("A")]}))
    found = load_catalogue(tmp_path)
    assert list(found.stations) == ["A", "B", "C"]
    assert found.demonstration


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = """
networks: [{id: n, zh: 网, en: Net}]
stations:
  - &first
    {id: A, zh: 站, en: S, network: n, domain: air, kind: air, position: [120, 36],
     devices: [{id: a, properties: &p [co]}]}
  - {<<: *first, id: B, devices: [{id: b, properties: *p}]}
"""
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    assert [s.station for s in load_catalogue(tmp_path).series] == ["A", "B"]


def test_version_follows_content_not_form(tmp_path: Path) -> None:
    first = catalogue(tmp_path, station())
    (tmp_path / "c.yaml").write_text(
        "# a comment\n" + yaml.safe_dump({"stations": [station()], "networks": [NETWORK]}, default_flow_style=True)
    )
    same = load_catalogue(tmp_path)
    other = catalogue(tmp_path, station(limits={"pm25": {"range": [0, 999]}}))
    assert first.version == same.version != other.version
    assert len(first.version) == 12
    assert int(first.version, 16) >= 0


@given(
    st.integers(0, 5),
    st.lists(st.sampled_from(load_properties().keys()), min_size=1, max_size=9, unique=True),
)
def test_archive_round_trip_is_exact(count: int, keys: list[str]) -> None:
    before = synthetic_catalogue(count, keys)
    after = Catalogue.from_json(before.to_json())
    assert after.version == before.version
    assert (after.series, after.devices, after.stations) == (before.series, before.devices, before.stations)
    assert (after.networks, after.rules, after.to_json()) == (before.networks, before.rules, before.to_json())


def test_archive_keeps_the_dictionary_it_was_made_with() -> None:
    """A later change of plausible ranges or aliases must not change what an old version meant."""
    archive = orjson.loads(synthetic_catalogue(1, ["pm25"]).to_json())
    archive["content"]["dictionary"]["pm25"] |= {"plausible": [0, 77], "aliases": ["old_name"]}
    text = orjson.dumps(archive | {"version": _version_of(archive["content"])}).decode()
    found = Catalogue.from_json(text)
    assert found.series[0].limits.fail_max == 77
    assert set(found.fields_of(("bench", "s0000"))) == {"pm25", "old_name"}


def _version_of(content: dict[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda _: "[]",
        lambda _: "{}",
        lambda text: text.replace('"pm25"', '"pm26"'),
        lambda text: text.replace("Station 0", "Station 9"),
        lambda text: text.replace('"format":1', '"format":2'),
    ],
)
def test_damaged_archive_is_refused(damage: Any) -> None:
    text = synthetic_catalogue(1, ["pm25"]).to_json()
    assert damage(text) != text
    with pytest.raises(ConfigError, match="archived catalogue"):
        Catalogue.from_json(damage(text))


def test_archive_with_another_canonical_unit_is_refused() -> None:
    archive = orjson.loads(synthetic_catalogue(1, ["pm25"]).to_json())
    archive["content"]["dictionary"]["pm25"]["unit"] = "mg/m3"
    archive["version"] = _version_of(archive["content"])
    with pytest.raises(ConfigError, match="canonical units of pm25"):
        Catalogue.from_json(orjson.dumps(archive).decode())


def test_synthetic_catalogue_names() -> None:
    found = synthetic_catalogue(3, ["pm25", "co"])
    assert list(found.devices) == [("bench", "s0000"), ("bench", "s0001"), ("bench", "s0002")]
    assert len(found.series) == 6
