"""A real HTTP receiver that fails when it is told to, and a real SMTP server."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import orjson
from aiosmtpd.controller import Controller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

    from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass
class Receiver:
    """What came in, and how to answer.

    Attributes:
        url: with a secret in its path.
        answers: one for each request: a status, ``hang`` or ``drop``; 200 when there is none left.
        bodies: of requests that were answered with 2xx.
        headers: of the same.
        raw: bytes of the same.
        tried: how many requests came.
        let_go: set to end what hangs.
    """

    url: str = ""
    answers: list[int | str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    tried: int = 0
    let_go: threading.Event = field(default_factory=threading.Event)

    def titles(self) -> list[str]:
        """Titles of what was taken, in order."""
        return [body["title"] for body in self.bodies]


@contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    """Run a receiver on this machine."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take a message, or fail as told."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.tried += 1
            answer = found.answers.pop(0) if found.answers else 200
            if answer == "hang":
                found.let_go.wait(60)
                return
            if answer == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status = int(answer)
            if 200 <= status < 300:
                found.bodies.append(orjson.loads(body))
                found.headers.append(dict(self.headers))
                found.raw.append(body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", found.url.replace("/send/", "/elsewhere/"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}/send/Sup3rSecretPath?key=T0kenT0ken"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """Mails that a server has taken.

    Attributes:
        url: for apprise, without recipient parameters.
        mails: as parsed by the standard library.
        refuse: answers instead of taking, one for each mail.
    """

    url: str = ""
    mails: list[EmailMessage] = field(default_factory=list)
    refuse: list[str] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - name given by aiosmtpd
        """Take a mail."""
        if self.refuse:
            return self.refuse.pop(0)
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 taken"


@contextmanager
def mail_server() -> Iterator[Mailbox]:
    """Run an SMTP server on this machine."""
    box = Mailbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    box.url = f"mailto://127.0.0.1:{port}?mode=insecure&from=qingtu@example.cn&to=duty@example.cn"
    try:
        yield box
    finally:
        server.stop()
