"""Raw on Kafka for those who run it again: only read, beside the service, by no group and without any claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qingtu.bus.kafka_log import Log
from qingtu.bus.kafka_reader import Reader
from qingtu.bus.kafka_topics import check
from qingtu.errors import RetryLater
from qingtu.records import RAW

if TYPE_CHECKING:
    from collections.abc import Callable

    from qingtu.contracts import Record
    from qingtu.replay_raw import RawSource
    from qingtu.settings import KafkaSettings

_TRIES: Final = 12
"""So often servers that do not answer are asked; each time waits for some ten seconds."""
_SAMPLES: Final = 8


class KafkaRaw:
    """See :class:`qingtu.replay_raw.RawSource`.

    Args:
        settings: servers, names, log-in.

    Raises:
        StartError: the servers cannot be reached, topics are missing, or the number of partitions differs.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._partitions = check(settings)
        self._log = Log(settings, "raw-bounds")
        self._reader = Reader(settings, self._partitions, self._log)

    @property
    def partitions(self) -> int:
        """How many partitions raw has."""
        return self._partitions

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return (oldest offset held, offset behind the newest), at most a second old.

        Raises:
            RetryLater: the servers do not answer.
        """
        return self._reader.start(RAW, partition), self._reader.end(RAW, partition)

    def read(self, partition: int, start: int, max_frames: int) -> list[Record]:
        """Return what is held from ``start`` on; waits through a short outage.

        Raises:
            RetryLater: the servers have not answered for minutes.
        """
        for _ in range(_TRIES - 1):
            try:
                return self._reader.read(RAW, partition, start, max_frames)
            except RetryLater:
                continue
        return self._reader.read(RAW, partition, start, max_frames)

    def size(self, partition: int, first: int, end: int) -> int:
        """Return roughly how many bytes the frames take, by some of them."""
        step = max(1, (end - first) // _SAMPLES)
        sizes = [len(r.data) for at in range(first, end, step) for r in self.read(partition, at, 1)]
        return sum(sizes) * (end - first) // max(1, len(sizes))

    def close(self) -> None:
        """Close all connections."""
        self._reader.close()
        self._log.close()


if TYPE_CHECKING:
    _check: Callable[[KafkaRaw], RawSource] = lambda raw: raw  # noqa: E731 - mypy proves the contract
