"""``qingtu reload``: the catalogue is read again, by a service with an API or by a process that is a gateway alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from qingtu import heartbeat
from qingtu.client import running_service
from qingtu.clock import SystemClock
from qingtu.commands.options import Data, SettingsFile, settings_of
from qingtu.commands.output import out
from qingtu.errors import NotFound, QingtuError, RetryLater, StartError, Undecided
from qingtu.files import is_locked

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.app import Service

_LOG = structlog.get_logger("qingtu")
_ANSWER_S: Final = 30.0
_LOOK_S: Final = 0.1


def reload(file: SettingsFile = None, data: Data = None) -> None:
    """Make the running service read the catalogue again / 重新加载目录.

    A catalogue with problems is refused, with all of them, and the old one stays in use. Of a city's processes, reload
    each gateway: the others follow.
    """
    folder = settings_of(file, data).data
    if (client := running_service(folder)) is not None:
        made = client.post("/api/reload", {})
    elif (part := _part(folder)) is not None:
        made = _ask(folder, part)
    else:
        raise NotFound("服务未运行 / no service runs on this data folder: the next start reads the catalogue by itself")
    word = "已更换 / changed" if made["changed"] else "未变 / unchanged"
    out().print(f"目录 catalogue {made['catalogue']}: {word}")


def _part(folder: Path) -> dict[str, Any] | None:
    """Return the heartbeat of the process that holds a folder; None before its first, when it takes no signal yet."""
    part = heartbeat.heard(folder, SystemClock().now_us())
    lock = folder / "lock"
    living = part is not None and is_locked(lock) and lock.read_text(encoding="utf-8").strip() == str(part["pid"])
    return part if living else None


def _ask(folder: Path, part: dict[str, Any]) -> dict[str, Any]:
    """Ask a process without an API by its signal, and wait until its heartbeat answers."""
    os.kill(part["pid"], signal.SIGUSR1)
    deadline = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline:
        now = heartbeat.heard(folder, SystemClock().now_us())
        if now is not None and now["pid"] == part["pid"] and now.get("reloads", 0) > part.get("reloads", 0):
            if now["refused"]:
                raise StartError(now["refused"])
            return {"catalogue": now["catalogue"], "changed": now["catalogue"] != part["catalogue"]}
        time.sleep(_LOOK_S)
    raise RetryLater(f"{_ANSWER_S:.0f} 秒内没有答复 / no answer within {_ANSWER_S:.0f} s: it goes on trying")


class Reloads:
    """Reads the catalogue again when SIGUSR1 asks for it: the way to a process without an API. In the main thread.

    Not SIGHUP, which a terminal sends that is closed: that one ends the process.

    Args:
        service: of this process.

    Attributes:
        count: how often that was done or refused.
        refused: why the last one was; "" when it was not.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._asked = threading.Event()
        self.count = 0
        self.refused = ""
        signal.signal(signal.SIGUSR1, lambda *_: self._asked.set())

    def look(self) -> None:
        """Do what was asked for since; what raw does not take now is done at the next look."""
        if not self._asked.is_set():
            return
        self._asked.clear()
        try:
            version = self._service.reload()
        except (RetryLater, Undecided) as later:
            _LOG.warning("reload_waits", reason=str(later), next="tried again")
            self._asked.set()
            return
        except (QingtuError, OSError) as error:
            self.refused = str(error)
            _LOG.warning("reload_refused", reason=self.refused, next="the old catalogue stays in use")
        else:
            self.refused = ""
            _LOG.info("reloaded", catalogue=version)
        self.count += 1
