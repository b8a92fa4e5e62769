"""The measured process: the service on a bench catalogue; prints one JSON line a round and is driven by its input.

``serve.py DATA PORT STATIONS RECEIVE FLUSH_MS WEB LAYER``; each line N on standard input starts a round: when N more
messages are stored, a line with CPU seconds of all threads (user + system), wall seconds and memory is printed.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Final

import structlog

from bench.catalogue import bench_catalogue
from qingtu.app import Options, Service
from qingtu.settings import load_settings

APART_S: Final = "7200"
"""Grace of figures: what a period costs that ends meanwhile is another piece of work, and a line of its own."""


def _stored(service: Service) -> int:
    books, _ = service.store.ledger()
    return sum(book["stored"] + book["duplicate"] + book["quarantined"] for book in books.values())


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Serve rounds until standard input ends."""
    data, port, stations, receive, flush_ms, web, layer = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    environ = {
        "QINGTU_FIGURES__GRACE_S": APART_S,
        **{key: value for key, value in os.environ.items() if key.startswith("QINGTU_")},
        "QINGTU_DATA": data, "QINGTU_MQTT__HOST": "127.0.0.1", "QINGTU_MQTT__PORT": port,
        "QINGTU_MQTT__RECEIVE": receive, "QINGTU_MQTT__FLUSH_MS": flush_ms, "QINGTU_WEB__PORT": "0",
    }  # fmt: skip
    catalogue = bench_catalogue(int(stations), "first" if layer == "first" else "all")
    service = Service(load_settings(Path(os.devnull), environ=environ), Options(own_broker=False), catalogue=catalogue)
    service.start()
    address = None
    server = None
    if web == "web":
        from web.server import WebServer  # noqa: PLC0415 - its import is no part of the other rounds

        server = WebServer(service)
        address = server.start()
    token = next(iter(service.tokens))
    deadline = time.monotonic() + 30
    while service.gateway is None or not service.gateway.status()["connected"]:
        if time.monotonic() > deadline:
            raise SystemExit("the gateway did not connect within 30 s")
        time.sleep(0.05)
    print(json.dumps({"ready": True, "address": address, "token": token}), flush=True)
    for line in sys.stdin:
        before, wanted = _stored(service), int(line)
        cpu, began = time.process_time(), 0.0
        taken = service.gateway.status()["taken"]
        while (came := service.gateway.status()["taken"] - taken) < wanted or _stored(service) - before < wanted:
            if not began and came:
                began = time.monotonic()
            # Asking costs this process time as well: seldom, and the books only when all has come.
            time.sleep(0.25 if came < wanted else 0.1)
        result = {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.monotonic() - began,
            "rss_mb": round(_rss_mb(), 1),
            "alerts": service.store.count("alerts"),
        }
        print(json.dumps(result), flush=True)
    if server is not None:
        server.stop()
    service.stop()
    print(json.dumps({"balanced": service.ledger.report()["balanced"]}), flush=True)
    service.close()


if __name__ == "__main__":
    main()
