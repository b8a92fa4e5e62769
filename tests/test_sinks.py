"""Sinks: the store stage commits by size or age, and Parquet files hold every revision."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import DAY, SECOND, ManualClock
from qingtu.contracts import SinkPlace, Working
from qingtu.errors import RetryLater
from qingtu.records import ALERTS, PROCESSED, encode
from qingtu.settings import Settings
from qingtu.store.duckdb import DuckStore
from sinks import SINKS
from sinks.parquet import ParquetSink
from sinks.primary import StoreStage
from tests.store.build import T0, Message, Reading, alert_frame, frames_of, processed
from tests.store.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from qingtu.catalogue import Catalogue
    from qingtu.records import Frame

NOTHING: dict[str, Catalogue] = {}


class Bench:
    """A store stage on a real bus and store, with a clock that is moved by hand."""

    def __init__(self, folder: Path, kind: type[DuckStore] = DuckStore) -> None:
        self.bus = SqliteBus(folder / "bus", free_floor_bytes=0)
        self.store: Any = kind(folder / "store.duckdb", "256MB", 1)
        self.clock = ManualClock(T0)
        self.stage = StoreStage(self.bus, self.store, PROCESSED, 0, self.clock, commit_ms=1000, commit_messages=10)
        self._origin = 0

    def append(self, messages: int) -> None:
        """Put a frame with so many messages on the bus."""
        first = 100 * self._origin
        frame = processed(self._origin, [Message((Reading(0, first + i, 1.0),)) for i in range(messages)])
        self.bus.append(PROCESSED, 0, [encode(frame.header, frame.sections)]).result()
        self._origin += 1

    def close(self) -> None:
        """Close the files."""
        self.bus.close()
        self.store.close()


class Beside(DuckStore):
    """Saves beside the caller: nothing counts before it is waited for, and then perhaps not."""

    refusals = 0

    def begin(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Callable[[], object]:
        """Begin a commit."""
        return partial(self._end, stream, partition, frames, next_offset)

    def _end(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise RetryLater("not saved")
        self.apply(stream, partition, frames, next_offset)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """One bench."""
    made = Bench(tmp_path)
    yield made
    made.close()


def test_a_commit_is_due_by_age(bench: Bench) -> None:
    """Of the oldest frame that waits; nothing is stored before."""
    assert (bench.stage.step(), bench.stage.due_in_s()) == (False, None)
    bench.append(3)
    assert bench.stage.step()
    assert (bench.stage.due_in_s(), bench.stage.behind()) == (1.0, 1)
    bench.clock.advance(999_999)
    bench.append(3)
    assert bench.stage.step()
    assert bench.store.count("readings") == 0
    bench.clock.advance(1)
    assert bench.stage.step()
    assert (bench.store.count("readings"), bench.stage.behind(), bench.stage.due_in_s()) == (6, 0, None)
    assert not bench.stage.step()


def test_a_commit_is_due_by_size(bench: Bench) -> None:
    """At once when enough messages wait."""
    bench.append(9)
    bench.stage.step()
    assert bench.store.count("readings") == 0
    bench.append(1)
    bench.stage.step()
    assert bench.store.count("readings") == 10


def test_a_commit_that_was_not_saved_comes_again_before_what_follows(tmp_path: Path) -> None:
    """Frames are taken up and even due meanwhile; they never overtake."""
    bench = Bench(tmp_path, Beside)
    stage = bench.stage
    bench.append(10)
    assert stage.take_up()
    assert stage.commit_due()
    assert (bench.store.count("readings"), stage.behind(), stage.due_in_s()) == (0, 1, None)
    assert stage.oldest_us() == T0  # it waits as long as it does not count
    bench.append(10)
    assert stage.take_up()
    bench.store.refusals = 2
    with pytest.raises(RetryLater, match="not saved"):
        stage.commit_due()
    assert (bench.store.count("readings"), stage.behind(), stage.due_in_s()) == (0, 2, 0)
    with pytest.raises(RetryLater, match="not saved"):
        stage.step()
    assert stage.step()
    assert (bench.store.count("readings"), stage.behind(), stage.due_in_s()) == (20, 0, None)
    assert stage.oldest_us() is None
    bench.close()


def test_a_clock_that_is_set_back_delays_nothing(bench: Bench) -> None:
    """Else a frame would wait for as long as the clock went back."""
    bench.append(1)
    bench.stage.step()
    bench.clock.advance(-3600 * SECOND)
    bench.stage.step()
    assert bench.store.count("readings") == 1


def test_hurry_makes_due(bench: Bench) -> None:
    """A stop does not wait for age."""
    bench.append(1)
    bench.stage.step()
    bench.stage.hurry()
    bench.stage.step()
    assert bench.store.count("readings") == 1


def test_what_the_store_refuses_goes_on_waiting(bench: Bench) -> None:
    """RetryLater, and the same frames are applied by the next step; a closed database is opened again."""
    bench.append(10)
    bench.store._db.close()
    with pytest.raises(RetryLater):
        bench.stage.step()
    assert bench.stage.behind() == 1
    assert bench.stage.step()
    assert (bench.store.count("readings"), bench.stage.behind()) == (10, 0)


def test_what_waits_of_other_streams_is_committed_along_with_readings(bench: Bench) -> None:
    """Though it is not due by itself; what is behind a commit that failed is behind it in all streams."""
    alerts = StoreStage(bench.bus, bench.store, ALERTS, 0, bench.clock, commit_ms=1 << 30)
    frame = alert_frame(0, [("a", "open", 1, "")])
    bench.bus.append(ALERTS, 0, [encode(frame.header, frame.sections)]).result()
    bench.append(10)
    assert alerts.take_up()
    assert bench.stage.take_up()
    assert not alerts.commit_due()
    bench.store._db.close()
    with pytest.raises(RetryLater):
        bench.stage.commit_due([alerts])
    assert (bench.stage.behind(), alerts.behind()) == (1, 1)
    assert bench.stage.commit_due([alerts])  # alone: nobody knows which of them was refused
    assert (bench.stage.behind(), alerts.behind()) == (0, 1)
    bench.append(10)
    bench.stage.take_up()
    assert bench.stage.commit_due([alerts])
    assert (bench.stage.behind(), alerts.behind(), alerts.due_in_s()) == (0, 0, None)
    assert (bench.store.count("readings"), bench.store.count("alerts")) == (20, 1)


def test_what_cannot_be_stored_along_holds_readings_up_only_once(bench: Bench) -> None:
    """Both are taken back; then readings go alone."""
    alerts = StoreStage(bench.bus, bench.store, ALERTS, 0, bench.clock, commit_ms=1 << 30)
    bench.bus.append(ALERTS, 0, [encode({"stream": ALERTS, "clock": T0, "origin": [0, 0]}, {})]).result()
    alerts.take_up()
    bench.append(10)
    bench.stage.take_up()
    with pytest.raises(KeyError):  # a frame without its table
        bench.stage.commit_due([alerts])
    assert bench.store.count("readings") == 0
    assert bench.stage.commit_due([alerts])
    assert (bench.store.count("readings"), bench.stage.behind(), alerts.behind()) == (10, 0, 1)


def test_a_new_stage_goes_on_behind_what_is_committed(bench: Bench) -> None:
    """What was read but not committed is read again."""
    bench.append(10)
    bench.stage.step()
    bench.append(1)
    bench.stage.step()
    again = StoreStage(bench.bus, bench.store, PROCESSED, 0, bench.clock, commit_ms=0)
    assert again.next_offset == 1
    again.step()
    assert bench.store.count("readings") == 11


def newest(folder: Path) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Read all files as docs/records.md says: the newest revision of a key, late verdicts after readings."""
    rows = [row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    rows.sort(key=lambda row: (row["revision"], row["cause"]))
    return {
        (row["station"], row["property"], row["channel"], row["time"]): (row["value"], row["flag"], row["revision"])
        for row in rows
    }


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    minutes=st.lists(st.integers(0, 4000), min_size=1, max_size=20),
    cuts=st.lists(st.integers(1, 19)),
    again=st.integers(0, 19),
    other=st.lists(st.integers(1, 19)),
)
def test_parquet_holds_what_the_store_holds(
    tmp_path_factory: pytest.TempPathFactory, minutes: list[int], cuts: list[int], again: int, other: list[int]
) -> None:
    """However frames are cut into writes, and when some are written again in another cut."""
    messages = [Message((Reading(i % 3, minute, float(i)),)) for i, minute in enumerate(minutes)]
    frames = frames_of(messages, range(1, len(messages)))
    folder = tmp_path_factory.mktemp("parquet")
    sink = ParquetSink(folder)
    _write(sink, frames, cuts)
    _write(sink, frames[again:], other)
    model = Model.of(messages, range(1, len(messages)))
    found = newest(folder)
    assert sorted((value, flag, revision) for value, flag, revision in found.values()) == sorted(
        (row[2], row[3], row[5]) for row in model.rows()
    )
    assert {path.parent.name for path in folder.rglob("*.parquet")} == {key[3].strftime("%Y-%m-%d") for key in found}


def _write(sink: ParquetSink, frames: list[Frame], cuts: list[int]) -> None:
    edges = [0, *sorted({c for c in cuts if 0 < c < len(frames)}), len(frames)]
    for a, b in pairwise(edges):
        sink.write(frames[a:b])


def test_the_same_frames_are_the_same_files(tmp_path: Path) -> None:
    """Written at least once, and twice changes nothing; frames without readings write nothing."""
    sink = ParquetSink(tmp_path)
    frames = [processed(0, [Message((Reading(0, 0, 1.0), Reading(0, 1500, 2.0)))])]
    for _ in range(2):
        sink.write(frames)
    sink.write([processed(1, [])])
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert [name.split("/")[0] for name in names] == ["2026-11-23", "2026-11-24"]
    assert T0 % DAY == 0


def test_a_folder_that_refuses_is_tried_again(tmp_path: Path) -> None:
    """RetryLater: the loop keeps the frames."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RetryLater):
        ParquetSink(tmp_path / "file").write([processed(0, [Message((Reading(0, 0, 1.0),))])])


def test_every_sink_has_its_own_name(tmp_path: Path) -> None:
    """The table's key is the sink's name, and it follows a stream that exists."""
    bus = SqliteBus(tmp_path / "bus", free_floor_bytes=0)
    for key, make in SINKS.items():
        sink = make(SinkPlace(tmp_path / key, Settings(), bus, ManualClock(T0), NOTHING.__getitem__))
        assert sink.name == key
        assert sink.stream in ("processed", "figures", "alerts", "rejected")
        if isinstance(sink, Working):
            sink.close()
    bus.close()
