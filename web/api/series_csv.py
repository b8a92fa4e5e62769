"""A series as CSV: all readings of a range, however many, in pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from qingtu.clock import DAY, iso
from web import words
from web.api.csv import csv_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import ReadingQuery
    from qingtu.store.contract import PrimaryStore

PIECE_ROWS: Final = 50_000
"""Readings in memory at once, at most."""
HEAD: Final = (
    "time", "station", "name_zh", "name_en", "property", "channel", "value", "unit", "flag", "tests", "revision",
    "known_at",
)  # fmt: skip


def pieces(store: PrimaryStore, query: ReadingQuery, limit: int = PIECE_ROWS) -> Iterator[pa.Table]:
    """Yield the readings of a range in the order of their times, each piece as the store holds it then.

    Args:
        store: is asked for one stretch of time after the other; a stretch that holds too much is asked for in parts.
        query: of one series; its own limit does not count.
        limit: readings of a piece at most.
    """
    at, step = query.start_us, DAY
    while at < query.end_us:
        end = min(at + step, query.end_us)
        table = store.readings(replace(query, start_us=at, end_us=end, limit=limit + 1))
        if table.num_rows > limit:  # a series has one reading of a time, so a stretch of so many µs never does
            step = max(limit, (end - at) // 4)
            continue
        yield table
        at = end
        if table.num_rows * 4 <= limit:  # ten thousand years with nothing in them take 22 questions
            step *= 2


def lines(catalogue: Catalogue, key: tuple[str, str, str], unit: str, tables: Iterator[pa.Table]) -> Iterator[str]:
    """Yield CSV text: the line with the names, and the rows of each table.

    Args:
        catalogue: names the station.
        key: station, property, channel.
        unit: of the values.
        tables: of :func:`pieces`.
    """
    yield csv_lines([HEAD])
    station = catalogue.stations.get(key[0])
    names = (station.zh, station.en) if station else ("", "")
    checks = {int(bit): words_["key"] for bit, words_ in words.tests().items()}

    def failed(tests: int) -> str:
        return " ".join(checks.get(bit, str(bit)) for bit in range(32) if tests >> bit & 1)

    def row(time: int, value: Any, flag: int, tests: int, revision: int, known: int) -> tuple[Any, ...]:
        return iso(time), key[0], *names, *key[1:], value, unit, flag, failed(tests), revision, iso(known)

    for table in tables:
        columns = [table.column(n).to_pylist() for n in ("time", "value", "flag", "tests", "revision", "known_at")]
        if table.num_rows:
            yield csv_lines(row(*cells) for cells in zip(*columns, strict=True))
