"""Finding the running service, and what its refusals become."""

from __future__ import annotations

import fcntl
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from qingtu.client import Client, ServiceError, running_service
from qingtu.errors import NotFound, RetryLater

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def _answering(status: int, body: bytes) -> Iterator[tuple[str, list[Any]]]:
    """Serve one answer to everything; give the address, and what was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked.append((self.command, self.path, self.headers["Authorization"], self.rfile.read(length)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_questions_and_acts(tmp_path: Path) -> None:
    """The token goes along; what is None is left out; a download appears when it is whole."""
    with _answering(200, b'{"a": 1}') as (url, asked):
        client = Client(url, "tok")
        assert client.get("/api/x", a="b c", d=None) == {"a": 1}
        assert client.post("/api/y", {"z": 1}) == {"a": 1}
        assert client.download("/api/f", tmp_path / "f") == 8
    assert [a[:3] for a in asked] == [
        ("GET", "/api/x?a=b+c", "Bearer tok"), ("POST", "/api/y", "Bearer tok"), ("GET", "/api/f", "Bearer tok"),
    ]  # fmt: skip
    assert json.loads(asked[1][3]) == {"z": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (503, RetryLater), (429, RetryLater), (403, ServiceError), (500, ServiceError)],
)
def test_refusals_carry_both_languages(status: int, kind: type[Exception], tmp_path: Path) -> None:
    """Each status becomes the error that says whether a retry can help; no half file is left."""
    body = json.dumps({"error": {"code": "c", "zh": "不行", "en": "no"}}).encode()
    with _answering(status, body) as (url, _):
        with pytest.raises(kind, match="不行 / no"):
            Client(url, "t").get("/api/x")
        with pytest.raises(kind):
            Client(url, "t").download("/api/x", tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_answer_of_another_program_is_told_as_it_is() -> None:
    """A body that is not ours gives the status line."""
    with _answering(502, b"<html>") as (url, _), pytest.raises(ServiceError, match="HTTP 502"):
        Client(url, "t").get("/api/x")


def test_nobody_there() -> None:
    """A closed port is something to try again."""
    with _answering(200, b"{}") as (url, _):
        pass
    with pytest.raises(RetryLater, match="does not answer"):
        Client(url, "t").get("/api/x")


def test_finding_the_service(tmp_path: Path) -> None:
    """No address: none. An address that answers: that one. A stale or damaged one: none."""
    assert running_service(tmp_path) is None
    with _answering(200, b"ok") as (url, _):
        (tmp_path / "service.json").write_text(json.dumps({"url": url, "token": "t"}))
        found = running_service(tmp_path)
        assert found is not None
        assert found.url == url.rstrip("/")
    assert running_service(tmp_path) is None
    (tmp_path / "service.json").write_text("{")
    assert running_service(tmp_path) is None
    (tmp_path / "lock").write_text("1")
    assert running_service(tmp_path) is None


def test_folder_that_is_held_without_an_answer(tmp_path: Path) -> None:
    """A service that starts or hangs is not taken for a dead one."""
    (tmp_path / "service.json").write_text('{"url": "http://127.0.0.1:9", "token": "t"}')
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RetryLater, match="does not answer"):
            running_service(tmp_path)
