"""The gateway against real brokers: what becomes of every kind of message, cut, killed and refused."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import orjson
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from qingtu.records import Kind, MessageFlag

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Make = Any  # the factories of conftest.py
UP = "qt/air/d1/up"
VERSIONS = {"5": paho.MQTTv5, "3.1.1": paho.MQTTv311}


def test_each_kind_of_message_has_its_outcome(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """QoS 0 and 1 and 2, empty, too large, without route: each becomes one raw row with its reason code."""
    broker = mosquitto()
    routes = [{"name": "native", "topic": "qt/{network}/{device}/up", "max_payload_bytes": 1000}]
    running = gateway(broker.port, receive=receive, version=version, routes=routes)
    until(running.hears, "the route hears")
    sender = publisher(broker.port, version=VERSIONS[version])
    for qos in (0, 1, 2):
        sender.send(UP, b"q%d" % qos, qos)
    sender.send(UP, b"")
    sender.send(UP, b"x" * 1001)
    sender.send(UP, b"y" * 300_000)
    sender.send("qt/air//up", b"no device")
    until(lambda: len(bus.rows()) >= 7, "seven rows")
    rows = {(r["topic"], r["payload"][:9]): r for r in bus.rows()}
    assert [rows[UP, b"q%d" % q]["flags"] & 3 for q in (0, 1, 2)] == [0, 1, 1]  # 2 came down to our 1
    assert rows[UP, b"q1"]["device"] == "d1"
    assert rows[UP, b"q1"]["network"] == "air"
    assert rows[UP, b"q1"]["refused"] == ""
    assert rows[UP, b""]["refused"] == "empty_payload"
    whole, cut = rows[UP, b"x" * 9], rows[UP, b"y" * 9]
    assert (whole["refused"], whole["size"], len(whole["payload"])) == ("too_large", 1001, 1001)
    assert (cut["refused"], cut["size"], len(cut["payload"])) == ("too_large", 300_000, 65_536)
    assert cut["flags"] & MessageFlag.TRUNCATED
    assert rows["qt/air//up", b"no device"]["refused"] == "no_route"
    assert len(bus.rows()) == 7
    assert all(r["packet_id"] > 0 for r in bus.rows() if r["flags"] & 3)


def test_a_retained_message_comes_once_and_is_marked(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str
) -> None:
    """What was retained before we subscribed carries RETAIN; live messages do not."""
    broker = mosquitto()
    sender = publisher(broker.port)
    sender.send(UP, b"old", retain=True)
    until(gateway(broker.port, receive=receive).hears, "the route hears")
    sender.send(UP, b"new", retain=True)
    until(lambda: len(bus.rows()) >= 2, "both rows")
    assert {r["payload"]: bool(r["flags"] & MessageFlag.RETAIN) for r in bus.rows()} == {b"old": True, b"new": False}


def test_properties_are_kept_as_on_the_wire(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str
) -> None:
    """MQTT 5 user properties stand in raw byte for byte."""
    broker = mosquitto()
    until(gateway(broker.port, receive=receive).hears, "the route hears")
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho
    properties.UserProperty = ("k", "v")
    publisher(broker.port).client.publish(UP, b"p", 1, properties=properties).wait_for_publish(5)
    until(bus.rows, "the row")
    assert bus.rows()[0]["properties"] == b"\x26\x00\x01k\x00\x01v"


def test_leftovers_of_the_session(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """A session that somebody subscribed more widely brings $SYS and strange topics: each has its reason."""
    broker = mosquitto(["sys_interval 1"])
    before = publisher(broker.port, version=VERSIONS[version], client_id="qingtu-gateway", keep=True)
    before.subscribe("$SYS/broker/uptime", 1)
    before.subscribe("other/#", 1)
    before.close()
    running = gateway(broker.port, receive=receive, version=version)
    until(running.hears, "the route hears")
    assert running.mqtt.status()["session_present"]
    publisher(broker.port).send("other/x", b"?")
    until(lambda: {"sys_topic", "no_route"} <= {r["refused"] for r in bus.rows()}, "both reasons")
    assert {r["topic"] for r in bus.rows()} == {"$SYS/broker/uptime", "other/x"}


def test_qos_2_ends_the_connection(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """A QoS 2 PUBLISH, which only a subscription that is not ours can bring, is not taken and not acknowledged."""
    broker = mosquitto()
    before = publisher(broker.port, version=VERSIONS[version], client_id="qingtu-gateway", keep=True)
    before.subscribe("other/#", 2)
    before.close()
    running = gateway(broker.port, receive=receive, version=version)
    until(running.hears, "the route hears")
    publisher(broker.port).send("other/x", b"?", 2)
    until(lambda: "broker" in running.problems(), "the connection ends")
    assert any("QoS 2" in p["en"] for p in running.mqtt.status()["problems"])
    assert bus.rows() == []


def test_qos_2_is_answered_with_its_reason_code(
    scripted: Make, gateway: Make, wire: Any, until: Callable[..., None], receive: str
) -> None:
    """DISCONNECT carries 0x9B, QoS not supported."""
    broker = scripted()
    until(gateway(broker.port, receive=receive).hears, "the route hears")
    broker.send(wire(UP.encode(), b"x", qos=2))
    until(lambda: broker.disconnects, "DISCONNECT")
    assert broker.disconnects[0] == 0x9B


def test_a_topic_that_is_not_utf8(
    scripted: Make, gateway: Make, wire: Any, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """It goes to quarantine with backslashes, acknowledged, and the gateway goes on."""
    broker = scripted(version)
    until(gateway(broker.port, receive=receive, version=version).hears, "the route hears")
    five = version == "5"
    broker.send(
        wire(b"qt/air/\xff/up", b"bad", packet_id=7, five=five) + wire(UP.encode(), b"ok", packet_id=8, five=five)
    )
    until(lambda: broker.acked[-1][-2:] == [7, 8], "both acknowledged in order")
    assert [(r["topic"], r["refused"]) for r in sorted(bus.rows(), key=lambda r: r["packet_id"])] == [
        ("qt/air/\\xff/up", "topic_not_utf8"),
        (UP, ""),
    ]


def test_acknowledgements_belong_to_their_connection(
    scripted: Make, gateway: Make, wire: Any, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """Cut before the flush: the bytes are kept, but ids 1 and 2 of the old connection are not acknowledged."""
    broker = scripted(version)
    bus.refusing = True
    running = gateway(broker.port, receive=receive, version=version)
    five = version == "5"
    until(lambda: broker.ready == 1, "subscribed")
    broker.send(wire(UP.encode(), b"a", packet_id=1, five=five) + wire(UP.encode(), b"b", packet_id=2, five=five))
    until(lambda: running.core.taken == 2, "both received")
    broker.cut()
    until(lambda: broker.ready == 2, "connected again")
    broker.send(wire(UP.encode(), b"b", packet_id=1, dup=True, five=five))
    until(lambda: running.core.taken == 3, "the repetition is received")
    assert broker.acked == [[], []]
    bus.refusing = False
    until(lambda: broker.acked[1] == [65_535, 1], "only the second connection's ids: the marker, then 1")
    rows = sorted(bus.rows(), key=lambda r: (r["connection"], r["packet_id"]))
    assert [(r["payload"], bool(r["flags"] & MessageFlag.DUP)) for r in rows] == [
        (b"a", False),
        (b"b", False),
        (b"b", True),
    ]
    assert rows[1]["connection"] < rows[2]["connection"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"\x32\x03\x00\x09x", 0x81),  # topic longer than the packet
        (b"\x32\xff\xff\xff\xff\x01", 0x81),  # a length of five bytes
        (b"\x36\x05\x00\x01x\x00\x01", 0x81),  # quality of service 3
        (b"\x90\xff\xff\xff\x7f", 0x82),  # a SUBACK of 256 MB
    ],
)
def test_a_broken_stream_ends_the_connection_only(
    scripted: Make, gateway: Make, wire: Any, bus: Any, until: Callable[..., None], broken: bytes, reason: int
) -> None:
    """What came before the broken packet is kept; the gateway says why, and is back by itself."""
    broker = scripted()
    running = gateway(broker.port)
    until(running.hears, "the route hears")
    broker.send(wire(UP.encode(), b"good") + broken + wire(UP.encode(), b"never", packet_id=2))
    until(lambda: broker.disconnects, "DISCONNECT")
    assert broker.disconnects[0] == reason
    until(lambda: broker.ready == 2, "connected again")
    until(lambda: bus.payloads() == [b"good"], "what came before")
    assert 1 not in broker.acked[1]


def test_plain_path_also_survives_a_broken_stream(
    scripted: Make, gateway: Make, wire: Any, bus: Any, until: Callable[..., None]
) -> None:
    """The same with paho framing the packets."""
    broker = scripted()
    running = gateway(broker.port, receive="plain")
    until(running.hears, "the route hears")
    broker.send(wire(UP.encode(), b"good") + b"\x32\x03\x00\x09x")
    until(lambda: broker.ready == 2, "connected again")
    until(lambda: bus.payloads() == [b"good"], "what came before")


def test_a_giant_packet_is_streamed_through(
    scripted: Make, gateway: Make, wire: Any, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """8 MB on a route that takes 256 KiB: 64 KiB, length and hash are kept, it is acknowledged, life goes on."""
    broker = scripted(version)
    until(gateway(broker.port, receive=receive, version=version).hears, "the route hears")
    five = version == "5"
    giant = bytes(range(256)) * 32_768
    broker.send(wire(UP.encode(), giant, packet_id=3, five=five) + wire(UP.encode(), b"next", packet_id=4, five=five))
    until(lambda: broker.acked[-1][-2:] == [3, 4], "both acknowledged in order")
    rows = {r["packet_id"]: r for r in bus.rows()}
    assert (rows[3]["refused"], rows[3]["size"], rows[3]["payload"]) == ("too_large", len(giant), giant[:65_536])
    assert rows[4]["payload"] == b"next"


def test_stop_keeps_and_acknowledges_what_was_received(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """After a clean stop the broker has nothing left to send again; what came meanwhile arrives at the next start."""
    broker = mosquitto()
    first = gateway(broker.port, receive=receive, version=version, flush_ms=60_000, flush_idle_ms=1000)
    until(lambda: first.mqtt.status()["connected"], "connected")
    sender = publisher(broker.port)
    sender.send_many(UP, [b"a%d" % i for i in range(100)])
    until(lambda: first.core.taken == 100, "received")
    first.mqtt.stop(5)
    assert len(bus.rows()) == 100
    sender.send_many(UP, [b"b%d" % i for i in range(100)])
    second = gateway(broker.port, receive=receive, version=version)
    until(second.hears, "the backlog is drained")
    assert second.mqtt.status()["session_present"]
    assert sorted(bus.payloads()) == sorted([b"a%d" % i for i in range(100)] + [b"b%d" % i for i in range(100)])


def test_hearing_means_that_the_backlog_is_durable(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str
) -> None:
    """When the route first hears, everything that was queued before stands in raw."""
    broker = mosquitto()
    first = gateway(broker.port, receive=receive)
    until(first.hears, "the route hears")
    first.mqtt.stop(5)
    publisher(broker.port).send_many(UP, [b"%d" % i for i in range(3000)])
    second = gateway(broker.port, receive=receive, flush_rows=100)
    until(second.hears, "the route hears")
    assert len(bus.rows()) == 3000
    assert second.mqtt.hearing()["native"] == second.mqtt.status()["since_us"]


@pytest.mark.parametrize("queued", [0, 100_000])
def test_without_a_marker_a_pause_counts_as_drained(
    mosquitto: Make, gateway: Make, bus: Any, tmp_path: Path, until: Callable[..., None], version: str, queued: int
) -> None:
    """Access control refuses the marker: fall back to a pause of two seconds, also where that cuts us off."""
    (tmp_path / "acl").write_text("topic read qt/#\ntopic write qt/#\n")
    broker = mosquitto([f"acl_file {tmp_path}/acl", f"max_queued_messages {queued}"])
    running = gateway(broker.port, version=version)
    until(running.hears, "the fallback")
    assert bus.rows() == []


def test_broker_killed_and_back_with_its_session(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """Kill -9 while we are connected: what it had acknowledged and sent on is here; we are back in seconds."""
    broker = mosquitto(["persistence true", "autosave_interval 1"])
    running = gateway(broker.port, receive=receive, version=version)
    until(running.hears, "the route hears")
    sender = publisher(broker.port)
    sender.send_many(UP, [b"a%d" % i for i in range(500)])
    until(lambda: len(set(bus.payloads())) == 500, "all before the kill")
    sender.close()
    broker.end(signal.SIGKILL)
    until(lambda: "broker" in running.problems(), "it shows")
    broker.start()
    until(running.hears, "subscribed again")
    publisher(broker.port).send_many(UP, [b"b%d" % i for i in range(100)])
    until(lambda: len(set(bus.payloads())) == 600, "all after the kill")
    assert running.problems() == set()


def test_broker_back_without_its_session(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """The broker forgot us: subscriptions are made again, not believed in."""
    broker = mosquitto()
    running = gateway(broker.port, receive=receive, version=version)
    until(running.hears, "the route hears")
    broker.end(signal.SIGKILL)
    until(lambda: not running.mqtt.status()["connected"], "it shows")
    broker.start()
    until(running.hears, "subscribed again")
    assert not running.mqtt.status()["session_present"]
    publisher(broker.port).send(UP, b"again")
    until(lambda: bus.payloads() == [b"again"], "the message")
    told = [(orjson.loads(row["payload"])["name"], row["partition"]) for row in bus.rows(Kind.COMMAND)]
    assert told == [("session", p) for p in range(bus.partitions) for _ in range(2)]  # identifiers begin anew with each


def test_a_bus_that_refuses_costs_nothing(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """At the bound the gateway disconnects and keeps the session; when the bus is back, nothing is missing."""
    broker = mosquitto()
    running = gateway(broker.port, receive=receive, version=version, buffer_rows=300, flush_rows=50)
    until(running.hears, "the route hears")
    bus.refusing = True
    sent = [b"%d" % i for i in range(1000)]
    publisher(broker.port).send_many(UP, sent)
    until(lambda: "overfull" in running.problems(), "the bound")
    until(lambda: not running.mqtt.status()["connected"], "disconnected")
    assert {"overfull", "bus"} <= running.problems()
    assert running.mqtt.hearing() == {}
    bus.refusing = False
    until(lambda: set(bus.payloads()) == set(sent), "everything")
    until(lambda: running.problems() == set(), "no problem left")
    until(lambda: running.hears() and running.core.rows == 0, "all is flushed")
    first = [r["payload"] for r in bus.rows() if not r["flags"] & MessageFlag.DUP]
    assert len(first) == len(set(first))  # what is there twice says that it is


def test_an_internal_fault_rebuilds_the_connection(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str
) -> None:
    """The thread does not die of an exception that nobody expected; nothing is lost, and it was shown."""
    broker = mosquitto()
    running = gateway(broker.port, receive=receive)
    until(running.hears, "the route hears")
    seen: set[str] = set()
    bus.fault = KeyError("fault in the bus")
    publisher(broker.port).send(UP, b"x")

    def back() -> bool:
        seen.update(running.problems())
        return "fault" in seen and bool(bus.rows()) and running.hears()

    until(back, "shown, kept, connected again")
    assert set(bus.payloads()) == {b"x"}


def test_little_free_space_stops_taking_messages(
    mosquitto: Make, gateway: Make, bus: Any, publisher: Make, until: Callable[..., None]
) -> None:
    """Below the floor the gateway is away and says so; above it, it is back by itself."""
    broker = mosquitto()
    running = gateway(broker.port)
    until(running.hears, "the route hears")
    enough = running.settings
    floor = shutil.disk_usage(enough.data).total // 2**20 + 1
    running.mqtt._settings = enough.model_copy(update={"bus": enough.bus.model_copy(update={"free_floor_mb": floor})})
    until(lambda: "space" in running.problems() and not running.mqtt.status()["connected"], "away")
    publisher(broker.port).send(UP, b"meanwhile")
    running.mqtt._settings = enough
    until(lambda: bus.payloads() == [b"meanwhile"], "what came meanwhile")
    assert running.problems() == set()


def test_a_private_network_leaves_no_identifier_in_any_file(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, tmp_path: Path, until: Callable[..., None], receive: str
) -> None:
    """Card numbers and plates are pseudonyms before anything is stored, unreadable ones are not stored at all."""
    broker = mosquitto()
    until(gateway(broker.port, frozenset({"community"}), receive=receive).hears, "the route hears")
    sender = publisher(broker.port)
    for payload in (
        b'{"events":[{"kind":"door","attributes":{"card_no":"62220011","n":1}}]}',
        b'{"events":[{"kind":"parking","attributes":{"plate":"LUB12345"}}]',
        b"x" * 200_000 + b"62220011",
    ):
        sender.send("qt/community/gate1/up", payload)
    sender.send("qt/community//up", b"62220011 LUB12345")
    until(lambda: len(bus.rows()) == 4, "four rows")
    assert sorted(r["refused"] for r in bus.rows()) == ["", "no_route", "unparsable_private", "unparsable_private"]
    assert all(r["digest"] and not r["payload"] for r in bus.rows() if r["refused"])
    assert all(r["flags"] & MessageFlag.PSEUDONYMISED for r in bus.rows())
    for file in (tmp_path / "bus").rglob("*"):
        if file.is_file():
            assert b"62220011" not in file.read_bytes()
            assert b"LUB12345" not in file.read_bytes()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate authority and a server certificate for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine: needed to make certificates")
    folder = tmp_path / "tls"
    folder.mkdir()
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=ca",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=127.0.0.1",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem -extfile san",
    ):
        (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


def test_tls(
    mosquitto: Make, gateway: Make, certificates: Path, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """Over TLS, with payloads larger than a record; a certificate that we do not trust is refused and shown."""
    plain_port = None
    broker = mosquitto(
        listener=[
            f"cafile {certificates}/ca.pem",
            f"certfile {certificates}/server.pem",
            f"keyfile {certificates}/server.key",
        ]
    )
    running = gateway(broker.port, receive=receive, version=version, tls=True, ca_file=certificates / "ca.pem")
    until(running.hears, "the route hears")
    assert plain_port is None
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.tls_set(str(certificates / "ca.pem"))
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    payloads = [b"%d" % i + b"x" * (100_000 if i % 50 == 0 else 10) for i in range(300)]
    for info in [client.publish(UP, p, 1) for p in payloads]:
        info.wait_for_publish(10)
    until(lambda: sorted(bus.payloads()) == sorted(payloads), "all of them")
    client.disconnect()
    client.loop_stop()
    stranger = gateway(broker.port, tls=True, client_id="other")
    until(lambda: any("certificate" in p["en"].lower() for p in stranger.mqtt.status()["problems"]), "refused")


def test_a_route_added_while_the_session_existed(
    mosquitto: Make, gateway: Make, publisher: Make, bus: Any, until: Callable[..., None], receive: str, version: str
) -> None:
    """The broker kept our session, which does not know the new route: it is subscribed to all the same."""
    broker = mosquitto()
    one = {"name": "native", "topic": "qt/{network}/{device}/up"}
    two = {"name": "second", "topic": "second/{network}/{device}"}
    first = gateway(broker.port, receive=receive, version=version, routes=[one])
    until(first.hears, "the route hears")
    first.mqtt.stop(5)
    second = gateway(broker.port, receive=receive, version=version, routes=[one, two])
    until(second.hears, "both routes hear")
    assert second.mqtt.status()["session_present"]
    publisher(broker.port).send("second/air/d1", b"new")
    until(lambda: [r["route"] for r in bus.rows()] == ["second"], "the message of the new route")
