"""PUBLISH packets cut off a broker's byte stream in bulk; all other packets are left for paho.

Sans-I/O: bytes in, packets out. It knows the framing of MQTT 3.1.1 and 5 and nothing else, and it is meant to be
shown hostile bytes: memory stays within the bound whatever a length claims, and how the bytes were cut makes no
difference. What a PUBLISH means is :mod:`ingest.core`'s; the socket is :mod:`ingest.fastpath`'s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT_BYTES: Final = 64 * 1024
"""What is kept of a payload, and of properties, that are too large."""

CONTROL_LIMIT: Final = 1 << 20
"""A packet other than PUBLISH is never larger than this; SUBACK has one byte a filter."""

MALFORMED, PROTOCOL_ERROR, QOS_NOT_SUPPORTED = 0x81, 0x82, 0x9B  # MQTT 5, 2.4 reason codes

_PUBACK: Final = b"\x40\x02"
_PUBLISH: Final = 0x30


class ProtocolError(Exception):
    """The byte stream is not MQTT as we agreed to speak it; the connection must end.

    Attributes:
        reason: MQTT 5 reason code for DISCONNECT.
    """

    def __init__(self, message: str, reason: int = MALFORMED) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Large:
    """What is kept of a payload that was streamed through because it, or its properties, are too large.

    Attributes:
        kept: its first 64 KiB.
        size: its bytes.
        sha256: of the whole.
        packet_bytes: of the whole packet, which is more than any route allows.
    """

    kept: bytes
    size: int
    sha256: bytes
    packet_bytes: int

    def __len__(self) -> int:
        """Return ``packet_bytes``, so that its length exceeds every route's limit, as a payload's would."""
        return self.packet_bytes


Publish = tuple[int, bytes, int, "bytes | None", "bytes | Large"]
"""(first byte of the packet, topic, packet id or 0, properties without their length or None, payload)."""


class Peeler:
    """Cuts a broker's byte stream into PUBLISH packets and the rest.

    Args:
        version5: PUBLISH packets carry properties.
        max_payload: the largest payload that any route takes; what is larger is streamed through and comes out
            as :class:`Large`, so at most about this much (and 192 KiB) is held.

    Attributes:
        error: why the stream ended; what came before it was given out, what comes after is ignored.
    """

    def __init__(self, *, version5: bool, max_payload: int) -> None:
        self.error: ProtocolError | None = None
        self._version5 = version5
        self._max_length = longest_packet(max_payload)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._need = 0
        self._large: LargePublish | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of an incomplete packet that wait for the rest of it."""
        return self._held_bytes + (self._large.held_bytes if self._large else 0)

    def feed(self, data: bytes) -> tuple[list[Publish], bytes]:
        """Take what came from the network.

        Returns:
            the PUBLISH packets that are now complete, in order, and all other packets that are now complete,
            as one byte string for paho. After a broken packet ``error`` is set.
        """
        publishes: list[Publish] = []
        rest: list[bytes] = []
        if self.error is None:
            try:
                self._feed(data, publishes, rest)
            except ProtocolError as error:
                self.error = error
                self._held, self._held_bytes, self._large = [], 0, None
        return publishes, b"".join(rest)

    def _feed(self, data: bytes, publishes: list[Publish], rest: list[bytes]) -> None:
        if self._large is not None:
            used = self._large.feed(data)
            if not self._large.done:
                return
            publishes.append(self._large.publish())
            self._large = None
            data = data[used:]
        if self._held:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes < self._need:  # joining at every read would be quadratic
                return
            data = b"".join(self._held)
            self._held, self._held_bytes = [], 0
        done = self._cut(data, publishes, rest)
        if done < len(data):
            self._held = [data[done:] if done else data]
            self._held_bytes = len(data) - done

    def _cut(  # noqa: C901, PLR0912, PLR0915 - the hot loop: a call per field would double its cost
        self, data: bytes, publishes: list[Publish], rest: list[bytes]
    ) -> int:
        """Cut complete packets off; return where the incomplete one begins, and set how much it needs."""
        version5, max_length, n, at = self._version5, self._max_length, len(data), 0
        add = publishes.append
        try:
            while at + 1 < n:
                head, length = data[at], data[at + 1]
                body = at + 2
                if length > 127:
                    if body < n and data[body] < 128:  # two bytes: almost all packets
                        length = length & 127 | data[body] << 7
                        body += 1
                    else:
                        length, body = _variable(data, at + 1)
                    if body < 0:
                        self._need = n - at + 1
                        return at
                if head & 0xF0 != _PUBLISH:
                    if head < 0x10 or length > CONTROL_LIMIT:
                        raise ProtocolError(f"packet type {head >> 4} with {length} bytes", PROTOCOL_ERROR)
                    end = body + length
                    if end > n:
                        break
                    rest.append(data[at:end])
                    at = end
                    continue
                if head & 4:
                    _refuse_qos(head)
                if length > max_length:
                    self._large = LargePublish(head, length, version5=self._version5)
                    used = self._large.feed(data[body:])
                    if not self._large.done:
                        return n
                    add(self._large.publish())
                    self._large = None
                    at = body + used
                    continue
                end = body + length
                if end > n:
                    break
                topic_end = body + 2 + (data[body] << 8 | data[body + 1])
                topic = data[body + 2 : topic_end]
                packet_id = 0
                if head & 2:
                    packet_id = data[topic_end] << 8 | data[topic_end + 1]
                    if not packet_id:
                        raise ProtocolError("packet identifier 0", PROTOCOL_ERROR)
                    topic_end += 2
                properties = None
                if version5:
                    size = data[topic_end]
                    topic_end += 1
                    if size:
                        if size > 127:
                            size, topic_end = _variable(data, topic_end - 1)
                            if topic_end < 0:
                                raise ProtocolError("property length is cut short")
                        properties = data[topic_end : topic_end + size]
                        topic_end += size
                if topic_end > end or not topic:
                    raise ProtocolError("PUBLISH is shorter than what it says, or has no topic")
                add((head, topic, packet_id, properties, data[topic_end:end]))
                at = end
        except IndexError:
            raise ProtocolError("PUBLISH is shorter than what it says") from None
        self._need = end - at if at + 1 < n else 2
        return at


class LargePublish:
    """One PUBLISH that is streamed through: keeps the first 64 KiB of payload and properties, and a hash.

    Args:
        head: first byte of the packet.
        length: its remaining length.
        version5: it carries properties.

    Raises:
        ProtocolError: its quality of service is 2.
    """

    def __init__(self, head: int, length: int, *, version5: bool) -> None:
        if head & 4:
            _refuse_qos(head)
        self._head = head
        self._length = length
        self._left = length
        self._version5 = version5
        self._start = bytearray()  # topic, packet id and property length, until they are complete
        self._topic = b""
        self._packet_id = 0
        self._properties: bytearray | None = None
        self._properties_left = -1  # -1: the variable header is not complete
        self._kept = bytearray()
        self._size = 0
        self._hash = hashlib.sha256()

    @property
    def done(self) -> bool:
        """Return whether all of it was seen."""
        return self._left == 0

    @property
    def held_bytes(self) -> int:
        """Bytes held; never more than about 192 KiB."""
        return len(self._start) + len(self._properties or b"") + len(self._kept)

    def feed(self, data: bytes) -> int:
        """Take bytes of the packet and return how many belong to it.

        Raises:
            ProtocolError: its parts do not fit its length.
        """
        used = min(len(data), self._left)
        self._left -= used
        view = memoryview(data)[:used]
        if self._properties_left < 0:
            view = self._feed_start(view)
        if view and self._properties_left > 0:
            part = view[: self._properties_left]
            self._properties_left -= len(part)
            assert self._properties is not None
            self._properties += part[: max(0, KEPT_BYTES - len(self._properties))]
            view = view[len(part) :]
        if view:
            self._hash.update(view)
            self._size += len(view)
            self._kept += view[: max(0, KEPT_BYTES - len(self._kept))]
        return used

    def publish(self) -> Publish:
        """Return what is kept of it. Only when ``done``."""
        large = Large(bytes(self._kept), self._size, self._hash.digest(), self._length)
        properties = None if self._properties is None else bytes(self._properties)
        return self._head, self._topic, self._packet_id, properties, large

    def _feed_start(self, view: memoryview) -> memoryview:
        """Collect the variable header; return what comes after it."""
        before = len(self._start)
        self._start += view[: 65_537 + 2 + 4]
        start = self._start
        size = 2 + (start[0] << 8 | start[1]) if len(start) > 1 else 2
        at = size + (2 if self._head & 2 else 0)
        if len(start) >= at and len(start) > 1:
            properties, end = _variable(start, at) if self._version5 else (0, at)
            if end >= 0:
                self._topic = bytes(start[2:size])
                self._packet_id = start[size] << 8 | start[size + 1] if self._head & 2 else 0
                if not self._topic or (self._head & 2 and not self._packet_id):
                    raise ProtocolError("no topic or packet identifier 0", PROTOCOL_ERROR)
                if end + properties > self._length:
                    raise ProtocolError("properties are longer than the packet")
                self._properties = bytearray() if properties else None
                self._properties_left = properties
                self._start = bytearray()
                return view[end - before :]
        return view[len(view) :]


def longest_packet(max_payload: int) -> int:
    """Return the longest remaining length of a PUBLISH that is collected, not streamed through.

    Payload, topic (2 + 65,535), packet id (2), property length (4), and as many properties as are kept.
    """
    return max_payload + 65_537 + 2 + 4 + KEPT_BYTES


def parse_publish(head: int, body: bytes, *, version5: bool) -> Publish:
    """Read one PUBLISH packet that paho has framed.

    Raises:
        ProtocolError: it is malformed, or its quality of service is 2.
    """
    peeler = Peeler(version5=version5, max_payload=len(body))
    size, length = len(body), bytearray()
    while True:
        length.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            break
    publishes, _ = peeler.feed(bytes((head, *length)) + body)
    if peeler.error is not None:
        raise peeler.error
    return publishes[0]


def pubacks(packet_ids: Sequence[int]) -> bytes:
    """Return PUBACK packets, four bytes each; reason code success is left out in version 5, as in 3.1.1.

    >>> pubacks([1, 258]).hex(" ", 4)
    '40020001 40020102'
    """
    return b"".join([_PUBACK + i.to_bytes(2, "big") for i in packet_ids])


def _variable(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Read a variable byte integer (MQTT 5, 1.5.5).

    Returns:
        the number and where it ends; the end is -1 when it is cut short.
    """
    value = 0
    for i in range(4):
        if at + i >= len(data):
            return 0, -1
        byte = data[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ProtocolError("a length has more than four bytes")


def _refuse_qos(head: int) -> None:
    if head & 2:
        raise ProtocolError("quality of service 3 does not exist")
    raise ProtocolError("a QoS 2 PUBLISH, though we subscribe with QoS 1", QOS_NOT_SUPPORTED)
