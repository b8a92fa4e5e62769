"""Runs the service, without web, until SIGTERM: ``serve.py DATA PORT CATALOGUE [KEY=VALUE …]``; killed by tests."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import structlog

from qingtu.app import Options, Service
from qingtu.settings import load_settings


def main() -> None:
    """Serve; say "ready" on standard output once the gateway is started."""
    data, port, catalogue, *more = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    environ = {
        "QINGTU_DATA": data,
        "QINGTU_CATALOGUE": catalogue,
        "QINGTU_MQTT__HOST": "127.0.0.1",
        "QINGTU_MQTT__PORT": port,
        **dict(pair.split("=", 1) for pair in more),
    }
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    service = Service(load_settings(Path(os.devnull), environ=environ), Options(own_broker=False))
    service.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    stop.wait()
    service.stop(timeout_s=120)
    service.close()


if __name__ == "__main__":
    main()
