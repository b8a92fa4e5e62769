"""What a topic means for the gateway: sender, partition, limit, privacy, or the reason why it is refused.

Looked up once per topic and remembered; one :class:`Sources` is one catalogue version's view.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from ingest.privacy import pseudonym
from ingest.raw import Source
from ingest.routes import CACHE_TOPICS, LONG_TOPIC
from qingtu.partitions import partition_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.routes import Match, RouteTable


class Refused(StrEnum):
    """Why the gateway did not take a message; the raw column ``refused``."""

    TOO_LARGE = "too_large"
    EMPTY = "empty_payload"
    NO_ROUTE = "no_route"
    TOPIC_NOT_UTF8 = "topic_not_utf8"
    SYS_TOPIC = "sys_topic"
    UNPARSABLE_PRIVATE = "unparsable_private"


def misfit(size: int, max_payload: int) -> str:
    """Return why a payload is refused whatever is in it, "" when it is not.

    Args:
        size: of the payload, bytes.
        max_payload: longest one that its route takes, bytes.
    """
    if size > max_payload:
        return Refused.TOO_LARGE.value
    return "" if size else Refused.EMPTY.value


class Sender(Source):
    """A source with what the core must know about it.

    Attributes:
        partition: where its rows go.
        limit: longest payload that goes the short way; 0 sends every message to ``_unusual``, as with a long topic.
        max_payload: longest payload that its route takes.
        refused: reason code for all its messages, "" for none.
        private: nothing may be kept that no redactor has seen.
        redactor: key in REDACTORS.
    """

    __slots__ = ("limit", "max_payload", "partition", "private", "redactor", "refused")

    def __init__(self, topic: str, match: Match | None, partition: int, refused: str, *, private: bool) -> None:
        if match is None:
            super().__init__(topic)
        else:
            super().__init__(topic, match.network, match.route.name, match.device)
        self.partition = partition
        self.refused = refused
        self.private = private
        self.redactor = match.redactor if match else None
        self.max_payload = match.route.max_payload_bytes if match else 0
        self.limit = 0 if refused or private or len(topic) > LONG_TOPIC else self.max_payload


class Sources:
    """One catalogue version's view of topics; replaced as a whole when the catalogue changes."""

    def __init__(
        self,
        routes: RouteTable,
        catalogue: str | None,
        station_of: Callable[[str, str], str | None] | None,
        partitions: int,
        key: bytes,
        marker: bytes,
    ) -> None:
        self.routes = routes
        self.catalogue = catalogue
        self.known: dict[bytes, Sender] = {}
        self._station_of = station_of
        self._partitions = partitions
        self._key = key
        self._marker = marker

    def find(self, topic: bytes) -> Sender:
        """Make and remember the source of a topic; the memory is bounded, as topics are invented by others."""
        if len(topic) > LONG_TOPIC:
            return self._make(topic)
        if len(self.known) >= CACHE_TOPICS:
            self.known.clear()
        source = self.known[topic] = self._make(topic)
        return source

    def _make(self, topic: bytes) -> Sender:
        if topic == self._marker:  # whatever route would match it: limit 0 shows it to the core
            return Sender(topic.decode(), None, 0, Refused.NO_ROUTE, private=True)
        try:
            text, refused = topic.decode(), ""
        except UnicodeDecodeError:
            text, refused = topic.decode(errors="backslashreplace"), Refused.TOPIC_NOT_UTF8
        if not refused and text.startswith("$SYS"):
            refused = Refused.SYS_TOPIC
        match = None if refused else self.routes.match(text)
        if match is None:
            private = refused != Refused.SYS_TOPIC and self.routes.may_be_private(text)
            partition = partition_of(text, self._partitions)
            return Sender(text, None, partition, refused or Refused.NO_ROUTE, private=private)
        station = self._station_of(match.network, match.device) if self._station_of else None
        partition = partition_of(station or f"{match.network}/{match.device}", self._partitions)
        return Sender(self._public(text, match), match, partition, "", private=match.private)

    def _public(self, topic: str, match: Match) -> str:
        """Return the topic with levels that may carry an identifier replaced."""
        if match.public_levels is None:
            return topic
        return "/".join(
            level if i in match.public_levels else pseudonym(self._key, "topic", level)
            for i, level in enumerate(topic.split("/"))
        )
