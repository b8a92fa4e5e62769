"""The embedded bus: the shared suite, and what only files can do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qingtu.bus.sqlite import SCHEMA_VERSION, SqliteBus, bounds
from qingtu.contracts import Bus, StateDelta
from qingtu.errors import RetryLater, VersionError
from qingtu.records import ALERTS, PROCESSED, RAW
from tests.suites.bus import BusSuite, OpenBus, data, frames

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FULL = Path(__file__).with_name("fill_disk.py")


class TestSqliteBus(BusSuite):
    """The suite on two files."""

    @pytest.fixture
    def open_bus(self, tmp_path: Path) -> Iterator[OpenBus]:
        """Open the bus in one folder; all are closed in the end."""
        opened: list[SqliteBus] = []

        def make(partitions: int = 1) -> Bus:
            opened.append(SqliteBus(tmp_path / "bus", partitions, free_floor_bytes=0))
            return opened[-1]

        yield make
        for bus in opened:
            bus.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SqliteBus]:
    """A bus in its own folder."""
    made = SqliteBus(tmp_path / "bus", free_floor_bytes=0)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["raw.db", "derived.db"])
def test_files_of_a_newer_program_are_refused(tmp_path: Path, name: str) -> None:
    """With both versions and the file in the message; nothing stays open, nothing is changed."""
    SqliteBus(tmp_path, free_floor_bytes=0).close()
    db = sqlite3.connect(tmp_path / name)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    before = threading.active_count()
    with pytest.raises(VersionError, match=rf"{name}.*version {SCHEMA_VERSION + 1}.*reads {SCHEMA_VERSION}"):
        SqliteBus(tmp_path)
    assert threading.active_count() == before
    db = sqlite3.connect(tmp_path / name)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
    db.close()


def test_raw_is_synchronous_full_and_derived_normal(bus: SqliteBus, tmp_path: Path) -> None:
    """What decides about power cuts; WAL for both."""
    for file, level in ((bus._raw, 2), (bus._derived, 1)):
        assert file._db.execute("PRAGMA synchronous").fetchone() == (level,)
        assert file._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert {p.name for p in (tmp_path / "bus").glob("*.db")} == {"raw.db", "derived.db"}


def test_waiting_appends_are_committed_as_a_group(bus: SqliteBus) -> None:
    """While the writer is busy, everything that comes waits together: far fewer commits than appends."""
    gate, inside = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        inside.set()
        gate.wait(60)

    holder = threading.Thread(target=bus._raw.run, args=(hold,))
    holder.start()
    assert inside.wait(60)
    statements: list[str] = []
    bus._raw._db.set_trace_callback(statements.append)
    tickets = [bus.append(RAW, 0, frames(str(n))) for n in range(50)]
    assert not any(ticket.done() for ticket in tickets)
    with pytest.raises(TimeoutError):
        tickets[0].result(0.01)
    gate.set()
    assert [ticket.result(60) for ticket in tickets] == [[n] for n in range(50)]
    holder.join()
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert statements.count("COMMIT") == 2  # the held one's, and one for all fifty


@pytest.mark.parametrize("streams", [(RAW, RAW), (PROCESSED, ALERTS)])
def test_what_waits_for_a_file_is_committed_by_who_asks(bus: SqliteBus, streams: tuple[str, str]) -> None:
    """There is no writer thread: all that waits is one commit, made by the first who asks for a ticket."""
    statements: list[str] = []
    bus._file(streams[0])._db.set_trace_callback(statements.append)
    threads = threading.active_count()
    tickets = [bus.append(stream, 0, frames("a", "b")) for stream in streams]
    assert bus.read(streams[0], 0, 0) == []
    assert tickets[1].done()
    offsets = [0, 1, 2, 3] if streams[0] == streams[1] else [0, 1, 0, 1]
    assert [offset for ticket in tickets for offset in ticket.result(0)] == offsets
    assert data(bus, streams[0])[:2] == data(bus, streams[1])[-2:] == frames("a", "b")
    assert statements.count("COMMIT") == 1
    assert threading.active_count() == threads


def test_old_frames_leave_memory_and_are_read_from_disk(bus: SqliteBus) -> None:
    """The tail is bounded in bytes; followers far behind read the file."""
    megabyte = bytes(1024 * 1024)
    for n in range(5):
        bus.append(RAW, 0, [megabyte + b"%d%d" % (n, k) for k in range(8)]).result()
    tail = bus._tails[RAW, 0]
    assert sum(len(record.data) for record in tail.recent) == tail.size <= 32 * 1024 * 1024
    assert tail.recent[0].offset > 0
    found = [record for start in range(0, 40, 5) for record in bus.read(RAW, 0, start, 5)]
    assert [record.offset for record in found] == list(range(40))
    assert [record.data[-2:] for record in found] == [b"%d%d" % (n, k) for n in range(5) for k in range(8)]


def test_a_start_does_not_read_all_frames(bus: SqliteBus) -> None:
    """Bounds are found by seeking: the work does not grow with the frames that are held."""
    for partition in range(3):
        for stream in (PROCESSED, ALERTS):
            bus.append(stream, partition, [b""] * 3000).result()
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    with bus._derived.reader() as db:
        db.set_progress_handler(step, 1)
        assert list(bounds(db)) == [(s, p, 0, 2999) for s in (ALERTS, PROCESSED) for p in range(3)]
        db.set_progress_handler(None, 1)
    assert steps[0] < 1000


def test_a_job_that_fails_takes_its_group_back_and_the_writer_lives(bus: SqliteBus) -> None:
    """Whatever a job raises, callers are told, nothing is half written, and the next append works."""
    bus.append(PROCESSED, 0, frames("a")).result()
    with pytest.raises(RetryLater, match=r"derived\.db"):
        bus.save_state("g", 0, StateDelta(1 << 70, {"a": b"half"}))  # no integer of SQLite
    assert bus.load_state("g", 0) is None
    assert bus.append(PROCESSED, 0, frames("b")).result(60) == [1]
    assert data(bus, PROCESSED) == frames("a", "b")


def test_a_closed_bus_refuses_and_kept_what_waited(tmp_path: Path) -> None:
    """Close writes what was queued; later appends are refused, not lost in silence."""
    bus = SqliteBus(tmp_path, free_floor_bytes=0)
    tickets = [bus.append(stream, 0, frames(str(n))) for n in range(20) for stream in (RAW, PROCESSED)]
    bus.close()
    assert [ticket.result(0) for ticket in tickets] == [[n] for n in range(20) for _ in range(2)]
    with pytest.raises(RetryLater, match="closed"):
        bus.append(RAW, 0, frames("late")).result(0)
    bus.close()  # twice does no harm


def test_a_ticket_that_is_not_decided_times_out(bus: SqliteBus) -> None:
    """TimeoutError says: ask again, do not append again."""
    gate = threading.Event()
    holder = threading.Thread(target=bus._raw.run, args=(lambda _: bool(gate.wait(60)),))
    holder.start()
    ticket = bus.append(RAW, 0, frames("a"))
    with pytest.raises(TimeoutError):
        ticket.result(0.01)
    gate.set()
    assert ticket.result(60) == [0]
    holder.join()


def test_threads_that_come_and_go_leave_no_connections(bus: SqliteBus) -> None:
    """A web server's readers are short-lived threads: connections are lent, not owned."""
    bus.append(RAW, 0, frames("a")).result()
    bus._tails[RAW, 0].recent.clear()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(30):
        thread = threading.Thread(target=data, args=(bus,))
        thread.start()
        thread.join()
    assert (
        len(list(Path("/proc/self/fd").iterdir())) <= before + 3
    )  # one connection: database, WAL, perhaps shared memory


def test_backup_while_writing_is_whole_and_ends(bus: SqliteBus, tmp_path: Path) -> None:
    """Writers go on; the copy opens as a bus, holds all that was there, and its state is not ahead of raw."""
    bus.append(RAW, 0, [bytes(100_000) for _ in range(300)]).result()
    stop = threading.Event()
    written = [0]

    def write() -> None:
        while not stop.is_set():
            (offset,) = bus.append(RAW, 0, frames("x" * 1000)).result()
            bus.save_state("g", 0, StateDelta(offset + 1, {"n": b"%d" % (offset + 1)}))
            written[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    while written[0] < 5:
        bus.wait(RAW, [bus.end(RAW, 0)], 0.1)
    ends = bus.end(RAW, 0)
    bus.backup(tmp_path / "copy")
    during = written[0]
    stop.set()
    thread.join()
    copy = SqliteBus(tmp_path / "copy", free_floor_bytes=0)
    state = copy.load_state("g", 0)
    assert state is not None
    assert state.parts["n"] == b"%d" % state.next_offset
    assert state.next_offset <= copy.end(RAW, 0)
    assert ends <= copy.end(RAW, 0) <= bus.end(RAW, 0)
    assert len(data(copy)) == copy.end(RAW, 0)
    assert during >= 5
    copy.close()
    for name in ("raw.db", "derived.db"):
        db = sqlite3.connect(tmp_path / "copy" / name)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


def test_below_the_floor_raw_is_refused_and_state_is_not(tmp_path: Path) -> None:
    """So that state, ledger and trimming still have room; the message says what is missing."""
    free = shutil.disk_usage(tmp_path).free
    bus = SqliteBus(tmp_path / "bus", free_floor_bytes=free * 2)
    try:
        with pytest.raises(RetryLater, match=r"MiB free, floor is \d+ MiB: free some space"):
            bus.append(RAW, 0, frames("a")).result()
        assert (data(bus), bus.end(RAW, 0)) == ([], 0)
        bus.append(PROCESSED, 0, frames("b")).result()
        bus.save_state("g", 0, StateDelta(1, {}))
    finally:
        bus.close()


def _tmpfs_command(folder: Path) -> list[str] | None:
    """Return the start of a command that runs with a small file system of its own at ``folder``, if there can be."""
    unshare = shutil.which("unshare")
    mount = f'mount -t tmpfs -o size=6m tmpfs "{folder}"'
    if unshare is None:
        return None
    tried = subprocess.run([unshare, "-rm", "sh", "-c", mount], capture_output=True, check=False, timeout=60)
    return [unshare, "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"'] if tried.returncode == 0 else None


@pytest.mark.parametrize("how", ["tmpfs", "rlimit"])
def test_full_disk_loses_nothing_and_heals(tmp_path: Path, how: str) -> None:
    """Appends fail with RetryLater, nothing is half written, and after space is freed the same frames go in.

    Another process fills a file system of 6 MB (or reaches its limit of file size), so that ours is left alone.
    """
    start = _tmpfs_command(tmp_path) if how == "tmpfs" else []
    if start is None:
        pytest.skip("no unprivileged mount here: unshare -rm with a tmpfs is refused")
    command = [*start, sys.executable, str(FULL), str(tmp_path), how]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["healed"]), done.stdout + done.stderr
