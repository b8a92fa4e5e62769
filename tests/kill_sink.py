"""Runs a service with the Parquet sink and dies of SIGKILL between the sink's write and the saving of its position.

``python -m tests.kill_sink DATA CATALOGUE``: takes two messages, stores them, lets the sink write them, and is dead.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qingtu.app import Options, Service
from qingtu.settings import load_settings
from sinks.follow import Batching, Follower
from sinks.parquet import ParquetSink
from tests.test_service import body, send

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.records import Frame


class Deadly(ParquetSink):
    """Writes, and the process is gone: nothing behind this line runs, no buffer is flushed, no lock is given back."""

    def write(self, frames: Sequence[Frame]) -> None:
        """Write the readings and die."""
        super().write(frames)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run until dead."""
    data, catalogue = map(Path, sys.argv[1:])
    environ = {"QINGTU_DATA": str(data), "QINGTU_CATALOGUE": str(catalogue), "QINGTU_STORE__COMMIT_MS": "5"}
    service = Service(load_settings(Path(os.devnull), environ=environ), Options(gateway=False))
    service.start()
    follower = Follower(service.bus, Deadly(data / "parquet"), service.clock, batching=Batching(wait_s=0))
    send(service, "a", body(service, 1, 60, pm25=1), body(service, 2, 60, pm25=2))
    if not service.drain(60):
        raise SystemExit("what was sent was not stored")
    while True:
        follower.step()


if __name__ == "__main__":
    main()
