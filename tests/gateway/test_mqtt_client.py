"""The private hooks of paho that the gateway hangs on; a new paho that moves them fails here first."""

from __future__ import annotations

import inspect
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import pytest
from paho.mqtt.client import Client

from ingest.mqtt_client import GatewayClient
from qingtu.errors import StartError
from qingtu.settings import MqttSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("hook", ["_create_socket", "_handle_publish", "_packet_read", "_sock_close", "_sock_recv"])
def test_paho_still_has_our_hooks(hook: str) -> None:
    """Same name and parameters as in paho 2.2, and paho itself calls it."""
    theirs, ours = getattr(Client, hook), getattr(GatewayClient, hook)
    assert list(inspect.signature(theirs).parameters) == list(inspect.signature(ours).parameters)
    assert inspect.getsource(Client).count(f"self.{hook}(") >= 1


def test_the_state_of_a_packet_is_where_it_was() -> None:
    """The plain path reads how far paho is within a packet."""
    client = GatewayClient(MqttSettings(receive="plain"), 100)
    assert set(client._in_packet) == {
        "command", "have_remaining", "remaining_count", "remaining_mult", "remaining_length", "packet",
        "to_process", "pos",
    }  # fmt: skip


_PINGRESP = b"\xd0\x00"


def _broker(listener: socket.socket) -> bytes:
    """Accept a client, send it more than it will read, and return all that it says until it ends the connection."""
    said = b""
    connection, _ = listener.accept()
    with connection:
        said += connection.recv(4096)
        connection.sendall(b"\x20\x02\x00\x00")  # CONNACK
        while not said.endswith(b"\xe0\x00"):  # DISCONNECT
            said += (more := connection.recv(4096))
            assert more, "ended without a word"
            connection.sendall(_PINGRESP)
        while more := connection.recv(4096):  # a reset would raise ConnectionResetError
            said += more
    return said


@pytest.mark.parametrize("receive", ["fast", "plain"])
def test_the_last_pubacks_are_not_taken_away_by_a_reset(receive: Literal["fast", "plain"]) -> None:
    """What the broker sends while we leave is read: closed with bytes unread, the connection would be reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        heard = pool.submit(_broker, listener)
        client = GatewayClient(MqttSettings(receive=receive, version="3.1.1"), 100)
        client.connect("127.0.0.1", listener.getsockname()[1])
        while not client.is_connected():
            client.write_some()
            client.read_some()
        for packet_id in range(1, 101):
            client.acknowledge([packet_id])
            client.write_some()
        client.disconnect()
        while client.wants_write and client.socket() is not None:
            client.write_some()
        client.drop()
        assert heard.result(10).count(b"\x40\x02") == 100


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    """Its last line break is not part of it; a file that is not there is said in one line."""
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    assert GatewayClient(MqttSettings(username="u", password_file=file), 1).password == "secret"
    with pytest.raises(StartError, match=r"mqtt\.password_file"):
        GatewayClient(MqttSettings(username="u", password_file=tmp_path / "none"), 1)
