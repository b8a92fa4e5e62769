"""All configured sinks with a thread each: none waits for another, and the pipeline for none of them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from qingtu.worker import Worker
from sinks import SINKS
from sinks.follow import Follower

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.clock import Clock
    from qingtu.contracts import Bus


class Followers:
    """Starts, watches and stops the sinks.

    Args:
        names: of SINKS; the settings have checked them.
        data: a sink's files go to ``data/NAME/``.
        bus: what they follow.
        clock: for the age of what waits.

    Attributes:
        stages: one for each name.
        workers: their threads, in the same order.
    """

    def __init__(self, names: tuple[str, ...], data: Path, bus: Bus, clock: Clock) -> None:
        self._wake = threading.Event()
        self._started = False
        self.stages = [Follower(bus, SINKS[name](data / name), clock) for name in names]
        self.workers = [Worker(stage.name, stage.step, self._await) for stage in self.stages]

    def start(self) -> None:
        """Start the threads."""
        self._started = True
        for worker in self.workers:
            worker.start()

    def stop(self, timeout_s: float) -> None:
        """Let each sink take what stands on its stream, those that refuse excepted, then end the threads.

        What is left is taken after the next start.
        """
        for stage in self.stages:
            stage.hurry()
        self._wake.set()
        deadline = time.monotonic() + timeout_s  # not the clock: it may be set back, or stand
        for stage, worker in zip(self.stages, self.workers, strict=True):
            while self._started and stage.behind() and not worker.problem and time.monotonic() < deadline:
                threading.Event().wait(0.02)
        for worker in self.workers:
            worker.stop()

    def taken(self, stream: str) -> int | None:
        """Return up to which offset of a stream all sinks have taken it; None when no sink follows it."""
        return min((stage.next_offset for stage in self.stages if stage.stream == stream), default=None)

    def problems(self) -> list[dict[str, str]]:
        """Return what was lost since the start, each with key, zh and en."""
        return [
            {
                "key": f"lost_{stage.name}",
                "zh": f"{stage.name} 离线过久, 已丢失 {stage.lost_lately} 帧: 见 docs/operations.md",
                "en": f"{stage.name} was away for too long and lost {stage.lost_lately} frames: see docs/operations.md",
            }
            for stage in self.stages
            if stage.lost_lately
        ]

    def _await(self, seconds: float) -> None:
        self._wake.wait(seconds)
