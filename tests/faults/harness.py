"""Real processes for the fault tests: a broker, a service that is killed, a publisher that keeps its PUBACKs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deploy.native.process import free_port
from qingtu.app import Options, Service
from qingtu.settings import load_settings
from qingtu.store.duckdb import DuckStore
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
SERVE = Path(__file__).with_name("serve.py")
PUBLISHER = ROOT / "bench" / "publisher.py"
PROPERTIES = ("pm25", "pm10", "so2", "no2", "o3", "co", "air_temperature", "relative_humidity")


def mosquitto() -> str:
    """Return the broker's program, or skip."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("no mosquitto on this machine: apt-get install mosquitto")
    return found


def write_catalogue(folder: Path, stations: int) -> Path:
    """Write a catalogue of like stations with a threshold rule that the publisher's episodes cross."""
    folder.mkdir(parents=True)
    lines = [
        "networks:",
        "  - {id: bench, zh: 基准, en: Bench, interval_s: 60}",
        "rules:",
        "  - {id: pm25-high, kind: threshold, zh: 超标, en: High, property: pm25, hysteresis: 5,",
        "     levels: {yellow: 75, orange: 95}}",
        "stations:",
    ]
    for number in range(stations):
        name = f"s{number:04d}"
        lines.append(
            f"  - {{id: {name}, zh: 站{number}, en: Station {number}, network: bench, domain: air, kind: air, "
            f"position: [120.3, 36.1], district: '370202', "
            f"devices: [{{id: {name}, properties: [{', '.join(PROPERTIES)}]}}]}}"
        )
    (folder / "bench.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@dataclass
class World:
    """One scene: broker, service, publisher, all on 127.0.0.1, all ended by :meth:`end`."""

    folder: Path
    stations: int = 200
    settings: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.folder / "data"
        self.catalogue = write_catalogue(self.folder / "stations", self.stations)
        self.broker: subprocess.Popen[bytes] | None = None
        self.service: subprocess.Popen[str] | None = None
        self.publisher: subprocess.Popen[str] | None = None

    def start_broker(self) -> None:
        """Start mosquitto with a queue that holds everything."""
        store = self.folder / "mosquitto"
        store.mkdir(exist_ok=True)
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {store}/\nautosave_interval 1\nautosave_on_changes false\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nlog_type error\n"
            + ("user root\n" if os.geteuid() == 0 else "")
        )
        self.broker = subprocess.Popen(
            [mosquitto(), "-c", str(config)], stderr=subprocess.DEVNULL, start_new_session=True
        )
        until(self._listening, "the broker listens", 10)

    def _listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill_broker(self) -> None:
        """Kill -9 the broker."""
        assert self.broker is not None
        self.broker.kill()
        self.broker.wait()

    def start_service(self) -> None:
        """Start the service and wait until it is ready."""
        command = [*self.prefix, sys.executable, str(SERVE), str(self.data), str(self.port), str(self.catalogue)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.service = subprocess.Popen(
            [*command, *self.settings], stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT, start_new_session=True
        )
        assert self.service.stdout is not None
        line = self.service.stdout.readline()
        assert line == "ready\n", f"the service did not start: {line!r}, exit {self.service.poll()}"

    def kill_service(self) -> None:
        """Kill -9, without a warning."""
        assert self.service is not None
        self.service.send_signal(signal.SIGKILL)
        self.service.wait()

    def stop_service(self) -> None:
        """Ask the service to end, and wait until it has stored everything."""
        assert self.service is not None
        self.service.terminate()
        assert self.service.wait(180) == 0

    def start_publisher(self, count: int, *, start_ms: int, rate: int = 0, step_ms: int = 1000) -> None:
        """Start publishing."""
        self.publisher = subprocess.Popen(
            [
                sys.executable, str(PUBLISHER), "--port", str(self.port), "--stations", str(self.stations),
                "--count", str(count), "--rate", str(rate), "--start-ms", str(start_ms), "--step-ms", str(step_ms),
                "--episode-every", "100", "--episode-length", "20", "--episode-height", "70",
                "--out", str(self.folder / "acked.txt"),
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def published(self) -> dict[str, Any]:
        """Wait for the publisher and return its summary."""
        assert self.publisher is not None
        out, _ = self.publisher.communicate(timeout=300)
        assert self.publisher.returncode == 0
        return dict(json.loads(out))

    def acked(self) -> set[tuple[str, int]]:
        """Return (station, time in ms) of every message that the broker acknowledged to the publisher."""
        lines = (self.folder / "acked.txt").read_text().splitlines()
        return {(line.split()[0], int(line.split()[2])) for line in lines}

    def outcome(self) -> Outcome:
        """Open the stopped service's files and read what became of everything."""
        environ = {"QINGTU_DATA": str(self.data), "QINGTU_CATALOGUE": str(self.catalogue)}
        service = Service(load_settings(Path(os.devnull), environ=environ), Options(gateway=False))
        try:
            assert isinstance(service.store, DuckStore)
            with service.store.cursor() as db:
                rows = db.execute(
                    "SELECT s.station, epoch_ms(r.time), count(*), count(DISTINCT s.property) FROM readings r "
                    "JOIN series s ON s.id = r.series GROUP BY ALL"
                ).fetchall()
                transitions = db.execute(
                    "SELECT alert, station, state, level, epoch_ms(time), value FROM alerts ORDER BY ALL"
                ).fetchall()
            return Outcome(rows, transitions, service.audit())
        finally:
            service.close()

    def end(self) -> None:
        """End everything that was started."""
        for process in (self.publisher, self.service, self.broker):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Outcome:
    """What the store, the alerts and the ledger say."""

    rows: Sequence[tuple[str, int, int, int]]
    transitions: Sequence[tuple[Any, ...]]
    audit: dict[str, Any]

    def check(self, acked: set[tuple[str, int]]) -> None:
        """Nothing acknowledged is lost, nothing is stored twice, the ledger balances and its audit agrees."""
        stored = {(station, ms) for station, ms, _, _ in self.rows}
        lost = acked - stored
        assert not lost, f"{len(lost)} of {len(acked)} lost, such as {sorted(lost)[:3]}"
        twice = [row for row in self.rows if row[2] != len(PROPERTIES) or row[3] != len(PROPERTIES)]
        assert not twice, f"{len(twice)} messages not stored once, such as {twice[:3]}"
        ledger = self.audit["ledger"]
        assert ledger["balanced"], ledger
        assert ledger["messages"]["in_flight"] == 0, ledger["messages"]
        assert ledger["messages"]["stored"] == len(stored), ledger["messages"]
        assert ledger["messages"]["quarantined"] == 0, ledger["messages"]
        assert self.audit["agrees"], self.audit["checks"]
        ids = [(t[0], t[2], t[3], t[4]) for t in self.transitions]
        assert len(set(ids)) == len(ids), "an alert transition appears twice"
