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
    from collections.abc import Collection, Iterator, Mapping, Sequence

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


class _Inside(NamedTuple):
    partition: int
    position: int
    stage: str
    reason: str
    received_us: int


class QuarantineQueries(Told):
    """Questions about what was rejected."""

    def quarantine(
        self, *, reason: str | None = None, limit: int = 200, ids: Sequence[Id] | None = None
    ) -> list[dict[str, Any]]:
        """Return rejected messages, newest first, with what became of them (``outcome``, ``moved_by``).

        Args:
            reason: only with this reason code.
            limit: at most so many.
            ids: only these (partition, position).
        """
        also = ["kind = 0", *([f'"reason" = {text(reason)}'] if reason is not None else [])]
        if ids is None:
            where = " AND ".join([*also, self._kept()])
            rows = self._refusals(f"WHERE {where} ORDER BY time DESC LIMIT {int(limit)}")
        else:
            rows = [row for row in self._refused(ids) if row["kind"] == 0 and reason in (None, row["reason"])]
        rows.sort(key=lambda row: (row["received_at"], row["position"]), reverse=True)
        rows = rows[:limit]
        entries = self._entries(rows)
        for row in rows:
            of = row["position"] if row["redrive_of"] is None else row["redrive_of"]
            entry = entries.get((row["partition"], of))
            row["outcome"] = None if entry is None else entry["outcome"]
            row["moved_by"] = None if entry is None else entry["moved_by"]
        return rows

    def raw_rows(self, ids: Sequence[Id]) -> pa.RecordBatch:
        """Return the raw rows of rejected messages, in the order of ``ids``, as ``RAW_ROWS``."""
        found = {(row["partition"], row["position"]): row for row in self._refused(ids)}
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
        """Return (partition, position) of every message that is in quarantine now, oldest first."""
        return sorted({(one.partition, one.position) for one in self._inside() if reason in (None, one.reason)})

    def quarantine_counts(self) -> list[dict[str, Any]]:
        """Return how many messages are in quarantine now, by reason and stage."""
        counts: dict[tuple[str, str], int] = {}
        for one in self._inside():
            counts[one.reason, one.stage] = counts.get((one.reason, one.stage), 0) + 1
        rows = [{"reason": reason, "stage": stage, "count": n} for (reason, stage), n in counts.items()]
        return sorted(rows, key=lambda row: (-int(str(row["count"])), str(row["reason"])))

    def _kept(self) -> str:
        """Return the condition that a message is not expired."""
        return between(max(self._rejected_from(), 0), FOREVER[1])

    def _inside(self, when: str | None = None) -> Iterator[_Inside]:
        """Give each refusal of a message that is in quarantine now; ``when`` limits the times of receipt."""
        types: dict[str, pa.DataType] = {"position": pa.int64(), "partition": pa.string()}
        where = f"outcome = {int(Outcome.QUARANTINED)} AND {when or self._kept()}"
        question = f'SELECT position::integer, "partition"::tag FROM quarantine WHERE {where}'  # noqa: S608 - numbers
        table = self._client.table(self._settings.daily, question, types)
        inside = set(zip(table.column("partition").to_pylist(), table.column("position").to_pylist(), strict=True))
        if not inside:
            return
        times = np.asarray(table.column("time"))
        tags = ", ".join(f'"{name}"::tag' for name in _TAGS)
        when = between(int(times.min()), int(times.max()) + 1)
        question = f"SELECT position::integer, {tags} FROM rejected WHERE {when}"  # noqa: S608 - numbers
        types |= dict.fromkeys(_TAGS, pa.string())
        rows = self._client.table(self._settings.daily, question, types)
        columns = (rows.column(name).to_pylist() for name in ("partition", "position", "stage", "reason", "time"))
        for partition, at, stage, reason, time in zip(*columns, strict=True):
            if (partition, at) in inside:
                yield _Inside(int(partition), at, stage or "", reason or "", time)

    def _leaving(self, before_us: int, kept_from: Mapping[int, int]) -> dict[int, Gone]:
        """Count, by partition, the messages in quarantine that were received before a time and since they are kept."""
        seen: dict[int, dict[tuple[str, str], set[tuple[int, int]]]] = {}
        for one in self._inside(between(max(min(kept_from.values()), 0), before_us)):
            if one.received_us >= kept_from.get(one.partition, before_us):
                mine = seen.setdefault(one.partition, {}).setdefault((one.reason, one.stage), set())
                mine.add((one.position, one.received_us // DAY))
        return {
            partition: {key: (len(rows), max(day for _, day in rows)) for key, rows in by.items()}
            for partition, by in seen.items()
        }

    def _entries(self, rows: Sequence[Mapping[str, Any]]) -> dict[Id, dict[str, Any]]:
        """Return the book's entries of messages; one that is driven again keeps its time of receipt."""
        if not rows:
            return {}
        times = [row["received_at"] for row in rows]
        when = between(min(times), max(times) + 1)
        question = f"SELECT {ENTRY_SELECTED} FROM quarantine WHERE {when}"  # noqa: S608 - numbers only
        found = self._client.table(self._settings.daily, question, ENTRY).to_pylist()
        return {(int(row["partition"]), row["position"]): row for row in found if row["position"] is not None}

    def _refused(self, ids: Collection[Id]) -> list[dict[str, Any]]:
        """Return the refusals of messages. Where they stand is looked up first: their bytes are not read in vain."""
        if not ids:
            return []
        wanted = set(ids)
        where = [self._kept()]
        if len(wanted) <= _FEW:
            where.append("(" + " OR ".join(f"position = {at}" for _, at in sorted(wanted)) + ")")
        types = {"position": pa.int64(), "partition": pa.string()}
        question = f'SELECT position::integer, "partition"::tag FROM rejected WHERE {" AND ".join(where)}'  # noqa: S608
        table = self._client.table(self._settings.daily, question, types)
        columns = (table.column(name).to_pylist() for name in ("partition", "position", "time"))
        times = sorted({time for p, at, time in zip(*columns, strict=True) if (int(p), at) in wanted})
        rows = []
        for first, last in _runs(times):
            some = self._refusals(f"WHERE {between(first, last + 1)}")
            rows += [row for row in some if (row["partition"], row["position"]) in wanted]
        return rows

    def _refusals(self, tail: str) -> list[dict[str, Any]]:
        types: dict[str, pa.DataType] = {
            **dict.fromkeys(_INTEGERS, pa.int64()),
            **dict.fromkeys((*_TEXTS, *_BYTES, *_TAGS), pa.string()),
        }
        selected = ", ".join(
            [
                *(f'"{name}"::integer' for name in _INTEGERS),
                *(f'"{name}"::string' for name in (*_TEXTS, *_BYTES)),
                *(f'"{name}"::tag' for name in _TAGS),
            ]
        )
        question = f"SELECT {selected} FROM rejected {tail}"  # noqa: S608 - our own names
        table = self._client.table(self._settings.daily, question, types)
        return [self._refusal(row) for row in table.to_pylist() if row["position"] is not None]

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
