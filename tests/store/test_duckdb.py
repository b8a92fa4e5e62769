"""DuckDB as the primary store: the shared suite, and what only it does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingtu.clock import DAY, HOUR
from qingtu.contracts import ReadingQuery
from qingtu.errors import RetryLater, StartError, VersionError
from qingtu.records import ALERTS, FIGURES, PROCESSED, Cause
from qingtu.store.duckdb import DuckStore
from tests.store.build import (
    NAN,
    SERIES,
    T0,
    Message,
    Model,
    Reading,
    alert_frame,
    event_frame,
    figure_frame,
    frames_of,
    processed,
)
from tests.suites.store import SLOW, OpenStore, StoreSuite, _messages, apply_in, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def open_store(tmp_path: Path) -> OpenStore:
    """The store of one test, opened again with what it held."""
    return lambda: DuckStore(tmp_path / "store.duckdb", "256MB", 1)


@pytest.fixture(scope="class")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> OpenStore:
    """An empty store each time."""

    def make() -> DuckStore:
        return DuckStore(tmp_path_factory.mktemp("store") / "store.duckdb", "256MB", 1)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckStore]:
    """One store."""
    one = DuckStore(tmp_path / "store.duckdb", "256MB", 1)
    yield one
    one.close()


def reading(minute: int, value: float = 1.0, series: int = 0) -> Message:
    """A message with one reading."""
    return Message((Reading(series, minute, value),), known_s=minute)


class TestDuckStore(StoreSuite):
    """The shared suite."""


@SLOW
@given(messages=st.lists(_messages, min_size=1, max_size=10), cuts=st.lists(st.integers(1, 9)))
def test_corrections_tell_every_step(fresh_store: OpenStore, messages: list[Message], cuts: list[int]) -> None:
    """Each correction goes from one version to the next, and latest is the newest time of each series."""
    store = fresh_store()
    assert isinstance(store, DuckStore)
    apply_in(store, frames_of(messages, cuts), [])
    model = Model.of(messages, cuts)
    with store.cursor() as db:
        found = db.execute(
            "SELECT s.station, s.property, epoch_us(time), old_value, old_flag, old_revision, new_value, new_flag, "
            "new_revision FROM corrections c JOIN series s ON s.id = c.series"
        ).fetchall()
    names = [key[:2] for key in SERIES]
    steps = [(names.index(row[:2]), *row[2:]) for row in found]
    assert sorted(map(repr, steps)) == sorted(map(repr, model.corrections()))
    newest: dict[int, tuple[Any, ...]] = {row[0]: row for row in model.rows()}
    mine = {
        SERIES.index((r["station"], r["property"], r["channel"])): (r["time"], r["value"], r["flag"])
        for r in store.latest().to_pylist()
    }
    assert mine == {series: (row[1], row[2], row[3]) for series, row in newest.items()}
    store.close()


def test_equal_keys_of_one_frame_leave_every_correction(store: DuckStore) -> None:
    """Also between rows of the frame itself, whether the key was stored before or not."""
    values = [1.0, 2.0, 2.0, NAN, NAN, 3.0] * 50
    messages = [Message((Reading(series, 1, value),), i) for i, value in enumerate(values) for series in (0, 1)]
    messages[0] = Message((Reading(0, 1, 8.0), Reading(2, 1, 1.0)))
    store.apply(PROCESSED, 0, frames_of(messages, [1]), 2)
    model = Model.of(messages, [1])
    with store.cursor() as db:
        found = db.execute(
            "SELECT series, epoch_us(time), old_value, old_flag, old_revision, new_value, new_flag, new_revision "
            "FROM corrections"
        ).fetchall()
    names = [SERIES.index(key) for key in store._names.keys]
    assert len(found) > 300
    assert sorted(map(repr, ((names[row[0]], *row[1:]) for row in found))) == sorted(map(repr, model.corrections()))


def test_one_reading_with_its_corrections(store: DuckStore) -> None:
    """Explain reads them, oldest first."""
    store.apply(PROCESSED, 0, [processed(i, [reading(1, float(i))]) for i in range(3)], 3)
    found = store.reading(SERIES[0], T0 + 60_000_000)
    assert found is not None
    assert found["value"] == 2.0
    steps = [(c["old_value"], c["new_value"], c["cause"]) for c in found["corrections"]]
    assert steps == [(0.0, 1.0, Cause.READING), (1.0, 2.0, Cause.READING)]
    assert store.reading(SERIES[0], T0) is None
    assert store.reading(("X", "x", "main"), T0) is None


def test_a_missing_value_is_null(store: DuckStore) -> None:
    """Never NaN: averages of SQL skip NULL, and NaN would spoil them."""
    store.apply(PROCESSED, 0, [processed(0, [reading(1, NAN), reading(2, 4.0), reading(1, NAN)])], 1)
    store.apply(FIGURES, 0, [figure_frame(0, [(0, NAN, 0)])], 1)
    with store.cursor() as db:
        assert db.execute("SELECT avg(value), count(*) FROM readings").fetchone() == (4.0, 2)
        assert db.execute("SELECT value FROM figures").fetchone() == (None,)
    store.apply(FIGURES, 0, [figure_frame(1, [(0, NAN, 0)])], 2)
    assert store.figure_corrections() == []


def test_equal_events_are_one_whatever_the_cut(fresh_store: OpenStore) -> None:
    """In one frame, in two, and driven again: an event is told by station, time, kind and attributes."""
    events = [("A", "door", 1, "{}"), ("A", "door", 1, "{}"), ("A", "door", 2, "{}"), ("A", "fire", 1, "{}")]
    counts = []
    for frames in ([event_frame(0, events)], [event_frame(i, [e]) for i, e in enumerate([*events, events[0]])]):
        store = fresh_store()
        assert isinstance(store, DuckStore)
        store.apply(PROCESSED, 0, frames, len(frames))
        counts.append([(e["kind"], e["time"] - T0) for e in store.events(T0, T0 + HOUR)])
        store.close()
    assert sorted(counts[0]) == sorted(counts[1]) == [("door", 1_000_000), ("door", 2_000_000), ("fire", 1_000_000)]


def test_a_figure_that_changes_is_a_correction(store: DuckStore) -> None:
    """What is the same keeps its first revision: it was known since then."""
    for origin, value in enumerate([10.0, 10.0, 11.0]):
        store.apply(FIGURES, 0, [figure_frame(origin, [(0, value, 60), (1, 5.0, 60)])], origin + 1)
    rows = store.figures("A", "pm25", T0, T0 + DAY)
    assert [(r["value"], r["revision"] >> 16) for r in rows] == [(11.0, 2), (5.0, 0)]
    changed = store.figure_corrections()
    assert [(c["old_value"], c["new_value"], c["old_revision"] >> 16, c["new_revision"] >> 16) for c in changed] == [
        (10.0, 11.0, 0, 2)
    ]


def test_alerts_as_their_last_transition_left_them(store: DuckStore) -> None:
    """Unacknowledged first; who acted last with a state, the newest note; values come from the reading."""
    steps = [
        [("one", "open", 2, ""), ("two", "open", 4, "")],
        [("one", "acknowledged", 2, "Li"), ("one", "comment", 2, "Wang"), ("three", "open", 1, "")],
        [("two", "resolved", 4, "")],
    ]
    store.apply(ALERTS, 0, [alert_frame(i, rows) for i, rows in enumerate(steps)], 3)
    store.apply(ALERTS, 0, [alert_frame(i, rows) for i, rows in enumerate(steps)], 6)  # again: skipped
    assert [(a["alert"], a["state"]) for a in store.alerts(active=True)] == [("three", "open"), ("one", "acknowledged")]
    assert [(a["alert"], a["state"]) for a in store.alerts(active=False)][2] == ("two", "resolved")
    one = store.alerts(active=True)[1]
    assert (one["who"], one["note"], one["shown_value"], one["shown_limit"]) == ("Li", "note of Wang", 80.0, 75.0)
    assert [t["state"] for t in store.alert("one")] == ["open", "acknowledged", "comment"]
    assert store.alert("none") == []


def test_expiry_takes_whole_days_and_is_remembered(store: DuckStore) -> None:
    """Readings, their corrections, events; how many readings is kept for the audit."""
    day = 24 * 60
    messages = [reading(0), reading(0, 2.0), reading(day - 1), reading(day), reading(2 * day)]
    store.apply(PROCESSED, 0, [processed(0, messages), event_frame(1, [("A", "door", 1, "{}")])], 2)
    assert store.expire(T0 + DAY + HOUR) == 2
    assert store.expire(T0 + DAY + HOUR) == 0
    assert [row[1] for row in stored(store)] == [T0 + DAY, T0 + 2 * DAY]
    assert store.count("corrections") == 0
    assert store.events(T0, T0 + DAY) == []
    assert store.expired() == 2


def test_export_holds_names_and_times(store: DuckStore, tmp_path: Path) -> None:
    """Parquet and CSV, in order, only the range."""
    store.apply(PROCESSED, 0, [processed(0, [reading(2), reading(1, NAN, 2), reading(9)])], 1)
    assert store.export(tmp_path / "it's.parquet", T0, T0 + 300_000_000) == 2
    rows = pq.read_table(tmp_path / "it's.parquet").to_pylist()
    assert [(r["station"], r["channel"], r["value"]) for r in rows] == [("A", "main", 1.0), ("B", "backup", None)]
    assert store.export(tmp_path / "all.csv", T0, T0 + DAY, fmt="csv") == 3
    text = (tmp_path / "all.csv").read_text().splitlines()
    assert text[0].startswith("station,property,channel,time,value,flag")
    assert text[1].startswith("A,pm25,main,2026-11-23T00:02:00.000000Z,1.0,1")


def test_a_backup_while_writing_is_of_one_moment(store: DuckStore, tmp_path: Path) -> None:
    """It opens as a store, and holds exactly the frames up to its own progress."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        origin = 0
        try:
            while not stop.is_set():
                store.apply(PROCESSED, 0, [processed(origin, [reading(origin), reading(origin, 2.0)])], origin + 1)
                origin += 1
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while store.progress(PROCESSED, 0).origin < 5:
            stop.wait(0.01)
        for number in range(3):
            store.backup(tmp_path / f"copy{number}.duckdb")
    finally:
        stop.set()
        writer.join()
    assert not failed
    for number in range(3):
        copy = DuckStore(tmp_path / f"copy{number}.duckdb")
        frames = copy.progress(PROCESSED, 0).origin + 1
        assert frames > 5
        assert copy.count("readings") == copy.count("corrections") == frames
        assert sum(b["r_stored"] + b["r_revised"] for b in copy.ledger()[0].values()) == 2 * frames
        assert stored(copy) == stored(store)[:frames]
        copy.close()
    with pytest.raises(FileExistsError, match="exists already"):
        store.backup(tmp_path / "copy0.duckdb")


def test_a_second_process_is_told_in_one_line(store: DuckStore, tmp_path: Path) -> None:
    """It gets StartError with the way out."""
    code = (
        "import sys; from pathlib import Path; from qingtu.store.duckdb import DuckStore\n"
        "from qingtu.errors import StartError\n"
        "try: DuckStore(Path(sys.argv[1]))\n"
        "except StartError as error: print(error)\n"
    )
    store.apply(PROCESSED, 0, [processed(0, [reading(1)])], 1)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store.duckdb")],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 1
    assert "another qingtu" in done.stdout
    assert "--data" in done.stdout


def test_what_a_newer_program_wrote_is_refused_untouched(tmp_path: Path) -> None:
    """The message names both versions; no table is added to the file."""
    path = tmp_path / "store.duckdb"
    db = duckdb.connect(str(path))
    db.execute("CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR)")
    db.execute("INSERT INTO meta VALUES ('version', '99')")
    db.close()
    with pytest.raises(VersionError, match=r"version 99.*reads 1"):
        DuckStore(path)
    db = duckdb.connect(str(path))
    assert db.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (1,)
    db.close()


def test_no_database_at_all(tmp_path: Path) -> None:
    """A file of something else is refused as a start error, not with a trace."""
    path = tmp_path / "store.duckdb"
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(StartError, match=r"store\.duckdb"):
        DuckStore(path)


def test_an_apply_that_fails_leaves_nothing_half(store: DuckStore, tmp_path: Path) -> None:
    """Whatever fails in the middle: rows, names and books are as before, and the same frames are applied next."""
    good = processed(0, [reading(1)])
    store.apply(PROCESSED, 0, [good], 1)
    broken = processed(2, [reading(3, series=2)])
    del broken.sections["manifest"]
    broken.sections["events"] = broken.sections["readings"].slice(0, 1)  # not events: fails after readings went in
    new = processed(1, [reading(2, series=1), reading(1, 5.0)])
    before, books = stored(store), store.ledger()
    with pytest.raises(RetryLater):
        store.apply(PROCESSED, 0, [new, broken], 3)
    assert stored(store) == before
    assert store.ledger() == books
    # Another stream commits in between: names that were not kept must not count as kept.
    store.apply(ALERTS, 0, [alert_frame(0, [("one", "open", 2, "")])], 1)
    store.apply(PROCESSED, 0, [new], 2)
    wanted = stored(store)
    assert len(wanted) == 2
    store.close()
    again = DuckStore(tmp_path / "store.duckdb")
    assert stored(again) == wanted
    again.close()


def test_a_full_disk_heals(tmp_path: Path) -> None:
    """No room for more in the middle of commits: RetryLater; with room again nothing is lost or twice."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fill_disk.py")), str(tmp_path / "store.duckdb")],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused, frames = map(int, done.stdout.splitlines()[-1].split())
    assert refused > 0
    store = DuckStore(tmp_path / "store.duckdb")
    assert store.progress(PROCESSED, 0).origin == frames - 1
    rows = store.readings(ReadingQuery([SERIES[0]], T0, T0 + 10**15))
    assert rows.column("value").to_pylist() == [float(i) for i in range(frames * 2000)]
    assert store.count("alerts") == frames
    assert sum(b["r_stored"] for b in store.ledger()[0].values()) == frames * 2000
    store.close()


def test_a_redriven_reading_is_a_correction_with_its_cause(store: DuckStore) -> None:
    """So that one can see why a value changed."""
    store.apply(PROCESSED, 0, [processed(0, [reading(1)])], 1)
    again = Message((Reading(0, 1, 7.0, cause=Cause.REDRIVE),), redrive_of=0)
    store.apply(PROCESSED, 0, [processed(1, [again])], 2)
    found = store.reading(SERIES[0], T0 + 60_000_000)
    assert found is not None
    assert [c["cause"] for c in found["corrections"]] == [Cause.REDRIVE]
