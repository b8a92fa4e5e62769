"""The gateway's core: messages in, durable frames and acknowledgements out. Sans-I/O: no socket, thread or clock.

The promise it keeps: **a packet id comes out of** :meth:`GatewayCore.flushed` **only after every frame of its flush
was durable, in the order in which the packets came, and only for the connection that it came on.** What becomes
of each kind of message stands in docs/gateway.md; the codes in :class:`Refused`.

One thread calls it (the network thread); :meth:`GatewayCore.configure` may be called from another.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ingest.peeler import KEPT_BYTES, Large
from ingest.privacy import REDACTORS, Unparsable, keyed_digest
from ingest.routes import filter_of
from ingest.segment import Flush, Segment
from ingest.sources import Refused, Sources, misfit
from qingtu.clock import SECOND
from qingtu.records import MAX_ROWS, MessageFlag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ingest.peeler import Publish
    from ingest.raw import Row
    from ingest.routes import RouteTable
    from ingest.sources import Sender
    from qingtu.settings import MqttSettings


__all__ = ["Flush", "GatewayCore", "Refused"]

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
        size: bytes of their payloads and properties, and of topics of unusual ones.
        overfull: the bound was reached: disconnect, keep the session, come back when it is False again, which
            is when flushes have emptied half of it.
        taken, taken_bytes: messages taken since the start, and their bytes, counted as ``size`` is.
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
        self._open = Segment(partitions, gateway)
        self._sealed: deque[Segment] = deque()
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
        self.taken = self.taken_bytes = 0
        self.refused: dict[str, int] = dict.fromkeys((r.value for r in Refused), 0)

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
    ) -> Sources:
        return Sources(routes, catalogue, station_of, self._partitions, self._key, self._marker_topic)

    def subscriptions(self) -> list[tuple[str, int]]:
        """Return (topic filter, QoS) to subscribe to, the marker's own last."""
        return [*self.routes.subscriptions(), (self._marker_topic.decode(), 1)]

    # ------------------------------------------------------------------------------------------- connection

    def connected(self, connection: int, session_present: bool, *, now_us: int | None = None) -> None:
        """The broker accepted us.

        Args:
            connection: µs UTC at which it did; greater than any before.
            session_present: the broker kept our session. If not, packet identifiers begin anew, and raw is told so
                before any message of the new session. Nothing else hangs on it: subscriptions are always made again,
                and only the marker says that a backlog is drained.
            now_us: ``connection`` when not given.
        """
        self._connection = self._current = connection
        self._drained = None
        self._no_marker = False
        self._deaf = frozenset()
        self._newest_us = connection if now_us is None else now_us
        if not session_present:
            if not self._open.empty:
                self._seal()
            self._open.begin_session(connection, self._newest_us, self._sources.catalogue)

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
        if current is None or self.drained or self.rows:
            return False
        since, idle = now_us - current, now_us - self._newest_us
        waited = self._no_marker or since >= MARKER_WAIT_US
        if waited and (idle >= MARKER_IDLE_US or since >= MARKER_GIVE_UP_US):
            self._drained = current
            return True
        return False

    @property
    def drained(self) -> bool:
        """Whether all that the broker had queued before this connection is durable."""
        return self._current is not None and self._drained == self._current

    def hearing_since(self, route: str) -> int | None:
        """Return since when (µs UTC) the route hears all that is sent; None while it does not.

        That is the time of the connection, as soon as its backlog is durable: what was sent before it and kept
        by the broker has come in, so silence since then is silence of the station.
        """
        if not self.drained:
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
            if 0 < n <= source.limit and (properties is None or len(properties) <= KEPT_BYTES):
                flags = _FLAGS[head & 15]
                row: Row = (source, payload, flags, packet_id, properties, now_us, connection, n, "", None)  # type: ignore[assignment]  # a Large counts as longer than any limit
                kept = n if properties is None else n + len(properties)
            elif topic == self._marker_topic:
                if payload == b"%d" % connection:
                    segment.marker = connection
                continue
            else:
                row = self._unusual(source, (head, topic, packet_id, properties, payload), now_us)
                # With the topic: it can be 64 KiB, and such ones come here.
                kept = len(row[1]) + len(row[4] or b"") + len(topic)
            appends[source.partition](row)
            rows += 1
            size += kept
        segment.note(rows, size, connection, acks, now_us, sources.catalogue)
        self.rows += rows
        self.size += size
        self.taken += rows
        self.taken_bytes += size

    def _unusual(self, source: Sender, publish: Publish, now_us: int) -> Row:
        """Make the row of a message that is private, or refused, or has a long topic."""
        head, _, packet_id, properties, payload = publish
        large = isinstance(payload, Large)
        if properties is not None and len(properties) > KEPT_BYTES:
            large, properties = True, properties[:KEPT_BYTES]
        flags = _FLAGS[head & 15]
        size = payload.size if isinstance(payload, Large) else len(payload)
        kept = payload.kept if isinstance(payload, Large) else payload
        # The properties of a large one, too, may be what no route takes.
        reason = source.refused or (Refused.TOO_LARGE.value if large else misfit(size, source.max_payload))
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

    def _redact(self, source: Sender, payload: bytes) -> bytes | None:
        if source.redactor is None:
            return None
        try:
            return REDACTORS[source.redactor](payload, self._key)
        except Unparsable:
            return None

    # ------------------------------------------------------------------------------------------------- flush

    def _seal(self) -> None:
        self._sealed.append(self._open)
        self._open = Segment(self._partitions, self._gateway)

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
        self._outstanding = self._sealed[0].flush()
        self._sealed.popleft()  # only now: what could not be encoded stays
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


def _sha256(payload: bytes | Large) -> bytes:
    return payload.sha256 if isinstance(payload, Large) else hashlib.sha256(payload).digest()
