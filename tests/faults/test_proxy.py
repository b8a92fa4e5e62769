"""The proxy breaks connections as it says, and nothing else."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
_SOON_S = 0.3
_WAIT_S = 10.0


class Echo:
    """A server that says back what it hears, a thread a connection."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    @staticmethod
    def _talk(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        """Listen no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy in front of an echo."""
    echo = Echo()
    with Proxy("127.0.0.1", echo.port) as made:
        yield made
    echo.close()


def dial(proxy: Proxy) -> socket.socket:
    """Connect through the proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=_WAIT_S)


def said(link: socket.socket, data: bytes) -> bytes:
    """Send, and return as many bytes as come back."""
    link.sendall(data)
    return heard(link, len(data))


def heard(link: socket.socket, size: int) -> bytes:
    """Return so many bytes, or those before the end."""
    out = bytearray()
    while len(out) < size and (data := link.recv(size - len(out))):
        out += data
    return bytes(out)


def silent(link: socket.socket) -> bool:
    """Whether nothing comes for a while, not even an end."""
    link.settimeout(_SOON_S)
    try:
        link.recv(1)
    except TimeoutError:
        return True
    finally:
        link.settimeout(_WAIT_S)
    return False


def test_it_forwards_everything(proxy: Proxy) -> None:
    """A megabyte there and back, and the end of it."""
    data = bytes(range(256)) * 4096
    with dial(proxy) as link:
        sender = threading.Thread(target=link.sendall, args=(data,))
        sender.start()
        assert heard(link, len(data)) == data
        sender.join()
        link.shutdown(socket.SHUT_WR)
        assert link.recv(1) == b""
    assert proxy.forwarded == 2 * len(data)


def test_drop_swallows_and_heal_cuts_what_lost_bytes(proxy: Proxy) -> None:
    """Nothing comes back, nobody is told; healed, the connection that lost bytes ends and the idle one lives."""
    with dial(proxy) as busy, dial(proxy) as idle:
        assert said(busy, b"one") == b"one"
        assert said(idle, b"one") == b"one"
        proxy.drop()
        busy.sendall(b"two")
        assert silent(busy)
        with dial(proxy) as new:
            new.sendall(b"three")
            assert silent(new)
        assert proxy.swallowed >= 3
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            busy.recv(1)
        assert said(idle, b"four") == b"four"
        with dial(proxy) as new:
            assert said(new, b"five") == b"five"


def test_stall_holds_back_and_heal_lets_go(proxy: Proxy) -> None:
    """Nothing is lost and the order stays."""
    with dial(proxy) as link:
        proxy.stall()
        link.sendall(b"one")
        assert silent(link)
        link.sendall(b"two")
        proxy.heal()
        assert heard(link, 6) == b"onetwo"


def test_delay_keeps_the_order(proxy: Proxy) -> None:
    """Both directions are later by what was said, however many bytes are on the way."""
    with dial(proxy) as link:
        assert said(link, b"one") == b"one"
        proxy.delay(150)
        start = time.monotonic()
        for i in range(10):
            link.sendall(bytes([i]))
        assert heard(link, 10) == bytes(range(10))
        assert time.monotonic() - start >= 0.3
        proxy.delay(0)
        assert said(link, b"two") == b"two"


def test_cut_ends_what_is_open_and_refuse_what_comes(proxy: Proxy) -> None:
    """RST for the open ones; then nobody listens, while those that are open go on; then all is well."""
    with dial(proxy) as link:
        assert said(link, b"one") == b"one"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    with dial(proxy) as link:
        assert said(link, b"two") == b"two"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(proxy)
        assert said(link, b"three") == b"three"
        proxy.heal()
        with dial(proxy) as new:
            assert said(new, b"four") == b"four"


def test_a_dead_target_is_an_end(proxy: Proxy) -> None:
    """Who comes while nobody listens behind the proxy is not left hanging."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # On a busy machine it is cut before the call that connects has returned.
    with Proxy("127.0.0.1", port) as lonely, pytest.raises(ConnectionResetError), dial(lonely) as link:
        link.recv(1)
    assert proxy.connections == 0


def test_as_a_process() -> None:
    """Commands come a line each and are answered."""
    echo = Echo()
    words = [sys.executable, "-m", "tests.faults.proxy", f"127.0.0.1:{echo.port}"]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        word, port = process.stdout.readline().split()
        assert word == "listening"
        with socket.create_connection(("127.0.0.1", int(port)), timeout=_WAIT_S) as link:
            assert said(link, b"one") == b"one"
            answers = []
            for line in ("delay 5", "cut", "delay", "dance", "stop"):
                process.stdin.write(line + "\n")
                process.stdin.flush()
                if line != "stop":
                    answers.append(process.stdout.readline().split()[0])
            assert answers == ["ok", "ok", "error", "error"]
            with pytest.raises(ConnectionResetError):
                link.recv(1)
        assert process.wait(_WAIT_S) == 0
    finally:
        process.kill()
        process.communicate()
        echo.close()
