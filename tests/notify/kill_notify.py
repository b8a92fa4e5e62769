"""Runs a sink and dies of SIGKILL where it is told: nothing behind that runs, no buffer is flushed.

``python -m tests.notify.kill_notify FOLDER URL PLACE``; PLACE is ``taken`` (in the book, the position not saved),
``sending`` (written down, not sent) or ``sent`` (the receiver has it, not written down).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qingtu.clock import SECOND
from sinks.notify import NotifySink
from tests.notify.bench import T0, Bench, around, channels, opened, route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.records import Frame
    from sinks.notify.channels import Channel
    from sinks.notify.messages import Message

TEXT = "[notify]\ngroup_s = 0\n"


class Deadly:
    """A channel at which the process ends."""

    def __init__(self, channel: Channel, *, before: bool) -> None:
        self._channel = channel
        self._before = before

    def send(self, message: Message) -> None:
        """Send, or not, and die."""
        if not self._before:
            self._channel.send(message)
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlySink(NotifySink):
    """Takes frames, and the process is gone before its position is saved."""

    def write(self, frames: Sequence[Frame]) -> None:
        """Write and die."""
        super().write(frames)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run until dead."""
    folder, url, place = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    bench = Bench.of(folder, TEXT + channels(folder, {"duty": url}) + route(["duty"]))
    if place == "taken":
        bench.sink.close()
        bench.sink = DeadlySink(bench.sink._place)
    else:
        bench.sink._channels["duty"] = Deadly(bench.sink._channels["duty"], before=place == "sending")
    bench.follower, bench.works = around(bench.sink, bench.bus, bench.clock)
    bench.run(T0 + 2 * SECOND, opened())


if __name__ == "__main__":
    main()
