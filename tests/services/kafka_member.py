"""A process that works on its share of raw, for tests: ``kafka_member.py ADDRESS PREFIX PARTITIONS NAME SESSION_MS``.

Runs a stage loop with a counting operator for each partition that is assigned to it. Writes a line of JSON whenever its
share changes. SIGTERM: saves and ends.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import TYPE_CHECKING

from qingtu.bus.kafka import KafkaBus
from qingtu.errors import RetryLater
from qingtu.logs import set_up_logs
from qingtu.records import PROCESSED, RAW, Frame, encode
from qingtu.settings import KafkaSettings
from qingtu.stage import StageLoop
from qingtu.state import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from qingtu.contracts import Outputs

GROUP = "counting"


class Counting:
    """Numbers the frames of one partition, and adds up the numbers in them."""

    group = GROUP
    source = RAW

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self.count = self.total = 0

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up both."""
        values = unpack(parts["main"])[1] if parts else {"count": 0, "total": 0}
        self.count, self.total = values["count"], values["total"]

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Save both, and a part that only ever grows, as the duplicates' segments do."""
        main = pack({}, {"count": self.count, "total": self.total})
        return {"main": main, f"segment-{self.count}": b"%d" % self.total}, []

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:  # noqa: ARG002
        """Count; a frame that was applied twice, or never, shows in all counts after it."""
        self.count += 1
        self.total += frame.header["n"]
        header = {"stream": PROCESSED, "clock": frame.clock_us, "origin": [self._partition, offset]}
        return {PROCESSED: encode({**header, "count": self.count, "total": self.total}, {})}


def turn(bus: KafkaBus, loops: dict[int, StageLoop]) -> bool:
    """Take up and let go of partitions, then step each once; True when something was done."""
    ours = bus.assigned(GROUP, RAW)
    for partition in loops.keys() - ours:
        del loops[partition]
    busy = False
    for partition in sorted(ours):
        try:
            if partition not in loops:
                loops[partition] = StageLoop(bus, Counting(partition), partition)
            busy |= loops[partition].step()
        except RetryLater:
            busy |= False
    return busy


def main() -> None:
    """Work until SIGTERM."""
    address, prefix, partitions, name, session_ms = sys.argv[1:]
    set_up_logs()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = KafkaSettings(
        servers=(address,),
        prefix=prefix,
        partitions=int(partitions),
        member=name,
        session_timeout_ms=int(session_ms),
    )
    bus = KafkaBus(settings, {GROUP: RAW})
    loops: dict[int, StageLoop] = {}
    told: object = None
    while not stop.is_set():
        busy = turn(bus, loops)
        group = bus.status()["groups"][GROUP]
        tell = {"has": sorted(loops), "rebalances": group["rebalances"], "problem": group["problem"]}
        if tell != told:
            told = tell
            print(json.dumps(tell), flush=True)
        if not busy:
            bus.wait(RAW, [bus.end(RAW, p) for p in range(bus.partitions)], 0.05)
    for loop in loops.values():
        try:
            loop.save()
        except RetryLater:
            continue
    bus.close()


if __name__ == "__main__":
    main()
