"""The broker is killed while we are connected, and comes back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from deploy.native.process import free_port
from qingtu.app import Service
from qingtu.settings import load_settings

from .harness import World, mosquitto, write_catalogue

pytestmark = pytest.mark.faults


def test_broker_killed_while_connected(tmp_path: Path) -> None:
    """What the broker acknowledged before it died, and after, is stored once: we had it in hand or it came again."""
    world = World(tmp_path / "scene")
    count, rate = 8000, 1000
    try:
        world.start_broker()
        world.start_service()
        time.sleep(1)
        world.start_publisher(count, start_ms=int(time.time()) * 1000 - 20_000, rate=rate)
        for _ in range(2):
            time.sleep(2)
            world.kill_broker()
            time.sleep(0.5)
            world.start_broker()
        assert world.published()["acknowledged"] == count
        time.sleep(3)
        world.stop_service()
        world.outcome().check(world.acked())
    finally:
        world.end()


def test_the_embedded_broker_is_started_again(tmp_path: Path) -> None:
    """Kill -9 of our own child: the next tick starts it again, and the gateway is connected to the new one."""
    mosquitto()
    environ = {
        "QINGTU_DATA": str(tmp_path / "data"), "QINGTU_MQTT__PORT": str(free_port()),
        "QINGTU_CATALOGUE": str(write_catalogue(tmp_path / "stations", 2)), "QINGTU_FIGURES__TICK_S": "0.5",
    }  # fmt: skip
    service = Service(load_settings(Path(os.devnull), environ=environ))
    try:
        service.start()
        assert service.broker is not None
        dead = service.broker.pid
        os.kill(dead, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while service.broker.pid == dead or service.problems():
            assert time.monotonic() < deadline, service.problems()
            time.sleep(0.1)
        assert service.broker.running()
        service.stop()
    finally:
        service.close()
