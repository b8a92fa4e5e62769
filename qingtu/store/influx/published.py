"""Reading figures back: as they are, as they were published once, and what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from qingtu.store.influx.figures import CHANGES, VALUES, bucket_of, columns
from qingtu.store.influx.wide import between, ident, one_of, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.contracts import FigureQuery
    from qingtu.settings import InfluxSettings
    from qingtu.store.influx.client import InfluxClient

_TABLE: Final = pa.schema(
    [
        ("series", pa.int32()), ("what", pa.string()), ("start", pa.int64()), ("value", pa.float64()),
        ("count", pa.int64()), ("expected", pa.int64()), ("valid", pa.bool_()), ("reason", pa.string()),
        ("inputs", pa.string()), ("revision", pa.int64()), ("known_at", pa.int64()),
    ]
)  # fmt: skip
_NAMES: Final = ("what", "station", "property", "channel")
_TEXT: Final = ("reason", "inputs")
_STATIONS: Final = 200
"""With more stations than this all are asked for: long conditions are dearer than their rows."""


def buckets_of(settings: InfluxSettings, what: str | None) -> list[str]:
    """Return the buckets that may keep a figure, or figures of all kinds."""
    if what is not None:
        return [bucket_of(what, settings)]
    return list(dict.fromkeys((settings.hourly, settings.daily)))


def figures_as_of(client: InfluxClient, settings: InfluxSettings, query: FigureQuery) -> pa.Table:
    """Return figures as :meth:`qingtu.contracts.Store.figures_of` says: current ones, less later corrections.

    Raises:
        RetryLater: the server does not answer now.
    """
    place = {key: i for i, key in enumerate(query.series)}
    where = _where(query)
    found: dict[tuple[int, int, str], dict[str, Any]] = {}
    if not place or query.start_us >= query.end_us:
        return pa.Table.from_pylist([], _TABLE)
    for bucket in buckets_of(settings, query.what):
        now = _rows(client, bucket, "figures", VALUES, where)
        rows = [_current(row) for row in now if row["revision"] is not None]
        also = ""
        if query.before is not None:
            at = query.before
            rows = [row for row in rows if row["revision"] < at]
            also = f"old_revision < {at} AND new_revision >= {at}"
        elif query.known_by_us is not None:
            at = query.known_by_us
            rows = [row for row in rows if row["known_at"] <= at]
            also = f"old_known <= {at} AND new_known > {at}"
        if also:
            rows += [_old(row) for row in _rows(client, bucket, "figure_corrections", CHANGES, [*where, also])]
        for row in rows:
            number = place.get((row["station"], row["property"], row["channel"]))
            if number is None:
                continue
            key = (number, row["start"], row["what"])
            # Clocks are set back: of several that were known, the greatest revision counts.
            if key not in found or row["revision"] > found[key]["revision"]:
                found[key] = {**row, "series": number}
    return pa.Table.from_pylist([found[key] for key in sorted(found)], _TABLE)


def figures_between(client: InfluxClient, bucket: str, start_us: int, end_us: int) -> list[dict[str, Any]]:
    """Return all figures of a bucket whose period starts in a range, end exclusive, in no order.

    Raises:
        RetryLater: the server does not answer now.
    """
    rows = _rows(client, bucket, "figures", VALUES, [between(start_us, end_us)])
    return [_current(row) for row in rows if row["revision"] is not None]


def corrections_since(
    client: InfluxClient, settings: InfluxSettings, since_us: int, limit: int, wanted: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """Return corrections that became known since a time, newest first, as the contract of the store says.

    Args:
        client: the server.
        settings: names of buckets.
        since_us: µs UTC.
        limit: at most so many.
        wanted: tags (station, property, what) that must have a value; None: any.
    """
    where = [f"new_known >= {int(since_us)}"]
    where += [f"{ident(tag)} = {text(value)}" for tag, value in wanted.items() if value is not None]
    rows = [
        row
        for bucket in buckets_of(settings, wanted.get("what"))
        for row in _rows(client, bucket, "figure_corrections", CHANGES, where)
    ]
    names = ("what", "station", "property", "channel")
    rows.sort(key=lambda row: tuple(row[name] or "" for name in names))
    rows.sort(key=lambda row: (row["new_known"], row["new_revision"], row["time"]), reverse=True)
    return [_correction(row) for row in rows[:limit]]


def _where(query: FigureQuery) -> list[str]:
    where = [between(query.start_us, query.end_us), one_of("property", (key[1] for key in query.series))]
    if len({key[0] for key in query.series}) <= _STATIONS:
        where.append(one_of("station", (key[0] for key in query.series)))
    if query.what is not None:
        where.append(f'"what" = {text(query.what)}')
    return where


def _rows(
    client: InfluxClient, bucket: str, measurement: str, values: Mapping[str, pa.DataType], where: Sequence[str]
) -> list[dict[str, Any]]:
    selected, types = columns(values)
    question = f"SELECT {selected} FROM {measurement} WHERE {' AND '.join(where)}"  # noqa: S608 - quoted
    rows: list[dict[str, Any]] = client.table(bucket, question, types).to_pylist()
    return rows


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: row[name] or "" for name in _NAMES}, "start": row["time"]}


def _current(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_named(row), **_side(row, "", "known"), "value": None if row["void"] else row["value"],
    }  # fmt: skip


def _old(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**_named(row), **_side(row, "old_", "old_known")}


def _side(row: Mapping[str, Any], prefix: str, known: str) -> dict[str, Any]:
    out = {name: row[prefix + name] for name in ("value", "count", "expected", "revision")}
    out |= {name: row[prefix + name] or "" for name in _TEXT}
    return {**out, "valid": bool(row[prefix + "valid"]), "known_at": row[known]}


def _correction(row: Mapping[str, Any]) -> dict[str, Any]:
    old, new = _side(row, "old_", "old_known"), _side(row, "new_", "new_known")
    both = {f"old_{name}": value for name, value in old.items()} | {f"new_{n}": v for n, v in new.items()}
    both["known_at"] = both.pop("new_known_at")
    return {**_named(row), **both}
