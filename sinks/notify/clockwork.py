"""What time brings: escalations, groups that are whole, digests after quiet hours, summaries of storms.

Time is that of the stream. Every frame of ``processed`` carries the clock, and with ticks one comes every few seconds
also when no alert does; only headers are read. While nothing ticks, time stands: an outage of the pipeline escalates
nothing by itself, and a backlog is judged in the order in which it happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.clock import DAY, HOUR
from qingtu.records import PROCESSED, decode_header
from sinks.notify.messages import SUMMARY
from sinks.notify.planning import Waiting, plan
from sinks.notify.templates import LISTED, compose

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from qingtu.clock import Clock
    from qingtu.contracts import Bus
    from qingtu.settings_notify import ChannelSettings, NotifySettings
    from sinks.notify.book import Book

_NEWEST: Final = 4


class StreamClock:
    """The newest clock that the frames of ``processed`` tell; it never goes back.

    Args:
        bus: where they are.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._at = [0] * bus.partitions
        self._now_us: int | None = None

    def now_us(self) -> int | None:
        """Return µs UTC; None while there was no frame yet."""
        for partition, at in enumerate(self._at):
            end = self._bus.end(PROCESSED, partition)
            if end <= at:
                continue
            # What lies between was older: only the newest frames are looked at, however far behind this is.
            for record in self._bus.read(PROCESSED, partition, max(at, end - _NEWEST), 2 * _NEWEST):
                self._at[partition] = record.offset + 1
                self._now_us = max(self._now_us or 0, int(decode_header(record.data)["clock"]))
        return self._now_us


class Clockwork:
    """One work of the sink.

    Args:
        book: what waits.
        settings: channels, routes, templates.
        stream: tells the time.
        clock: when messages were queued; pauses and giving up go by it.
        behind: returns how many frames of ``alerts`` were not taken yet.
    """

    def __init__(
        self, book: Book, settings: NotifySettings, stream: StreamClock, clock: Clock, behind: Callable[[], int]
    ) -> None:
        self._book = book
        self._settings = settings
        self._stream = stream
        self._clock = clock
        self._behind = behind
        self._kept_us = 0
        self._looked: dict[str, tuple[int, int]] = {}

    def step(self) -> bool:
        """Do what is due; True when a message was made."""
        now = self._stream.now_us()
        if now is None:
            return False
        # The clock first: an acknowledgement from before it stands on the stream by then, and must be taken.
        if not self._behind():
            self._escalate(now)
        made = [self._make(channel, now) for channel in self._settings.channels]
        if not 0 <= now - self._kept_us < HOUR:
            self._book.forget(now - self._settings.keep_days * DAY)
            self._kept_us = now
        return any(made)

    def _escalate(self, now_us: int) -> None:
        due = "SELECT alert, channel FROM escalations WHERE due_us <= ? ORDER BY due_us, alert"
        if not self._book.rows(due, now_us):
            return
        known = {channel.name for channel in self._settings.channels}
        with self._book.writing() as db:
            for alert, channel in db.execute(due, (now_us,)).fetchall():
                db.execute("DELETE FROM escalations WHERE alert = ? AND channel = ?", (alert, channel))
                if channel in known:
                    db.execute(
                        "INSERT INTO items (channel, transition_id, level, grp, at_us, escalated) "
                        "SELECT ?, t.id, t.shown, '', ?, 1 FROM alerts a JOIN transitions t ON t.id = a.transition_id "
                        "WHERE a.alert = ?",
                        (channel, now_us, alert),
                    )
                    db.execute("INSERT OR IGNORE INTO told VALUES (?, ?, 1)", (alert, channel))

    def _make(self, channel: ChannelSettings, now_us: int) -> bool:
        """Make messages of what waits for a channel."""
        newest = self._book.rows("SELECT max(id) AS id FROM items WHERE channel = ?", channel.name)[0]["id"]
        if newest is None or self._looked.get(channel.name) == (now_us, newest):
            return False
        with self._book.writing() as db:
            found = db.execute("SELECT * FROM items WHERE channel = ? ORDER BY id", (channel.name,)).fetchall()
            waiting = [
                Waiting(
                    row["id"], row["level"], row["grp"], row["at_us"], bool(row["escalated"]), bool(row["held"]),
                    bool(row["piled"]),
                )
                for row in found
            ]  # fmt: skip
            since = now_us - channel.storm_s * 1_000_000
            made = db.execute(
                "SELECT made_us, kind FROM messages WHERE channel = ? AND made_us > ?", (channel.name, since)
            ).fetchall()
            summary = max((row["made_us"] for row in made if row["kind"] == SUMMARY), default=None)
            what = plan(waiting, now_us, channel, self._settings, [row["made_us"] for row in made], summary)
            for mark, ids in (("held", what.hold), ("piled", what.pile)):
                db.executemany(f"UPDATE items SET {mark} = 1 WHERE id = ?", [(one,) for one in ids])  # noqa: S608 - names of ours
            for kind, ids in what.messages:
                self._queue(db, kind, channel.name, ids, now_us)
        self._looked[channel.name] = now_us, newest
        return bool(what.messages)

    def _queue(self, db: sqlite3.Connection, kind: str, channel: str, ids: Sequence[int], now_us: int) -> None:
        keys = [_key_of(db, one) for one in ids]
        worst = sorted(zip(ids, keys, strict=True), key=lambda one: -one[1][1])[:LISTED]
        rows = [_row_of(db, one) for one, _ in worst]
        message = compose(kind, channel, now_us, keys, rows, self._settings)
        # What was told already, as by a book that forgot half: the id says so, and once is enough.
        db.execute(
            "INSERT OR IGNORE INTO messages (id, channel, kind, level, count, made_us, queued_us, body, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued')",
            (
                message.id, channel, kind, message.level, message.count, now_us, self._clock.now_us(),
                message.to_json(),
            ),
        )  # fmt: skip
        db.executemany("DELETE FROM items WHERE id = ?", [(one,) for one in ids])


def _key_of(db: sqlite3.Connection, item: int) -> tuple[list[str | int], int]:
    """Return the key of a waiting transition, and the level that is shown."""
    *key, level = db.execute(
        "SELECT t.alert, t.state, t.level, t.time_us, i.escalated, i.level "
        "FROM items i JOIN transitions t ON t.id = i.transition_id WHERE i.id = ?",
        (item,),
    ).fetchone()
    return key, level


def _row_of(db: sqlite3.Connection, item: int) -> dict[str, Any]:
    row, escalated = db.execute(
        "SELECT t.row, i.escalated FROM items i JOIN transitions t ON t.id = i.transition_id WHERE i.id = ?", (item,)
    ).fetchone()
    return {**orjson.loads(row), "escalated": bool(escalated)}
