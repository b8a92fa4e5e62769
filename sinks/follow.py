"""The follower stage: brings one sink along behind its stream, in batches, at its own pace.

The position stands on the bus (state ``sink-NAME``) and moves after the write, so a sink gets every frame at least
once. Frames that a stage emitted again after a crash are told by their origin and left out. Nobody waits for a sink:
what is trimmed before it was taken is lost to the sink, counted in its state, and logged as an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from qingtu.clock import SECOND
from qingtu.contracts import StateDelta
from qingtu.records import decode, decode_header
from qingtu.stage import missing
from qingtu.state import pack, unpack

if TYPE_CHECKING:
    from qingtu.clock import Clock
    from qingtu.contracts import Bus, Sink
    from qingtu.records import Frame

_READ: Final = 16
_MAIN: Final = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How frames are grouped into writes.

    Attributes:
        wait_s: a frame waits at most this long: a file or request for every frame would be a hundred times as many.
        frames: write at once when so many frames wait; a write holds at most so many.
        rows: in one write at most, but for the last frame; the default is about 50 MB in memory.
    """

    wait_s: float = 60
    frames: int = 256
    rows: int = 250_000


@dataclass(slots=True)
class _Batch:
    """What one write takes.

    Attributes:
        frames: those whose origin is new.
        origin: newest of them and of all before.
        next_offset: behind the last frame looked at.
        lost: frames that were trimmed before they could be read.
    """

    frames: list[Frame]
    origin: int
    next_offset: int
    lost: int


class Follower:
    """See :class:`qingtu.contracts.Stage`.

    The clock decides only how frames are grouped into writes, never what is written.

    Args:
        bus: where frames come from, and where the position is kept.
        sink: where they go; it says which stream it follows.
        clock: for the age of what waits.
        partition: of the stream.
        batching: how frames are grouped into writes.

    Attributes:
        sink: as given.
        batching: may be replaced between steps.
        next_offset: of the stream; frames below it were taken by the sink, or are lost to it.
        lost_frames: frames that were trimmed before the sink had taken them, ever.
        lost_lately: the same since this follower was made.
    """

    def __init__(
        self, bus: Bus, sink: Sink, clock: Clock, partition: int = 0, *, batching: Batching | None = None
    ) -> None:
        self.group = f"sink-{sink.name}"
        self.name = f"{self.group}-{partition}" if partition else self.group
        self.stream = sink.stream
        self.partition = partition
        self.batching = batching or Batching()
        self.sink = sink
        self._bus = bus
        self._clock = clock
        self._log = structlog.get_logger(self.name)
        self.next_offset = bus.start(sink.stream, partition)
        self.lost_frames = self.lost_lately = 0
        self._origin = -1
        if (saved := bus.load_state(self.group, partition)) is not None:
            values = unpack(saved.parts[_MAIN])[1]
            self.next_offset, self._origin, self.lost_frames = saved.next_offset, values["origin"], values["lost"]
        self._since_us: int | None = None
        self._hurried = False
        self._batch: _Batch | None = None

    def step(self) -> bool:
        """Write one batch when it is due; see the contract. What the sink refuses is written by the next step."""
        if self._batch is None:
            if not self._due():
                return False
            self._batch = self._take()
            self._tell(self._batch.lost)
        if self._batch.frames:
            self.sink.write(self._batch.frames)
        self._save(self._batch)
        self._batch = self._since_us = None
        return True

    def hurry(self) -> None:
        """From now on let nothing wait for more to come."""
        self._hurried = True

    def behind(self) -> int:
        """Return how many frames of the stream were not taken yet."""
        return max(0, self._bus.end(self.stream, self.partition) - self.next_offset)

    def _due(self) -> bool:
        behind = self.behind()
        now = self._clock.now_us()
        if not behind:
            self._since_us = None
        elif self._since_us is None:
            self._since_us = now
        # Outside of the range, too, when the clock was set back.
        old = self._since_us is not None and not 0 <= now - self._since_us < self.batching.wait_s * SECOND
        return behind > 0 and (self._hurried or old or behind >= self.batching.frames)

    def _take(self) -> _Batch:
        """Read a batch."""
        out = _Batch([], self._origin, self.next_offset, 0)
        count = rows = 0
        most = self.batching
        while count < most.frames and rows < most.rows:
            found = self._bus.read(self.stream, self.partition, out.next_offset, _READ)
            lost = missing(self._bus, self.stream, self.partition, out.next_offset, found)
            out.lost += lost
            out.next_offset += lost
            if not found:
                break
            for record in found:
                out.next_offset = record.offset + 1
                count += 1
                origin = decode_header(record.data)["origin"][1]
                if origin > out.origin:
                    out.origin = origin
                    out.frames.append(decode(record.data))
                    rows += sum(batch.num_rows for batch in out.frames[-1].sections.values())
                if count >= most.frames or rows >= most.rows:
                    break
        return out

    def _tell(self, lost: int) -> None:
        if lost:
            self._log.error(
                "frames_lost",
                stream=self.stream,
                frames=lost,
                first=self.next_offset,
                next="the sink was away for longer than bus.derived_keep_h; it goes on behind them",
            )
            self.lost_lately += lost
            self.lost_frames += lost

    def _save(self, batch: _Batch) -> None:
        put = {_MAIN: pack({}, {"origin": batch.origin, "lost": self.lost_frames})}
        self._bus.save_state(self.group, self.partition, StateDelta(batch.next_offset, put))
        self.next_offset, self._origin = batch.next_offset, batch.origin
