"""DuckDB as the primary store: the shared suite, and what only it does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from qingtu.contracts import ReadingQuery
from qingtu.errors import RetryLater, StartError, VersionError
from qingtu.records import ALERTS, FIGURES, PROCESSED
from qingtu.store.duckdb import DuckStore
from qingtu.store.schema import SCHEMA_VERSION
from tests.store.build import (
    NAN,
    SERIES,
    T0,
    Message,
    Reading,
    alert_frame,
    figure_frame,
    frames_of,
    processed,
    reading,
)
from tests.store.model import Model
from tests.suites.store import OpenStore, StoreSuite, stored
from tests.suites.store_questions import StoreQuestionsSuite

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
    return lambda: DuckStore(tmp_path_factory.mktemp("store") / "store.duckdb", "256MB", 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckStore]:
    """One store."""
    one = DuckStore(tmp_path / "store.duckdb", "256MB", 1)
    yield one
    one.close()


class TestDuckStore(StoreSuite):
    """The shared suite."""


class TestDuckQuestions(StoreQuestionsSuite):
    """The shared suite of questions."""


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


def test_a_missing_value_is_null(store: DuckStore) -> None:
    """Never NaN: averages of SQL skip NULL, and NaN would spoil them."""
    store.apply(PROCESSED, 0, [processed(0, [reading(1, NAN), reading(2, 4.0), reading(1, NAN)])], 1)
    store.apply(FIGURES, 0, [figure_frame(0, [(0, NAN, 0)])], 1)
    with store.cursor() as db:
        assert db.execute("SELECT avg(value), count(*) FROM readings").fetchone() == (4.0, 2)
        assert db.execute("SELECT value FROM figures").fetchone() == (None,)
    store.apply(FIGURES, 0, [figure_frame(1, [(0, NAN, 0)])], 2)
    assert store.figure_corrections() == []


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


def test_copies_made_at_once_are_all_whole(store: DuckStore, tmp_path: Path) -> None:
    """Each waits for the other; none fails, and none is another one's."""
    store.apply(PROCESSED, 0, [processed(0, [reading(0)])], 1)
    paths = [tmp_path / f"copy{number}.duckdb" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store.backup, paths))
    for path in paths:
        copy = DuckStore(path)
        assert stored(copy) == stored(store)
        copy.close()


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


def test_a_file_of_the_version_before_is_led_on(tmp_path: Path) -> None:
    """Corrections of figures get the sides that they lacked, and the next one is whole."""
    path = tmp_path / "store.duckdb"
    store = DuckStore(path, "256MB", 1)
    for origin, value in enumerate([1.0, 2.0]):
        store.apply(FIGURES, 0, [figure_frame(origin, [(0, value, 60)])], origin + 1)
    store.close()
    db = duckdb.connect(str(path))
    for column in ("old_expected", "old_reason", "new_expected", "new_reason"):
        db.execute(f"ALTER TABLE figure_corrections DROP COLUMN {column}")
    db.execute("UPDATE meta SET value = '1' WHERE key = 'version'")
    db.close()
    store = DuckStore(path, "256MB", 1)
    (found,) = store.figure_corrections()
    assert [found[f"{side}_{name}"] for side in ("old", "new") for name in ("expected", "reason")] == [60, "", 60, ""]
    store.apply(FIGURES, 0, [figure_frame(2, [(0, 3.0, 60)])], 3)
    assert [row["old_value"] for row in store.figure_corrections()] == [2.0, 1.0]
    store.close()


def test_what_a_newer_program_wrote_is_refused_untouched(tmp_path: Path) -> None:
    """The message names both versions; no table is added to the file."""
    path = tmp_path / "store.duckdb"
    db = duckdb.connect(str(path))
    db.execute("CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR)")
    db.execute("INSERT INTO meta VALUES ('version', '99')")
    db.close()
    with pytest.raises(VersionError, match=rf"version 99.*reads {SCHEMA_VERSION}$"):
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
