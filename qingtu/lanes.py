"""Stages of one kind, one for each partition that this process works on; partitions come and go."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from qingtu.stage import JOINED
from qingtu.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.contracts import Bus
    from qingtu.stage import StageLoop

_MUCH: Final = 150
"""Rows of a frame: with so many, which are 1,500 messages a second at the usual flush, it pays to wait for more."""


class Gather(NamedTuple):
    """How long what came waits, under load, for more to be applied together with it.

    Attributes:
        flush_s: between two frames of a gateway.
        longest_s: a frame waits so long at most; 0: nothing waits.
    """

    flush_s: float
    longest_s: float

    def wait_s(self, rows: int) -> float:
        """Return how long to wait, by the rows of the largest frame that came last: for as many as are joined."""
        if rows < _MUCH:
            return 0.0
        more = min(JOINED // rows - 1, int(self.longest_s / self.flush_s))
        # They are there for sure only a moment after their time.
        return min(self.longest_s, more * 1.1 * self.flush_s)


class Lanes:
    """Steps the stages of all partitions that are assigned to this process.

    A partition that went to another process is let go of without saving: what was not saved is done again there. One
    that refuses holds none of the others up. Stepped by one thread.

    Args:
        bus: says which partitions are ours.
        group: of the stages.
        stream: their input.
        make: makes the stage of a partition from what is saved; may raise RetryLater.
        gather: how long what came waits for more; None: nothing waits.

    Attributes:
        stages: by partition.
        turns: knows which of them cannot go on, and why.
    """

    def __init__(
        self, bus: Bus, group: str, stream: str, make: Callable[[int], StageLoop], gather: Gather | None = None
    ) -> None:
        self._bus = bus
        self._group = group
        self.stream = stream
        self._make = make
        self._gather = gather
        self.stages: dict[int, StageLoop] = {}
        self.turns = Turns()
        self._may_save = True
        self._log = structlog.get_logger(group)

    def take_up(self) -> None:
        """Let go of partitions that are not ours any more, and make the stages of those that are new.

        Raises:
            RetryLater: the bus cannot say what is saved; the stages that there are go on.
            VersionError: a newer program saved it; likewise.
        """
        ours = self._bus.assigned(self._group, self.stream)
        if ours == self.stages.keys():
            return
        for partition in self.stages.keys() - ours:
            self.turns.forget(self.stages.pop(partition).name)
            self._log.info("partition_gone", partition=partition)
        refused: Exception | None = None
        for partition in sorted(ours - self.stages.keys()):
            try:
                self.stages[partition] = self._make(partition)
            except Exception as error:  # noqa: BLE001 - raised again when the others are made
                refused = refused or error
            else:
                self._log.info("partition_taken", partition=partition)
        if refused is not None:
            raise refused

    def step(self) -> bool:
        """Step every stage once; see :meth:`qingtu.turns.Turns.take`. None waits for the bus before all have begun."""
        return self.turns.take(self._work())

    def wait(self, seconds: float) -> None:
        """Sleep until something came for a stage whose turn it is, for ``seconds`` at most."""
        # Of partitions that others work on, and of those that sit out, nothing is awaited: what is seen of them is what
        # there is. What one does not take up would be news all the time.
        awake = {p: stage.next_offset for p, stage in self.stages.items() if not self.turns.sits_out(stage.name)}
        seen = [awake[p] if p in awake else self._bus.end(self.stream, p) for p in range(self._bus.partitions)]
        self._bus.wait(self.stream, seen, seconds)
        # A pass over few rows costs nearly as much as one over twice as many, most of it for memory that has gone cold.
        rows = max((stage.rows for stage in self.stages.values()), default=0)
        pause_s = self._gather.wait_s(rows) if self._gather is not None else 0.0
        if pause_s > 0 and any(self._bus.end(self.stream, p) != end for p, end in enumerate(seen)):
            time.sleep(pause_s)

    def _work(self) -> Iterator[tuple[str, Callable[[], bool]]]:
        yield "partitions", self._taken_up
        # Asked for only now: a partition that just went must not be stepped once more.
        stages = list(self.stages.values())
        yield from [(stage.name, stage.advance) for stage in stages]
        # One whose turn has just failed sits out, and waits for what is under way in its next turn. So does one that
        # has more to do: alone in its process, it would do nothing while the servers write.
        yield from [(stage.name, partial(_settled, stage)) for stage in stages]
        # Only now, and one a step: a save takes as long as some frames, and nobody waits for it.
        self._may_save = True
        by_age = sorted(stages, key=lambda stage: stage.saved_clock_us)
        yield from [(stage.name, partial(self._save, stage)) for stage in by_age]

    def _save(self, stage: StageLoop) -> bool:
        self._may_save = self._may_save and not stage.save_when_due()
        return False

    def _taken_up(self) -> bool:
        self.take_up()
        return False

    def save(self) -> None:
        """Save the state of every stage."""
        for stage in self.stages.values():
            stage.save()


def _settled(stage: StageLoop) -> bool:
    stage.settle_idle()
    return False
