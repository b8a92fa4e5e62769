"""State in a compacted topic: whole or not at all, and never that of two processes."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient  # type: ignore[import-untyped]

from qingtu.bus.gauges import gauges
from qingtu.bus.kafka import KafkaBus
from qingtu.bus.kafka_client import STATE, topic
from qingtu.bus.kafka_log import Log
from qingtu.contracts import StateDelta
from qingtu.errors import RetryLater
from qingtu.records import RAW
from tests.services.kafka_support import installation, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.native.kafka import KafkaServer
    from qingtu.settings import KafkaSettings

pytestmark = pytest.mark.services


@pytest.fixture
def settings(kafka: KafkaServer) -> KafkaSettings:
    """An installation with one partition."""
    return installation(kafka)


@pytest.fixture
def open_bus(settings: KafkaSettings) -> Iterator[Callable[[], KafkaBus]]:
    """Return a function that opens the bus as another process would."""
    opened: list[KafkaBus] = []

    def make() -> KafkaBus:
        opened.append(KafkaBus(settings))
        return opened[-1]

    yield make
    for bus in opened:
        bus.close()


def saved(bus: KafkaBus) -> tuple[int, dict[str, bytes]]:
    """What a load gives."""
    found = bus.load_state("g", 0)
    assert found is not None
    return found.next_offset, dict(found.parts)


def chunks(settings: KafkaSettings) -> set[bytes]:
    """Keys of the chunks that stand, as compaction would leave them."""
    log = Log(settings, "test")
    try:
        standing: set[bytes] = set()
        for entry in log.scan(topic(settings, STATE), settings.partitions, 0):
            assert entry.key is not None
            (standing.discard if entry.value is None else standing.add)(entry.key)
        return standing
    finally:
        log.close()


def test_a_save_that_was_cut_short_does_not_count(open_bus: Callable[[], KafkaBus], settings: KafkaSettings) -> None:
    """Chunks without a snapshot are passed over, and deleted when the next process has saved."""
    bus = open_bus()
    bus.save_state("g", 0, StateDelta(5, {"a": b"old", "b": b"kept"}))
    own = bus._state._own["g", 0]
    own.number += 1
    torn = os.urandom(3_000_000)
    bus._state._write("g", 0, own, StateDelta(9, {"a": torn, "new": b"never"}))  # and here the process dies
    other = open_bus()
    assert saved(other) == (5, {"a": b"old", "b": b"kept"})
    assert len(chunks(settings)) == 2 + 3 + 1
    other.save_state("g", 0, StateDelta(6, {"b": b"next"}))
    assert saved(other) == (6, {"a": b"old", "b": b"next"})
    until(lambda: len(chunks(settings)) == 3, "what was cut short is deleted")
    other.save_state("g", 0, StateDelta(7, {}))
    until(
        lambda: len(chunks(settings)) == 2,
        "what was replaced is deleted with the next save: only what is needed is left",
    )
    assert saved(open_bus()) == (7, {"a": b"old", "b": b"next"})


def test_who_claims_last_wins(open_bus: Callable[[], KafkaBus], settings: KafkaSettings) -> None:
    """A zombie's save does not count and deletes nothing that the new process needs."""
    zombie = open_bus()
    zombie.save_state("g", 0, StateDelta(1, {"a": b"1", "b": b"1"}))
    new = open_bus()
    assert saved(new) == (1, {"a": b"1", "b": b"1"})
    with pytest.raises(RetryLater, match="went to another process"):
        zombie.save_state("g", 0, StateDelta(2, {"a": b"zombie"}))
    assert saved(new) == (1, {"a": b"1", "b": b"1"})
    new.save_state("g", 0, StateDelta(3, {"b": b"3"}))
    assert saved(new) == (3, {"a": b"1", "b": b"3"})
    new.close()
    last = open_bus()
    assert saved(last) == (3, {"a": b"1", "b": b"3"})
    last.save_state("g", 0, StateDelta(4, {}))
    assert saved(last) == (4, {"a": b"1", "b": b"3"})
    until(lambda: len(chunks(settings)) == 2, "what the zombie wrote is deleted")


def test_a_zombies_save_may_be_what_the_next_begins_from(open_bus: Callable[[], KafkaBus]) -> None:
    """The new process died before it saved: the zombie's snapshot is right too, and nobody deleted its parts."""
    zombie = open_bus()
    zombie.save_state("g", 0, StateDelta(1, {"a": b"1", "b": b"1"}))
    dead = open_bus()
    dead.load_state("g", 0)
    with pytest.raises(RetryLater):
        zombie.save_state("g", 0, StateDelta(2, {"a": b"2"}))
    assert saved(open_bus()) == (2, {"a": b"2", "b": b"1"})


def test_a_superseded_process_loads_again_and_goes_on(open_bus: Callable[[], KafkaBus]) -> None:
    """Whoever has the partition by then gets what was saved last."""
    first, second = open_bus(), open_bus()
    first.save_state("g", 0, StateDelta(1, {"a": b"1"}))
    second.save_state("g", 0, StateDelta(2, {"a": b"2"}))
    with pytest.raises(RetryLater):
        first.load_state("g", 0)
    assert saved(first) == (2, {"a": b"2"})
    first.save_state("g", 0, StateDelta(3, {"a": b"3"}))
    with pytest.raises(RetryLater):
        second.save_state("g", 0, StateDelta(4, {"a": b"4"}))
    assert saved(first) == (3, {"a": b"3"})


def test_a_partition_that_is_not_ours_is_neither_loaded_nor_saved(kafka: KafkaServer) -> None:
    """Only a member that has a partition claims it; losing it shows once in the assignment."""
    settings = installation(kafka).model_copy(update={"member": "one"})
    bus = KafkaBus(settings, {"g": RAW})
    stranger = KafkaBus(settings)
    try:
        until(lambda: bus.assigned("g", RAW) == {0}, "ours")
        assert bus.load_state("g", 0) is None
        stranger.save_state("g", 0, StateDelta(7, {"a": b"7"}))
        with pytest.raises(RetryLater, match="went to another process"):
            bus.save_state("g", 0, StateDelta(1, {}))
        assert bus.assigned("g", RAW) == frozenset()
        assert bus.assigned("g", RAW) == {0}
        assert saved(bus) == (7, {"a": b"7"})
        bus._members["g"].taken([0])
        with pytest.raises(RetryLater, match="not ours"):
            bus.load_state("g", 0)
        bus._members["g"].given([0])  # and back, before anybody has looked
        with pytest.raises(RetryLater, match="not ours"):
            bus.save_state("g", 0, StateDelta(9, {}))
        assert bus.assigned("g", RAW) == frozenset()
        assert bus.assigned("g", RAW) == {0}
        assert saved(bus) == (7, {"a": b"7"})
        bus.save_state("g", 0, StateDelta(9, {}))
        assert saved(bus) == (9, {"a": b"7"})
    finally:
        bus.close()
        stranger.close()


def test_compaction_leaves_what_is_needed(kafka: KafkaServer) -> None:
    """The servers delete what was replaced; parts that were saved once stay, and so do their offsets."""
    settings = installation(kafka)
    name = topic(settings, STATE)
    eager = {
        "segment.bytes": str(1024 * 1024),
        "segment.ms": "1000",
        "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "1000",
        "delete.retention.ms": "0",
    }
    admin = KafkaAdminClient(bootstrap_servers=list(settings.servers))
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, eager)])
    admin.close()
    bus, log = KafkaBus(settings), Log(settings, "test")
    try:
        kept = {f"kept-{n}": os.urandom(200_000) for n in range(3)}
        bus.save_state("g", 0, StateDelta(0, kept))
        changing = b""
        numbers = itertools.count(1)

        def compacted() -> bool:
            nonlocal changing
            changing = os.urandom(300_000)
            bus.save_state("g", 0, StateDelta(next(numbers), {"changing": changing}))
            found = [entry.offset for entry in log.scan(name, 1, 0)]
            return found[-1] - found[0] + 1 > len(found) + 10

        until(compacted, "the servers have compacted")
        assert saved(bus)[1] == {**kept, "changing": changing}
        other = KafkaBus(settings)
        assert saved(other)[1] == {**kept, "changing": changing}
        other.close()
    finally:
        log.close()
        bus.close()


def test_sizes_show(open_bus: Callable[[], KafkaBus]) -> None:
    """The bytes of all parts, for the metrics."""
    bus = open_bus()
    bus.save_state("g", 0, StateDelta(1, {"a": bytes(2_500_000), "b": b"123"}))
    bus.save_state("g", 0, StateDelta(2, {"b": b""}))
    assert bus.status()["state_bytes"] == {"g/0": 2_500_000}


def test_lag_is_counted_from_the_saved_state(kafka: KafkaServer) -> None:
    """What is processed, but not saved, would be done again: it counts as behind."""
    settings = installation(kafka, 2).model_copy(update={"member": "one"})
    bus = KafkaBus(settings, {"g": RAW})
    try:
        until(lambda: bus.assigned("g", RAW) == {0, 1}, "ours")
        bus.append(RAW, 1, [b"a", b"b", b"c"]).result(60)
        bus.load_state("g", 1)
        bus.save_state("g", 1, StateDelta(1, {}))
        group = bus.status()["groups"]["g"]
        assert (group["stream"], group["partitions"], group["lag"], group["problem"]) == (RAW, [0, 1], {1: 2}, "")
        assert group["rebalances"] == 1
        shown = gauges(bus).decode()
        assert 'qingtu_bus_lag_frames{group="g",partition="1"} 2.0' in shown
        assert 'qingtu_bus_partitions{group="g"} 2.0' in shown
        assert 'qingtu_bus_state_bytes{group="g",partition="1"} 0.0' in shown
    finally:
        bus.close()
