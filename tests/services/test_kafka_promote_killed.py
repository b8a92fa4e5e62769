"""A promote on Kafka that is killed: the old store or the new one, and the books agree with both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from qingtu import replay
from qingtu.replay_promote import BEFORE
from tests.process.support import tick
from tests.services.kafka_support import installation
from tests.services.replay_support import MORE, Town
from tests.test_replay import NOW, ROOT, hours, merged, values_of

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.native.kafka import KafkaServer

pytestmark = pytest.mark.services
_PROMOTE = """
import os, signal, sys
from pathlib import Path
from qingtu import replay
from qingtu.bus.kafka import KafkaBus
from qingtu.clock import ManualClock
from qingtu.replay_promote import promote
from qingtu.settings import load_settings

die_at, now, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
seen = 0
def step():
    global seen
    seen += 1
    if seen == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
def hook(event, args):
    if event in ("os.link", "os.rename", "os.remove", "open", "os.mkdir") and str(args[0]).startswith(folder):
        step()
append = KafkaBus.append
def stepped(self, stream, partition, frames):
    ticket = append(self, stream, partition, frames)
    if stream == "raw":
        ticket.result()
        step()
    return ticket
KafkaBus.append = stepped
environ = {k: v for k, v in os.environ.items() if k.startswith("QINGTU_")}
settings = load_settings(Path(os.devnull), environ=environ)
sys.addaudithook(hook)
promote(settings, replay.find(settings, None), who="t", clock=ManualClock(now))
"""


def test_killed_at_any_step_of_a_promote(kafka: KafkaServer, tmp_path: Path) -> None:
    """Kill -9 before each file, and behind each frame on raw, leaves the old store or the new one; both go on."""
    town = Town(tmp_path / "kafka", installation(kafka, 2))
    town.live(merged(hours("a", "dust", 6), hours("x", "pm25", 3), [tick(9000)]))
    old = town.values()
    town.write(unit="mg/m3", more=MORE)
    town.replay()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **town.environ}
    seen, die_at, ended = set(), 0, False
    while not ended:
        die_at += 1
        words = [sys.executable, "-c", _PROMOTE, str(die_at), str(NOW), str(town.folder)]
        done = subprocess.run(words, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        ended = done.returncode == 0  # not what it prints: on a slow machine Kafka's client has something to say there
        new = town.values()
        kind = "old" if new == old else "new"
        if kind == "new":
            assert len(new) == len(old) + 3
            assert [row[3] for row in new if row[0] == "A1"] == [1000 * row[3] for row in old if row[0] == "A1"]
        seen.add(kind)
        audit = town.audited()
        assert audit["agrees"], (die_at, audit["checks"])
        assert audit["ledger"]["balanced"]
        assert die_at < 60, "it never ends by itself"
    assert seen == {"old", "new"}
    assert values_of(replay.folder_of(town.settings, "g") / BEFORE) == [row[3] for row in old]
    assert replay.find(town.settings, "g").promoted_us == NOW
