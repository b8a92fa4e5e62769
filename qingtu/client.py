"""Asks the running service: how commands work while the data folder is in use.

The service writes its address and token to ``service.json`` in the data folder. A file left behind by a service that
was killed is noticed: nobody answers there, and nobody holds the folder's lock.
"""

from __future__ import annotations

import http.client
import json
import select
import time
import urllib.error
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from qingtu.errors import NotFound, QingtuError, RetryLater
from qingtu.files import is_locked

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

_TIMEOUT_S: Final = 60.0
_ALIVE_S: Final = 3.0
_LOOKS: Final = 12
"""So often within the timeout a patient client looks whether the service lives."""
_BLOCK: Final = 1 << 20
# 127.0.0.1 is never reached through a proxy that the environment may name.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServiceError(QingtuError):
    """The service refuses what was asked.

    Attributes:
        code: its error code.
        status: of HTTP.
    """

    def __init__(self, code: str, status: int, message: str) -> None:
        self.code, self.status = code, status
        super().__init__(message)


class Client:
    """Talks to one service.

    Args:
        url: such as ``http://127.0.0.1:8620``.
        token: names the person; needed for acts.
        stays: the service goes on when the command ends; False: it was started for the command alone.
        timeout_s: so long an answer may take, or, of what takes its time, the service may not be heard.
    """

    def __init__(self, url: str, token: str, *, stays: bool = True, timeout_s: float = _TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self.stays = stays
        self._token = token
        self._timeout_s = timeout_s
        more = urllib.request.ProxyHandler({}), _Patient(self.alive, timeout_s)
        self._patient = urllib.request.build_opener(*more)

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON answer of a question; arguments that are None are left out.

        Raises:
            NotFound, ServiceError, RetryLater: see :meth:`_open`.
        """
        with self._open("GET", path, query=query) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any], *, patient: bool = False) -> Any:
        """Ask for an act and return the JSON answer; raises as :meth:`get`.

        Args:
            path: of the act.
            body: of the request.
            patient: the act takes its time: wait for as long as the service lives.
        """
        with self._open("POST", path, body=json.dumps(body).encode(), patient=patient) as answer:
            return json.load(answer)

    def download(self, path: str, target: Path, **query: Any) -> int:
        """Write an answer to a file, which appears only when it is whole; return its bytes. Raises as :meth:`get`.

        A file takes its time: it is waited for as long as the service lives.
        """
        part = target.with_name(target.name + ".part")
        size = 0
        try:
            with self._open("GET", path, query=query, patient=True) as answer, part.open("wb") as file:
                while block := answer.read(_BLOCK):
                    size += file.write(block)
                if answer.length:  # still missing of the length that was told: http.client takes a cut answer as whole
                    raise RetryLater(f"下载中断 / the service at {self.url} stopped within the file; try again")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return size

    def alive(self) -> bool:
        """Return whether a service answers at the address."""
        try:
            with _OPENER.open(f"{self.url}/healthz", timeout=_ALIVE_S):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def _open(
        self, method: str, path: str, *,
        query: dict[str, Any] | None = None, body: bytes | None = None, patient: bool = False,
    ) -> Any:  # fmt: skip
        """Send a request.

        Raises:
            NotFound: the service has no such thing.
            RetryLater: it does not answer, or cannot do it now.
            ServiceError: it refuses.
        """
        given = {key: value for key, value in (query or {}).items() if value is not None}
        url = f"{self.url}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310 - our own http address
        try:
            return (self._patient if patient else _OPENER).open(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except OSError as error:
            why = getattr(error, "reason", error)
            raise RetryLater(f"服务无应答 / the service at {self.url} does not answer: {why}; try again") from error


class _Patient(urllib.request.HTTPHandler):
    """Waits for an answer for as long as somebody lives at the other end: some acts answer only when all is done."""

    def __init__(self, alive: Callable[[], bool], timeout_s: float) -> None:
        super().__init__()
        self._alive, self._timeout_s = alive, timeout_s

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, wait=self._wait), req)

    def _wait(self, connection: socket.socket) -> None:
        """Return when an answer begins.

        Raises:
            TimeoutError: the service was not heard for too long. One that ends closes the connection, which is seen
                without a look.
        """
        heard = time.monotonic()
        while not select.select([connection], [], [], self._timeout_s / _LOOKS)[0]:
            if self._alive():
                heard = time.monotonic()
            elif time.monotonic() - heard >= self._timeout_s:
                raise TimeoutError(f"silent for {self._timeout_s:g} s")


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, wait: Callable[[socket.socket], None], **more: Any) -> None:
        super().__init__(host, **more)
        self._wait = wait

    def getresponse(self) -> http.client.HTTPResponse:
        self._wait(self.sock)
        return super().getresponse()


def _refusal(error: urllib.error.HTTPError) -> QingtuError:
    try:
        said = json.load(error)["error"]
        code, message = str(said["code"]), f"{said['zh']} / {said['en']}"
    except (ValueError, KeyError, TypeError):
        code, message = "http", f"HTTP {error.code} {error.reason}"
    if error.code == 404:
        return NotFound(message)
    if error.code in (429, 503):
        return RetryLater(message)
    return ServiceError(code, error.code, message)


def running_service(data: Path) -> Client | None:
    """Return how to reach the service that uses a data folder, or None when none does.

    Raises:
        RetryLater: a process holds the folder, but does not answer.
    """
    file = data / "service.json"
    try:
        address = json.loads(file.read_text(encoding="utf-8"))
        client = Client(str(address["url"]), str(address["token"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        client = None
    if client is not None and client.alive():
        return client
    if not is_locked(data / "lock"):
        return None
    raise RetryLater(
        f"数据目录 {data} 正被使用但服务无应答 / a process uses the data folder {data}, but does not answer; "
        "try again in a moment"
    )
