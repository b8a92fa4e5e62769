"""The embedded bus: two SQLite files in one folder, for one process.

``raw.db`` holds the truth and is written with ``synchronous=FULL``: an append is kept through a power cut.
``derived.db`` holds the other streams and all state with ``synchronous=NORMAL``: a power cut may take its last
transactions, never their order, and they are made again from raw. What waits is committed as a group by whoever asks
for a ticket first. Readers are woken. Does not guard against a second process: the data folder's lock does.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qingtu.bus.sqlite_file import SCHEMA_VERSION, Append, File, bounds
from qingtu.contracts import Record, SavedState, StateDelta
from qingtu.records import RAW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qingtu.bus.ticket import Ticket

_TAIL_BYTES: Final = 8 * 1024 * 1024


@dataclass(slots=True)
class _Tail:
    """Where a stream ends, and its newest frames, so that followers do not read the disk."""

    first: int = 0
    next: int = 0
    size: int = 0
    recent: deque[Record] = field(default_factory=deque)


class SqliteBus:
    """A bus in one folder. See :class:`qingtu.contracts.Bus`.

    Args:
        folder: created when absent.
        partitions: of every stream.
        free_floor_bytes: appends to raw are refused below this free space, so that state can still be saved.

    Raises:
        VersionError: the files were written by a newer program.
    """

    def __init__(self, folder: Path, partitions: int = 1, free_floor_bytes: int = 64 * 1024 * 1024) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._partitions = partitions
        self._news = threading.Condition()
        self._tails: dict[tuple[str, int], _Tail] = {}
        self._raw = File(folder / "raw.db", "FULL", self, free_floor_bytes)
        try:
            self._derived = File(folder / "derived.db", "NORMAL", self, 0)
        except BaseException:
            self._raw.close()
            raise

    @property
    def partitions(self) -> int:
        """How many partitions each stream has."""
        return self._partitions

    def assigned(self, group: str, stream: str) -> frozenset[int]:  # noqa: ARG002 - one process has all
        """Return all partitions: there is only one process."""
        return frozenset(range(self._partitions))

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:
        """Queue frames for the next commit; see the contract."""
        file = self._file(stream)
        ticket = file.ticket()
        file.put(Append(stream, partition, frames, ticket))
        return ticket

    def read(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return frames from ``start`` on, from memory when they are recent."""
        with self._news:
            tail = self._tail(stream, partition)
            if start >= tail.next:
                return []
            if tail.recent and start >= tail.recent[0].offset:
                skip = start - tail.recent[0].offset
                return [tail.recent[i] for i in range(skip, min(skip + max_frames, len(tail.recent)))]
        query = "SELECT offset, data FROM frames WHERE stream=? AND partition=? AND offset>=? ORDER BY offset LIMIT ?"
        with self._file(stream).reader() as db:
            rows = db.execute(query, (stream, partition, start, max_frames)).fetchall()
        return [Record(offset, data) for offset, data in rows]

    def end(self, stream: str, partition: int) -> int:
        """Return the offset of the next frame."""
        with self._news:
            return self._tail(stream, partition).next

    def start(self, stream: str, partition: int) -> int:
        """Return the oldest offset still held."""
        with self._news:
            return self._tail(stream, partition).first

    def wait(self, stream: str, seen_end: Sequence[int], timeout_s: float) -> None:
        """Sleep until something was appended to the stream, or the timeout."""
        with self._news:
            self._news.wait_for(
                lambda: any(self._tail(stream, p).next != seen_end[p] for p in range(self._partitions)),
                timeout_s,
            )

    def load_state(self, group: str, partition: int) -> SavedState | None:
        """Return what was saved last."""
        key = (group, partition)
        with self._derived.reader() as db:
            # One transaction: a save in between must not give the offset of one state and the parts of the next.
            db.execute("BEGIN")
            head = db.execute("SELECT next_offset FROM heads WHERE grp=? AND partition=?", key).fetchone()
            parts = db.execute("SELECT name, data FROM parts WHERE grp=? AND partition=?", key).fetchall()
            db.execute("COMMIT")
        return None if head is None else SavedState(head[0], dict(parts))

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Save in one transaction, after all that was appended before."""

        def do(db: sqlite3.Connection) -> None:
            db.executemany(
                "DELETE FROM parts WHERE grp=? AND partition=? AND name=?",
                [(group, partition, name) for name in delta.drop],
            )
            # Not OR REPLACE: that frees all pages of a part (and zeroes them, as some builds of SQLite do) before it
            # takes new ones, which costs half as much again for parts of megabytes.
            db.executemany(
                "INSERT INTO parts VALUES (?,?,?,?) "
                "ON CONFLICT (grp, partition, name) DO UPDATE SET data=excluded.data",
                [(group, partition, name, data) for name, data in delta.put.items()],
            )
            db.execute("INSERT OR REPLACE INTO heads VALUES (?,?,?)", (group, partition, delta.next_offset))

        self._derived.run(do)

    def trim(self, stream: str, partition: int, before: int) -> None:
        """Delete frames below ``before``; the newest one always stays, so that the end is known on open."""
        with self._news:
            tail = self._tail(stream, partition)
            before = min(before, tail.next - 1)
            if before <= tail.first:
                return

        def do(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM frames WHERE stream=? AND partition=? AND offset<?", (stream, partition, before))

        self._file(stream).run(do)
        with self._news:
            tail.first = before
            while tail.recent and tail.recent[0].offset < before:
                tail.size -= len(tail.recent.popleft().data)

    def backup(self, folder: Path) -> None:
        """Copy both files while they are in use, each as of one moment; derived first, so raw is not behind.

        Each is one step of SQLite's backup: a step holds one read transaction, which hinders no writer. In several
        steps the copy starts again whenever a writer commits in between, and so might never end.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for file in (self._derived, self._raw):
            target = sqlite3.connect(folder / file.path.name)
            try:
                with file.reader() as db:
                    db.backup(target)
            finally:
                target.close()

    def close(self) -> None:
        """Write what waits and close the files."""
        self._raw.close()
        self._derived.close()

    # ------------------------------------------------------------------------------ used by those who commit

    def loaded(self, stream: str, partition: int, first: int, last: int) -> None:
        """Take up the bounds of a stream found in a file on open."""
        self._tails[stream, partition] = _Tail(first, last + 1)

    def next_offset(self, stream: str, partition: int) -> int:
        """Return where the writer puts the next frame."""
        return self._tail(stream, partition).next

    def committed(self, done: Sequence[tuple[str, int, int, Sequence[bytes]]]) -> None:
        """Publish appended frames, each (stream, partition, first offset, frames), to readers and wake them."""
        with self._news:
            for stream, partition, offset, frames in done:
                tail = self._tail(stream, partition)
                for i, data in enumerate(frames):
                    tail.recent.append(Record(offset + i, data))
                    tail.size += len(data)
                tail.next = offset + len(frames)
                while tail.size > _TAIL_BYTES and len(tail.recent) > 1:
                    tail.size -= len(tail.recent.popleft().data)
            self._news.notify_all()

    def _tail(self, stream: str, partition: int) -> _Tail:
        return self._tails.setdefault((stream, partition), _Tail())

    def _file(self, stream: str) -> File:
        return self._raw if stream == RAW else self._derived


__all__ = ["SCHEMA_VERSION", "Record", "SavedState", "SqliteBus", "StateDelta", "bounds"]
if TYPE_CHECKING:
    from qingtu.contracts import Bus

    _check: Callable[[SqliteBus], Bus] = lambda bus: bus  # noqa: E731 - mypy proves the contract
