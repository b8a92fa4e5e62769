"""Sinks that follow: at their own pace, at least once, and nobody waits for them."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs

from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import DAY, HOUR, MINUTE, SECOND, ManualClock
from qingtu.contracts import SinkPlace
from qingtu.errors import RetryLater
from qingtu.followers import Followers
from qingtu.records import PROCESSED, encode
from qingtu.settings import Settings
from qingtu.store.duckdb import DuckStore
from sinks.follow import Batching, Follower
from tests.store.build import T0, Message, Reading, processed
from tests.test_service import Scene, body, send
from tests.test_sinks import NOTHING, newest
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qingtu.app import Service
    from qingtu.records import Frame


ROOT = Path(__file__).resolve().parent.parent


class Memory:
    """A sink that keeps the origins it was given, by write, and refuses while it is told to.

    Attributes:
        refuses: raised instead of taking frames.
        dies: raised after frames were taken, as a process that is killed before its position is saved.
    """

    name = "memory"
    stream = PROCESSED

    def __init__(self) -> None:
        self.writes: list[list[int]] = []
        self.refuses: Exception | None = None
        self.dies: Exception | None = None

    def write(self, frames: Sequence[Frame]) -> None:
        """Take frames."""
        if self.refuses is not None:
            raise self.refuses
        self.writes.append([frame.origin[1] for frame in frames if frame.origin])
        if self.dies is not None:
            raise self.dies


class Bench:
    """A bus, a clock that is moved by hand, and a sink."""

    def __init__(self, folder: Path) -> None:
        self.bus = SqliteBus(folder / "bus", free_floor_bytes=0)
        self.clock = ManualClock(T0)
        self.sink = Memory()

    def follower(self, **batching: int) -> Follower:
        """The follower, as after a start."""
        return Follower(self.bus, self.sink, self.clock, batching=Batching(**batching))

    def append(self, *origins: int) -> None:
        """Put a frame with one reading on the bus for each origin."""
        frames = [processed(origin, [Message((Reading(0, origin, 1.0),))]) for origin in origins]
        self.bus.append(PROCESSED, 0, [encode(frame.header, frame.sections) for frame in frames]).result()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """One bench."""
    made = Bench(tmp_path)
    yield made
    made.bus.close()


def test_a_write_is_due_by_age(bench: Bench) -> None:
    """Of what waits longest; nothing waits once all is taken."""
    follower = bench.follower()
    assert not follower.step()
    bench.append(0, 1)
    assert not follower.step()
    bench.clock.advance(60 * SECOND - 1)
    bench.append(2)
    assert not follower.step()
    bench.clock.advance(1)
    assert follower.step()
    assert (bench.sink.writes, follower.behind()) == ([[0, 1, 2]], 0)
    bench.append(3)
    assert not follower.step()
    bench.clock.advance(-HOUR)  # a clock that is set back delays nothing
    assert follower.step()


def test_a_write_is_due_by_size_and_bounded(bench: Bench) -> None:
    """By frames and by rows: memory stays small however far the sink is behind."""
    follower = bench.follower(frames=40)
    bench.append(*range(45))
    assert follower.step()
    assert not follower.step()
    follower = bench.follower(frames=40, rows=6)  # a reading and its manifest make two
    follower.hurry()
    while follower.step():
        pass
    assert [len(write) for write in bench.sink.writes] == [40, 3, 2]
    assert list(chain(*bench.sink.writes)) == list(range(45))


def test_frames_that_were_emitted_again_are_left_out(bench: Bench) -> None:
    """Within a write, across writes and after a restart; the position moves past them."""
    follower = bench.follower()
    follower.hurry()
    bench.append(0, 1, 2, 1, 2, 3)
    follower.step()
    bench.append(2, 3)
    assert follower.step()
    again = bench.follower()
    assert again.behind() == 0
    again.hurry()
    bench.append(3, 4)
    again.step()
    assert bench.sink.writes == [[0, 1, 2, 3], [4]]


def test_what_a_sink_refuses_is_given_again(bench: Bench) -> None:
    """The same frames, also when more have come; the position stays until they are taken."""
    follower = bench.follower()
    follower.hurry()
    bench.append(0, 1)
    bench.sink.refuses = RetryLater("full", retry_after_s=1)
    for _ in range(3):
        with pytest.raises(RetryLater):
            follower.step()
        bench.append(follower.behind())
    assert (follower.next_offset, bench.follower().next_offset) == (0, 0)
    bench.sink.refuses = None
    while follower.step():
        pass
    assert bench.sink.writes == [[0, 1], [2, 3, 4]]


def test_a_kill_between_write_and_save_repeats_the_write(bench: Bench) -> None:
    """At least once, never not at all."""
    follower = bench.follower()
    follower.hurry()
    bench.append(0, 1)
    bench.sink.dies = SystemError("killed")
    with pytest.raises(SystemError):
        follower.step()
    bench.append(2)
    bench.sink.dies = None
    again = bench.follower()
    again.hurry()
    again.step()
    assert bench.sink.writes == [[0, 1], [0, 1, 2]]


@pytest.mark.parametrize(("before", "left"), [(4, [4, 5, 6]), (6, [6])])
def test_what_was_trimmed_meanwhile_is_lost_and_shows(bench: Bench, before: int, left: list[int]) -> None:
    """An ERROR with how many, kept in the state; the sink goes on behind."""
    follower = bench.follower()
    follower.hurry()
    bench.append(0, 1)
    follower.step()
    bench.append(2, 3, 4, 5, 6)
    bench.bus.trim(PROCESSED, 0, before)
    with capture_logs() as logs:
        follower._log = structlog.get_logger()
        assert follower.step()
    (log,) = logs
    assert (log["event"], log["log_level"], log["frames"], log["first"]) == ("frames_lost", "error", before - 2, 2)
    assert (follower.lost_frames, follower.lost_lately, follower.behind()) == (before - 2, before - 2, 0)
    bench.append(7)
    follower.step()
    again = bench.follower()
    assert (again.lost_frames, again.lost_lately) == (before - 2, 0)
    assert list(chain(*bench.sink.writes)) == [0, 1, *left, 7]


def test_a_sink_starts_with_what_the_stream_still_holds(bench: Bench) -> None:
    """A sink that is configured later lost nothing."""
    bench.append(0, 1, 2)
    bench.bus.trim(PROCESSED, 0, 1)
    follower = bench.follower()
    follower.hurry()
    follower.step()
    assert (bench.sink.writes, follower.lost_frames) == ([[1, 2]], 0)


# ------------------------------------------------------------------------------------------------ in the service


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """One scene."""
    made = Scene(tmp_path)
    yield made
    made.end()


def _following(scene: Scene) -> Service:
    """Make a service whose Parquet sink writes at once."""
    service = scene.service(QINGTU_SINKS="parquet")
    for stage in service.followers.stages:
        stage.batching = Batching(wait_s=0)
    return service


def _held(service: Service) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What the store holds, as :func:`newest` reads it from files."""
    assert isinstance(service.store, DuckStore)
    with service.store.cursor() as db:
        rows = db.execute(
            "SELECT station, property, channel, time, value, flag, revision FROM readings r "
            "JOIN series s ON s.id = r.series"
        ).fetchall()
    return {(*row[:3], row[3].replace(tzinfo=None)): tuple(row[4:]) for row in rows}


def _on_disk(folder: Path) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    return {(*key[:3], key[3].replace(tzinfo=None)): row for key, row in newest(folder).items()}


def test_parquet_follows_the_service(scene: Scene) -> None:
    """Every reading ends in data/parquet/, also those right before a stop; revised ones by the documented rule."""
    service = _following(scene)
    service.start()
    for number in range(5):
        send(service, "a", *(body(service, number * 9 + i, 3000 - 60 * (7 * number + i), pm25=i) for i in range(9)))
    assert service.drain(20)
    (stage,) = service.followers.stages
    until(lambda: stage.behind() == 0, "all is written")
    assert len(list((scene.data / "parquet").rglob("*.parquet"))) > 0
    stage.batching = Batching()
    send(service, "a", body(service, 100, 1, pm25=99))
    service.stop()
    assert stage.behind() == 0
    held = _held(service)
    assert _on_disk(scene.data / "parquet") == held
    assert 99.0 in {row[0] for row in held.values()}
    assert service.problems() == []


def test_parquet_after_a_kill_holds_nothing_doubled(scene: Scene) -> None:
    """Killed between write and save, the frames are written again in another cut; the rule gives what the store has."""
    words = [sys.executable, "-m", "tests.kill_sink", str(scene.data), str(scene.folder / "stations")]
    died = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    files = set((scene.data / "parquet").rglob("*.parquet"))
    assert files, "it died before the write"
    service = scene.service(QINGTU_SINKS="parquet")
    (stage,) = service.followers.stages
    assert stage.next_offset == 0, "its position was saved"
    assert stage.behind() >= 2  # configure and the messages; perhaps a tick
    service.start()
    send(service, "a", body(service, 3, 60, pm25=3), body(service, 4, 30, pm25=4))
    assert service.drain(20)
    service.stop()  # what stands on the stream is written in one piece: another cut than the one that was killed
    assert stage.behind() == 0
    assert set((scene.data / "parquet").rglob("*.parquet")) > files
    held = _held(service)
    assert _on_disk(scene.data / "parquet") == held
    assert {2.0, 3.0, 4.0} <= {row[0] for row in held.values()}


def test_a_sink_that_refuses_holds_nobody_up(scene: Scene) -> None:
    """Messages are stored meanwhile, the problem shows, a stop does not wait; all is taken when it works again."""
    scene.data.mkdir()
    (scene.data / "parquet").write_text("in the way")
    service = _following(scene)
    service.start()
    send(service, "a", body(service, 1, 60, pm25=1))
    assert service.drain(20)
    until(lambda: [problem["key"] for problem in service.problems()] == ["sink-parquet"], "the problem is told")
    send(service, "a", body(service, 2, 30, pm25=2))
    assert scene.stop(service)["messages"]["stored"] == 2
    (scene.data / "parquet").unlink()
    service = _following(scene)
    service.start()
    until(lambda: service.followers.stages[0].behind() == 0, "all is written")
    assert _on_disk(scene.data / "parquet") == _held(service)
    assert service.problems() == []


def test_housekeeping_leaves_sinks_an_hour_to_catch_up_and_then_goes_by_age(scene: Scene) -> None:
    """What aged while nothing ran is still there after the start; a sink that stays away holds nothing for ever."""
    clock = ManualClock(T0)
    service = scene.service(clock, QINGTU_SINKS="parquet", QINGTU_BUS__DERIVED_KEEP_H="2")
    service.configure()
    for number in range(4):
        send(service, "a", body(service, number, pm25=number))
        clock.advance(MINUTE)
    while service.process.step():
        pass
    while service.derive.step():
        pass
    service.process.save()
    service.derive.save()
    service._settle()
    service.close()
    scene._open.remove(service)
    clock.advance(DAY)
    service = scene.service(clock, QINGTU_SINKS="parquet", QINGTU_BUS__DERIVED_KEEP_H="2")
    (stage,) = service.followers.stages
    end = service.bus.end(PROCESSED, 0)
    service._housekeep()
    assert (service.bus.start(PROCESSED, 0), stage.behind()) == (0, end)
    clock.advance(HOUR)
    service._housekeep()
    assert service.bus.start(PROCESSED, 0) == end - 1  # the newest frame stays
    assert service.problems() == []
    stage.hurry()
    assert stage.step()
    (problem,) = service.problems()
    assert problem["key"] == "lost_sink-parquet"
    assert all(str(end - 1) in problem[language] for language in ("zh", "en"))


def test_no_sink_holds_nothing(tmp_path: Path) -> None:
    """The default: no threads, nothing kept back."""
    bus = SqliteBus(tmp_path / "bus", free_floor_bytes=0)
    nobody = Followers((), SinkPlace(tmp_path, Settings(), bus, ManualClock(T0), NOTHING.__getitem__))
    nobody.start()
    assert (nobody.taken(PROCESSED, 0), nobody.problems(), nobody.workers) == (None, [], [])
    nobody.stop(1)
    bus.close()
