"""Which of two processes with the same client id keeps the session. Sans-I/O; MqttSession talks.

A broker ends the older connection when a client id connects again. Two processes that both come back at once would
take the session from each other for ever, and mosquitto 2.0 does not say why a connection ends (no reason code 0x8E).
So a process that connects for the first time **claims** the session: a retained message on its marker's topic, which
every later connection is sent before its own marker. Whoever comes back and finds a later claim of another process
**stands back**: the newest process wins, as it does when an operator starts it in place of one that hangs.

After a pause the one that stood back **probes**: it connects without a claim. A holder that lives takes the session
back within a second, and the pause doubles; when nobody has come after :data:`PROBE_S`, the holder is gone, and the
session is claimed. A killed broker may come back with a claim that was older than ours: those are remembered and
count for nothing. A broker without retained messages, or that denies the marker, gives no protection.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ingest.peeler import Publish

PROBE_S: Final = 45.0
"""Longer than the longest back-off of a holder that lost its connection (10 s) and its CONNECT (10 s) together."""
PAUSE_S: Final = (300.0, 3600.0)
"""First pause of who stands back, and the longest; far below any outage budget."""
_WORD: Final = b"claim "


class Claim:
    """What one process knows of who holds its session.

    Attributes:
        payload: of our claim; publish it retained with QoS 1 when :meth:`due` says so.
        undecided: whether this connection's messages must be given to :meth:`look`.
        pause_s: so long to stay away because another process holds the session; 0 else.
    """

    def __init__(self) -> None:
        self.payload = _new()
        self.undecided = False
        self.pause_s = 0.0
        self._claimed = False
        self._probing = False
        self._since_s: float | None = None
        self._published = False
        self._last: bytes | None = None
        self._seen: set[bytes] = set()
        self._older: set[bytes] = set()
        self._backs = 0

    def connected(self, now_s: float) -> None:
        """The broker took us (monotonic seconds)."""
        self.pause_s = 0.0
        self.undecided = True
        self._published = False
        self._since_s, self._last, self._seen = now_s, None, set()

    def due(self, now_s: float) -> bool:
        """Return whether to publish our claim: on the first connection, or when a probe found nobody."""
        if self._since_s is None or self._claimed or self._published:
            return False
        return not self._probing or now_s - self._since_s >= PROBE_S

    def published(self) -> None:
        """Our claim is on its way."""
        self._published = True
        self._older |= self._seen

    def accepted(self) -> None:
        """The broker acknowledged our claim."""
        self._claimed, self._probing, self._backs = True, False, 0

    def look(self, publishes: Iterable[Publish], topic: bytes, marker: bytes) -> bool:
        """Look at messages in the order received.

        Args:
            publishes: what came.
            topic: of marker and claims.
            marker: payload of this connection's marker: the claims that count came before it.

        Returns:
            True when another process holds the session: disconnect, and stay away for :attr:`pause_s`.
        """
        for _, where, _, _, payload in publishes:
            if where != topic:
                continue
            if payload == marker:
                self.undecided = False
                break
            if isinstance(payload, bytes) and payload.startswith(_WORD):
                self._last = payload
                if payload != self.payload:
                    self._seen.add(payload)
        if self._published:
            self._older |= self._seen  # they came before ours, whoever still holds the connection
        if self.undecided or self._probing or self._last in {None, self.payload, *self._older}:
            return False
        self._stand_back()
        return True

    def lost(self) -> None:
        """The connection ended."""
        if self._probing and self._since_s is not None:
            self._stand_back()  # the holder lives and took the session back
        self.undecided = False
        self._since_s = None

    def _stand_back(self) -> None:
        first, longest = PAUSE_S
        self.pause_s = min(longest, first * 2.0 ** min(self._backs, 16))
        self._backs += 1
        self._claimed, self._probing = False, True
        self._since_s = None
        self._older.add(self.payload)
        self.payload = _new()  # the holder knows the old one as older than its own


def _new() -> bytes:
    return _WORD + secrets.token_hex(8).encode()
