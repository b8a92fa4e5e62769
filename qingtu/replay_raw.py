"""Where a replay reads raw: one protocol, with a form for each bus. Nothing here ever writes.

The live bus belongs to the service. Kafka is read as by any reader; a second process may read SQLite's file while the
service writes (WAL), and opens it for reading only.
"""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Protocol

from qingtu.bus.sqlite import SCHEMA_VERSION
from qingtu.clock import HOUR, iso
from qingtu.contracts import Record
from qingtu.errors import NotFound, QingtuError, VersionError
from qingtu.records import RAW, decode_header

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.settings import Settings

TAIL_US: Final = HOUR
"""So long behind the span raw is run on, for late verdicts about its last readings."""
_READ: Final = "SELECT offset, data FROM frames WHERE stream=? AND partition=0 AND offset>=? ORDER BY offset LIMIT ?"


@dataclass(frozen=True, slots=True)
class Span:
    """Which raw frames of a partition a replay runs, as offsets: ``warm`` ≤ ``first`` ≤ ``end`` ≤ ``last``.

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


class RawSource(Protocol):
    """Raw of an installation, read only."""

    @property
    def partitions(self) -> int:
        """How many partitions raw has."""
        ...

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return (oldest offset held, offset behind the newest)."""
        ...

    def read(self, partition: int, start: int, max_frames: int) -> list[Record]:
        """Return what is held from ``start`` on, oldest first; may have expired in part: see :func:`read_whole`."""
        ...

    def size(self, partition: int, first: int, end: int) -> int:
        """Return roughly how many bytes the frames take."""
        ...

    def close(self) -> None:
        """Let go of the bus."""
        ...


def open_raw(settings: Settings) -> RawSource:
    """Open raw of the bus that the settings name.

    Raises:
        NotFound: there is no raw yet.
        StartError: the servers cannot be reached.
    """
    if settings.bus.kind == "kafka":
        from qingtu.bus.kafka_raw import KafkaRaw  # noqa: PLC0415 - loaded only where it is used

        return KafkaRaw(settings.kafka)
    return SqliteRaw(settings.data / "bus" / "raw.db")


def read_whole(raw: RawSource, partition: int, start: int, max_frames: int) -> list[Record]:
    """Return frames from ``start`` on, without a hole.

    Raises:
        QingtuError: a frame among them expired before it was read.
    """
    found = raw.read(partition, start, max_frames)
    wanted = start
    for offset in (*(record.offset for record in found), None):
        # Offsets need not be dense: one that is not there was lost only when it is below what is held.
        if offset != wanted and (oldest := raw.bounds(partition)[0]) > wanted:
            raise QingtuError(
                f"原始数据在回放中已过期 / raw frame {wanted} of partition {partition} expired while it was to be "
                f"replayed (oldest: {oldest}); begin later, or raise bus.raw_keep_h"
            )
        wanted = wanted if offset is None else offset + 1
    return found


def clock_us(raw: RawSource, partition: int, offset: int) -> int:
    """Return the newest time of receipt in a frame, µs UTC."""
    return int(decode_header(read_whole(raw, partition, offset, 1)[0].data)["clock"])


def offset_at(raw: RawSource, partition: int, us: int) -> int:
    """Return the first offset that is received at ``us`` or later; the end when there is none.

    A clock that was set back makes this a cut at one of several moments; what counts is the offset.
    """
    low, high = raw.bounds(partition)
    while low < high:
        middle = (low + high) // 2
        found = read_whole(raw, partition, middle, 1)
        if found and int(decode_header(found[0].data)["clock"]) < us:
            low = found[0].offset + 1
        else:
            high = middle
    return low


def locate(raw: RawSource, from_us: int, to_us: int | None, warm_us: int) -> tuple[Span, ...]:
    """Find the frames of a span in each partition; in some there may be none.

    Args:
        raw: the live stream.
        from_us: first time of receipt, inclusive.
        to_us: last one, exclusive; None: to the end.
        warm_us: so much in front is run for memory.

    Raises:
        NotFound: raw holds nothing of it.
    """
    spans = tuple(_located(raw, partition, from_us, to_us, warm_us) for partition in range(raw.partitions))
    if all(span.first == span.end for span in spans):
        raise NotFound(f"原始数据不含此时段 / raw holds no frame of this span; it holds {_held(raw)}")
    return spans


def _located(raw: RawSource, partition: int, from_us: int, to_us: int | None, warm_us: int) -> Span:
    oldest, newest = raw.bounds(partition)
    first = offset_at(raw, partition, from_us)
    end = newest if to_us is None else max(first, offset_at(raw, partition, to_us))
    last = newest if to_us is None else max(end, offset_at(raw, partition, to_us + TAIL_US))
    return Span(max(oldest, offset_at(raw, partition, from_us - warm_us)), first, end, last)


def _held(raw: RawSource) -> str:
    bounds = [(p, *raw.bounds(p)) for p in range(raw.partitions)]
    some = [(clock_us(raw, p, low), clock_us(raw, p, high - 1)) for p, low, high in bounds if high > low]
    return f"{iso(min(low for low, _ in some))} … {iso(max(high for _, high in some))}" if some else "nothing"


class SqliteRaw:
    """Reads the raw stream of a data folder, also while a service writes to it. See :class:`RawSource`.

    Args:
        path: ``data/bus/raw.db``.

    Raises:
        NotFound: there is no such file.
        VersionError: it was written by a newer program.
        QingtuError: it has several partitions.
    """

    partitions = 1

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
            raise VersionError(
                f"由更新的程序写入 / {path} has version {found}, written by a newer program; "
                f"this reads {SCHEMA_VERSION}"
            )
        if more is not None:
            raise QingtuError(
                f"分区不止一个 / {path} has several partitions; the SQLite bus of an installation has one"
            )

    def bounds(self, partition: int = 0) -> tuple[int, int]:
        """Return (oldest offset held, offset behind the newest)."""
        del partition
        first, last = self._db.execute(
            "SELECT min(offset), max(offset) FROM frames WHERE stream=? AND partition=0", (RAW,)
        ).fetchone()
        return (0, 0) if first is None else (int(first), int(last) + 1)

    def read(self, partition: int, start: int, max_frames: int) -> list[Record]:
        """Return what is held from ``start`` on."""
        del partition
        # All rows at once: an open read would keep SQLite from taking its WAL back into the file.
        return [Record(offset, data) for offset, data in self._db.execute(_READ, (RAW, start, max_frames)).fetchall()]

    def size(self, partition: int, first: int, end: int) -> int:
        """Return roughly how many bytes the frames take, by their share of the file."""
        low, high = self.bounds(partition)
        return int(self.path.stat().st_size * (end - first) / max(1, high - low))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


if TYPE_CHECKING:
    from collections.abc import Callable

    _check: Callable[[SqliteRaw], RawSource] = lambda raw: raw  # noqa: E731 - mypy proves the contract
