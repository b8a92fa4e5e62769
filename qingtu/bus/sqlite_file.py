"""One SQLite file of the embedded bus: what waits is committed as a group, by the first who asks what became of it.

Nothing here knows what a stream is for; :mod:`qingtu.bus.sqlite` does.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from qingtu.bus.ticket import Ticket
from qingtu.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SCHEMA_VERSION: Final = 1
_MIB: Final = 1024 * 1024
_LOOK_S: Final = 1.0
_LOOK_BYTES: Final = 4 * _MIB
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


@dataclass(slots=True)
class Append:
    """Frames that are to become durable.

    Attributes:
        stream, partition: where.
        frames: encoded, in order.
        ticket: is told the offsets, or why not.
    """

    stream: str
    partition: int
    frames: Sequence[bytes]
    ticket: Ticket


@dataclass(slots=True)
class Work:
    """Something else to do in the writer's transaction: save state, trim."""

    do: Callable[[sqlite3.Connection], None]
    ticket: Ticket


class _Prompt(Ticket):
    """A ticket of a file that has no writer thread: asking for it commits what waits."""

    def __init__(self, work: Callable[[float | None], None]) -> None:
        super().__init__()
        self._work = work

    def done(self) -> bool:
        """Return whether it is decided. Waits for its own commit, never for what another thread writes."""
        self._work(0)
        return super().done()

    def result(self, timeout_s: float | None = None) -> list[int]:
        """Decide it and return the offsets; see the contract. The timeout is for what others write."""
        self._work(timeout_s)
        return super().result(0)  # decided by now, by this commit or by that of another, or out of time


class Owner(Protocol):
    """The bus, as those who write its files see it."""

    def loaded(self, stream: str, partition: int, first: int, last: int) -> None:
        """Take up the bounds of a stream found in a file on open."""
        ...

    def next_offset(self, stream: str, partition: int) -> int:
        """Return where the writer puts the next frame."""
        ...

    def committed(self, done: Sequence[tuple[str, int, int, Sequence[bytes]]]) -> None:
        """Publish appended frames, each (stream, partition, first offset, frames), to readers and wake them."""
        ...


class File:
    """One database file.

    Args:
        path: created when absent.
        synchronous: FULL or NORMAL.
        bus: is told what was found and what is committed.
        floor: bytes of free space below which frames are refused.

    Whoever asks for a ticket commits what waits, with all that others let wait: to wake a thread for it costs as much
    as a commit, or, with a core that was idle, several times as much.

    Raises:
        VersionError: written by a newer program; nothing was changed.
    """

    def __init__(self, path: Path, synchronous: str, bus: Owner, floor: int) -> None:
        self.path = path
        self._synchronous = synchronous
        self._bus = bus
        self._floor = floor
        self._look_at, self._unseen = 0.0, 0
        self._log = structlog.get_logger(f"bus-{path.stem}")
        self._readers: deque[sqlite3.Connection] = deque()
        self._queue: deque[Append | Work] = deque()
        self._queueing = threading.Lock()
        self._writing = threading.Lock()
        self._closing = False
        self._db = self._connect()
        self._db.executescript("PRAGMA page_size=8192; PRAGMA journal_mode=WAL;")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            self._db.close()
            raise VersionError(
                f"由更新的程序写入 / {path} has version {found}, written by a newer program; "
                f"this reads {SCHEMA_VERSION}"
            )
        if found < SCHEMA_VERSION:  # else nothing is written: a start on a full disk must work
            self._db.executescript(_TABLES + f"PRAGMA user_version={SCHEMA_VERSION};")
        for row in bounds(self._db):
            bus.loaded(*row)

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

    def ticket(self) -> Ticket:
        """Return a ticket for a job that is put next."""
        return _Prompt(self._work)

    def put(self, job: Append | Work) -> None:
        """Let a job wait for the next commit."""
        with self._queueing:
            if self._closing:
                job.ticket.refuse("总线已关闭 / the bus is closed")
                return
            self._queue.append(job)

    def run(self, do: Callable[[sqlite3.Connection], None]) -> None:
        """Do something in the transaction of the next commit and wait for it."""
        ticket = self.ticket()
        self.put(Work(do, ticket))
        ticket.result()

    def close(self) -> None:
        """Write what waits, then close."""
        with self._queueing:
            self._closing = True
        self._work(None)
        for db in (*self._readers, self._db):
            db.close()

    def _work(self, timeout_s: float | None) -> None:
        """Commit what waits. Who comes while another does it waits for so long: its job may be among those."""
        if not self._writing.acquire(timeout=-1 if timeout_s is None else timeout_s):
            return
        try:
            self._write()
        finally:
            self._writing.release()

    def _write(self) -> None:
        with self._queueing:
            jobs = list(self._queue)
            self._queue.clear()
        if not jobs:
            return
        try:
            self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - who waits for the jobs of others is told, too
            # All of the group or none: the frames of a later job must not overtake those of an earlier one.
            self._log.warning("commit_failed", error=repr(error), next="nothing was written; callers try again")
            self._rollback()
            for job in jobs:
                job.ticket.refuse(f"{self.path.name}: {error}")

    def _commit(self, jobs: Sequence[Append | Work]) -> None:
        if self._floor:
            self._keep_floor(sum(len(data) for job in jobs if isinstance(job, Append) for data in job.frames))
        at: dict[tuple[str, int], int] = {}
        done: list[tuple[str, int, int, Sequence[bytes]]] = []
        kept: list[tuple[Ticket, list[int]]] = []
        self._db.execute("BEGIN IMMEDIATE")
        for job in jobs:
            if isinstance(job, Work):
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

    def _keep_floor(self, size: int) -> None:
        """Refuse frames where space is short; asked once a second or some MiB, and each time while it is short.

        Raises:
            OSError: less than the floor is free.
        """
        self._unseen += size
        if not size or (time.monotonic() < self._look_at and self._unseen < _LOOK_BYTES):
            return
        self._look_at = 0.0
        if (free := shutil.disk_usage(self.path.parent).free) < self._floor:
            raise OSError(f"only {free // _MIB} MiB free, floor is {self._floor // _MIB} MiB: free some space")
        self._look_at, self._unseen = time.monotonic() + _LOOK_S, 0

    def _rollback(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            # The disk refuses even this: a new connection starts from what was committed.
            self._db.close()
            # When not even that goes, the next commit fails as well, and comes here again.
            with suppress(sqlite3.Error, OSError):
                self._db = self._connect()


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
