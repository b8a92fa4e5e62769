"""The delivery book: what was seen, who was told, what waits, what was sent, in one SQLite file.

It is written before and after sending, and made durable each time. So a process that is killed between the two sends
again after its start: a message may come twice, with the same id, and never not at all.

::

    transitions   every transition seen: told once, however often its frame comes
    alerts        the state of each alert, and its highest level
    told          which channels know of an alert: they are told of its end
    escalations   whom to tell, and when, unless somebody acts
    items         transitions that wait to become part of a message to a channel
    messages      messages: queued, sending, sent, dead
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from qingtu.errors import RetryLater, VersionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION: Final = 1
FILE: Final = "book.sqlite"
_BUSY_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE transitions (
    id INTEGER PRIMARY KEY, alert TEXT NOT NULL, state TEXT NOT NULL, level INTEGER NOT NULL, time_us INTEGER NOT NULL,
    known_us INTEGER NOT NULL, shown INTEGER NOT NULL, row TEXT NOT NULL, UNIQUE (alert, state, level, time_us));
CREATE INDEX transitions_known ON transitions (known_us);
CREATE TABLE alerts (
    alert TEXT PRIMARY KEY, top INTEGER NOT NULL, ended INTEGER NOT NULL, transition_id INTEGER NOT NULL,
    known_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE told (
    alert TEXT NOT NULL, channel TEXT NOT NULL, escalated INTEGER NOT NULL, PRIMARY KEY (alert, channel)) WITHOUT ROWID;
CREATE TABLE escalations (
    alert TEXT NOT NULL, channel TEXT NOT NULL, due_us INTEGER NOT NULL, PRIMARY KEY (alert, channel)) WITHOUT ROWID;
CREATE INDEX escalations_due ON escalations (due_us);
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, transition_id INTEGER NOT NULL, level INTEGER NOT NULL,
    grp TEXT NOT NULL, at_us INTEGER NOT NULL, escalated INTEGER NOT NULL, held INTEGER NOT NULL DEFAULT 0,
    piled INTEGER NOT NULL DEFAULT 0);
CREATE INDEX items_channel ON items (channel);
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, channel TEXT NOT NULL, kind TEXT NOT NULL,
    level INTEGER NOT NULL, count INTEGER NOT NULL, made_us INTEGER NOT NULL, queued_us INTEGER NOT NULL,
    body TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_us INTEGER NOT NULL DEFAULT 0,
    done_us INTEGER, error TEXT NOT NULL DEFAULT '');
CREATE INDEX messages_waiting ON messages (channel, state);
CREATE INDEX messages_made ON messages (channel, made_us);
CREATE TABLE channels (
    channel TEXT PRIMARY KEY, sent INTEGER NOT NULL DEFAULT 0, sent_us INTEGER, error TEXT NOT NULL DEFAULT '',
    error_us INTEGER) WITHOUT ROWID;
"""


class Book:
    """One connection that writes and one that reads, for all threads of a process; others may have their own.

    Reading never waits for a transaction: the status answers also while a storm is written.

    Args:
        folder: of the file; made when absent.
        now_us: kept in a new book: what was known before is history, and not told.

    Raises:
        VersionError: a newer program wrote it.
        RetryLater: the file cannot be written now.
    """

    def __init__(self, folder: Path, now_us: int) -> None:
        self._lock, self._reads = threading.RLock(), threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db, self._view = (
                sqlite3.connect(folder / FILE, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
                for _ in range(2)
            )
            self._db.row_factory = self._view.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        except (OSError, sqlite3.Error) as error:
            raise RetryLater(f"通知账本 / notify: {folder / FILE}: {error}", retry_after_s=5) from error
        with self.writing() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise VersionError(
                    f"由更新的程序写入 / {folder / FILE} has version {version}; this program reads up to {VERSION}"
                )
            if version == 0:
                for statement in _SCHEMA.split(";")[:-1]:
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('since_us', ?)", (now_us,))
                db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction, which is durable when the context ends well.

        Raises:
            RetryLater: the file is busy or cannot be written; nothing was.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise RetryLater(f"通知账本 / notify: {FILE}: {error}", retry_after_s=5) from error

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Ask for what is committed.

        Raises:
            RetryLater: the file cannot be read now.
        """
        with self._reads:
            try:
                return self._view.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise RetryLater(f"通知账本 / notify: {FILE}: {error}", retry_after_s=5) from error

    def since_us(self) -> int:
        """Return since when transitions are told; what was known before is history."""
        return int(self.rows("SELECT value FROM meta WHERE name = 'since_us'")[0]["value"])

    def forget(self, before_us: int) -> None:
        """Forget what ended and was sent before a time; transitions from before it will not be told any more."""
        with self.writing() as db:
            db.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'since_us'", (before_us,))
            waits = "(SELECT transition_id FROM items)"
            gone = "known_us < ? AND ended AND transition_id NOT IN " + waits
            for table in ("told", "escalations"):
                db.execute(f"DELETE FROM {table} WHERE alert IN (SELECT alert FROM alerts WHERE {gone})", (before_us,))  # noqa: S608 - names of ours
            db.execute(f"DELETE FROM alerts WHERE {gone}", (before_us,))  # noqa: S608 - words of ours
            db.execute(
                f"DELETE FROM transitions WHERE known_us < ? AND id NOT IN {waits} "  # noqa: S608 - words of ours
                "AND id NOT IN (SELECT transition_id FROM alerts)",
                (before_us,),
            )
            db.execute("DELETE FROM messages WHERE state = 'sent' AND done_us < ?", (before_us,))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, self._reads:
            self._view.close()
            self._db.close()
