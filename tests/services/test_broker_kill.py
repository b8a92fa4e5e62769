"""What a mosquitto that is killed with SIGKILL loses: the claims of docs/broker.md, on a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.mosquitto.measure import kill_test
from deploy.native.mosquitto import MosquittoServer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.services

RATE, SECONDS = 500.0, 4.0


@pytest.fixture(autouse=True)
def _broker() -> None:
    if missing := MosquittoServer.available():
        pytest.skip(missing)


@pytest.mark.parametrize("lines", [["autosave_interval 15"], ["autosave_interval 0"]], ids=["saved", "never saved"])
def test_nothing_is_lost_while_the_gateway_is_connected(tmp_path: Path, lines: list[str]) -> None:
    """What was acknowledged to the device had been sent on to us before."""
    got = kill_test(tmp_path, lines, away=False, rate=RATE, seconds=SECONDS)
    assert got.acknowledged > RATE
    assert got.lost == 0


def test_all_since_the_last_save_is_lost_while_the_gateway_is_away(tmp_path: Path) -> None:
    """Never saved: all of it, although every message was acknowledged. The checker would see any loss."""
    got = kill_test(tmp_path, ["autosave_interval 0"], away=True, rate=RATE, seconds=SECONDS)
    assert got.acknowledged > RATE
    assert got.lost == got.acknowledged


def test_a_save_bounds_the_loss(tmp_path: Path) -> None:
    """Saved each 100 changes: at most what came since, and what came in the same turn of the broker's loop."""
    lines = ["autosave_on_changes true", "autosave_interval 100"]
    got = kill_test(tmp_path, lines, away=True, rate=RATE, seconds=SECONDS)
    assert got.acknowledged > RATE
    assert got.lost <= 300
