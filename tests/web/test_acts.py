"""Acts and what follows from them: alerts, quarantine, back-up, reload; and faults that are told."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ingest.raw import raw_frame, tick_row
from qingtu.app import Options, Service
from qingtu.catalogue import load_catalogue
from qingtu.errors import RetryLater, StartError
from qingtu.settings import Settings
from qingtu.store.duckdb import DuckStore
from tests.waiting import until
from tests.web.conftest import HOSTILE, Running, running, small_catalogue
from web import words
from web.guard import CSP
from web.server import WebServer

if TYPE_CHECKING:
    from pathlib import Path

MINUTE_MS = 60_000


def test_acts_need_the_token_of_a_person(run: Running) -> None:
    """401 without, 403 with a wrong one; nothing is written in either case."""
    before = run.service.bus.end("raw", 0)
    acts = (
        "alerts/x/acknowledge", "alerts/x/comment", "alerts/mute", "alerts/maintenance", "quarantine/redrive", "reload",
        "audit", "backup", "override",
    )  # fmt: skip
    for path in acts:
        for header, status, code in (
            ({"X-None": ""}, 401, "no_token"),
            ({"Authorization": "Basic eDp5"}, 401, "no_token"),
            ({"Authorization": "Bearer"}, 401, "no_token"),
            ({"Authorization": "Bearer nonsense"}, 403, "bad_token"),
        ):
            answer = run.http.post(f"/api/{path}", json={"note": "x"}, headers=header)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path
    rows = [run.service.raw_row(offset << 16) for offset in range(before, run.service.bus.end("raw", 0))]
    assert all(row["kind"] == 1 for row in rows), "only ticks came in between"


def test_mutes_and_maintenance_name_the_person_and_hide_nothing(run: Running) -> None:
    """A muted alert opens, marked with who and until when; unknown words and empty mutes are refused."""
    stream = run.stream()
    assert run.post("alerts/mute", {"for_s": 60}).status_code == 422
    assert run.post("alerts/mute", {"for_s": 60, "rule": "nothing"}).status_code == 404
    for district in ("abc", "999999", "3702020"):
        refused = run.post("alerts/mute", {"for_s": 60, "district": district})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_district")
    assert run.post("alerts/maintenance", {"for_s": 60, "station": "nowhere"}).status_code == 404
    answer = run.post("alerts/mute", {"for_s": 3600, "station": "A", "note": "烟花"})
    assert (answer.status_code, answer.json()["who"]) == (202, "operator")
    run.send("a", run.now_ms(), pm25=180)
    opened = stream.until(lambda name, _: name == "alerts")["alerts"][0]
    assert (opened["state"], opened["evidence"]["muted"]["note"]) == ("open", "烟花")
    assert opened["evidence"]["muted"]["until_us"] == answer.json()["until_ms"] * 1000


def test_what_is_quiet_can_be_ended_when_it_has_left_the_catalogue(tmp_path: Path) -> None:
    """Mutes of a station, a district and a rule, and maintenance; beginning any of them anew stays refused."""
    folder = tmp_path / "stations"
    folder.mkdir()
    city = "networks: [{id: n, zh: 网, en: Net, interval_s: 60}]\nstations:\n"
    station = (
        "  - {id: %s, zh: 站, en: S, network: n, domain: air, kind: air, position: [120.3, 36.1], district: '%s',\n"
        "     devices: [{id: d%s, properties: [pm25]}]}\n"
    )
    rule = "rules: [{id: %s, kind: silence, zh: 静, en: Quiet, after_s: 86400}]\n"
    (folder / "all.yaml").write_text(city + station % ("A", "370202", 1) + rule % "old", encoding="utf-8")
    scopes = ({"station": "A"}, {"district": "370202"}, {"rule": "old"}, {"station": "A", "rule": "old"})
    with running(tmp_path / "data", load_catalogue(folder), {"catalogue": folder}) as run:
        for scope in scopes:
            assert run.post("alerts/mute", {"for_s": 3600, **scope}).status_code == 202
        assert run.post("alerts/maintenance", {"for_s": 3600, "station": "A"}).status_code == 202
        until(lambda: len(run.get("alerts/mutes")["mutes"]) == 4 and run.get("alerts/mutes")["maintenance"], "all")
        (folder / "all.yaml").write_text(city + station % ("B", "370203", 2) + rule % "new", encoding="utf-8")
        assert run.post("reload").status_code == 202
        for scope in scopes:
            assert run.post("alerts/mute", {"for_s": 60, **scope}).status_code == 404
        assert run.post("alerts/mute", {"for_s": 0, "station": "A", "district": "370202"}).status_code == 404
        assert run.post("alerts/maintenance", {"for_s": 60, "station": "A"}).status_code == 404
        for scope in scopes:
            assert run.post("alerts/mute", {"for_s": 0, **scope}).status_code == 202
        assert run.post("alerts/maintenance", {"for_s": 0, "station": "A"}).status_code == 202
        until(lambda: not run.get("alerts/mutes")["mutes"], "no mute")
        until(lambda: not run.get("alerts/mutes")["maintenance"], "no maintenance")
        assert run.get("quarantine")["counts"] == []
        assert run.post("alerts/mute", {"for_s": 0, "station": "A"}).status_code == 404


def test_an_alert_is_acknowledged_commented_and_ends(run: Running) -> None:
    """Each act names the person, comes back on the stream, and is refused once the alert has ended."""
    at = run.now_ms()
    stream = run.stream()
    run.send("a", at, pm25=180)
    opened = stream.until(lambda name, _: name == "alerts")["alerts"][0]
    assert (opened["state"], opened["level"], opened["level_key"], opened["value"]) == ("open", 3, "orange", 180)
    assert (opened["rule_zh"], opened["unit_label"], opened["limit"]) == ("尘", "µg/m³", 150)
    ident = opened["id"]
    answer = run.post(f"alerts/{ident}/acknowledge", {"note": " 已派人 "})
    assert (answer.status_code, answer.json()["who"]) == (202, "operator")
    seen = stream.until(lambda name, data: name == "alerts" and data["alerts"][0]["state"] == "acknowledged")
    acknowledged = seen["alerts"][0]
    assert (acknowledged["who"], acknowledged["note"], acknowledged["value"]) == ("operator", "已派人", 180)
    assert acknowledged["changed_ms"] >= opened["changed_ms"]
    assert acknowledged["evidence"] == opened["evidence"] != {}
    assert run.post(f"alerts/{ident}/comment", {"note": "到场"}).status_code == 202
    stream.until(lambda name, data: name == "alerts" and data["alerts"][0]["note"] == "到场")
    assert run.post(f"alerts/{ident}/comment", {"note": " "}).status_code == 422
    run.settle()
    assert run.get("alerts")["alerts"][0]["note"] == "到场"
    run.send("a", at + MINUTE_MS, pm25=20)
    stream.until(lambda name, data: name == "alerts" and data["alerts"][0]["state"] == "resolved")
    run.settle()
    assert run.get("alerts")["alerts"] == []
    ended = run.get("alerts", state="all")["alerts"][0]
    assert (ended["state"], ended["level"], ended["who"]) == ("resolved", 3, "operator")
    states = [t["state"] for t in run.get(f"alerts/{ident}")["transitions"]]
    assert states == ["open", "acknowledged", "comment", "resolved"]
    assert run.post(f"alerts/{ident}/acknowledge", {"note": ""}).status_code == 409
    assert run.post("alerts/nobody/acknowledge", {"note": ""}).status_code == 404


def test_a_person_sets_a_flag_and_again(run: Running) -> None:
    """Flag, bit, name and reason show in series and explain; a later one takes its place; the value stays."""
    at = run.now_ms() - MINUTE_MS
    run.send("a", at, pm25=30)
    run.settle()
    asked = {"station": "A", "property": "pm25", "time_ms": at}
    for flag, reason in ((4, " 采样管脱落 "), (1, "核实无误")):
        answer = run.post("override", {**asked, "flag": flag, "reason": reason})
        assert (answer.status_code, answer.json()["who"]) == (202, "operator")
        run.settle()
        found = run.get("explain", **asked)
        assert (found["reading"]["value"], found["reading"]["flag"], found["reading"]["tests"]) == (30, flag, 1 << 16)
        told = next(step for step in found["steps"] if step["step"] == "override")["data"]
        (quality,) = [step for step in found["steps"] if step["step"] == "quality"]
        assert quality["en"] == f"flag {flag} (set by a person): no check failed"
        assert (told["stands"], told["rows"][-1]["reason"], told["rows"][-1]["who"]) == (
            True,
            reason.strip(),
            "operator",
        )
    assert [row["flag"] for row in told["rows"]] == [4, 1]
    corrections = next(step for step in found["steps"] if step["step"] == "corrections")["data"]["rows"]
    assert [(row["cause"], row["old"]["flag"], row["new"]["flag"]) for row in corrections] == [
        ("override", 1, 4), ("override", 4, 1),
    ]  # fmt: skip
    assert run.post("override", {**asked, "time_ms": at + 1, "flag": 4, "reason": "x"}).status_code == 404
    assert run.post("override", {**asked, "flag": 9, "reason": "x"}).status_code == 422
    assert run.post("override", {**asked, "flag": 4, "reason": " "}).status_code == 422


def test_the_store_tells_alerts_as_the_live_view_does(run: Running) -> None:
    """After the commit both give the same rows, whatever was done by hand in between."""
    run.send("a", run.now_ms() - MINUTE_MS, pm25=160)
    run.send("b", run.now_ms() - MINUTE_MS, dust=0.3)
    run.settle()
    for alert, name in zip(run.get("alerts")["alerts"], ("acknowledge", "comment"), strict=True):
        assert run.post(f"alerts/{alert['id']}/{name}", {"note": name}).status_code == 202
    run.send("a", run.now_ms(), pm25=100)
    run.settle()
    live = run.context.live.active_alerts()
    stored = run.service.store.alerts(active=True)
    assert len(live) == 2
    for mine, theirs in zip(live, stored, strict=True):
        assert {k: str(mine[k]) for k in theirs} == {k: str(v) for k, v in theirs.items()}


def test_quarantine_shows_the_bytes_and_sends_them_again(run: Running) -> None:
    """A message of a wrong clock is listed, shown as text and hex, driven again with a shift, and then is stored."""
    at = run.now_ms()
    run.publish("a", {"time": at + 86_400_000, "readings": {"pm25": 12}})
    run.publish("ghost", b'<b>{"readings"\xff')
    run.settle()
    listed = run.get("quarantine")
    assert {(c["reason"], c["count"]) for c in listed["counts"]} == {("clock_wrong", 1), ("bad_json", 1)}
    ghost = next(row for row in listed["rows"] if row["device"] == "ghost")
    shown = run.get(f"quarantine/{ghost['id']}")
    assert shown["payload_text"] == '<b>{"readings"\\xff'
    assert bytes.fromhex(shown["payload_hex"]) == b'<b>{"readings"\xff'
    assert shown["advice_zh"]
    assert shown["redriven"] is None
    wrong = run.get("quarantine", reason="clock_wrong")["rows"]
    assert len(wrong) == 1
    answer = run.post("quarantine/redrive", {"ids": [wrong[0]["id"]], "reason": None, "shift_s": -86_400})
    assert (answer.status_code, answer.json()) == (202, {"count": 1})
    run.settle()
    assert run.get("series", station="A", property="pm25")["values"] == [12]
    assert run.get(f"quarantine/{wrong[0]['id']}")["redriven"]["outcome"] == "stored"
    assert run.get("ledger")["messages"]["quarantined"] == 1
    gone = run.post("quarantine/redrive", {"ids": [wrong[0]["id"]]})
    ident, error = wrong[0]["id"], gone.json()["error"]
    assert (gone.status_code, error["zh"]) == (404, f"没有找到: {ident} 不在隔离区")
    assert error["en"] == f"{ident} is not in quarantine (1 of 1 are not)"
    assert run.post("quarantine/redrive", {"ids": ["x"]}).status_code == 404
    assert run.post("quarantine/redrive", {"all": True, "shift_s": 1e12}).status_code == 422


def test_what_is_refused_again_is_shown_with_its_newest_reason(tmp_path: Path) -> None:
    """An unknown device is added without one of its fields: the field is the reason then, everywhere."""
    folder = tmp_path / "stations"
    folder.mkdir()
    network = "networks: [{id: n, zh: 网, en: Net, interval_s: 60}]\nstations:\n"
    station = "  - {id: S%s, zh: 站, en: S, network: n, domain: air, kind: air, position: [120.3, 36.1],\n"
    devices = "     devices: [{id: %s, properties: [pm25]}]}\n"
    (folder / "all.yaml").write_text(network + (station + devices) % ("A", "a"), encoding="utf-8")
    with running(tmp_path / "data", load_catalogue(folder), {"catalogue": folder}) as run:
        run.publish("x", {"time": run.now_ms(), "readings": {"pm25": 12, "weird": 1}})
        run.settle()
        (first,) = run.get("quarantine")["rows"]
        (folder / "more.yaml").write_text("stations:\n" + (station + devices) % ("X", "x"), encoding="utf-8")
        assert run.post("reload").status_code == 202
        assert run.post("quarantine/redrive", {"reason": "unknown_device"}).json() == {"count": 1}
        run.settle()
        answer = run.get("quarantine")
        assert [(c["reason"], c["count"]) for c in answer["counts"]] == [("unknown_property", 1)]
        assert [(r["id"], r["reason"]) for r in answer["rows"]] == [(first["id"], "unknown_property")]
        assert run.get("quarantine", reason="unknown_device")["rows"] == []
        shown = run.get(f"quarantine/{first['id']}")
        assert (shown["id"], shown["reason"], shown["advice_en"]) == (
            first["id"], "unknown_property", words.REASONS["unknown_property"][3],
        )  # fmt: skip
        before = [(old["reason"], old["reason_en"], old["detail"]) for old in shown["before"]]
        assert before == [("unknown_device", words.REASONS["unknown_device"][1], first["detail"])]
        assert run.service.store.quarantine()[0]["position"] > int(first["id"].partition(":")[2])
        driven = run.service.store.quarantine()[0]["position"]
        assert run.get(f"quarantine/0:{driven}") == shown
        assert run.post("quarantine/redrive", {"reason": "unknown_device"}).json() == {"count": 0}
        assert run.post("quarantine/redrive", {"reason": "unknown_property"}).json() == {"count": 1}


def test_driving_everything_again_must_be_said(run: Running) -> None:
    """An empty body, or two choices at once, drives nothing; ``all`` does."""
    run.publish("ghost", b"{", b"[")
    run.settle()
    for body in ({}, {"ids": None}, {"all": False}, {"all": True, "reason": "bad_json"}, {"shift_s": 5}):
        answer = run.post("quarantine/redrive", body)
        assert answer.status_code == 422, body
        assert "all: true" in answer.json()["error"]["en"]
    assert run.post("quarantine/redrive", {"all": True}).json() == {"count": 2}


def test_a_reason_that_nobody_knows_is_told_with_what_is_allowed(run: Running) -> None:
    """A mistyped code must not look like an empty quarantine."""
    asked = run.http.get("/api/quarantine", params={"reason": "nope"})
    driven = run.post("quarantine/redrive", {"reason": "nope"})
    for answer in (asked, driven):
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_reason")
        assert "unknown_device" in answer.json()["error"]["en"]
    assert run.get("quarantine", reason="unknown_device")["rows"] == []


def test_ledger_and_status_balance(run: Running) -> None:
    """The sum of the strip is that of the ledger; nothing is in flight when all is stored."""
    at = run.now_ms()
    run.send("a", at, pm25=12)
    run.send("a", at, pm25=12)
    run.publish("ghost", {"readings": {"pm25": 1}})
    run.settle()
    ledger = run.get("ledger")
    assert ledger["balanced"] is True
    assert ledger["messages"] == {
        "received": 3, "stored": 1, "duplicate": 1, "quarantined": 1, "ignored": 0, "in_flight": 0,
    }  # fmt: skip
    assert sum(row["received"] for row in ledger["by"]) == 3
    assert all(row["hour_ms"] % 3_600_000 == 0 for row in ledger["by"])
    status = run.context.monitor.look()
    assert status["problems"] == []
    assert status["broker"]["kind"] == "none"
    assert {stage["name"] for stage in status["stages"]} == {
        "process", "derive", "live", "store-processed", "store-alerts", "store-rejected", "store-figures",
    }  # fmt: skip
    audit = run.post("audit").json()
    assert audit["agrees"] is True


def test_backup_is_a_store_that_opens(run: Running) -> None:
    """A back-up while running holds store, bus and catalogues, and is refused under a name that is taken."""
    run.send("a", run.now_ms(), pm25=12)
    run.settle()
    made = run.post("backup", {"name": "monday"})
    assert made.status_code == 201
    folder = run.service.settings.data / "backups" / "monday"
    store = DuckStore(folder / "qingtu.duckdb")
    try:
        assert store.count("readings") == 1
    finally:
        store.close()
    assert {"bus/raw.db", "bus/derived.db", "qingtu.duckdb"} < set(made.json()["files"])
    assert not (folder / "tokens").exists()
    assert run.post("backup", {"name": "monday"}).status_code == 409
    assert run.post("backup", {"name": "../up"}).status_code == 422


@pytest.mark.parametrize("names", [["one"] * 4, ["one", "two", "three", "four"]])
def test_backups_asked_for_at_once_spare_each_other(run: Running, names: list[str]) -> None:
    """One is made; who asks meanwhile is told so, and what was made is whole."""
    run.send("a", run.now_ms(), pm25=12)
    run.settle()
    begin = threading.Barrier(len(names))

    def ask(name: str) -> httpx.Response:
        begin.wait()
        return run.post("backup", {"name": name})

    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(ask, names))
    made = [a.json() for a in answers if a.status_code == 201]
    refused = [a.json()["error"] for a in answers if a.status_code == 409]
    assert len(made) + len(refused) == len(names), [a.text for a in answers]
    assert made
    assert {error["code"] for error in refused} <= {"backup_running", "backup_exists"}
    backups = run.service.settings.data / "backups"
    assert {path.name for path in backups.iterdir()} == {one["name"] for one in made}
    for one in made:
        store = DuckStore(backups / one["name"] / "qingtu.duckdb")
        assert store.count("readings") == 1
        store.close()


def test_what_a_killed_backup_left_is_removed(tmp_path: Path) -> None:
    """At the next start, and before the next back-up."""
    left, whole = tmp_path / "data" / "backups" / "monday.part", tmp_path / "data" / "backups" / "sunday"
    for folder in (left, whole):
        folder.mkdir(parents=True)
        (folder / "qingtu.duckdb").touch()
    with running(tmp_path / "data", small_catalogue()) as run:
        assert [path.name for path in whole.parent.iterdir()] == ["sunday"]
        left.mkdir()
        assert run.post("backup", {"name": "tuesday"}).status_code == 201
        assert {path.name for path in whole.parent.iterdir()} == {"sunday", "tuesday"}


def test_reload_of_a_wrong_catalogue_changes_nothing(tmp_path: Path) -> None:
    """409 with every problem's file and line; the old catalogue stays in use."""
    folder = tmp_path / "stations"
    folder.mkdir()
    (folder / "a.yaml").write_text("networks: [{id: n, zh: 网, en: Net}]\nstations: [{id: X}]\n", encoding="utf-8")
    with running(tmp_path / "data", small_catalogue(), {"catalogue": folder}) as run:
        before = run.service.catalogue.version
        answer = run.post("reload")
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert error["code"] == "bad_catalogue"
        assert any(problem["line"] == 2 for problem in error["problems"])
        assert run.get("catalogue")["version"] == before


def test_a_silent_station_is_told(run: Running) -> None:
    """Heard two days ago, and its route was heard since: a silence alert stands, and the station is silent."""
    day = 86_400_000
    at = run.now_ms() - 2 * day
    run.publish("a", {"time": at, "readings": {"pm25": 12}}, received_ms=at)
    run.settle()
    frame = raw_frame(
        [tick_row(run.now_ms() * 1000, {"native": (at + 1) * 1000})], gateway="g", catalogue=None,
        clock_us=run.now_ms() * 1000,
    )  # fmt: skip
    run.service.bus.append("raw", 0, [frame]).result()
    run.settle()
    until(lambda: len(run.get("alerts")["alerts"]) == 3, "three alerts")
    found = {f["id"]: f["properties"] for f in run.get("stations")["features"]}
    assert (found["A"]["state"], found["A"]["alert_level"], found["A"]["unacknowledged"]) == ("silent", 3, True)
    assert found["A"]["heard_ms"] == at
    assert found["C"]["state"] == "unheard"
    alert = next(a for a in run.get("alerts")["alerts"] if a["station"] == "A")
    assert (alert["property"], alert["value"], alert["rule_en"]) == (None, None, "Quiet")


def test_events_are_listed(run: Running) -> None:
    """An event of a device stands in the list with its attributes, and makes its station heard."""
    at = run.now_ms()
    run.publish("c", {"events": [{"kind": "door", "level": 1, "time": at, "attributes": {"open": HOSTILE}}]})
    run.settle()
    (found,) = run.get("events")["events"]
    assert (found["station"], found["kind"], found["time_ms"], found["attributes"]) == (
        "C",
        "door",
        at,
        {"open": HOSTILE},
    )
    states = {f["id"]: f["properties"]["state"] for f in run.get("stations")["features"]}
    assert states["C"] == "ok"


def test_a_fault_of_ours_tells_no_details(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 with the usual shape and headers; what went wrong is in the log alone."""

    def broken() -> Any:
        raise ValueError("payload with a secret")

    monkeypatch.setattr(run.service.ledger, "report", broken)
    answer = run.http.get("/api/ledger")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"] == CSP


def test_a_store_or_bus_that_refuses_now_is_503(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be tried again says so, and when."""

    def later(*_: Any) -> Any:
        raise RetryLater("空间不足 / only 1 MiB free", retry_after_s=7)

    run.send("a", run.now_ms(), pm25=160)
    run.settle()
    ident = run.get("alerts")["alerts"][0]["id"]
    monkeypatch.setattr(run.service, "command", later)
    answer = run.post(f"alerts/{ident}/acknowledge", {"note": ""})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    error = answer.json()["error"]
    assert (error["code"], error["en"]) == ("retry_later", "try again later: only 1 MiB free")
    assert error["zh"].endswith("空间不足 / only 1 MiB free"), "details stand in the English half"


def test_only_the_newest_of_very_many_are_told(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range beyond the limit gives its newest readings, and says that it was cut."""
    monkeypatch.setattr("web.api.readings.SERIES_ROWS", 2)
    at = run.now_ms() - 3 * MINUTE_MS
    for i in range(3):
        run.send("a", at + i * MINUTE_MS, pm25=10 + i)
    run.settle()
    found = run.get("series", station="A", property="pm25")
    assert (found["values"], found["truncated"]) == ([11, 12], True)


def test_a_taken_port_is_said_with_the_way_out(run: Running, tmp_path: Path) -> None:
    """One line, both languages, and what to set."""
    port = httpx.URL(run.url).port
    other = Service(
        Settings.model_validate({"data": tmp_path / "other", "web": {"port": port}}),
        Options(gateway=False),
        catalogue=small_catalogue(),
    )
    try:
        with pytest.raises(StartError) as refused:
            WebServer(other).start()
    finally:
        other.close()
    assert "\n" not in str(refused.value)
    assert f"QINGTU_WEB__PORT={(port or 0) + 1}" in str(refused.value)


def test_the_address_and_a_token_are_left_for_the_command_line(run: Running) -> None:
    """``service.json`` names the running service."""
    left = json.loads((run.service.settings.data / "service.json").read_text())
    assert left["url"] == run.url
    assert left["token"] in run.service.tokens
