"""A city's processes on real servers: mosquitto, Kafka, InfluxDB, and each of Qingtu's stages a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

from bench.catalogue import bench_catalogue
from deploy.native.influx import InfluxServer
from deploy.native.kafka import KafkaServer
from deploy.native.mosquitto import MosquittoServer

if TYPE_CHECKING:
    from types import TracebackType

SERVERS: Final = (KafkaServer, MosquittoServer, InfluxServer)
STATIONS: Final = 2000
PARTITIONS: Final = 2
"""As many as processors are measured: each partition more makes frames smaller, whose cost is mostly fixed."""
ROOT: Final = Path(__file__).parents[1]
_TICK: Final = os.sysconf("SC_CLK_TCK")
_START_S: Final = 180.0


def missing() -> list[str]:
    """Return what cannot be had of the servers, and the way out; empty when all are there."""
    return [said for kind in SERVERS if (said := kind.available())]


def cpu_s(pid: int) -> float:
    """Return CPU seconds of all threads of a process, user and system, those that ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def wait_for(condition: Any, what: str, timeout_s: float, every_s: float = 0.1) -> None:
    """Wait until a condition holds; what cannot be asked yet does not hold.

    Raises:
        SystemExit: it did not come to that.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, KeyError, ValueError):
            pass  # it is not up yet
        time.sleep(every_s)
    raise SystemExit(f"bench: {what} did not come within {timeout_s:.0f} s")


class BenchCity:
    """Servers and processes in a folder; a context, which ends all of them.

    Args:
        folder: for everything.
        processors: processes with the pass.
        settings: more lines of qingtu.toml, by table.
        servers_alone: start none of Qingtu's processes: see :meth:`start`.
    """

    def __init__(
        self, folder: Path, *, processors: int = 1, settings: dict[str, str] | None = None, servers_alone: bool = False
    ) -> None:
        self.folder = folder
        self.processors = [f"process{n}" for n in range(processors)]
        self.stages = {"gateway": "gateway", **dict.fromkeys(self.processors, "process"), "map": "store,derive,web"}
        self._more = settings or {}
        self._alone = servers_alone
        self._held = ExitStack()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as held:
            self.kafka = held.enter_context(KafkaServer(self.folder / "kafka", heap="512m"))
            self.mosquitto = held.enter_context(MosquittoServer(self.folder / "mosquitto"))
            self.influx = held.enter_context(InfluxServer(self.folder / "influx"))
            held.callback(self._end)
            self._write()
            self._qingtu("setup", "--admin-token-file", str(self.influx.token_file))
            if not self._alone:
                self.start(*self.stages)
                wait_for(
                    lambda: self.get("/api/status")["state"] == "ok", f"a city that works in {self.folder}", _START_S
                )
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    # ------------------------------------------------------------------------------------------------- processes

    def start(self, *names: str) -> None:
        """Start processes of the city."""
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self._children[name] = subprocess.Popen(
                    [sys.executable, "-m", "qingtu.cli", "run", "--settings", str(self.settings), "--stages",
                     self.stages[name], "--data", str(self.folder / name)],
                    env={**_environ(), "QINGTU_KAFKA__MEMBER": name}, cwd=ROOT,
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                )  # fmt: skip

    def stop(self, *names: str) -> None:
        """Ask processes to end, and wait."""
        for name in names:
            self._children[name].send_signal(signal.SIGCONT)
            self._children[name].terminate()
        for name in names:
            self._children.pop(name).wait(90)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process."""
        self._children[name].send_signal(number)

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds so far of each process of Qingtu, and of each server."""
        servers = {"mosquitto": self.mosquitto, "kafka": self.kafka, "influxd": self.influx}
        pids = {name: child.pid for name, child in self._children.items()} | {n: s.pid for n, s in servers.items()}
        return {name: cpu_s(pid) for name, pid in pids.items()}

    def heartbeat(self, name: str) -> Any:
        """Return what a process without an API says of itself."""
        return json.loads((self.folder / name / "heartbeat.json").read_text(encoding="utf-8"))

    def _works(self) -> bool:
        for name, child in self._children.items():
            if child.poll() is not None:
                said = (self.folder / f"{name}.log").read_text(encoding="utf-8")[-500:]
                raise SystemExit(f"bench: {name} ended: {said}")
        return bool(self.get("/api/status")["state"] == "ok")

    def _end(self) -> None:
        self.stop(*list(self._children))

    # --------------------------------------------------------------------------------------------------- questions

    def get(self, path: str) -> Any:
        """Ask the API of the map."""
        at = json.loads((self.folder / "map" / "service.json").read_text(encoding="utf-8"))
        request = urllib.request.Request(
            f"{at['url'].rstrip('/')}{path}", headers={"Authorization": f"Bearer {at['token']}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def stored(self) -> int:
        """Return how many messages have an outcome."""
        books = self.get("/api/ledger")["messages"]
        return int(books["stored"] + books["duplicate"] + books["quarantined"])

    def wait_stored(self, count: int, timeout_s: float = 600) -> None:
        """Wait until so many messages have an outcome. Asking costs the map: seldom."""
        wait_for(lambda: self.stored() >= count, f"the outcome of {count} messages", timeout_s, 0.25)

    # -------------------------------------------------------------------------------------------------- set up

    def _write(self) -> None:
        stations = self.folder / "stations"
        stations.mkdir()
        content = json.loads(bench_catalogue(STATIONS).to_json())["content"]
        del content["dictionary"]  # the program's own
        # JSON is YAML
        (stations / "bench.yaml").write_text(json.dumps(content), encoding="utf-8")
        self.settings = self.folder / "qingtu.toml"
        tables = {
            "bus": 'kind = "kafka"',
            "kafka": f'servers = ["{self.kafka.address}"]\nprefix = "bench"\npartitions = {PARTITIONS}',
            "mqtt": f'host = "127.0.0.1"\nport = {self.mosquitto.port}\nclient_id = "bench"',
            "web": "port = 0",
            "store": 'kind = "influx"',
            "influx": f'url = "{self.influx.url}"\norg = "{self.influx.org}"\ntoken_file = "{self.folder}/token"\n'
            'bucket = "bench"\nhourly = "bench_h"\ndaily = "bench_d"',
            "grafana": f'influx_token_file = "{self.folder}/read-token"',
        }
        lines = [f'catalogue = "{stations}"']
        for name in (*tables, *(table for table in self._more if table not in tables)):
            lines += [f"[{name}]", tables.get(name, ""), self._more.get(name, "")]
        self.settings.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _qingtu(self, *words: str) -> None:
        command = [sys.executable, "-m", "qingtu.cli", *words, "--settings", str(self.settings)]
        done = subprocess.run(command, env=_environ(), cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench: qingtu {words[0]}: {done.stderr}")


def _environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("QINGTU_")}


class Probe(threading.Thread):
    """Notes when readings of some stations can be queried in InfluxDB, and how long after they were sent.

    Message i is sent ``i / rate`` after the publisher's start, of station ``i % stations``; its claimed time is that of
    its round. So the time of sending is known from the time that is found.

    Args:
        influx: the server.
        bucket: with the readings.
        text: InfluxQL that gives time and value of the newest reading of each probed station, grouped by station.
        rate: messages a second.
    """

    EVERY_S: Final = 0.01

    def __init__(self, influx: InfluxServer, bucket: str, text: str, rate: int) -> None:
        super().__init__(daemon=True)
        self._influx, self._bucket, self._text, self._rate = influx, bucket, text, rate
        self._over = threading.Event()
        self._newest: dict[str, int] = {}
        self._found: list[tuple[int, float]] = []

    def run(self) -> None:
        """Ask again and again."""
        while not self._over.wait(self.EVERY_S):
            for series in query(self._influx, self._bucket, self._text):
                station, at_us = series["tags"]["station"], int(series["values"][0][0])
                if at_us > self._newest.get(station, 0):
                    self._newest[station] = at_us
                    sent_ms = at_us / 1000 + int(station[1:]) / self._rate * 1000
                    self._found.append((at_us, time.time() * 1000 - sent_ms))

    def end(self, since_us: int) -> list[float]:
        """Stop; return the delays in ms of readings with times from then on (µs)."""
        self._over.set()
        self.join()
        return [delay for at_us, delay in self._found if at_us >= since_us]


def query(influx: InfluxServer, bucket: str, text: str) -> list[Any]:
    """Return the series that an InfluxQL query gives, times in µs."""
    request = urllib.request.Request(
        f"{influx.url}/query", urlencode({"db": bucket, "epoch": "u", "q": text}).encode(),
        {"Authorization": f"Token {influx.token}", "Content-Type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        (result,) = json.load(answer)["results"]
    if "error" in result:
        raise ValueError(result["error"])
    return list(result.get("series", ()))
