"""Why a reading is what it is, told from the bytes on."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from tests.waiting import until

if TYPE_CHECKING:
    from tests.web.conftest import Running

MINUTE_MS = 60_000


def _steps(run: Running, station: str, at: int, prop: str = "pm25") -> dict[str, dict[str, Any]]:
    found = run.get("explain", station=station, property=prop, time_ms=at)
    assert found["found"] is True
    return {step["step"]: step["data"] for step in found["steps"]}


def test_every_step_of_a_converted_reading(run: Running) -> None:
    """Bytes, decoder, mapping, unit conversion, checks, store: what was sent as 0.04 mg/m3 is 40 µg/m³."""
    at = run.now_ms()
    run.send("b", at, dust=0.04)
    run.settle()
    steps = _steps(run, "B", at)
    assert list(steps) == ["raw", "decode", "locate", "convert", "quality", "store", "figures", "alerts"]
    assert '"dust":0.04' in steps["raw"]["payload_text"]
    assert bytes.fromhex(steps["raw"]["payload_hex"]).decode() == steps["raw"]["payload_text"]
    assert (steps["raw"]["topic"], steps["raw"]["catalogue"]) == ("qt/n/b/up", run.service.catalogue.version)
    assert steps["decode"]["this"] == {"name": "dust", "value": 0.04, "unit": "", "time_ms": at}
    assert (steps["locate"]["field"], steps["locate"]["unit"]) == ("dust", "mg/m3")
    assert steps["convert"]["value"] == steps["convert"]["stored"] == pytest.approx(40)
    assert steps["convert"]["agrees"] is True
    assert all(check["passed"] for check in steps["quality"]["checks"])
    assert steps["store"]["corrections"] == 0


def test_a_unit_in_the_payload_and_a_time_of_receipt(run: Running) -> None:
    """The payload's unit takes the place of the catalogue's; without a time the one of receipt is used."""
    run.publish("a", {"readings": {"pm25": {"value": 0.05, "unit": "mg/m3"}}})
    run.settle()
    row = run.get("latest", station="A")["rows"][0]
    steps = _steps(run, "A", row[3])
    assert (steps["convert"]["unit_sent"], steps["convert"]["unit_from"]) == ("mg/m3", "payload")
    assert steps["convert"]["value"] == pytest.approx(50)
    assert steps["decode"]["time"] == "received"


def test_a_time_without_a_zone_is_read_in_the_stations_zone(run: Running) -> None:
    """Local time in the payload: the reading is found again, with the zone that was taken."""
    at = run.now_ms() // 1000 * 1000
    local = datetime.fromtimestamp(at / 1000, ZoneInfo("Asia/Shanghai")).replace(tzinfo=None).isoformat()
    run.publish("a", {"time": local, "readings": {"pm25": 44}})
    run.settle()
    steps = _steps(run, "A", at)
    assert steps["locate"]["timezone"] == "Asia/Shanghai"
    assert steps["convert"]["agrees"] is True


def test_a_reading_that_was_driven_again(run: Running) -> None:
    """Its bytes are those of the row that drove it again, with the shift that made its time possible."""
    at = run.now_ms() // 1000 * 1000
    run.publish("a", {"time": at + 3_600_000, "readings": {"pm25": 12}})
    run.settle()
    ident = run.get("quarantine")["rows"][0]["id"]
    assert run.post("quarantine/redrive", {"ids": [ident], "shift_s": -3600}).status_code == 202
    run.settle()
    steps = _steps(run, "A", at)
    assert (steps["raw"]["shift_s"], f"0:{steps['raw']['redrive_of']}") == (-3600, ident)
    assert steps["convert"]["agrees"] is True


def test_the_figure_and_the_alert_that_a_reading_entered(run: Running) -> None:
    """An hour that is over has its figure; an alert that the reading opened is named."""
    at = run.now_ms()
    run.send("a", at, pm25=180)
    hour = at // 3_600_000 * 3_600_000 - 7_200_000
    run.send("a", hour, pm25=20)
    run.settle()
    until(lambda: bool(run.get("figures", station="A", property="pm25")["rows"]), "figures")
    figure = _steps(run, "A", hour)["figures"]["figures"][0]
    assert (figure["start_ms"], figure["value"], figure["reason"]) == (hour, 20, "too_few")
    (opened,) = _steps(run, "A", at)["alerts"]["transitions"]
    assert (opened["state"], opened["limit"]) == ("open", 150)


def test_a_sentinel_is_missing(run: Running) -> None:
    """The number that means "no value" is told as such."""
    at = run.now_ms()
    run.send("b", at, dust=-999)
    run.settle()
    steps = _steps(run, "B", at)
    assert (steps["convert"]["missing"], steps["convert"]["stored"]) == (True, None)
    assert [check["check"] for check in steps["quality"]["checks"] if not check["passed"]] == ["missing"]


def test_a_corrected_reading_is_walked_back_to_its_own_bytes(run: Running) -> None:
    """A spike is decided by the next message: the bytes shown are the reading's own, the cause is named beside."""
    at = run.now_ms() - 3 * MINUTE_MS
    for i, value in enumerate((10, 300, 11)):
        run.send("a", at + i * MINUTE_MS, pm25=value)
    run.settle()
    steps = _steps(run, "A", at + MINUTE_MS)
    assert '"pm25":300' in steps["raw"]["payload_text"]
    assert steps["quality"]["flag"] == 4
    assert [c["check"] for c in steps["quality"]["checks"] if not c["passed"]] == ["spike"]
    (correction,) = steps["corrections"]["rows"]
    assert (correction["cause"], correction["old"]["flag"], correction["new"]["flag"]) == ("quality_decided", 1, 4)
    assert '"pm25":11' in correction["by"]["payload_text"]
    assert {t["state"] for t in steps["alerts"]["transitions"]} == {"open", "withdrawn"}


def test_a_reading_that_is_shown_before_it_is_stored(run: Running) -> None:
    """The page may ask as soon as it sees a value: the answer waits for the commit."""
    stream = run.stream()
    at = run.now_ms()
    run.send("a", at, pm25=31)
    stream.until(lambda name, _: name == "readings")
    assert _steps(run, "A", at)["convert"]["value"] == 31


def test_bytes_that_raw_no_longer_holds(run: Running) -> None:
    """The store still tells what it knows, and the raw step says that the bytes are gone."""
    at = run.now_ms()
    run.send("a", at, pm25=31)
    run.settle()
    run.send("a", at + 1, pm25=32)
    run.settle()
    run.service.bus.trim("raw", 0, run.service.bus.end("raw", 0))
    steps = _steps(run, "A", at)
    assert steps["raw"]["held"] is False
    assert list(steps) == ["raw", "quality", "store", "figures", "alerts"]


def test_what_was_never_measured(run: Running) -> None:
    """There is nothing to explain, and the answer says so at once."""
    assert run.get("explain", station="A", property="pm25", time_ms=0) == {"found": False, "reading": None, "steps": []}
