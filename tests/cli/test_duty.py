"""What people do about alerts and figures on the command line, while the service runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from paho.mqtt import publish
from paho.mqtt.enums import MQTTProtocolVersion
from rich.cells import cell_len

from tests.cli.conftest import Running
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

STATION = "QD-AQ-001"
ABOVE = {"QINGTU_FIGURES__TICK_S": "0.5"}
CITY = """
networks: [{id: n, zh: 网, en: N, interval_s: 60}]
stations:
  - id: QD-AQ-001
    zh: 站
    en: S
    network: n
    domain: air
    kind: air
    position: [120.3, 36.1]
    district: "370202"
    devices: [{id: s, properties: [pm25]}]
rules:
  - {id: mute-me, kind: silence, zh: 静, en: Quiet, after_s: 0.5}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of one station that never sends: its silence alert opens by itself."""
    folder = tmp_path_factory.mktemp("duty")
    (folder / "stations").mkdir()
    (folder / "stations" / "one.yaml").write_text(CITY, encoding="utf-8")
    found = Running(folder)
    found.more |= ABOVE | {"QINGTU_CATALOGUE": str(folder / "stations")}
    found.start()
    try:
        yield found
    finally:
        found.kill()
        found.end_broker()


def test_mute_names_who_and_when_and_is_ended_with_zero(service: Running) -> None:
    """Listed with person, scope, reason and end, for people and as JSON; 0 takes it away."""
    ran = service.ask("alerts", "mute", "--rule", "mute-me", "--for", "2h", "--note", "烟花")
    assert (ran.code, ran.out.startswith("静默至 / muted until: ")) == (0, True), ran.err
    until(lambda: service.ask("alerts", "mutes", "--json").json["mutes"], "the mute")
    (mute,) = service.ask("alerts", "mutes", "--json").json["mutes"]
    assert (mute["rule"], mute["station"], mute["who"], mute["note"]) == ("mute-me", "", "operator", "烟花")
    end = datetime.fromtimestamp(mute["until_ms"] / 1000, UTC)
    assert timedelta(hours=1, minutes=58) < end - datetime.now(UTC) < timedelta(hours=2, seconds=1)
    shown = service.ask("alerts", "mutes").out
    assert all(word in shown for word in ("mute-me", "operator", "烟花"))
    assert service.ask("alerts", "mute", "--rule", "mute-me", "--for", "0").code == 0
    until(lambda: service.ask("alerts", "mutes", "--json").json["mutes"] == [], "its end")


def test_maintenance_is_listed_and_ended(service: Running) -> None:
    """The station, from when to when, the person and the reason."""
    ran = service.ask("alerts", "maintenance", STATION, "--for", "30m", "--note", "probe")
    assert (ran.code, ran.out.startswith("维护至 / under maintenance until: ")) == (0, True), ran.err
    until(lambda: service.ask("alerts", "mutes", "--json").json["maintenance"], "the maintenance")
    (work,) = service.ask("alerts", "mutes", "--json").json["maintenance"]
    assert (work["station"], work["who"], work["note"]) == (STATION, "operator", "probe")
    assert work["until_ms"] - work["from_ms"] == pytest.approx(30 * 60_000, abs=2000)
    assert service.ask("alerts", "maintenance", STATION, "--for", "0").code == 0
    until(lambda: service.ask("alerts", "mutes", "--json").json["maintenance"] == [], "its end")


def test_wrong_words_are_refused_in_one_line(service: Running) -> None:
    """A mute of nothing, of what is not there, and a time that is none; nothing is written."""
    ran = service.ask("alerts", "mute", "--for", "2h")
    assert (ran.code != 0, ran.err.count("\n"), "a station, a district or a rule" in ran.err) == (True, 1, True)
    places = (("--rule", "nothing"), ("--station", "nowhere"), ("--district", "abc"), ("--district", "370203"))
    for words in (*(("mute", *place) for place in places), ("maintenance", "nowhere")):
        ran = service.ask("alerts", *words, "--for", "2h")
        assert (ran.code, ran.err.count("\n")) == (4, 1), words
    assert "没有站点在此区" in service.ask("alerts", "mute", "--district", "abc", "--for", "2h").err
    assert service.ask("alerts", "mute", "--district", "370202", "--for", "0").code == 0
    assert service.ask("alerts", "mute", "--rule", "mute-me", "--for", "soon").code == 2
    assert service.ask("alerts", "mutes", "--json").json == {"mutes": [], "maintenance": []}


def test_a_comment_stands_at_the_alert_with_the_person(service: Running) -> None:
    """It changes no state; an empty one and one at no alert are refused."""
    until(lambda: service.ask("alerts", "--json").json, "the silence alert")
    (alert,) = service.ask("alerts", "--json").json
    assert alert["rule"] == "mute-me"
    ran = service.ask("alerts", "comment", alert["id"], "已派人")
    assert (ran.code, ran.out.strip()) == (0, f"已备注 / noted: {alert['id']}"), ran.err
    until(lambda: service.ask("alerts", "--json").json[0]["note"] == "已派人", "the note")
    assert service.ask("alerts", "--json").json[0]["state"] == "open"
    assert service.ask("alerts", "comment", alert["id"], " ").code != 0
    assert service.ask("alerts", "comment", "none", "x").code == 4


@pytest.mark.parametrize("width", [0, 80, 100])
def test_the_list_of_alerts_names_rule_and_station(service: Running, width: int) -> None:
    """Whole words on a terminal of 80 columns, too; what is piped has one line an alert."""
    until(lambda: service.ask("alerts", "--json").json, "the silence alert")
    (alert,) = service.ask("alerts", "--json").json
    lines = service.ask("alerts", width=width).out.splitlines()
    assert all(any(word in line for line in lines) for word in ("规则 rule", alert["id"], "mute-me", STATION, "open"))
    assert width or len(lines) == 2
    assert not width or max(map(cell_len, lines)) <= width


def test_corrections_of_nothing_are_none(service: Running) -> None:
    """An empty list is exit code 0; a time that is none is a wrong command line."""
    ran = service.ask("corrections", "--json")
    assert (ran.code, ran.json) == (0, [])
    assert (
        service.ask("corrections", "--station", STATION, "--since", "7d").out.strip().endswith("0 条更正 corrections")
    )
    assert service.ask("corrections", "--since", "whenever").code == 2
    assert service.ask("corrections", "--limit", "0").code == 2


def test_corrections_tell_what_changed_and_because_of_what(service: Running) -> None:
    """A published hour mean changes when a person fails one of its readings: old side, new side, and the cause."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    times = [hour + timedelta(minutes=minute) for minute in range(60)]
    body = [{"time": round(t.timestamp() * 1000), "readings": {"pm25": 10 + t.minute % 2}} for t in times]
    at, version = service.ports[0], MQTTProtocolVersion.MQTTv5
    publish.single("qt/n/s/up", json.dumps(body), qos=1, hostname="127.0.0.1", port=at, protocol=version)
    asked = ("corrections", "--station", STATION, "--what", "hour", "--json")
    until(lambda: service.ask("explain", STATION, "pm25", times[1].isoformat()).code == 0, "the reading")
    until(
        lambda: "falls into the period of" in service.ask("explain", STATION, "pm25", times[1].isoformat()).out,
        "the hour mean",
    )
    assert service.ask(*asked).json == []
    override = ("override", STATION, "pm25", times[1].isoformat(), "--flag", "4", "--reason", "probe off")
    assert service.ask(*override).code == 0
    until(lambda: service.ask(*asked).json, "the correction")
    (found,) = service.ask(*asked).json
    assert (found["old"]["value"], found["old"]["count"]) == (10.5, 60)
    assert (found["new"]["value"], found["new"]["count"]) == (pytest.approx((30 * 10 + 29 * 11) / 59), 59)
    assert found["because"]
    shown = service.ask("corrections", "--since", "1h", "--what", "hour").out
    assert "1 条更正 corrections" in shown
    assert "10.5 (60/60)" in shown


def test_a_message_that_left_quarantine_is_marked(service: Running) -> None:
    """The list and the message itself tell whether a re-drive worked: in quarantine before, stored afterwards."""
    ahead = datetime.now(UTC) + timedelta(hours=2)
    body = json.dumps({"time": round(ahead.timestamp() * 1000), "readings": {"pm25": 12}})
    at, version = service.ports[0], MQTTProtocolVersion.MQTTv5
    publish.single("qt/n/s/up", body, qos=1, hostname="127.0.0.1", port=at, protocol=version)
    until(lambda: service.ask("rejected", "list", "--json").json["rows"], "the message")
    (row,) = service.ask("rejected", "list", "--json").json["rows"]

    def told() -> list[str]:
        return [service.ask("rejected", *words).out for words in (("list",), ("show", row["id"]))]

    assert all("隔离中 in quarantine" in text for text in told())
    assert service.ask("rejected", "redrive", row["id"], "--shift", "-2h").code == 0
    until(lambda: service.ask("rejected", "list", "--json").json["counts"] == [], "its way out")
    assert all("重投后 re-driven: 入库 stored" in text and "隔离中" not in text for text in told())
