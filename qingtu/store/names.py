"""Series numbers of a store: dense integers for (station, property, channel), looked up on whole arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qingtu.records import codes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from numpy.typing import NDArray


class SeriesNames:
    """Numbers by name. Numbers that are new since the last :meth:`saved` are listed in ``unsaved``."""

    def __init__(self, rows: Iterable[tuple[int, str, str, str]] = ()) -> None:
        self._stations: dict[str, int] = {}
        self._properties: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._table: NDArray[np.int32] = np.full((1, 64, 32), -1, np.int32)
        self.keys: list[tuple[str, str, str]] = []
        self.unsaved: list[int] = []
        self._index: dict[tuple[str, str, str], int] = {}
        for number, *key in sorted(rows):
            if number != len(self.keys):
                raise ValueError(f"series numbers are not dense at {number}")
            self._add((key[0], key[1], key[2]))
        self.unsaved.clear()

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, key: tuple[str, str, str]) -> int | None:
        """Return the number of a (station, property, channel), or None."""
        return self._index.get(key)

    def has_station(self, station: str) -> bool:
        """Return whether a series of this station has a number."""
        return station in self._stations

    def numbers(self, *batches: pa.RecordBatch) -> NDArray[np.int32]:
        """Return the series number of each row of ``READINGS`` batches, one behind the other; new series get one."""
        tables = {"station": self._stations, "property": self._properties, "channel": self._channels}
        found = [[self._codes(table, batch.column(name)) for name, table in tables.items()] for batch in batches]
        self._grow()
        _, height, width = self._table.shape
        # Places in the flat table, multiplied by name and not by row.
        at = np.concatenate(
            [
                (channels * (height * width))[c] + (stations * width)[s] + properties[p]
                for (s, stations), (p, properties), (c, channels) in found
            ]
        )
        out: NDArray[np.int32] = self._table.reshape(-1)[at]
        if (out >= 0).all():
            return out
        names = [list(table) for table in tables.values()]
        for place in at[out < 0].tolist():
            key = (names[0][place // width % height], names[1][place % width], names[2][place // (height * width)])
            if key not in self._index:
                self._add(key)
        return self.numbers(*batches)

    def _codes(self, table: dict[str, int], column: pa.DictionaryArray) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return which name each row has, and the codes of the names; new ones get the next, so a table is in order."""
        rows, names = codes_of(column)
        codes = list(map(table.get, names))
        if None in codes:
            codes = [self._code(table, name) for name in names]
        return rows, np.array(codes, np.int64)

    def saved(self) -> None:
        """Note that ``unsaved`` is kept."""
        self.unsaved.clear()

    @staticmethod
    def _code(table: dict[str, int], name: str) -> int:
        code = table.get(name)
        return table.setdefault(name, len(table)) if code is None else code

    def _grow(self) -> None:
        need = (len(self._channels), len(self._stations), len(self._properties))
        have = self._table.shape
        if any(n > h for n, h in zip(need, have, strict=True)):
            shape = tuple(h if n <= h else max(2 * h, n) for n, h in zip(need, have, strict=True))
            larger: NDArray[np.int32] = np.full(shape, -1, np.int32)
            larger[: have[0], : have[1], : have[2]] = self._table
            self._table = larger

    def _add(self, key: tuple[str, str, str]) -> None:
        s, p, c = (
            self._code(t, n) for t, n in zip((self._stations, self._properties, self._channels), key, strict=True)
        )
        self._grow()
        self._table[c, s, p] = self._index[key] = len(self.keys)
        self.unsaved.append(len(self.keys))
        self.keys.append(key)
