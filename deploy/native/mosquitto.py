"""A mosquitto of one's own, from the distribution's package."""

from __future__ import annotations

import os
import re
import shutil
import socket
from typing import TYPE_CHECKING, ClassVar, Final

from deploy.native.process import LOCAL, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PLACES: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
_PLAIN: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {data}/
autosave_interval 1
max_queued_messages 50000000
max_queued_bytes 2000000000
max_inflight_messages 0
log_dest stderr
"""
"""For a machine of one's own and for tests: no log-in, 127.0.0.1 alone; queues as in deploy/mosquitto."""
_CONNECT: Final = bytes.fromhex("100c00044d51545404020005") + b"\x00\x00"
"""MQTT 3.1.1 CONNECT, clean session, no client id: any answer will do, also a refusal."""


class MosquittoServer(Server):
    """mosquitto with a configuration of its own or with a given one.

    Args:
        folder: see :class:`~deploy.native.process.Server`.
        port: to listen on. With `config` it must be what the file says; None takes the file's first listener.
        config: a mosquitto.conf to start with instead of a plain one on 127.0.0.1. A copy is used.
        changes: texts of `config` to be replaced in the copy, such as paths of a production machine. Each must occur.
    """

    title: ClassVar[str] = "mosquitto"
    start_timeout_s: ClassVar[float] = 30.0
    host: Final = LOCAL

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        config: Path | None = None,
        changes: Mapping[str, str] | None = None,
    ) -> None:
        text = _PLAIN
        if config is not None:
            text = _changed(config, changes or {})
            port = port or _first_listener(config, text)
        super().__init__(folder, port=port)
        self._text = text if config else text.format(port=self.port, data=self.data)

    @classmethod
    def available(cls) -> str | None:
        """Return None when mosquitto is installed."""
        return None if program() else "没有 mosquitto / mosquitto is not installed: apt-get install mosquitto"

    def _command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        own = self.folder / "mosquitto.conf"
        # As root mosquitto becomes the user "mosquitto", who may not enter our folder.
        stay = "user root\n" if os.geteuid() == 0 and not re.search(r"^user\s", self._text, re.MULTILINE) else ""
        own.write_text(self._text.rstrip("\n") + "\n" + stay, encoding="utf-8")
        found = program()
        assert found is not None, "start() asked available()"
        return [found, "-c", str(own)], {}

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), 1) as connection:
                connection.sendall(_CONNECT)
                # a TLS listener has no word for this but closes or alerts: it is there all the same
                connection.recv(1)
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        except OSError:
            return False
        return True


def program() -> str | None:
    """Return the path of mosquitto, None when it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_PLACES)


def _changed(config: Path, changes: Mapping[str, str]) -> str:
    text = config.read_text(encoding="utf-8")
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"{config} does not hold {old!r}")
        text = text.replace(old, new)
    return text


def _first_listener(config: Path, text: str) -> int:
    found = re.search(r"^\s*(?:listener|port)\s+(\d+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{config} names no listener with a port")
    return int(found[1])
