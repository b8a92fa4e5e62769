"""What a replay reads and where it writes: the live raw stream read-only, everything else in memory.

The live bus belongs to the service. A second process may read its SQLite file while the service writes (WAL); nothing
here opens it for writing.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from qingtu.bus.sqlite import SCHEMA_VERSION
from qingtu.bus.ticket import Ticket
from qingtu.contracts import Record, SavedState, StateDelta
from qingtu.errors import NotFound, QingtuError, VersionError
from qingtu.records import RAW, decode_header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_READ: Final = "SELECT offset, data FROM frames WHERE stream=? AND partition=0 AND offset>=? ORDER BY offset LIMIT ?"


@dataclass(frozen=True, slots=True)
class Span:
    """Which raw frames a replay runs, as offsets: ``warm`` ≤ ``first`` ≤ ``end`` ≤ ``last``.

    Attributes:
        warm: from here on frames are run, for memory only.
        first: from here on what they give counts.
        end: behind the last frame that counts.
        last: behind the last frame that is run; late verdicts about readings of the span come from here.
    """

    warm: int
    first: int
    end: int
    last: int

    @property
    def low(self) -> int:
        """Position of the first raw row that counts."""
        return self.first << 16

    @property
    def high(self) -> int:
        """Position behind the last raw row that counts."""
        return self.end << 16

    def as_dict(self) -> dict[str, int]:
        """Return the offsets by name."""
        return asdict(self)


class RawReader:
    """Reads the raw stream of a data folder, also while a service writes to it.

    Args:
        path: ``data/bus/raw.db``.

    Raises:
        NotFound: there is no such file.
        VersionError: it was written by a newer program.
        QingtuError: it has several partitions.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise NotFound(f"没有原始数据 / there is no raw stream at {path}: name the data folder with --data")
        self.path = path
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30)
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        more = self._db.execute("SELECT 1 FROM frames WHERE stream=? AND partition>0 LIMIT 1", (RAW,)).fetchone()
        if found > SCHEMA_VERSION or more is not None:
            self.close()
        if found > SCHEMA_VERSION:
            raise VersionError(f"{path} has version {found}, written by a newer program; this reads {SCHEMA_VERSION}")
        if more is not None:
            raise QingtuError(f"{path} has several partitions; a replay reads one")

    def bounds(self) -> tuple[int, int]:
        """Return (oldest offset held, offset behind the newest)."""
        first, last = self._db.execute(
            "SELECT min(offset), max(offset) FROM frames WHERE stream=? AND partition=0", (RAW,)
        ).fetchone()
        return (0, 0) if first is None else (int(first), int(last) + 1)

    def read(self, start: int, max_frames: int) -> list[Record]:
        """Return frames from ``start`` on.

        Raises:
            QingtuError: the frame at ``start`` is not held any more.
        """
        # All rows at once: an open read would keep SQLite from taking its WAL back into the file.
        found = [Record(offset, data) for offset, data in self._db.execute(_READ, (RAW, start, max_frames)).fetchall()]
        if found and found[0].offset > start:
            raise QingtuError(
                f"原始数据在回放中已过期 / raw frame {start} expired while it was to be replayed (oldest: "
                f"{found[0].offset}); begin later, or raise bus.raw_keep_h"
            )
        return found

    def clock_us(self, offset: int) -> int:
        """Return the newest time of receipt in a frame, µs UTC."""
        return int(decode_header(self.read(offset, 1)[0].data)["clock"])

    def at(self, us: int) -> int:
        """Return the first offset that is received at ``us`` or later; the end when there is none.

        A clock that was set back makes this a cut at one of several moments; what counts is the offset.
        """
        low, high = self.bounds()
        while low < high:
            middle = (low + high) // 2
            if self.clock_us(middle) < us:
                low = middle + 1
            else:
                high = middle
        return low

    def size(self, first: int, end: int) -> int:
        """Return roughly how many bytes the frames take, by their share of the file."""
        low, high = self.bounds()
        return int(self.path.stat().st_size * (end - first) / max(1, high - low))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


class ReplayBus:
    """A bus for one replay: raw is the live one up to an end, the other streams and all state are in memory.

    Nothing of it outlives the replay: a replay that is broken off is begun again. See :class:`qingtu.contracts.Bus`.

    Args:
        raw: where raw frames are read.
        span: only its frames are there.
    """

    partitions = 1

    def __init__(self, raw: RawReader, span: Span) -> None:
        self._raw = raw
        self._span = span
        self._frames: dict[str, deque[Record]] = {}
        self._ends: dict[str, int] = {}
        self._states: dict[str, tuple[int, dict[str, bytes]]] = {}

    def assigned(self, group: str, stream: str) -> frozenset[int]:
        """Return the one partition."""
        del group, stream
        return frozenset({0})

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:
        """Keep frames of a derived stream.

        Raises:
            QingtuError: raw is only read.
        """
        del partition
        if stream == RAW:
            raise QingtuError("a replay writes nothing to raw")
        first = self.end(stream, 0)
        self._frames.setdefault(stream, deque()).extend(Record(first + i, data) for i, data in enumerate(frames))
        self._ends[stream] = first + len(frames)
        ticket = Ticket()
        ticket.keep(list(range(first, first + len(frames))))
        return ticket

    def read(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return frames from ``start`` on."""
        del partition
        if stream == RAW:
            wanted = min(max_frames, self._span.last - start)
            return self._raw.read(start, wanted) if wanted > 0 else []
        return [record for record in self._frames.get(stream, ()) if record.offset >= start][:max_frames]

    def end(self, stream: str, partition: int) -> int:
        """Return the offset of the next frame."""
        del partition
        return self._span.last if stream == RAW else self._ends.get(stream, 0)

    def start(self, stream: str, partition: int) -> int:
        """Return the oldest offset held."""
        if stream == RAW:
            return self._span.warm
        held = self._frames.get(stream)
        return held[0].offset if held else self.end(stream, partition)

    def wait(self, stream: str, seen_end: Sequence[int], timeout_s: float) -> None:
        """Return at once: nobody else appends."""
        del stream, seen_end, timeout_s

    def load_state(self, group: str, partition: int) -> SavedState | None:
        """Return what was saved last."""
        del partition
        found = self._states.get(group)
        return None if found is None else SavedState(found[0], dict(found[1]))

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Keep state in memory."""
        del partition
        parts = self._states.get(group, (0, {}))[1]
        kept: dict[str, Any] = {name: data for name, data in parts.items() if name not in delta.drop}
        self._states[group] = delta.next_offset, {**kept, **delta.put}

    def trim(self, stream: str, partition: int, before: int) -> None:
        """Forget frames below ``before``; raw is only read."""
        del partition
        held = self._frames.get(stream)
        while stream != RAW and held and held[0].offset < before:
            held.popleft()

    def close(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self._states.clear()


if TYPE_CHECKING:
    from collections.abc import Callable

    from qingtu.contracts import Bus

    _check: Callable[[ReplayBus], Bus] = lambda bus: bus  # noqa: E731 - mypy proves the contract
