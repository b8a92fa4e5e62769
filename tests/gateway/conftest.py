"""What the gateway's tests share: real brokers on free ports, a scripted peer, a bus that refuses for a while."""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from deploy.native.process import free_port
from ingest.core import GatewayCore
from ingest.mqtt import MqttGateway
from ingest.routes import RouteTable
from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SystemClock
from qingtu.errors import RetryLater
from qingtu.records import RAW, Kind, decode
from qingtu.settings import Settings
from tests import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qingtu.contracts import Ticket

MOSQUITTO = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else None)


class RefusingBus(SqliteBus):
    """The real bus, but for a while it says what a full disk makes it say. The contract allows it at any time."""

    refusing = False
    fault: Exception | None = None

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:  # type: ignore[override]
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        if self.refusing:
            raise RetryLater("disk full", retry_after_s=0.05)
        return super().append(stream, partition, frames)

    def rows(self, kind: Kind = Kind.MESSAGE) -> list[dict[str, Any]]:
        """All raw rows of a kind, partition by partition."""
        out: list[dict[str, Any]] = []
        for partition in range(self.partitions):
            start = 0
            while records := self.read(RAW, partition, start):
                for record in records:
                    batch = decode(record.data).sections["rows"]
                    out += [{**row, "partition": partition} for row in batch.to_pylist() if row["kind"] == kind]
                start = records[-1].offset + 1
        return out

    def payloads(self) -> list[bytes]:
        return [row["payload"] for row in self.rows()]


class Mosquitto:
    """A real broker that can be killed and come back."""

    def __init__(self, folder: Path, extra: Sequence[str] = (), *, listener: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.folder = folder
        self._conf = folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            *listener,
            "allow_anonymous true",
            *([] if any("max_queued" in line for line in extra) else ["max_queued_messages 0"]),
            "max_inflight_messages 0",
            f"user {getpass.getuser()}",
            f"persistence_location {folder}/",
            f"log_dest file {folder}/mosquitto.log",
            *extra,
        ]
        self._conf.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        waiting.until(self._listening, "mosquitto listens")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None

    def _listening(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class Publisher:
    """An independent MQTT client that knows what the broker acknowledged."""

    def __init__(self, port: int, *, version: int = paho.MQTTv5, client_id: str = "", keep: bool = False) -> None:
        five = version == paho.MQTTv5
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion(version),
            clean_session=None if five else not keep,
        )
        self.client.max_inflight_messages_set(1000)
        if five and keep:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho
            properties.SessionExpiryInterval = 3600
            self.client.connect("127.0.0.1", port, clean_start=False, properties=properties)
        else:
            self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        waiting.until(self.client.is_connected, "publisher is connected")

    def send(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos, retain=retain).wait_for_publish(waiting.PATIENCE_S)

    def send_many(self, topic: str, payloads: Sequence[bytes]) -> None:
        for info in [self.client.publish(topic, p, 1) for p in payloads]:
            info.wait_for_publish(waiting.PATIENCE_S)

    def subscribe(self, topic: str, qos: int) -> None:
        done = threading.Event()
        self.client.on_subscribe = lambda *_: done.set()
        self.client.subscribe(topic, qos)
        assert done.wait(waiting.PATIENCE_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Gateway:
    """Gateway, core and bus as the composition root puts them together."""

    def __init__(self, settings: Settings, bus: RefusingBus, private: frozenset[str] = frozenset()) -> None:
        table = RouteTable(settings.routes, private)
        self.settings, self.bus = settings, bus
        self.core = GatewayCore(
            table, settings.mqtt, gateway="g", partitions=bus.partitions, key=b"k" * 32, catalogue="c"
        )
        self.mqtt = MqttGateway(settings, self.core, bus, SystemClock())
        self.mqtt.start()

    def hears(self) -> bool:
        return set(self.mqtt.hearing()) == {r.name for r in self.settings.routes}

    def problems(self) -> set[str]:
        return {p["key"] for p in self.mqtt.status()["problems"]}


@pytest.fixture(params=["fast", "plain"])
def receive(request: pytest.FixtureRequest) -> str:
    """Both receive paths."""
    return str(request.param)


@pytest.fixture(params=["5", "3.1.1"])
def version(request: pytest.FixtureRequest) -> str:
    """Both protocol versions."""
    return str(request.param)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[RefusingBus]:
    bus = RefusingBus(tmp_path / "bus", partitions=2)
    yield bus
    bus.close()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Start real brokers; they are ended afterwards."""
    if MOSQUITTO is None:
        pytest.skip("no mosquitto on this machine: apt install mosquitto")
    started: list[Mosquitto] = []

    def start(extra: Sequence[str] = (), listener: Sequence[str] = ()) -> Mosquitto:
        folder = tmp_path / f"broker{len(started)}"
        folder.mkdir()
        started.append(Mosquitto(folder, extra, listener=listener))
        return started[-1]

    yield start
    for broker in started:
        broker.end()


@pytest.fixture
def gateway(tmp_path: Path, bus: RefusingBus) -> Iterator[Callable[..., Gateway]]:
    """Start gateways; they are stopped afterwards."""
    started: list[Gateway] = []

    def start(port: int, private: frozenset[str] = frozenset(), **mqtt: Any) -> Gateway:
        rest = {key: mqtt.pop(key) for key in ("routes",) if key in mqtt}
        values = {"host": "127.0.0.1", "port": port, **mqtt}
        settings = Settings.model_validate({"data": tmp_path, "mqtt": values, **rest})
        started.append(Gateway(settings, bus, private))
        return started[-1]

    yield start
    for one in started:
        one.mqtt.stop(5)


@pytest.fixture
def publisher() -> Iterator[Callable[..., Publisher]]:
    """Start publishers; they are closed afterwards."""
    started: list[Publisher] = []

    def start(port: int, **options: Any) -> Publisher:
        started.append(Publisher(port, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()


class ScriptedBroker:
    """A peer that speaks just enough MQTT to say anything to the gateway, broken packets too.

    It answers CONNECT, SUBSCRIBE, PINGREQ and the marker; ``acked`` is what came as PUBACK on each connection.
    """

    def __init__(self, *, version5: bool) -> None:
        self.version5 = version5
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.server.getsockname()[1])
        self.acked: list[list[int]] = []
        self.disconnects: list[int | None] = []
        self.ready = 0
        self._sock: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        assert self._sock is not None
        self._sock.sendall(data)

    def cut(self) -> None:
        assert self._sock is not None
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.server.close()
        if self._sock is not None:
            self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.server.accept()
            except OSError:
                return
            self._sock = sock
            self.acked.append([])
            with sock, sock.makefile("rb") as stream:
                try:
                    while head := stream.read(1):
                        self._answer(sock, head[0], self._body(stream))
                except OSError:
                    continue

    @staticmethod
    def _body(stream: Any) -> bytes:
        length = shift = 0
        while True:
            byte = stream.read(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return bytes(stream.read(length))

    def _answer(self, sock: socket.socket, head: int, body: bytes) -> None:
        five = b"\x00" if self.version5 else b""
        kind = head >> 4
        if kind == 1:
            sock.sendall(bytes([0x20, 2 + len(five), 0, 0]) + five)
        elif kind == 8:
            count = len(self.filters(body))
            sock.sendall(bytes([0x90, 2 + len(five) + count]) + body[:2] + five + b"\x01" * count)
        elif kind == 3:
            at = 2 + int.from_bytes(body[:2], "big")
            sock.sendall(b"\x40\x02" + body[at : at + 2])
            if head & 1:
                return  # retained: the claim of the session, which nobody else disputes here
            sock.sendall(publish(body[2:at], body[at + 2 + len(five) :], packet_id=65_535, five=self.version5))
            self.ready += 1
        elif kind == 4:
            self.acked[-1].append(int.from_bytes(body[:2], "big"))
        elif kind == 12:
            sock.sendall(b"\xd0\x00")
        elif kind == 14:
            self.disconnects.append(body[0] if body else None)

    def filters(self, body: bytes) -> list[bytes]:
        at, found = 3 if self.version5 else 2, []
        while at < len(body):
            end = at + 2 + int.from_bytes(body[at : at + 2], "big")
            found.append(body[at + 2 : end])
            at = end + 1
        return found


def publish(
    topic: bytes,
    payload: bytes,
    *,
    qos: int = 1,
    packet_id: int = 1,
    dup: bool = False,
    retain: bool = False,
    properties: bytes = b"",
    five: bool = True,
) -> bytes:
    """Write a PUBLISH packet, independently of the code under test."""
    body = len(topic).to_bytes(2, "big") + topic
    body += packet_id.to_bytes(2, "big") if qos else b""
    body += varint(len(properties)) + properties if five else b""
    body += payload
    return bytes([0x30 | dup << 3 | qos << 1 | retain]) + varint(len(body)) + body


def varint(value: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedBroker]]:
    started: list[ScriptedBroker] = []

    def start(version: str = "5") -> ScriptedBroker:
        started.append(ScriptedBroker(version5=version == "5"))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def wire() -> Callable[..., bytes]:
    """The packet writer above, for test modules (importlib mode has no relative imports)."""
    return publish


@pytest.fixture
def until() -> Callable[[Callable[[], Any], str], Any]:
    return waiting.until
