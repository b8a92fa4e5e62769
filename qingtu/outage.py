"""How long what is away may stay away: feeds the outage budget with what this process measures."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any, Final

from ingest.brokers import QUEUE_BYTES
from qingtu.budget import BrokerQueue, LoadMeter, declared_load, outage_budget, problems
from qingtu.clock import SECOND
from qingtu.records import RAW

if TYPE_CHECKING:
    from qingtu.app import Service
    from qingtu.budget import OutageBudget

_DISK_BYTES: Final = 600.0
"""Of a message on raw and what is made of it, in small frames; see :func:`qingtu.budget.declared_load`."""


class Outage:
    """The outage budget of one service. ``measure`` at each tick; the rest from any thread.

    Args:
        service: whose gateway, bus and settings are looked at.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._meter = LoadMeter()

    def measure(self) -> None:
        """Take the gateway's counters."""
        gateway = self._service.gateway
        if gateway is not None:
            status = gateway.status()
            hearing = bool(gateway.hearing())
            self._meter.add(time.monotonic(), status["taken"], status["taken_bytes"], hearing=hearing)

    def problems(self) -> list[dict[str, str]]:
        """Return what is used up so far that an operator must know; see :func:`qingtu.budget.problems`."""
        return problems(self._budget(), self._away_s(), self._behind_s())

    def used(self) -> float:
        """Return the part of the budget that is used up, 0 to 1 and beyond."""
        return self._budget().used(self._away_s(), self._behind_s())[0]

    def as_json(self) -> dict[str, Any]:
        """Return the budget and its use in the form of the API."""
        return self._budget().as_json(self._away_s(), self._behind_s())

    def _budget(self) -> OutageBudget:
        service = self._service
        settings = service.settings
        load = self._meter.load(_DISK_BYTES) or declared_load(service.catalogue)
        # The embedded broker's queue is ours to know; that of a city's broker stands in its own configuration.
        mqtt = settings.mqtt
        queue = None if mqtt.queue_messages is None else BrokerQueue(mqtt.queue_messages, mqtt.queue_bytes or 0)
        if mqtt.host is None:
            queue = BrokerQueue(0, QUEUE_BYTES)
        free = shutil.disk_usage(settings.data).free if settings.bus.kind == "sqlite" else None
        return outage_budget(settings, load, queue=queue, free_bytes=free)

    def _away_s(self) -> float:
        gateway = self._service.gateway
        since_us = None if gateway is None else gateway.status()["away_since_us"]
        return 0.0 if since_us is None else max(0.0, (self._service.clock.now_us() - since_us) / SECOND)

    def _behind_s(self) -> float:
        """Return the age of the newest raw frame that a partition's pass is done with, where others wait behind it."""
        service = self._service
        waiting = [
            stage.clock_us
            for partition, stage in [*service.process.stages.items()]
            if stage.clock_us and stage.next_offset < service.bus.end(RAW, partition)
        ]
        return max(0.0, (service.clock.now_us() - min(waiting)) / SECOND) if waiting else 0.0
