"""An independent publisher with the truth on disk: what it sent, when, and whether the broker acknowledged it.

The connection is that of ``bench/publisher.py`` (a raw socket, MQTT 3.1.1, QoS 1, no code of ours, no paho): what is
not acknowledged is sent again with the same bytes after a broken connection, until every message is acknowledged.
Here the messages carry the time of now, some are garbage, and some devices have a wrong clock, all by a seed.

``--out`` gets one JSON object a line when a message is acknowledged, and at the end one for each that was not::

    {"topic", "hash" (SHA-256 of the payload), "published_at" (ms UTC, first time), "acked" (ms UTC or null),
     "kind": "good" | "garbage" | "wrong_clock", "device", "time" (ms UTC as claimed, null for garbage)}

A line is on disk before the next message is sent, so a publisher that is killed leaves no acknowledged message out but
those of its last moment. SIGTERM stops publishing; what is out is still waited for. The summary is one JSON object on
standard output. Run it as ``python -m tests.faults.publisher``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.publisher import Messages, Publisher

if TYPE_CHECKING:
    from typing import TextIO

_PUBLISH_QOS1 = 0x32
_DAY_MS = 86_400_000
_WRONG_MS = (_DAY_MS, -500 * _DAY_MS)
"""What wrong clocks are off: too far ahead, and older than any backfill."""


def packet(topic: bytes, payload: bytes, packet_id: int) -> bytes:
    """Return a PUBLISH packet with QoS 1."""
    body = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + payload
    length, size = bytearray(), len(body)
    while True:
        size, low = divmod(size, 128)
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([_PUBLISH_QOS1]) + bytes(length) + body


class Truth(Messages):
    """Makes message i and remembers it until it is acknowledged.

    Args:
        options: ``devices``, ``network``, ``garbage`` and ``wrong_clock`` (shares), ``seed``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self._network: str = options.network
        self._garbage: float = options.garbage
        self._chance = random.Random(options.seed)
        self._names = [f"s{number:04d}" for number in range(options.devices)]
        self._wrong = math.ceil(options.wrong_clock * options.devices)
        self._last = [0] * options.devices
        self._open: dict[int, dict[str, Any]] = {}
        self.kinds: Counter[str] = Counter()

    def packet(self, index: int, packet_id: int) -> bytes:
        """Return the PUBLISH packet of message ``index``."""
        seq, device = divmod(index, len(self._names))
        now = time.time_ns() // 1_000_000
        # A device never claims one time twice: readings are told by their time.
        claimed = self._last[device] = max(now, self._last[device] + 1)
        kind = "good"
        if device < self._wrong:
            kind = "wrong_clock"
            claimed += _WRONG_MS[device % len(_WRONG_MS)]
        payload = self._payload(device, seq, claimed)
        if self._chance.random() < self._garbage:
            kind, payload = "garbage", self._spoil(payload, index)
        topic = f"qt/{self._network}/{self._names[device]}/up"
        self.kinds[kind] += 1
        self._open[index] = {
            "topic": topic, "hash": hashlib.sha256(payload).hexdigest(), "published_at": now, "acked": None,
            "kind": kind, "device": self._names[device], "time": None if kind == "garbage" else claimed,
        }  # fmt: skip
        return packet(topic.encode(), payload, packet_id)

    def label(self, index: int) -> str:
        """Return the line of message ``index``, which is acknowledged now."""
        return json.dumps({**self._open.pop(index), "acked": time.time_ns() // 1_000_000}) + "\n"

    def rest(self) -> list[str]:
        """Return the lines of what was never acknowledged."""
        return [json.dumps(row) + "\n" for row in self._open.values()]

    @staticmethod
    def _payload(device: int, seq: int, claimed: int) -> bytes:
        wave = math.sin(2 * math.pi * (seq + 37 * device) / 1440)
        readings = {
            "pm25": round(35 + 10 * wave), "pm10": round(70 + 15 * wave), "so2": round(9 + 2 * wave),
            "no2": round(30 + 8 * wave), "o3": round(60 - 20 * wave), "co": round(0.7 + 0.2 * wave, 1),
            "air_temperature": round(12 + 4 * wave, 1), "relative_humidity": round(60 - 10 * wave),
        }  # fmt: skip
        return json.dumps({"time": claimed, "seq": seq, "readings": readings}, separators=(",", ":")).encode()

    def _spoil(self, payload: bytes, index: int) -> bytes:
        """Break a payload so that no program can read it, in one of several ways; never the same bytes twice."""
        mark = b"%d" % index
        return self._chance.choice(
            (
                payload[: len(payload) // 2] + mark,
                self._chance.randbytes(40) + mark,
                b"<html>502 Bad Gateway " + mark,
                b"\xff\xfe" + payload,
                b"[" * 200 + mark,
            )
        )


class TruthPublisher(Publisher):
    """The bench's connection with messages of :class:`Truth`."""

    def __init__(self, options: argparse.Namespace, out: TextIO) -> None:
        super().__init__(options, out)
        self.truth = Truth(options)
        self._finishing = False
        self.messages = self.truth

    def _acknowledge(self, data: bytes) -> None:
        super()._acknowledge(data)
        self.out.flush()

    def finish(self) -> None:
        """Publish nothing more from the next turn on; what is out is still waited for."""
        self._finishing = True

    def _turn(self) -> None:
        # Not in the handler of a signal: that may come in the middle of a turn, while a message is being sent.
        if self._finishing:
            self.options.count = self.next
        super()._turn()


def read_truth(path: Path) -> list[dict[str, Any]]:
    """Read a file that a publisher wrote; a last line that a kill cut off is left out."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def main() -> None:
    """Read the command line, publish, print the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, kind, default in (
        ("host", str, "127.0.0.1"), ("port", int, 1883), ("client-id", str, "truth-publisher"),
        ("network", str, "bench"), ("devices", int, 200), ("rate", float, 500.0), ("window", int, 1000),
        ("garbage", float, 0.0), ("wrong-clock", float, 0.0), ("seed", int, 1), ("give-up-s", float, 120.0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    much = parser.add_mutually_exclusive_group(required=True)
    much.add_argument("--count", type=int, help="messages")
    much.add_argument("--seconds", type=float, help="publish so long at --rate")
    parser.add_argument("--out", type=Path, required=True, help="file for the truth")
    options = parser.parse_args()
    if options.count is None:
        options.count = round(options.seconds * options.rate)
    # What the messages of the bench are made of; those here replace them.
    parser.set_defaults(stations=1, start_ms=0, step_ms=0, episode_every=0, episode_length=0, episode_height=0)
    options = parser.parse_args(namespace=options)
    began = time.monotonic()
    with options.out.open("w", encoding="ascii") as out:
        publisher = TruthPublisher(options, out)
        signal.signal(signal.SIGTERM, lambda *_: publisher.finish())
        try:
            publisher.run()
            gave_up = ""
        except TimeoutError as error:
            gave_up = str(error)
        out.writelines(publisher.truth.rest())
    summary = {
        "published": publisher.next, "acknowledged": publisher.acked, "resent": publisher.resent,
        "connections": publisher.connections, "kinds": dict(publisher.truth.kinds), "gave_up": gave_up,
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    print(json.dumps(summary))
    raise SystemExit(1 if gave_up else 0)


if __name__ == "__main__":
    main()
