"""Runs the real commands: in this process where nothing is started, as processes where something is."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from qingtu.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent.parent
CATALOGUE = ROOT / "stations"
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as one JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Screen(io.StringIO):
    """Standard output as a terminal."""

    def isatty(self) -> bool:
        """Say that a person looks."""
        return True


def inside(*words: object, more: Mapping[str, str] | None = None, stdin: bytes = b"", width: int = 0) -> Ran:
    """Run a command in this process, which is a second faster, and put everything global back.

    With a ``width`` standard output is a terminal of so many columns.
    """
    root = logging.getLogger()
    before = root.handlers[:], root.level
    out, err, given = Screen() if width else io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(stdin))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "stdin", given)
        screen = {"COLUMNS": str(width), "TERM": "dumb"} if width else {}
        for key, value in {"QINGTU_CATALOGUE": str(CATALOGUE), **screen, **(more or {})}.items():
            patch.setenv(key, value)
        try:
            code = main([str(word) for word in words])
        finally:
            structlog.reset_defaults()
            root.handlers[:], root.level = before
    return Ran(code, out.getvalue(), err.getvalue())


def environment(more: Mapping[str, str] | None = None, *, catalogue: bool = True) -> dict[str, str]:
    """Return variables for a command: only what it needs, and no settings of ours but the catalogue's folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("QINGTU_")}
    named = {"QINGTU_CATALOGUE": str(CATALOGUE)} if catalogue else {}
    return {**kept, "PYTHONPATH": str(ROOT), **named, **(more or {})}


def command(
    *words: object, cwd: Path, more: Mapping[str, str] | None = None, stdin: bytes = b"", timeout_s: float = 120.0,
    catalogue: bool = True,
) -> Ran:  # fmt: skip
    """Run a command as a process until it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "qingtu.cli", *map(str, words)], cwd=cwd,
        env=environment(more, catalogue=catalogue), input=stdin, capture_output=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Running:
    """``qingtu run`` as a process in a folder of its own, with the embedded broker.

    Attributes:
        folder: working folder; its data folder is ``data``.
        ports: of broker and map.
        more: variables that say so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(2)
        self.more = {"QINGTU_MQTT__PORT": str(self.ports[0]), "QINGTU_WEB__PORT": str(self.ports[1])}
        self.process: subprocess.Popen[str] | None = None
        self.told: list[str] = []

    def start(self) -> None:
        """Start it and return when it has told where the map is."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qingtu.cli", "run"],
            cwd=self.folder, env=environment(self.more), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told.append(line)
            if line.startswith("Ctrl-C"):
                return
        raise AssertionError("".join(self.told))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Ran:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=_WAIT_S)
        code, self.process = self.process.returncode, None
        return Ran(code, "", err)

    def kill(self) -> None:
        """End it without a chance to do anything, if it lives."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=_WAIT_S)
            self.process = None

    def end_broker(self) -> None:
        """End the broker that a killed service left behind."""
        file = self.folder / "data" / "broker" / "pid.json"
        if file.exists():
            os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)

    def ask(self, *words: object, width: int = 0) -> Ran:
        """Run another command on the same data folder, in this process."""
        return inside(*words, more={**self.more, "QINGTU_DATA": str(self.folder / "data")}, width=width)


def alive(pid: int) -> bool:
    """Return whether a process lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
