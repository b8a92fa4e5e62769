"""Publishing to a real broker: everything arrives, nothing is lost when the broker dies, and the sums are true."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import orjson
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from rich.progress import Progress

from qingtu.catalogue import synthetic_catalogue
from qingtu.cli import main
from qingtu.clock import HOUR, ManualClock
from qingtu.errors import StartError
from simulators.faults import FaultPlan, parse_faults
from simulators.run import RATE_PROPERTIES, SimulateOptions, Summary, simulate
from simulators.truth import Truth
from simulators.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


class Broker(Protocol):
    """The fixture of conftest.py."""

    port: int

    def start(self) -> None: ...

    def kill(self) -> None: ...


NOW = 1_795_392_000_000_000
PUBLISHER = Path(__file__).parents[2] / "bench" / "publisher.py"


class Subscriber:
    """A paho client with a kept session that writes down what it receives."""

    def __init__(self, port: int) -> None:
        self.received: list[tuple[str, bytes]] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "listener", clean_session=False)
        self._client.on_connect = lambda client, *_: client.subscribe("qt/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _take(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def __enter__(self) -> Self:
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(self, count: int, distinct: int = 0) -> None:
        """Wait for so many messages: what came twice counts twice, but not among the distinct ones."""
        deadline = time.monotonic() + 20
        while len(self.received) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        while len(set(self.received)) < distinct and time.monotonic() < deadline:
            time.sleep(0.02)


def options(port: int, **more: Any) -> SimulateOptions:
    return SimulateOptions(catalogue=synthetic_catalogue(20, RATE_PROPERTIES), seed=5, port=port, **more)


def test_a_history_arrives_whole_and_the_truth_counts_it(broker: Broker, tmp_path: Path) -> None:
    """The subscriber has exactly the world's messages, in order, and the truth file agrees with what was published."""
    faults = parse_faults("all")
    path = tmp_path / "truth.jsonl"
    with Subscriber(broker.port) as listener, Progress(disable=True) as progress:
        summary = simulate(
            options(broker.port, faults=faults, history_h=6, live=False, truth=path), progress, clock=ManualClock(NOW)
        )
        listener.wait_for(summary.totals.published)
        assert progress.finished or progress.tasks[0].completed == summary.totals.published
    plan = FaultPlan(5, faults, begin_us=NOW - 6 * HOUR, live_from_us=NOW)
    world = World(synthetic_catalogue(20, RATE_PROPERTIES), 5, faults=plan)
    assert listener.received == [(m.topic, m.payload) for m in world.messages(NOW - 6 * HOUR, NOW)]
    totals = Truth.load(path).totals
    assert totals == summary.totals
    assert totals.published == totals.acknowledged == len(listener.received)
    assert totals.published == totals.stored + totals.duplicate + totals.quarantined
    copies = Counter(listener.received)
    assert totals.duplicate == sum(count - 1 for count in copies.values()) > 0
    assert (summary.refused, summary.unheard, summary.connections, totals.resent) == (0, 0, 1, 0)


@pytest.mark.parametrize("faults", ["none", "duplicate=0.2", "loss=0.2"])
def test_the_bar_of_the_history_ends_at_its_total(broker: Broker, faults: str) -> None:
    """The total is reckoned before; what faults add or take must not leave the bar short of its end, or beyond."""
    progress = Progress(disable=True)
    chosen = options(broker.port, history_h=0.2, live=False, faults=parse_faults(faults))
    summary = simulate(chosen, progress, clock=ManualClock(NOW))
    (bar,) = progress.tasks
    assert bar.completed == bar.total == summary.totals.published


def test_live_publishes_at_the_set_rate_and_stops_when_told(broker: Broker) -> None:
    """A rate run goes until the stop event, and its last message is in the past."""
    stop = threading.Event()
    with Subscriber(broker.port) as listener:
        timer = threading.Timer(1.0, stop.set)
        timer.start()
        summary = simulate(options(broker.port, rate=400.0), stop=stop)
        listener.wait_for(summary.totals.published)
    totals = summary.totals
    assert totals.published == len(listener.received) == totals.acknowledged
    assert totals.published == pytest.approx((totals.to_us - totals.from_us) / 1e6 * 400, abs=2)
    times = [orjson.loads(payload) for _, payload in listener.received]
    assert len({json.dumps(body, sort_keys=True) for body in times}) == len(times)


def test_a_topic_without_subscribers_is_counted(broker: Broker) -> None:
    """MQTT 5 brokers say when nobody listens: the summary tells it, since such messages are gone."""
    summary = simulate(options(broker.port, history_h=0.1, live=False), clock=ManualClock(NOW))
    assert summary.unheard == summary.totals.published > 0


def test_no_broker_is_one_line_with_the_way_out() -> None:
    """The error says where it looked and what to do."""
    with pytest.raises(StartError, match=r"no broker answers at 127\.0\.0\.1:1 .*--port"):
        simulate(options(1))


def test_a_broker_that_refuses_is_named_with_its_reason() -> None:
    """CONNACK with reason 0x86: the message says what the broker said and what to check."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            near, _ = server.accept()
            with near:
                near.recv(4096)
                near.sendall(b"\x20\x03\x00\x86\x00")
                near.recv(4096)

        threading.Thread(target=refuse, daemon=True).start()
        with pytest.raises(StartError, match=r"Bad user name or password.*check user, password and TLS"):
            simulate(options(server.getsockname()[1], username="u", password="wrong"))


@pytest.mark.parametrize("window", [1000, 5])
def test_a_broker_that_goes_for_good_ends_the_run_and_is_told(
    broker: Broker, capfd: pytest.CaptureFixture[str], window: int
) -> None:
    """With room in the window or without: the sums are printed, the open ones are told, and the exit code is 3."""
    words = ["--port", str(broker.port), "--rate", "50", "--stations", "10", "--for", "2s", "--patience", "1s"]
    timer = threading.Timer(1.0, broker.kill)
    timer.start()
    code = main(["simulate", *words, "--window", str(window), "--json"])
    told = capfd.readouterr()
    summary = json.loads(told.out)
    totals = summary["totals"]
    left = totals["published"] - totals["acknowledged"]
    assert 0 < totals["acknowledged"] < totals["published"]
    assert summary["unacknowledged"] == left
    assert window in {left, 1000}
    assert f"qingtu: {left} 条未确认, 代理无应答 / not acknowledged" in told.err
    assert f"127.0.0.1:{broker.port} does not answer" in told.err
    assert code == 3


class BreakingWire:
    """Passes bytes on to a port; :meth:`cut` breaks every connection in the middle of whatever it carries."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was cut
            while data := source.recv(4096):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.cuts += 1
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@pytest.fixture
def wire(broker: Broker) -> Iterator[BreakingWire]:
    running = BreakingWire(broker.port)
    yield running
    running.close()


def test_nothing_is_lost_when_the_connection_breaks(broker: Broker, wire: BreakingWire) -> None:
    """What had no PUBACK is sent again with the same bytes: every message arrives, a few of them twice."""
    faults, now = parse_faults("duplicate=0.1"), ManualClock(NOW)
    with Subscriber(broker.port) as listener:
        result: list[Summary] = []
        chosen = options(wire.port, history_h=20, live=False, faults=faults, window=100)
        runner = threading.Thread(target=lambda: result.append(simulate(chosen, clock=now)))
        runner.start()
        for count in (2000, 8000):
            listener.wait_for(count)
            wire.cut()
        runner.join(60)
        totals = result[0].totals
        listener.wait_for(totals.published, totals.distinct)
    assert result[0].connections == 1 + wire.cuts == 3
    assert totals.acknowledged == totals.published
    assert len(set(listener.received)) == totals.distinct
    assert totals.published <= len(listener.received) <= totals.published + totals.resent


def test_the_independent_publisher_writes_down_only_what_arrived(
    broker: Broker, wire: BreakingWire, tmp_path: Path
) -> None:
    """Over a wire that breaks, every acknowledged line was received, and in the end every message has its line."""
    out = tmp_path / "acks.txt"
    with Subscriber(broker.port) as listener:
        process = run_publisher(wire.port, out, "--count", "9000", "--stations", "9", "--rate", "6000")
        for count in (1000, 4000):
            listener.wait_for(count)
            wire.cut()
        summary = json.loads(process.communicate(timeout=60)[0])
        listener.wait_for(9000, distinct=9000)
    got = {(topic.split("/")[2], str(orjson.loads(payload)["seq"])) for topic, payload in listener.received}
    lines = out.read_text().splitlines()
    assert {tuple(line.split()[:2]) for line in lines} == got
    assert len(lines) == len(got) == summary["acknowledged"] == 9000
    assert summary["connections"] == 3
    assert len(listener.received) <= 9000 + summary["resent"]


def run_publisher(port: int, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PUBLISHER), "--port", str(port), "--out", str(out), *more],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_independent_publisher_sends_what_it_says(broker: Broker, tmp_path: Path) -> None:
    """Every acknowledged line stands for one received message with eight readings; episodes are where they must be."""
    out = tmp_path / "acks.txt"
    with Subscriber(broker.port) as listener:
        episodes = ("--episode-every", "100", "--episode-length", "20", "--episode-height", "90")
        size = ("--count", "3000", "--stations", "7", "--start-ms", "1795392000000")
        process = run_publisher(broker.port, out, *size, *episodes)
        summary = json.loads(process.communicate(timeout=30)[0])
        listener.wait_for(3000)
    assert summary["acknowledged"] == summary["published"] == 3000
    received = {}
    for topic, payload in listener.received:
        body = orjson.loads(payload)
        assert len(body["readings"]) == 8
        received[topic.split("/")[2], body["seq"], body["time"]] = body["readings"]["pm25"]
    acknowledged = [tuple(line.split()) for line in out.read_text().splitlines()]
    assert {(s, str(n), str(t)) for s, n, t in received} == set(acknowledged)
    for (station, seq, time_ms), pm25 in received.items():
        assert time_ms == 1_795_392_000_000 + seq * 1000
        phase = (seq + int(station[1:])) % 100
        assert (pm25 > 100) == (7 <= phase <= 12) or 60 < pm25 < 140
        assert pm25 <= 46 or phase < 20
    series = [received["s0003", seq, 1_795_392_000_000 + seq * 1000] for seq in range(400)]
    opened = [seq for seq, (a, b) in enumerate(pairwise(series)) if a < 90 <= b]
    assert [b - a for a, b in pairwise(opened)] == [100] * (len(opened) - 1)


def test_the_independent_publisher_survives_its_broker(broker: Broker, tmp_path: Path) -> None:
    """Killed and started again, the broker gets the unacknowledged messages once more; every line is written once."""
    out = tmp_path / "acks.txt"
    process = run_publisher(broker.port, out, "--count", "6000", "--stations", "10", "--rate", "3000")
    time.sleep(0.8)
    broker.kill()
    broker.start()
    summary = json.loads(process.communicate(timeout=60)[0])
    assert summary["acknowledged"] == 6000
    assert summary["connections"] == 2
    lines = out.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 6000
