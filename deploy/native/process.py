"""What all native servers share: a folder, a port, start until it answers, stop, kill, pause.

A server never outlives the process that started it, however that one ends: a small shell waits at a pipe for our end
and then kills. (The kernel's parent-death signal would do it too, but fires when the starting *thread* ends.)
"""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING, ClassVar, Final, Self

from qingtu.errors import StartError
from qingtu.files import lock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

LOCAL: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)
"""Below the range from which Linux takes ports of outgoing connections: else one of those may sit on the port of a
server that is just being restarted."""
_POLL_S: Final = 0.05
_STOP_S: Final = 30.0
_LOG_SHOWN: Final = 2000
_WATCH: Final = 'read -r _ || kill -9 "$1" 2>/dev/null'
"""A line says that all is well; the end of the pipe without one says that we are gone."""


def free_port(taken: Sequence[int] = ()) -> int:
    """Return a port of 127.0.0.1 that is free now.

    Args:
        taken: ports that somebody will use.
    """
    for port in random.sample(_PORTS, 500):
        if port not in taken and port_is_free(port):
            return port
    raise StartError(f"没有空闲端口 / no free port between {_PORTS.start} and {_PORTS.stop}")


def port_is_free(port: int) -> bool:
    """Return whether a server could listen there now; what is left of closed connections does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCAL, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


class Server(ABC):
    """One server with a folder of its own. As a context it is started and stopped.

    Started again after :meth:`stop` or :meth:`kill` it goes on with the same folder and port.

    Args:
        folder: for its data (``data/``) and its log (``log.txt``); made when absent.
        port: to listen on; None takes a free one.
    """

    title: ClassVar[str]
    start_timeout_s: ClassVar[float] = 120.0
    """Generous: on a busy machine a start takes ten times as long as on an idle one."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port or free_port()
        self.log = self.folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @classmethod
    @abstractmethod
    def available(cls) -> str | None:
        """Return None when the server can be had without the network, else what is missing and the way out."""

    @abstractmethod
    def _command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return command and environment.

        Called before each start, with folder and ``data/`` made: what the server needs to be there, such as a
        formatted data folder, is made here.
        """

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server does its work. Called again and again during a start; raises nothing."""

    def _started(self) -> None:  # noqa: B027 - most servers need nothing
        """Set up what can only be set up through the running server. Called once it answers, at each start."""

    @property
    def data(self) -> Path:
        """The server's own files."""
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """Process id of the running server.

        Raises:
            StartError: it does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise StartError(f"{self.title} 没有运行 / {self.title} is not running")
        return self._process.pid

    def running(self) -> bool:
        """Return whether the process lives; paused counts."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and return when the server answers.

        Raises:
            StartError: it is not installed, its port or folder is taken, it ended at once or did not answer in time;
                with the end of its log.
        """
        if self.running():
            raise StartError(f"{self.title} 已在运行 / {self.title} runs already in {self.folder}")
        if missing := self.available():
            raise StartError(missing)
        self._take_folder()
        try:
            self._check_port()
            command, environ = self._command()
            self._spawn(command, environ)
            self._wait_until_it_answers()
            self._started()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it cleanly (SIGTERM) and wait; after half a minute kill it. Nothing when it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            # a stopped process would not take the signal; not resume(): it may be gone already, which is no error here
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._ended()

    def kill(self) -> None:
        """SIGKILL, and wait. Nothing when it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._ended()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: go on after :meth:`pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_port(self) -> None:
        if not port_is_free(self.port):
            raise StartError(f"端口 {self.port} 被占用 / port {self.port} for {self.title} is taken: name another")

    def _take_folder(self) -> None:
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder / "lock")
        except BlockingIOError as error:
            raise StartError(
                f"目录正被使用 / {self.title} runs already in {self.folder}, started by another process"
            ) from error
        except OSError as error:
            raise StartError(
                f"目录不可写 / the folder {self.folder} of {self.title} cannot be written: {error.strerror}"
            ) from error

    def _spawn(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        with self.log.open("ab") as log:
            # a session of its own: Ctrl-C in the terminal is for us, and we stop it in order
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **environ},
                start_new_session=True,
            )
        self._watch = subprocess.Popen(  # noqa: S603 - a constant and a number
            ["/bin/sh", "-c", _WATCH, "watch", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        end = time.monotonic() + self.start_timeout_s
        while time.monotonic() < end:
            if (code := self._process.poll()) is not None:
                raise StartError(
                    f"{self.title} 启动失败 / {self.title} ended during its start, exit code {code}:\n{self._said()}"
                )
            if self._answers():
                return
            time.sleep(_POLL_S)
        raise StartError(
            f"{self.title} 无响应 / {self.title} did not answer within {self.start_timeout_s:.0f} s:\n{self._said()}"
        )

    def _said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_SHOWN:].strip()

    def _ended(self) -> None:
        """Reap the process, dismiss who watches over it, and leave the folder to others."""
        if self._process is not None:
            self._process.wait()
        if self._watch is not None:
            self._watch.communicate(b"\n")
            self._watch = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
