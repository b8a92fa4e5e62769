"""Readings into a file, one station after the other: a whole export never stands in memory.

DuckDB writes the file, so that it is the same file that the DuckDB store writes.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

import duckdb
import numpy as np
import pyarrow as pa

from qingtu.clock import DAY
from qingtu.errors import QingtuError
from qingtu.store.influx.wide import fetch, join

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qingtu.store.influx.client import InfluxClient
    from qingtu.store.influx.wide import Key

_TIME: Final = pa.timestamp("us")
_SPAN: Final = 31 * DAY
"""Of one question, unless the range has hardly an end."""
_SPANS: Final = 1000
_FORMATS: Final = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER, TIMESTAMPFORMAT '%Y-%m-%dT%H:%M:%S.%fZ'",
}
SCHEMA: Final = pa.schema(
    [
        ("station", pa.string()), ("property", pa.string()), ("channel", pa.string()), ("time", _TIME),
        ("value", pa.float64()), ("flag", pa.uint8()), ("tests", pa.uint32()), ("revision", pa.int64()),
        ("known_at", _TIME),
    ]
)  # fmt: skip


def export_readings(
    client: InfluxClient, bucket: str, keys: Sequence[Key], path: Path, span_us: tuple[int, int], fmt: str
) -> int:
    """Write readings in order of station, property, channel and time; return how many.

    Args:
        client: the server.
        bucket: of readings.
        keys: (station, property, channel) of each series.
        path: the file to write.
        span_us: first time, inclusive, and last, exclusive.
        fmt: ``parquet`` or ``csv``.

    Raises:
        RetryLater: the server does not answer; the file is not whole.
    """
    failed: list[QingtuError] = []

    def stations() -> Iterator[pa.RecordBatch]:
        try:
            for _, some in groupby(sorted(set(keys)), key=lambda key: key[0]):
                yield from _station(client, bucket, list(some), span_us).to_batches()
        except QingtuError as error:
            failed.append(error)  # it does not come through DuckDB as itself
            raise

    target = str(path).replace("'", "''")
    with duckdb.connect() as db:
        db.register("stations", pa.RecordBatchReader.from_batches(SCHEMA, stations()))
        try:
            row = db.execute(f"COPY (FROM stations) TO '{target}' ({_FORMATS[fmt]})").fetchone()
        except duckdb.Error:
            if failed:
                raise failed[0] from None
            raise
    return int(row[0]) if row else 0


def _station(client: InfluxClient, bucket: str, keys: list[Key], span_us: tuple[int, int]) -> pa.Table:
    start, end = span_us
    step = _SPAN if end - start <= _SPANS * _SPAN else end - start
    found = join([fetch(client, bucket, keys, at, min(at + step, end)) for at in range(start, end, step)])
    found = found.take(np.lexsort((found.time, found.key)))
    v = found.versions
    names = [pa.array([key[i] for key in keys], pa.string()).take(pa.array(found.key)) for i in range(3)]
    columns = [
        *names, pa.array(found.time).cast(_TIME), pa.array(v.value, mask=np.isnan(v.value)), v.flag, v.tests,
        v.revision, pa.array(v.known_us).cast(_TIME),
    ]  # fmt: skip
    return pa.table(columns, schema=SCHEMA)
