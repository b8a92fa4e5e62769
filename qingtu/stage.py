"""The loop around an operator: read, apply, emit, save; survives crashes and finds the row that causes one.

No threads, no sleeping, no wall clock: the composition root calls ``step`` and decides when.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from qingtu.clock import SECOND
from qingtu.contracts import Joining, StateDelta
from qingtu.errors import QingtuError, RetryLater
from qingtu.records import decode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from qingtu.contracts import Bus, Operator, Outputs, Record, Ticket
    from qingtu.records import Frame

_TRIES: Final = 3
_SAVE_FRAMES: Final = 2000
JOINED: Final = 1024
"""Rows that are applied together at most: with more, nothing is gained by it."""
_NOTHING: Final = StateDelta(0, {})


def missing(bus: Bus, stream: str, partition: int, wanted: int, found: Sequence[Record]) -> int:
    """Return how many frames from offset ``wanted`` on are not held any more, though they were not read.

    Args:
        bus: where they stood.
        stream: which.
        partition: of it.
        wanted: where the reader goes on.
        found: what it has just read from there on.

    Raises:
        RetryLater: the stream ends before ``wanted``. What other processes appended may be known a moment later; if
            it stays so, the stream is another one than was read before, and the status goes on saying it.
    """
    if found and found[0].offset == wanted:
        return 0
    if not found and bus.end(stream, partition) < wanted:
        raise RetryLater(
            f"总线丢失或被替换 / {stream}-{partition} ends before {wanted}, up to where it was read: the bus was lost "
            "or replaced. Restore it from the same back-up as the store, or begin with an empty store; "
            "docs/operations.md",
            retry_after_s=1.0,
        )
    # Offsets need not be dense: a gap is a loss only below what is held.
    held = bus.start(stream, partition)
    return max(0, (min(held, found[0].offset) if found else held) - wanted)


class StageLoop:
    """Drives one operator over one partition. See :class:`qingtu.contracts.Stage`.

    Args:
        bus: where frames come from and go to.
        operator: the inside.
        partition: of the input stream, and of all output that names no other.
        state_every_s: state is saved when so much time has passed in the input, or after many frames.
        batch: frames per step at most.
        only: sections of a frame that the operator looks at; None: all.

    Attributes:
        next_offset, saved_offset: of the input: where it goes on, and where the saved state does.
        clock_us: newest clock of the input so far, µs UTC.
        saved_clock_us: the same as of the last save, or of the first frame; 0 before it.
        lost: frames that were gone before they were read, since this was made.
        rows: how many the largest frame had of those that were read last.
    """

    def __init__(
        self, bus: Bus, operator: Operator, partition: int = 0, *, state_every_s: int = 5, batch: int = 16,
        only: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        self.name = f"{operator.group}-{partition}"
        self._bus = bus
        self._operator = operator
        self._partition = partition
        self._every_us = state_every_s * SECOND
        self._batch = batch
        self._only = only
        self._joining = operator if isinstance(operator, Joining) else None
        self._unsent: dict[tuple[str, int], list[bytes]] = {}
        self._flying: dict[tuple[str, int], tuple[Ticket, int]] = {}
        self._guilty: dict[int, NDArray[np.bool_]] = {}
        self._kept = _NOTHING
        self._spoiled = self._fresh = False
        self._log = structlog.get_logger(self.name)
        saved = bus.load_state(operator.group, partition)
        self.next_offset = saved.next_offset if saved else bus.start(operator.source, partition)
        self.saved_offset = self.next_offset
        self.saved_clock_us = 0
        self.clock_us = 0
        self.failures = 0
        self.lost = self.rows = 0
        operator.restore(saved.parts if saved else None)

    def step(self) -> bool:
        """Apply some frames and emit what they give; see the contract."""
        try:
            busy = self.advance()
        except RetryLater:
            self.settle()  # what came before in this step
            self.save_when_due()
            raise
        self.settle()
        self.save_when_due()
        return busy

    def advance(self) -> bool:
        """Do the same, but leave what was emitted under way: :meth:`settle` waits for it, or the next call does.

        The next call applies its frames before it waits, so the bus works meanwhile; nothing overtakes what was emitted
        before. Saving is left to :meth:`save_when_due`.

        Raises:
            RetryLater: as :meth:`step`; the same is tried by the next call.
        """
        self._fresh = False
        if any(len(frames) > self._under_way(place) for place, frames in self._unsent.items()):
            self._emit()  # what was refused before comes before anything new
        problem: Exception | None = None
        found: list[Record] = []
        try:
            found = self._bus.read(self._operator.source, self._partition, self.next_offset, self._batch)
            self._tell(missing(self._bus, self._operator.source, self._partition, self.next_offset, found))
            if found:
                self.rows = 0
            for run in self._runs(found):
                self._take(run)
        except Exception as error:  # noqa: BLE001 - raised below: what came before it must not wait for it
            problem = error
        self._fresh = bool(found)
        if found or problem is not None:
            self.settle()
            self._send()
        if problem is not None:
            raise problem
        return bool(found)

    def _runs(self, found: Sequence[Record]) -> Iterator[list[tuple[int, Frame]]]:
        """Yield (offset, frame) of what was read, together what may be applied together."""
        run: list[tuple[int, Frame]] = []
        size = 0
        for record in found:
            try:
                frame = decode(record.data, self._only)
            except Exception:
                yield run  # what came before it must not wait for it
                raise
            rows = self._joining.joins(frame) if self._joining and len(found) > 1 else 0
            if run and (not rows or size + rows > JOINED):
                yield run
                run, size = [], 0
            run.append((record.offset, frame))
            size += rows
            if not rows:
                yield run
                run = []
        yield run

    def _take(self, run: Sequence[tuple[int, Frame]]) -> None:
        """Apply frames, in one go when there are several; one by one when that fails."""
        if len(run) > 1 and not self._spoiled:
            assert self._joining is not None
            try:
                made = self._joining.apply_joined(run)
            except Exception:  # noqa: BLE001 - what makes it fail is found, or waited for, when they are alone
                self.failures += 1
                self._log.warning("frames_failed", offset=run[0][0], next="each is tried alone", exc_info=True)
                self._spoiled = True
            else:
                for (offset, frame), outputs in zip(run, made, strict=True):
                    self._book(offset, frame, outputs)
                return
        for offset, frame in run:
            self._book(offset, frame, self._apply(frame, offset))

    def _book(self, offset: int, frame: Frame, outputs: Outputs) -> None:
        for target, data in outputs.items():
            place = (target, self._partition) if isinstance(target, str) else target
            self._unsent.setdefault(place, []).append(data)
        self.next_offset = offset + 1
        self.rows = max([self.rows, *(batch.num_rows for batch in frame.sections.values())])
        self.clock_us = max(self.clock_us, frame.clock_us)

    def _tell(self, lost: int) -> None:
        """Go on behind frames that are gone, and say so."""
        if lost:
            self.lost += lost
            self.next_offset += lost
            self._log.error("frames_lost", frames=lost, why="they were trimmed or expired before this stage read them")

    def save(self) -> None:
        """Save state with its offset, once what was emitted before is durable.

        An operator that is within a frame that makes it fail has nothing to save: what is saved already stands.
        """
        self._emit()
        if not self._spoiled:
            self._save()

    def _emit(self) -> None:
        self.settle()
        if self._unsent:
            self._send()
            self.settle()

    def _save(self) -> None:
        put, drop = self._operator.snapshot()
        # The operator tells each change once: what the bus refuses is kept for the next try.
        put = {**{name: data for name, data in self._kept.put.items() if name not in drop}, **put}
        drop = [*(name for name in self._kept.drop if name not in put), *drop]
        self._kept = StateDelta(self.next_offset, put, drop)
        self._bus.save_state(self._operator.group, self._partition, self._kept)
        self._kept = _NOTHING
        self.saved_offset, self.saved_clock_us = self.next_offset, self.clock_us
        self._guilty = {offset: mask for offset, mask in self._guilty.items() if offset >= self.next_offset}

    def save_when_due(self) -> bool:
        """Save when it is time: a while after the last save, and right behind frames, when none of the next wait yet.

        Returns:
            True when it was.
        """
        fresh, self._fresh = self._fresh, False
        if not fresh:
            return False
        if not self.saved_clock_us:
            self.saved_clock_us = self.clock_us
        due = self.clock_us - self.saved_clock_us >= self._every_us
        if due or self.next_offset - self.saved_offset >= _SAVE_FRAMES:
            self.save()
            return True
        return False

    def _send(self) -> None:
        """Emit what waits: all streams at once, so that the bus can commit them as one group. Nothing is under way."""
        self._flying = {
            place: (self._bus.append(*place, frames.copy()), len(frames)) for place, frames in self._unsent.items()
        }

    def _under_way(self, place: tuple[str, int]) -> int:
        return self._flying[place][1] if place in self._flying else 0

    def settle(self) -> None:
        """Wait until what was emitted is durable.

        Raises:
            RetryLater: some was refused; it is emitted again before anything new is.
        """
        refused: RetryLater | None = None
        for place, (ticket, count) in list(self._flying.items()):
            try:
                ticket.result()
            except RetryLater as later:
                refused = later
            else:
                del self._unsent[place][:count]
                if not self._unsent[place]:
                    del self._unsent[place]
            del self._flying[place]  # not when the bus has never said what became of it: that is waited for again
        if refused is not None:
            raise refused

    @property
    def emitting(self) -> bool:
        """Whether anything was emitted that is not durable yet."""
        return bool(self._unsent)

    def settle_idle(self) -> None:
        """Do the same if no frames came with the last call of :meth:`advance`; else the next one waits.

        Raises:
            RetryLater: as :meth:`settle`.
        """
        if not self._fresh:
            self.settle()

    def _apply(self, frame: Frame, offset: int) -> Outputs:
        if not self._spoiled:
            try:
                return self._operator.apply(frame, offset)
            except RetryLater:
                raise
            except Exception:  # noqa: BLE001 - whatever a row makes fail, the row is found and rejected
                self.failures += 1
                self._log.warning("stage_failed", offset=offset, next="the frame is tried again", exc_info=True)
        # Until it is through: when the bus refuses in between, the operator holds half of a frame.
        self._spoiled = True
        outputs = self._recover(frame, offset)
        self._spoiled = False
        return outputs

    def _recover(self, frame: Frame, offset: int) -> Outputs:
        """Try again from saved state; after the third failure reject the rows that cause it."""
        self._rewind(offset)
        # Else each of the many tries below would run again what came since the last save: slower, but it works as well.
        with suppress(RetryLater):
            self._emit()
            self._save()
        for _ in range(_TRIES - 1):
            outputs = self._attempt(frame, offset, None)
            if outputs is not None:
                return outputs
        rows = frame.sections["rows"].num_rows if "rows" in frame.sections else 0
        only = np.ones(rows, np.bool_)
        while True:
            # More than one round only when rows fail together that pass alone.
            guilty = self._search(frame, offset, np.flatnonzero(only), np.zeros(rows, np.bool_))
            only[guilty] = False
            outputs = self._attempt(frame, offset, only)
            if outputs is not None:
                break
            if not len(guilty):
                raise QingtuError(f"{self.name} cannot get past frame {offset}, even without any of its rows")
        self._guilty[offset] = only
        self._log.error("rows_rejected", offset=offset, rows=np.flatnonzero(~only).tolist(), reason="internal_error")
        return outputs

    def _search(
        self, frame: Frame, offset: int, suspects: NDArray[np.int64], beside: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return the rows among ``suspects`` that make the operator fail, alone or with the rows ``beside`` them."""
        only = beside.copy()
        only[suspects] = True
        if not len(suspects) or self._attempt(frame, offset, only) is not None:
            return suspects[:0]
        if len(suspects) == 1:
            return suspects
        left, right = np.array_split(suspects, 2)
        found = np.concatenate([self._search(frame, offset, left, beside), self._search(frame, offset, right, beside)])
        if len(found):
            return found
        # Each half passes without the other: find what in the right one does not go with the left one.
        beside = beside.copy()
        beside[left] = True
        return self._search(frame, offset, right, beside)

    def _attempt(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None) -> Outputs | None:
        """Restore, re-run up to the frame, apply it; None when it fails."""
        self._rewind(offset)
        try:
            return self._operator.apply(frame, offset, only)
        except RetryLater:
            raise
        except Exception as error:  # noqa: BLE001 - see _apply
            self.failures += 1
            self._log.warning("stage_failed_again", offset=offset, error=repr(error))
            return None

    def _rewind(self, offset: int) -> None:
        """Take the operator back to where it stood before a frame: restore, and run again what came since."""
        saved = self._bus.load_state(self._operator.group, self._partition)
        at = saved.next_offset if saved else self._bus.start(self._operator.source, self._partition)
        self._operator.restore(saved.parts if saved else None)
        self._kept = _NOTHING  # the operator begins at what is saved, and will tell everything since
        while at < offset:
            # Offsets need not be dense: ``offset`` itself may be the next one held.
            found = self._bus.read(self._operator.source, self._partition, at, self._batch)
            if not found:
                raise RetryLater(
                    f"总线不再给出 / {self._operator.source}-{self._partition} does not give {at} again",
                    retry_after_s=1.0,
                )
            for record in found:
                at = record.offset + 1
                if record.offset >= offset:
                    break
                frame = decode(record.data, self._only)
                self._operator.apply(frame, record.offset, self._guilty.get(record.offset))
