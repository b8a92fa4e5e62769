"""How readings are written: what is newer than its series is appended, only the rest is merged.

A merged row whose key is stored with another value, flag or tests replaces it, and what it replaced goes to
``corrections``. Which row wins is worked out in :mod:`qingtu.store.merging`; here stands how rows come from the
database and go into it. However often a frame names a key, the database is asked once a day of readings and written
to three times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from qingtu.clock import DAY
from qingtu.grouped import NEVER, advance
from qingtu.records import Cause, Frame, is_verdict, times_of
from qingtu.store.merging import NEW, NONE, REVISED, UNCHANGED, Versions, merge

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

    from qingtu.store.books import Changes, ManifestKeys
    from qingtu.store.names import SeriesNames

_STAMP = pa.timestamp("us")
_BEFORE: Final = """
SELECT m.ord, r.rowid AS id, coalesce(r.value, 'NaN'::DOUBLE), r.flag, r.tests, r.revision, epoch_us(r.known_at)
FROM merging m JOIN (SELECT rowid, * FROM readings WHERE time >= ? AND time < ?) r
    ON r.series = m.series AND r.time = m.time
"""
# Rows are told by rowid, which stays what it is within a transaction: no second look for the keys.
_UPDATE: Final = """
UPDATE readings SET value = m.value, flag = m.flag, tests = m.tests, revision = m.revision, known_at = m.known_at
FROM merging m WHERE readings.rowid = m.id
"""
_CORRECTION: Final = (
    "series", "time", "old_value", "old_flag", "old_tests", "old_revision", "old_known_at",
    "new_value", "new_flag", "new_tests", "new_revision", "known_at", "cause",
)  # fmt: skip
_COUNTED: Final = {NEW: "r_stored", REVISED: "r_revised", UNCHANGED: "r_repeated"}


@dataclass(slots=True)
class Staged:
    """What a transaction will have done once it is committed.

    Attributes:
        newest: int64 (series,), newest time of each series as it will be.
        readings, revised, unchanged: counts of rows.
        redriven: (frame origin, raw row) of re-driven messages → readings that were new, revised, unchanged.
    """

    newest: NDArray[np.int64]
    readings: int = 0
    revised: int = 0
    unchanged: int = 0
    redriven: dict[tuple[int, int], list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Rows:
    """Rows of readings, shape (m,) each: series numbers, times in µs UTC, and what stands under these keys."""

    series: NDArray[np.int32]
    time: NDArray[np.int64]
    versions: Versions

    def take(self, which: NDArray[Any]) -> _Rows:
        """Return some of them: a mask or places."""
        return _Rows(self.series[which], self.time[which], self.versions.take(which))

    def table(self) -> pa.Table:
        """Return them as they stand in ``readings``."""
        return pa.table({"series": self.series, "time": pa.array(self.time).view(_STAMP), **_columns(self.versions)})


class Writer:
    """Writes the readings of processed frames inside a transaction that the store has begun."""

    def __init__(self, names: SeriesNames) -> None:
        self._names = names

    def write(
        self,
        db: duckdb.DuckDBPyConnection,
        frames: list[tuple[Frame, ManifestKeys | None]],
        staged: Staged,
        changes: Changes,
    ) -> None:
        """Write all readings of the frames in order and count them."""
        # All frames at once: some twenty calls a frame of 200 messages cost more than their work.
        found = [(frame, keys, batch) for frame, keys in frames if (batch := frame.get("readings")) is not None]
        if not found:
            return
        rows = self._rows([batch for _, _, batch in found])
        if len(self._names) > len(staged.newest):
            more = np.full(2 * len(self._names) - len(staged.newest), NEVER, np.int64)
            staged.newest = np.concatenate([staged.newest, more])
        fast = self._newer(rows, staged)
        staged.readings += int(fast.sum())
        begin = written = 0
        for frame, keys, batch in found:
            end = begin + batch.num_rows
            if keys is not None:
                self._count(frame, rows, begin + np.flatnonzero(fast[begin:end]), keys, "r_stored", staged, changes)
            rest = begin + np.flatnonzero(~fast[begin:end])
            if len(rest):
                # Rows that were appended before must be there to be merged with.
                self._append(db, rows.take(written + np.flatnonzero(fast[written:end])))
                written = end
                self._merge_rest(db, frame, rows, rest, keys, staged, changes)
            begin = end
        self._append(db, rows.take(written + np.flatnonzero(fast[written:])) if written else rows)

    def _rows(self, batches: list[pa.RecordBatch]) -> _Rows:
        def column(name: str) -> NDArray[Any]:
            out: NDArray[Any] = np.concatenate([np.asarray(batch.column(name)) for batch in batches])
            return out

        def times(name: str) -> NDArray[np.int64]:
            return np.concatenate([times_of(batch.column(name)) for batch in batches])

        value, flag, tests, revision, cause = map(column, ("value", "flag", "tests", "revision", "cause"))
        versions = Versions(value, flag, tests, revision, times("known_at"), cause)
        return _Rows(self._names.numbers(*batches), times("time"), versions)

    @staticmethod
    def _append(db: duckdb.DuckDBPyConnection, rows: _Rows) -> None:
        if len(rows.time):
            _with(db, "INSERT INTO readings SELECT * FROM merging", rows.table())

    @staticmethod
    def _newer(rows: _Rows, staged: Staged) -> NDArray[np.bool_]:
        """Say which rows are newer than all before them in their series, and move ``newest``."""
        fresh = ~is_verdict(rows.versions.cause)
        order = np.flatnonzero(fresh)
        if (rows.series[order][1:] < rows.series[order][:-1]).any():
            order = order[np.argsort(rows.series[order], kind="stable")]
        series, time = rows.series[order], rows.time[order]
        before = advance(series, time, staged.newest)
        out = np.zeros(len(rows.series), np.bool_)
        out[order] = time > before
        return out

    def _merge_rest(
        self,
        db: duckdb.DuckDBPyConnection,
        frame: Frame,
        rows: _Rows,
        which: NDArray[np.int64],
        keys: ManifestKeys | None,
        staged: Staged,
        changes: Changes,
    ) -> None:
        """Merge the rows ``which`` into what is stored, and count them."""
        # By key, and within a key as revisions count; lexsort is stable, so a verdict stays behind its value.
        which = which[np.lexsort((rows.versions.revision[which], rows.time[which], rows.series[which]))]
        state = self._merge(db, rows.take(which))
        staged.readings += int((state == NEW).sum())
        staged.revised += int((state == REVISED).sum())
        staged.unchanged += int((state == UNCHANGED).sum())
        if keys is not None:
            for code, column in _COUNTED.items():
                self._count(frame, rows, which[state == code], keys, column, staged, changes)

    def _merge(self, db: duckdb.DuckDBPyConnection, rows: _Rows) -> NDArray[np.uint8]:
        """Merge rows, sorted by key, into what is stored; return what became of each, as ``Merged.state``."""
        starts = np.ones(len(rows.time), np.bool_)
        starts[1:] = (rows.series[1:] != rows.series[:-1]) | (rows.time[1:] != rows.time[:-1])
        keys = rows.take(starts)
        held, ids, stored = _stored(db, keys)
        first = np.full(len(keys.time), NONE, np.int64)
        first[held] = np.arange(len(held))
        versions = rows.versions.behind(stored)
        merged = merge(np.cumsum(starts) - 1, first, versions)
        if (revised := merged.state == REVISED).any():
            self._correct(db, rows.take(revised), versions.take(merged.replaced[revised]))
        now = merged.now[held]
        if (changed := now != first[held]).any():
            _with(db, _UPDATE, pa.table({"id": ids[changed], **_columns(versions.take(now[changed]))}))
        new = (first == NONE) & (merged.now != NONE)
        self._append(db, _Rows(keys.series[new], keys.time[new], versions.take(merged.now[new])))
        return merged.state

    @staticmethod
    def _correct(db: duckdb.DuckDBPyConnection, new: _Rows, old: Versions) -> None:
        """Keep what was replaced by what, shape (n,) both: every step, also between rows of one frame."""
        after = new.table()
        before = [pa.array(column) for column in _columns(old).values()]
        columns = [*after.columns[:2], *before, *after.columns[2:], pa.array(new.versions.cause)]
        _with(db, "INSERT INTO corrections SELECT * FROM merging", pa.table(columns, names=_CORRECTION))

    @staticmethod
    def _count(
        frame: Frame,
        rows: _Rows,
        which: NDArray[np.int64],
        keys: ManifestKeys,
        column: str,
        staged: Staged,
        changes: Changes,
    ) -> None:
        """Count the rows ``which`` of a frame under their (network, hour).

        Quality's own revisions and re-driven rows are booked apart.
        """
        cause = rows.versions.cause[which]
        if len(keys.keys) == 1 and not keys.redriven and not cause.any():  # usual
            if len(which):
                changes.add(keys.keys[0], column, len(which))
            return
        row = rows.versions.revision[which] & 0xFFFF
        sums = np.bincount(keys.of_row[row[cause == Cause.READING]], minlength=len(keys.keys))
        decided = cause == Cause.QUALITY_DECIDED
        again = np.bincount(keys.of_row[row[decided]], minlength=len(keys.keys))
        for k, key in enumerate(keys.keys):
            if sums[k]:
                changes.add(key, column, int(sums[k]))
            if again[k] and column == "r_revised":
                changes.add(key, "reflagged", int(again[k]))
        if keys.redriven:
            origin = frame.origin
            assert origin is not None
            for i in np.flatnonzero(cause == Cause.REDRIVE).tolist():
                counts = staged.redriven.setdefault((origin[1], int(row[i])), [0, 0, 0])
                counts[list(_COUNTED.values()).index(column)] += 1


def _stored(db: duckdb.DuckDBPyConnection, keys: _Rows) -> tuple[NDArray[np.int64], NDArray[np.int64], Versions]:
    """Return which of the distinct keys (k,) are stored, where (rowid), and what stands there; shape (held,) each."""
    wanted = pa.table(
        {"series": keys.series, "time": pa.array(keys.time).view(_STAMP), "ord": np.arange(len(keys.time))}
    )
    day = keys.time // DAY
    found = []
    for number in np.unique(day).tolist():
        # One day at a time keeps the part of the table small that is looked through.
        span = [np.datetime64(at, "us").item() for at in (number * DAY, (number + 1) * DAY)]
        db.register("merging", wanted.filter(pa.array(day == number)))
        found.append(db.execute(_BEFORE, span).fetchnumpy())
        db.unregister("merging")
    held, ids, value, flag, tests, revision, known = (
        np.concatenate([np.asarray(part[name]) for part in found]) for name in found[0]
    )
    return held, ids, Versions(value, flag, tests, revision, known, np.zeros(len(held), np.uint8))


def _columns(versions: Versions) -> dict[str, Any]:
    """Return the columns of ``readings`` behind series and time."""
    return {
        "value": pa.array(versions.value, mask=np.isnan(versions.value)),
        "flag": versions.flag,
        "tests": versions.tests,
        "revision": versions.revision,
        "known_at": pa.array(versions.known_us).view(_STAMP),
    }


def _with(db: duckdb.DuckDBPyConnection, sql: str, rows: pa.Table) -> None:
    """Execute a statement that reads ``rows`` under the name merging."""
    db.register("merging", rows)
    db.execute(sql)
    db.unregister("merging")
