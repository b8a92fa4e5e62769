"""The embedded primary store: one DuckDB file. Rows, origins and ledger are committed as one.

One thread writes; any thread reads on its own cursor and sees what is committed. Reading is in
:mod:`qingtu.store.queries`.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import structlog

from qingtu.clock import DAY
from qingtu.contracts import Applied, Part, Progress
from qingtu.errors import RetryLater, StartError, VersionError
from qingtu.grouped import NEVER
from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED, Frame
from qingtu.store import books
from qingtu.store.books import BookEntry, Changes, ManifestKeys
from qingtu.store.fresh import fresh
from qingtu.store.names import SeriesNames
from qingtu.store.queries import Queries
from qingtu.store.rows import expire_rejected, joined, plain, put_events, put_figures, replace
from qingtu.store.schema import MIGRATIONS, SCHEMA_VERSION, TABLES
from qingtu.store.writer import Staged, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class DuckStore(Queries):
    """See :class:`qingtu.contracts.Store`.

    Args:
        path: the database file, created when absent.
        memory_limit: such as ``1GB``.
        threads: that DuckDB may use.

    Raises:
        VersionError: written by a newer program.
        StartError: the file is in use by another process or cannot be opened.
    """

    def __init__(self, path: Path, memory_limit: str = "1GB", threads: int = 1) -> None:
        self._path = path
        self._config: dict[str, Any] = {"memory_limit": memory_limit, "threads": threads}
        self._log = structlog.get_logger("store")
        self._lock = threading.Lock()
        self._copying = threading.Lock()
        self._apply_by: dict[str, Callable[[int, Sequence[Frame], Staged, Changes], None]] = {
            PROCESSED: self._processed,
            ALERTS: self._alerts,
            REJECTED: self._rejected,
            FIGURES: self._figures,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except duckdb.IOException as error:
            first = str(error).splitlines()[0]
            raise StartError(
                f"数据库无法打开 / {path} cannot be opened: {first} (is another qingtu using this data folder? stop "
                "it, or set another with --data)"
            ) from error

    def _open(self) -> None:
        self._loaded = False
        self._db = duckdb.connect(str(self._path), config=self._config)
        self._db.begin()
        # The version comes first: what a newer program wrote is not touched.
        self._db.execute("CREATE TABLE IF NOT EXISTS meta (key VARCHAR PRIMARY KEY, value VARCHAR)")
        found = self._db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
        if found is not None and int(found[0]) > SCHEMA_VERSION:
            self._db.rollback()
            self._db.close()
            raise VersionError(
                f"由更新的程序写入 / {self._path} has version {found[0]}, written by a newer program; this "
                f"reads {SCHEMA_VERSION}"
            )
        self._db.execute(TABLES)
        for version in range(SCHEMA_VERSION if found is None else int(found[0]), SCHEMA_VERSION):
            self._db.execute(MIGRATIONS[version])
        if found is None or int(found[0]) < SCHEMA_VERSION:  # a file that is only looked at stays as it is
            replace(self._db, "meta", ("key",), ("key", "value"), [("version", str(SCHEMA_VERSION))])
        self._db.commit()
        self._load()

    def _load(self) -> None:
        """Read what is kept in memory beside the tables, as it was committed."""
        db = self._db
        names = SeriesNames(db.execute("SELECT * FROM series").fetchall())
        newest = np.full(len(names), NEVER, np.int64)
        found = db.execute("SELECT series, epoch_us(max(time)) AS time FROM readings GROUP BY series").fetchnumpy()
        newest[np.asarray(found["series"], np.int64)] = np.asarray(found["time"], np.int64)
        counts = db.execute("SELECT * FROM ledger").fetchall()
        progress = db.execute("SELECT * FROM progress").fetchall()
        seq = db.execute("SELECT coalesce(max(seq) + 1, 0) FROM alerts").fetchone()
        assert seq is not None
        with self._lock:
            self._names, self._newest, self._alert_seq = names, newest, int(seq[0])
            self._writer = Writer(names)
            self._books: dict[books.Key, NDArray[np.int64]] = {
                (network, hour): np.array(row, np.int64) for network, hour, *row in counts
            }
            self._told = {key: _book(row) for key, row in self._books.items()}
            self._progress = {(stream, partition): Progress(*at) for stream, partition, *at in progress}
        self._loaded = True

    def progress(self, stream: str, partition: int) -> Progress:
        """Return how far committed effects reach."""
        with self._lock:
            return self._progress.get((stream, partition), Progress(0, -1))

    def ledger(self) -> tuple[dict[books.Key, dict[str, int]], dict[int, int]]:
        """Return outcomes by (network, hour), and by partition the raw offset up to which they count.

        A book that did not change is the same object as before, so that the caller need not look at it again.
        """
        with self._lock:
            counts = self._told.copy()
            at = {partition: p.origin for (stream, partition), p in self._progress.items() if stream == PROCESSED}
            return counts, at

    def apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Applied:
        """Apply frames and commit; see the contract."""
        return self._commit([Part(stream, partition, frames, next_offset)])[0]

    def apply_together(self, parts: Sequence[Part]) -> None:
        """Apply several streams and commit them as one; see :class:`qingtu.contracts.Together`."""
        self._commit(parts)

    def _commit(self, parts: Sequence[Part]) -> list[Applied]:
        if not self._loaded:
            self._reload()
        held = [fresh(part.stream, part.frames, self.progress(part.stream, part.partition).origin) for part in parts]
        newest, changes = self._newest.copy(), Changes()
        out: list[Applied] = []
        try:
            self._db.begin()
            for part, (new, origin) in zip(parts, held, strict=True):
                staged = Staged(newest)
                if new:
                    self._apply_by[part.stream](part.partition, new, staged, changes)
                newest = staged.newest
                out.append(Applied(len(new), staged.readings, staged.revised, staged.unchanged))
                self._save_progress(part.stream, part.partition, Progress(part.next_offset, origin))
            self._save_books(changes)
            self._db.commit()
        except duckdb.Error as error:
            self._undo()
            self._log.warning("store_failed", error=_first_line(error), next="nothing was applied; it is tried again")
            raise RetryLater(f"数据库 / store: {_first_line(error)}") from error
        except BaseException:
            self._undo()
            raise
        with self._lock:
            self._newest = newest
            self._names.saved()
            for key, amount in changes.counts.items():
                self._books[key] = self._books.get(key, np.zeros(len(books.COLUMNS), np.int64)) + amount
                self._told[key] = _book(self._books[key])
            for part, (_, origin) in zip(parts, held, strict=True):
                self._progress[part.stream, part.partition] = Progress(part.next_offset, origin)
        return out

    def _undo(self) -> None:
        """Leave a transaction that failed. What is in memory is read again before the next one: see :meth:`_reload`."""
        self._loaded = False
        try:
            self._db.rollback()
        except duckdb.Error as error:
            # After a fatal error the database refuses everything: opening it again is left to the next try.
            self._log.warning("store_closed", error=_first_line(error), next="opened again at the next try")
            self._db.close()

    def _reload(self) -> None:
        """Take up what is committed, since nobody knows how far a transaction came that failed."""
        try:
            try:
                self._load()
            except duckdb.Error:
                self._db.close()
                self._open()
        except duckdb.Error as error:
            raise RetryLater(f"数据库 / store: {_first_line(error)}", retry_after_s=2.0) from error

    # --------------------------------------------------------------------------------------------- one stream each

    def _processed(self, partition: int, frames: Sequence[Frame], staged: Staged, changes: Changes) -> None:
        keyed = [(frame, books.count_manifest(frame, partition, changes)) for frame in frames]
        self._writer.write(self._db, keyed, staged, changes)
        for frame, keys in keyed:
            if keys is not None and keys.redriven:
                self._book_moves(partition, frame, keys, staged, changes)
        if self._names.unsaved:
            rows = [(number, *self._names.keys[number]) for number in self._names.unsaved]
            self._insert(
                "series", pa.table(dict(zip(("id", "s", "p", "c"), map(list, zip(*rows, strict=True)), strict=True)))
            )
        for frame in frames:
            if (events := frame.get("events")) is not None:
                put_events(self._db, plain(events))

    def _book_moves(self, partition: int, frame: Frame, keys: ManifestKeys, staged: Staged, changes: Changes) -> None:
        wanted = sorted(set(keys.redriven.values()))
        rows = self._db.execute(
            "SELECT partition, position, network, hour, decoded, refused, outcome, moved_by FROM quarantine_book "
            "WHERE partition = ? AND position IN (SELECT unnest(?))",
            [partition, wanted],
        ).fetchall()
        entries = {(p, at): BookEntry(*rest) for p, at, *rest in rows}
        entries |= {at: entry for at, entry in changes.quarantined.items() if at[1] in set(wanted)}
        origin = frame.origin
        assert origin is not None
        driven = {row: counts for (offset, row), counts in staged.redriven.items() if offset == origin[1]}
        books.move(frame, partition, entries, driven, changes)

    def _alerts(self, partition: int, frames: Sequence[Frame], staged: Staged, changes: Changes) -> None:
        del partition, staged, changes
        rows = joined([frame.sections["alerts"] for frame in frames])
        seq = pa.array(np.arange(self._alert_seq, self._alert_seq + rows.num_rows))
        self._insert("alerts", rows.add_column(0, "seq", seq))
        self._alert_seq += rows.num_rows

    def _rejected(self, partition: int, frames: Sequence[Frame], staged: Staged, changes: Changes) -> None:
        del staged, changes
        batches = [frame.sections["rejected"] for frame in frames]
        # Two columns are called refused: what was refused in readings, and the gateway's reason.
        names = list(batches[0].schema.names)
        names[len(names) - 1 - names[::-1].index("refused")] = "refused_by_gateway"
        rows = joined([pa.RecordBatch.from_arrays(batch.columns, names=names) for batch in batches])
        self._insert("rejected", rows.add_column(0, "partition", pa.array(np.full(rows.num_rows, partition, np.int32))))

    def _figures(self, partition: int, frames: Sequence[Frame], staged: Staged, changes: Changes) -> None:
        del partition, staged, changes
        put_figures(self._db, [frame.sections["figures"] for frame in frames])

    # --------------------------------------------------------------------------------------------------- helpers

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._db.register("inserting", rows)
        self._db.execute(f"INSERT INTO {table} SELECT * FROM inserting")  # noqa: S608 - our own table names
        self._db.unregister("inserting")

    def _save_books(self, changes: Changes) -> None:
        for (network, hour), amount in changes.counts.items():
            before = self._books.get((network, hour))
            after = (amount if before is None else before + amount).tolist()
            self._put(
                "ledger", {"network": network, "hour": hour}, dict(zip(books.COLUMNS, after, strict=True)), before
            )
        if changes.quarantined:
            entries = [
                (p, at, e.network, e.hour, e.decoded, e.refused, e.outcome, e.moved_by)
                for (p, at), e in changes.quarantined.items()
            ]
            columns = ("partition", "position", "network", "hour", "decoded", "refused", "outcome", "moved_by")
            replace(self._db, "quarantine_book", ("partition", "position"), columns, entries)

    def _save_progress(self, stream: str, partition: int, progress: Progress) -> None:
        at = self._progress.get((stream, partition))
        self._put("progress", {"stream": stream, "partition": partition}, progress._asdict(), at)

    def _put(self, table: str, key: dict[str, Any], row: dict[str, int], before: object | None) -> None:
        """Write one row; None ``before``: there is none with this key yet. One statement: each takes half a ms."""
        if before is None:
            places = ", ".join("?" * (len(row) + len(key)))
            sql = f"INSERT INTO {table} ({', '.join([*row, *key])}) VALUES ({places})"  # noqa: S608 - our own names
        else:
            sets, where = ", ".join(f"{c} = ?" for c in row), " AND ".join(f"{c} = ?" for c in key)
            sql = f"UPDATE {table} SET {sets} WHERE {where}"  # noqa: S608 - our own names
        self._db.execute(sql, [*row.values(), *key.values()])

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Lend a cursor for reading; closed afterwards.

        Raises:
            RetryLater: the database is being opened again after a failure.
        """
        try:
            cursor = self._db.cursor()
        except duckdb.Error as error:
            raise RetryLater(f"数据库 / store: {_first_line(error)}") from error
        try:
            yield cursor
        finally:
            cursor.close()

    def expire(self, before_us: int, rejected_before_us: int | None = None) -> int:
        """Delete what is old, by whole days; return how many readings.

        The books stay as they are: what was stored, or went into quarantine, did so. What was deleted since the
        beginning is kept for the audit; of messages, how many of which network, day and reason. For the writing
        thread, as :meth:`apply`.

        Args:
            before_us: readings, events and corrections of phenomena before this time.
            rejected_before_us: messages of the quarantine, and rejected commands, received before this time; None:
                all are kept.

        Raises:
            RetryLater: the store refuses; nothing was deleted.
        """
        if not self._loaded:
            self._reload()
        at = np.datetime64(before_us // DAY * DAY, "us").item()
        try:
            self._db.begin()
            if rejected_before_us is not None:
                expire_rejected(self._db, rejected_before_us // DAY)
            row = self._db.execute("DELETE FROM readings WHERE time < ?", [at]).fetchone()
            deleted = int(row[0]) if row else 0
            self._db.execute("DELETE FROM corrections WHERE time < ?", [at])
            self._db.execute("DELETE FROM events WHERE time < ?", [at])
            if deleted:
                replace(self._db, "meta", ("key",), ("key", "value"), [("expired", str(self.expired() + deleted))])
            self._db.commit()
        except duckdb.Error as error:
            self._undo()
            raise RetryLater(f"数据库 / store: {_first_line(error)}") from error
        return deleted

    def expired(self) -> int:
        """Return how many readings were deleted because of their age, ever."""
        with self.cursor() as db:
            row = db.execute("SELECT value FROM meta WHERE key = 'expired'").fetchone()
        return int(row[0]) if row else 0

    def backup(self, path: Path) -> None:
        """Copy the whole database into a new file while it is in use, as of one moment.

        Raises:
            FileExistsError: there is such a file already.
        """
        if path.exists():
            raise FileExistsError(f"{path} exists already: name a new file for the back-up")
        # Under another name first: what bears the name is whole.
        part = path.with_name(path.name + ".part")
        # One at a time: the name under which the copy is attached is known to all connections of the database.
        with self._copying, self.cursor() as db:
            part.unlink(missing_ok=True)
            db.execute(f"ATTACH '{_quoted(part)}' AS copy_to")
            try:
                name = db.execute("SELECT current_database()").fetchone()
                assert name is not None
                db.execute(f'COPY FROM DATABASE "{name[0]}" TO copy_to')
            finally:
                db.execute("DETACH copy_to")
            part.replace(path)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _book(row: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(books.COLUMNS, row.tolist(), strict=True))


def _first_line(error: duckdb.Error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
