"""The embedded bus: two SQLite files in one folder, for one process.

``raw.db`` holds the truth and is written with ``synchronous=FULL``: an append is kept through a power cut.
``derived.db`` holds the other streams and all state with ``synchronous=NORMAL``: a power cut may take its last
transactions, never their order, and they are made again from raw. One writer thread a file commits what waits
as a group; readers are woken. Does not guard against a second process: the data folder's lock does.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from qingtu.contracts import Record, SavedState, StateDelta
from qingtu.errors import RetryLater, VersionError
from qingtu.records import RAW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SCHEMA_VERSION: Final = 1
_TAIL_BYTES: Final = 8 * 1024 * 1024
_MIB: Final = 1024 * 1024
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS frames (
    stream TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (stream, partition, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (
    grp TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (grp, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    grp TEXT NOT NULL, partition INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (grp, partition, name));
"""


class _Ticket:
    """See :class:`qingtu.contracts.Ticket`."""

    def __init__(self) -> None:
        self._decided = threading.Event()
        self._offsets: list[int] = []
        self._error: str | None = None

    def done(self) -> bool:
        return self._decided.is_set()

    def result(self, timeout_s: float | None = None) -> list[int]:
        if not self._decided.wait(timeout_s):
            raise TimeoutError("the bus has not decided yet")
        if self._error is not None:
            raise RetryLater(self._error)
        return self._offsets

    def keep(self, offsets: list[int]) -> None:
        self._offsets = offsets
        self._decided.set()

    def refuse(self, reason: str) -> None:
        self._error = reason
        self._decided.set()


@dataclass(slots=True)
class _Append:
    stream: str
    partition: int
    frames: Sequence[bytes]
    ticket: _Ticket


@dataclass(slots=True)
class _Work:
    """Something else to do in the writer's transaction: save state, trim."""

    do: Callable[[sqlite3.Connection], None]
    ticket: _Ticket


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

    def __init__(self, folder: Path, partitions: int = 1, free_floor_bytes: int = 64 * _MIB) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._partitions = partitions
        self._news = threading.Condition()
        self._tails: dict[tuple[str, int], _Tail] = {}
        self._raw = _File(folder / "raw.db", "FULL", self, free_floor_bytes)
        try:
            self._derived = _File(folder / "derived.db", "NORMAL", self, 0)
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

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> _Ticket:
        """Queue frames for the writer; see the contract."""
        ticket = _Ticket()
        self._file(stream).put(_Append(stream, partition, frames, ticket))
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
            db.executemany(
                "INSERT OR REPLACE INTO parts VALUES (?,?,?,?)",
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

    # ------------------------------------------------------------------------------ used by the writer threads

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

    def _file(self, stream: str) -> _File:
        return self._raw if stream == RAW else self._derived


def bounds(db: sqlite3.Connection) -> Iterator[tuple[str, int, int, int]]:
    """Yield (stream, partition, first offset, last offset) by seeks: a scan would read all frames on each start."""
    first = "SELECT stream, partition, offset FROM frames WHERE {} ORDER BY stream, partition, offset LIMIT 1"
    last = "SELECT max(offset) FROM frames WHERE stream=? AND partition=?"
    row = db.execute(first.format("true")).fetchone()
    while row is not None:
        stream, partition, offset = row
        yield stream, partition, offset, db.execute(last, (stream, partition)).fetchone()[0]
        row = (
            db.execute(first.format("stream=? AND partition>?"), (stream, partition)).fetchone()
            or db.execute(first.format("stream>?"), (stream,)).fetchone()
        )


class _File:
    """One database file and its writer thread."""

    def __init__(self, path: Path, synchronous: str, bus: SqliteBus, floor: int) -> None:
        self.path = path
        self._synchronous = synchronous
        self._bus = bus
        self._floor = floor
        self._log = structlog.get_logger(f"bus-{path.stem}")
        self._readers: deque[sqlite3.Connection] = deque()
        self._queue: deque[_Append | _Work] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._db = self._connect()
        self._db.executescript("PRAGMA page_size=16384; PRAGMA journal_mode=WAL;")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            self._db.close()
            raise VersionError(f"{path} has version {found}, written by a newer program; this reads {SCHEMA_VERSION}")
        if found < SCHEMA_VERSION:  # else nothing is written: a start on a full disk must work
            self._db.executescript(_TABLES + f"PRAGMA user_version={SCHEMA_VERSION};")
        for row in bounds(self._db):
            bus.loaded(*row)
        self._thread = threading.Thread(target=self._run, name=f"bus-{path.stem}", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
        db.executescript(f"PRAGMA synchronous={self._synchronous}; PRAGMA busy_timeout=30000;")
        return db

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection: threads come and go, so none may own one."""
        try:
            db = self._readers.pop()
        except IndexError:
            db = self._connect()
        try:
            yield db
        except BaseException:
            db.close()
            raise
        self._readers.append(db)

    def put(self, job: _Append | _Work) -> None:
        """Hand a job to the writer."""
        with self._wake:
            if self._closing:
                job.ticket.refuse("the bus is closed")
                return
            self._queue.append(job)
            self._wake.notify()

    def run(self, do: Callable[[sqlite3.Connection], None]) -> None:
        """Do something in the writer's transaction and wait for it."""
        ticket = _Ticket()
        self.put(_Work(do, ticket))
        ticket.result()

    def close(self) -> None:
        """Write what waits, then close."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        for db in (*self._readers, self._db):
            db.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._closing)
                jobs = list(self._queue)
                self._queue.clear()
                if not jobs:
                    return
            try:
                self._commit(jobs)
            except Exception as error:  # noqa: BLE001 - a writer that died would leave everybody waiting for ever
                # All of the group or none: the frames of a later job must not overtake those of an earlier one.
                self._log.warning("commit_failed", error=repr(error), next="nothing was written; callers try again")
                self._rollback()
                for job in jobs:
                    job.ticket.refuse(f"{self.path.name}: {error}")

    def _commit(self, jobs: Sequence[_Append | _Work]) -> None:
        appends = any(isinstance(job, _Append) for job in jobs)
        if self._floor and appends and (free := shutil.disk_usage(self.path.parent).free) < self._floor:
            raise OSError(f"only {free // _MIB} MiB free, floor is {self._floor // _MIB} MiB: free some space")
        at: dict[tuple[str, int], int] = {}
        done: list[tuple[str, int, int, Sequence[bytes]]] = []
        kept: list[tuple[_Ticket, list[int]]] = []
        self._db.execute("BEGIN IMMEDIATE")
        for job in jobs:
            if isinstance(job, _Work):
                job.do(self._db)
                kept.append((job.ticket, []))
                continue
            key = (job.stream, job.partition)
            offset = at.get(key, self._bus.next_offset(*key))
            self._db.executemany(
                "INSERT INTO frames VALUES (?,?,?,?)",
                [(*key, offset + i, data) for i, data in enumerate(job.frames)],
            )
            at[key] = offset + len(job.frames)
            done.append((*key, offset, job.frames))
            kept.append((job.ticket, list(range(offset, at[key]))))
        self._db.execute("COMMIT")
        self._bus.committed(done)
        for ticket, offsets in kept:
            ticket.keep(offsets)

    def _rollback(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            # The disk refuses even this: a new connection starts from what was committed.
            self._db.close()
            self._db = self._connect()


__all__ = ["SCHEMA_VERSION", "Record", "SavedState", "SqliteBus", "StateDelta"]
if TYPE_CHECKING:
    from qingtu.contracts import Bus

    _check: Callable[[SqliteBus], Bus] = lambda bus: bus  # noqa: E731 - mypy proves the contract
