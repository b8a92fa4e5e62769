"""The private hooks of paho that the gateway hangs on; a new paho that moves them fails here first."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import Client

from ingest.mqtt_client import GatewayClient
from qingtu.errors import StartError
from qingtu.settings import MqttSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("hook", ["_create_socket", "_handle_publish", "_packet_read", "_sock_recv"])
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


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    """Its last line break is not part of it; a file that is not there is said in one line."""
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    assert GatewayClient(MqttSettings(username="u", password_file=file), 1).password == "secret"
    with pytest.raises(StartError, match=r"mqtt\.password_file"):
        GatewayClient(MqttSettings(username="u", password_file=tmp_path / "none"), 1)
