"""The gateway's core: messages in, durable frames and acknowledgements out. Sans-I/O: no socket, thread or clock.

The promise it keeps: **a packet id comes out of** :meth:`GatewayCore.flushed` **only after every frame of its flush
was durable, in the order in which the packets came, and only for the connection that it came on.** What becomes
of each kind of message stands in docs/gateway.md; the codes in :class:`Refused`.

One thread calls it (the network thread); :meth:`GatewayCore.configure` may be called from another.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from zlib import crc32

from ingest.fastpath import KEPT_BYTES, Large
from ingest.privacy import REDACTORS, Unparsable, keyed_digest, pseudonym
from ingest.raw import RawBuilder, Row, Source
from ingest.routes import CACHE_TOPICS, Match, RouteTable, filter_of
from qingtu.clock import SECOND
from qingtu.records import MAX_ROWS, MessageFlag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ingest.fastpath import Publish
    from qingtu.settings import MqttSettings


class Refused(StrEnum):
    """Why the gateway did not take a message; the raw column ``refused``."""

    TOO_LARGE = "too_large"
    EMPTY = "empty_payload"
    NO_ROUTE = "no_route"
    TOPIC_NOT_UTF8 = "topic_not_utf8"
    SYS_TOPIC = "sys_topic"
    UNPARSABLE_PRIVATE = "unparsable_private"


MARKER_IDLE_US: Final = 2 * SECOND
"""Without a marker: the backlog counts as drained when nothing came for so long."""

MARKER_WAIT_US: Final = 10 * SECOND
"""A broker that swallows the marker without a word (MQTT 3.1.1 has none) is found out after so long."""

MARKER_GIVE_UP_US: Final = 300 * SECOND
"""Without a marker and never idle: the backlog counts as drained after so long."""

# MQTT first byte, lower half (DUP 8, QoS 4+2, RETAIN 1) → MessageFlag
_FLAGS: Final = tuple(
    (h >> 1 & 3) | (MessageFlag.DUP.value if h & 8 else 0) | (MessageFlag.RETAIN.value if h & 1 else 0)
    for h in range(16)
)


@dataclass(frozen=True, slots=True)
class Flush:
    """Messages on their way to the bus.

    Attributes:
        frames: by partition; append each to ``raw``. Empty when only a marker is to be acknowledged.
        rows: messages in them.
        size: their payload bytes.
        acks: (connection, packet ids), in the order received.
        marker: connection whose marker is among them, 0 for none.
    """

    frames: dict[int, bytes]
    rows: int
    size: int
    acks: tuple[tuple[int, list[int]], ...]
    marker: int = 0


class GatewayCore:
    """Buffers, flushes, acknowledges.

    Args:
        routes: which topics are ours.
        limits: flush and buffer bounds.
        gateway: name of this gateway in frames.
        partitions: of the raw stream.
        key: for pseudonyms and keyed hashes.
        catalogue: version in use.
        station_of: (network, device) → station, None while unknown; it decides the partition.

    Attributes:
        rows: messages held, those of the outstanding flush included.
        size: their payload bytes.
        overfull: the bound was reached: disconnect, keep the session, come back when it is False again, which
            is when flushes have emptied half of it.
        taken: messages taken since the start.
        refused: how many of them by reason.
    """

    def __init__(
        self,
        routes: RouteTable,
        limits: MqttSettings,
        *,
        gateway: str,
        partitions: int,
        key: bytes,
        catalogue: str | None = None,
        station_of: Callable[[str, str], str | None] | None = None,
    ) -> None:
        self._limits = limits
        self._gateway = gateway
        self._partitions = partitions
        self._key = key
        self._flush_rows = min(limits.flush_rows, MAX_ROWS)
        self._marker_topic = f"qingtu/marker/{quote(limits.client_id, safe='')}".encode()
        self._sources = self._view(routes, catalogue, station_of)
        self._open = _Segment(partitions, gateway)
        self._sealed: deque[_Segment] = deque()
        self._outstanding: Flush | None = None
        self._retry = False
        self._connection = 0
        self._current: int | None = None
        self._drained: int | None = None
        self._no_marker = False
        self._deaf: frozenset[str] = frozenset()
        self._newest_us = 0
        self.rows = 0
        self.size = 0
        self.overfull = False
        self.taken = 0
        self.refused: dict[str, int] = dict.fromkeys(Refused, 0)

    # ---------------------------------------------------------------------------------------- configuration

    @property
    def routes(self) -> RouteTable:
        """The routes in use."""
        return self._sources.routes

    def configure(
        self,
        routes: RouteTable,
        catalogue: str | None,
        station_of: Callable[[str, str], str | None] | None,
    ) -> None:
        """Take a new catalogue or new routes from the next message on. Any thread may call."""
        self._sources = self._view(routes, catalogue, station_of)

    def _view(
        self,
        routes: RouteTable,
        catalogue: str | None,
        station_of: Callable[[str, str], str | None] | None,
    ) -> _Sources:
        return _Sources(routes, catalogue, station_of, self._partitions, self._key, self._marker_topic)

    def subscriptions(self) -> list[tuple[str, int]]:
        """Return (topic filter, QoS) to subscribe to, the marker's own last."""
        return [*self.routes.subscriptions(), (self._marker_topic.decode(), 1)]

    # ------------------------------------------------------------------------------------------- connection

    def connected(self, connection: int, session_present: bool, *, now_us: int | None = None) -> None:  # noqa: ARG002
        """The broker accepted us.

        Args:
            connection: µs UTC at which it did; greater than any before.
            session_present: the broker kept our session. Nothing hangs on it here: subscriptions are always
                made again, and only the marker says that a backlog is drained.
            now_us: ``connection`` when not given.
        """
        self._connection = self._current = connection
        self._drained = None
        self._no_marker = False
        self._deaf = frozenset()
        self._newest_us = connection if now_us is None else now_us

    def disconnected(self) -> None:
        """The connection ended; what it brought is still flushed, but not acknowledged."""
        self._current = None
        self._drained = None

    def marker(self) -> tuple[str, bytes]:
        """Return (topic, payload) to publish with QoS 1 once subscribed.

        When it comes back, everything that the broker had queued for us came before it.
        """
        return self._marker_topic.decode(), b"%d" % self._connection

    def subscriptions_refused(self, filters: Collection[str]) -> None:
        """The broker refused these topic filters: their routes hear nothing, the marker may be among them."""
        if self._marker_topic.decode() in filters:
            self.marker_refused()
        self._deaf = frozenset(filters)

    def marker_refused(self) -> None:
        """The broker does not let us publish or receive the marker: fall back to a pause of 2 s."""
        self._no_marker = True

    def poll(self, now_us: int) -> bool:
        """Look whether the fallback for the marker applies.

        Returns:
            True when the backlog now counts as drained without a marker: worth a line in the log.
        """
        current = self._current
        if current is None or self._drained == current or self.rows:
            return False
        since, idle = now_us - current, now_us - self._newest_us
        waited = self._no_marker or since >= MARKER_WAIT_US
        if waited and (idle >= MARKER_IDLE_US or since >= MARKER_GIVE_UP_US):
            self._drained = current
            return True
        return False

    def hearing_since(self, route: str) -> int | None:
        """Return since when (µs UTC) the route hears all that is sent; None while it does not.

        That is the time of the connection, as soon as its backlog is durable: what was sent before it and kept
        by the broker has come in, so silence since then is silence of the station.
        """
        if self._current is None or self._drained != self._current:
            return None
        for one in self.routes.routes:
            if one.name == route:
                return None if filter_of(one.topic) in self._deaf else self._current
        return None

    # ----------------------------------------------------------------------------------------------- receive

    def receive(
        self,
        topic: bytes,
        payload: bytes,
        *,
        qos: int,
        dup: bool,
        retain: bool,
        packet_id: int,
        properties: bytes | None,
        now_us: int,
    ) -> None:
        """Take one message; see :meth:`receive_many`."""
        head = 0x30 | dup << 3 | qos << 1 | retain
        self.receive_many([(head, topic, packet_id, properties, payload)], now_us)

    def receive_many(self, publishes: Sequence[Publish], now_us: int) -> None:
        """Take messages in the order received, as :class:`ingest.fastpath.Peeler` gives them.

        Args:
            publishes: quality of service 0 or 1.
            now_us: when they were received, µs UTC.
        """
        start, total = 0, len(publishes)
        while start < total:
            room = self._flush_rows - self._open.rows
            part = publishes if room >= total and not start else publishes[start : start + room]
            start += len(part)
            self._take(part, now_us)
            if self._open.rows >= self._flush_rows or self._open.size >= self._limits.flush_bytes:
                self._seal()
        if total:
            self._newest_us = now_us
            if self.rows >= self._limits.buffer_rows or self.size >= self._limits.buffer_bytes:
                self.overfull = True

    def _take(self, publishes: Sequence[Publish], now_us: int) -> None:
        sources, connection, segment = self._sources, self._connection, self._open
        known, appends, rows, size = sources.known, segment.appends, 0, 0
        acks: list[int] = []
        for head, topic, packet_id, properties, payload in publishes:
            if packet_id:
                acks.append(packet_id)
            source = known.get(topic) or sources.find(topic)
            n = len(payload)
            if 0 < n <= source.limit:
                flags = _FLAGS[head & 15]
                row: Row = (source, payload, flags, packet_id, properties, now_us, connection, n, "", None)  # type: ignore[assignment]  # a Large counts as longer than any limit
                kept = n
            elif topic == self._marker_topic:
                if payload == b"%d" % connection:
                    segment.marker = connection
                continue
            else:
                row = self._unusual(source, (head, topic, packet_id, properties, payload), now_us)
                kept = len(row[1])
            appends[source.partition](row)
            rows += 1
            size += kept
        segment.note(rows, size, connection, acks, now_us, sources.catalogue)
        self.rows += rows
        self.size += size
        self.taken += rows

    def _unusual(self, source: _Sender, publish: Publish, now_us: int) -> Row:
        """Make the row of a message that is private, or refused, or both."""
        head, _, packet_id, properties, payload = publish
        large = isinstance(payload, Large)
        flags = _FLAGS[head & 15]
        size = payload.size if isinstance(payload, Large) else len(payload)
        kept = payload.kept if isinstance(payload, Large) else payload
        reason = source.refused
        if not reason and (large or size > source.max_payload):
            reason = Refused.TOO_LARGE.value
        elif not reason and not size:
            reason = Refused.EMPTY.value
        digest = None
        if source.private:
            properties = None  # user properties may name a person
            flags |= MessageFlag.PSEUDONYMISED.value
            redacted = b"" if reason else self._redact(source, kept)
            if redacted is None:
                reason = Refused.UNPARSABLE_PRIVATE.value
            kept = redacted or b""
            if reason and size:
                flags |= MessageFlag.TRUNCATED.value
                digest = keyed_digest(self._key, _sha256(payload))
        elif reason and (large or size > KEPT_BYTES):
            flags |= MessageFlag.TRUNCATED.value
            digest = _sha256(payload)
            kept = kept[:KEPT_BYTES]
        if reason:
            self.refused[reason] += 1
        return source, kept, flags, packet_id, properties, now_us, self._connection, size, reason, digest

    def _redact(self, source: _Sender, payload: bytes) -> bytes | None:
        if source.redactor is None:
            return None
        try:
            return REDACTORS[source.redactor](payload, self._key)
        except Unparsable:
            return None

    # ------------------------------------------------------------------------------------------------- flush

    def _seal(self) -> None:
        self._sealed.append(self._open)
        self._open = _Segment(self._partitions, self._gateway)

    def wait_us(self, now_us: int) -> int | None:
        """Return in how many µs a flush is due: 0 now, None when there is nothing to flush or one is out."""
        if self._outstanding is not None:
            return 0 if self._retry else None
        if self._sealed:
            return 0
        segment = self._open
        if segment.empty:
            return None
        age, idle = now_us - segment.first_us, now_us - segment.last_us
        if age < 0 or idle < 0:  # the clock was set back
            return 0
        return max(0, min(self._limits.flush_ms * 1000 - age, self._limits.flush_idle_ms * 1000 - idle))

    def flush_due(self, now_us: int) -> bool:
        """Return whether :meth:`take` should be called: by size, by age, when idle, or after ``failed``."""
        return self.wait_us(now_us) == 0

    def take(self, now_us: int) -> Flush | None:  # noqa: ARG002 - frames carry times of receipt, not of flushing
        """Return what to make durable now; None when there is nothing or a flush is outstanding.

        After ``failed`` it is the same flush, unchanged.
        """
        if self._outstanding is not None:
            if not self._retry:
                return None
            self._retry = False
            return self._outstanding
        if not self._sealed:
            if self._open.empty:
                return None
            self._seal()
        self._outstanding = self._sealed.popleft().flush()
        return self._outstanding

    def flushed(self, flush: Flush) -> list[int]:
        """All frames of the flush are durable.

        Returns:
            the packet ids to acknowledge now, in this order. Those of an older connection are left out: packet
            ids are used anew on each connection, and the broker sends again what it has no PUBACK for.
        """
        assert flush is self._outstanding
        self._outstanding = None
        self.rows -= flush.rows
        self.size -= flush.size
        if self.overfull:
            half = self.rows <= self._limits.buffer_rows // 2 and self.size <= self._limits.buffer_bytes // 2
            self.overfull = not half
        if flush.marker and flush.marker == self._current:
            self._drained = self._current
        return [i for connection, ids in flush.acks if connection == self._current for i in ids]

    def failed(self, flush: Flush, kept: Collection[int] = ()) -> None:
        """The bus did not take it all: :meth:`take` gives the rest again, unchanged.

        Args:
            flush: the outstanding one.
            kept: partitions whose frame is durable all the same; appending them again would double them.
        """
        assert flush is self._outstanding
        if kept:
            frames = {p: frame for p, frame in flush.frames.items() if p not in kept}
            self._outstanding = replace(flush, frames=frames)
        self._retry = True


class _Sender(Source):
    """A source with what the core must know about it.

    Attributes:
        partition: where its rows go.
        limit: longest payload that goes the short way; 0 sends every message to ``_unusual``.
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
        self.limit = 0 if refused or private else self.max_payload


class _Sources:
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
        self.known: dict[bytes, _Sender] = {}
        self._station_of = station_of
        self._partitions = partitions
        self._key = key
        self._marker = marker

    def find(self, topic: bytes) -> _Sender:
        """Make and remember the source of a topic; the memory is bounded, as topics are invented by others."""
        if len(self.known) >= CACHE_TOPICS:
            self.known.clear()
        source = self.known[topic] = self._make(topic)
        return source

    def _make(self, topic: bytes) -> _Sender:
        if topic == self._marker:  # whatever route would match it: limit 0 shows it to the core
            return _Sender(topic.decode(), None, 0, Refused.NO_ROUTE, private=True)
        try:
            text, refused = topic.decode(), ""
        except UnicodeDecodeError:
            text, refused = topic.decode(errors="backslashreplace"), Refused.TOPIC_NOT_UTF8
        if not refused and text.startswith("$SYS"):
            refused = Refused.SYS_TOPIC
        match = None if refused else self.routes.match(text)
        if match is None:
            private = refused != Refused.SYS_TOPIC and self.routes.may_be_private(text)
            return _Sender(text, None, self._partition(text), refused or Refused.NO_ROUTE, private=private)
        station = self._station_of(match.network, match.device) if self._station_of else None
        partition = self._partition(station or f"{match.network}/{match.device}")
        return _Sender(self._public(text, match), match, partition, "", private=match.private)

    def _partition(self, name: str) -> int:
        return crc32(name.encode()) % self._partitions

    def _public(self, topic: str, match: Match) -> str:
        """Return the topic with levels that may carry an identifier replaced."""
        if match.public_levels is None:
            return topic
        return "/".join(
            level if i in match.public_levels else pseudonym(self._key, "topic", level)
            for i, level in enumerate(topic.split("/"))
        )


class _Segment:
    """The messages of one flush, while they are collected."""

    __slots__ = ("acks", "appends", "builders", "catalogue", "first_us", "last_us", "marker", "rows", "size")

    def __init__(self, partitions: int, gateway: str) -> None:
        self.builders = [RawBuilder(gateway) for _ in range(partitions)]
        self.appends = [builder.append for builder in self.builders]
        self.acks: list[tuple[int, list[int]]] = []
        self.rows = 0
        self.size = 0
        self.marker = 0
        self.first_us = 0
        self.last_us = 0
        self.catalogue: str | None = None

    @property
    def empty(self) -> bool:
        return not self.rows and not self.acks

    def note(
        self, rows: int, size: int, connection: int, acks: list[int], now_us: int, catalogue: str | None
    ) -> None:
        if self.empty:
            self.first_us = now_us
        self.rows += rows
        self.size += size
        self.last_us = now_us
        self.catalogue = catalogue
        if acks:
            if self.acks and self.acks[-1][0] == connection:
                self.acks[-1][1].extend(acks)
            else:
                self.acks.append((connection, acks))

    def flush(self) -> Flush:
        frames = {
            partition: builder.build(self.catalogue, builder.rows[-1][5])
            for partition, builder in enumerate(self.builders)
            if builder.rows
        }
        return Flush(frames, self.rows, self.size, tuple(self.acks), self.marker)


def _sha256(payload: bytes | Large) -> bytes:
    return payload.sha256 if isinstance(payload, Large) else hashlib.sha256(payload).digest()
