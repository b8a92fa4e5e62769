"""The newest reading of every series, in arrays by series number. No thread, no clock.

What becomes of a time that is known already is the store's rule (:mod:`qingtu.store.merging`), so that the page and the
store never say different things of one reading.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qingtu.records import Cause, is_verdict, times_of
from qingtu.store.merging import NONE, Versions, merge
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
    """Latest readings. A newer time moves a series; the same time is merged as the store merges it; nothing else.

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
        cause = np.asarray(batch.column("cause"))
        held = self.time[series]
        said = is_verdict(cause)
        # A verdict brings no reading: it moves no time.
        newer = np.flatnonzero((time > held) & ~said)
        np.maximum.at(self.time, series[newer], time[newer])
        rows = np.flatnonzero((time == self.time[series]) & ((time > held) | ((time == held) & (held != NEVER))))
        often = np.bincount(series[rows], minlength=len(self.time)) > 1
        rest = (time[rows] == held[rows]) | often[series[rows]] | said[rows]
        new = Versions(value, flag, tests, revision, known, cause)
        moved = np.zeros(len(series), np.bool_)
        self._set(series, rows[~rest], new, moved)
        if rest.any():
            rest = rows[rest]
            self._merge(series, rest[np.lexsort((revision[rest], series[rest]))], time == held, new, moved)
        # What is driven again was heard long ago; what a person, a check or the neighbours say of it is no receipt.
        received = cause == Cause.READING
        np.maximum.at(self.heard, series[received], known[received])
        return Rows(series, time, value, flag, tests, moved)

    def _set(self, series: NDArray[np.int32], rows: NDArray[np.int64], new: Versions, moved: NDArray[np.bool_]) -> None:
        """Let these rows, one a series, be the latest."""
        s = series[rows]
        for name in ("value", "flag", "tests", "revision"):
            getattr(self, name)[s] = getattr(new, name)[rows]
        moved[rows] = True

    def _merge(
        self,
        series: NDArray[np.int32],
        rows: NDArray[np.int64],
        known_before: NDArray[np.bool_],
        new: Versions,
        moved: NDArray[np.bool_],
    ) -> None:
        """Apply rows of the latest time, sorted by series and revision, as the store does."""
        s = series[rows]
        starts = np.ones(len(s), np.bool_)
        starts[1:] = s[1:] != s[:-1]
        mine, key = s[starts], np.cumsum(starts) - 1
        zeros = np.zeros(len(mine), np.uint8)
        old = Versions(
            self.value[mine], self.flag[mine], self.tests[mine], self.revision[mine], self.heard[mine], zeros
        )
        first = np.where(known_before[rows[starts]], np.arange(len(mine)), NONE)
        now = merge(key, first, new.take(rows).behind(old)).now - len(mine)
        self._set(series, rows[now[now >= 0]], new, moved)

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
