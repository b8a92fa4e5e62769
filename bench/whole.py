"""The whole way: broker and publisher in processes of their own, CPU of all our threads per message."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.catalogue import Layer

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """Run mosquitto with a queue that holds everything; yield its port."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise SystemExit("the bench needs mosquitto: apt-get install mosquitto")
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"
        "max_inflight_messages 0\nlog_type error\n"
    )
    child = subprocess.Popen([program, "-c", str(config)])
    try:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if time.monotonic() > deadline:
                raise SystemExit("mosquitto did not start within 10 s")
            time.sleep(0.05)
        yield port
    finally:
        child.terminate()
        child.wait()


class Measured:
    """The service in a process of its own."""

    def __init__(
        self, folder: Path, port: int, stations: int, receive: str, flush_ms: int, *, web: bool,
        layer: Layer = "all", environ: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        command = [sys.executable, "-m", "bench.serve", str(folder / "data"), str(port), str(stations), receive]
        self._child = subprocess.Popen(
            [*command, str(flush_ms), "web" if web else "noweb", layer],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **(environ or {})},
        )  # fmt: skip
        self.ready = self._line()

    def _line(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"the measured process ended: {self._child.wait()}")
        return dict(json.loads(line))

    def begin(self, count: int) -> None:
        """Begin a round of so many messages."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{count}\n")
        self._child.stdin.flush()

    def end_of_round(self) -> dict[str, Any]:
        """Wait until they are stored and return what it took."""
        return self._line()

    def stop(self) -> dict[str, Any]:
        """End the process; return its last word on the ledger."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        last = self._line()
        self._child.wait(60)
        return last


def publish(
    port: int, stations: int, count: int, rate: int, start_ms: int | None, step_ms: int, *more: str
) -> subprocess.Popen[str]:
    """Start the publisher; without ``start_ms`` its times begin when it begins to publish; ``more`` are its options."""
    start = [] if start_ms is None else ["--start-ms", str(start_ms)]
    return subprocess.Popen(
        [
            sys.executable, str(ROOT / "bench/publisher.py"), "--port", str(port), "--stations", str(stations),
            "--count", str(count), "--rate", str(rate), *start, "--step-ms", str(step_ms),
            "--episode-every", "100", "--episode-length", "20", "--episode-height", "70", "--out", "/dev/null", *more,
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def rounds(
    *,
    runs: int,
    count: int,
    rate: int,
    stations: int = 2000,
    receive: str = "fast",
    flush_ms: int = 100,
    layer: Layer = "all",
    environ: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Run so many rounds of ``count`` messages; the first, uncounted, warms up.

    ``layer``: which checks and rules are on; ``environ``: settings of the service.

    Returns:
        for each round: us (CPU per message), per_s (messages per second until stored), rss_mb.
    """
    out = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with broker(folder) as port:
            measured = Measured(folder, port, stations, receive, flush_ms, web=False, layer=layer, environ=environ)
            seq = 0
            # Within the hour that is running: the figures of an hour that ended are another piece of work.
            now = int(time.time())
            base = max(now - 60, now // 3600 * 3600) * 1000
            for number in range(runs + 1):
                measured.begin(count)
                steps = -(-count // stations)
                child = publish(port, stations, count, rate, base + seq * 100, 100)
                seq += steps
                result = measured.end_of_round()
                child.communicate()
                if number:
                    us = result["cpu_s"] / count * 1e6
                    out.append({"us": us, "per_s": count / result["wall_s"], "rss_mb": result["rss_mb"]})
            if not measured.stop()["balanced"]:
                raise SystemExit("the ledger does not balance: the figures are worthless")
    return out
