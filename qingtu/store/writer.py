"""How readings are written: what is newer than its series is appended, only the rest is merged.

A merged row whose key is stored with another value, flag or tests replaces it, and what it replaced goes to
``corrections``; the greatest revision wins. A late verdict of quality speaks of a value: it changes flags only while
that value still stands, also when the message that decided it is the one that brought the value (equal revisions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from qingtu.clock import DAY
from qingtu.grouped import NEVER, advance
from qingtu.records import Cause, Frame, times_of

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

    from qingtu.store.books import Changes, ManifestKeys
    from qingtu.store.names import SeriesNames

_STAMP = pa.timestamp("us")
_BEFORE: Final = """
SELECT m.ord, r.value IS NOT DISTINCT FROM m.value AS same_value, r.flag = m.flag AND r.tests = m.tests AS same_flag,
    r.revision
FROM merging m JOIN (SELECT * FROM readings WHERE time >= ? AND time < ?) r ON r.series = m.series AND r.time = m.time
"""
_CORRECT: Final = """
INSERT INTO corrections
SELECT r.series, r.time, r.value, r.flag, r.tests, r.revision, r.known_at,
       m.value, m.flag, m.tests, m.revision, m.known_at, m.cause
FROM merging m JOIN (SELECT * FROM readings WHERE time >= ? AND time < ?) r ON r.series = m.series AND r.time = m.time
"""
_UPDATE: Final = """
UPDATE readings SET value = m.value, flag = m.flag, tests = m.tests, revision = m.revision, known_at = m.known_at
FROM merging m
WHERE readings.time >= ? AND readings.time < ? AND readings.series = m.series AND readings.time = m.time
"""
_COUNTED: Final = ("r_stored", "r_revised", "r_repeated")


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
    """Columns of readings, shape (m,) each; ``key`` is an index into ManifestKeys.keys, ``row`` the raw row."""

    series: NDArray[np.int32]
    time: NDArray[np.int64]
    columns: dict[str, Any]
    cause: NDArray[np.uint8]
    revision: NDArray[np.int64]

    def table(self, mask: NDArray[Any]) -> pa.Table:
        """Return the rows under the mask as they stand in ``readings``."""
        value = self.columns["value"][mask]
        return pa.table(
            {
                "series": self.series[mask],
                "time": pa.array(self.time[mask]).cast(_STAMP),
                "value": pa.array(value, mask=np.isnan(value)),
                "flag": self.columns["flag"][mask],
                "tests": self.columns["tests"][mask],
                "revision": self.revision[mask],
                "known_at": pa.array(self.columns["known_at"][mask]).cast(_STAMP),
            }
        )


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
        appended = []
        for frame, keys in frames:
            batch = frame.get("readings")
            if batch is None:
                continue
            rows = self._rows(batch)
            if len(self._names) > len(staged.newest):
                more = np.full(2 * len(self._names) - len(staged.newest), NEVER, np.int64)
                staged.newest = np.concatenate([staged.newest, more])
            fast = self._newer(rows, staged)
            if keys is not None:
                self._count(frame, rows, fast, keys, "r_stored", staged, changes)
            appended.append(rows.table(fast))
            staged.readings += int(fast.sum())
            if not fast.all():
                # Rows of this batch that were appended before must be there to be merged with.
                self._append(db, appended)
                appended = []
                self._merge(db, frame, rows, np.flatnonzero(~fast), keys, staged, changes)
        self._append(db, appended)

    def _rows(self, batch: pa.RecordBatch) -> _Rows:
        return _Rows(
            self._names.numbers(batch),
            times_of(batch.column("time")),
            {
                "value": np.asarray(batch.column("value")),
                "flag": np.asarray(batch.column("flag")),
                "tests": np.asarray(batch.column("tests")),
                "known_at": times_of(batch.column("known_at")),
            },
            np.asarray(batch.column("cause")),
            np.asarray(batch.column("revision")),
        )

    @staticmethod
    def _append(db: duckdb.DuckDBPyConnection, tables: list[pa.Table]) -> None:
        tables = [table for table in tables if table.num_rows]
        if tables:
            db.register("appending", pa.concat_tables(tables))
            db.execute("INSERT INTO readings SELECT * FROM appending")
            db.unregister("appending")

    @staticmethod
    def _newer(rows: _Rows, staged: Staged) -> NDArray[np.bool_]:
        """Say which rows are newer than all before them in their series, and move ``newest``."""
        fresh = rows.cause != Cause.QUALITY_DECIDED
        order = np.flatnonzero(fresh)
        if (rows.series[order][1:] < rows.series[order][:-1]).any():
            order = order[np.argsort(rows.series[order], kind="stable")]
        series, time = rows.series[order], rows.time[order]
        before = advance(series, time, staged.newest)
        out = np.zeros(len(rows.series), np.bool_)
        out[order] = time > before
        return out

    def _merge(
        self,
        db: duckdb.DuckDBPyConnection,
        frame: Frame,
        rows: _Rows,
        which: NDArray[np.int64],
        keys: ManifestKeys | None,
        staged: Staged,
        changes: Changes,
    ) -> None:
        """Merge rows in rounds, so that each round holds a key once and later rows see what earlier ones did."""
        which = which[np.argsort(rows.revision[which], kind="stable")]
        seen: dict[tuple[int, int], int] = {}
        rounds: dict[tuple[int, int], list[int]] = {}
        for i in which.tolist():
            key = (int(rows.series[i]), int(rows.time[i]))
            seen[key] = seen.get(key, -1) + 1
            # One day at a time keeps the part of the table small that is looked through.
            rounds.setdefault((seen[key], key[1] // DAY), []).append(i)
        for (_, day), members in sorted(rounds.items()):
            self._merge_round(db, frame, rows, np.array(members, np.int64), day, keys, staged, changes)

    def _merge_round(
        self,
        db: duckdb.DuckDBPyConnection,
        frame: Frame,
        rows: _Rows,
        which: NDArray[np.int64],
        day: int,
        keys: ManifestKeys | None,
        staged: Staged,
        changes: Changes,
    ) -> None:
        span = [np.datetime64(at, "us").item() for at in (day * DAY, (day + 1) * DAY)]
        table = rows.table(which).append_column("cause", pa.array(rows.cause[which]))
        db.register("merging", table.append_column("ord", pa.array(np.arange(len(which)))))
        found = db.execute(_BEFORE, span).fetchnumpy()
        decided = rows.cause[which] == Cause.QUALITY_DECIDED
        # A verdict about a reading that is gone (expired) does not bring it back.
        state = np.where(decided, np.uint8(2), np.uint8(0))  # 0 new, 1 revised, 2 unchanged
        at = np.asarray(found["ord"], np.int64)
        revision, before = rows.revision[which][at], np.asarray(found["revision"], np.int64)
        same_value, same_flag = (np.asarray(found[name], np.bool_) for name in ("same_value", "same_flag"))
        verdict = decided[at] & same_value & (before <= revision)
        newer = (verdict | (~decided[at] & (before < revision))) & ~(same_value & same_flag)
        state[at] = np.where(newer, 1, 2)
        db.unregister("merging")
        if (revised := which[state == 1]).size:
            changed = rows.table(revised).append_column("cause", pa.array(rows.cause[revised]))
            db.register("merging", changed)
            db.execute(_CORRECT, span)
            db.execute(_UPDATE, span)
            db.unregister("merging")
        self._append(db, [rows.table(which[state == 0])])
        staged.readings += int((state == 0).sum())
        staged.revised += len(revised)
        staged.unchanged += int((state == 2).sum())
        if keys is not None:
            for code, column in enumerate(_COUNTED):
                mask = np.zeros(len(rows.series), np.bool_)
                mask[which[state == code]] = True
                self._count(frame, rows, mask, keys, column, staged, changes)

    @staticmethod
    def _count(
        frame: Frame,
        rows: _Rows,
        mask: NDArray[np.bool_],
        keys: ManifestKeys,
        column: str,
        staged: Staged,
        changes: Changes,
    ) -> None:
        """Count rows under their (network, hour). Quality's own revisions and re-driven rows are booked apart."""
        row = (rows.revision & 0xFFFF).astype(np.int64)
        own = mask & (rows.cause == Cause.READING)
        sums = np.bincount(keys.of_row[row[own]], minlength=len(keys.keys))
        decided = mask & (rows.cause == Cause.QUALITY_DECIDED)
        again = np.bincount(keys.of_row[row[decided]], minlength=len(keys.keys))
        for k, key in enumerate(keys.keys):
            if sums[k]:
                changes.add(key, column, int(sums[k]))
            if again[k] and column == "r_revised":
                changes.add(key, "reflagged", int(again[k]))
        if keys.redriven:
            origin = frame.origin
            assert origin is not None
            for i in np.flatnonzero(mask & (rows.cause == Cause.REDRIVE)).tolist():
                counts = staged.redriven.setdefault((origin[1], int(row[i])), [0, 0, 0])
                counts[_COUNTED.index(column)] += 1
