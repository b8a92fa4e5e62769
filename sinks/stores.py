"""All store stages of a process in one thread: readings before all else, and what is no reading right behind them."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED
from qingtu.turns import Turns
from sinks.primary import StoreStage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qingtu.clock import Clock
    from qingtu.contracts import Bus, Store

STORED: Final = (PROCESSED, ALERTS, REJECTED, FIGURES)
"""Streams of the store; readings first: they are what people wait for."""
MOMENT_S: Final = 0.02
_SELDOM_MS: Final = 500
"""What is no reading waits at least so long for its commit, which costs the readings behind it as much as their own."""
_LULL_S: Final = 0.25
"""Without a commit of readings for so long, what is no reading need not wait to come right behind one."""
_OFTEN_S: Final = 0.05
"""Streams of the store are looked at no more often than this."""


class Stores:
    """Steps the stages of a store, for one thread; any thread may look at the stages and the turns.

    Args:
        bus: where frames come from.
        store: where they go.
        clock: for the age of what waits.
        commit_ms: a reading waits at most this long for its commit.
        commit_messages: a commit is made at once when so many messages wait.
        hurry: set when everything is to be committed at once.
        beside: (name, step) of what is done as well, when no readings are waited for.

    Attributes:
        stages: one for each stream and partition.
        turns: knows which of them cannot go on, and why.
        lull_at: monotonic seconds from when on what is no reading need not wait for readings.
    """

    def __init__(
        self, bus: Bus, store: Store, clock: Clock, *, commit_ms: int, commit_messages: int, hurry: threading.Event,
        beside: Sequence[tuple[str, Callable[[], bool]]] = (),
    ) -> None:  # fmt: skip
        self._bus = bus
        self._look_s = commit_ms / 4000
        self._hurry = hurry
        self._beside = tuple(beside)
        self.turns = Turns()
        self.lull_at = 0.0
        self.stages = [
            StoreStage(
                bus, store, stream, partition, clock,
                commit_ms=commit_ms if stream == PROCESSED else max(commit_ms, _SELDOM_MS),
                commit_messages=commit_messages,
            )
            for stream in STORED for partition in range(bus.partitions)
        ]  # fmt: skip
        self._readings = [stage for stage in self.stages if stage.stream == PROCESSED]
        self._others = [stage for stage in self.stages if stage.stream != PROCESSED]

    @property
    def told(self) -> tuple[int, str]:
        """The newest clock of all frames so far, µs UTC, and the catalogue in force then; "" when none was told."""
        return max((stage.told for stage in self.stages), default=(0, ""))

    def step(self) -> bool:
        """Take up what came and commit what is due; True when there was something to do."""
        return self.turns.take(self._work())

    def _work(self) -> Iterator[tuple[str, Callable[[], bool]]]:
        """Yield what there is to do, one by one; what is no reading comes right behind a commit of readings.

        Anywhere else it would be in the way of the readings that come next, since they come at even distances.
        """
        # All take up before any commits: what waits for the commits of others ages meanwhile, and is due then.
        yield from [(f"{stage.name} reads", stage.take_up) for stage in self.stages]
        yield from [(stage.name, partial(self._commit_readings, stage)) for stage in self._readings]
        lull = time.monotonic() >= self.lull_at or self._hurry.is_set()
        if lull:
            yield from [(stage.name, stage.commit_due) for stage in self._others]
        # The next rows are written while the bus takes what belongs to those before.
        yield from [(stage.name, partial(_settled, stage)) for stage in self.stages]
        if lull:
            yield from self._beside
            self.lull_at = time.monotonic() + _LULL_S

    def _commit_readings(self, stage: StoreStage) -> bool:
        committed = stage.commit_due(self._along(stage))
        if committed:
            self.lull_at = 0.0
        return committed

    def _along(self, stage: StoreStage) -> list[StoreStage]:
        """Return the stages whose frames may be committed with the readings of a partition: not those that sit out."""
        others = [one for one in self._others if one.partition == stage.partition]
        return [one for one in others if not self.turns.sits_out(one.name)]

    def wait(self, seconds: float) -> None:
        """Sleep until a commit is due, for ``seconds`` at most.

        Frames are looked at a few times a commit, not one by one: waking is dear. Where commits are to come sooner than
        that is worth, what comes first wakes us, and the rest has until its commit to come.
        """
        lull_s = self.lull_at - time.monotonic()
        # What sits out is due all the time: going by it would be going round without a pause.
        due = [
            due_s if stage.stream == PROCESSED else max(due_s, lull_s)
            for stage in self.stages
            if (due_s := stage.due_in_s()) is not None and not self.turns.sits_out(stage.name)
        ]
        waiting = any(stage.due_in_s() is not None for stage in self._readings)
        if self._look_s >= _OFTEN_S or self._hurry.is_set() or waiting:
            pause(self._hurry, min([seconds, max(self._look_s, _OFTEN_S), *due]))
        else:
            seen = [stage.next_offset for stage in self._readings]
            self._bus.wait(PROCESSED, seen, min([seconds, _OFTEN_S, *due]))

    def hurry(self) -> None:
        """Make all that waits due at once."""
        for stage in self.stages:
            stage.hurry()

    def behind(self) -> bool:
        """Return whether anything is not committed."""
        return any(stage.behind() for stage in self.stages)

    def settle(self) -> None:
        """Store all that stands on the bus now; nobody else may step meanwhile.

        Raises:
            RetryLater: the store or the bus does not take it now.
        """
        for stage, missing in [(stage, stage.behind()) for stage in self.stages]:
            # What comes meanwhile is not waited for: it may come faster than this ends.
            end = stage.committed_offset() + missing
            while stage.committed_offset() < end:
                stage.hurry()
                if not stage.step() and stage.next_offset >= end:
                    break  # the last of them expired before they were read


def pause(hurry: threading.Event, seconds: float) -> None:
    """Sleep until everything hurries; then for moments, since who asks again and again keeps the others from it."""
    if hurry.is_set():
        threading.Event().wait(min(seconds, MOMENT_S))
    else:
        hurry.wait(seconds)


def _settled(stage: StoreStage) -> bool:
    stage.settle()
    return False
