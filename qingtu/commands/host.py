"""Holds a service with its page for as long as a command needs it, and ends it cleanly."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from qingtu import heartbeat
from qingtu.app import Options, Service
from qingtu.client import Client, running_service
from qingtu.clock import SystemClock
from qingtu.commands.output import err
from qingtu.errors import NotFound
from web.server import WebServer, listen, url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType
    from typing import Self

    from qingtu.settings import Settings

LOCAL: Final = "127.0.0.1"


class Host:
    """A running service with page and API, announced to other commands. Use as a context.

    Args:
        settings: checked settings.
        options: what to leave out.
        start: False only opens the files: questions are answered, nothing moves.

    Attributes:
        service: open inside the context.
        url: of page and API.
        page: the same for people, with the token behind the #, which no browser sends anywhere.
        token: of the operator.
    """

    def __init__(self, settings: Settings, options: Options | None = None, *, start: bool = True) -> None:
        self._start = start
        # A start that is refused leaves nothing behind: where there is no folder yet, the port is asked for first. Of
        # a folder that is in use, though, its process should be named, not the port that it has taken.
        listening = None if settings.data.exists() else listen(settings.web.host, settings.web.port)
        try:
            self.service = Service(settings, options)
        except BaseException:
            if listening is not None:
                listening.close()
            raise
        self._web = WebServer(self.service, listening)
        self._stopped = False
        self.url = self.page = ""
        self.token = next(iter(self.service.tokens), "")

    def __enter__(self) -> Self:
        try:
            host, port = self._web.start()  # which also leaves address and token in the data folder
            self.page = url_of(_reachable(host), port, self.token)
            self.url = url_of(_reachable(host), port)
            if self._start:
                heartbeat.forget(self.service.settings.data)
                self.service.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stop(self) -> dict[str, Any]:
        """Stop taking messages, finish what was taken, and return the ledger. The files stay open."""
        if not self._stopped:
            self._stopped = True
            if self._start:
                self.service.stop()
        return self.service.ledger.report()

    def close(self) -> None:
        """End everything."""
        try:
            self.stop()
        finally:
            try:
                self._web.stop()
            finally:
                self.service.close()


class StopSignals:
    """Ctrl-C and SIGTERM set an event; a second one ends the process at once. Use as a context, in the main thread.

    Args:
        hard: is called before the process ends at once.
    """

    def __init__(self, hard: Callable[[], object] | None = None) -> None:
        self.event = threading.Event()
        self.hard = hard
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.event.is_set():
            if self.hard is not None:
                self.hard()
            os._exit(128 + number)
        self.event.set()


@contextmanager
def reach(settings: Settings, *, acts: bool = False) -> Iterator[Client]:
    """Give a client of the running service; without one, of a service on the files that lives as long as the context.

    Args:
        settings: name the data folder.
        acts: the stages must run, so that what is asked for is carried out before the context ends.

    Raises:
        NotFound: nothing was ever stored in this data folder.
        StartError: the folder cannot be used.
    """
    running = running_service(settings.data)
    if running is not None:
        yield running
        return
    if (part := heartbeat.heard(settings.data, SystemClock().now_us())) is not None:
        raise NotFound(
            f"数据目录属于没有接口的进程 / {settings.data} belongs to a process with {', '.join(part['stages'])}, "
            "which has no API: ask the one with web, with its --data"
        )
    if settings.store.kind == "duckdb" and not (settings.data / "qingtu.duckdb").exists():
        raise NotFound(
            f"数据目录 {settings.data} 中没有数据 / there is no data in {settings.data}: start with 'qingtu run' "
            "or 'qingtu demo', or name another folder with --data"
        )
    err().print("服务未运行, 直接读取文件 / no service runs on this data folder: its files are opened", soft_wrap=True)
    web = settings.web.model_copy(update={"host": LOCAL, "port": 0})
    quiet = settings.model_copy(update={"web": web})
    with Host(quiet, Options(gateway=False), start=acts) as host:
        yield Client(host.url, host.token, stays=False)


def port_free(port: int, host: str = LOCAL) -> bool:
    """Return whether a port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    """Return an address that a client can use: one that listens everywhere is reached here."""
    return LOCAL if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared, not bound
