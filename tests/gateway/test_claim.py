"""Who keeps the session when two processes use one client id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ingest.claim import PAUSE_S, PROBE_S, Claim

if TYPE_CHECKING:
    from ingest.peeler import Publish

TOPIC, MARKER = b"qingtu/marker/g", b"17"


class Broker:
    """One session and the retained message of its marker's topic."""

    def __init__(self) -> None:
        self.retained: bytes | None = None

    def connect(self, claim: Claim, now_s: float) -> bool:
        """Connect, subscribe, claim if due, drain; return whether the process has to leave."""
        claim.connected(now_s)
        came = [] if self.retained is None else [self.retained]
        if claim.due(now_s):
            self.retained = claim.payload
            came.append(claim.payload)
            claim.published()
            claim.accepted()
        return claim.look(_publishes(*came, MARKER), TOPIC, MARKER)


def _publishes(*payloads: bytes) -> list[Publish]:
    return [(0x32, TOPIC, 1, None, payload) for payload in payloads]


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_the_newest_process_wins(broker: Broker) -> None:
    """The older one looks once, leaves for long; the newer one comes back and stays."""
    old, new = Claim(), Claim()
    assert not broker.connect(old, 0.0)
    old.lost()
    assert not broker.connect(new, 1.0)
    new.lost()
    assert broker.connect(old, 1.2), "it came back at once, and sees the newer claim"
    old.lost()
    assert old.pause_s == PAUSE_S[0]
    assert not broker.connect(new, 1.4)
    assert new.pause_s == 0


def test_who_stood_back_probes_without_a_claim(broker: Broker) -> None:
    """The holder lives: it takes the session back, and the pause doubles up to its bound."""
    old, new = Claim(), Claim()
    for claim in (old, new):
        broker.connect(claim, 0.0)
        claim.lost()
    broker.connect(old, 1.0)
    old.lost()
    pauses = []
    for turn in range(6):
        now = 1000.0 * turn
        assert not broker.connect(old, now), "it may stay until somebody comes"
        assert not old.due(now + PROBE_S - 1)
        old.lost()
        pauses.append(old.pause_s)
        assert not broker.connect(new, now + 1)
        new.lost()
    assert pauses == [600.0, 1200.0, 2400.0, 3600.0, 3600.0, 3600.0]


def test_a_probe_that_nobody_answers_becomes_the_holder(broker: Broker) -> None:
    """The other has ended: after a while alone the session is claimed, and kept when the other comes back."""
    old, new = Claim(), Claim()
    for claim in (old, new, old):
        broker.connect(claim, 0.0)
        claim.lost()
    assert not broker.connect(old, 300.0)
    assert old.due(300.0 + PROBE_S)
    old.published()
    old.accepted()
    broker.retained = old.payload
    new.lost()
    assert broker.connect(new, 400.0), "the other finds the later claim"


def test_a_broker_that_lost_the_claim_brings_nobody_down(broker: Broker) -> None:
    """Killed, it comes back with a claim that is older than ours, or with none."""
    before, holder = Claim(), Claim()
    broker.connect(before, 0.0)
    old = broker.retained
    broker.connect(holder, 1.0)
    for retained in (old, None):
        holder.lost()
        broker.retained = retained
        assert not broker.connect(holder, 10.0)
        assert holder.pause_s == 0


def test_claims_that_were_queued_count_in_their_order(broker: Broker) -> None:
    """A redelivered queue may hold both claims: the last one before the marker decides."""
    first, second = Claim(), Claim()
    broker.connect(first, 0.0)
    second.connected(1.0)
    second.published()
    second.accepted()
    second.lost()
    second.connected(2.0)
    assert not second.look(_publishes(first.payload, second.payload), TOPIC, MARKER)
    assert second.undecided, "the marker has not come"
    assert not second.look(_publishes(MARKER), TOPIC, MARKER)
    assert not second.undecided


def test_other_topics_and_payloads_say_nothing() -> None:
    """A device cannot claim: only the marker's topic counts, and only the word."""
    claim = Claim()
    claim.connected(0.0)
    claim.published()
    claim.accepted()
    claim.lost()
    claim.connected(1.0)
    came: list[Publish] = [(0x32, b"qt/n/d/up", 1, None, b"claim x"), (0x32, TOPIC, 2, None, b"16")]
    assert not claim.look([*came, *_publishes(MARKER)], TOPIC, MARKER)
