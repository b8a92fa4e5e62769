"""The outage budget: four bounds, the smallest named, what is used up, and what the operator is told."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingtu.budget import BrokerQueue, Load, LoadMeter, OutageBudget, declared_load, outage_budget, problems
from qingtu.catalogue import synthetic_catalogue
from qingtu.settings import Settings

HOUR = 3600.0
MIB = 1024 * 1024
LOAD = Load(messages_per_s=10.0, payload_bytes=200.0, disk_bytes=500.0)


def _budget(queue: BrokerQueue | None = None, free: int | None = 10**12, load: Load = LOAD) -> OutageBudget:
    return outage_budget(Settings(), load, queue=queue, free_bytes=free)


def _seconds(budget: OutageBudget) -> dict[str, float | None]:
    return {bound.key: bound.seconds for bound in budget.bounds}


def test_each_bound_is_what_its_formula_says() -> None:
    """Defaults: 48 h of session, 168 h of raw, 64 MiB of floor."""
    budget = _budget(BrokerQueue(360_000), free=64 * MIB + 18_000_000)
    assert _seconds(budget) == {"session": 48 * HOUR, "queue": 10 * HOUR, "retention": 168 * HOUR, "disk": HOUR}
    assert budget.seconds == HOUR
    assert budget.smallest is not None
    assert budget.smallest.key == "disk"


@pytest.mark.parametrize(
    ("queue", "holds"),
    [
        (BrokerQueue(1000), 1000),
        (BrokerQueue(1000, 20_000), 100),
        (BrokerQueue(0, 20_000), 100),
        (BrokerQueue(50, 20_000), 50),
        (BrokerQueue(0, 0), math.inf),
    ],
)
def test_queue_is_bounded_by_count_and_by_bytes(queue: BrokerQueue, holds: float) -> None:
    """0 means no bound, as mosquitto.conf has it."""
    assert queue.holds(200.0) == holds


def test_what_is_not_known_is_said_and_not_counted() -> None:
    """No queue, a bus on other machines: the rest still gives a budget, and both are named."""
    budget = _budget(None, None)
    assert [bound.key for bound in budget.unknown] == ["queue", "disk"]
    assert "mqtt.queue_messages" in budget.unknown[0].en
    assert budget.seconds == 48 * HOUR


def test_no_load_has_no_end_by_queue_and_disk() -> None:
    """A rate of 0 divides nothing; session and retention still end."""
    budget = _budget(BrokerQueue(1000), load=Load(0.0, 200.0, 500.0))
    assert _seconds(budget)["queue"] == math.inf
    assert budget.seconds == 48 * HOUR
    json = budget.as_json()
    assert next(bound for bound in json["bounds"] if bound["key"] == "queue") | {"zh": "", "en": ""} == {
        "key": "queue", "side": "broker", "seconds": None, "known": True, "zh": "", "en": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("away_h", "key"),
    [(0.0, None), (4.9, None), (5.0, "outage"), (7.9, "outage"), (8.0, "outage_severe"), (11.0, "outage_severe")],
)
def test_absence_of_the_gateway_is_told_at_half_and_at_four_fifths(away_h: float, key: str | None) -> None:
    """A queue of 10 h: nothing before 5 h, urgent from 8 h."""
    said = problems(_budget(BrokerQueue(360_000)), away_h * HOUR)
    assert [problem["key"] for problem in said] == ([] if key is None else [key])
    assert all(set(problem) == {"key", "zh", "en"} for problem in said)


def test_the_message_says_what_how_long_and_until_when() -> None:
    """The bound that ends first, the time spent, the time left; after it, that messages may be lost."""
    budget = _budget(BrokerQueue(360_000))
    said = problems(budget, 6 * HOUR)[0]
    assert "60%" in said["en"]
    assert "360,000 messages" in said["en"]
    assert "about 4 h" in said["en"]
    assert "60%" in said["zh"]
    assert "may be lost already" in problems(budget, 12 * HOUR)[0]["en"]


def test_each_side_is_used_up_by_its_own_absence() -> None:
    """A stage that is behind spends retention and disk, not the broker's queue; and the other way round."""
    budget = _budget(BrokerQueue(360_000))
    assert problems(budget, 0.0, behind_s=20 * HOUR) == []
    assert "168 h" in problems(budget, 0.0, behind_s=100 * HOUR)[0]["en"]
    part, bound = budget.used(6 * HOUR, 100 * HOUR)
    assert (part, bound and bound.key) == (0.6, "queue")


def test_disk_shrinks_while_stages_are_behind() -> None:
    """Free space is what is left: after 3 h with 1 h to go, three quarters are used."""
    budget = _budget(BrokerQueue(10**9), free=64 * MIB + 18_000_000)
    part, bound = budget.used(0.0, 3 * HOUR)
    assert part == pytest.approx(0.75)
    assert bound is not None
    assert bound.key == "disk"
    assert problems(_budget(BrokerQueue(10**9), free=0), 0.0, 1.0)[0]["key"] == "outage_severe"


@given(
    st.integers(0, 10**8), st.integers(0, 2**31), st.integers(0, 10**13), st.floats(0, 1e5), st.floats(0, 1e7),
    st.floats(0, 1e7),
)  # fmt: skip
def test_budget_is_the_least_bound_and_use_never_shrinks(
    count: int, size: int, free: int, rate: float, away: float, behind: float
) -> None:
    """The formula of the design holds for any numbers, and a longer outage is never less urgent."""
    budget = _budget(BrokerQueue(count, size), free, Load(rate, 200.0, 500.0))
    known = [bound.seconds for bound in budget.bounds if bound.seconds is not None]
    assert budget.seconds == min(known)
    assert budget.used(away, behind)[0] <= budget.used(away * 2, behind * 2)[0]
    rank = ["", "outage", "outage_severe"]
    now, later = (
        rank.index(said[0]["key"]) if (said := problems(budget, a, b)) else 0
        for a, b in ((away, behind), (away * 2, behind * 2))
    )
    assert now <= later


def test_declared_load_counts_every_device_once_an_interval() -> None:
    """Sixty devices at 60 s: one message a second."""
    assert declared_load(synthetic_catalogue(60)).messages_per_s == pytest.approx(1.0)


def test_meter_leaves_out_the_outage_and_the_backlog_after_it() -> None:
    """100 messages/s, an hour away, then 300,000 at once: the load is still 100/s."""
    meter, count = LoadMeter(), 0
    for second in range(0, 1200, 5):
        meter.add(second, count, count * 250, hearing=True)
        count += 500
    for second in range(1200, 4800, 5):
        meter.add(second, count, count * 250, hearing=False)
    count += 300_000
    for second in range(4800, 6000, 5):
        meter.add(second, count, count * 250, hearing=True)
        count += 500
    load = meter.load(600.0)
    assert load is not None
    assert load.messages_per_s == pytest.approx(100.0)
    assert load.payload_bytes == pytest.approx(250.0)


def test_meter_takes_the_busiest_hour_of_a_day() -> None:
    """One busy hour counts for 24 h, and is forgotten then."""
    meter, count = LoadMeter(), 0

    def hours(first: int, last: int, rate: int) -> None:
        nonlocal count
        for second in range(first * 3600, last * 3600, 30):
            meter.add(second, count, count * 100, hearing=True)
            count += rate * 30

    hours(0, 1, 50)
    hours(1, 20, 10)
    assert (meter.load(1.0) or LOAD).messages_per_s == pytest.approx(50.0)
    hours(20, 26, 10)
    assert (meter.load(1.0) or LOAD).messages_per_s < 11.0


def test_meter_knows_nothing_before_a_minute() -> None:
    """A first burst is no load."""
    meter = LoadMeter()
    meter.add(0.0, 0, 0, hearing=True)
    meter.add(59.0, 10_000, 10, hearing=True)
    assert meter.load(1.0) is None
