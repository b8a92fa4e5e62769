"""All configured sinks with a thread each: none waits for another, and the pipeline for none of them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qingtu.contracts import SinkPlace, Working
from qingtu.worker import Worker
from sinks import SINKS
from sinks.follow import Batching, Follower

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS: Final = 2000
"""That a sink with work of its own is given at once: its works wait for a write."""


class Followers:
    """Starts, watches and stops the sinks.

    Args:
        names: of SINKS; the settings have checked them.
        place: what they are made with; ``folder`` is the data folder: a sink's files go to ``folder/NAME/``, those of
            further partitions into folders of their own there.

    Attributes:
        stages: one for each name and partition.
        workers: their threads, in the same order; then those of works that sinks have beside.

    Raises:
        StartError: a sink cannot work with its settings.
    """

    def __init__(self, names: tuple[str, ...], place: SinkPlace) -> None:
        self._wake = threading.Event()
        self._started = False
        self._working: list[Working] = []
        self.stages: list[Follower] = []
        works: dict[str, Callable[[], bool]] = {}
        for name in names:
            made = self._follow(name, place)
            self.stages += made
            if isinstance(working := made[0].sink, Working):
                self._working.append(working)
                works |= working.works(lambda made=made: sum(stage.behind() for stage in made))  # type: ignore[misc] # a default that binds the loop's value
        self._following = [Worker(stage.name, stage.step, self._await) for stage in self.stages]
        self.workers = [*self._following, *(Worker(name, step, self._await) for name, step in works.items())]

    @staticmethod
    def _follow(name: str, place: SinkPlace) -> list[Follower]:
        """Make the followers of a sink: it has one for each partition, and is itself one for each unless it works."""
        folder = place.folder / name
        first = SINKS[name](replace(place, folder=folder))
        batching = Batching(wait_s=first.wait_s, rows=_ROWS) if isinstance(first, Working) else None
        sinks = [
            first
            if p == 0 or isinstance(first, Working)
            else SINKS[name](replace(place, folder=folder / f"partition-{p}"))
            for p in range(place.bus.partitions)
        ]
        return [Follower(place.bus, sink, place.clock, p, batching=batching) for p, sink in enumerate(sinks)]

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
        for stage, worker in zip(self.stages, self._following, strict=True):
            while self._started and stage.behind() and not worker.problem and time.monotonic() < deadline:
                threading.Event().wait(0.02)
        for worker in self._following:
            worker.stop()
        beside = self.workers[len(self._following) :]
        for worker in beside:  # all at once: what one of them waits for outside may take its time
            worker.stop(0)
        for worker in beside:
            worker.stop(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        """Let go of the sinks' files; those that a work still uses are let go by the end of the process."""
        if not any(worker.running() for worker in self.workers):
            for sink in self._working:
                sink.close()

    def taken(self, stream: str, partition: int) -> int | None:
        """Return up to which offset of a partition all sinks have taken it; None when no sink follows the stream."""
        mine = (stage for stage in self.stages if (stage.stream, stage.partition) == (stream, partition))
        return min((stage.next_offset for stage in mine), default=None)

    def problems(self) -> list[dict[str, str]]:
        """Return what was lost since the start, and what sinks say of themselves, each with key, zh and en."""
        said = [problem for sink in self._working for problem in sink.problems()]
        return said + [
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
