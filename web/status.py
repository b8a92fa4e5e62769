"""Whether all is well: never ``ok`` while something is lost or does not move."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import qingtu
from qingtu.clock import SECOND
from qingtu.records import PROCESSED, RAW
from sinks.follow import BATCH_S

if TYPE_CHECKING:
    from qingtu.app import Service
    from web.live import LiveView

STARTING_S: Final = 30
"""So long after the start a missing connection or a backlog is no fault yet."""
STALLED_S: Final = 10.0
"""A stage that has work and did not move for so long is stalled."""
_KEEP_S: Final = 0.5
_NO_BROKER: Final = ("none", "未连接代理", "no broker")


@dataclass(slots=True)
class _Seen:
    """Where a stage was, and since when (monotonic seconds, and the clock's µs)."""

    offset: int
    since_s: float
    moved_us: int | None


class Monitor:
    """Watches the stages and says how the service is. ``look`` must be called every few seconds; any thread may.

    Args:
        service: what is watched.
        live: for rates and latency.
    """

    def __init__(self, service: Service, live: LiveView) -> None:
        self._service = service
        self._live = live
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._state = "starting"
        self._since_us = service.started_us
        self._answer: tuple[float, dict[str, Any]] | None = None

    def look(self) -> dict[str, Any]:
        """Look at everything and return the status; an answer younger than half a second is given again."""
        with self._lock:
            now_s = time.monotonic()
            if self._answer is None or now_s - self._answer[0] > _KEEP_S:
                self._answer = (now_s, self._look(now_s))
            return self._answer[1]

    def ready(self) -> list[str]:
        """Return what is not ready yet; empty when messages are taken and worked on."""
        waits = [] if self._live.alive() and not self._live.problem else ["live"]
        waits += [worker.name for worker in self._service.workers if worker.problem]
        gateway = self._service.gateway
        if self._service.options.gateway and (gateway is None or not gateway.status()["connected"]):
            waits.append("gateway")
        return waits

    # ------------------------------------------------------------------------------------------------- looking

    def _look(self, now_s: float) -> dict[str, Any]:
        service, live = self._service, self._live
        now_us = service.clock.now_us()
        stages, stalled = self._stages(now_s, now_us)
        report = service.ledger.report()
        problems = [*service.problems(), *self._connection()]
        problems += [_problem(f"stalled_{name}", f"{name} 停滞: 有待处理数据但 {STALLED_S:.0f} 秒没有前进",
                              f"{name} does not move: it has work and stood still for {STALLED_S:.0f} s")
                     for name in stalled]  # fmt: skip
        if not report["balanced"]:
            problems.append(_problem("ledger", "台账不平: 请运行 qingtu ledger --audit",
                                     "the ledger does not balance: run qingtu ledger --audit"))  # fmt: skip
        problems += self._disk()
        if live.problem or not live.alive():
            reason = live.problem or "its thread has ended"
            problems.append(_problem("live", f"实时视图受阻: {reason}", f"live view: {reason}"))
        state = self._judge(problems, stages, now_us)
        if state != self._state:
            self._state, self._since_us = state, now_us
        broker, p99 = service.broker, live.latency_p99_ms()
        kind, zh, en = (broker.kind, broker.note_zh, broker.note_en) if broker is not None else _NO_BROKER
        return {
            "state": state,
            "since_ms": self._since_us // 1000,
            "now_ms": now_us // 1000,
            "problems": problems,
            "rate_per_s": round(live.rate_per_s(), 2),
            "latency_p99_ms": None if p99 is None else round(p99, 1),
            "broker": {"kind": kind, "zh": zh, "en": en},
            "in_flight": report["messages"]["in_flight"],
            "quarantined": report["messages"]["quarantined"],
            "catalogue": service.catalogue.version,
            "version": qingtu.__version__,
            "started_ms": service.started_us // 1000,
            "ledger": {**report["messages"], "balanced": report["balanced"]},
            "demonstration": service.catalogue.demonstration,
            "stages": stages,
            "streams_open": len(live.fanout),
        }

    def _judge(self, problems: list[dict[str, str]], stages: list[dict[str, Any]], now_us: int) -> str:
        young = now_us - self._service.started_us < STARTING_S * SECOND
        gateway = self._service.gateway
        connected = gateway is None or gateway.status()["connected"]
        if young and self._state == "starting" and (not connected or any(s["lag_frames"] > 100 for s in stages)):
            return "starting"
        return "degraded" if problems else "ok"

    def _connection(self) -> list[dict[str, str]]:
        gateway = self._service.gateway
        if gateway is None:
            return []
        status = gateway.status()
        if status["connected"] or status["problems"]:
            return []
        at = status["address"]
        return [_problem("gateway", f"未连接到代理 {at}, 正在重试", f"not connected to the broker at {at}, retrying")]

    def _disk(self) -> list[dict[str, str]]:
        settings = self._service.settings
        free = shutil.disk_usage(settings.data).free >> 20
        floor = settings.bus.free_floor_mb
        if free >= floor:
            return []
        zh = f"磁盘剩余 {free} MiB, 低于下限 {floor} MiB: 暂停接收, 请清理"
        en = f"only {free} MiB free, floor is {floor} MiB: no messages are taken, free some space"
        return [_problem("disk", zh, en)]

    def _stages(self, now_s: float, now_us: int) -> tuple[list[dict[str, Any]], list[str]]:
        """Return name, lag in frames and last movement of each stage, and the names of those that stand still."""
        service, bus = self._service, self._service.bus
        where = [("process", service.process.next_offset, bus.end(RAW, 0))]
        for stage in service.stores:
            done = service.store.progress(stage.stream, stage.partition).next_offset
            where.append((f"store-{stage.stream}", done, bus.end(stage.stream, stage.partition)))
        where.append(("derive", service.derive.next_offset, bus.end(PROCESSED, 0)))
        where += [("live", at, bus.end(s, p)) for (s, p), at in self._live.next_offset.items() if s == PROCESSED]
        where += [(stage.name, stage.next_offset, bus.end(stage.stream, 0)) for stage in service.followers.stages]
        patience = {stage.name: STALLED_S + BATCH_S for stage in service.followers.stages}
        stages, stalled = [], []
        for name, done, end in where:
            seen = self._seen.get(name)
            lag = max(0, end - done)
            if seen is None:
                seen = self._seen[name] = _Seen(done, now_s, None)
            elif done != seen.offset:
                self._seen[name] = seen = _Seen(done, now_s, now_us)
            elif not lag:
                seen.since_s = now_s
            elif now_s - seen.since_s > patience.get(name, STALLED_S):
                stalled.append(name)
            moved = None if seen.moved_us is None else seen.moved_us // 1000
            stages.append({"name": name, "lag_frames": lag, "last_ms": moved})
        return stages, stalled


def _problem(key: str, zh: str, en: str) -> dict[str, str]:
    return {"key": key, "zh": zh, "en": en}
