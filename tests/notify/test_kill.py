"""kill -9 between any two steps: a message may come twice with one id, and never not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qingtu.clock import SECOND
from tests.notify.bench import T0, Bench, channels, route
from tests.notify.kill_notify import TEXT
from tests.notify.test_sink import states

if TYPE_CHECKING:
    from tests.notify.receiver import Receiver

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("place", "before", "after"), [("taken", 0, 1), ("sending", 0, 1), ("sent", 1, 2)])
def test_a_killed_process_sends_after_its_start(
    tmp_path: Path, duty: Receiver, place: str, before: int, after: int
) -> None:
    """Killed with the message taken by the receiver but not written down, it is sent again; else exactly once."""
    words = [sys.executable, "-m", "tests.notify.kill_notify", str(tmp_path), duty.url, place]
    died = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(duty.bodies) == before
    bench = Bench.of(tmp_path, TEXT + channels(tmp_path, {"duty": duty.url}) + route(["duty"]))
    assert bench.follower.behind() == (1 if place == "taken" else 0)
    for n in range(3):
        bench.run(T0 + (3 + n) * SECOND)
    bench.close()
    assert states(duty) == [("a1", "open")] * after
    assert len({body["id"] for body in duty.bodies}) == 1
    assert duty.raw == [duty.raw[0]] * after
