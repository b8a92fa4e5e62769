"""The sink: takes frames of ``alerts`` into its book; what follows from them is done by works of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from qingtu.errors import NotFound, RetryLater
from qingtu.records import ALERTS, Frame
from sinks.notify.book import Book
from sinks.notify.channels import open_channel
from sinks.notify.clockwork import Clockwork, StreamClock
from sinks.notify.delivery import Delivery
from sinks.notify.intake import Intake, transitions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import SinkPlace


class NotifySink:
    """See :class:`qingtu.contracts.Sink` and :class:`qingtu.contracts.Working`.

    Args:
        place: where it is made.

    Raises:
        StartError: a channel cannot be opened: file, address, or apprise missing.
    """

    name = "notify"
    stream = ALERTS
    wait_s = 0.5

    def __init__(self, place: SinkPlace) -> None:
        self._place = place
        self._settings = place.settings.notify
        self._channels = {
            one.name: open_channel(one, self._settings.language, place.clock) for one in self._settings.channels
        }
        self._book = Book(place.folder, place.clock.now_us())
        self._log = structlog.get_logger("notify")

    def write(self, frames: Sequence[Frame]) -> None:
        """Take transitions; see the contract. All of a write are durable together, or none is."""
        with self._book.writing() as db:
            intake = Intake(db, self._settings, self._book.since_us())
            for frame in frames:
                batch = frame.get("alerts")
                if batch is not None:
                    catalogue = self._catalogue(frame.header.get("catalogue"))
                    for row in transitions_of(batch):
                        intake.take(row, catalogue)

    def works(self, behind: Callable[[], int]) -> Mapping[str, Callable[[], bool]]:
        """Return the clockwork and one delivery a channel."""
        clock, book = self._place.clock, self._book
        clockwork = Clockwork(book, self._settings, StreamClock(self._place.bus), clock, behind)
        deliveries = {
            f"notify-{name}": Delivery(name, channel, book, clock, self._settings.give_up_h).step
            for name, channel in self._channels.items()
        }
        return {"notify": clockwork.step, **deliveries}

    def problems(self) -> list[dict[str, str]]:
        """Return dead letters by channel."""
        try:
            found = self._book.rows(
                "SELECT channel, count(*) AS n FROM messages WHERE state = 'dead' GROUP BY channel ORDER BY channel"
            )
        except RetryLater as error:
            return [{"key": "notify_book", "zh": f"通知记录无法读取: {error}", "en": f"delivery book: {error}"}]
        return [
            {
                "key": f"notify_dead_{row['channel']}",
                "zh": f"通知渠道 {row['channel']} 有 {row['n']} 条未送达: 修复后运行 qingtu notify retry",
                "en": f"channel {row['channel']} has {row['n']} dead letters: mend it, then qingtu notify retry",
            }
            for row in found
        ]

    def close(self) -> None:
        """Let go of the book."""
        self._book.close()

    def _catalogue(self, version: str | None) -> Catalogue | None:
        if version is None:
            return None
        try:
            return self._place.catalogues(version)
        except NotFound as error:
            self._log.warning("no_names", reason=str(error), next="ids take the place of names")
            return None
