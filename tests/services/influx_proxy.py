"""A small HTTP proxy before a real server: refuses, delays and cuts what the test says."""

from __future__ import annotations

import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import urllib3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

CUT = "cut"
"""The request does not reach the server, the connection breaks."""
LOSE = "lose"
"""The server gets the request; its answer is lost."""
_HOP = frozenset(("connection", "transfer-encoding", "content-length", "keep-alive", "host", "date", "server"))


class Proxy:
    """Forwards to a server. Writes are asked of ``script``: None to forward, CUT, LOSE, or (status, headers).

    Args:
        target: URL of the server.
    """

    def __init__(self, target: str) -> None:
        self.script: Callable[[bytes], Any] = lambda _: None
        self.writes = 0
        self.target = target
        self.pool = urllib3.PoolManager(retries=False, timeout=30)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def orders(self, orders: Iterable[Any]) -> None:
        """Treat the next writes as the list says, and forward all after it."""
        left = list(orders)
        self.script = lambda _: left.pop(0) if left else None

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.pool.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Treat a request as the proxy says."""
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        write = self.path.startswith("/api/v2/write")
        proxy.writes += write
        order = proxy.script(body) if write else None
        if isinstance(order, tuple):
            self._answer(order[0], order[1], b'{"code":"x","message":"as the test says"}')
            return
        if order != CUT:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            answer = proxy.pool.request(self.command, proxy.target + self.path, body=body, headers=headers)
        if order is None:
            self._answer(answer.status, dict(answer.headers), answer.data)
        else:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST  # noqa: N815 - name of http.server

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != HTTPStatus.NO_CONTENT:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of http.server
        """Say nothing."""
