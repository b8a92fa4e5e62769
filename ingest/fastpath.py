"""The fast receive path: a socket that shows paho the byte stream without its PUBLISH packets.

paho reads a packet with three or more system calls and builds objects for it: 50-110 µs a message. Here one
``recv`` gives hundreds of packets, :class:`~ingest.peeler.Peeler` cuts them in a tight loop, and acknowledgements
leave with one ``send``.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ingest.peeler import Peeler, Publish

READ_BYTES: Final = 256 * 1024
"""Read from the socket at once at most."""


class PeelingSocket:
    """What paho takes for its socket: it sees the stream without PUBLISH packets.

    What is sent goes into a buffer first, whole packets from paho and PUBACKs from us alike, so a PUBACK never
    lands inside a packet that the kernel took half of. One thread only.

    Args:
        sock: connected, handshake done.
        peeler: new for each connection.

    Attributes:
        inbox: peeled packets; the owner empties it.
    """

    def __init__(self, sock: socket.socket, peeler: Peeler) -> None:
        self._sock = sock
        self._peeler = peeler
        self._rest = bytearray()
        self._out = bytearray()
        self._over = False
        self.inbox: list[Publish] = []
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pump(self) -> bool:
        """Read what is there, up to :data:`READ_BYTES`.

        Returns:
            True when more may be waiting.

        Raises:
            ProtocolError: after the packets before it were put into ``inbox``.
        """
        left = READ_BYTES
        while left > 0 and not self._over:
            try:
                data = self._sock.recv(left)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError:
                data = b""
            if not data:
                self._over = True
                break
            full = len(data) == left
            left -= len(data)
            publishes, rest = self._peeler.feed(data)
            self.inbox += publishes
            self._rest += rest
            if self._peeler.error is not None:
                raise self._peeler.error
            # A short read of a plain socket emptied it; TLS gives one record at a time.
            if not full and not isinstance(self._sock, ssl.SSLSocket):
                return False
        return not self._over

    @property
    def has_rest(self) -> bool:
        """Return whether paho has something to read, the end of the stream among it."""
        return bool(self._rest) or self._over

    @property
    def wants_write(self) -> bool:
        """Return whether bytes wait for the kernel to take them."""
        return bool(self._out) and not self._over

    def queue(self, data: bytes) -> None:
        """Send ``data``, which is whole packets, after what waits already."""
        self._out += data

    def push(self) -> None:
        """Give the kernel what it takes; a broken connection shows at the next read."""
        while self._out:
            try:
                sent = self._sock.send(self._out)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self._over = True
                return
            del self._out[:sent]

    def recv(self, size: int) -> bytes:
        """Give paho bytes of packets that are not PUBLISH."""
        if not self._rest:
            if self._over:
                return b""
            raise BlockingIOError
        part = bytes(self._rest[:size])
        del self._rest[:size]
        return part

    def send(self, data: bytes | bytearray) -> int:
        """Take all of ``data`` from paho, which calls with the rest of one packet."""
        self._out += data
        self.push()
        return len(data)

    def pending(self) -> int:
        """Bytes that a poll of the file descriptor would not show."""
        return self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0

    def fileno(self) -> int:
        """Return the file descriptor to poll."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Pass on to the socket."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Send what waits if the kernel takes it within a second (a DISCONNECT, the last PUBACKs); close."""
        try:
            if self._out and not self._over:
                self._sock.settimeout(1.0)
                self._sock.sendall(self._out)
            if not self._over:
                linger(self._sock)
        except OSError:
            self._over = True  # the broker is gone: it sends again what was not acknowledged
        finally:
            self._sock.close()


def linger(sock: socket.socket) -> None:
    """Say that nothing more comes, and read what is under way until the broker closes too, for a second at most.

    A socket that is closed with bytes unread is reset, and a reset takes the last PUBACKs away from the broker: it
    would send again what is durable here.

    Raises:
        OSError: the broker is gone, or says nothing for 0.2 s.
    """
    deadline = time.monotonic() + 1.0
    sock.settimeout(0.2)
    if not isinstance(sock, ssl.SSLSocket):
        sock.shutdown(socket.SHUT_WR)
    while time.monotonic() < deadline and sock.recv(READ_BYTES):
        pass
