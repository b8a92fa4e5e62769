"""What a promote leaves beside the rows that it changed: who published what, and which raw rows values come from.

A promote is written point by point, so it says first that it has begun and last that it is done: as long as one is
between, nothing else may write (:meth:`qingtu.store.influx.store.InfluxStore.refuse_unfinished`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from qingtu.store.influx.lines import fields, nanoseconds, tags
from qingtu.store.influx.wide import FOREVER, between, one_of, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.store.influx.client import InfluxClient
    from qingtu.store.influx.wide import Key


class PromoteState(IntEnum):
    """How far a promote is."""

    BEGUN = 0
    DONE = 1
    GIVEN_UP = 2
    """Before anything was changed."""


class Promotion(NamedTuple):
    """A promote, of one of the partitions in which something changes.

    Attributes:
        name: of the generation.
        partition: of the positions.
        promoted_us: when it became known, µs UTC.
        revision: position of the row on raw that says so: the revision of all that it changed.
        catalogue: version that the generation was made with.
        low, high: positions of the generation's span.
        who: the person.
        state: see there.
    """

    name: str
    partition: int
    promoted_us: int
    revision: int
    catalogue: str
    low: int
    high: int
    who: str
    state: PromoteState


_PROMOTION: Final = {
    **dict.fromkeys(("revision", "low", "high", "state"), ("integer", pa.int64())),
    **dict.fromkeys(("generation", "catalogue", "who"), ("string", pa.string())),
    "partition": ("tag", pa.string()),
}
_REPLAYED: Final = {
    **dict.fromkeys(("revision", "origin", "partition", "origin_partition"), ("integer", pa.int64())),
    **dict.fromkeys(("station", "property", "channel"), ("tag", pa.string())),
}
_STATIONS: Final = 200


def promotion_line(one: Promotion) -> str:
    """Write how far a promote is; the point of a partition is overwritten."""
    body = fields(
        generation=one.name, revision=one.revision, catalogue=one.catalogue, low=one.low, high=one.high, who=one.who,
        state=int(one.state),
    )  # fmt: skip
    return f"promotions{tags(partition=str(one.partition))} {body} {nanoseconds(one.promoted_us)}"


def promotions(client: InfluxClient, bucket: str) -> list[Promotion]:
    """Return all promotes but those that were given up, oldest first.

    Raises:
        RetryLater: the server does not answer now.
    """
    rows = _ask(client, bucket, "promotions", _PROMOTION, between(*FOREVER))
    found = [_promotion(row) for row in rows if row["state"] is not None]
    kept = [one for one in found if one.state != PromoteState.GIVEN_UP]
    return sorted(kept, key=lambda one: (one.promoted_us, one.partition))


def _promotion(row: Mapping[str, Any]) -> Promotion:
    return Promotion(
        row["generation"] or "", int(row["partition"]), row["time"], row["revision"], row["catalogue"] or "",
        row["low"], row["high"], row["who"] or "", PromoteState(row["state"]),
    )  # fmt: skip


def replayed_lines(rows: Mapping[str, Sequence[Any]], partition: int, revision: int) -> list[str]:
    """Write which raw rows the values of a promote come from.

    Args:
        rows: columns station, property, channel, time (µs UTC), origin and origin_partition.
        partition: in which the readings' stations live.
        revision: of the promote. It is a tag: a reading may be promoted several times.
    """
    names = ("station", "property", "channel", "time", "origin", "origin_partition")
    out = []
    for station, prop, channel, time, origin, other in zip(*(rows[name] for name in names), strict=True):
        key = tags(station=station, property=prop, channel=channel, act=str(revision))
        body = fields(revision=revision, origin=origin, partition=partition, origin_partition=other)
        out.append(f"replayed{key} {body} {nanoseconds(time)}")
    return out


def replayed(
    client: InfluxClient, bucket: str, keys: Sequence[Key], start_us: int, end_us: int, revision: int | None = None
) -> list[dict[str, Any]]:
    """Return which raw rows promoted values of keys come from, in a range of times, end exclusive.

    Returns:
        ``key`` (index), ``time`` (µs UTC), ``revision``, ``origin``, ``partition``, ``origin_partition``.

    Raises:
        RetryLater: the server does not answer now.
    """
    where = [between(start_us, end_us), one_of("property", (key[1] for key in keys))]
    if len({key[0] for key in keys}) <= _STATIONS:
        where.append(one_of("station", (key[0] for key in keys)))
    if revision is not None:
        where.append(f'"act" = {text(str(revision))}')
    place = {key: i for i, key in enumerate(keys)}
    out = []
    for row in _ask(client, bucket, "replayed", _REPLAYED, " AND ".join(where)):
        at = place.get((row["station"] or "", row["property"] or "", row["channel"] or ""))
        if at is not None and row["revision"] is not None:
            names = ("time", "revision", "origin", "partition", "origin_partition")
            out.append({"key": at, **{name: row[name] for name in names}})
    return out


def _ask(
    client: InfluxClient, bucket: str, measurement: str, columns: Mapping[str, tuple[str, pa.DataType]], where: str
) -> list[dict[str, Any]]:
    selected = ", ".join(f'"{name}"::{cast}' for name, (cast, _) in columns.items())
    question = f"SELECT {selected} FROM {measurement} WHERE {where}"  # noqa: S608 - quoted
    table = client.table(bucket, question, {name: kind for name, (_, kind) in columns.items()})
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
