"""Fills the disk under a DuckStore: ``fill_disk.py PATH``; prints how often it was refused, and how many frames.

A limit on the size of files stands for the full disk: writing beyond it fails as it does there.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

from qingtu.errors import RetryLater
from qingtu.records import ALERTS, PROCESSED
from qingtu.store.duckdb import DuckStore
from tests.store.build import Message, Reading, alert_frame, processed

FRAMES = 40
ROWS = 2000


def main() -> None:
    """Apply frames of two streams; from the tenth on there is room for a little more only, four times."""
    path = Path(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    store = DuckStore(path, "256MB", 1)
    refused = 0
    for origin in range(FRAMES):
        first = origin * ROWS
        frame = processed(origin, [Message(tuple(Reading(0, first + i, float(first + i)) for i in range(ROWS)))])
        full = origin >= 10 and origin % 5 == 0
        if full:
            wal = path.with_name(path.name + ".wal")
            largest = max(p.stat().st_size for p in (path, wal) if p.exists())
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 4096, hard))
        for stream, made in ((PROCESSED, frame), (ALERTS, alert_frame(origin, [(f"a{origin}", "open", 1, "")]))):
            while True:
                try:
                    store.apply(stream, 0, [made], origin + 1)
                    break
                except RetryLater:
                    refused += 1
                    if refused % 3 == 0:
                        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    store.close()
    sys.stdout.write(f"{refused} {FRAMES}\n")


if __name__ == "__main__":
    main()
