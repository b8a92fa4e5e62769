"""One source of events, many clients: bounded queues, and a client that is too slow is told to come again."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUEUE_BYTES: Final = 8 * 1024 * 1024
"""What may wait for one client."""
PIECE_BYTES: Final = 1024 * 1024
"""What is joined for one client at most: so much more stands in its connection beside what waits."""
CLIENTS: Final = 200
"""Open streams at most."""
_BYE: Final = orjson.dumps({"zh": "连接太慢, 请重新连接", "en": "this connection is too slow; connect again"}).decode()


def event(name: str, data: bytes) -> bytes:
    """Write one server-sent event; ``data`` is JSON without line breaks."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Subscriber:
    """One client's queue. ``offer`` may be called by any thread, iteration belongs to the event loop it was made in."""

    def __init__(self, limit_bytes: int = QUEUE_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._closed = False

    def offer(self, data: bytes) -> bool:
        """Queue an event; False when the client is gone or has just been given up."""
        with self._lock:
            if self._closed:
                return False
            if self._bytes + len(data) > self._limit:
                self._waiting.clear()
                self._waiting.append(b"retry: 1000\n" + event("reconnect", _BYE.encode()))
                self._closed = True
            else:
                self._waiting.append(data)
                self._bytes += len(data)
            kept = not self._closed
        self._wake()
        return kept

    def close(self) -> None:
        """End the stream after what waits."""
        with self._lock:
            self._closed = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop has ended, and the client with it
            self._closed = True

    async def events(self) -> AsyncIterator[bytes]:
        """Yield what was offered; events that wait come as one piece of at most :data:`PIECE_BYTES`, or alone.

        A piece counts as waiting until the next one is asked for: only then has the connection taken it.
        """
        taken = 0
        while True:
            await self._news.wait()
            self._news.clear()
            while True:
                with self._lock:
                    self._bytes -= taken
                    piece, closed = self._piece(), self._closed
                taken = len(piece)
                if not piece:
                    break
                yield piece
            if closed:
                return

    def _piece(self) -> bytes:
        """Take the next events out of the queue; they stay counted."""
        events: list[bytes] = []
        size = 0
        while self._waiting and (not size or size + len(self._waiting[0]) <= PIECE_BYTES):
            events.append(self._waiting.popleft())
            size += len(events[-1])
        return b"".join(events)


class Fanout:
    """All open streams."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: list[Subscriber] = []
        self._open = True

    def __len__(self) -> int:
        return len(self._clients)

    def join(self, first: bytes, *, limit_bytes: int = QUEUE_BYTES) -> Subscriber | None:
        """Open a stream that begins with ``first``; None when there are too many, or the server ends."""
        client = Subscriber(limit_bytes)
        client.offer(first)
        with self._lock:
            if not self._open or len(self._clients) >= CLIENTS:
                return None
            self._clients.append(client)
        return client

    def leave(self, client: Subscriber) -> None:
        """Forget a stream."""
        with self._lock:
            if client in self._clients:
                self._clients.remove(client)

    def send(self, data: bytes) -> None:
        """Offer an event to all; those that are too slow are given up."""
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            if not client.offer(data):
                self.leave(client)

    def close(self) -> None:
        """End all streams and take no more."""
        with self._lock:
            self._open = False
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()
