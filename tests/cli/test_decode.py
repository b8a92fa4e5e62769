"""`qingtu decode`: the operator's way to try a payload and a mapping."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ingest.decoders import DECODERS
from qingtu.catalogue import load_catalogue
from qingtu.clock import MINUTE, SystemClock, iso
from tests.cli.conftest import CATALOGUE, inside

if TYPE_CHECKING:
    from pathlib import Path

DEVICE = "qd-wx-001"
PRIVATE = "qd-cm-001"


def _field(prop: str) -> str:
    """Return what a device of the demonstration calls a property."""
    catalogue = load_catalogue(CATALOGUE)
    entry = catalogue.devices["qd-weather", DEVICE]
    return next(name for name, f in entry.fields.items() if catalogue.series[f.series_index].property == prop)


def _payload(readings: object, *, time: object = None) -> bytes:
    return json.dumps({"time": time or iso(SystemClock().now_us()), "readings": readings, "seq": 1}).encode()


def test_one_object_a_reading(tmp_path: Path) -> None:
    """Numbers, units and times as the payload has them, from a file or standard input."""
    payload = _payload({"a": 1.5, "b": {"value": "2", "unit": "hPa"}, "c": None}, time="2026-11-23T08:00:00+08:00")
    (tmp_path / "p").write_bytes(payload)
    expected = [
        {"name": "a", "value": 1.5, "unit": None, "time": "2026-11-23T00:00:00Z"},
        {"name": "b", "value": 2.0, "unit": "hPa", "time": "2026-11-23T00:00:00Z"},
        {"name": "c", "value": None, "unit": None, "time": "2026-11-23T00:00:00Z"},
    ]
    for ran in (inside("decode", "native", tmp_path / "p"), inside("decode", "native", stdin=payload)):
        assert (ran.code, ran.lines) == (0, expected)


def test_refusal_is_an_object_with_the_reason() -> None:
    """What cannot be read at all is one line, and exit code 1."""
    ran = inside("decode", "native", stdin=b"hello")
    assert ran.code == 1
    assert [line["refused"] for line in ran.lines] == ["bad_json"]


def test_without_a_device_a_payload_may_name_its_own() -> None:
    """There is no topic to compare it with; with a device it is compared."""
    payload = b'{"device":"d","readings":{"pm25":1}}'
    ran = inside("decode", "native", stdin=payload)
    assert (ran.code, [line["name"] for line in ran.lines]) == (0, ["pm25"])
    ran = inside("decode", "native", "--device", DEVICE, stdin=payload)
    assert (ran.code, [line["refused"] for line in ran.lines]) == (1, ["device_mismatch"])


def test_events_are_shown() -> None:
    """An event is an object of its own."""
    payload = b'{"time": 1795392000, "events": [{"kind": "door", "level": 2, "attributes": {"gate": "N"}}]}'
    ran = inside("decode", "native", stdin=payload)
    assert ran.lines == [{"event": "door", "level": 2, "time": "2026-11-23T00:00:00Z", "attributes": {"gate": "N"}}]


@pytest.mark.parametrize("options", [(), ("--device", DEVICE)])
def test_numbers_that_json_has_not_are_null(options: tuple[str, ...]) -> None:
    """In attributes of events, as they are stored; what is printed is JSON."""
    payload = b'{"events": [{"kind": "x", "attributes": {"a": NaN, "b": [-Infinity, 1]}}]}'
    ran = inside("decode", "native", *options, stdin=payload)
    assert "NaN" not in ran.out
    assert [line["attributes"] for line in ran.lines] == [{"a": None, "b": [None, 1]}]


def test_the_second_of_two_spellings_is_repeated(tmp_path: Path) -> None:
    """Two names of one series: the first is stored, the other is repeated, and each keeps its name."""
    (tmp_path / "c.yaml").write_text(
        "networks: [{id: n, zh: n, en: n, interval_s: 60}]\n"
        "stations: [{id: A, zh: a, en: A, network: n, domain: air, kind: air, position: [120, 36], "
        "devices: [{id: d, properties: [pm25, pm10]}]}]\n",
        encoding="utf-8",
    )
    payload = _payload({"pm10": "x", "PM25": 1, "pm25": 2, "P1": 3})
    ran = inside("decode", "native", "--device", "d", "--catalogue", tmp_path, stdin=payload)
    assert [(line["name"], line["value"], line["outcome"]) for line in ran.lines if "name" in line] == [
        ("P1", 3.0, "stored"), ("PM25", 1.0, "stored"), ("pm25", 2.0, "repeated"),
    ]  # fmt: skip
    assert [line["refused"] for line in ran.lines if "refused" in line] == ["bad_value"]


def test_a_reading_with_a_late_verdict_is_told_once() -> None:
    """A test that needs the next reading may get it from the same payload: the flag is that which stands at last."""
    name, now = _field("air_temperature"), SystemClock().now_us()
    values = [10, 10.1, 10, 35, 10.1, 10, 10.2]
    payload = [{"time": iso(now - (9 - i) * MINUTE), "readings": {name: v}} for i, v in enumerate(values)]
    ran = inside("decode", "native", "--device", DEVICE, stdin=json.dumps(payload).encode())
    assert [line["value"] for line in ran.lines] == values
    assert "spike" in ran.lines[3]["tests"]
    assert {line["outcome"] for line in ran.lines} == {"stored"}


def test_device_shows_what_the_catalogue_makes_of_it() -> None:
    """Series, canonical value and unit and flag; an unknown field and an unknown unit are refused by name."""
    name = _field("air_temperature")
    other = _field("relative_humidity")
    payload = _payload({name: {"value": 68, "unit": "°F"}, "nonsense": 1, other: {"value": 3, "unit": "furlong"}})
    ran = inside("decode", "native", "--device", DEVICE, stdin=payload)
    assert ran.code == 1
    reading, *refusals = ran.lines
    assert (reading["name"], reading["property"], reading["channel"]) == (name, "air_temperature", "main")
    assert reading["value"] == pytest.approx(20.0)
    assert (reading["unit"], reading["flag_name"], reading["tests"]) == ("Cel", "pass", [])
    assert [(line["refused"], line["stage"]) for line in refusals] == [
        ("unknown_property", "locate"), ("unknown_unit", "convert"),
    ]  # fmt: skip
    assert "nonsense" in refusals[0]["detail"]
    assert "furlong" in refusals[1]["detail"]
    assert "nonsense" not in refusals[1]["detail"]


def test_every_refused_reading_has_a_line_of_its_own() -> None:
    """Also where the reason is the same: what must be mended are the fields, not the message."""
    ran = inside("decode", "native", "--device", DEVICE, stdin=_payload({"a": 1, "b": 2, "c": 3}))
    assert [(line["refused"], line["detail"].split()[0]) for line in ran.lines] == [
        ("unknown_property", "'a'"), ("unknown_property", "'b'"), ("unknown_property", "'c'"),
    ]  # fmt: skip


def test_device_judges_the_value() -> None:
    """A value out of range keeps its number and gets flag 4 with the check's name."""
    ran = inside(
        "decode", "native", "--device", f"qd-weather/{DEVICE}", stdin=_payload({_field("air_temperature"): 900})
    )
    assert (ran.code, ran.lines[0]["flag"]) == (0, 4)
    assert "gross_range" in ran.lines[0]["tests"]


def test_device_refuses_an_impossible_time() -> None:
    """The limits of claimed times are those of the settings."""
    payload = _payload({_field("air_temperature"): 9}, time="2000-01-01T00:00:00Z")
    ran = inside("decode", "native", "--device", DEVICE, stdin=payload)
    assert "clock_wrong" in [line.get("refused") for line in ran.lines]


def test_private_device_shows_no_identifier() -> None:
    """What the redactor would replace before anything is stored is replaced here; what it cannot read is refused."""
    now = iso(SystemClock().now_us())
    payload = json.dumps({"time": now, "events": [{"kind": "door", "attributes": {"card_no": "6217001234"}}]}).encode()
    ran = inside("decode", "native", "--device", "qd-cm-001", stdin=payload)
    assert "6217001234" not in ran.out
    assert ran.lines[0]["attributes"]["card_no"].startswith("p-")
    ran = inside("decode", "native", "--device", "qd-cm-001", stdin=b"{")
    assert [line["refused"] for line in ran.lines] == ["unparsable_private"]


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    """Unknown format: 2, with the allowed ones; unknown device: 4; no such file: 3."""
    ran = inside("decode", "xml", stdin=b"")
    assert ran.code == 2
    assert all(name in ran.err for name in DECODERS)
    assert inside("decode", "native", "--device", "nobody", stdin=b"{}").code == 4
    assert inside("decode", "native", tmp_path / "none").code == 3


def test_stations_in_three_forms() -> None:
    """A table, JSON and GeoJSON name the same stations."""
    catalogue = load_catalogue(CATALOGUE)
    listed = inside("stations", "--json").json
    assert [row["id"] for row in listed] == list(catalogue.stations)
    features = inside("stations", "--geojson").json["features"]
    assert [f["id"] for f in features] == list(catalogue.stations)
    assert features[0]["geometry"]["coordinates"] == list(catalogue.stations[features[0]["id"]].position)
    table = inside("stations").out
    assert all(station in table for station in catalogue.stations)
    assert "demonstration" in table


@pytest.mark.parametrize("device", [DEVICE, PRIVATE])
def test_device_judges_the_size_as_its_gateway_does(tmp_path: Path, device: str) -> None:
    """Empty, just as large as the route takes, and one byte more: reason, stage and what is kept of it."""
    payload = _payload({_field("air_temperature"): 12})
    settings = tmp_path / "qingtu.toml"

    def ran(given: bytes, most: int) -> list[tuple[str | None, str | None]]:
        settings.write_text(
            "".join(
                f'[[routes]]\nname = "{name}"\ntopic = "{name}/{{network}}/{{device}}"\nmax_payload_bytes = {most}\n'
                for name in ("native", "community")
            ),
            encoding="utf-8",
        )
        found = inside("decode", "native", "--device", device, "-c", settings, stdin=given)
        assert found.code == (1 if "refused" in found.out else 0)
        return [(line.get("refused"), line.get("detail")) for line in found.lines]

    kept = 0 if device == PRIVATE else len(payload)
    assert ran(b"", 100) == [("empty_payload", "0 bytes kept")]
    assert ran(payload, len(payload) - 1) == [("too_large", f"{kept} bytes kept")]
    assert "too_large" not in {reason for reason, _ in ran(payload, len(payload))}
    large = b" " * 70_000 + payload
    assert ran(large, 69_000) == [("too_large", f"{0 if device == PRIVATE else 65_536} bytes kept")]


def test_without_a_device_no_limit_is_known() -> None:
    """A decoder alone says of nothing what it is."""
    ran = inside("decode", "native", stdin=b"")
    assert [line["refused"] for line in ran.lines] == ["bad_json"]
