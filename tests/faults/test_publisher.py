"""The publisher tells the truth: what the broker acknowledged, with the bytes that were sent."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from ingest.decoders import DECODERS
from tests.faults.harness import ROOT, World
from tests.faults.proxy import Proxy
from tests.faults.publisher import read_truth
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A broker; its service is never started."""
    scene = World(tmp_path / "scene")
    scene.start_broker()
    try:
        yield scene
    finally:
        scene.end()


class Listener:
    """Keeps every payload that the broker passes on."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, message: self.heard.append((message.topic, bytes(message.payload)))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(10)

    def close(self) -> None:
        """Hear no more."""
        self._client.disconnect()
        self._client.loop_stop()


def start(port: int, out: Path, *words: object) -> subprocess.Popen[str]:
    """Start a publisher."""
    command = [sys.executable, "-m", "tests.faults.publisher", "--port", port, "--out", out, *words]
    return subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _more(proxy: Proxy, than: int) -> bool:
    return proxy.forwarded > than


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for its end and return the summary."""
    out, _ = process.communicate(timeout=60)
    return dict(json.loads(out))


def test_the_truth_is_what_the_broker_took(world: World, tmp_path: Path) -> None:
    """Through a network that cuts: every line's hash was heard, each at least once, and the kinds are as asked for."""
    listener = Listener(world.port)
    try:
        with Proxy("127.0.0.1", world.port) as proxy:
            process = start(proxy.port, tmp_path / "truth", "--count", 1500, "--rate", 1000, "--devices", 20,
                            "--garbage", 0.05, "--wrong-clock", 0.1)  # fmt: skip
            for _ in range(3):
                seen = proxy.forwarded
                until(partial(_more, proxy, seen + 50_000), "forwarded", 30)
                proxy.cut()
            summary = ended(process)
    finally:
        listener.close()
    truth = read_truth(tmp_path / "truth")
    assert summary["acknowledged"] == summary["published"] == len(truth) == 1500
    assert summary["connections"] == 4
    heard = {(topic, hashlib.sha256(payload).hexdigest()): payload for topic, payload in listener.heard}
    assert {(row["topic"], row["hash"]) for row in truth} == set(heard)
    assert all(row["acked"] >= row["published_at"] for row in truth)
    kinds = summary["kinds"]
    assert 30 < kinds["garbage"] < 120
    assert 100 < kinds["wrong_clock"] < 160
    for row in truth:
        decoded = DECODERS["native"]([heard[row["topic"], row["hash"]]], [row["device"]])
        assert bool(decoded.refused) == (row["kind"] == "garbage"), heard[row["topic"], row["hash"]]
        assert row["kind"] == "garbage" or set(decoded.time_us.tolist()) == {row["time"] * 1000}
    claimed = [(row["device"], row["time"]) for row in truth if row["time"] is not None]
    assert len(set(claimed)) == len(claimed)


def test_asked_to_end_it_waits_for_what_is_out(world: World, tmp_path: Path) -> None:
    """SIGTERM stops publishing; all that was sent is acknowledged."""
    process = start(world.port, tmp_path / "truth", "--seconds", 600, "--rate", 200)
    out = tmp_path / "truth"
    until(lambda: out.exists() and out.stat().st_size > 0, "the first line", 30)
    process.send_signal(signal.SIGTERM)
    summary = ended(process)
    assert process.returncode == 0
    assert 0 < summary["acknowledged"] == summary["published"] < 120_000
    assert len(read_truth(tmp_path / "truth")) == summary["published"]


def test_what_was_not_acknowledged_is_told(world: World, tmp_path: Path) -> None:
    """A broker that never answers: the lines say so, and the exit code too."""
    with Proxy("127.0.0.1", world.port) as proxy:
        process = start(proxy.port, tmp_path / "truth", "--count", 5000, "--rate", 1000, "--give-up-s", 1)
        until(lambda: proxy.forwarded > 20_000, "forwarded", 30)
        proxy.refuse()
        proxy.cut()
        summary = ended(process)
    assert process.returncode == 1
    assert "no broker" in summary["gave_up"]
    truth = read_truth(tmp_path / "truth")
    assert len(truth) == summary["published"] < 5000
    assert sum(row["acked"] is not None for row in truth) == summary["acknowledged"]
