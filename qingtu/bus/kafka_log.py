"""Questions to Kafka that are answered at once: where a partition begins and ends, and what stands between."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from qingtu.bus.kafka_client import MAX_FRAME_BYTES, KafkaError, opened, options, told
from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qingtu.settings import KafkaSettings

_ANSWER_MS: Final = 5000
_TRIES: Final = 100
_POLL_MS: Final = 100


class Entry(NamedTuple):
    """One record as it stands in a partition; ``value`` is None for a tombstone."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def consumer(settings: KafkaSettings, name: str, **more: Any) -> Any:
    """Open a consumer without a group.

    Raises:
        RetryLater: the servers do not answer.
    """
    try:
        return opened(
            KafkaConsumer,
            **options(settings, name),
            enable_auto_commit=False,
            auto_offset_reset="none",
            metrics_enabled=False,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            fetch_max_bytes=MAX_FRAME_BYTES,
            **more,
        )
    except KafkaError as error:
        raise RetryLater(f"Kafka: {told(error)}") from error


class Log:
    """Asks one question at a time, over a connection that is made when it is first needed. Any thread may ask.

    Args:
        settings: servers and log-in.
        name: of the client, for the servers' logs.
    """

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._consumer: Any = None

    def bounds(self, topic: str, partitions: int) -> tuple[list[int], list[int]]:
        """Return the first offset held and the next one to be given, of each partition of a topic.

        Raises:
            RetryLater: the servers do not answer.
        """
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        with self._lock:
            asked = self._open()
            try:
                starts = asked.beginning_offsets(wanted, timeout_ms=_ANSWER_MS)
                ends = asked.end_offsets(wanted, timeout_ms=_ANSWER_MS)
            except KafkaError as error:
                raise RetryLater(f"Kafka: {told(error)}") from error
        return [starts[tp] for tp in wanted], [ends[tp] for tp in wanted]

    def scan(self, topic: str, partition: int, since: int, until: int | None = None) -> Iterator[Entry]:
        """Yield what stands from offset ``since`` (or the first held) up to ``until`` (or the end as it is now).

        Holds the connection until the iterator is exhausted or closed.

        Raises:
            RetryLater: the servers do not answer.
        """
        at = TopicPartition(topic, partition)
        with self._lock:
            asked = self._open()
            try:
                first = asked.beginning_offsets([at], timeout_ms=_ANSWER_MS)[at]
                end = asked.end_offsets([at], timeout_ms=_ANSWER_MS)[at]
                yield from _between(asked, at, max(since, first), end if until is None else min(until, end))
            except KafkaError as error:
                raise RetryLater(f"Kafka: {told(error)}") from error

    def close(self) -> None:
        """Close the connection; whoever asks afterwards opens it again."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close(autocommit=False, timeout_ms=1000)
                self._consumer = None

    def _open(self) -> Any:
        if self._consumer is None:
            self._consumer = consumer(self._settings, self._name, fetch_max_wait_ms=10)
        return self._consumer


def _between(asked: Any, at: Any, since: int, until: int) -> Iterator[Entry]:
    if since >= until:
        return
    asked.assign([at])
    asked.seek(at, since)
    silent = 0
    # The position counts, not the last record: compaction leaves gaps, also at the end.
    while asked.position(at) < until:
        found = asked.poll(timeout_ms=_POLL_MS).get(at, ())
        silent = 0 if found else silent + 1
        if silent > _TRIES:
            raise RetryLater(f"Kafka 无应答 / Kafka has not answered for {_TRIES * _POLL_MS // 1000} s")
        for record in found:
            if record.offset >= until:
                return
            yield Entry(record.offset, record.key, record.value, record.headers)
