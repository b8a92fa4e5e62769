"""The embedded broker: mosquitto when there is one, else the iotcore wheel; both as a child that outlives us.

The child runs in its own session with a pid file, so that Ctrl-C does not reach it before the gateway has flushed
and a kill -9 of ours leaves it alive: the next start adopts it, with the messages that it holds for us. Only
127.0.0.1 is listened on. A broker of one's own (``mqtt.host``) needs none of this.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from qingtu.errors import StartError

if TYPE_CHECKING:
    from qingtu.settings import MqttSettings

Kind = Literal["mosquitto", "iotcore", "external"]

HOST: Final = "127.0.0.1"
START_S: Final = 10.0
STOP_S: Final = 10.0
QUEUE_BYTES: Final = 512 * 1024 * 1024
"""What mosquitto may hold for a gateway that is away; beyond it, it drops without a word."""
AUTOSAVE_S: Final = 15
IOTCORE_PAYLOAD: Final = 64 * 1024 * 1024 + 1024
"""The largest ``max_payload_bytes`` that settings allow, so that too large a payload reaches our quarantine."""

_PLACES: Final = ("/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto")
_IOTCORE: Final = (
    "import json, sys; from iotcore import IotCoreBroker; IotCoreBroker(**json.loads(sys.argv[1])).run_forever()"
)
_NOTES: Final[dict[Kind, tuple[str, str]]] = {
    "mosquitto": (
        "内置代理: mosquitto, 仅监听 127.0.0.1; 会话与排队消息保存在数据目录",
        "embedded broker: mosquitto on 127.0.0.1 only; sessions and queued messages are kept in the data folder",
    ),
    "iotcore": (
        (
            "内置代理: iotcore (未找到 mosquitto), 仅监听 127.0.0.1, 仅支持 MQTT 3.1.1; 没有访问控制, "
            "代理重启后会话与排队消息全部丢失。正式运行请安装 mosquitto"
        ),
        (
            "embedded broker: iotcore (no mosquitto found) on 127.0.0.1 only, MQTT 3.1.1 only; no access control, and "
            "sessions and queued messages do not survive a restart of the broker. Install mosquitto for real use"
        ),
    ),
    "external": ("外部代理", "broker of your own"),
}


@dataclass(slots=True)
class Broker:
    """A broker to connect to.

    Attributes:
        kind: which one.
        host: to connect to.
        port: to connect to.
        note_zh: what it means for the operator.
        note_en: the same in English.
        adopted: it was running already.
        pid: of the child; 0 for an external one.
    """

    kind: Kind
    host: str
    port: int
    note_zh: str
    note_en: str
    adopted: bool = False
    pid: int = 0
    _folder: Path | None = None
    _child: subprocess.Popen[bytes] | None = None

    def adapt(self, settings: MqttSettings) -> MqttSettings:
        """Return the settings with which to reach it: address, and 3.1.1 for iotcore, which has no MQTT 5."""
        update: dict[str, object] = {"host": self.host, "port": self.port}
        if self.kind == "iotcore":
            update["version"] = "3.1.1"
        return settings.model_copy(update=update)

    def running(self) -> bool:
        """Return whether it lives, as far as we can know; an external one is taken to."""
        if self._child is not None and self._child.poll() is not None:
            return False
        return self.kind == "external" or _alive(self.pid)

    def stop(self) -> None:
        """End the child, which saves its state; an external broker is left alone. Safe to call twice."""
        if self._folder is None:
            return
        _end(self.pid, self._child)
        (self._folder / "pid.json").unlink(missing_ok=True)
        self._folder = None


def start_broker(settings: MqttSettings, data: Path) -> Broker:
    """Start or adopt the embedded broker, or name the external one.

    Args:
        settings: ``host`` None asks for an embedded broker on ``port``.
        data: the data folder; ``broker/`` in it is the child's.

    Raises:
        StartError: the port is taken by another program, or no broker can be started.
    """
    if settings.host is not None:
        return Broker("external", settings.host, settings.port, *_NOTES["external"])
    folder = _folder_of(data)
    adopted = _adopt(folder, settings)
    if adopted is not None:
        return adopted
    if not _free(settings.port):
        raise StartError(
            f"port {settings.port} on {HOST} is taken by another program: set mqtt.port (QINGTU_MQTT__PORT) to a "
            f"free one, or mqtt.host={HOST} if that is the broker to use / 端口 {settings.port} 已被占用: "
            f"请改 mqtt.port, 若它就是要用的代理, 请设 mqtt.host={HOST}"
        )
    kind, command = _command(settings, folder)
    with (folder / f"{kind}.out").open("wb") as out:
        child = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=folder
        )
    record = {"pid": child.pid, "port": settings.port, "kind": kind, "born": _born(child.pid)}
    (folder / "pid.json").write_text(json.dumps(record), encoding="utf-8")
    _await_port(child, kind, settings.port, folder)
    return Broker(kind, HOST, settings.port, *_NOTES[kind], pid=child.pid, _folder=folder, _child=child)


def _folder_of(data: Path) -> Path:
    """Make the child's folder, for its owner alone: it keeps retained and queued messages as the devices sent them."""
    folder = data.resolve() / "broker"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:  # made by an earlier version, or with access control lists of its parent
        with contextlib.suppress(PermissionError):  # somebody else's, who shares it with us
            folder.chmod(0o700)
    return folder


def _adopt(folder: Path, settings: MqttSettings) -> Broker | None:
    """Take over the child of an earlier run if it still serves what is asked for; end it otherwise."""
    try:
        record = json.loads((folder / "pid.json").read_text(encoding="utf-8"))
        pid, port, kind, born = record["pid"], record["port"], record["kind"], record["born"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if not _alive(pid) or _born(pid) != born:  # the number may be another program's by now
        return None
    wanted = settings.embedded in {"auto", kind}
    if wanted and port == settings.port and _listening(port):
        return Broker(kind, HOST, port, *_NOTES[_kind(kind)], adopted=True, pid=pid, _folder=folder)
    _end(pid, None)
    return None


def _kind(name: str) -> Kind:
    return "iotcore" if name == "iotcore" else "mosquitto"


def _command(settings: MqttSettings, folder: Path) -> tuple[Kind, list[str]]:
    program = shutil.which("mosquitto") or next((p for p in _PLACES if Path(p).exists()), None)
    if settings.embedded != "iotcore" and program is not None:
        config = folder / "mosquitto.conf"
        config.write_text(_mosquitto_conf(settings.port, folder), encoding="utf-8")
        return "mosquitto", [program, "-c", str(config)]
    if settings.embedded == "mosquitto":
        raise StartError(
            "mosquitto is not installed: install it (apt install mosquitto), or set mqtt.embedded=auto / "
            "未安装 mosquitto: 请安装, 或设 mqtt.embedded=auto"
        )
    if importlib.util.find_spec("iotcore") is None:
        raise StartError(
            "no broker: install mosquitto or the Python package iotcore, or set mqtt.host / "
            "没有可用的代理: 请安装 mosquitto 或 Python 包 iotcore, 或设 mqtt.host"
        )
    options = {
        "listen": HOST,
        "port": settings.port,
        "max_payload_size": IOTCORE_PAYLOAD,
        "max_inflight_count": 1000,
    }
    return "iotcore", [sys.executable, "-c", _IOTCORE, json.dumps(options)]


def _mosquitto_conf(port: int, folder: Path) -> str:
    lines = [
        "# written by Qingtu at every start; a broker of your own: deploy/mosquitto/mosquitto.conf",
        f"listener {port} {HOST}",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {folder}/",
        f"autosave_interval {AUTOSAVE_S}",
        "max_queued_messages 0",
        f"max_queued_bytes {QUEUE_BYTES}",
        "max_inflight_messages 0",
        f"log_dest file {folder / 'mosquitto.log'}",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        lines.append(f"user {getpass.getuser()}")  # else it becomes user mosquitto, who may not write here
    return "\n".join(lines) + "\n"


def _await_port(child: subprocess.Popen[bytes], kind: Kind, port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and child.poll() is None:
        if _listening(port):
            return
        time.sleep(0.02)
    code = child.poll()
    if code is None:
        _end(child.pid, child)
    (folder / "pid.json").unlink(missing_ok=True)
    said = (folder / f"{kind}.out").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = said[-1] if said else ("no answer" if code is None else f"exit code {code}")
    raise StartError(
        f"the embedded broker {kind} did not start on port {port} ({why}): see {folder}, or set mqtt.host to a "
        f"broker of your own / 内置代理 {kind} 未能启动, 详见 {folder}"
    )


def _free(port: int) -> bool:
    """Return whether nobody listens, giving a broker that was just killed a second to go."""
    deadline = time.monotonic() + 1.0
    while _listening(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _listening(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=0.5):
            return True
    except OSError:
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    state = _stat(pid)
    return state is None or state[0] != "Z"


def _born(pid: int) -> str:
    """Return what tells a process from a later one with the same number; "" where there is no /proc."""
    state = _stat(pid)
    return state[19] if state else ""


def _stat(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from its third field on (state first, start time at 19)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None


def _end(pid: int, child: subprocess.Popen[bytes] | None) -> None:
    """Ask the process to end and wait; insist after a while."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + STOP_S
        while _alive(pid) and time.monotonic() < deadline:
            if child is not None:
                child.poll()  # reaps it: a zombie looks alive
            time.sleep(0.02)
        if not _alive(pid):
            break
    if child is not None:
        child.wait()
