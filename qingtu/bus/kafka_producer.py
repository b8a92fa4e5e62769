"""Appends to Kafka: acknowledged by all copies, idempotent, without transactions.

A frame may be refused before anything was sent, or it is sent and then tried for ever: an append whose fate is not
known stays undecided, because a caller who appends again would double messages that have no time of their own. When
kafka-python gives up all the same (it does when a server forgets its sequence numbers, or refuses for good), the log
itself is asked: every record carries an id. See docs/decisions/0009-kafka.md.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
from kafka import KafkaProducer  # type: ignore[import-untyped]

from qingtu.bus.kafka_client import MAX_FRAME_BYTES, KafkaError, opened, options, told
from qingtu.bus.ticket import Ticket
from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qingtu.bus.kafka_log import Log
    from qingtu.settings import KafkaSettings

WAITING_BYTES: Final = 64 * 1024 * 1024
"""What may wait for the servers; more is refused before it is sent."""
STUCK_S: Final = 5.0
"""After so long without an answer appends are refused: what cannot be sent should wait where it is safe."""
_FOR_EVER_MS: Final = 7 * 24 * 3600 * 1000
_ID: Final = "id"
_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Item:
    """One record to write; a value of None deletes the key when the topic is compacted."""

    value: bytes | None
    key: bytes | None = None


@dataclass(slots=True)
class _Job:
    """One append.

    Attributes:
        floor: its records will stand at this offset or behind.
        ids: of its records, in order.
        offsets: of its records, None while not known.
        open: how many of its records kafka-python works on.
        generation: of the kafka-python producer that it was given to.
        error: why that one gave it up.
    """

    topic: str
    partition: int
    items: Sequence[Item]
    ids: list[bytes]
    floor: int
    size: int
    since: float
    ticket: Ticket = field(default_factory=Ticket)
    offsets: list[int | None] = field(default_factory=list)
    open: int = 0
    generation: int = 0
    error: BaseException | None = None


class Producer:
    """Writes records in order, from one thread of its own, so that no caller ever waits for a server.

    Args:
        settings: servers and log-in.
        log: is asked what became of an append that kafka-python gave up.
        kept: is told (topic, partition, next offset) of each append that was written.

    Raises:
        RetryLater: the servers do not answer.
    """

    def __init__(self, settings: KafkaSettings, log: Log, kept: Callable[[str, int, int], None]) -> None:
        self._settings = settings
        self._producer = _open(settings)
        self._generation = 0
        self._ended_at = -1
        self._asked = log
        self._kept = kept
        self._log = structlog.get_logger("bus-kafka")
        self._session = os.urandom(8)
        self._number = 0
        self._wake = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._failed: deque[_Job] = deque()
        self._undecided: dict[int, _Job] = {}
        self._bytes = 0
        self._closing = self._hurry = False
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name="bus-kafka-writer", daemon=True)
        self._thread.start()

    def put(self, topic: str, partition: int, items: Sequence[Item], floor: int = 0, *, force: bool = False) -> Ticket:
        """Queue records for writing.

        Args:
            topic: where to.
            partition: of the topic.
            items: written in this order, with nothing of ours in between.
            floor: an offset that is known to be not behind the partition's end.
            force: queue even when much waits; for what the caller will wait for.
        """
        size = sum(len(item.value or b"") + len(item.key or b"") for item in items)
        ticket = Ticket()
        if not items:
            ticket.keep([])
            return ticket
        with self._wake:
            reason = self._refusal(items, size, force=force)
            if reason:
                ticket.refuse(reason)
                return ticket
            ids = [self._session + (self._number + n).to_bytes(8, "big") for n in range(len(items))]
            self._number += len(items)
            job = _Job(topic, partition, items, ids, floor, size, time.monotonic(), ticket, [None] * len(items))
            self._undecided[id(job)] = job
            self._bytes += size
            self._queue.append(job)
            self._wake.notify()
        return ticket

    def waiting(self) -> dict[str, Any]:
        """Return how much is not decided: ``appends``, ``bytes``, ``seconds`` since the oldest was queued."""
        with self._wake:
            return {"appends": len(self._undecided), "bytes": self._bytes, "seconds": round(self._stuck_s(), 1)}

    def trouble(self) -> str:
        """Return what is wrong, "" when nothing is; servers that are silent are no error of kafka-python's."""
        with self._wake:
            stuck = self._stuck_s()
        return self.problem or (f"nothing was taken for {stuck:.0f} s: no answer" if stuck > STUCK_S else "")

    def close(self, timeout_s: float) -> None:
        """Write what waits, but not for longer than the timeout; what is not decided then stays unknown."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: not self._undecided, timeout_s)
            self._hurry = True
            self._wake.notify_all()
        self._thread.join(max(1.0, deadline - time.monotonic()))
        if self._undecided:
            self._log.warning("closed_with_frames_waiting", next="whether they were written is not known")
        _shut(self._producer)
        with self._wake:
            for job in self._undecided.values():
                job.ticket.abandon()
            self._undecided.clear()

    # ------------------------------------------------------------------------------------------ refusing

    def _refusal(self, items: Sequence[Item], size: int, *, force: bool) -> str:
        if self._closing:
            return "总线已关闭 / the bus is closed"
        largest = max(len(item.value or b"") for item in items)
        if largest > MAX_FRAME_BYTES - 1024:
            return f"a frame of {largest} bytes is longer than Kafka takes ({MAX_FRAME_BYTES}): see docs/kafka.md"
        if force:
            return ""
        if self._bytes and self._bytes + size > WAITING_BYTES:
            return f"{self._bytes >> 20} MiB wait for Kafka: {self.problem or 'it is slower than what comes in'}"
        if (stuck := self._stuck_s()) > STUCK_S:
            return f"Kafka has not taken anything for {stuck:.0f} s: {self.problem or 'no answer'}"
        return ""

    def _stuck_s(self) -> float:
        oldest = next(iter(self._undecided.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    # ------------------------------------------------------------------------------------------- writing

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._failed or self._closing)
                if self._hurry or (self._closing and not self._undecided):
                    return
                if not self._queue and not self._failed:
                    self._wake.wait(_PAUSE_S)  # closing: what is under way may still fail
                    continue
                # What failed comes first: nothing of the same partition may overtake it.
                failed = self._failed.popleft() if self._failed else None
                job = failed or self._queue.popleft()
            if failed is None:
                self._send(job)
            else:
                self._settle(job)

    def _send(self, job: _Job) -> None:
        """Give the records of a job that have no offset yet to kafka-python."""
        with self._wake:
            todo = [n for n, offset in enumerate(job.offsets) if offset is None]
            job.open, job.error, job.generation = len(todo), None, self._generation
        for n in todo:
            item = job.items[n]
            while True:
                try:
                    future = self._producer.send(
                        job.topic,
                        value=item.value,
                        key=item.key,
                        headers=[(_ID, job.ids[n])],
                        partition=job.partition,
                    )
                except Exception as error:  # noqa: BLE001 - a writer that died would leave everybody waiting for ever
                    if self._ended(job.generation):
                        self._answered(job, n, error)
                        break
                    # The topic is not known (yet, or while servers change): those behind wait, too.
                    self.problem = told(error)
                    if self._hurry:
                        return
                    threading.Event().wait(_PAUSE_S)
                else:
                    future.add_both(self._answered, job, n)
                    break

    def _answered(self, job: _Job, n: int, answer: Any) -> None:
        """Take up what became of one record; called by kafka-python's thread, with metadata or an error."""
        error = answer if isinstance(answer, BaseException) else None
        if error is not None:
            self._end(job.generation)
        with self._wake:
            job.open -= 1
            if error is None:
                job.offsets[n] = answer.offset
                if answer.offset < 0:  # a repetition that the server knew: written, but it does not say where
                    job.offsets[n] = None
                    job.error = LookupError("written before, offset not told")
            else:
                job.error = job.error or error  # the first says why; those behind it only that the producer ended
            if job.open:
                return
            if job.error is not None:
                self._failed.append(job)
                self._wake.notify()
                return
        self._keep(job)

    def _end(self, generation: int) -> None:
        """Let a kafka-python producer write nothing more; what it still holds fails.

        After some errors (a server that lost records) it would go on by itself behind the batch that failed, and what
        is sent anew would stand behind what follows it.
        """
        with self._wake:
            if self._ended_at < generation == self._generation:
                self._ended_at = generation
                self._producer._sender.force_close()  # noqa: SLF001 - close() would wait in kafka-python's own thread

    def _ended(self, generation: int) -> bool:
        with self._wake:
            return self._ended_at == generation

    def _keep(self, job: _Job) -> None:
        offsets = [offset for offset in job.offsets if offset is not None]
        self._kept(job.topic, job.partition, offsets[-1] + 1)
        self.problem = ""
        job.ticket.keep(offsets)
        self._forget(job)

    def _forget(self, job: _Job) -> None:
        with self._wake:
            if self._undecided.pop(id(job), None) is not None:
                self._bytes -= job.size
            self._wake.notify_all()

    def _replace(self) -> None:
        """Take a new kafka-python producer: after an error the old one fails everything that it is given, for good.

        What it still works on fails, too, and is asked for when it can write nothing any more.
        """
        _shut(self._producer)
        with self._wake:
            self._generation += 1
        while not self._hurry:
            try:
                self._producer = _open(self._settings)
            except Exception as error:  # noqa: BLE001 - see _send
                self.problem = _words(error)
                threading.Event().wait(_PAUSE_S)
            else:
                return

    def _settle(self, job: _Job) -> None:
        """Find out what became of a job that kafka-python gave up, by the ids in the log."""
        self.problem = told(job.error) if job.error is not None else ""
        if job.generation == self._generation:
            self._replace()
        number = {key: n for n, key in enumerate(job.ids)}
        try:
            for entry in self._asked.scan(job.topic, job.partition, job.floor):
                for name, key in entry.headers:
                    if name == _ID and key in number:
                        job.offsets[number[key]] = entry.offset
        except Exception as error:  # noqa: BLE001 - see _send
            self.problem = _words(error)
            if not self._hurry:
                threading.Event().wait(_PAUSE_S)
                with self._wake:
                    self._failed.append(job)
            return
        written = sum(offset is not None for offset in job.offsets)
        self._log.warning(
            "append_asked_for", topic=job.topic, partition=job.partition, reason=self.problem,
            written=written, of=len(job.items), next="the log says what was written; nothing is lost or doubled",
        )  # fmt: skip
        if written == len(job.items):
            self._keep(job)
        elif written:
            self._send(job)  # the beginning stands: the rest must follow it
        else:
            self._refuse(job)

    def _refuse(self, job: _Job) -> None:
        """Refuse a job of which nothing was written, and those behind it, so that they do not overtake it."""
        with self._wake:
            behind = [j for j in self._queue if (j.topic, j.partition) == (job.topic, job.partition)]
            for other in behind:
                self._queue.remove(other)
        for one in (job, *behind):
            one.ticket.refuse(f"Kafka refuses: {self.problem}")
            self._forget(one)


def _open(settings: KafkaSettings) -> Any:
    try:
        return opened(
            KafkaProducer,
            **options(settings, "writer"),
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=_FOR_EVER_MS,
            request_timeout_ms=10_000,
            max_block_ms=1000,
            batch_size=512 * 1024,
            max_request_size=MAX_FRAME_BYTES,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    except KafkaError as error:
        raise RetryLater(f"Kafka: {told(error)}") from error


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, RetryLater) else told(error)


def _shut(producer: Any) -> None:
    """Close a producer; what it still holds fails at once."""
    # close() waits for what is held, and when that fails it raises before it ends its thread (kafka-python 3.0).
    producer._sender.force_close()  # noqa: SLF001
    producer._sender.join(10)  # noqa: SLF001
    with contextlib.suppress(Exception):  # each append was told already
        producer.close(timeout=5)
