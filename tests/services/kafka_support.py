"""What tests of the Kafka bus share: installations of their own, feeding, and looking at what came out."""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qingtu.bus.kafka import KafkaBus
from qingtu.bus.kafka_topics import setup
from qingtu.clock import SECOND
from qingtu.errors import RetryLater
from qingtu.records import PROCESSED, RAW, decode_header, encode
from qingtu.settings import BusSettings, KafkaSettings
from tests import waiting

if TYPE_CHECKING:
    import signal

    from deploy.native.kafka import KafkaServer

ROOT = Path(__file__).parents[2]
_NUMBERS = itertools.count()
until = functools.partial(waiting.until, patience_s=60.0)


def installation(kafka: KafkaServer, partitions: int = 1, **more: Any) -> KafkaSettings:
    """Make topics under a prefix that nobody else has."""
    prefix = f"t-{os.getpid()}-{next(_NUMBERS)}"
    settings = KafkaSettings(servers=(kafka.address,), prefix=prefix, partitions=partitions, **more)
    setup(settings, BusSettings())
    return settings


class Feeder:
    """Appends numbered raw frames in a thread, to all partitions in turn, and keeps what was acknowledged."""

    def __init__(self, settings: KafkaSettings, pause_s: float = 0.01) -> None:
        self.bus = KafkaBus(settings)
        self.acknowledged: dict[int, list[tuple[int, int]]] = {p: [] for p in range(self.bus.partitions)}
        self.refused = 0
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for n in itertools.count():
            if self._stop.wait(self._pause_s):
                return
            partition = n % self.bus.partitions
            # a quarter of a second of stream time each, so that stages save their state often
            frame = encode({"stream": RAW, "clock": n * SECOND // 4, "origin": None, "n": n}, {})
            while True:
                try:
                    (offset,) = self.bus.append(RAW, partition, [frame]).result()
                except RetryLater:
                    self.refused += 1
                    time.sleep(0.1)
                else:
                    break
            self.acknowledged[partition].append((offset, n))

    @property
    def count(self) -> int:
        """How many frames were acknowledged."""
        return sum(map(len, self.acknowledged.values()))

    def more(self, frames: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = self.count + frames
        until(lambda: self.count >= wanted, f"{wanted} frames acknowledged")

    def stop(self) -> None:
        """End the thread; the bus stays open."""
        self._stop.set()
        self._thread.join()


class MemberProcess:
    """A running kafka_member.py."""

    def __init__(self, settings: KafkaSettings, name: str, session_ms: int = 3000) -> None:
        script = str(Path(__file__).with_name("kafka_member.py"))
        arguments = [settings.servers[0], settings.prefix, str(settings.partitions), name, str(session_ms)]
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.told: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    @property
    def has(self) -> list[int]:
        """The partitions that it said to work on."""
        return self.told[-1]["has"] if self.told else []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it as an operator would."""
        self.process.terminate()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self._thread.join(10)


def check_effects(feeder: Feeder) -> None:
    """Wait until all that was acknowledged is worked off, then look at it as a store would.

    Every frame is counted once, in order, whoever worked on it and however often.
    """
    bus = feeder.bus
    for partition, fed in feeder.acknowledged.items():
        raw = [(r.offset, decode_header(r.data)["n"]) for r in _all(bus, RAW, partition)]
        assert raw == fed, "raw is what was acknowledged, once and in order"
        last = fed[-1][0]

        def worked_off(partition: int = partition, last: int = last) -> bool:
            return any(h["origin"][1] >= last for h in headers(bus, partition))

        until(worked_off, f"partition {partition} worked off")
        kept: list[dict[str, Any]] = []
        for header in headers(bus, partition):
            if not kept or header["origin"][1] > kept[-1]["origin"][1]:
                kept.append(header)
        sums = list(itertools.accumulate(n for _, n in fed))
        assert [h["origin"][1] for h in kept] == [offset for offset, _ in fed]
        assert [h["count"] for h in kept] == list(range(1, len(fed) + 1))
        assert [h["total"] for h in kept] == sums


def headers(bus: KafkaBus, partition: int) -> list[dict[str, Any]]:
    """Return the headers of all processed frames."""
    return [decode_header(record.data) for record in _all(bus, PROCESSED, partition)]


def _all(bus: KafkaBus, stream: str, partition: int) -> list[Any]:
    at, out = bus.start(stream, partition), []
    while at < bus.end(stream, partition):
        found = bus.read(stream, partition, at, 1000)
        out += found
        at = found[-1].offset + 1
    return out
