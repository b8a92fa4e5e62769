"""The socket between paho and the kernel: whole packets out in order, PUBLISH packets peeled off."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from ingest.fastpath import PeelingSocket
from ingest.peeler import Peeler, ProtocolError, pubacks

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[PeelingSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A peeling socket and its peer, over TCP, with small kernel buffers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    near.setblocking(False)
    peeling = PeelingSocket(near, Peeler(version5=True, max_payload=1000))
    yield peeling, far
    near.close()
    far.close()


def test_acknowledgements_never_land_inside_a_packet(pair: Pair) -> None:
    """The kernel takes only part; what follows waits behind it, and close sends what is left."""
    near, far = pair
    packet = b"\x82\x90\x4e" + bytes(10_000)
    expected = b""
    got = bytearray()

    def drain() -> None:
        while data := far.recv(65_536):
            got.extend(data)

    i = 0
    while not near.wants_write or i < 3:  # until the kernel took only part
        i += 1
        assert near.send(packet) == len(packet)
        near.queue(pubacks([i, i + 1]))
        near.push()
        expected += packet + pubacks([i, i + 1])
    near.queue(pubacks([1, 2]))
    expected += pubacks([1, 2])
    reader = threading.Thread(target=drain)
    reader.start()
    near.close()
    reader.join(10)
    assert bytes(got) == expected


def test_paho_sees_the_stream_without_publish_packets(pair: Pair) -> None:
    """PINGRESP around a PUBLISH: paho reads four bytes, then would block, then sees the end."""
    near, far = pair
    far.sendall(b"\xd0\x00" + b"\x32\x08\x00\x01x\x00\x05\x00hi" + b"\xd0\x00")
    while len(near.inbox) < 1 or not near.has_rest:
        near.pump()
    assert near.inbox == [(0x32, b"x", 5, None, b"hi")]
    assert near.recv(1) + near.recv(100) == b"\xd0\x00\xd0\x00"
    with pytest.raises(BlockingIOError):
        near.recv(1)
    far.close()
    while not near._over:
        near.pump()
    assert near.recv(1) == b""


def test_what_came_before_a_broken_packet_is_given_out(pair: Pair) -> None:
    """The error is raised after the good packet was put into the inbox."""
    near, far = pair
    far.sendall(b"\x32\x08\x00\x01x\x00\x05\x00hi" + b"\x36\x00")
    with pytest.raises(ProtocolError):  # noqa: PT012 - the bytes may need more than one read
        while len(near.inbox) < 2:
            near.pump()
    assert len(near.inbox) == 1


def test_a_broken_connection_shows_at_the_next_read(pair: Pair) -> None:
    """Writing to a peer that is gone raises nothing; reading then says that the stream ended."""
    near, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    far.close()
    while not near.has_rest:
        near.send(b"x" * 1000)
    assert near.recv(1) == b""
    assert not near.wants_write
