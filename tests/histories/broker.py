"""An MQTT broker as it may behave: one session of ours, QoS 1, redelivery with DUP, and connections that break.

Packet identifiers are handed out in turn from 1 to 65,535, as mosquitto does; a broker that forgot its sessions begins
at 1 again. What stands on the wire when a connection breaks is lost, both ways.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

_IDENTIFIERS: Final = 65_535


@dataclass(frozen=True, slots=True)
class Message:
    """One publish.

    Attributes:
        uid: number of the publish, by which a history follows it; -1 for our own marker.
        device: who sent it, "" for the marker.
        topic: as sent.
        payload: as sent.
        qos: 0 or 1.
    """

    uid: int
    device: str
    topic: str
    payload: bytes
    qos: int = 1


@dataclass(slots=True)
class Wire:
    """One connection, seen from the broker.

    Attributes:
        packets: on their way to us: (DUP, packet identifier, message).
        open: False once it broke.
        next_uid: publishes below this came before the connection.
    """

    next_uid: int
    packets: deque[tuple[bool, int, Message]] = field(default_factory=deque)
    open: bool = True


class SimBroker:
    """The broker with the one session that we hold there.

    Args:
        window: messages in flight at most.

    Attributes:
        up: takes connections.
        wire: the connection, if any.
        lost: uids that the broker took and then forgot: its promise, not ours.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._session = False
        self._queue: deque[Message] = deque()
        self._in_flight: dict[int, Message] = {}
        self._last = 0
        self._next_uid = 0
        self.wire: Wire | None = None
        self.up = True
        self.lost: set[int] = set()

    def publish(self, message: Message) -> bool:
        """Take a message; False when nobody has subscribed yet, or it is QoS 0 and nobody is there."""
        self._next_uid = max(self._next_uid, message.uid + 1)
        if not self.up or not self._session or (message.qos == 0 and self.wire is None):
            return False
        self._queue.append(message)
        return True

    def publish_marker(self, topic: str, payload: bytes) -> None:
        """Take the gateway's own marker, which comes back behind all that waits."""
        self._queue.append(Message(-1, "", topic, payload))

    def connect(self) -> tuple[Wire, bool]:
        """Accept us: clean start off. Returns the connection and whether there was a session."""
        present, self._session = self._session, True
        self.cut()
        self.wire = Wire(self._next_uid)
        self.wire.packets.extend((True, number, message) for number, message in self._in_flight.items())
        return self.wire, present

    def cut(self) -> None:
        """Break the connection."""
        if self.wire is not None:
            self.wire.open = False
            self.wire.packets.clear()
            self.wire = None

    def pump(self) -> None:
        """Send what the window allows."""
        while self.wire is not None and self._queue and len(self._in_flight) < self._window:
            message = self._queue.popleft()
            number = 0
            if message.qos:
                number = self._last = self._last % _IDENTIFIERS + 1
                self._in_flight[number] = message
            self.wire.packets.append((False, number, message))

    def idle(self) -> bool:
        """Say whether there is a connection with nothing on it, and nothing that could be sent on it now."""
        room = len(self._in_flight) < self._window
        return self.wire is not None and not self.wire.packets and not (self._queue and room)

    def puback(self, wire: Wire, number: int) -> None:
        """Take an acknowledgement; one on a broken connection never arrives, an unknown number means nothing."""
        if wire is self.wire:
            self._in_flight.pop(number, None)

    def restart(self, *, forget: bool) -> None:
        """Restart, with or without the store."""
        self.cut()
        if forget:
            self.lost.update(m.uid for m in self.waiting())
            self._queue.clear()
            self._in_flight.clear()
            self._session = False
            self._last = 0

    def waiting(self) -> list[Message]:
        """Return all that was taken and not acknowledged."""
        return [*self._in_flight.values(), *self._queue]
