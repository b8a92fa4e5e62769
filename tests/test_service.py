"""The composition root without a broker: raw rows go in at the bus, everything else is as it runs."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson
import pytest
import structlog
from structlog.testing import capture_logs

from ingest.raw import RawBuilder, Source
from qingtu.app import Options, Service
from qingtu.clock import DAY, HOUR, MINUTE, SECOND, ManualClock, SystemClock
from qingtu.errors import ConfigError, NotFound, RetryLater, StartError
from qingtu.folder import DataFolder
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, Kind, decode, encode
from qingtu.settings import load_settings
from qingtu.store.duckdb import DuckStore
from qingtu.worker import Worker
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.clock import Clock

T0 = 1_795_392_000_000_000
STATIONS = """
networks:
  - {id: n, zh: 网, en: Net, interval_s: 60}
rules:
  - {id: dust, kind: threshold, zh: 尘, en: Dust, property: pm25, levels: {blue: 75, red: 250}, hysteresis: 5}
stations:
  - {id: A, zh: 站, en: A, network: n, domain: air, kind: air, position: [120.3, 36.1],
     devices: [{id: a, properties: [pm25]}]}
"""
MENDED = "  - {id: X, zh: 站, en: X, network: n, domain: air, kind: air, position: [120.4, 36.1],\n     devices: [{id: x, properties: [pm25, o3]}]}\n"  # noqa: E501 - one block of YAML


class Scene:
    """A data folder, a catalogue folder, and services that are opened on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        (folder / "stations").mkdir()
        self.write(STATIONS)
        self._open: list[Service] = []

    def write(self, text: str) -> None:
        """Write the catalogue."""
        (self.folder / "stations" / "all.yaml").write_text(text, encoding="utf-8")

    def service(self, clock: Clock | None = None, **more: str) -> Service:
        """Make a service; ticks are far apart unless told otherwise."""
        environ = {
            "QINGTU_DATA": str(self.data),
            "QINGTU_CATALOGUE": str(self.folder / "stations"),
            "QINGTU_STORE__COMMIT_MS": "5",
            "QINGTU_FIGURES__TICK_S": "60",
            "QINGTU_BUS__FREE_FLOOR_MB": "1",
            **more,
        }
        made = Service(load_settings(Path(os.devnull), environ=environ), Options(gateway=False), clock=clock)
        self._open.append(made)
        return made

    def stop(self, service: Service) -> dict[str, Any]:
        """Stop cleanly; return the ledger."""
        service.stop()
        report = service.ledger.report()
        service.close()
        self._open.remove(service)
        return report

    def end(self) -> None:
        """End what a failed test left."""
        for service in self._open:
            service.stop(timeout_s=1)
            service.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """One scene."""
    made = Scene(tmp_path)
    yield made
    made.end()


def send(service: Service, device: str, *bodies: str, received_us: int | None = None) -> int:
    """Put messages of a device on raw as the gateway does; return the offset of their frame."""
    builder = RawBuilder("test")
    source = Source(f"qt/n/{device}/up", "n", "native", device)
    now = service.clock.now_us() if received_us is None else received_us
    for body in bodies:
        payload = body.encode()
        builder.append((source, payload, 1, 0, None, now, 1, len(payload), "", None))
    return service.bus.append(RAW, 0, [builder.build(service.catalogue.version, now)]).result()[0]


def body(service: Service, seq: int, ago_s: float = 0, **values: float) -> str:
    """A native payload of some seconds ago."""
    readings = ",".join(f'"{name}":{value}' for name, value in values.items())
    return (
        f'{{"time":{(service.clock.now_us() - round(ago_s * SECOND)) // 1000},"seq":{seq},"readings":{{{readings}}}}}'
    )


def commands(service: Service) -> list[str]:
    """Names of all commands on raw, in order."""
    found = service.bus.read(RAW, 0, 0, 1000)
    rows = [row for record in found for row in decode(record.data).sections["rows"].to_pylist()]
    return [orjson.loads(row["payload"])["name"] for row in rows if row["kind"] == Kind.COMMAND]


def test_alerts_are_committed_with_readings_or_in_a_lull(scene: Scene) -> None:
    """Else they would be in the way of readings, which come at even distances; when none come, they wait no longer."""
    clock = ManualClock(T0)
    service = scene.service(clock)
    service.configure()
    _to_end(service.process.step)
    storing = service.storing
    assert storing is not None
    storing.step()
    clock.advance(10 * SECOND)
    _to_end(storing.step)
    alerts = next(stage for stage in service.stores if stage.stream == ALERTS)

    def step(seconds: float) -> tuple[int, int]:
        clock.advance(round(seconds * SECOND))
        storing.step()
        return service.stores[0].behind(), alerts.behind()

    send(service, "a", body(service, 0, pm25=300))  # raises an alert
    _to_end(service.process.step)
    storing.lull_at = math.inf
    assert step(0) == (1, 1)  # taken up
    assert step(0.01) == (0, 0)  # readings are due, and what waits of alerts goes along
    frame = decode(service.bus.read(ALERTS, 0, 0)[-1].data)
    alone = encode({**frame.header, "origin": [0, 1 << 20]}, frame.sections)
    service.bus.append(ALERTS, 0, [alone]).result()
    storing.lull_at = math.inf
    assert step(0) == (0, 1)
    assert step(10) == (0, 1)  # due, and readings may come any moment
    storing.lull_at = 0.0  # none came for a while
    assert step(0) == (0, 0)
    scene.stop(service)


def test_a_clean_stop_leaves_nothing_in_flight(scene: Scene) -> None:
    """Also when messages came right before it; the next start finds everything."""
    service = scene.service()
    service.start()
    for frame in range(20):
        send(service, "a", *(body(service, frame * 50 + i, 2000 - 50 * frame - i, pm25=i) for i in range(50)))
    report = scene.stop(service)
    assert report["balanced"]
    assert report["messages"] == {
        "received": 1000, "stored": 1000, "duplicate": 0, "quarantined": 0, "ignored": 0, "in_flight": 0,
    }  # fmt: skip
    service = scene.service()
    assert service.audit()["agrees"]
    assert service.audit()["ledger"]["messages"] == report["messages"]
    assert commands(service) == ["configure"]
    service.start()
    scene.stop(service)
    service = scene.service()
    assert commands(service) == ["configure", "configure"]


def test_quarantine_mend_reload_redrive(scene: Scene) -> None:
    """What passes now leaves quarantine; what does not stays; the ledger balances and its audit agrees throughout."""
    service = scene.service()
    service.start()
    send(service, "a", body(service, 1, pm25=20), body(service, 2, 60, pm25=20, o3=1))
    send(service, "x", body(service, 3, pm25=30, o3=2), "{not json")
    assert service.drain(20)
    audit = service.audit()
    assert (audit["agrees"], audit["ledger"]["balanced"]) == (True, True)
    assert audit["ledger"]["messages"]["quarantined"] == 3
    counts = {row["reason"]: row["count"] for row in service.store.quarantine_counts()}
    assert counts["unknown_property"] == 1
    assert sum(counts.values()) == 3
    old = service.catalogue.version
    scene.write(STATIONS + MENDED)
    assert service.reload() != old
    with pytest.raises(NotFound, match="0:7 is not in quarantine"):
        service.redrive([(0, 7)], "Li")
    assert service.redrive(None, "Li") == 3
    assert service.drain(20)
    audit = service.audit()
    assert (audit["agrees"], audit["ledger"]["balanced"]) == (True, True)
    assert audit["ledger"]["messages"] == {
        "received": 4, "stored": 2, "duplicate": 0, "quarantined": 2, "ignored": 0, "in_flight": 0,
    }  # fmt: skip
    assert audit["ledger"]["readings"]["stored"] == 4
    table = service.store.latest().to_pylist()
    assert {(r["station"], r["property"], r["value"]) for r in table} == {
        ("A", "pm25", 20.0), ("X", "pm25", 30.0), ("X", "o3", 2.0),
    }  # fmt: skip
    moved = [row for row in service.store.quarantine() if row["device"] == "x" and row["outcome"] == 1]
    assert len(moved) == 1
    assert moved[0]["moved_by"] > moved[0]["position"]
    assert service.redrive(None, "Li", reason="unknown_property") == 1
    assert commands(service) == ["configure", "configure", "redrive", "redrive"]
    assert scene.stop(service)["balanced"]


def test_a_wrong_catalogue_keeps_the_old_one(scene: Scene) -> None:
    """Reload raises with what is wrong, and nothing changes."""
    service = scene.service()
    scene.write(STATIONS.replace("kind: threshold", "kind: thresholds"))
    with pytest.raises(ConfigError, match="rules"):
        service.reload()
    assert "A" in service.catalogue.stations
    assert service.bus.end(RAW, 0) == 0


def test_commands_and_reload_on_alerts(scene: Scene) -> None:
    """Acknowledged by name; a rule that leaves the catalogue closes its alerts."""
    service = scene.service()
    service.start()
    send(service, "a", body(service, 1, pm25=300))
    assert service.drain(20)
    (alert,) = service.store.alerts(active=True)
    assert (alert["state"], alert["level"]) == ("open", 4)
    service.command("acknowledge", "Li", {"alert": alert["alert"], "note": "seen"})
    assert service.drain(20)
    (alert,) = service.store.alerts(active=True)
    assert (alert["state"], alert["who"], alert["note"]) == ("acknowledged", "Li", "seen")
    service.command("acknowledge", "Li", {"alert": "no such alert"})
    scene.write(STATIONS.replace("id: dust", "id: dirt"))
    service.reload()
    report = scene.stop(service)
    assert report["balanced"]
    service = scene.service()
    assert service.store.alerts(active=True) == []
    assert isinstance(service.store, DuckStore)
    with service.store.cursor() as db:
        assert db.execute("SELECT reason FROM rejected WHERE kind = 2").fetchall() == [("unknown_alert",)]


def test_ticks_make_figures(scene: Scene) -> None:
    """Ticks go into raw by themselves, and the hour that is over gets its figure."""
    service = scene.service(QINGTU_FIGURES__TICK_S="0.05", QINGTU_FIGURES__GRACE_S="0")
    service.start()
    hour = (service.clock.now_us() // HOUR - 1) * HOUR
    ago = (service.clock.now_us() - hour) / SECOND
    send(service, "a", *(body(service, i, ago - 60 * i, pm25=i) for i in range(60)))
    seen = [0]
    while service.store.progress(FIGURES, 0).origin < 0:
        service.bus.wait(FIGURES, seen, 1)
        assert not service.problems()
    (figure,) = service.store.figures("A", "pm25", hour, hour + HOUR)
    assert (figure["value"], figure["count"], figure["valid"]) == (29.5, 60, True)
    scene.stop(service)


def test_a_folder_in_use_is_said_in_one_line(scene: Scene) -> None:
    """It names the process; after the first one closed, the folder is free again."""
    first = scene.service()
    with pytest.raises(StartError, match=f"process {os.getpid()}") as caught:
        scene.service()
    assert "\n" not in str(caught.value)
    scene.stop(first)
    scene.service()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """One line with the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="--data"):
        DataFolder(tmp_path / "file" / "data")


def test_what_refuses_at_the_start_leaves_the_folder_free(scene: Scene) -> None:
    """A broken database is told in one line; with another one the same process can start."""
    scene.data.mkdir()
    (scene.data / "qingtu.duckdb").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StartError, match=r"qingtu\.duckdb"):
        scene.service()
    (scene.data / "qingtu.duckdb").unlink()
    scene.service()


def test_a_secret_that_is_too_short_is_refused(scene: Scene) -> None:
    """With an empty key everybody could undo pseudonyms."""
    secret = scene.folder / "secret"
    for text in ("", "short\n"):
        secret.write_text(text)
        with pytest.raises(StartError, match="at least 16"):
            scene.service(QINGTU_SECRET_FILE=str(secret))
    secret.write_text("long enough to be a key\n")
    assert scene.service(QINGTU_SECRET_FILE=str(secret)).key == b"long enough to be a key"


def _to_end(step: Callable[[], bool]) -> None:
    while step():
        pass


@pytest.mark.parametrize("committed_first", [True, False])
def test_housekeeping_trims_only_what_is_done_with(scene: Scene, committed_first: bool) -> None:
    """Raw: applied, counted and in saved state; processed: committed and in derive's saved state; and old enough."""
    clock = ManualClock(T0)
    service = scene.service(clock, QINGTU_BUS__RAW_KEEP_H="5", QINGTU_BUS__DERIVED_KEEP_H="2")
    service.configure()
    for hour in range(10):
        send(service, "a", body(service, hour, pm25=hour))
        clock.advance(HOUR)

    def keep() -> tuple[int, int]:
        clock.advance(2 * HOUR)
        service._housekeep()
        return service.bus.start(RAW, 0), service.bus.start(PROCESSED, 0)

    clock.advance(DAY)
    assert keep() == (0, 0)  # nothing was processed
    _to_end(service.process.step)
    assert keep() == (0, 0)  # not stored
    stage = service.stores[0]
    stage.step()  # read, but not committed
    assert stage.behind() > 0
    service.process.save()
    _to_end(service.derive.step)
    assert keep() == (0, 0)
    if not committed_first:
        service.derive.save()
        assert keep() == (0, 0)
    stage.commit()
    if committed_first:
        assert keep()[1] == 0  # derive has read it, and would read it again after a kill
        service.derive.save()
    raw, processed = keep()
    assert raw == service.bus.end(RAW, 0) - 1
    assert processed == service.bus.end(PROCESSED, 0) - 1  # the newest frame stays
    report = service.ledger.report()
    assert report["balanced"]
    assert report["messages"]["stored"] == 10


def test_young_frames_stay(scene: Scene) -> None:
    """Only what is older than it is to be kept goes."""
    clock = ManualClock(T0)
    service = scene.service(clock, QINGTU_BUS__RAW_KEEP_H="5")
    service.configure()
    for hour in range(10):
        send(service, "a", body(service, hour, pm25=hour))
        clock.advance(HOUR)
    _to_end(service.process.step)
    service.process.save()
    clock.advance(MINUTE)
    service._settle()
    service._housekeep()
    assert service.bus.start(RAW, 0) == 7  # configure, hours 0 to 5; the frame of hour 6 is four hours old
    with pytest.raises(NotFound, match="5 h"):
        service.raw_row(3 << 16)
    assert service.raw_row(8 << 16)["device"] == "a"


def test_old_readings_expire(scene: Scene) -> None:
    """By age of the reading; the audit knows."""
    clock = ManualClock(T0)
    service = scene.service(clock, QINGTU_STORE__KEEP_DAYS="2", QINGTU_PROCESS__BACKFILL_LIMIT_D="1")
    service.configure()
    send(service, "a", body(service, 1, pm25=1))
    clock.advance(4 * DAY)
    send(service, "a", body(service, 2, pm25=2))
    _to_end(service.process.step)
    service._settle()
    service._housekeep()
    assert service.store.count("readings") == 1
    assert service.audit()["agrees"]


def test_a_worker_goes_on_after_errors_and_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a step or a wait raises: the thread lives, the problem is shown until a step succeeds."""
    monkeypatch.setattr("qingtu.worker._AFTER_ERROR_S", 0.001)
    raised: list[Exception] = [ValueError("broken"), RetryLater("disk full", retry_after_s=0.2)]
    shown: list[str] = []
    done, waits = threading.Event(), [OSError("no wait")]

    def step() -> bool:
        shown.append(worker.problem)
        if raised:
            raise raised.pop(0)
        return False

    def wait(seconds: float) -> None:
        if waits:
            raise waits.pop()
        if worker.problem == "":
            done.set()
        threading.Event().wait(min(seconds, 0.01))

    worker = Worker("test", step, wait)
    with capture_logs() as logs:
        worker._log = structlog.get_logger()
        worker.start()
        assert done.wait(20)
        worker.stop()
    # WARN means that nothing was lost: what the stage works on is still on the bus.
    levels = [(log["event"], log["log_level"]) for log in logs]
    assert levels == [("stage_failed", "warning"), ("waiting", "warning"), ("stage_failed", "warning")]
    assert shown[:4] == ["", "ValueError: broken", "disk full", "OSError: no wait"]


def test_what_a_worker_meets_is_a_problem_of_the_service(scene: Scene) -> None:
    """The status names the stage in both languages; the system clock is the default."""
    service = scene.service()
    assert isinstance(service.clock, SystemClock)
    assert service.problems() == []
    service.workers[1].problem = "store: disk full"
    (problem,) = service.problems()
    assert problem["key"] == "store"
    assert "disk full" in problem["zh"]
    assert "disk full" in problem["en"]


def test_a_store_that_cannot_be_had_is_refused(scene: Scene, tmp_path: Path) -> None:
    """Never silently another one: one line with the way out, and the folder is free again."""
    with pytest.raises(StartError, match="qingtu setup"):
        scene.service(QINGTU_STORE__KIND="influx", QINGTU_INFLUX__TOKEN_FILE=str(tmp_path / "none"))
    (tmp_path / "token").write_text("t", encoding="utf-8")
    token, nobody = str(tmp_path / "token"), "http://127.0.0.1:9"
    with pytest.raises(StartError, match="does not answer"):
        scene.service(QINGTU_STORE__KIND="influx", QINGTU_INFLUX__TOKEN_FILE=token, QINGTU_INFLUX__URL=nobody)
    scene.service()


def test_a_bus_that_was_lost_is_told_and_ends(scene: Scene) -> None:
    """The store is ahead of raw: nothing goes in silently, the status says so, and a stop is a stop."""
    service = scene.service()
    service.start()
    for number in range(3):
        send(service, "a", body(service, number, pm25=number))
    report = scene.stop(service)
    assert report["messages"]["stored"] == 3
    shutil.rmtree(scene.data / "bus")
    service = scene.service()
    service.start()
    send(service, "a", body(service, 9, pm25=9))
    until(lambda: any("was lost or replaced" in problem["en"] for problem in service.problems()), "it is told")
    assert any("总线丢失" in problem["zh"] and "总线" not in problem["en"] for problem in service.problems())
    began = time.monotonic()
    service.stop(timeout_s=2)
    assert time.monotonic() - began < 60, "it must end"


def test_frames_that_expired_unread_are_told(scene: Scene) -> None:
    """A stage that was away for too long goes on behind the gap, and says what is missing."""
    service = scene.service()
    service.configure()
    service.process.step()
    service.process.save()
    for number in range(3):
        send(service, "a", body(service, number, pm25=number))
    service.bus.trim(RAW, 0, 3)
    _to_end(service.process.step)
    assert {problem["key"] for problem in service.problems()} == {"lost_process-0"}
    assert "2 frames" in service.problems()[0]["en"]


def test_a_stop_does_not_wait_for_a_step_that_never_ends(scene: Scene) -> None:
    """As in an outage of Kafka, in which a stage waits for its frames to be durable."""
    service = scene.service()
    service.start()
    held = threading.Event()

    def hold() -> None:
        with service.workers[0].between(60):
            held.set()
            released.wait(60)

    released = threading.Event()
    threading.Thread(target=hold, daemon=True).start()
    assert held.wait(5)
    began = time.monotonic()
    with capture_logs() as logs:
        service.stop(timeout_s=1)
    released.set()
    assert time.monotonic() - began < 45
    assert "stopped_behind" in {line["event"] for line in logs}


def test_an_audit_does_not_wait_for_figures(scene: Scene) -> None:
    """An evaluation of much that came late takes as long as it takes: it changes nothing of what is recounted."""
    service = scene.service()
    service.start()
    send(service, "a", body(service, 1, pm25=1))
    assert service.drain(20)
    (derive,) = [worker for worker in service.workers if worker.name == "derive"]
    with derive.between(20):
        audit = service.audit()
    assert audit["agrees"]
    assert audit["ledger"]["messages"]["stored"] == 1


def test_an_outage_shows_before_its_budget_is_used_up(scene: Scene) -> None:
    """What waits on raw, and for how long, against how long raw is kept."""
    clock = ManualClock(T0)
    service = scene.service(clock, QINGTU_BUS__RAW_KEEP_H="10")
    service.configure()
    service.process.step()
    send(service, "a", body(service, 1, pm25=1))
    assert service.outage.as_json()["behind_s"] == 0
    clock.advance(6 * HOUR)
    assert service.outage.as_json()["behind_s"] == 6 * 3600
    assert [problem["key"] for problem in service.problems()] == ["outage"]
    clock.advance(3 * HOUR)
    assert [problem["key"] for problem in service.problems()] == ["outage_severe"]
    _to_end(service.process.step)
    assert service.problems() == []


SYSTEM_RULES = """
rules:
  - {id: budget, kind: system, zh: 预算, en: Budget, fact: outage_used, levels: {orange: 50, red: 80}, hysteresis: 5}
  - {id: books, kind: system, zh: 账, en: Books, fact: ledger_off, levels: {red: 1}}
"""


def _alerts(service: Service) -> list[tuple[str, int, str]]:
    """All that the pass said on raw, stored: rule, level, state, in order."""
    _to_end(service.process.step)
    for stage in service.stores:
        stage.step()
        stage.commit()
    rows = [row for alert in service.store.alerts(active=False) for row in service.store.alert(alert["alert"])]
    return [(row["rule"], row["level"], row["state"]) for row in sorted(rows, key=lambda row: row["revision"])]


def test_the_outage_budget_is_an_alert(scene: Scene) -> None:
    """Told when it crosses a level and when it is free again, not at every look; decided by the pass, from raw."""
    (scene.folder / "stations" / "system.yaml").write_text(SYSTEM_RULES, encoding="utf-8")
    clock = ManualClock(T0)
    service = scene.service(clock, QINGTU_BUS__RAW_KEEP_H="10")
    service.configure()
    _to_end(service.process.step)
    send(service, "a", body(service, 1, pm25=1))
    for hours in (0, 2, 4, 1, 2, 0):  # 0, 20, 60, 70, 90, 90 %
        clock.advance(hours * HOUR)
        service._facts.step()
    end = service.bus.end(RAW, 0)
    service._facts.step()
    assert service.bus.end(RAW, 0) == end, "what did not cross a bound is not told again"
    assert _alerts(service) == [("budget", 3, "open"), ("budget", 4, "open")]
    service._facts.step()
    assert _alerts(service)[2:] == [("budget", 0, "resolved")]


def test_a_ledger_that_does_not_balance_is_an_alert(scene: Scene) -> None:
    """A book that was altered on the disk is red, with the difference; mended, the alert ends."""
    (scene.folder / "stations" / "system.yaml").write_text(SYSTEM_RULES, encoding="utf-8")
    clock = ManualClock(T0)
    service = scene.service(clock)
    service.configure()
    send(service, "a", body(service, 1, pm25=1))
    assert _alerts(service) == []
    service._facts.step()
    assert _alerts(service) == []
    for change, wanted in (("+ 2", ("books", 4, "open")), ("- 2", ("books", 0, "resolved"))):
        scene.stop(service)
        with duckdb.connect(str(scene.data / "qingtu.duckdb")) as db:
            db.execute(f"UPDATE ledger SET stored = stored {change}")
        service = scene.service(clock)
        service._facts.step()
        assert _alerts(service)[-1] == wanted
