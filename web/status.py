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

if TYPE_CHECKING:
    from qingtu.app import Service
    from web.live import LiveView

STARTING_S: Final = 30
"""So long after the start a missing connection or a backlog is no fault yet."""
STALLED_S: Final = 10.0
"""A stage that has work and did not move for so long is stalled."""
_KEEP_S: Final = 0.5
TICKS_MISSED: Final = 3.5
"""A route that no gateway heard at so many ticks is told."""
_NO_BROKER: Final = ("none", "未连接代理", "no broker")
_ELSEWHERE: Final = ("elsewhere", "网关在其他进程", "the gateway is another process")


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
        waits += [name for turns in self._service.turns for name in turns.problems]
        gateway = self._service.gateway
        taking = self._service.options.gateway and "gateway" in self._service.options.stages
        if taking and (gateway is None or not gateway.status()["connected"]):
            waits.append("gateway")
        return waits

    # ------------------------------------------------------------------------------------------------- looking

    def _look(self, now_s: float) -> dict[str, Any]:
        service, live = self._service, self._live
        now_us = service.clock.now_us()
        stages, stalled = self._stages(now_s, now_us)
        report = service.ledger.summary()
        problems = [*service.problems(), *self._connection()]
        problems += [_problem(f"stalled_{name}", f"{name} 停滞: 有待处理数据但 {STALLED_S:.0f} 秒没有前进",
                              f"{name} does not move: it has work and stood still for {STALLED_S:.0f} s")
                     for name in stalled]  # fmt: skip
        if not report["balanced"]:
            problems.append(_problem("ledger", "台账不平: 请运行 qingtu ledger --audit",
                                     "the ledger does not balance: run qingtu ledger --audit"))  # fmt: skip
        problems += self._disk()
        problems += self._heartbeat(now_us)
        if live.problem or not live.alive():
            reason = live.problem or "its thread has ended"
            problems.append(_problem("live", f"实时视图受阻: {reason}", f"live view: {reason}"))
        state = self._judge(problems, stages, now_us)
        if state != self._state:
            self._state, self._since_us = state, now_us
        broker, p99 = service.broker, live.latency_p99_ms()
        none = _NO_BROKER if "gateway" in service.options.stages else _ELSEWHERE
        kind, zh, en = (broker.kind, broker.note_zh, broker.note_en) if broker is not None else none
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
            "outage": service.outage.as_json(),
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

    def _heartbeat(self, now_us: int) -> list[dict[str, str]]:
        """Where the gateway is another process, tell when its clock does not come through any more."""
        service, settings = self._service, self._service.settings
        if "gateway" in service.options.stages:
            return []
        heard = self._live.heard_us
        if not heard and now_us - service.started_us < STARTING_S * SECOND:
            return []
        before = now_us - round(TICKS_MISSED * settings.figures.tick_s * SECOND)
        deaf = [route.name for route in settings.routes if heard.get(route.name, 0) < before]
        if not deaf:
            return []
        zh = f"没有网关在正常收听 {', '.join(deaf)}: 网关、代理、总线或处理进程停了, 或正在补收积压"
        en = (
            f"no gateway hears {', '.join(deaf)}: it, broker, bus or processor stands still, or a backlog is worked off"
        )
        return [_problem("not_heard", zh, en)]

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
        # Copies: a partition may be given to another process at any time.
        where = [(_named("process", p), s.next_offset, bus.end(RAW, p)) for p, s in [*service.process.stages.items()]]
        if "process" not in service.options.stages:
            # Elsewhere; whether it moves shows in what has come through to the store.
            through = ((p, service.store.progress(PROCESSED, p).origin + 1) for p in range(bus.partitions))
            where += [(_named("process", p), done, bus.end(RAW, p)) for p, done in through]
        for stage in service.stores:
            done = service.store.progress(stage.stream, stage.partition).next_offset
            name = _named(f"store-{stage.stream}", stage.partition)
            where.append((name, done, bus.end(stage.stream, stage.partition)))
        derive = [*service.derive.stages.items()]
        where += [(_named("derive", p), s.next_offset, bus.end(PROCESSED, p)) for p, s in derive]
        live = self._live.next_offset.items()
        where += [(_named("live", p), at, bus.end(s, p)) for (s, p), at in live if s == PROCESSED]
        where += [
            (stage.name, stage.next_offset, bus.end(stage.stream, stage.partition))
            for stage in service.followers.stages
        ]
        patience = {stage.name: STALLED_S + stage.batching.wait_s for stage in service.followers.stages}
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


def _named(name: str, partition: int) -> str:
    """Name a stage; where there is one partition its number says nothing."""
    return f"{name}-{partition}" if partition else name


def _problem(key: str, zh: str, en: str) -> dict[str, str]:
    return {"key": key, "zh": zh, "en": en}
