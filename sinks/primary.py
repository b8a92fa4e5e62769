"""The store stage: applies one stream to the primary store, in commits by size or age."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from qingtu.contracts import Part, Together
from qingtu.records import Frame, decode
from qingtu.stage import missing
from qingtu.store.contract import Ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qingtu.clock import Clock
    from qingtu.contracts import Bus, Store


class StoreStage:
    """See :class:`qingtu.contracts.Stage`.

    The clock decides only how frames are grouped into commits, never what is stored.

    Args:
        bus: where frames come from.
        store: where they go.
        stream: one of processed, alerts, rejected, figures.
        partition: of the stream.
        clock: for the age of what waits.
        commit_ms: a frame waits at most this long.
        commit_messages: commit at once when so many messages wait.

    Attributes:
        told: newest clock of the frames so far, µs UTC, and the catalogue in force then; "" when none was told.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        stream: str,
        partition: int,
        clock: Clock,
        *,
        commit_ms: int = 1000,
        commit_messages: int = 4000,
    ) -> None:
        self.name = f"store-{stream}-{partition}"
        self.stream = stream
        self.partition = partition
        self._bus = bus
        self._store = store
        self._clock = clock
        self._age_us = commit_ms * 1000
        self._messages = commit_messages
        self._begin = store.begin if isinstance(store, Ahead) else self._apply
        self._waiting: list[Frame] = []
        self._unsaved: list[Frame] = []
        self._saved: Callable[[], object] | None = None
        self._count = 0
        self._since_us = 0
        self.next_offset = store.progress(stream, partition).next_offset
        self.committed_us = 0
        self.lost = 0
        self.told = (0, "")
        self._alone = False
        self._log = structlog.get_logger(self.name)

    def step(self) -> bool:
        """Take up frames; commit when it is time. True when a commit was made or frames came."""
        found = self.take_up()
        committed = self.commit_due()
        self.settle()
        return committed or found

    def take_up(self) -> bool:
        """Take up frames: from now on they age. True when some came."""
        found = (
            self._bus.read(self.stream, self.partition, self.next_offset, 16) if self._count < self._messages else []
        )
        if self._count < self._messages:
            self._tell(missing(self._bus, self.stream, self.partition, self.next_offset, found))
        now = self._clock.now_us()
        if found and not self._waiting:
            self._since_us = now
        for record in found:
            frame = decode(record.data)
            self._waiting.append(frame)
            if version := frame.header.get("catalogue"):
                self.told = max(self.told, (frame.clock_us, version))
            self._count += _messages(frame)
            self.next_offset = record.offset + 1
        return bool(found)

    def commit_due(self, along: Sequence[StoreStage] = ()) -> bool:
        """Begin a commit when it is time, which :meth:`settle` waits for, and with it what waits ``along``.

        Returns:
            True when it was.
        """
        now = self._clock.now_us()
        age_us = now - self._since_us  # negative: the clock was set back
        if self._waiting and (self._count >= self._messages or not 0 <= age_us < self._age_us):
            self.commit(along)
            return True
        return False

    def _tell(self, lost: int) -> None:
        """Go on behind frames that are gone, and say so."""
        if lost:
            self.lost += lost
            self.next_offset += lost
            self._log.error("frames_lost", frames=lost, why="they expired before they were stored")

    def hurry(self) -> None:
        """Make what waits due at once."""
        self._since_us = 0

    def oldest_us(self) -> int | None:
        """Return the clock of the oldest frame that waits to be applied, µs UTC; None when none does."""
        waiting = self._unsaved or self._waiting
        return waiting[0].clock_us if waiting else None

    def due_in_s(self) -> float | None:
        """Return in how many seconds the next commit is due; None when nothing waits."""
        if not self._waiting:
            return None
        return max(0.0, (self._since_us + self._age_us - self._clock.now_us()) / 1e6)

    def commit(self, along: Sequence[StoreStage] = ()) -> None:
        """Begin to apply what waits. On RetryLater it goes on waiting, and the same frames are applied next time.

        Args:
            along: stages of other streams of the partition. What waits there goes into the same transaction if the
                store is one for that; after a refusal once not, since one of them may be what is refused.
        """
        self.settle()
        if not self._waiting:
            return
        store = self._store
        others = [stage for stage in along if stage.due_in_s() is not None]
        if not others or self._alone or not isinstance(store, Together):
            self._saved = self._begin(*self.part())
            self._unsaved, self._waiting, self._count = self._waiting, [], 0
            self._alone = False
            return
        self._alone = True  # until it has worked
        store.apply_together([self.part(), *(stage.part() for stage in others)])
        self._alone = False
        for stage in (self, *others):
            stage.committed()

    def part(self) -> Part:
        """Return what waits."""
        return Part(self.stream, self.partition, self._waiting, self.next_offset)

    def committed(self) -> None:
        """Note that what waited is committed."""
        self._waiting, self._count = [], 0
        self.committed_us = self._clock.now_us()

    def settle(self) -> None:
        """Wait until the commit that was begun counts.

        Raises:
            RetryLater: it does not. Its frames wait again, before all others.
        """
        if self._saved is None:
            return
        try:
            self._saved()
        except BaseException:
            self._waiting = [*self._unsaved, *self._waiting]
            self._count += sum(map(_messages, self._unsaved))
            self.hurry()
            raise
        finally:
            self._saved, self._unsaved = None, []
        self.committed_us = self._clock.now_us()

    def _apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Callable[[], object]:
        """Do all of a commit at once, for a store that cannot do otherwise."""
        self._store.apply(stream, partition, frames, next_offset)
        return _nothing

    def committed_offset(self) -> int:
        """Return the offset of the first frame that is not committed."""
        return self._store.progress(self.stream, self.partition).next_offset

    def behind(self) -> int:
        """Return how many frames of the stream are not committed."""
        return max(0, self._bus.end(self.stream, self.partition) - self.committed_offset())


def _messages(frame: Frame) -> int:
    manifest = frame.get("manifest")
    return manifest.num_rows if manifest is not None else 1


def _nothing() -> None:
    """Wait for nothing."""
