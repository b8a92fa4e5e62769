"""The full way MQTT → Kafka → InfluxDB: CPU a message of each process, throughput, latency, processors against one."""

from __future__ import annotations

import json
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from bench.catalogue import PROPERTIES, bench_catalogue
from bench.city import PARTITIONS, STATIONS, BenchCity, Probe, missing, wait_for
from bench.serve import APART_S
from bench.whole import publish
from ingest.core import GatewayCore
from ingest.raw import command_row, raw_frame
from ingest.routes import RouteTable
from processors.process import CONFIGURE
from qingtu.bus.kafka import KafkaBus
from qingtu.bus.kafka_client import topic
from qingtu.bus.kafka_log import consumer
from qingtu.records import PROCESSED, RAW
from qingtu.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.native.influx import InfluxServer

RATE: Final = 2000
_PROBED: Final = 50
_SETTLING_US: Final = 3_000_000
_STEP_MS: Final = 100
_OURS: Final = ("gateway", "process", "store, derive, map")
_START_US: Final = 1_795_392_000_000_000
_KNOWN: Final = 2 * PARTITIONS
"""Frames after which processors know all: the catalogue and one message of each station, in each partition."""
TIMELY: Final = {"store": "commit_ms = 10", "figures": f"grace_s = {APART_S}"}
"""By default the store commits every 2 s, which costs less; the live view does not wait for it."""
_PAIRS: Final = 3


class Clock:
    """Gives out times that no message had yet, within the running hour: the figures of one that ended cost, too."""

    def __init__(self) -> None:
        now = int(time.time())
        self._at_ms = max(now - 60, now // 3600 * 3600) * 1000

    def take(self, count: int) -> int:
        """Return where the times of ``count`` messages begin, in ms."""
        at_ms = self._at_ms
        self._at_ms += -(-count // STATIONS) * _STEP_MS
        return at_ms


def _spent(before: dict[str, float], after: dict[str, float], count: int) -> dict[str, float]:
    """Return CPU µs a message of each process."""
    us = {name: (after[name] - before[name]) / count * 1e6 for name in after}
    us["process"] = sum(us.pop(name) for name in list(us) if name.startswith("process"))
    us["store, derive, map"] = us.pop("map")
    return us


def drained(
    mqtt_port: int, count: int, start_ms: int, hold: Callable[[int], object], wait: Callable[[], object],
    cpu: Callable[[], dict[str, float]],
) -> tuple[dict[str, float], float]:  # fmt: skip
    """Let a backlog queue at the broker while the subscriber hangs; then let it go on.

    Args:
        mqtt_port: of the broker.
        count: of messages.
        start_ms: of their times.
        hold: sends a signal to the subscriber.
        wait: returns when all is stored.
        cpu: CPU seconds so far, by process.

    Returns:
        CPU seconds by process, and seconds until all was stored.
    """
    hold(signal.SIGSTOP)
    child = publish(mqtt_port, STATIONS, count, 0, start_ms, _STEP_MS)
    child.communicate()
    time.sleep(1)  # what others have in hand of before
    before, began = cpu(), time.monotonic()
    hold(signal.SIGCONT)
    wait()
    took = time.monotonic() - began
    after = cpu()
    return {name: after[name] - before[name] for name in after}, took


def drain(city: BenchCity, count: int, clock: Clock) -> tuple[dict[str, float], float]:
    """Return CPU µs a message of each process while a backlog is drained, and messages a second."""
    done = city.stored()
    spent, took = drained(
        city.mosquitto.port, count, clock.take(count), lambda number: city.signal("gateway", number),
        lambda: city.wait_stored(done + count), city.cpu,
    )  # fmt: skip
    return _spent(dict.fromkeys(spent, 0.0), spent, count), count / took


def paced(city: BenchCity, count: int, clock: Clock) -> dict[str, float]:
    """Return CPU µs a message of each process at :data:`RATE` messages a second."""
    done, before = city.stored(), city.cpu()
    publish(city.mosquitto.port, STATIONS, count, RATE, clock.take(count), _STEP_MS).communicate()
    city.wait_stored(done + count)
    return _spent(before, city.cpu(), count)


def latency(
    influx: InfluxServer, mqtt_port: int, bucket: str, measurement: str, field: str, seconds: int
) -> tuple[float, float]:
    """Return p50 and p99 of the ms from sending to being found in InfluxDB, of the readings of some stations."""
    probed = "|".join(f"s{n:04d}" for n in range(0, STATIONS, STATIONS // _PROBED))
    since_us = int(time.time() * 1e6)
    text = (
        f'SELECT last("{field}") FROM "{measurement}" WHERE station =~ /^({probed})$/ AND time >= {since_us}u '
        "GROUP BY station"
    )
    probe = Probe(influx, bucket, text, RATE)
    probe.start()
    publish(mqtt_port, STATIONS, RATE * seconds, RATE, None, STATIONS * 1000 // RATE).communicate()
    time.sleep(2)
    found = probe.end(since_us + _SETTLING_US)
    if len(found) < _PROBED:
        raise SystemExit(f"bench: only {len(found)} readings were found in time: this machine is too busy to measure")
    cuts = statistics.quantiles(found, n=100)
    return cuts[49], cuts[98]


# ------------------------------------------------------------------------------------------------------ processors


def filled(count: int) -> list[tuple[int, bytes]]:
    """Return raw frames of ``count`` messages, each with its partition, as a gateway under load makes them."""
    catalogue = bench_catalogue(STATIONS)
    settings = load_settings(Path("/dev/null"), environ={})
    args = {"catalogue": catalogue.version, "routes": {r.name: r.decoder for r in settings.routes},
            **settings.process.model_dump()}  # fmt: skip
    row = command_row(_START_US, CONFIGURE, "bench", args)
    first = raw_frame([row], gateway="", catalogue=catalogue.version, clock_us=_START_US)
    out = [(p, first) for p in range(PARTITIONS)]

    def station_of(network: str, device: str) -> str | None:
        entry = catalogue.devices.get((network, device))
        return None if entry is None else entry.station.id

    core = GatewayCore(
        RouteTable(settings.routes), settings.mqtt, gateway="bench", partitions=PARTITIONS, key=b"bench",
        catalogue=catalogue.version, station_of=station_of,
    )  # fmt: skip
    core.connected(1, session_present=True)
    topics = [f"qt/bench/s{n:04d}/up".encode() for n in range(STATIONS)]
    for step in range(count // STATIONS):
        now = _START_US + step * 1_000_000
        readings = ",".join(f'"{key}":{(step * 7 + n) % 50 + 10}' for n, key in enumerate(PROPERTIES))
        body = f'{{"time":{now // 1000},"seq":{step},"readings":{{{readings}}}}}'.encode()
        core.receive_many([(0x32, topic, n + 1, None, body) for n, topic in enumerate(topics)], now)
        flush = core.take(now + 10_000_000)
        assert flush is not None
        out += list(flush.frames.items())
        core.flushed(flush)
    return out


def processing(processors: int, frames: list[tuple[int, bytes]]) -> tuple[float, float, float]:
    """Return seconds of so many processors on a filled raw topic, their CPU seconds, and those of Kafka.

    They run, and know all stations: what they do once, when they meet the catalogue, is not what grows with messages.
    """
    patient = {"kafka": "session_timeout_ms = 30000"}  # they hang while raw is filled
    with (
        tempfile.TemporaryDirectory() as folder,
        BenchCity(Path(folder), processors=processors, settings=patient, servers_alone=True) as city,
    ):
        city.start(*city.processors)
        share = PARTITIONS // processors
        wait_for(
            lambda: all(len(city.heartbeat(name)["partitions"]["process"]) == share for name in city.processors),
            "a share for each processor", 120,
        )  # fmt: skip
        kafka = load_settings(city.settings, environ={}).kafka
        bus, asked = KafkaBus(kafka), consumer(kafka, "bench")
        ends = [TopicPartition(topic(kafka, PROCESSED), p) for p in range(PARTITIONS)]

        def passed(count: int) -> None:
            # Seldom: who asks needs the cores that are measured.
            wait_for(lambda: sum(asked.end_offsets(ends).values()) >= count, "the pass of raw", 300, 0.5)

        def fill(some: list[tuple[int, bytes]]) -> None:
            for ticket in [bus.append(RAW, partition, [frame]) for partition, frame in some]:
                ticket.result(120)

        try:
            fill(frames[:_KNOWN])
            passed(_KNOWN)
            for name in city.processors:
                city.signal(name, signal.SIGSTOP)
            fill(frames[_KNOWN:])
            before, began = city.cpu(), time.time()
            for name in city.processors:
                city.signal(name, signal.SIGCONT)
            passed(len(frames))
            took, after = _last_s(asked, ends) - began, city.cpu()
        finally:
            asked.close(autocommit=False)
            bus.close()
        ours = sum(after[name] - before[name] for name in city.processors)
        return took, ours, after["kafka"] - before["kafka"]


def _last_s(asked: KafkaConsumer, ends: list[TopicPartition]) -> float:
    """Return when the newest record of some partitions was written, s UTC."""
    asked.assign(ends)
    for place, end in asked.end_offsets(ends).items():
        asked.seek(place, end - 1)
    times: dict[TopicPartition, int] = {}
    while len(times) < len(ends):
        for place, records in asked.poll(timeout_ms=1000).items():
            times[place] = records[-1].timestamp
    return max(times.values()) / 1000


# ---------------------------------------------------------------------------------------------------------- report


def _line(title: str, rounds: list[dict[str, float]]) -> str:
    """Return medians by process in one line, ours added up."""
    parts = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    ours = statistics.median(sum(r[name] for name in _OURS) for r in rounds)
    own = ", ".join(f"{name} {parts[name]:.1f}" for name in _OURS)
    servers = ", ".join(f"{name} {us:.0f}" for name, us in parts.items() if name not in _OURS)
    return f"{title}: {ours:.1f} us/message ({own}; beside them {servers})"


def report(*, quick: bool = False) -> Iterator[str]:
    """Yield lines of figures; one that says what is missing when servers cannot be had."""
    if lacking := missing():
        yield "full way MQTT, Kafka, InfluxDB: not measured, missing: " + "; ".join(lacking)
        return
    runs, backlog, seconds = (2, 60_000, 8) if quick else (3, 100_000, 15)
    with tempfile.TemporaryDirectory() as folder, BenchCity(Path(folder), settings=TIMELY) as city:
        clock = Clock()
        drain(city, 20_000, clock)  # warms up
        rounds = [drain(city, backlog, clock) for _ in range(runs)]
        yield _line(f"full way, backlog of {backlog:,}", [us for us, _ in rounds]) + " (goal 40)"
        yield f"full way, saturated: {statistics.median(per_s for _, per_s in rounds):,.0f} messages/s"
        yield _line(f"full way at {RATE:,} messages/s", [paced(city, RATE * seconds, clock) for _ in range(runs)])
        place = (city.influx, city.mosquitto.port, "bench", "air", "pm25")
        halves, tails = zip(*(latency(*place, seconds) for _ in range(runs)), strict=True)
        yield (
            f"publish to queryable at {RATE:,} messages/s: p50 {statistics.median(halves):.0f} ms, "
            f"p99 {statistics.median(tails):.0f} ms ({min(tails):.0f} to {max(tails):.0f}; goal 250)"
        )
        report_ = city.get("/api/ledger")
        if not report_["balanced"] or report_["messages"]["quarantined"]:
            raise SystemExit(f"the ledger is not as it must be, the figures are worthless: {json.dumps(report_)}")
    yield _together(filled(200_000 if quick else 1_200_000), 1 if quick else _PAIRS)


def _together(frames: list[tuple[int, bytes]], pairs: int) -> str:
    """Return a line: two processors against one, the pair whose ratio is the median of all."""
    ran = [(processing(1, frames), processing(2, frames)) for _ in range(pairs)]
    ran.sort(key=lambda pair: pair[0][0] / pair[1][0])
    ratios = ", ".join(f"{one[0] / two[0]:.2f}" for one, two in ran)
    one, two = ran[len(ran) // 2]
    return (
        f"processors on a filled raw topic: one {one[0]:.1f} s (CPU {one[1]:.1f}, Kafka {one[2]:.1f}), "
        f"two {two[0]:.1f} s (CPU {two[1]:.1f}, Kafka {two[2]:.1f}): {one[0] / two[0]:.2f} times (of {ratios}; "
        "goal 1.8)"
    )
