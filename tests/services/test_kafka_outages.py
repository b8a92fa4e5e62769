"""Kafka stops, is killed, and stays away: nothing acknowledged is lost, nothing is doubled, and all heals by itself."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from qingtu.bus.kafka import KafkaBus
from qingtu.bus.kafka_producer import STUCK_S, WAITING_BYTES
from qingtu.contracts import StateDelta
from qingtu.errors import RetryLater
from qingtu.ledger import Ledger
from qingtu.records import RAW
from tests.services.kafka_support import Feeder, MemberProcess, check_effects, installation, until
from tests.services.replay_support import Town

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploy.native.kafka import KafkaServer

pytestmark = pytest.mark.services
MIB = 1024 * 1024
AWAY_S = 60.0


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_under_load(new_kafka: Callable[[], KafkaServer], how: str) -> None:
    """Twice, in the middle of appends, reads, membership and saves."""
    server = new_kafka()
    settings = installation(server, 2)
    feeder = Feeder(settings)
    member = MemberProcess(settings, "a")
    try:
        until(lambda: member.has == [0, 1], "the member has all")
        for _ in range(2):
            feeder.more(100)
            getattr(server, how)()
            server.start()
            feeder.more(100)
        feeder.stop()
        check_effects(feeder)
    finally:
        member.kill()
        feeder.stop()
        feeder.bus.close()


def test_away_for_a_minute(new_kafka: Callable[[], KafkaServer]) -> None:
    """Appends stay undecided or are refused, memory is bounded, nothing spins; then each frame stands once."""
    server = new_kafka()
    settings = installation(server)
    bus = KafkaBus(settings)
    body = bytes(range(256)) * (4 * MIB // 256)
    try:
        bus.append(RAW, 0, [b"-001"]).result(60)
        bus.save_state("g", 0, StateDelta(1, {"a": b"1"}))
        assert [r.data for r in bus.read(RAW, 0, 0)] == [b"-001"]
        server.stop()
        waiting, refused, number = [], 0, 0
        used = time.process_time()
        began = time.monotonic()
        while time.monotonic() - began < AWAY_S:
            ticket = bus.append(RAW, 0, [b"%04d" % number + body])
            if ticket.done():
                with pytest.raises(RetryLater, match=r"wait for Kafka|has not taken anything"):
                    ticket.result(0)
                refused += 1
            else:
                waiting.append((number, ticket))
            number += 1
            assert bus.read(RAW, 0, 1) == []
            bus.wait(RAW, [bus.end(RAW, 0)], 0.25)
        used = time.process_time() - used
        assert 0 < len(waiting) <= WAITING_BYTES // len(body)
        assert refused > 0
        assert not any(ticket.done() for _, ticket in waiting)
        with pytest.raises(TimeoutError):
            waiting[0][1].result(0.01)
        status = bus.status()
        assert status["problem"]
        assert status["waiting"]["seconds"] > AWAY_S / 2
        assert status["waiting"]["bytes"] <= WAITING_BYTES + len(body)
        # generous: the machine may be busy. A loop without a pause would take all of it.
        assert used < AWAY_S / 3
        server.start()
        offsets = [ticket.result(120)[0] for _, ticket in waiting]
        at, found = 1, []
        while at < bus.end(RAW, 0):
            for record in bus.read(RAW, 0, at, 4):
                found.append((record.offset, int(record.data[:4])))
                at = record.offset + 1
        assert found == list(zip(offsets, [n for n, _ in waiting], strict=True))
        bus.append(RAW, 0, [b"after"]).result(60)
        bus.save_state("g", 0, StateDelta(2, {"a": b"2"}))
        until(lambda: not bus.status()["problem"], "all well again")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 1024 * MIB // 1024
    finally:
        bus.close()


def test_a_server_that_is_silent_shows(new_kafka: Callable[[], KafkaServer]) -> None:
    """Also when nobody reads, so that only an append that waits knows of it."""
    server = new_kafka()
    bus = KafkaBus(installation(server))
    try:
        bus.append(RAW, 0, [b"a"]).result(60)
        assert not bus.status()["problem"]
        server.pause()
        ticket = bus.append(RAW, 0, [b"b"])
        until(lambda: bus.status()["waiting"]["seconds"] > STUCK_S + 1, "it waits")
        assert "nothing was taken" in bus.status()["problem"]
        server.resume()
        assert ticket.result(60) == [1]
        assert not bus.status()["problem"]
    finally:
        bus.close()


def test_a_save_waits_through_an_outage(new_kafka: Callable[[], KafkaServer]) -> None:
    """A stage has forgotten its changes by the time it saves: they must not be refused."""
    import threading

    server = new_kafka()
    settings = installation(server)
    bus = KafkaBus(settings)
    bus.save_state("g", 0, StateDelta(1, {"a": b"1", "b": b"1"}))
    server.kill()
    problems: list[BaseException] = []

    def save() -> None:
        try:
            bus.save_state("g", 0, StateDelta(2, {"a": b"2"}))
        except BaseException as problem:  # noqa: BLE001 - told by the main thread
            problems.append(problem)

    thread = threading.Thread(target=save)
    thread.start()
    thread.join(15)
    assert thread.is_alive()
    server.start()
    thread.join(90)
    assert not thread.is_alive()
    assert problems == []
    found = bus.load_state("g", 0)
    assert found is not None
    assert (found.next_offset, dict(found.parts)) == (2, {"a": b"2", "b": b"1"})
    bus.close()


def test_closing_while_the_servers_are_away(new_kafka: Callable[[], KafkaServer]) -> None:
    """Ends; what was not decided stays undecided, and nobody waits for ever."""
    server = new_kafka()
    bus = KafkaBus(installation(server))
    bus.append(RAW, 0, [b"a"]).result(60)
    server.kill()
    ticket = bus.append(RAW, 0, [b"b"])
    bus.close()
    with pytest.raises(TimeoutError):
        ticket.result()


def test_the_sums_of_the_ledger_never_wait(new_kafka: Callable[[], KafkaServer], tmp_path: Path) -> None:
    """The status asks for them: neither frames that are not given nor a save that waits for Kafka hold it up."""
    server = new_kafka()
    town = Town(tmp_path / "town", installation(server, 2))
    town.fill()
    with town.open() as it, ThreadPoolExecutor(4) as threads:
        ledger = Ledger(it.bus, it.store)
        assert set(it.store.ledger()[1]) == {0, 1}
        assert sum(it.bus.end(RAW, partition) for partition in range(2)) > 70

        server.kill()
        # The store has decided what nobody has counted yet, and Kafka does not give it.
        report = threads.submit(ledger.report)
        sums = threads.submit(ledger.summary).result(5)
        assert sums["balanced"]
        assert sums["messages"]["received"] == 0
        with pytest.raises(RetryLater):
            report.result(60)
        server.start()
        whole = ledger.report()
        assert whole["balanced"]
        assert whole["messages"]["received"] > 70
        wanted = {name: whole[name] for name in sums}
        assert ledger.summary() == wanted

        server.kill()
        saved = threads.submit(ledger.save)
        with pytest.raises(TimeoutError):
            saved.result(1)
        assert threads.submit(ledger.summary).result(5) == wanted
        assert threads.submit(ledger.off).result(5) == 0
        assert threads.submit(ledger.report).result(5)["messages"] == wanted["messages"]
        server.start()
        assert saved.result(60) == {partition: it.bus.end(RAW, partition) for partition in range(2)}
    assert town.audited()["agrees"]
