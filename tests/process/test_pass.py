"""The ordered pass around its steps: where messages and readings end, and what is told of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ingest.raw import RawBuilder, Source, redrive_rows
from processors.process import Process
from processors.quality import CHECKS
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from qingtu.clock import DAY, SECOND
from qingtu.records import RECEIPT_TIME, Flag, Outcome, decode
from tests.process.support import (
    CAT,
    NETWORK,
    T0,
    Result,
    batch_of,
    catalogue,
    command,
    configure,
    drive,
    frame_of,
    message,
    reading,
    station,
    tick,
)

STORED, QUARANTINED, IGNORED = (int(o) for o in (Outcome.STORED, Outcome.QUARANTINED, Outcome.IGNORED))


def run(*rows: dict[str, Any]) -> Result:
    """Drive rows under the usual catalogue, in one frame."""
    return drive([configure(0, CAT.version), *rows], [CAT])


def values(result: Result) -> list[tuple[str, str, float | None]]:
    """Station, property and value of each reading."""
    return [(r["station"], r["property"], r["value"]) for r in result.readings]


def reasons(result: Result) -> list[tuple[str, str, int]]:
    """Stage, reason and refused readings of each rejected row."""
    return [(r["stage"], r["reason"], r["readings_refused"]) for r in result.rejected]


# ------------------------------------------------------------------------------------------- values and units


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (0.035, 35.0),  # the field's unit is mg/m3, the property's ug/m3
        ({"value": 35, "unit": "µg/m³"}, 35.0),  # a unit inside takes its place
        ("0.035", 35.0),
        (None, None),
        (-999, None),  # the sentinel is looked for before conversion
        ({"value": -999, "unit": "ug/m3"}, None),
    ],
)
def test_numbers_become_canonical_units(sent: Any, value: float | None) -> None:
    """As sent, through the field's unit or the one inside, to the property's."""
    assert values(run(message("b", {"readings": {"dust": sent}}))) == [("B", "pm25", value)]


@pytest.mark.parametrize(
    ("field", "sent", "value"),
    [
        ("air_pressure", 99999, None),  # hPa: no air has it
        ("air_pressure", {"value": 99999, "unit": "Pa"}, 999.99),  # an ordinary one
        ("air_pressure", {"value": 99999, "unit": "kPa"}, None),  # implausible in the unit that was sent, too
        ("own", {"value": 99999, "unit": "Pa"}, None),  # the device's own sentinels are as sent
    ],
)
def test_what_the_defaults_call_missing_is_a_value_where_its_unit_makes_it_one(
    field: str, sent: Any, value: float | None
) -> None:
    """Inherited sentinels are judged in the unit that is used, not in the declared one."""
    own = {"own": {"property": "air_pressure", "channel": "own", "sentinels": [99999]}}
    content = {
        "networks": [NETWORK],
        "defaults": {"sentinels": [-999, 99999]},
        "stations": [station("P", [{"id": "p", "properties": ["air_pressure"], "fields": own}])],
        "rules": [],
    }
    cat = Catalogue(Content.model_validate(content))
    result = drive([configure(0, cat.version), message("p", {"readings": {field: sent}})], [cat])
    assert [r["value"] for r in result.readings] == [value]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"value": 1, "unit": "Pa"}, "unknown_unit"),
        ({"value": 1e308, "unit": "kg/m3"}, "not_finite"),  # the unit is known
        ({"value": 1, "unit": "<script>"}, "unknown_unit"),
        (True, "bad_value"),
        (1e306, "not_finite"),  # finite as sent, infinite in the canonical unit
    ],
)
def test_what_cannot_be_converted_is_refused_and_the_rest_stays(sent: Any, reason: str) -> None:
    """One reading is refused with a reason; the message counts as quarantined, the other reading is stored."""
    result = run(message("b", {"readings": {"dust": sent, "door": True}}))
    assert values(result) == [("B", "door_open", 1.0)]
    assert reasons(result) == [("convert", reason, 1)]
    assert [(m["outcome"], m["decoded"], m["refused"]) for m in result.manifest] == [(QUARANTINED, 2, 1)]


def test_several_refusals_of_a_message_are_one_row() -> None:
    """With the first reason, all details, and how many readings."""
    result = run(message("a", {"readings": {"pm25": "x", "rain": 1, "air_temperature": 5, "pm10": 3}}))
    assert reasons(result) == [("decode", "bad_value", 3)]
    assert result.rejected[0]["detail"].count(";") == 2
    assert values(result) == [("A", "air_temperature", 5.0)]
    assert [(m["decoded"], m["refused"]) for m in result.manifest] == [(4, 3)]


def test_unknown_device_is_quarantined_whole() -> None:
    """All of its readings count as refused, and nothing is stored."""
    result = run(
        message("x", {"readings": {"pm25": 1, "pm10": "y"}}), message("a", {"readings": {"pm25": 1}}, network="m")
    )
    assert values(result) == []
    assert [m["outcome"] for m in result.manifest] == [QUARANTINED] * 2
    assert [(m["decoded"], m["refused"]) for m in result.manifest] == [(2, 2), (1, 1)]
    assert "n/x" in result.rejected[0]["detail"]
    assert "m/a" in result.rejected[1]["detail"]


@pytest.mark.parametrize(
    ("refused", "outcome"), [("too_large", QUARANTINED), ("empty_payload", QUARANTINED), ("sys_topic", IGNORED)]
)
def test_what_the_gateway_refused_is_not_decoded(refused: str, outcome: int) -> None:
    """Its reason is kept; the broker's own figures are ignored by rule."""
    result = run(reading("a", 0, pm25=1) | {"refused": refused})
    assert values(result) == []
    assert [m["outcome"] for m in result.manifest] == [outcome]
    assert reasons(result) == ([] if outcome == IGNORED else [("gateway", refused, 0)])


def test_a_rejected_row_is_the_whole_raw_row() -> None:
    """Everything that driving it again needs, under names of its own."""
    row = message("x", b"\xff\0", 5, flags=5, packet_id=9, connection=3, properties=b"\1", topic="qt/n/x/up")
    (found,) = run(row).rejected
    expected = row | {"received_at": 5 * SECOND, "kind": 0}
    assert {name: found[name] for name in expected} == expected


def test_every_message_has_one_outcome_and_readings_balance() -> None:
    """Decoded = stored + refused for messages that are no duplicates."""
    rows = [reading("a", n, pm25=n, rain=1) for n in range(5)] + [message("a", b"{"), reading("b", 9, dust=1)]
    result = run(*rows, tick(20), rows[0])
    assert [m["row"] for m in result.manifest] == [1, 2, 3, 4, 5, 6, 7, 9]
    decoded = sum(m["decoded"] - m["refused"] for m in result.manifest if m["outcome"] != Outcome.DUPLICATE)
    assert decoded == len(result.readings) == 6


# ---------------------------------------------------------------------------------------------------------- time


def test_zone_less_times_are_read_in_the_stations_zone() -> None:
    """Shanghai by the network, another by the station."""
    cat = catalogue(
        [station("A", [{"id": "a", "properties": ["pm25"]}]),
         station("U", [{"id": "u", "properties": ["pm25"]}], timezone="America/New_York")], [],
    )  # fmt: skip
    rows = [configure(0, cat.version)]
    for device, text in (("a", "2026-11-23T08:00:00"), ("u", "2026-11-22T19:00:01"), ("u", "2026-11-23T00:00:02Z")):
        rows.append(message(device, {"time": text, "readings": {"pm25": 1}, "events": [{"kind": "door"}]}, 10))
    rows.append(message("a", {"events": [{"kind": "door", "time": "2026-11-23T08:00:03"}]}, 10))
    result = drive(rows, [cat])
    assert sorted(r["time"] for r in result.readings) == [0, SECOND, 2 * SECOND]
    assert sorted(e["time"] for e in result.events) == [0, SECOND, 2 * SECOND, 3 * SECOND]


def test_a_time_of_receipt_is_marked_and_no_check_failed() -> None:
    """Each reading of a message without a time has the bit, whatever its flag; its neighbours in the frame have not."""
    bare = {"readings": {"pm25": 1, "air_temperature": None}}
    timed = bare | {"time": (T0 + 7 * SECOND) // 1000}
    result = run(reading("a", 0, 1, pm25=2), message("a", bare, 5), message("a", timed, 8))
    told = {(r["property"], r["time"] // SECOND): (r["flag"], r["tests"]) for r in result.readings}
    missing = 1 << CHECKS["missing"].bit
    assert told == {
        ("pm25", 0): (Flag.PASS, 0), ("pm25", 5): (Flag.PASS, RECEIPT_TIME), ("pm25", 7): (Flag.PASS, 0),
        ("air_temperature", 5): (Flag.MISSING, RECEIPT_TIME | missing), ("air_temperature", 7): (Flag.MISSING, missing),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("claimed", "outcome"),
    [(300, STORED), (300.001, QUARANTINED), (-400 * 86400, STORED), (-400 * 86400 - 0.001, QUARANTINED)],
)
def test_clock_limits_are_inclusive(claimed: float, outcome: int) -> None:
    """Five minutes ahead and 400 days behind are still taken."""
    result = run(reading("a", claimed, 0, pm25=1))
    assert [m["outcome"] for m in result.manifest] == [outcome]
    assert reasons(result) == ([] if outcome == STORED else [("convert", "clock_wrong", 1)])


def test_a_device_is_marked_when_its_clock_goes_wrong_and_right() -> None:
    """One event each way; what claims no time, repeats or is driven again says nothing."""
    wrong = [reading("a", 1e6 + n, n, pm25=1) for n in range(3)]
    silent = [message("a", {"readings": {"pm25": 1}}, 5), message("a", b"{", 5), wrong[0]]
    again = wrong[1] | {"redrive_of": 2, "shift_us": -1_000_000 * SECOND}
    right = [reading("a", 6 + n, pm25=1) for n in range(2)]
    rows = [configure(0, CAT.version), *wrong, *silent, again, *right]
    for cuts in (range(0), range(1, len(rows))):
        events = [(e["kind"], e["station"], e["revision"]) for e in drive(rows, [CAT], cuts).events]
        assert events == [("clock_wrong", "A", 1), ("clock_right", "A", 8)]


def test_retained_messages_without_a_time_never_become_now() -> None:
    """With a time of their own they are what they are."""
    body = {"readings": {"pm25": 1}, "events": [{"kind": "fire"}]}
    result = run(message("a", body, flags=9), reading("a", -50, 0, pm25=2) | {"flags": 9})
    assert reasons(result) == [("convert", "retained_no_time", 2)]
    assert values(result) == [("A", "pm25", 2.0)]
    assert result.events == []


# ------------------------------------------------------------------------------------------------- driven again


def test_driven_again_with_a_shift_is_stored_under_the_new_position() -> None:
    """Readings and events move; known_at is when it was driven; the cause says so; nothing is newest."""
    body = {"time": T0 // 1000 + 10 * DAY // 1000, "readings": {"pm25": 90}, "events": [{"kind": "fire"}]}
    row = message("a", body)
    again = row | {"redrive_of": 1, "shift_us": -10 * DAY}
    result = run(row, command(900, "redrive", "Li"), again, reading("a", -5, 0, pm25=1))
    assert [m["outcome"] for m in result.manifest] == [QUARANTINED, STORED, STORED]
    assert [(r["time"], r["value"], r["cause"], r["late"], r["known_at"], r["revision"]) for r in result.readings] == [
        (0, 90.0, 2, True, 900 * SECOND, 3), (-5 * SECOND, 1.0, 0, True, 0, 4),
    ]  # fmt: skip
    assert [(e["kind"], e["time"], e["known_at"]) for e in result.events if e["kind"] == "fire"] == [
        ("fire", 0, 900 * SECOND)
    ]
    assert result.alerts == []
    assert [m["redrive_of"] for m in result.manifest] == [None, 1, None]


def test_redrive_rows_of_a_rejected_batch_pass() -> None:
    """What quarantine holds can be driven as it is, further columns and all."""
    rows = batch_of([reading("x", 0, pm25=1)])
    again = redrive_rows(rows, [7], 0)
    assert again.column("redrive_of").to_pylist() == [7]
    assert again.column("shift_us").to_pylist() == [0]


# --------------------------------------------------------------------------------------------------- operations


def test_frames_of_the_gateway_are_taken_as_they_are() -> None:
    """Columns that the gateway leaves null (shift, driven again, digest) do not disturb a time."""
    builder, source = RawBuilder("g"), Source("qt/n/a/up", "n", "native", "a")
    payload = b'{"time": 1795392000, "readings": {"pm25": 5}}'
    builder.append((source, payload, 1, 7, None, T0, 1, len(payload), "", None))
    process = Process({CAT.version: CAT}.__getitem__)
    process.restore(None)
    process.apply(decode(frame_of([configure(0, CAT.version)])), 0)
    frame = decode(process.apply(decode(builder.build(CAT.version, T0)), 1)["processed"])
    assert frame.origin == (0, 1)
    assert frame.sections["readings"].column("value").to_pylist() == [5.0]
    assert [t.timestamp() for t in frame.sections["readings"].column("time").to_pylist()] == [T0 / 1e6]


def test_guilty_rows_are_rejected_without_a_look_and_others_pass() -> None:
    """Messages, ticks and commands alike, as internal_error with the raw row."""
    rows = [
        configure(0, CAT.version),
        reading("a", 0, pm25=90),
        tick(10),
        command(11, "nonsense"),
        reading("c", 0, pm25=1),
    ]
    process = Process({CAT.version: CAT}.__getitem__)
    process.restore(None)
    process.apply(decode(frame_of(rows[:1])), 0)
    only = np.array([False, False, False, True])
    out = process.apply(decode(frame_of(rows[1:])), 1, only)
    rejected = decode(out["rejected"]).sections["rejected"]
    assert rejected.column("reason").to_pylist() == ["internal_error"] * 3
    assert [p & 0xFFFF for p in rejected.column("position").to_pylist()] == [0, 1, 2]
    assert decode(out["processed"]).sections["readings"].column("station").to_pylist() == ["C"]
    assert decode(out["processed"]).sections["manifest"].column("outcome").to_pylist() == [QUARANTINED, STORED]


def test_a_frame_carries_origin_clock_catalogue_and_ticks() -> None:
    """Derive runs on the ticks of the header: clock, position, and the catalogue that held then."""
    process = Process({CAT.version: CAT}.__getitem__, partition=3)
    process.restore(None)
    header = decode(
        process.apply(decode(frame_of([configure(0, CAT.version), tick(5), tick(6)])), 40)["processed"]
    ).header
    assert (header["origin"], header["clock"], header["catalogue"]) == ([3, 40], T0 + 6 * SECOND, CAT.version)
    assert header["ticks"] == [
        [T0 + 5 * SECOND, 40 << 16 | 1, CAT.version],
        [T0 + 6 * SECOND, 40 << 16 | 2, CAT.version],
    ]
    header = decode(process.apply(decode(frame_of([reading("a", 7, pm25=1)])), 41)["processed"]).header
    assert header["ticks"] == []


def test_an_empty_catalogue_quarantines_everything() -> None:
    """No station, no device: nothing fails."""
    none = catalogue([], [])
    result = drive([configure(0, none.version), reading("a", 0, pm25=1), tick(9)], [none])
    assert reasons(result) == [("locate", "unknown_device", 1)]


def test_a_route_without_decoder_is_told() -> None:
    """A route that left the settings while messages were under way."""
    assert reasons(run(reading("a", 0, pm25=1) | {"route": "gone"})) == [("decode", "no_decoder", 0)]


def test_events_keep_kind_level_and_attributes() -> None:
    """Without a time of their own they happened at receipt."""
    body = {"events": [{"kind": "火警", "level": 2, "attributes": {"b": 1, "a": "<x>"}}]}
    (event,) = run(message("a", body, 3)).events
    assert (event["kind"], event["level"], event["time"]) == ("火警", 2, 3 * SECOND)
    assert json.loads(event["attributes"]) == {"a": "<x>", "b": 1}


def test_names_in_frames_are_those_that_occur() -> None:
    """The station dictionary of a frame does not carry the whole catalogue."""
    process = Process({CAT.version: CAT}.__getitem__)
    process.restore(None)
    out = process.apply(decode(frame_of([configure(0, CAT.version), reading("c", 0, pm25=1)])), 0)
    column = decode(out["processed"]).sections["readings"].column("station")
    assert column.dictionary.to_pylist() == ["C"]
