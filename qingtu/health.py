"""What is wrong with a service now: asked by its status, its page and its heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qingtu.contracts import Reporting
from qingtu.errors import halves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qingtu.app import Service

Problem = dict[str, str]
"""key, zh, en."""


def problems(service: Service) -> list[Problem]:
    """Return what is wrong; empty when all is well."""
    out = [_problem(name, f"{name} 受阻: {why}", f"{name}: {halves(why)[1]}") for name, why in _stuck(service)]
    out += [
        _problem(
            f"lost_{name}", f"{name} 缺失 {lost} 帧: 读取前已过期", f"{name} lost {lost} frames: they expired unread"
        )
        for name, lost in _lost(service)
        if lost
    ]
    out += service.followers.problems()
    if isinstance(service.bus, Reporting) and (reason := service.bus.status()["problem"]):
        out.append(_problem("bus", f"Kafka 受阻: {reason}", f"Kafka: {halves(reason)[1]}"))
    if service.gateway is not None:
        out += service.gateway.status()["problems"]
    return out + service.outage.problems()


def _stuck(service: Service) -> Iterator[tuple[str, str]]:
    """Yield name and reason of everything that tries again and again."""
    for worker in (*service.workers, service.ticker, service.watcher, service.counter, *service.followers.workers):
        if worker.problem:
            yield worker.name, worker.problem
    for turns in service.turns:
        yield from [*turns.problems.items()]


def _lost(service: Service) -> Iterator[tuple[str, int]]:
    for lanes in (service.process, service.derive):
        for loop in [*lanes.stages.values()]:
            yield loop.name, loop.lost
    for stage in service.stores:
        yield stage.name, stage.lost


def _problem(key: str, zh: str, en: str) -> Problem:
    return {"key": key, "zh": zh, "en": en}
