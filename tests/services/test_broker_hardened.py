"""The generated configuration on a real mosquitto: who gets in, who may write and read what, through TLS."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
import typer
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from typer.testing import CliRunner

from deploy.native.process import free_port
from ingest.core import GatewayCore
from ingest.mqtt import MqttGateway
from ingest.routes import RouteTable
from qingtu.broker.config import PORT
from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SystemClock
from qingtu.commands.broker_config import broker_config
from qingtu.records import RAW, Kind, decode
from qingtu.settings import Settings, load_settings
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from deploy.native.mosquitto import MosquittoServer

pytestmark = pytest.mark.services

CATALOGUE = """\
networks:
  - {id: air, zh: 空气, en: Air, interval_s: 60}
stations:
  - {id: s1, zh: 一, en: One, network: air, domain: air, kind: air, position: [120.3, 36.1],
     devices: [{id: a, properties: [pm25]}]}
  - {id: s2, zh: 二, en: Two, network: air, domain: air, kind: air, position: [120.4, 36.1],
     devices: [{id: b, properties: [pm25]}]}
"""
TWO_NETWORKS = """\
networks:
  - {id: air, zh: 空气, en: Air, interval_s: 60, route: air}
  - {id: water, zh: 水, en: Water, interval_s: 60, route: water}
stations:
  - {id: s1, zh: 一, en: One, network: air, domain: air, kind: air, position: [120.3, 36.1],
     devices: [{id: a, properties: [pm25]}]}
  - {id: s2, zh: 二, en: Two, network: water, domain: water, kind: river, position: [120.4, 36.1],
     devices: [{id: b, properties: [water_temperature]}]}
"""
NOT_AUTHORIZED = 0x87
"""MQTT 5, 3.4.2.1: the PUBLISH is denied."""
NO_SUBSCRIBERS = 0x10
"""MQTT 5, 3.4.2.1: accepted, and nobody wanted it."""


class City:
    """A folder made by the command, and a mosquitto that runs with it."""

    def __init__(
        self, folder: Path, start: Callable[..., MosquittoServer], catalogue: str = CATALOGUE, words: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.store = folder / "store"
        (folder / "stations").mkdir()
        (folder / "stations" / "all.yaml").write_text(catalogue, encoding="utf-8")
        self.store.mkdir()
        self.config = folder / "broker"
        self.port = free_port()
        self.write(*words, "--self-signed", "localhost", "--self-signed", "127.0.0.1")
        self.server = start(
            port=self.port, config=self.config / "mosquitto.conf", changes={f"listener {PORT}": f"listener {self.port}"}
        )

    def write(self, *words: str) -> None:
        _command(
            "--out", str(self.config), "--catalogue", str(self.folder / "stations"), "--store", str(self.store),
            "--commander", "operator", *words,
        )  # fmt: skip

    def password(self, user: str) -> str:
        rows = (self.config / "credentials.csv").read_text(encoding="utf-8").splitlines()
        return next(row.split(",")[1] for row in rows if row.split(",")[0] == user)

    def settings(self, **mqtt: Any) -> Settings:
        values = {
            "host": "localhost", "port": self.port, "tls": True, "ca_file": self.config / "ca.pem",
            "username": "qingtu-gateway", "password_file": self.config / "qingtu-gateway.password", **mqtt,
        }  # fmt: skip
        return Settings.model_validate({"data": self.folder, "mqtt": values})


class Device:
    """An independent MQTT 5 client that notes every answer."""

    def __init__(self, city: City, user: str | None, password: str | None, **options: Any) -> None:
        self.got: list[tuple[str, bytes | bytearray]] = []
        self.reason: Any = None
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=options.get("client_id", ""), protocol=MQTTProtocolVersion.MQTTv5
        )
        if options.get("tls", True):
            self.client.tls_set(ca_certs=str(city.config / "ca.pem"))
        if user is not None:
            self.client.username_pw_set(user, password)
        if will := options.get("will"):
            self.client.will_set(will, b"will", 1)
        self._acks: dict[int, int] = {}
        self._subscribed = False
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda _, __, message: self.got.append((message.topic, message.payload))
        self.client.on_publish = lambda _, __, mid, reason, ___: self._acks.__setitem__(mid, reason.value)
        self.client.on_subscribe = lambda *_: setattr(self, "_subscribed", True)
        expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho
        expiry.SessionExpiryInterval = options.get("expiry_s", 0)
        self.client.connect("localhost", city.port, clean_start=options.get("clean", True), properties=expiry)
        self.client.loop_start()

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        self.reason = reason

    @property
    def connected(self) -> bool:
        until(lambda: self.reason is not None, "CONNACK")
        return not self.reason.is_failure

    def send(self, topic: str, payload: bytes) -> int:
        """Publish with QoS 1 and return the reason code of the PUBACK."""
        info = self.client.publish(topic, payload, 1)
        until(lambda: info.mid in self._acks, f"PUBACK for {topic}")
        return self._acks[info.mid]

    def subscribe(self, topic: str) -> None:
        self._subscribed = False
        self.client.subscribe(topic, 1)
        until(lambda: self._subscribed, "SUBACK")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Gateway:
    """Gateway, core and bus as the composition root puts them together."""

    def __init__(self, settings: Settings, bus: SqliteBus) -> None:
        core = GatewayCore(
            RouteTable(settings.routes), settings.mqtt, gateway=settings.mqtt.client_id, partitions=1, key=b"k" * 32
        )
        self.bus = bus
        self.mqtt = MqttGateway(settings, core, bus, SystemClock())
        self.mqtt.start()

    def hears(self) -> bool:
        return bool(self.mqtt.hearing())

    def keys(self) -> set[str]:
        return {problem["key"] for problem in self.mqtt.status()["problems"]}

    def payloads(self) -> list[bytes]:
        rows = [
            row for record in self.bus.read(RAW, 0, 0, 1000) for row in decode(record.data).sections["rows"].to_pylist()
        ]
        return [row["payload"] for row in rows if row["kind"] == Kind.MESSAGE]


@pytest.fixture
def city(tmp_path: Path, new_mosquitto: Callable[..., MosquittoServer]) -> City:
    return City(tmp_path, new_mosquitto)


@pytest.fixture
def device(city: City) -> Iterator[Callable[..., Device]]:
    """Connect as a user, with its own password unless another is given."""
    made: list[Device] = []

    def connect(user: str | None, password: str | None = None, **options: Any) -> Device:
        if user is not None and password is None:
            password = city.password(user)
        made.append(Device(city, user, password, **options))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def start(settings: Settings) -> Gateway:
        made.append(Gateway(settings, SqliteBus(tmp_path / f"bus{len(made)}")))
        return made[-1]

    yield start
    for one in made:
        one.mqtt.stop(5)
        one.bus.close()


def test_device_is_heard_on_its_own_topic_only(
    city: City, device: Callable[..., Device], gateway: Callable[..., Gateway]
) -> None:
    """Its own arrives; another's is answered with "not authorized" and does not arrive, and it stays connected."""
    taker = gateway(city.settings())
    until(taker.hears, "gateway hears")
    one = device("air/a")
    assert one.send("qt/air/a/up", b"own") == 0
    assert one.send("qt/air/b/up", b"foreign") == NOT_AUTHORIZED
    assert one.send("qt/air/a/down", b"command to itself") == NOT_AUTHORIZED
    assert one.send("qingtu/marker/qingtu-gateway", b"marker") == NOT_AUTHORIZED
    assert one.send("qt/air/a/up", b"after") == 0
    until(lambda: b"after" in taker.payloads(), "the last one is durable")
    assert taker.payloads() == [b"own", b"after"]
    assert taker.keys() == set()


def test_device_reads_its_own_commands_only(device: Callable[..., Device]) -> None:
    """SUBSCRIBE to anything is granted by mosquitto 2.0; what may not be read is not delivered."""
    one = device("air/a")
    for topic in ("qt/air/b/down", "qt/+/+/down", "qt/air/b/up", "#"):
        one.subscribe(topic)
    assert device("air/b").send("qt/air/b/up", b"reading of b") in {0, NO_SUBSCRIBERS}
    operator = device("operator")
    assert operator.send("qt/air/b/down", b"for b") in {0, NO_SUBSCRIBERS}
    assert operator.send("qt/air/a/up", b"a reading") == NOT_AUTHORIZED
    assert operator.send("qt/air/a/down", b"for a") == 0
    until(lambda: one.got, "its own command")
    assert set(one.got) == {("qt/air/a/down", b"for a")}


@pytest.mark.parametrize(
    ("user", "password"),
    [("air/a", "wrong"), ("air/c", "whatever"), ("qingtu-gateway", ""), (None, None)],
    ids=["wrong password", "unknown device", "empty password", "anonymous"],
)
def test_without_the_right_password_nobody_gets_in(
    device: Callable[..., Device], user: str | None, password: str | None
) -> None:
    """Wrong, unknown, empty, anonymous: refused at CONNECT."""
    assert not device(user, password).connected


def test_plain_tcp_is_refused(city: City) -> None:
    """A right CONNECT without TLS gets no CONNACK."""
    user, password = b"air/a", city.password("air/a").encode()
    body = b"\x00\x04MQTT\x05\xc2\x00\x3c\x00\x00\x00" + b"".join(
        len(text).to_bytes(2, "big") + text for text in (user, password)
    )
    with socket.create_connection(("127.0.0.1", city.port), 5) as plain:
        plain.sendall(b"\x10" + bytes([len(body)]) + body)
        plain.settimeout(5)
        try:
            answer = plain.recv(64)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"\x20"), "a CONNACK"


def test_gateway_refuses_a_broker_with_another_name_or_authority(
    city: City, gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """TLS is checked: the certificate is for localhost and 127.0.0.1, by our own authority."""
    context = ssl.create_default_context(cafile=str(city.config / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", city.port), 5) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="broker.example")
    _command("--out", str(tmp_path / "other"), "--self-signed", "localhost")
    stranger = gateway(city.settings(ca_file=tmp_path / "other" / "ca.pem"))
    until(lambda: "certificate" in str(stranger.mqtt.status()["problems"]), "the refusal shows")
    assert not stranger.hears()


@pytest.mark.parametrize("receive", ["fast", "plain"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_gateway_reads_over_tls_in_every_way(
    city: City, device: Callable[..., Device], gateway: Callable[..., Gateway], receive: str, version: str
) -> None:
    """Both receive paths, both versions: connected, marker granted, messages durable."""
    taker = gateway(city.settings(receive=receive, version=version))
    until(taker.hears, "gateway hears")
    one = device("air/a")
    sent = [f"{number}".encode() for number in range(200)]
    for payload in sent[:-1]:
        one.client.publish("qt/air/a/up", payload, 1)
    assert one.send("qt/air/a/up", sent[-1]) == 0
    until(lambda: len(taker.payloads()) >= len(sent), "all are durable")
    assert taker.payloads() == sent


def test_nobody_can_take_the_gateways_session(
    city: City, device: Callable[..., Device], gateway: Callable[..., Gateway]
) -> None:
    """A device that names the gateway's client id neither ends its connection nor wipes its queue."""
    first = gateway(city.settings())
    until(first.hears, "gateway hears")
    thief = device("air/b", client_id="qingtu-gateway", clean=True)
    assert thief.connected
    one = device("air/a")
    assert one.send("qt/air/a/up", b"while the thief is there") == 0
    until(first.payloads, "it is still heard")
    assert first.keys() == set()
    first.mqtt.stop(5)
    assert one.send("qt/air/a/up", b"while away") == 0
    thief.close()
    assert device("air/b", client_id="qingtu-gateway", clean=True).connected
    second = gateway(city.settings())
    until(lambda: second.payloads() == [b"while away"], "the queue is still there")


def test_a_will_is_no_way_round(city: City, device: Callable[..., Device], gateway: Callable[..., Gateway]) -> None:
    """A last will on another's topic is not sent."""
    taker = gateway(city.settings())
    until(taker.hears, "gateway hears")
    one = device("air/a", will="qt/air/b/up")
    if one.connected:
        sock = one.client.socket()
        assert sock is not None
        one.client.loop_stop()
        sock.close()
    other = device("air/b")
    assert other.send("qt/air/b/up", b"true") == 0
    until(lambda: b"true" in taker.payloads(), "the true one")
    assert taker.payloads() == [b"true"]


def test_queue_of_an_absent_gateway_outlives_the_broker(
    city: City, device: Callable[..., Device], gateway: Callable[..., Gateway]
) -> None:
    """After a restart of the broker the absent gateway's rules still hold: it gets what came before and after."""
    first = gateway(city.settings())
    until(first.hears, "gateway hears")
    first.mqtt.stop(5)
    assert device("air/a").send("qt/air/a/up", b"before") == 0
    city.server.stop()
    city.server.start()
    assert device("air/a").send("qt/air/a/up", b"after") == 0
    second = gateway(city.settings())
    until(lambda: len(second.payloads()) == 2, "both")
    assert second.payloads() == [b"before", b"after"]


def test_rotation_and_removal_hold_after_reload(city: City, device: Callable[..., Device]) -> None:
    """SIGHUP: the old password and the removed device are refused, the others keep theirs."""
    old, other = city.password("air/a"), city.password("air/b")
    city.write("--rotate", "air/a")
    _reload(city)
    until(lambda: not device("air/a", old).connected, "the old password is refused")
    assert device("air/a").connected
    assert device("air/b", other).connected
    text = CATALOGUE[: CATALOGUE.index("  - {id: s2")]
    (city.folder / "stations" / "all.yaml").write_text(text, encoding="utf-8")
    city.write()
    _reload(city)
    until(lambda: not device("air/b", other).connected, "the device that is gone is refused")
    assert device("air/a").connected


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_takeover_ends_with_one_gateway(
    city: City, device: Callable[..., Device], gateway: Callable[..., Gateway], version: str
) -> None:
    """A second process with the same client id keeps the session; the first stands back and says why."""
    first = gateway(city.settings(version=version))
    until(first.hears, "the first hears")
    second = gateway(city.settings(version=version))
    until(lambda: first.keys() == {"takeover"}, "the first says why")
    until(second.hears, "the second hears, after the first had looked")
    since = second.mqtt.status()["since_us"]
    time.sleep(3)  # the back-off of a lost connection would have brought the first back several times
    assert second.mqtt.status()["since_us"] == since, "nobody took it back"
    assert first.mqtt.status()["away_since_us"] is not None
    assert device("air/a").send("qt/air/a/up", b"once") == 0
    until(lambda: second.payloads() == [b"once"], "the second takes messages")
    assert first.payloads() == []


def test_takeover_of_a_backlog_loses_nothing(
    city: City, device: Callable[..., Device], gateway: Callable[..., Gateway]
) -> None:
    """While devices send, a second process takes over: each message reaches a bus, and one process stays."""
    first = gateway(city.settings())
    until(first.hears, "the first hears")
    first.mqtt.stop(5)
    one = device("air/a")
    sent = [f"{number}".encode() for number in range(3000)]
    for payload in sent[:-1]:
        one.client.publish("qt/air/a/up", payload, 1)
    assert one.send("qt/air/a/up", sent[-1]) == 0
    pair = [gateway(city.settings()), gateway(city.settings())]
    until(lambda: set().union(*(taker.payloads() for taker in pair)) == set(sent), "all of it is durable")
    until(lambda: sum(taker.hears() for taker in pair) == 1, "one hears")
    until(lambda: sum(taker.keys() == {"takeover"} for taker in pair) == 1, "the other stands back")


def test_two_gateways_share_the_city_by_disjoint_filters(
    tmp_path: Path, new_mosquitto: Callable[..., MosquittoServer], gateway: Callable[..., Gateway]
) -> None:
    """Two settings, two accounts, two client ids; each reads its own routes, and each message reaches one."""
    files = [tmp_path / "air.toml", tmp_path / "water.toml"]
    for file in files:
        name = file.stem
        file.write_text(
            f'catalogue = "{tmp_path}/stations"\n'
            f'[mqtt]\nclient_id = "gateway-{name}"\nusername = "gateway-{name}"\n'
            f'password_file = "{tmp_path}/{name}.password"\n'
            f'[[routes]]\nname = "{name}"\ntopic = "qt/{name}/{{device}}/up"\nnetwork = "{name}"\n',
            encoding="utf-8",
        )
    city = City(tmp_path, new_mosquitto, TWO_NETWORKS, ("-c", str(files[0]), "--gateway", str(files[1])))
    gateways = []
    for file in files:
        loaded = load_settings(file, environ={})
        reach = {"host": "localhost", "port": city.port, "tls": True, "ca_file": city.config / "ca.pem"}
        gateways.append(
            gateway(loaded.model_copy(update={"data": tmp_path, "mqtt": loaded.mqtt.model_copy(update=reach)}))
        )
    for one in gateways:
        until(one.hears, "both hear")
    devices = [Device(city, user, city.password(user)) for user in ("air/a", "water/b")]
    try:
        assert devices[0].send("qt/air/a/up", b"air") == 0
        assert devices[1].send("qt/water/b/up", b"water") == 0
        until(lambda: all(one.payloads() for one in gateways), "both took something")
        assert [one.payloads() for one in gateways] == [[b"air"], [b"water"]]
    finally:
        for sender in devices:
            sender.close()


def _command(*words: str) -> None:
    """Run ``broker-config``."""
    app = typer.Typer()
    app.command()(broker_config)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def _reload(city: City) -> None:
    """Have mosquitto read its files again; it does in its next turn, so whoever asks waits for the effect."""
    assert city.server.pid is not None
    os.kill(city.server.pid, signal.SIGHUP)
