"""Processes that share the partitions of raw: no frame is lost and none counts twice, whoever comes, goes or dies."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest
from kafka import KafkaConsumer  # type: ignore[import-untyped]
from kafka.coordinator.assignors.cooperative_sticky import (  # type: ignore[import-untyped]
    CooperativeStickyAssignor,
)

from qingtu.bus.kafka_client import options, topic
from qingtu.bus.kafka_membership import finish_join
from qingtu.records import RAW
from tests.services.kafka_support import Feeder, MemberProcess, check_effects, installation, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.native.kafka import KafkaServer

pytestmark = pytest.mark.services
ALL = [0, 1, 2, 3]
Scene = tuple[Feeder, "Callable[..., MemberProcess]"]


@pytest.fixture
def scene(kafka: KafkaServer) -> Iterator[Scene]:
    """A feeder at work on four partitions, and a function that starts a member; it takes what MemberProcess takes."""
    settings = installation(kafka, 4)
    feeder = Feeder(settings)
    members: list[MemberProcess] = []

    def start(name: str, **more: int) -> MemberProcess:
        members.append(MemberProcess(settings, name, **more))
        return members[-1]

    yield feeder, start
    for member in members:
        member.kill()
    feeder.stop()
    feeder.bus.close()


def shared(first: MemberProcess, second: MemberProcess) -> bool:
    """Return whether two members have all partitions, each two of them."""
    return len(first.has) == len(second.has) == 2 and sorted(first.has + second.has) == ALL


def finish(feeder: Feeder, more: int) -> None:
    """Wait for so many frames more, feed no others, and look at what all of them have effected."""
    feeder.more(more)
    feeder.stop()
    check_effects(feeder)


def test_a_second_member_takes_half_under_load_and_gives_it_back(scene: Scene) -> None:
    """Only what moves is taken away; after the second one has ended for good the first has all again."""
    feeder, start = scene
    first = start("a")
    until(lambda: first.has == ALL, "the first has all")
    feeder.more(100)
    second = start("b")
    until(lambda: shared(first, second), "two and two", patience_s=150)
    feeder.more(200)
    second.stop()
    until(lambda: first.has == ALL, "the first has all again")
    finish(feeder, 100)


def test_when_a_member_is_killed_the_other_goes_on(scene: Scene) -> None:
    """After the session timeout, from the state that the dead one saved last."""
    feeder, start = scene
    first, second = start("a"), start("b")
    until(lambda: shared(first, second), "two and two", patience_s=150)
    feeder.more(200)
    second.kill()
    until(lambda: first.has == ALL, "the first has all")
    finish(feeder, 100)


def test_a_member_that_restarts_gets_its_partitions_and_the_other_notices_nothing(scene: Scene) -> None:
    """Static membership: within the session timeout a restart moves nothing."""
    feeder, start = scene
    first, second = (start(name, session_ms=30_000) for name in ("a", "b"))
    until(lambda: shared(first, second), "two and two", patience_s=150)
    had, before = second.has, first.told[-1]
    feeder.more(100)
    second.stop()
    again = start("b", session_ms=30_000)
    until(lambda: again.has == had, "the second has what it had")
    assert first.told[-1] == before
    finish(feeder, 100)
    assert first.told[-1] == before


def test_a_zombie_changes_nothing(scene: Scene) -> None:
    """Stopped until its partitions went to another, it wakes up in the middle of its work: all counts stay right."""
    feeder, start = scene
    first, second = start("a"), start("b")
    until(lambda: shared(first, second), "two and two", patience_s=150)
    feeder.more(100)
    for _ in range(2):
        second.signal(signal.SIGSTOP)
        try:
            until(lambda: first.has == ALL, "the first has all")
            feeder.more(50)
        finally:
            second.signal(signal.SIGCONT)
        feeder.more(50)
        until(lambda: shared(first, second), "two and two again", patience_s=150)
    finish(feeder, 50)


def test_two_processes_of_one_name_are_told(scene: Scene) -> None:
    """The older one stops working and says what to do; the other has all."""
    feeder, start = scene
    first = start("same")
    until(lambda: first.has == ALL, "the first has all")
    second = start("same")
    until(lambda: second.has == ALL, "the second has all")
    until(lambda: "kafka.member" in first.told[-1]["problem"], "the first says why")
    until(lambda: first.has == [], "the first has none")
    finish(feeder, 50)


def test_a_join_that_outlasts_a_poll_is_finished(kafka: KafkaServer) -> None:
    """kafka-python drops a join of a leader that learns of the partitions late, when ``poll`` ends under it."""
    settings = installation(kafka, 2)
    for attempt in range(20):
        client = KafkaConsumer(
            **options(settings, "hasty"),
            group_id=f"{settings.prefix}-hasty-{attempt}",
            partition_assignment_strategy=[CooperativeStickyAssignor],
        )

        try:
            client.subscribe([topic(settings, RAW)])
            end = time.monotonic() + 30
            while len(client.assignment()) < 2:
                assert time.monotonic() < end, f"attempt {attempt}: no partitions"
                client.poll(random.randint(3, 12))
                finish_join(client)
        finally:
            client.close()
