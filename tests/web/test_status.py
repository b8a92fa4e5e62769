"""The status is never ok while something is lost or does not move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qingtu.app import Options, Service
from qingtu.settings import Settings
from sinks.follow import Batching
from tests.waiting import until
from tests.web.conftest import Running, running, small_catalogue
from web import status
from web.context import Context

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge at the second look instead of after seconds."""
    monkeypatch.setattr(status, "STALLED_S", 0.0)
    monkeypatch.setattr(status, "_KEEP_S", -1.0)
    monkeypatch.setattr(status, "STARTING_S", 0)


@pytest.mark.usefixtures("_at_once")
def test_a_stage_that_stands_still_degrades(run: Running) -> None:
    """With work before it and no movement a stage is named; when it moves again all is well."""
    monitor = run.context.monitor
    run.settle()
    run.service.workers[0].stop()
    run.send("a", run.now_ms(), pm25=12)
    monitor.look()
    look = monitor.look()
    assert look["state"] == "degraded"
    assert "stalled_process" in [problem["key"] for problem in look["problems"]]
    assert look["in_flight"] == 1
    while run.service.process.step():
        pass
    run.settle()
    monitor.look()
    assert "stalled_process" not in [problem["key"] for problem in monitor.look()["problems"]]


@pytest.mark.usefixtures("_at_once")
def test_a_sink_shows_its_lag_and_may_let_a_batch_wait(tmp_path: Path) -> None:
    """Frames that wait for company are no fault; longer than a batch may wait they are."""
    with running(tmp_path / "data", small_catalogue(), {"sinks": ["parquet"]}) as run:
        run.send("a", run.now_ms(), pm25=12)
        run.settle()
        monitor = run.context.monitor
        monitor.look()
        look = monitor.look()
        (stage,) = [stage for stage in look["stages"] if stage["name"] == "sink-parquet"]
        assert stage["lag_frames"] > 0
        assert "stalled_sink-parquet" not in [problem["key"] for problem in look["problems"]]
        for follower in run.service.followers.stages:
            follower.batching = Batching(wait_s=0)
        assert "stalled_sink-parquet" in [problem["key"] for problem in monitor.look()["problems"]]
        text = run.http.get("/metrics").text
        assert 'qingtu_stage_lag_frames{stage="sink-parquet"}' in text
        assert 'qingtu_sink_lost_frames{sink="sink-parquet"} 0.0' in text


@pytest.mark.usefixtures("_at_once")
def test_a_full_disk_degrades(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the floor no messages are taken, and the status says so with the way out."""
    monkeypatch.setattr("web.status.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 20})())
    look = run.context.monitor.look()
    assert (look["state"], [p["key"] for p in look["problems"]]) == ("degraded", ["disk"])


@pytest.mark.usefixtures("_at_once")
def test_a_fault_of_the_live_view_degrades_and_heals(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that cannot be read is shown as a problem of the live view, and is tried again."""
    live = run.context.live

    def broken() -> bool:
        raise ValueError("this frame")

    monkeypatch.setattr(live, "step", broken)
    run.send("a", run.now_ms(), pm25=12)
    until(lambda: bool(live.problem), "a problem")
    look = run.context.monitor.look()
    assert look["state"] == "degraded"
    assert "this frame" in look["problems"][-1]["en"]
    assert run.context.monitor.ready() == ["live"]
    assert run.http.get("/readyz").status_code == 503
    monkeypatch.undo()
    run.settle()
    assert run.get("latest")["rows"][0][4] == 12


def test_a_service_that_waits_for_its_broker_is_starting_then_degraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens where the broker should be: not ready, starting at first, a named problem after that."""
    settings = Settings.model_validate(
        {"data": tmp_path / "data", "web": {"port": 0}, "mqtt": {"host": "127.0.0.1", "port": 1}}
    )
    service = Service(settings, Options(), catalogue=small_catalogue())
    context = Context.of(service)
    monkeypatch.setattr(status, "_KEEP_S", -1.0)
    try:
        service.start()
        context.start()
        assert context.monitor.look()["state"] == "starting"
        assert context.monitor.ready() == ["gateway"]
        monkeypatch.setattr(status, "STARTING_S", 0)
        look = context.monitor.look()
        assert look["state"] == "degraded"
        assert look["broker"]["kind"] == "external"
        assert all({"key", "zh", "en"} == set(problem) for problem in look["problems"])
    finally:
        context.stop()
        service.stop()
        service.close()
