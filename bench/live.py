"""Publish to page: how long until a reading is seen on /api/stream, and how fast /api/latest answers."""

from __future__ import annotations

import json
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from bench.whole import Measured, broker, publish


class _Listener(threading.Thread):
    """Reads the event stream and notes when each reading of PM2.5 was seen."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.delays_ms: list[float] = []
        self.ready = threading.Event()

    def run(self) -> None:
        with urllib.request.urlopen(f"{self._url}/api/stream", timeout=60) as answer:
            event = ""
            for raw in answer:
                line = raw.decode().rstrip("\r\n")
                if line.startswith("event:"):
                    event = line[6:].strip()
                    self.ready.set()
                elif line.startswith("data:") and event == "readings":
                    self._take(json.loads(line[5:]))

    def _take(self, data: dict[str, Any]) -> None:
        now = time.time() * 1000
        at, what = data["columns"].index("time_ms"), data["columns"].index("property")
        self.delays_ms += [now - row[at] for row in data["rows"] if row[what] == "pm25"]


def latency(rate: int = 500, seconds: int = 12, stations: int = 2000) -> dict[str, float]:
    """Return p50 and p99 in ms from the publisher's clock to the page's, at ``rate`` messages a second.

    The publisher paces message i to ``start + i / rate``, and claims that time.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with broker(folder) as port:
            measured = Measured(folder, port, stations, "fast", 100, web=True)
            host, web_port = measured.ready["address"]
            listener = _Listener(f"http://{host}:{web_port}")
            listener.start()
            if not listener.ready.wait(20):
                raise SystemExit("/api/stream sent nothing within 20 s")
            measured.begin(rate * seconds)
            # As many stations as send in a millisecond, the step of claimed times: so these are the sending times.
            senders = -(-rate // 1000)
            child = publish(port, senders, rate * seconds, rate, None, 1000 * senders // rate)
            child.communicate()
            measured.end_of_round()
            measured.stop()
    delays = np.array(listener.delays_ms[rate:])
    return {"p50_ms": float(np.percentile(delays, 50)), "p99_ms": float(np.percentile(delays, 99)), "n": len(delays)}


def latest(stations: int = 6250) -> dict[str, float]:
    """Return how long /api/latest of stations x 8 series takes, in ms (median of 5), and its series."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with broker(folder) as port:
            measured = Measured(folder, port, stations, "fast", 100, web=True)
            host, web_port = measured.ready["address"]
            measured.begin(stations)
            publish(port, stations, stations, 0, int(time.time() * 1000), 1000).communicate()
            measured.end_of_round()
            took, rows = [], 0
            for _ in range(6):
                before = time.monotonic()
                with urllib.request.urlopen(f"http://{host}:{web_port}/api/latest", timeout=30) as answer:
                    body = answer.read()
                took.append((time.monotonic() - before) * 1e3)
                rows = len(json.loads(body)["rows"])
            measured.stop()
    return {"ms": float(np.median(took[1:])), "series": rows}
