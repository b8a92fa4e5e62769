"""The bus for a city: Kafka, for any number of processes on any number of machines.

Frames are records, streams are topics, partitions are partitions. Nothing here needs a transaction: frames carry their
origin, and state carries its offset. docs/kafka.md says how to run it, docs/decisions/0009-kafka.md why it is so.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]

from qingtu.bus.kafka_client import KafkaError, opened, options, told, topic
from qingtu.bus.kafka_log import Log
from qingtu.bus.kafka_membership import Member
from qingtu.bus.kafka_producer import Item, Producer
from qingtu.bus.kafka_reader import Reader
from qingtu.bus.kafka_state import StateLog
from qingtu.bus.kafka_topics import check
from qingtu.bus.ticket import Ticket
from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qingtu.contracts import Bus, Prefetching, Record, SavedState, StateDelta
    from qingtu.settings import KafkaSettings

_CLOSE_S = 10.0
_TRIM_MS = 10_000


class KafkaBus:
    """See :class:`qingtu.contracts.Bus`.

    Args:
        settings: servers, names, log-in.
        groups: groups that share their input with other processes, each with the stream it shares. All other groups
            have all partitions here, and must run in one process only.

    Raises:
        StartError: the servers cannot be reached, topics are missing, or the number of partitions differs.
    """

    def __init__(self, settings: KafkaSettings, groups: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._groups = dict(groups or {})
        self._partitions = check(settings)
        self._since = time.time()
        self.member = settings.member or "-".join((socket.gethostname(), *sorted(self._groups)))
        self._lock = threading.Lock()
        self._closed = False
        self._producer: Producer | None = None
        self._admin: Any = None
        self._questions = Log(settings, "bounds")
        self._state_log = Log(settings, "state")
        self._reader = Reader(settings, self._partitions, self._questions)
        self._state = StateLog(
            settings, self._partitions, self._writer, self._state_log, self.member, lambda: self._closed
        )
        self._superseded: set[tuple[str, int]] = set()
        self._members = {group: self._join(group, stream) for group, stream in self._groups.items()}

    def _join(self, group: str, stream: str) -> Member:
        def lost(partitions: Iterable[int]) -> None:
            gone = list(partitions)
            self._state.release(group, gone)
            with self._lock:
                self._superseded |= {(group, partition) for partition in gone}

        return Member(self._settings, group, stream, self.member, lost, lambda: self._state.offsets(group))

    @property
    def partitions(self) -> int:
        """How many partitions each stream has."""
        return self._partitions

    def assigned(self, group: str, stream: str) -> frozenset[int]:
        """Return the partitions of a shared group that are ours; all partitions for any other group.

        A partition that was another process's in the meantime is left out once, so that its stage is made anew from
        what is saved, should the partition be ours again: until then nothing of it can be saved.
        """
        member = self._members.get(group)
        if member is None or self._groups[group] != stream:
            return frozenset(range(self._partitions))
        ours = member.assigned()
        with self._lock:
            gone = {partition for g, partition in self._superseded if g == group}
            self._superseded -= {(group, partition) for partition in gone}
        return ours - gone

    # ------------------------------------------------------------------------------------------------- frames

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:
        """Send frames, in order. Refused at once when too much waits; otherwise tried until it is known.

        The frames of one call reach the log one after the other. When this process dies in between, a beginning of
        them may stand there.
        """
        try:
            writer = self._writer()
        except RetryLater as later:
            ticket = Ticket()
            ticket.refuse(str(later))
            return ticket
        floor = self._reader.known_end(stream, partition)
        return writer.put(topic(self._settings, stream), partition, [Item(frame) for frame in frames], floor)

    def read(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return frames from ``start`` on; waits for the servers when frames are known to be there.

        Raises:
            RetryLater: they are there, but the servers do not give them.
        """
        return self._reader.read(stream, partition, start, max_frames)

    def at_hand(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return frames from ``start`` on that were fetched already, and let the next ones be fetched."""
        return self._reader.at_hand(stream, partition, start, max_frames)

    def end(self, stream: str, partition: int) -> int:
        """Return the offset of the next frame: never behind our own appends, at most a second behind others'.

        Raises:
            RetryLater: asked for the first time, and the servers do not answer.
        """
        return self._reader.end(stream, partition)

    def start(self, stream: str, partition: int) -> int:
        """Return the oldest offset still held, as of a second ago.

        Raises:
            RetryLater: asked for the first time, and the servers do not answer.
        """
        return self._reader.start(stream, partition)

    def wait(self, stream: str, seen_end: Sequence[int], timeout_s: float) -> None:
        """Sleep until something was appended to the stream, by anybody, or the timeout."""
        self._reader.wait(stream, seen_end, timeout_s)

    def trim(self, stream: str, partition: int, before: int) -> None:
        """Delete frames below ``before``; the servers also do it by age.

        Raises:
            RetryLater: the servers do not answer or refuse.
        """
        before = min(before, self.end(stream, partition))
        if before <= self.start(stream, partition):
            return
        at = TopicPartition(topic(self._settings, stream), partition)
        try:
            with self._lock:
                if self._admin is None:
                    self._admin = opened(KafkaAdminClient, **options(self._settings, "trim"))
                self._admin.delete_records({at: before}, timeout_ms=_TRIM_MS)
        except KafkaError as error:
            raise RetryLater(f"Kafka: {told(error)}") from error
        self._reader.trimmed(stream, partition, before)

    # -------------------------------------------------------------------------------------------------- state

    def load_state(self, group: str, partition: int) -> SavedState | None:
        """Return the newest complete state, and claim the partition: who saved to it before can do so no more.

        Raises:
            RetryLater: the partition is not ours, or the servers do not answer.
        """
        found: SavedState | None = self._guarded(
            group, partition, lambda mine: self._state.load(group, partition, mine=mine)
        )
        return found

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Save atomically; waits through an outage.

        Raises:
            RetryLater: the partition went to another process; what was not saved is done again there.
        """
        self._guarded(group, partition, lambda mine: self._state.save(group, partition, delta, mine=mine))

    def _guarded(self, group: str, partition: int, do: Callable[[bool], Any]) -> Any:
        member = self._members.get(group)
        held = self._state.held(group, partition)
        try:
            return do(member is None or partition in member.assigned())
        except RetryLater:
            if held and not self._state.held(group, partition):
                with self._lock:
                    self._superseded.add((group, partition))
            raise

    # ----------------------------------------------------------------------------------------- status and end

    def status(self) -> dict[str, Any]:
        """Return what there is to know, without asking the servers.

        Returns:
            ``servers``; ``member``; ``since``, s UTC; ``problem``, "" when all is well; ``waiting``, appends that are
            not decided; ``state_bytes`` by "group/partition"; ``groups``: for each shared group its stream, partitions,
            rebalances, problem, and ``lag``, frames behind the saved state, by partition.
        """
        writer = self._producer
        groups = {}
        for group, member in self._members.items():
            stream, saved = self._groups[group], self._state.offsets(group)
            groups[group] = {
                "stream": stream,
                "partitions": sorted(member._partitions),  # noqa: SLF001 - assigned() would wait
                "rebalances": member.rebalances,
                "problem": member.problem,
                "lag": {p: max(0, self._reader.known_end(stream, p) - n) for p, n in saved.items()},
            }
        problems = [
            writer.trouble() if writer else "",
            self._reader.problem,
            *(m.problem for m in self._members.values()),
        ]
        return {
            "servers": list(self._settings.servers),
            "member": self.member,
            "since": self._since,
            "problem": next((problem for problem in problems if problem), ""),
            "waiting": writer.waiting() if writer else {"appends": 0, "bytes": 0, "seconds": 0.0},
            "state_bytes": self._state.sizes(),
            "groups": groups,
        }

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and let go of all connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with ExitStack() as each:  # from the last to the first; one that fails stops none of the others
            each.callback(self._state_log.close)
            each.callback(self._questions.close)
            each.callback(self._reader.close)
            if self._admin is not None:
                each.callback(self._admin.close)
            if self._producer is not None:
                each.callback(self._producer.close, _CLOSE_S)
            for member in self._members.values():
                each.callback(member.close)

    def _writer(self) -> Producer:
        with self._lock:
            if self._closed and self._producer is None:
                raise RetryLater("总线已关闭 / the bus is closed")
            if self._producer is None:
                self._producer = Producer(self._settings, self._state_log, self._kept)
            return self._producer

    def _kept(self, name: str, partition: int, end: int) -> None:
        self._reader.appended(name.removeprefix(f"{self._settings.prefix}."), partition, end)


if TYPE_CHECKING:
    _check: Callable[[KafkaBus], Bus] = lambda bus: bus  # noqa: E731 - mypy proves the contract
    _ahead: Callable[[KafkaBus], Prefetching] = lambda bus: bus  # noqa: E731
