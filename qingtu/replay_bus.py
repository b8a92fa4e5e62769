"""The bus of one replay: raw is the live one, read only, up to an end; everything else is in memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from qingtu.bus.ticket import Ticket
from qingtu.contracts import Record, SavedState, StateDelta
from qingtu.errors import QingtuError
from qingtu.records import RAW
from qingtu.replay_raw import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qingtu.contracts import Bus
    from qingtu.replay_raw import RawSource, Span


class ReplayBus:
    """A bus for one replay: raw is the live one up to an end, the other streams and all state are in memory.

    Nothing of it outlives the replay: a replay that is broken off is begun again. See :class:`qingtu.contracts.Bus`.

    Args:
        raw: where raw frames are read.
        spans: only their frames are there, by partition.
    """

    def __init__(self, raw: RawSource, spans: Sequence[Span]) -> None:
        self._raw = raw
        self._spans = spans
        self._frames: dict[tuple[str, int], deque[Record]] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._states: dict[tuple[str, int], tuple[int, dict[str, bytes]]] = {}

    @property
    def partitions(self) -> int:
        """How many partitions each stream has."""
        return len(self._spans)

    def assigned(self, group: str, stream: str) -> frozenset[int]:
        """Return all partitions."""
        del group, stream
        return frozenset(range(self.partitions))

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:
        """Keep frames of a derived stream.

        Raises:
            QingtuError: raw is only read.
        """
        if stream == RAW:
            raise QingtuError("a replay writes nothing to raw")
        first, place = self.end(stream, partition), (stream, partition)
        self._frames.setdefault(place, deque()).extend(Record(first + i, data) for i, data in enumerate(frames))
        self._ends[place] = first + len(frames)
        ticket = Ticket()
        ticket.keep(list(range(first, first + len(frames))))
        return ticket

    def read(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return frames from ``start`` on.

        Raises:
            QingtuError: a raw frame expired before it was read.
        """
        if stream == RAW:
            wanted = min(max_frames, self._spans[partition].last - start)
            return read_whole(self._raw, partition, start, wanted) if wanted > 0 else []
        held = self._frames.get((stream, partition), ())
        return [record for record in held if record.offset >= start][:max_frames]

    def end(self, stream: str, partition: int) -> int:
        """Return the offset of the next frame."""
        return self._spans[partition].last if stream == RAW else self._ends.get((stream, partition), 0)

    def start(self, stream: str, partition: int) -> int:
        """Return the oldest offset held."""
        if stream == RAW:
            return self._spans[partition].warm
        held = self._frames.get((stream, partition))
        return held[0].offset if held else self.end(stream, partition)

    def wait(self, stream: str, seen_end: Sequence[int], timeout_s: float) -> None:
        """Return at once: nobody else appends."""
        del stream, seen_end, timeout_s

    def load_state(self, group: str, partition: int) -> SavedState | None:
        """Return what was saved last."""
        found = self._states.get((group, partition))
        return None if found is None else SavedState(found[0], dict(found[1]))

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Keep state in memory."""
        parts = self._states.get((group, partition), (0, {}))[1]
        kept: dict[str, Any] = {name: data for name, data in parts.items() if name not in delta.drop}
        self._states[group, partition] = delta.next_offset, {**kept, **delta.put}

    def trim(self, stream: str, partition: int, before: int) -> None:
        """Forget frames below ``before``; raw is only read."""
        held = self._frames.get((stream, partition))
        while stream != RAW and held and held[0].offset < before:
            held.popleft()

    def close(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self._states.clear()


if TYPE_CHECKING:
    _check: Callable[[ReplayBus], Bus] = lambda bus: bus  # noqa: E731 - mypy proves the contract
