"""Telegraf on the same stream into the same InfluxDB: ``make bench PEER=telegraf`` prints it beside ours.

Its configuration is the cheapest that was found with checks and alerts, and that lost nothing in tests: messages held
until they are written, a session of its own, a buffer larger than what is held. The program is named in
``QINGTU_TELEGRAF``, or built once from its Go module into the user's cache.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.city import STATIONS, cpu_s, missing, query, wait_for
from bench.full import RATE, Clock, drained, latency
from bench.whole import publish
from deploy.native import cache
from deploy.native.influx import InfluxServer
from deploy.native.mosquitto import MosquittoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION: Final = "1.39.3"
_MODULE: Final = f"github.com/influxdata/telegraf/cmd/telegraf@v{VERSION}"
_TAGS: Final = "custom,inputs.mqtt_consumer,outputs.influxdb_v2,parsers.json,processors.starlark,serializers.influx"
_CHECKS: Final = Path(__file__).with_name("qc.star")
_CONFIG: Final = """\
[agent]
  flush_interval = "100ms"
  flush_jitter = "0s"
  metric_batch_size = 5000
  metric_buffer_limit = 100000
  omit_hostname = true
  skip_processors_after_aggregators = true
[[inputs.mqtt_consumer]]
  servers = ["tcp://127.0.0.1:{broker}"]
  topics = ["qt/bench/+/up"]
  qos = 1
  persistent_session = true
  client_id = "telegraf"
  max_undelivered_messages = 10000
  topic_tag = ""
  data_format = "json"
  name_override = "aq"
  json_strict = true
  json_time_key = "time"
  json_time_format = "unix_ms"
  [[inputs.mqtt_consumer.topic_parsing]]
    topic = "qt/bench/+/up"
    tags = "_/_/station/_"
[[processors.starlark]]
  script = "{checks}"
[[outputs.influxdb_v2]]
  urls = ["{url}"]
  token = "{token}"
  organization = "{org}"
  bucket = "{bucket}"
  content_encoding = "gzip"
  timeout = "5s"
"""


def program() -> Path:
    """Return Telegraf's program; built when it is not there.

    Raises:
        SystemExit: it cannot be had; with what is missing.
    """
    if named := os.environ.get("QINGTU_TELEGRAF"):
        if not os.access(named, os.X_OK):
            raise SystemExit(f"QINGTU_TELEGRAF 不可执行 / QINGTU_TELEGRAF={named} is not a program")
        return Path(named).absolute()
    built = cache.servers() / f"telegraf-{VERSION}"
    if built.exists():
        return built
    go = shutil.which("go")
    if go is None:
        raise SystemExit(
            f"没有 Telegraf / no Telegraf {VERSION}: name one in QINGTU_TELEGRAF, or install Go 1.26 to build it once"
        )
    print(f"Telegraf {VERSION}: 首次构建, 约 4 分钟 / built once, about 4 minutes", flush=True)
    with cache.locked("telegraf") as folder, tempfile.TemporaryDirectory(dir=folder, prefix="telegraf-") as made:
        environ = {**os.environ, "GOBIN": made, "CGO_ENABLED": "0"}
        stamp = f"-s -w -X github.com/influxdata/telegraf/internal.Version={VERSION}"
        command = [go, "install", "-trimpath", "-ldflags", stamp, "-tags", _TAGS, _MODULE]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"构建失败 / building Telegraf failed:\n{done.stderr[-2000:]}")
        Path(made, "telegraf").rename(built)
    return built


class _Peer:
    """Telegraf between a broker and an InfluxDB."""

    def __init__(self, folder: Path, broker: MosquittoServer, influx: InfluxServer) -> None:
        self.broker, self.influx = broker, influx
        self._log = folder / "telegraf.log"
        config = folder / "telegraf.conf"
        config.write_text(
            _CONFIG.format(broker=broker.port, checks=_CHECKS, url=influx.url, token=influx.token, org=influx.org,
                           bucket=influx.bucket), encoding="utf-8",
        )  # fmt: skip
        with self._log.open("ab") as log:
            self.child = subprocess.Popen([str(program()), "--config", str(config)], stdout=log, stderr=log)
        self.sent = 0

    def connected(self) -> bool:
        """Return whether it takes messages."""
        return "Connected [" in self._log.read_text(encoding="utf-8", errors="replace")

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds so far, of it and of the servers."""
        pids = {"telegraf": self.child.pid, "mosquitto": self.broker.pid, "influxd": self.influx.pid}
        return {name: cpu_s(pid) for name, pid in pids.items()}

    def count(self) -> int:
        """Return how many messages can be queried."""
        found = query(self.influx, self.influx.bucket, 'SELECT count("readings_pm25") FROM "aq"')
        return int(found[0]["values"][0][1]) if found else 0

    def wait(self, more: int) -> None:
        """Wait until so many more can be queried; each has a time of its own, so none hides another."""
        self.sent += more
        wait_for(lambda: self.count() >= self.sent, f"message {self.sent} in InfluxDB", 300, 0.25)


@contextmanager
def _peer() -> Iterator[_Peer]:
    with (
        tempfile.TemporaryDirectory() as name,
        MosquittoServer(Path(name) / "mosquitto") as broker,
        InfluxServer(Path(name) / "influx") as influx,
    ):
        peer = _Peer(Path(name), broker, influx)
        try:
            wait_for(peer.connected, "Telegraf's connection", 30)
            time.sleep(1)
            yield peer
        finally:
            peer.child.terminate()
            peer.child.wait(30)


def _line(title: str, rounds: list[dict[str, float]]) -> str:
    parts = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    servers = ", ".join(f"{name} {us:.0f}" for name, us in parts.items() if name != "telegraf")
    return f"{title}: {parts['telegraf']:.1f} us/message (beside it {servers})"


def report(*, quick: bool = False) -> Iterator[str]:
    """Yield the peer's figures, in the words of :func:`bench.full.report`; one line when it cannot be had."""
    if lacking := missing():
        yield "Telegraf: not measured, missing: " + "; ".join(lacking)
        return
    runs, backlog, seconds = (2, 60_000, 8) if quick else (3, 100_000, 15)
    with _peer() as peer:
        clock = Clock()
        drains: list[tuple[dict[str, float], float]] = []
        for count in (20_000, *[backlog] * runs):
            spent, took = drained(
                peer.broker.port,
                count,
                clock.take(count),
                peer.child.send_signal,
                functools.partial(peer.wait, count),
                peer.cpu,
            )
            drains.append(({name: s / count * 1e6 for name, s in spent.items()}, count / took))
        yield _line(f"Telegraf, backlog of {backlog:,}", [us for us, _ in drains[1:]])
        yield f"Telegraf, saturated: {statistics.median(per_s for _, per_s in drains[1:]):,.0f} messages/s"
        yield _line(f"Telegraf at {RATE:,} messages/s", [_paced(peer, RATE * seconds, clock) for _ in range(runs)])
        p50, p99 = latency(peer.influx, peer.broker.port, peer.influx.bucket, "aq", "readings_pm25", seconds)
        yield f"Telegraf, publish to queryable at {RATE:,} messages/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms"


def _paced(peer: _Peer, count: int, clock: Clock) -> dict[str, Any]:
    before = peer.cpu()
    publish(peer.broker.port, STATIONS, count, RATE, clock.take(count), 100).communicate()
    peer.wait(count)
    after = peer.cpu()
    return {name: (after[name] - before[name]) / count * 1e6 for name in after}
