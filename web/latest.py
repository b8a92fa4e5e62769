"""The newest reading of every series, in arrays by series number. No thread, no clock."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qingtu.records import Cause, times_of
from qingtu.store.names import SeriesNames

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

NEVER: Final = -(1 << 62)
_STATE: Final = (
    ("time", np.dtype(np.int64), NEVER),
    ("revision", np.dtype(np.int64), -1),
    ("heard", np.dtype(np.int64), NEVER),
    ("value", np.dtype(np.float64), np.nan),
    ("flag", np.dtype(np.uint8), 2),
    ("tests", np.dtype(np.uint32), 0),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Readings of one frame, shape (n,) each; ``moved`` tells which became their series' latest.

    Attributes:
        series: int32, number in :attr:`Latest.names`.
        time_us: int64.
        value: float64, NaN when missing.
        flag: uint8.
        tests: uint32.
        moved: bool.
    """

    series: NDArray[np.int32]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    flag: NDArray[np.uint8]
    tests: NDArray[np.uint32]
    moved: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.series)

    @classmethod
    def joined(cls, blocks: Sequence[Rows]) -> Rows:
        """Put blocks behind each other."""
        return cls(*(np.concatenate([getattr(block, column.name) for block in blocks]) for column in fields(cls)))

    def take(self, which: NDArray[np.int64] | slice) -> Rows:
        """Return some of the rows."""
        return Rows(*(getattr(self, column.name)[which] for column in fields(self)))

    def thinned(self) -> Rows:
        """Return of each series the last row that became its latest, in the order of rows."""
        moved = np.flatnonzero(self.moved)
        last = np.zeros(int(self.series.max(initial=-1)) + 1, np.int64)
        last[self.series[moved]] = moved + 1  # of several the last assignment stays
        return self.take(np.sort(last[last > 0]) - 1)


class Latest:
    """Latest readings. A newer time moves a series; the same time with a greater revision replaces; nothing else.

    Attributes:
        names: numbers of series, local to this object.
        time, revision, heard: int64 (series,), µs UTC and position; ``heard`` is the newest time of receipt.
        value: float64 (series,).
        flag: uint8 (series,).
        tests: uint32 (series,).
    """

    time: NDArray[np.int64]
    revision: NDArray[np.int64]
    heard: NDArray[np.int64]
    value: NDArray[np.float64]
    flag: NDArray[np.uint8]
    tests: NDArray[np.uint32]

    def __init__(self) -> None:
        self.names = SeriesNames()
        for name, dtype, empty in _STATE:
            setattr(self, name, np.full(256, empty, dtype))

    def __len__(self) -> int:
        return len(self.names)

    def start(self, table: pa.Table) -> None:
        """Take up what the store holds: columns of :meth:`qingtu.store.contract.PrimaryStore.latest`."""
        if not table.num_rows:
            return
        for column in ("station", "property", "channel"):
            at = table.schema.get_field_index(column)
            table = table.set_column(at, column, table.column(column).dictionary_encode())
        batch = table.combine_chunks().to_batches()[0]
        series = self._numbers(batch)
        self.time[series] = np.asarray(batch.column("time"))
        self.value[series] = batch.column("value").to_numpy(zero_copy_only=False)
        self.flag[series] = np.asarray(batch.column("flag"))
        self.tests[series] = np.asarray(batch.column("tests"))
        self.revision[series] = np.asarray(batch.column("revision"))
        self.heard[series] = np.asarray(batch.column("known_at"))

    def apply(self, batch: pa.RecordBatch) -> Rows:
        """Take a ``READINGS`` batch up; applying one again changes nothing."""
        series = self._numbers(batch)
        time = times_of(batch.column("time"))
        value = np.asarray(batch.column("value"))
        flag, tests = np.asarray(batch.column("flag")), np.asarray(batch.column("tests"))
        revision = np.asarray(batch.column("revision"))
        known = times_of(batch.column("known_at"))
        now = self.time[series]
        rows = np.flatnonzero((time > now) | ((time == now) & (revision >= self.revision[series])))
        s, t, r = series[rows], time[rows], revision[rows]
        # Of several rows of one series the last assignment stays: usually the newest, as arrival is in order.
        self.time[s], self.revision[s] = t, r
        now = self.time[s]
        if ((t > now) | ((t == now) & (r > self.revision[s]))).any():
            order = np.lexsort((r, t))
            rows, s, t, r = rows[order], s[order], t[order], r[order]
            self.time[s], self.revision[s] = t, r
        final = (t == self.time[s]) & (r == self.revision[s])
        rows, s = rows[final], s[final]
        self.value[s], self.flag[s], self.tests[s] = value[rows], flag[rows], tests[rows]
        # What is driven again was heard long ago.
        driven = np.asarray(batch.column("cause")) == Cause.REDRIVE
        if driven.any():
            np.maximum.at(self.heard, series[~driven], known[~driven])
        else:
            np.maximum.at(self.heard, series, known)
        moved = np.zeros(len(series), np.bool_)
        moved[rows] = True
        return Rows(series, time, value, flag, tests, moved)

    def copy(self) -> dict[str, NDArray[Any]]:
        """Return copies of all arrays, cut to the series that exist."""
        return {name: getattr(self, name)[: len(self.names)].copy() for name, _, _ in _STATE}

    def _numbers(self, batch: pa.RecordBatch) -> NDArray[np.int32]:
        series = self.names.numbers(batch)
        self.names.saved()
        need, have = len(self.names), len(self.time)
        if need > have:
            for name, dtype, empty in _STATE:
                more = np.full(max(need, 2 * have) - have, empty, dtype)
                setattr(self, name, np.concatenate([getattr(self, name), more]))
        return series
