"""The embedded broker: started, adopted, ended; ports and programs that are in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from ingest.brokers import Broker, start_broker
from qingtu.errors import StartError
from qingtu.settings import MqttSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def ended() -> Iterator[list[Broker]]:
    """Brokers to end after the test."""
    brokers: list[Broker] = []
    yield brokers
    for broker in brokers:
        broker.stop()


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(params=["mosquitto", "iotcore"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Both embedded brokers."""
    if request.param == "mosquitto" and shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("no mosquitto on this machine: apt install mosquitto")
    return request.param


def test_it_outlives_us_and_is_adopted(kind: Any, port: int, tmp_path: Path, ended: list[Broker]) -> None:
    """A second start finds the first one's child, its own session and all; stop ends it and frees the port."""
    settings = MqttSettings(port=port, embedded=kind)
    first = start_broker(settings, tmp_path)
    ended.append(first)
    assert (first.kind, first.host, first.port, first.adopted) == (kind, "127.0.0.1", port, False)
    assert os.getsid(first.pid) == first.pid
    second = start_broker(settings, tmp_path)
    assert (second.pid, second.adopted, second.running()) == (first.pid, True, True)
    second.stop()
    assert not first.running()
    third = start_broker(settings, tmp_path)
    ended.append(third)
    assert not third.adopted
    assert third.pid != first.pid


def test_only_this_machine_is_listened_to(kind: Any, port: int, tmp_path: Path, ended: list[Broker]) -> None:
    """Bound to 127.0.0.1: the same port on another loopback address is free."""
    ended.append(start_broker(MqttSettings(port=port, embedded=kind), tmp_path))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=1)


@pytest.mark.parametrize("there", [False, True])
def test_its_folder_is_for_its_owner_alone(port: int, tmp_path: Path, ended: list[Broker], *, there: bool) -> None:
    """It holds messages as they came, also in a data folder that others may read, and in one of an earlier version."""
    folder = tmp_path / "data" / "broker"
    if there:
        folder.mkdir(parents=True, mode=0o755)
    ended.append(start_broker(MqttSettings(port=port, embedded="auto"), tmp_path / "data"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_pid_that_is_now_somebody_elses_is_left_alone(
    kind: Any, port: int, tmp_path: Path, ended: list[Broker]
) -> None:
    """The pid file of a dead broker names a living process, ours: it is not touched."""
    folder = tmp_path / "broker"
    folder.mkdir()
    record = {"pid": os.getpid(), "port": port, "kind": kind, "born": "1"}
    (folder / "pid.json").write_text(json.dumps(record))
    broker = start_broker(MqttSettings(port=port, embedded=kind), tmp_path)
    ended.append(broker)
    assert not broker.adopted
    assert json.loads((folder / "pid.json").read_text())["pid"] == broker.pid


def test_another_port_ends_the_old_child(kind: Any, port: int, tmp_path: Path, ended: list[Broker]) -> None:
    """When the settings ask for another port, the child on the old one does not linger."""
    first = start_broker(MqttSettings(port=port, embedded=kind), tmp_path)
    ended.append(first)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        other = int(sock.getsockname()[1])
    second = start_broker(MqttSettings(port=other, embedded=kind), tmp_path)
    ended.append(second)
    assert (second.adopted, first.running(), second.running()) == (False, False, True)


def test_a_killed_broker_is_started_anew(kind: Any, port: int, tmp_path: Path, ended: list[Broker]) -> None:
    """Kill -9 of the child: it shows, and the next start makes a new one."""
    first = start_broker(MqttSettings(port=port, embedded=kind), tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    while first.running():
        continue
    second = start_broker(MqttSettings(port=port, embedded=kind), tmp_path)
    ended.append(second)
    assert not second.adopted


def test_a_taken_port_is_said_in_one_line(port: int, tmp_path: Path) -> None:
    """One line, both languages, with the way out."""
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartError) as caught:
        start_broker(MqttSettings(port=port), tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "QINGTU_MQTT__PORT" in text
    assert "端口" in text


def test_a_broker_of_ones_own_is_only_named(tmp_path: Path) -> None:
    """With mqtt.host nothing is started, and stop leaves it alone."""
    broker = start_broker(MqttSettings(host="broker.example", port=8883), tmp_path)
    assert (broker.kind, broker.host, broker.port, broker.running()) == ("external", "broker.example", 8883, True)
    broker.stop()
    assert not (tmp_path / "broker").exists()


def test_iotcore_carries_the_gateway(
    port: int, tmp_path: Path, ended: list[Broker], gateway: Any, publisher: Any, bus: Any, receive: Any,
    until: Callable[..., None],
) -> None:  # fmt: skip
    """Without mosquitto: 3.1.1, large payloads, a kept session, redelivery of what was not acknowledged."""
    broker = start_broker(MqttSettings(port=port, embedded="iotcore"), tmp_path)
    ended.append(broker)
    assert "iotcore" in broker.note_en
    adapted = broker.adapt(MqttSettings(receive=receive))
    options = {"version": adapted.version, "receive": adapted.receive}
    first = gateway(adapted.port, **options)
    until(first.hears, "the route hears")
    sender = publisher(adapted.port, version=4)
    sender.send("qt/air/d1/up", b"x" * 300_000)
    sender.send_many("qt/air/d1/up", [b"a%d" % i for i in range(500)])
    until(lambda: len(bus.rows()) == 501, "all of them")
    assert {r["refused"] for r in bus.rows() if r["size"] > 1000} == {"too_large"}
    first.mqtt.stop(5)
    sender.send_many("qt/air/d1/up", [b"b%d" % i for i in range(500)])
    second = gateway(adapted.port, **options)
    until(lambda: len(set(bus.payloads())) == 1001, "what came meanwhile")
    assert second.mqtt.status()["session_present"]
