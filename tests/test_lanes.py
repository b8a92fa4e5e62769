"""Stages by partition: they come, go and come back as the bus assigns, and none holds another up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SECOND, ManualClock
from qingtu.errors import QingtuError, RetryLater, VersionError
from qingtu.heartbeat import STALE_S, heard
from qingtu.lanes import Gather, Lanes
from qingtu.records import RAW, decode, encode
from qingtu.stage import StageLoop, missing
from qingtu.turns import Turns
from tests.process.support import batch_of, message
from tests.test_stage import Summing, Together

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from qingtu.contracts import Outputs
    from qingtu.records import Frame


class Shared(SqliteBus):
    """A real bus of three partitions, of which some are ours, and of which one's state cannot be had at times."""

    ours: frozenset[int] = frozenset((0, 1, 2))

    def assigned(self, group: str, stream: str) -> frozenset[int]:
        """Return what the test says."""
        del group, stream
        return self.ours


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Shared]:
    """A bus with partitions."""
    made = Shared(tmp_path / "bus", partitions=3, free_floor_bytes=0)
    yield made
    made.close()


def put(bus: SqliteBus, partition: int, number: int, clock_us: int = 0) -> None:
    """Append a frame with one row that holds a number."""
    frame = encode(
        {"stream": RAW, "clock": clock_us, "origin": None}, {"rows": batch_of([message("a", b"%d" % number)])}
    )
    bus.append(RAW, partition, [frame]).result()


def sums(bus: SqliteBus, partition: int) -> list[int]:
    """Return the running sums that the stage of a partition has emitted."""
    return [decode(record.data).header["sum"][0] for record in bus.read("processed", partition, 0, 100)]


def lanes(bus: SqliteBus) -> Lanes:
    """Make lanes of summing stages."""
    return Lanes(bus, "summing", RAW, lambda partition: StageLoop(bus, Summing(), partition))


def test_each_partition_has_its_own_stage(bus: Shared) -> None:
    """What stands in one has nothing to do with the others."""
    for partition in range(3):
        put(bus, partition, 10 + partition)
    made = lanes(bus)
    made.take_up()
    assert made.step()
    assert not made.step()
    assert [sums(bus, partition) for partition in range(3)] == [[10], [11], [12]]


def test_a_partition_that_went_and_came_back_begins_at_what_is_saved(bus: Shared) -> None:
    """Letting go saves nothing: what was done since is done again, by whoever has it next."""
    put(bus, 1, 5)
    made = lanes(bus)
    made.take_up()
    made.step()
    made.save()
    put(bus, 1, 6)
    made.step()
    bus.ours = frozenset((0, 2))
    made.step()
    assert sorted(made.stages) == [0, 2]
    bus.ours = frozenset((0, 1, 2))
    while made.step():
        pass
    assert sums(bus, 1) == [5, 11, 11]  # the same frame again: consumers skip its origin


def test_one_that_refuses_holds_none_up(bus: Shared) -> None:
    """The others are stepped, what is refused is told, and taken up when it can be had."""
    refused = {1}

    def make(partition: int) -> StageLoop:
        if partition in refused:
            raise RetryLater("its state cannot be had")
        return StageLoop(bus, Summing(), partition)

    for partition in range(3):
        put(bus, partition, 1)
    made = Lanes(bus, "summing", RAW, make)
    with pytest.raises(RetryLater):
        made.take_up()
    assert made.step()
    assert not made.step()
    assert [sums(bus, partition) for partition in range(3)] == [[1], [], [1]]
    assert made.turns.problems == {"partitions": "its state cannot be had"}
    refused.clear()
    made.turns.forget("partitions")
    while made.step():
        pass
    assert [sums(bus, partition) for partition in range(3)] == [[1]] * 3
    assert made.turns.problems == {}


def test_one_state_is_saved_in_a_step_when_all_have_emitted(bus: Shared) -> None:
    """Nobody waits for a save; the oldest is next, so that none is left out."""
    made = Lanes(bus, "summing", RAW, lambda partition: StageLoop(bus, Summing(), partition, state_every_s=0))
    made.take_up()
    saved = []
    for clock in range(1, 7):
        for partition in range(3):
            put(bus, partition, 1, clock)
        before = {p: stage.saved_offset for p, stage in made.stages.items()}
        assert made.step()
        assert [len(sums(bus, partition)) for partition in range(3)] == [clock] * 3
        saved += [p for p, stage in made.stages.items() if stage.saved_offset != before[p]]
        assert not made.step()
    assert saved == [0, 1, 2, 0, 1, 2]


def test_a_frame_that_cannot_be_read_holds_back_nothing_before_it(bus: Shared) -> None:
    """What the frames before it gave is durable, though this partition never comes to an end of its turn."""
    made = Lanes(bus, "summing", RAW, lambda partition: StageLoop(bus, Summing(), partition, batch=2))
    put(bus, 0, 1)
    put(bus, 0, 2)
    bus.append(RAW, 0, [b"no frame"]).result()
    made.take_up()
    assert made.step()
    made.step()
    assert "summing-0" in made.turns.problems
    assert sums(bus, 0) == [1, 3]


def test_one_that_cannot_be_made_holds_none_up(bus: Shared) -> None:
    """Whatever the reason is, and wherever it stands; it is told."""

    def make(partition: int) -> StageLoop:
        if partition == 0:
            raise VersionError("a newer program saved it")
        return StageLoop(bus, Summing(), partition)

    made = Lanes(bus, "summing", RAW, make)
    with pytest.raises(VersionError, match="a newer program"):
        made.take_up()
    assert sorted(made.stages) == [1, 2]


class Broken(Summing):
    """Fails for good, in a way that no row is guilty of."""

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Fail."""
        del frame, offset, only
        raise KeyError("a file that is not there")


def test_one_that_fails_holds_none_up_and_is_told(bus: Shared) -> None:
    """The others get through all they have; the one that cannot is named until it can."""
    for partition in range(3):
        for number in (1, 2, 3):
            put(bus, partition, number)
    made = Lanes(bus, "summing", RAW, lambda p: StageLoop(bus, Broken() if p == 1 else Summing(), p, batch=1))
    made.take_up()
    while made.step():
        pass
    assert [sums(bus, partition) for partition in range(3)] == [[1, 3, 6], [], [1, 3, 6]]
    assert list(made.turns.problems) == ["summing-1"]


def test_who_sits_out_is_not_woken_by_what_waits_for_it(bus: Shared) -> None:
    """What it could not take up is no news: going by it would be going round without a pause. What others get is."""
    made = Lanes(bus, "summing", RAW, lambda p: StageLoop(bus, Broken() if p == 1 else Summing(), p, batch=1))
    put(bus, 1, 1)
    made.take_up()
    while made.step():
        pass
    rounds = 0
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        made.wait(0.1)
        assert not made.step()
        rounds += 1
    assert rounds <= 4
    put(bus, 2, 7)
    made.wait(0.1)
    assert made.step()
    assert not made.step()
    assert sums(bus, 2) == [7]


def test_who_is_refused_again_and_again_sits_out_longer() -> None:
    """Up to a quarter of a minute; and goes on at once when it may."""
    now = [0.0]
    turns, tried, open_at = Turns(lambda: now[0]), [], 100.0

    def step() -> bool:
        tried.append(now[0])
        if now[0] < open_at:
            raise RetryLater("not yet", retry_after_s=1)
        return True

    while not turns.take([("one", step)]):
        now[0] += 0.1
    gaps = np.diff(tried)
    assert gaps.max() <= 15.2
    assert len(tried) < 20
    assert gaps[0] < gaps[2] < gaps[5]
    assert turns.problems == {}


@pytest.mark.parametrize("trimmed", [0, 1, 4])
def test_what_is_missing_is_what_is_not_held(bus: Shared, trimmed: int) -> None:
    """Read on from 1 of 5; only what stood there and is gone counts. A stream that ends before is another one."""
    for number in range(5):
        put(bus, 0, number)
    bus.trim(RAW, 0, trimmed)
    found = bus.read(RAW, 0, 1, 10)
    assert missing(bus, RAW, 0, 1, found) == max(0, trimmed - 1)
    assert missing(bus, RAW, 0, 5, []) == 0
    with pytest.raises(QingtuError, match="lost or replaced"):
        missing(bus, RAW, 0, 6, [])


def test_a_heartbeat_that_is_old_is_silence(tmp_path: Path) -> None:
    """A process that was killed leaves its last word, which is not taken for its health."""
    clock = ManualClock(1_795_392_000_000_000)
    assert heard(tmp_path, clock.now_us()) is None
    text = f'{{"time_us": {clock.now_us()}, "state": "ok", "stages": ["process"], "problems": []}}'
    (tmp_path / "heartbeat.json").write_text(text, encoding="utf-8")
    clock.advance(round(STALE_S * SECOND))
    young = heard(tmp_path, clock.now_us())
    clock.advance(SECOND)
    old = heard(tmp_path, clock.now_us())
    assert young is not None
    assert old is not None
    assert (young["state"], old["state"]) == ("ok", "silent")


@pytest.mark.parametrize(("flush_s", "wait_s"), [(0.05, 0.22), (0.2, 0.22), (0.31, 0.31), (0.32, 0), (1, 0)])
def test_nothing_waits_for_flushes_that_come_later_than_it_may(flush_s: float, wait_s: float) -> None:
    """Four more are joined at most, of 200 rows each; those that come too late are not waited for at all."""
    assert Gather(flush_s, 0.31).wait_s(200) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("rows", "wait_s"), [(149, 0), (150, 0.31), (256, 0.31), (300, 0.22), (512, 0.11), (513, 0), (5000, 0)]
)
def test_under_load_what_came_waits_for_more(
    bus: Shared, monkeypatch: pytest.MonkeyPatch, rows: int, wait_s: float
) -> None:
    """Behind many rows what came waits for as many flushes as are joined, not longer than is set; else it does not."""
    bus.ours = frozenset((0,))
    operator = Together()
    made = Lanes(bus, "summing", RAW, lambda partition: StageLoop(bus, operator, partition), Gather(0.1, 0.31))
    slept: list[float] = []

    def flush() -> None:
        frame = encode({"stream": RAW, "clock": 7, "origin": None}, {"rows": batch_of([message("a", b"1")] * rows)})
        bus.append(RAW, 0, [frame]).result()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        flush()

    monkeypatch.setattr("qingtu.lanes.time.sleep", sleep)
    flush()
    made.take_up()
    made.step()
    made.wait(0.01)
    assert not slept  # nothing came that could wait
    flush()
    made.wait(60)
    made.step()
    assert slept == ([pytest.approx(wait_s)] if wait_s else [])
    assert operator.runs == ([[1, 2]] if wait_s else [])
