"""Reading the quarantine: refusals with their raw rows, and the book that says which messages are still in it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from qingtu import records
from qingtu.clock import DAY, MINUTE
from qingtu.records import RAW_ROWS, Outcome
from qingtu.store.influx.quarantine import ENTRY, ENTRY_SELECTED
from qingtu.store.influx.rows import CHUNK
from qingtu.store.influx.told import Told
from qingtu.store.influx.wide import FOREVER, between, text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

Id = tuple[int, int]
"""(partition, position)."""
_FEW: Final = 50
_INTEGERS: Final = (
    "position", "refused", "kind", "size", "flags", "packet_id", "connection", "redrive_of", "shift_us",
)  # fmt: skip
_TEXTS: Final = ("detail", "refused_by_gateway", "gateway", "network", "route", "device", "topic")
_TAGS: Final = ("partition", "stage", "reason")
_BYTES: Final = ("payload", "properties", "digest")
_ORDER: Final = (
    "partition", "position", "stage", "reason", "detail", "refused", "kind", "gateway", "network", "route", "device",
    "topic", "payload", "size", "flags", "packet_id", "connection", "properties", "refused_by_gateway", "digest",
    "redrive_of", "shift_us", "received_at",
)  # fmt: skip
_CHUNKS: Final = 90
"""String fields that the largest payload takes which a route may allow (64 MiB)."""
Gone = dict[tuple[str, str], tuple[int, int]]
"""(reason, stage) → (how many messages, newest day of receipt)."""


class Refusal(NamedTuple):
    """A refusal without its bytes; ``message`` is the position of the message that row ``position`` drove again."""

    partition: int
    position: int
    message: int
    stage: str
    reason: str
    received_us: int


class QuarantineQueries(Told):
    """Questions about what was rejected."""

    def quarantine(self, *, reason: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """Return rejected messages, newest first, as they were refused last; see the contract.

        Args:
            reason: only those whose newest reason code is this.
            limit: at most so many.
        """
        entries = self._entries(self._kept())
        found = newest(self._refusals(f"kind = 0 AND {self._kept()}"), entries)
        wanted = [one for one in found if reason in (None, one.reason)]
        wanted = sorted(wanted, key=lambda one: (one.received_us, one.position), reverse=True)[:limit]
        if not wanted:
            return []
        # One question for all: by runs of minutes, as _read asks, there would be as many as rows in a calm year.
        where = [between(wanted[-1].received_us, wanted[0].received_us + 1)]
        where += [] if reason is None else [f'"reason" = {text(reason)}']
        return _told(_only(wanted, self._whole(f"WHERE {' AND '.join(where)}")), entries)

    def refusals_of(self, message: Id) -> list[dict[str, Any]]:
        """Return how a message was refused, the newest first; see the contract."""
        partition, at = message
        mine = f'kind = 0 AND "partition" = {text(str(partition))} AND {self._kept()}'
        named = self._refusals(f"{mine} AND position = {int(at)}")
        if not named:
            return []
        first = named[0].message
        rows = self._refusals(f"{mine} AND (position = {first} OR redrive_of = {first})")
        times = [row.received_us for row in rows]
        entries = self._entries(between(min(times), max(times) + 1))
        return _told(self._read(decided(rows, entries)), entries)

    def raw_rows(self, ids: Sequence[Id]) -> pa.RecordBatch:
        """Return the raw rows of rejected messages, in the order of ``ids``, as ``RAW_ROWS``."""
        found = {(row["partition"], row["position"]): row for row in self._read(self._refused(ids))}
        rows = [found[at] for at in ids if at in found]
        columns: dict[str, Any] = {}
        for field in RAW_ROWS:
            name = "refused_by_gateway" if field.name == "refused" else field.name
            values = [row[name] for row in rows]
            if pa.types.is_dictionary(field.type):
                columns[field.name] = pa.array(values, pa.string()).dictionary_encode()
            elif pa.types.is_timestamp(field.type):
                columns[field.name] = records.times(np.array(values, np.int64))
            else:
                columns[field.name] = pa.array(values, field.type)
        return records.batch(RAW_ROWS, columns)

    def quarantine_expired(self) -> list[dict[str, Any]]:
        """Return how many messages left quarantine because of their age, by reason and stage, until which day."""
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for gone in self._gone():
            for key, (count, day) in gone.items():
                had, newest = sums.get(key, (0, day))
                sums[key] = had + count, max(newest, day)
        rows = [{"reason": r, "stage": s, "count": n, "last_day": day} for (r, s), (n, day) in sums.items()]
        return sorted(rows, key=lambda row: (-int(str(row["count"])), str(row["reason"])))

    def rejected_expired(self) -> int:
        """Return how many messages left quarantine because of their age, ever."""
        return sum(count for gone in self._gone() for count, _ in gone.values())

    def in_quarantine(self, reason: str | None = None) -> list[Id]:
        """Return (partition, position) of every message in quarantine now, oldest first; see the contract."""
        return sorted({(one.partition, one.message) for one in self._inside() if reason in (None, one.reason)})

    def quarantine_counts(self) -> list[dict[str, Any]]:
        """Return how many messages are in quarantine now, by newest reason and stage."""
        counts: dict[tuple[str, str], int] = {}
        for one in self._inside():
            counts[one.reason, one.stage] = counts.get((one.reason, one.stage), 0) + 1
        rows = [{"reason": reason, "stage": stage, "count": n} for (reason, stage), n in counts.items()]
        return sorted(rows, key=lambda row: (-int(str(row["count"])), str(row["reason"])))

    def _kept(self) -> str:
        """Return the condition that a message is not expired."""
        return between(max(self._rejected_from(), 0), FOREVER[1])

    def _inside(self, when: str | None = None) -> list[Refusal]:
        """Return the newest refusals of messages in quarantine; ``when`` limits the times of receipt."""
        entries = self._entries(f"outcome = {int(Outcome.QUARANTINED)} AND {when or self._kept()}")
        if not entries:
            return []
        times = [entry["time"] for entry in entries.values()]
        rows = self._refusals(between(min(times), max(times) + 1))
        return newest((row for row in rows if (row.partition, row.message) in entries), entries)

    def _leaving(self, before_us: int, kept_from: Mapping[int, int]) -> dict[int, Gone]:
        """Count, by partition, the messages in quarantine that were received before a time and since they are kept."""
        seen: dict[int, dict[tuple[str, str], set[tuple[int, int]]]] = {}
        inside = sorted(self._inside(between(max(min(kept_from.values()), 0), before_us)), reverse=True)
        # Once, though two stages refused it: what left is counted against the books.
        for one in {(one.partition, one.message): one for one in inside}.values():
            if one.received_us >= kept_from.get(one.partition, before_us):
                mine = seen.setdefault(one.partition, {}).setdefault((one.reason, one.stage), set())
                mine.add((one.message, one.received_us // DAY))
        return {
            partition: {key: (len(rows), max(day for _, day in rows)) for key, rows in by.items()}
            for partition, by in seen.items()
        }

    def _entries(self, where: str) -> dict[Id, dict[str, Any]]:
        """Return entries of the book: position of the message, outcome, moved_by, time of receipt."""
        question = f"SELECT {ENTRY_SELECTED} FROM quarantine WHERE {where}"  # noqa: S608 - our own names, numbers
        found = self._client.table(self._settings.daily, question, ENTRY).to_pylist()
        return {(int(row["partition"]), row["position"]): row for row in found if row["position"] is not None}

    def _refusals(self, where: str) -> list[Refusal]:
        """Return where refusals stand: their bytes are not read in vain."""
        types: dict[str, pa.DataType] = {
            **dict.fromkeys(("position", "redrive_of"), pa.int64()),
            **dict.fromkeys(_TAGS, pa.string()),
        }
        tags = ", ".join(f'"{name}"::tag' for name in _TAGS)
        question = f"SELECT position::integer, redrive_of::integer, {tags} FROM rejected WHERE {where}"  # noqa: S608
        rows = self._client.table(self._settings.daily, question, types)
        names = ("partition", "position", "redrive_of", "stage", "reason", "time")
        columns = (rows.column(name).to_pylist() for name in names)
        return [
            Refusal(int(partition), at, at if of is None else of, stage or "", reason or "", time)
            for partition, at, of, stage, reason, time in zip(*columns, strict=True)
            if at is not None
        ]

    def _refused(self, ids: Collection[Id]) -> list[Refusal]:
        """Return the refusals of raw rows."""
        wanted = set(ids)
        where = [self._kept()]
        if len(wanted) <= _FEW:
            where.append("(" + " OR ".join(f"position = {at}" for _, at in sorted(wanted)) + ")")
        rows = self._refusals(" AND ".join(where)) if wanted else []
        return [row for row in rows if (row.partition, row.position) in wanted]

    def _read(self, refusals: Collection[Refusal]) -> list[dict[str, Any]]:
        """Return refusals with their raw rows, newest first."""
        runs = _runs(sorted({one.received_us for one in refusals}))
        rows = [row for first, last in runs for row in self._whole(f"WHERE {between(first, last + 1)}")]
        return _only(refusals, rows)

    def _whole(self, tail: str) -> list[dict[str, Any]]:
        return [self._refusal(row) for row in self._points(tail)]

    def _points(self, tail: str) -> list[dict[str, Any]]:
        """Return refusals as they stand in the database, with what tells points apart: ``lane`` and ``slot``."""
        tags = (*_TAGS, "lane")
        types: dict[str, pa.DataType] = {
            **dict.fromkeys(_INTEGERS, pa.int64()),
            **dict.fromkeys((*_TEXTS, *_BYTES, *tags), pa.string()),
        }
        selected = ", ".join(
            [
                *(f'"{name}"::integer' for name in _INTEGERS),
                *(f'"{name}"::string' for name in (*_TEXTS, *_BYTES)),
                *(f'"{name}"::tag' for name in tags),
            ]
        )
        question = f"SELECT {selected} FROM rejected {tail}"  # noqa: S608 - our own names
        table = self._client.table(self._settings.daily, question, types)
        return [row for row in table.to_pylist() if row["position"] is not None]

    def _refusal(self, row: dict[str, Any]) -> dict[str, Any]:
        out = {**row, "partition": int(row["partition"]), "received_at": row["time"]}
        out |= {name: row[name] or "" for name in (*_TEXTS, "stage", "reason")}
        if row["payload"] is not None and len(row["payload"]) == CHUNK:
            row["payload"] += self._rest(row)
        out |= {name: None if row[name] is None else base64.b64decode(row[name]) for name in _BYTES}
        return {name: out[name] for name in _ORDER}

    def _rest(self, row: Mapping[str, Any]) -> str:
        """Return what does not fit into the first field of a payload."""
        names = [f"payload{number}" for number in range(1, _CHUNKS)]
        when = between(row["time"], row["time"] + 1)
        selected = ", ".join(f"{name}::string" for name in names)
        where = f'position = {row["position"]} AND "partition" = {text(row["partition"])} AND {when}'
        question = f"SELECT {selected} FROM rejected WHERE {where}"  # noqa: S608 - numbers and our own names
        found = self._client.table(self._settings.daily, question, dict.fromkeys(names, pa.string())).to_pylist()
        return "".join(found[0][name] or "" for name in names) if found else ""


def decided(rows: Iterable[Refusal], entries: Mapping[Id, Mapping[str, Any]]) -> list[Refusal]:
    """Leave out what does not count: a row behind the one that decided last decides later, or never."""
    out = []
    for row in rows:
        entry = entries.get((row.partition, row.message))
        if row.position <= max(row.message, -1 if entry is None else entry["moved_by"]):
            out.append(row)
    return out


def newest(rows: Iterable[Refusal], entries: Mapping[Id, Mapping[str, Any]]) -> list[Refusal]:
    """Leave of each message what its own raw row says, or the last one that drove it again in vain.

    A promote decides, too, and has no row here; it replaces those of the message.
    """
    rows = decided(rows, entries)
    last: dict[Id, int] = {}
    for row in rows:
        message = row.partition, row.message
        last[message] = max(last.get(message, row.position), row.position)
    return [row for row in rows if row.position == last[row.partition, row.message]]


def _only(wanted: Collection[Refusal], rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave the rows of these refusals, newest first."""
    keys = {(one.partition, one.position, one.stage, one.reason) for one in wanted}
    left = [row for row in rows if (row["partition"], row["position"], row["stage"], row["reason"]) in keys]
    return sorted(left, key=lambda row: (row["received_at"], row["position"]), reverse=True)


def _told(rows: list[dict[str, Any]], entries: Mapping[Id, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add what became of each message."""
    for row in rows:
        of = row["position"] if row["redrive_of"] is None else row["redrive_of"]
        entry = entries.get((row["partition"], of))
        row["outcome"] = None if entry is None else entry["outcome"]
        row["moved_by"] = None if entry is None else entry["moved_by"]
    return rows


def _runs(times: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut sorted times where a minute lies between two."""
    first = last = None
    for time in times:
        if first is not None and last is not None and time - last > MINUTE:
            yield first, last
            first = None
        first, last = (time if first is None else first), time
    if first is not None and last is not None:
        yield first, last
