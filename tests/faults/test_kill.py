"""kill -9 of the whole process while messages are published: nothing lost, nothing twice, alerts as undisturbed.

The short form runs in ``make test``; ``QINGTU_FAULTS=long`` publishes 100,000 messages and kills 20 times.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from .harness import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = os.environ.get("QINGTU_FAULTS") == "long"
COUNT, KILLS, RATE = (100_000, 20, 2500) if LONG else (12_000, 3, 1500)

pytestmark = pytest.mark.faults


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A scene in a folder of its own."""
    scene = World(tmp_path / "scene")
    try:
        yield scene
    finally:
        scene.end()


def _start_ms(count: int, stations: int) -> int:
    """Return a start such that all claimed times lie within a few minutes of now: none late, none ahead."""
    return int(time.time() * 1000) // 1000 * 1000 - count // stations * 1000 // 2


def test_killed_again_and_again(world: World, tmp_path: Path) -> None:
    """Nothing that the broker acknowledged is lost or doubled, and the alerts are those of a run without kills."""
    start_ms = _start_ms(COUNT, world.stations)
    world.start_broker()
    world.start_service()
    time.sleep(1)
    world.start_publisher(COUNT, start_ms=start_ms, rate=RATE)
    chance = random.Random(20261123)
    span_s = COUNT / RATE / KILLS
    for _ in range(KILLS):
        time.sleep(span_s * chance.uniform(0.3, 1.1))
        world.kill_service()
        world.start_service()
    summary = world.published()
    assert summary["acknowledged"] == COUNT, summary
    time.sleep(3)
    world.stop_service()
    killed = world.outcome()
    killed.check(world.acked())

    calm = World(tmp_path / "calm")
    try:
        calm.start_broker()
        calm.start_service()
        time.sleep(1)
        calm.start_publisher(COUNT, start_ms=start_ms)
        calm.published()
        time.sleep(3)
        calm.stop_service()
        undisturbed = calm.outcome()
    finally:
        calm.end()
    undisturbed.check(calm.acked())
    assert len(undisturbed.transitions) > 0
    assert killed.transitions == undisturbed.transitions
