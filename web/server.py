"""The server of the one map: FastAPI on one port, in a thread of its own."""

from __future__ import annotations

import mimetypes
import socket
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
from fastapi import Depends, FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

import qingtu
from qingtu.errors import StartError
from web.api import alerts, catalogue, figures, quarantine, readings, stream
from web.api import service as service_api
from web.context import Context
from web.guard import Guard, handle_errors, is_loopback
from web.parameters import declared_alone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.responses import Response
    from starlette.types import Scope

    from qingtu.app import Service

STATIC: Final = Path(__file__).parent / "static"
_STOP_S: Final = 1
_STUCK_MS: Final = 30_000
_START_S: Final = 15.0
_ROUTERS: Final = (catalogue, readings, figures, alerts, quarantine, service_api, stream)
# Machines differ in what they know of these, and a module served as anything else is refused by the browser.
_TYPES: Final = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".geojson": "application/geo+json",
    ".json": "application/json",
    ".css": "text/css",
}


class _Static(StaticFiles):
    """Files of the page; asked again each time (304 when unchanged), since their names carry no version."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(service: Service) -> FastAPI:
    """Make the application; it follows the service's bus from its start-up to its shut-down.

    Args:
        service: built; it may be started before or after.
    """
    context = Context.of(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        context.start()
        try:
            yield
        finally:
            context.stop()

    app = FastAPI(
        title="Qingtu",
        version=qingtu.__version__,
        description="青图: one trusted dataset and one live map from a coastal city's sensor streams",
        docs_url=None,  # its scripts come from elsewhere, which the page's policy forbids
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = context
    handle_errors(app)
    for module in _ROUTERS:
        app.include_router(module.router, dependencies=[Depends(declared_alone)])
    for ending, kind in _TYPES.items():
        mimetypes.add_type(kind, ending)
    app.mount("/static", _Static(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    app.add_middleware(Guard, loopback=is_loopback(service.settings.web.host), tokens=service.tokens)
    return app


class WebServer:
    """Serves page and API of a service.

    Args:
        service: whose data are shown; must be closed after :meth:`stop`.
        listening: a socket of :func:`listen`, which is then the server's to close; None: :meth:`start` makes one.

    Attributes:
        app: the application, once started.
    """

    def __init__(self, service: Service, listening: socket.socket | None = None) -> None:
        self._service = service
        self._listening = listening
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.app: FastAPI | None = None

    def start(self) -> tuple[str, int]:
        """Listen and return (host, port); the address and a token are left in the data folder for the CLI.

        Raises:
            StartError: the port is taken, or the address is not one of this machine.
        """
        host, port = self._service.settings.web.host, self._service.settings.web.port
        listening = self._listening or listen(host, port)
        self._listening = listening
        bound = int(listening.getsockname()[1])
        service_api.export_folder(self._service.settings.data)
        self.app = create_app(self._service)
        config = uvicorn.Config(
            self.app, log_config=None, log_level="critical", access_log=False, server_header=False,
            timeout_graceful_shutdown=_STOP_S, timeout_keep_alive=30, h11_max_incomplete_event_size=64 * 1024,
            lifespan="on", ws="none",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(listening,), name="web", daemon=True)
        self._thread.start()
        waited = threading.Event()
        for _ in range(round(_START_S / 0.02)):
            if self._server.started:
                break
            if not self._thread.is_alive():
                raise StartError("网页服务启动失败, 详见日志 / the web server did not start, see the log")
            waited.wait(0.02)
        self._announce(host, bound)
        return host, bound

    def _run(self, listening: socket.socket) -> None:
        assert self._server is not None
        try:
            self._server.run(sockets=[listening])
        except (Exception, SystemExit):  # noqa: BLE001 - logged; uvicorn leaves with SystemExit when its start-up fails
            structlog.get_logger("web").exception("web_server_ended")
        finally:
            listening.close()

    def _announce(self, host: str, port: int) -> None:
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - not bound here, only told apart
        token = next(iter(self._service.tokens), None)
        self._service.folder.announce({"url": url_of(shown, port), "token": token})

    def stop(self) -> None:
        """End open streams and stop listening; takes at most about two seconds."""
        if self._server is None or self._thread is None:
            if self._listening is not None:
                self._listening.close()
            return
        if self.app is not None:
            # uvicorn waits for open answers, and streams have no end of their own.
            context: Context = self.app.state.context
            context.live.fanout.close()
        self._server.should_exit = True
        self._thread.join(5)


def url_of(host: str, port: int, token: str | None = None) -> str:
    """Return the page's address; the token goes into the fragment, which browsers never send.

    >>> url_of("::1", 8620, "abc")
    'http://[::1]:8620/#token=abc'
    """
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"#token={token}" if token else "")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        StartError: the port is taken, or the address is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise StartError(
            f"端口 {port} 无法使用 / {host}:{port} cannot be used ({error.strerror}): stop what listens there, or set "
            f"another with QINGTU_WEB__PORT={port % 65535 + 1}"
        ) from error
    # asyncio sets this only on sockets that name their protocol, which these do not; without it each answer, and each
    # event of a stream, waits up to 40 ms for the other side's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if (user_timeout := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:  # Linux
        # A client that acknowledges but never reads would keep a closed connection, and its buffer, for ever.
        listening.setsockopt(socket.IPPROTO_TCP, user_timeout, _STUCK_MS)
    return listening
