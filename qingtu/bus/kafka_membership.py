"""Which partitions this process works on: a consumer group that assigns, and fetches nothing.

Cooperative: only what moves is taken away. Static: a process that comes back within the session timeout under its name
finds its partitions, and nobody else notices. Offsets that are committed here only show lag in Kafka's own tools; what
counts stands in the saved state.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.coordinator.assignors.cooperative_sticky import (  # type: ignore[import-untyped]
    CooperativeStickyAssignor,
)
from kafka.errors import FencedInstanceIdError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from qingtu.bus.kafka_client import KafkaError, opened, options, told, topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qingtu.settings import KafkaSettings

JOIN_S: Final = 10.0
"""How long the first question for the assignment waits for it."""
_POLL_MS: Final = 200
_COMMIT_S: Final = 5.0
_PAUSE_S: Final = 1.0


class Member:
    """Membership in one group, kept by one thread.

    Args:
        settings: servers, log-in, session timeout.
        group: as the stages name it.
        stream: whose partitions are shared out.
        name: of this process, the same after a restart.
        lost: is told partitions that are not ours any more.
        saved: gives the offsets to show, by partition.

    Attributes:
        rebalances: how often the assignment changed.
        problem: what is wrong now, "" when nothing is.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str,
        stream: str,
        name: str,
        lost: Callable[[Iterable[int]], None],
        saved: Callable[[], dict[int, int]],
    ) -> None:
        self._settings = settings
        self._group = group
        self._topic = topic(settings, stream)
        self._name = name
        self._lost = lost
        self._saved = saved
        self._lock = threading.Lock()
        self._partitions: frozenset[int] = frozenset()
        self._joined = threading.Event()
        self._stop = threading.Event()
        self._committed: dict[int, int] = {}
        self._commit_at = 0.0
        self.rebalances = 0
        self.problem = ""
        self._log = structlog.get_logger("bus-kafka")
        self._thread = threading.Thread(target=self._run, name=f"bus-kafka-member-{group}", daemon=True)
        self._thread.start()

    def assigned(self) -> frozenset[int]:
        """Return the partitions; the first call waits a little for them."""
        self._joined.wait(JOIN_S)
        return self._partitions

    def close(self) -> None:
        """Stop. A static member does not leave: its partitions wait for it until the session ends."""
        self._stop.set()
        self._thread.join(15)
        self.taken(self._partitions)

    def given(self, partitions: Iterable[int]) -> None:
        """Learn of partitions that are ours now."""
        with self._lock:
            self._partitions |= frozenset(partitions)
            self.rebalances += 1
        self._joined.set()

    def taken(self, partitions: Iterable[int]) -> None:
        """Learn of partitions that are not ours any more."""
        gone = self._partitions & frozenset(partitions)
        with self._lock:
            self._partitions -= gone
        self._lost(gone)

    def _run(self) -> None:
        client: Any = None
        while not self._stop.is_set():
            try:
                if client is None:
                    client = self._open()
                client.poll(timeout_ms=_POLL_MS)
                finish_join(client)
                self.problem = ""
                self._commit(client)
            except FencedInstanceIdError:
                self.problem = (
                    f"另一个进程也叫 {self._name} / another process is member {self._name!r} of {self._group}: "
                    "give each its own kafka.member, then start this one again"
                )
                self._log.warning("member_replaced", group=self._group, member=self._name, next=self.problem)
                self.taken(self._partitions)
                break  # to join again would only throw the other one out
            except KafkaError as error:
                self.problem = told(error)
                self._stop.wait(_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - without this thread the process would work on nothing, silently
                self.problem = told(error)
                self._log.warning("membership_failed", group=self._group, next="it joins anew", exc_info=True)
                self.taken(self._partitions)
                _close(client)
                client = None
                self._stop.wait(_PAUSE_S)
        _close(client)

    def _open(self) -> Any:
        s = self._settings
        client = opened(
            KafkaConsumer,
            **options(s, f"member-{self._group}"),
            group_id=f"{s.prefix}-{self._group}",
            group_instance_id=self._name,
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=s.session_timeout_ms,
            heartbeat_interval_ms=max(200, s.session_timeout_ms // 4),
            enable_auto_commit=False,
            auto_offset_reset="latest",
            metrics_enabled=False,
        )
        try:
            client.subscribe([self._topic], listener=_Listener(self, client))
            # A leader that does not know the topic yet would first take all partitions away from everybody.
            client.partitions_for_topic(self._topic)
        except BaseException:
            _close(client)
            raise
        return client

    def _commit(self, client: Any) -> None:
        """Show how far the saved state is."""
        now = time.monotonic()
        if now < self._commit_at:
            return
        self._commit_at = now + _COMMIT_S
        saved = {p: offset for p, offset in self._saved().items() if p in self._partitions}
        if saved and saved != self._committed:
            client.commit_async(
                {TopicPartition(self._topic, p): OffsetAndMetadata(n, "", -1) for p, n in saved.items()}
            )
            self._committed = saved


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes on what the group decides. Called by kafka-python's thread: must be quick."""

    def __init__(self, member: Member, client: Any) -> None:
        self._member = member
        self._client = client

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Take up partitions; nothing is fetched from them."""
        tps = list(assigned)
        self._client.pause(*tps)
        self._member.given(tp.partition for tp in tps)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Let go of partitions."""
        self._member.taken(tp.partition for tp in revoked)


def finish_join(client: Any) -> None:
    """Keep a join going that ``poll`` has left half done; call it after each.

    kafka-python 3.0.12 loses one: a leader joins anew since the topic's partitions are known only now, ``poll`` ends
    while the join is under way, and the next one finds that what was assigned fits the partitions. It never looks at
    the answer then: the group stays without an assignment, and the member sends no heartbeat. A wish of its own to
    join, which is what this leaves, lasts until the answer was taken.
    """
    coordinator = client._coordinator  # noqa: SLF001 - no public way leads there
    if coordinator.rejoining:
        coordinator.request_rejoin()


def _close(client: Any) -> None:
    if client is not None:
        client.close(autocommit=False, timeout_ms=3000)
