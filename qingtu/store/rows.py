"""Small writes of the DuckDB store beside readings: figures, events, books, what expires. Each in a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qingtu.clock import DAY
from qingtu.store.queries import IN_QUARANTINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

_FIGURE_KEY: Final = ("what", "station", "property", "channel", "start")
_PUBLISHED: Final = ("value", "count", "expected", "valid", "reason")
"""A figure is another one when one of these differs, or the statistics beside the value (``inputs.stats``)."""
_CORRECTED: Final = (*_PUBLISHED, "inputs", "revision")


def put_figures(db: duckdb.DuckDBPyConnection, batches: Sequence[pa.RecordBatch]) -> None:
    """Add figures (``FIGURE_ROWS``); one that changes is a correction."""
    # The starts let the database skip what is far away: the table has years, a tick makes a few periods.
    key = " AND ".join(f"f.{column} = n.{column}" for column in _FIGURE_KEY)
    near = "f.start >= (SELECT min(start) FROM made) AND f.start <= (SELECT max(start) FROM made)"
    same = " AND ".join(f"f.{column} IS NOT DISTINCT FROM n.{column}" for column in _PUBLISHED)
    same += " AND json_extract(f.inputs, '$.stats') IS NOT DISTINCT FROM json_extract(n.inputs, '$.stats')"
    made_at = [
        batch.filter(pc.equal(batch.column("revision"), tick))
        for batch in batches
        # A frame may hold a window again: what each tick made replaces what the one before had made.
        for tick in np.unique(np.asarray(batch.column("revision"))).tolist()
    ]
    both = ", ".join(f"{side}.{c} AS {name}_{c}" for side, name in (("f", "old"), ("n", "new")) for c in _CORRECTED)
    for batch in made_at:
        made = plain(batch)
        place = made.schema.get_field_index("value")
        value = made.column("value").to_numpy()
        db.register("made", made.set_column(place, "value", pa.array(value, mask=np.isnan(value))))
        db.execute(
            f"INSERT INTO figure_corrections BY NAME SELECT f.what, f.station, f.property, f.channel, f.start, {both}, "  # noqa: S608
            f"f.known_at AS old_known_at, n.known_at FROM made n JOIN figures f ON {key} "
            f"WHERE {near} AND NOT ({same})"
        )
        # What is the same keeps its first revision: it was known since then.
        db.execute(f"DELETE FROM figures f USING made n WHERE {key} AND {near} AND NOT ({same})")  # noqa: S608
        db.execute(
            f"INSERT INTO figures SELECT * FROM made n WHERE NOT EXISTS (FROM figures f WHERE {key} AND {near})"  # noqa: S608
        )
        db.unregister("made")


def put_events(db: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    """Add events that are not there yet: a message that is driven again brings its events again."""
    db.register("happened", rows)
    # Within the frame as against the table, so that the cut into frames makes no difference.
    db.execute(
        "INSERT INTO events SELECT * FROM happened n WHERE NOT EXISTS (FROM events e WHERE e.time = n.time "
        "AND e.station = n.station AND e.kind = n.kind AND e.attributes = n.attributes "
        "AND e.time >= (SELECT min(time) FROM happened)) "
        "QUALIFY row_number() OVER (PARTITION BY station, kind, time, attributes ORDER BY revision) = 1"
    )
    db.unregister("happened")


def replace(
    db: duckdb.DuckDBPyConnection, table: str, key: Sequence[str], columns: Sequence[str], rows: list[tuple[Any, ...]]
) -> None:
    """Put rows in the place of those with the same key.

    Args:
        db: inside a transaction.
        table: one of ours.
        key: columns that tell a row.
        columns: of ``rows``.
        rows: at least one.
    """
    data = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
    db.register("replacing", data)
    where = " AND ".join(f"t.{column} = n.{column}" for column in key)
    db.execute(f"DELETE FROM {table} t USING replacing n WHERE {where}")  # noqa: S608 - our own names
    db.execute(f"INSERT INTO {table} SELECT * FROM replacing")  # noqa: S608
    db.unregister("replacing")


def expire_rejected(db: duckdb.DuckDBPyConnection, day: int) -> None:
    """Delete rejected rows received before a day (since 1970); count those that were in quarantine till then."""
    at = np.datetime64(day * DAY, "us").item()
    db.execute(
        "INSERT INTO rejected_expired SELECT b.network, b.hour // 24, any_value(r.stage), r.reason, "
        f"count(DISTINCT (b.partition, b.position)) {IN_QUARANTINE} AND r.received_at < ? "
        "GROUP BY b.network, b.hour // 24, r.reason",
        [at],
    )
    db.execute("DELETE FROM quarantine_book WHERE hour < ?", [day * 24])
    db.execute("DELETE FROM rejected WHERE received_at < ?", [at])


def plain(rows: pa.RecordBatch | pa.Table) -> pa.Table:
    """Turn zoned times into UTC timestamps without a zone, and name columns into text."""
    columns = []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_dictionary(field.type):
            columns.append(column.cast(pa.string()))
        elif pa.types.is_timestamp(field.type):
            columns.append(column.cast(pa.int64()).cast(pa.timestamp("us")))
        else:
            columns.append(column)
    return pa.table(columns, names=rows.schema.names)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Put batches of one schema behind each other, as :func:`plain` writes them."""
    # In one piece first: each small one costs each of the calls, and the database as much again.
    return plain(pa.Table.from_batches(batches).combine_chunks())
