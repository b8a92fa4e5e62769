"""Sends the messages of one channel: in order, tried again with growing, jittered pauses, and kept when given up.

Each channel has a thread of its own, so that one that hangs holds up no other. A message that failed five times steps
aside: those behind it go first, and it goes on being tried. After ``give_up_h`` it becomes a dead letter.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import structlog

from qingtu.clock import HOUR, SECOND
from qingtu.errors import RetryLater
from sinks.notify.messages import Message

if TYPE_CHECKING:
    import sqlite3

    from qingtu.clock import Clock
    from sinks.notify.book import Book
    from sinks.notify.channels import Channel

_ASIDE: Final = 5
_FIRST_S: Final = 2.0
_LONGEST_S: Final = 300.0
_WAITING: Final = "channel = ? AND state IN ('queued', 'sending')"


class Delivery:
    """The work of one channel.

    Args:
        name: of the channel.
        channel: sends.
        book: is written before and after.
        clock: for pauses and the time after which a message is given up.
        give_up_h: so long a message is tried.
    """

    def __init__(self, name: str, channel: Channel, book: Book, clock: Clock, give_up_h: float) -> None:
        self.name = name
        self._channel = channel
        self._book = book
        self._clock = clock
        self._give_up_us = round(give_up_h * HOUR)
        self._problem = ""
        self._log = structlog.get_logger(f"notify-{name}")

    def step(self) -> bool:
        """Send one message when one is due; True when it was taken.

        Raises:
            RetryLater: what was tried last was not taken, and waits.
        """
        job = self._next()
        if job is None:
            if self._problem and not self._book.rows(f"SELECT 1 FROM messages WHERE {_WAITING} LIMIT 1", self.name):  # noqa: S608 - words of ours
                self._problem = ""
            if self._problem:
                raise RetryLater(self._problem)
            return False
        try:
            self._channel.send(Message.from_json(job["body"]))
        except RetryLater as later:
            self._failed(job, str(later))
            raise
        except Exception as error:  # a library's own fault must not end the channel
            self._failed(job, type(error).__name__)
            raise RetryLater(f"{self.name}: {type(error).__name__}") from error
        self._sent(job)
        return True

    def _next(self) -> sqlite3.Row | None:
        """Take the next message that is due, and write down that it is being sent."""
        now = self._clock.now_us()
        with self._book.writing() as db:
            job: sqlite3.Row | None = db.execute(
                f"SELECT * FROM messages WHERE {_WAITING} AND attempts < ? ORDER BY seq LIMIT 1",  # noqa: S608 - words of ours
                (self.name, _ASIDE),
            ).fetchone()
            if job is None or not self._due(job, now):
                job = db.execute(
                    f"SELECT * FROM messages WHERE {_WAITING} AND attempts >= ? ORDER BY next_us LIMIT 1",  # noqa: S608 - words of ours
                    (self.name, _ASIDE),
                ).fetchone()
            if job is None or not self._due(job, now):
                return None
            db.execute("UPDATE messages SET state = 'sending', attempts = attempts + 1 WHERE seq = ?", (job["seq"],))
        return job

    @staticmethod
    def _due(job: sqlite3.Row, now_us: int) -> bool:
        # further away than any pause: the clock was set back
        return not 0 < job["next_us"] - now_us <= 2 * _LONGEST_S * SECOND

    def _sent(self, job: sqlite3.Row) -> None:
        now = self._clock.now_us()
        with self._book.writing() as db:
            db.execute("UPDATE messages SET state = 'sent', done_us = ?, error = '' WHERE seq = ?", (now, job["seq"]))
            db.execute("INSERT OR IGNORE INTO channels (channel) VALUES (?)", (self.name,))
            db.execute("UPDATE channels SET sent = sent + 1, sent_us = ? WHERE channel = ?", (now, self.name))
        self._problem = ""

    def _failed(self, job: sqlite3.Row, reason: str) -> None:
        now = self._clock.now_us()
        dead = now - job["queued_us"] >= self._give_up_us
        pause_s = min(_FIRST_S * 2.0 ** min(job["attempts"], 20), _LONGEST_S) * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        with self._book.writing() as db:
            db.execute(
                "UPDATE messages SET state = ?, next_us = ?, done_us = ?, error = ? WHERE seq = ?",
                (
                    "dead" if dead else "queued",
                    now + round(pause_s * SECOND),
                    now if dead else None,
                    reason,
                    job["seq"],
                ),
            )
            db.execute("INSERT OR IGNORE INTO channels (channel) VALUES (?)", (self.name,))
            db.execute("UPDATE channels SET error = ?, error_us = ? WHERE channel = ?", (reason, now, self.name))
        self._problem = reason
        if dead:
            self._log.warning(
                "given_up", message=job["id"], reason=reason, next="kept as a dead letter: qingtu notify retry"
            )
