"""The broker is killed while we are connected, and comes back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .harness import World

if TYPE_CHECKING:
    from pathlib import Path

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
