"""Finding the running service, and what its refusals become."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from qingtu.client import Client, ServiceError, running_service
from qingtu.errors import NotFound, RetryLater
from tests.cli.conftest import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _serving(handler: type[_Silent]) -> Iterator[str]:
    """Serve until the context ends; give the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _answering(status: int, body: bytes) -> Iterator[tuple[str, list[Any]]]:
    """Serve one answer to everything; give the address, and what was asked."""
    asked: list[Any] = []

    class Handler(_Silent):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked.append((self.command, self.path, self.headers["Authorization"], self.rfile.read(length)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

    with _serving(Handler) as url:
        yield f"{url}/", asked


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


@contextmanager
def _busy(for_s: float, *, length: int = 2, healthy: bool = True) -> Iterator[tuple[str, threading.Event]]:
    """Serve an answer that takes its time, and /healthz at once or, like a process that hangs, never.

    Give the address, and what is set when something is asked.
    """
    asked = threading.Event()

    class Handler(_Silent):
        def do_POST(self) -> None:
            if self.path == "/healthz" and not healthy:
                return
            if self.path != "/healthz":
                asked.set()
                time.sleep(for_s)
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST  # noqa: N815 - the name that http.server calls

    with _serving(Handler) as url:
        yield url, asked


def test_what_takes_long_is_waited_for_while_the_service_lives(tmp_path: Path) -> None:
    """Longer than any other answer may take; without patience the same is given up."""
    with _busy(1.0) as (url, _):
        client = Client(url, "t", timeout_s=0.3)
        assert client.post("/api/audit", {}, patient=True) == {}
        assert client.download("/api/export", tmp_path / "f") == 2
        with pytest.raises(RetryLater, match="does not answer"):
            client.post("/api/audit", {})


def test_nobody_waits_for_a_service_that_hangs() -> None:
    """One that does not even say that it lives is given up."""
    with _busy(2.0, healthy=False) as (url, _):
        client = Client(url, "t", timeout_s=0.3)
        with pytest.raises(RetryLater, match="silent for"):
            client.post("/api/audit", {}, patient=True)


def test_a_file_that_is_cut_off_is_no_file(tmp_path: Path) -> None:
    """A service that ends within the answer leaves nothing that could be taken for the whole."""
    with _busy(0.0, length=3) as (url, _), pytest.raises(RetryLater, match="stopped within the file"):
        Client(url, "t").download("/api/export", tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "f.csv"], "未写出 / broken off: f.csv was not written"),
        (["backup", "copy"], "the service finishes the back-up, in "),
        (["ledger", "--audit"], "nothing was changed; 服务算完前不入库 / the service counts to the end"),
    ],
)
def test_ctrl_c_says_what_becomes_of_what_was_asked(words: list[str], told: str, tmp_path: Path) -> None:
    """What takes long can be left: exit code 130, one line that says how things stand, and no half file."""
    (tmp_path / "data").mkdir()
    with _busy(3.0) as (url, asked):
        (tmp_path / "data" / "service.json").write_text(json.dumps({"url": url, "token": "t"}))
        process = subprocess.Popen(
            [sys.executable, "-m", "qingtu.cli", *words, "--data", "data"],
            cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert told in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


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
