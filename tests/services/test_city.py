"""A city's processes on Kafka and InfluxDB under load, one fault after the other: nothing lost, nothing doubled.

The publisher is independent of our code and keeps its PUBACKs. ``QINGTU_FAULTS=long`` or ``short`` writes
docs/reliability.md.
"""

from __future__ import annotations

import json
import textwrap
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bench.city import cpu_s
from bench.whole import publish
from deploy.native.influx import InfluxServer
from deploy.native.kafka import KafkaServer
from deploy.native.mosquitto import MosquittoServer
from deploy.native.process import free_port
from qingtu.partitions import partition_of
from tests.faults.proxy import Proxy
from tests.services.city import STATIONS, City
from tests.services.city_faults import AWAY_S, FAULTS, FORM, HANG_S, Fault, Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.services
_RATE: Final = 600
_COUNT: Final = 4_200
_FAULT_AT_S: Final = 1.5
_STEP_MS: Final = 10
_STILL_S: Final = 15.0
"""Longer than the status takes to notice that something does not move: 10 s, and the time of asking."""
_PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Start servers, proxies and a city; write the table when all faults went through."""
    for kind in (KafkaServer, MosquittoServer, InfluxServer):
        if missing := kind.available():
            pytest.skip(missing)
    folder = tmp_path_factory.mktemp("city")
    ports: list[int] = []
    while len(ports) < 4:
        ports.append(free_port(ports))
    raw, told_raw, bus, told_bus = ports
    with ExitStack() as held:
        kafka = held.enter_context(KafkaServer(folder / "kafka", doors=[(raw, told_raw), (bus, told_bus)]))
        mosquitto = held.enter_context(MosquittoServer(folder / "mosquitto"))
        influx = held.enter_context(InfluxServer(folder / "influx"))
        proxies = {
            "broker": held.enter_context(Proxy("127.0.0.1", mosquitto.port)),
            "raw": held.enter_context(Proxy("127.0.0.1", raw, told_raw)),
            "bus": held.enter_context(Proxy("127.0.0.1", bus, told_bus)),
            "store": held.enter_context(Proxy("127.0.0.1", influx.port)),
        }
        servers = "QINGTU_KAFKA__SERVERS"
        apart = {
            "gateway": {"QINGTU_MQTT__PORT": str(proxies["broker"].port), servers: f"127.0.0.1:{told_raw}"},
            "process0": {servers: f"127.0.0.1:{told_bus}"},
            "map": {
                "QINGTU_INFLUX__URL": f"http://127.0.0.1:{proxies['store'].port}",
                # All of it stands in one window of ten minutes, whose figures made anew each second would be the load.
                "QINGTU_FIGURES__GRACE_S": "7200",
            },
        }
        city = City(folder / "city", kafka, mosquitto, "faults", influx=influx, apart=apart)
        held.callback(city.end)
        city.start()
        made = Scene(city, kafka, mosquitto, influx, proxies)
        yield made
    if FORM and len(made.rows) == len(FAULTS) + 2:
        _PAGE.write_text(_page(made.rows), encoding="utf-8")


class _Watch(threading.Thread):
    """Asks for the status while something is wrong, and notices when it says ok though nothing moves."""

    def __init__(self, city: City) -> None:
        super().__init__(daemon=True)
        self._city = city
        self._over = threading.Event()
        self._still: tuple[int, float] | None = None
        self.said: set[str] = set()
        self.lied: list[str] = []

    def run(self) -> None:
        while not self._over.wait(0.5):
            try:
                status = self._city.get("/api/status")
            except (OSError, ValueError):
                self.said.add("no answer")
                self._still = None
            else:
                self.said.add(status["state"])
                self.said |= {problem["key"] for problem in status["problems"]}
                self._judge(status)

    def _judge(self, status: Any) -> None:
        """Remember since when it says ok while messages are in flight and none has arrived."""
        books, now = status["ledger"], time.monotonic()
        done = books["stored"] + books["duplicate"] + books["quarantined"]
        if status["state"] != "ok" or not books["in_flight"]:
            self._still = None
        elif self._still is None or self._still[0] != done:
            self._still = done, now
        elif now - self._still[1] > _STILL_S:
            self.lied.append(f"ok for {now - self._still[1]:.0f} s with {books['in_flight']} in flight")

    def end(self) -> set[str]:
        """Stop asking; return all that was said."""
        self._over.set()
        self.join(40)
        assert not self.lied, self.lied
        return self.said


class _Load:
    """Messages under way, from before a fault until all of them have their outcome.

    Args:
        scene: where.
        count: of messages by the independent publisher.
    """

    def __init__(self, scene: Scene, count: int = _COUNT) -> None:
        self.scene, self.count = scene, count
        self.before = scene.city.ledger()
        start_ms = _new_times(scene, count)
        self._child = publish(scene.mosquitto.port, STATIONS, count, _RATE, start_ms, _STEP_MS)
        scene.publisher = self._child.pid
        self._watch = _Watch(scene.city)
        self.said: set[str] = set()

    def strike(self, fault: Fault) -> None:
        """Let the fault begin and end."""
        time.sleep(0 if fault.from_start else _FAULT_AT_S)
        self._watch.start()
        with fault.strike(self.scene):
            if fault.from_start:
                self._child.wait(300)
            time.sleep(fault.away_s)

    def gained(self, more: int = 0) -> tuple[dict[str, int], int]:
        """Wait until everything has its outcome and the status is ok; return what the books gained, and readings.

        Args:
            more: messages by others than the publisher.
        """
        city = self.scene.city
        if not self._watch.is_alive():
            self._watch.start()
        answer, _ = self._child.communicate(timeout=300)
        summary = json.loads(answer)
        assert summary["acknowledged"] == summary["published"] == self.count
        city.wait(lambda: self._settled(self.count + more), 180)
        self.settled_at = time.monotonic()
        city.wait(lambda: city.get("/api/status")["state"] == "ok", 60)
        self.said = self._watch.end()
        ended = [part.name for part in city.parts.values() if not part.running()]
        assert not ended, f"{ended} ended by themselves: see the logs in {city.folder}"
        after = city.ledger()
        assert after["balanced"]
        audit = city.post("/api/audit")
        assert audit["agrees"], audit["checks"]
        gained = {key: after["messages"][key] - self.before["messages"][key] for key in after["messages"]}
        assert gained["in_flight"] == 0
        return gained, after["readings"]["stored"] - self.before["readings"]["stored"]

    def _settled(self, wanted: int) -> bool:
        now = self.scene.city.ledger()["messages"]
        outcomes = sum(now[key] - self.before["messages"][key] for key in ("stored", "quarantined"))
        return bool(now["in_flight"] == 0 and outcomes >= wanted)

    def end(self) -> None:
        """End the publisher, whatever became of it."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


def _new_times(scene: Scene, count: int) -> int:
    """Return where times begin that no message had yet, in ms; within the hour, of which no figure is due yet."""
    start_ms = int(time.time()) // 3600 * 3_600_000 + scene.steps * _STEP_MS
    scene.steps += -(-count // STATIONS)
    return start_ms


@pytest.fixture
def load(scene: Scene) -> Iterator[_Load]:
    """Load on the city."""
    made = _Load(scene)
    yield made
    made.end()


def test_a_district_is_made_of_the_stations_of_all_partitions(scene: Scene) -> None:
    """An hour of all stations, which lie in four partitions of two processors: each partition tells the first one."""
    start_ms = (int(time.time()) // 3600 - 30) * 3_600_000
    child = publish(
        scene.mosquitto.port, STATIONS, 60 * STATIONS, 1200, start_ms, 60_000, "--client-id", "an-hour",
    )  # fmt: skip
    try:
        assert json.loads(child.communicate(timeout=120)[0])["acknowledged"] == 60 * STATIONS
    finally:
        child.kill()

    def row() -> Any:
        asked = "/api/figures?station=370202&property=aqi&what=hour_index"
        found = scene.city.get(f"{asked}&from_ms={start_ms}&to_ms={start_ms + 1}")["rows"]
        return found[-1] if found else None

    # 75 % of the stations must have an index of their own, and each partition has a quarter of them or so.
    scene.city.wait(lambda: (row() or {}).get("valid"), 240)
    assert row()["count"] == 6
    (area,) = [one for one in scene.city.get("/api/areas")["areas"] if one["area"] == "370202"]
    assert {partition_of(station, 4) for station in area["stations"]} == {0, 1, 2, 3}


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name.replace(" ", "-") for fault in FAULTS])
def test_nothing_is_lost_and_nothing_doubled(scene: Scene, fault: Fault) -> None:
    """Published = stored, to the reading; the ledger balances and agrees with its audit; status is ok again."""
    load = _Load(scene, max(_COUNT, round((_FAULT_AT_S + fault.away_s + 1) * _RATE / STATIONS) * STATIONS))
    try:
        load.strike(fault)
        over = time.monotonic()
        gained, readings = load.gained()
    finally:
        load.end()
    assert gained["quarantined"] == 0
    assert gained["stored"] == load.count  # lost 0
    assert readings == 8 * load.count  # stored twice 0
    told = not fault.said or any(key.startswith(fault.said) for key in load.said)
    assert told, f"the status should have said one of {fault.said}, and said {sorted(load.said)}"
    _note(scene, fault.name, load, gained, readings, load.settled_at - over)


def test_nobody_goes_round_in_circles_while_the_database_is_away(scene: Scene, load: _Load) -> None:
    """Who waits for it sleeps: none takes a core for itself, though there is much that it could not do yet."""
    parts = scene.city.parts.values()
    time.sleep(_FAULT_AT_S)
    scene.influx.kill()
    try:
        time.sleep(AWAY_S)
        began, before = time.monotonic(), {part.name: cpu_s(part.pid) for part in parts}
        time.sleep(AWAY_S)
        took = time.monotonic() - began
        busy = {part.name: (cpu_s(part.pid) - before[part.name]) / took for part in parts}
    finally:
        scene.influx.start()
    gained, readings = load.gained()
    assert (gained["stored"], readings) == (load.count, 8 * load.count)
    assert max(busy.values()) < 0.5, busy


_GARBAGE: Final = (
    b"", b"\x00\xff\xfe", b"{", b"[]", b"null", b"{not json", b'{"readings": 7}', b"\xe9\x9d\x92", b"a" * 300_000,
    b'{"time": "yesterday", "readings": {"pm25": 1}}',
)  # fmt: skip


def test_garbage_is_quarantined_and_nothing_else(scene: Scene, load: _Load) -> None:
    """1 % garbage among good messages: exactly the garbage is in quarantine, with its bytes; all the rest is stored."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "vandal")
    client.connect("127.0.0.1", scene.mosquitto.port)
    client.loop_start()
    try:
        sent = [_GARBAGE[n % len(_GARBAGE)] for n in range(_COUNT // 100)]
        for n, payload in enumerate(sent):
            client.publish(f"qt/bench/s{n % STATIONS:04d}/up", payload, qos=1).wait_for_publish(20)
            time.sleep(0.05)
    finally:
        client.loop_stop()
        client.disconnect()
    gained, readings = load.gained(len(sent))
    assert (gained["quarantined"], gained["stored"]) == (len(sent), _COUNT)
    assert readings == 8 * _COUNT
    kept = scene.city.get("/api/quarantine?limit=1000")["rows"]
    assert len(kept) == len(sent)
    (whole,) = {scene.city.get(f"/api/quarantine/{row['id']}")["payload_hex"] for row in kept[:1]}
    assert bytes.fromhex(whole) in [payload[:65536] for payload in sent]
    _note(scene, "1 % garbage", load, gained, readings, 0)


def test_a_clock_set_wrong_is_quarantined_and_driven_again(scene: Scene, load: _Load) -> None:
    """Devices a day ahead: all of theirs is in quarantine as clock_wrong; shifted by a day, all of it is stored."""
    wrong = 600
    day_ms = 86_400_000
    start_ms = _new_times(scene, wrong) + day_ms
    child = publish(scene.mosquitto.port, STATIONS, wrong, 200, start_ms, _STEP_MS, "--client-id", "ahead")
    try:
        assert json.loads(child.communicate(timeout=120)[0])["acknowledged"] == wrong
    finally:
        child.kill()
    gained, readings = load.gained(wrong)
    assert (gained["quarantined"], gained["stored"]) == (wrong, _COUNT)
    counts = {row["reason"]: row["count"] for row in scene.city.get("/api/quarantine")["counts"]}
    assert counts["clock_wrong"] == wrong
    body = {"reason": "clock_wrong", "shift_s": -day_ms / 1000}
    assert scene.city.post("/api/quarantine/redrive", body)["count"] == wrong
    before = load.before["messages"]["quarantined"]
    scene.city.wait(lambda: scene.city.ledger()["messages"]["quarantined"] == before, 60)
    after = scene.city.ledger()
    assert after["balanced"]
    assert after["messages"]["stored"] - load.before["messages"]["stored"] == _COUNT + wrong
    assert after["readings"]["stored"] - load.before["readings"]["stored"] == 8 * (_COUNT + wrong)
    audit = scene.city.post("/api/audit")
    assert audit["agrees"], audit["checks"]
    _note(scene, "clock of devices a day ahead", load, gained, readings, 0)


def test_each_process_shows_how_it_fares_with_the_bus(scene: Scene) -> None:
    """The map at /metrics, a processor in a file of its data folder: partitions, lag, size of state."""
    shares = []
    for name in ("process0", "process1"):
        text = (scene.city.parts[name].data / "metrics.prom").read_text(encoding="utf-8")
        shares += [line.split()[1] for line in text.splitlines() if line.startswith("qingtu_bus_partitions{")]
        assert "qingtu_bus_lag_frames{" in text
    assert sum(map(float, shares)) == 4
    assert 'qingtu_bus_state_bytes{group="store",partition="0"}' in scene.city.text("/metrics")


def test_a_station_that_came_by_reload_is_stored(scene: Scene) -> None:
    """What only the new catalogue knows is stored, in the partition that both gateway and processors give it."""
    before = scene.city.ledger()["messages"]
    if not any(s["id"] == "n0000" for s in scene.city.get("/api/stations")["features"]):
        pytest.skip("the catalogue was not reloaded in this run")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "newcomer")
    client.connect("127.0.0.1", scene.mosquitto.port)
    client.loop_start()
    body = {"time": int(time.time() * 1000), "readings": {"pm25": 12.5}}
    client.publish("qt/bench/n0000/up", json.dumps(body), qos=1).wait_for_publish(20)
    client.loop_stop()
    client.disconnect()
    scene.city.wait(lambda: scene.city.ledger()["messages"]["stored"] == before["stored"] + 1, 30)
    rows = scene.city.get("/api/latest?station=n0000")["rows"]
    assert 12.5 in rows[0]


def _note(scene: Scene, name: str, load: _Load, gained: dict[str, int], readings: int, seconds: float) -> None:
    row = {"fault": name, "published": load.count, **gained, "readings": readings, "seconds": seconds}
    scene.rows.append({**row, "said": ", ".join(sorted(load.said))})


def _page(rows: list[dict[str, Any]]) -> str:
    head = [
        "fault",
        "published",
        "received",
        "stored",
        "duplicate",
        "quarantined",
        "readings",
        "lost",
        "seconds",
        "said",
    ]
    told = (
        f"Made by `QINGTU_FAULTS={FORM} pytest -m services tests/services/test_city.py`: mosquitto, Kafka, one "
        "gateway, two processors, one process with store, derive and map, InfluxDB, a TCP proxy in each of four ways; "
        f"{_RATE} messages a second of eight readings by an independent publisher that keeps its PUBACKs. A fault "
        f"begins after {_FAULT_AT_S} s and lasts {AWAY_S:.0f} s, SIGSTOP {HANG_S:.0f} s. *Seconds* runs from its end "
        "until every message had its outcome, the rest of the publishing included; *said* is all that the status said "
        "meanwhile. *Received* and *duplicate* count what the broker sent again. After each row the ledger balanced "
        f"and agreed with its audit, and at no time was the status ok for {_STILL_S:.0f} s while messages were in "
        "flight and none arrived. A full disk is a limit on the growth of the process's files; Kafka and InfluxDB are "
        "started again after it. A clock set wrong: 600 messages more, a day ahead, quarantined, then stored by "
        "`qingtu rejected redrive --shift -24h`. Store, derive and web are one process by design: they share the "
        "ledger's memory."
    )
    lines = ["# What survives what", "", *textwrap.wrap(told, 118), ""]
    lines += [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = {**row, "lost": row["published"] - row["stored"], "seconds": f"{row['seconds']:.0f}"}
        lines.append("| " + " | ".join(str(cells[key]) for key in head) + " |")
    return "\n".join(lines) + "\n"
