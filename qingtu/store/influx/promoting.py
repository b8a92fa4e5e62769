"""Publishes what a replay changes in InfluxDB: works out every line first, writes them then, as often as it takes.

Lines, positions and numbers are fixed before the first is written, so writing all of them again gives the same points.
What counts (books, days) is saved once, with the position of the promote beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from qingtu import records
from qingtu.clock import DAY
from qingtu.errors import QingtuError
from qingtu.grouped import NEVER
from qingtu.records import PROCESSED, READINGS, REJECTED, Cause, Frame
from qingtu.store.influx.corrections import SLOTS
from qingtu.store.influx.lines import Lines
from qingtu.store.influx.promotions import promotion_line, replayed_lines
from qingtu.store.influx.quarantine import find_entries
from qingtu.store.influx.rows import quarantine_line, rejected_line
from qingtu.store.influx.state import GROUPS, delta
from qingtu.store.influx.store import InfluxStore
from qingtu.store.influx.wide import between
from qingtu.store.merging import NEW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.store.books import Changes
    from qingtu.store.influx.promotions import Promotion
    from qingtu.store.influx.state import StreamState

_RAW_NAMES: Final = ("partition", "stage", "reason", "lane")


@dataclass(slots=True)
class Booking:
    """What the saved state of a partition takes up when a promote is written; JSON data.

    Attributes:
        partition: of the state.
        revision: of the promote.
        counts: network, hour and what is added to each column of its book.
        days: readings that are new, by day of their time.
        entries: lines of the quarantine's book.
        seq, rejected_seq: first numbers that are free afterwards, see :class:`StreamState`.
        high, high_event: newest times that are written, µs UTC.
    """

    partition: int
    revision: int
    counts: list[tuple[str, int, list[int]]]
    days: dict[int, int]
    entries: list[str]
    seq: int
    rejected_seq: int
    high: int = NEVER
    high_event: int = NEVER

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Booking:
        """Read what :meth:`as_dict` made."""
        return cls(**{**data, "days": {int(day): n for day, n in data["days"].items()}})

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**asdict(self), "days": {str(day): n for day, n in self.days.items()}}


class PromotingStore(InfluxStore):
    """The store of an installation that is stopped; see there."""

    # --------------------------------------------------------------------------------------------- working it out

    def booking(
        self, partition: int, revision: int, changes: Changes, received: Mapping[tuple[int, int], int]
    ) -> Booking:
        """Work out what is booked.

        Args:
            partition: of the messages.
            revision: of the promote.
            changes: of the books.
            received: times of receipt of the messages whose entries change, by (partition, position), µs UTC.

        Raises:
            RetryLater: the server does not answer now.
        """
        state, other = self._state(PROCESSED, partition), self._state(REJECTED, partition)
        wanted = {position: received[partition, position] for _, position in changes.quarantined}
        placed = {}
        if wanted:
            placed = find_entries(self._client, self._settings.daily, partition, wanted, state.rejected_from)
        seq, lines = state.seq, []
        for (_, position), entry in changes.quarantined.items():
            if (stood := placed.get(position)) is not None:
                lines.append(quarantine_line(entry, partition, position, stood.received_us, stood.seq))
            else:
                lines.append(quarantine_line(entry, partition, position, wanted[position], seq))
                seq += 1
        counts = [(network, hour, row.tolist()) for (network, hour), row in changes.counts.items()]
        return Booking(partition, revision, counts, {}, lines, seq, other.seq)

    def reading_lines(self, rows: pa.RecordBatch, booking: Booking, now_us: int) -> list[str]:
        """Write readings, what they replace, and which raw rows they come from.

        Args:
            rows: as :meth:`qingtu.replay_takeover.NextStore.changed` gives them.
            booking: takes up days and newest time.
            now_us: when they become known, µs UTC.

        Raises:
            RetryLater: what is stored cannot be read now.
        """
        n, at = rows.num_rows, booking.revision
        names = ("station", "property", "channel")
        columns: dict[str, Any] = {name: rows.column(name).dictionary_encode() for name in names}
        columns |= {name: np.asarray(rows.column(name)) for name in ("value", "flag", "tests")}
        columns |= {
            "time": records.times(np.asarray(rows.column("time"))), "known_at": records.times(np.full(n, now_us)),
            "revision": np.full(n, at, np.int64), "cause": np.full(n, Cause.REPLAY, np.uint8), "late": np.ones(n, bool),
        }  # fmt: skip
        frame = Frame({"origin": [booking.partition, at >> 16]}, {"readings": records.batch(READINGS, columns)})
        plan = self._readings.plan([frame], at, self._stands)
        days, often = np.unique(plan.rows.time[plan.counts(NEW)] // DAY, return_counts=True)
        for day, new in zip(days.tolist(), often.tolist(), strict=True):
            booking.days[day] = booking.days.get(day, 0) + new
        booking.high = max(booking.high, int(plan.rows.time.max(initial=NEVER)))
        origins = replayed_lines(rows.to_pydict(), booking.partition, at)
        return [*_texts(plan.corrections), *origins, *_texts(plan.written.lines)]

    def event_lines(self, rows: Sequence[Mapping[str, Any]], booking: Booking) -> list[str]:
        """Write events that are new, as :meth:`qingtu.replay_takeover.NextStore.happened` gives them.

        Raises:
            RetryLater: what is stored cannot be read now.
        """
        if not rows:
            return []
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        columns |= {name: records.times(np.array(columns[name], np.int64)) for name in ("time", "known_at")}
        columns |= {name: pa.array(columns[name]).dictionary_encode() for name in ("station", "kind")}
        frame = Frame({}, {"events": records.batch(records.EVENTS, columns)})
        floor = max((state.high_event for state in self._applied()), default=NEVER)
        plan = self._events.plan([frame], floor, self._stands)
        booking.high_event = max(row["time"] for row in rows)
        return _texts(plan.lines)

    def figure_lines(self, figures: pa.RecordBatch) -> dict[str, list[str]]:
        """Write figures (``FIGURE_ROWS``) of one partition that are not what is stored, by bucket.

        Raises:
            RetryLater: what is stored cannot be read now.
        """
        return self._figures.lines([Frame({}, {"figures": figures})]) if figures.num_rows else {}

    def refusals(
        self, rows: Sequence[Mapping[str, Any]], messages: Sequence[int], booking: Booking
    ) -> tuple[list[dict[str, str]], list[str]]:
        """Work out how the refusals of messages are replaced.

        Args:
            rows: as ``REJECTED_ROWS``, times in µs UTC.
            messages: positions of all messages whose refusals are replaced.
            booking: takes up the numbers that are used.

        Returns:
            what is deleted, for :meth:`delete`, and lines.

        Raises:
            RetryLater: what is stored cannot be read now.
        """
        if not messages:
            return [], []
        deleted = self._standing(booking.partition, set(messages))
        lines = self._beside(deleted)
        lines += [rejected_line(row, booking.partition, booking.rejected_seq + i) for i, row in enumerate(rows)]
        booking.rejected_seq += len(rows)
        return [_deletion(point) for point in deleted], lines

    def _standing(self, partition: int, messages: set[int]) -> list[dict[str, Any]]:
        """Return the points of the refusals of messages: their tags, time and slot."""
        types: dict[str, pa.DataType] = {
            **dict.fromkeys(("position", "redrive_of"), pa.int64()),
            **dict.fromkeys(_RAW_NAMES, pa.string()),
        }
        selected = ", ".join(["position::integer", "redrive_of::integer", *(f'"{name}"::tag' for name in _RAW_NAMES)])
        when = between(max(self._rejected_from(), 0), 1 << 62)
        question = f"SELECT {selected} FROM rejected WHERE {when} AND \"partition\" = '{partition}'"  # noqa: S608
        rows = self._client.table(self._settings.daily, question, types).to_pylist()
        return [
            row for row in rows if (row["position"] if row["redrive_of"] is None else row["redrive_of"]) in messages
        ]

    def _beside(self, deleted: Sequence[Mapping[str, Any]]) -> list[str]:
        """Write what is deleted in vain once more, as it stands.

        A predicate cannot say that a point has no lane: who deletes such a point deletes those beside it in every lane.
        """
        names = (*_RAW_NAMES[:-1], "time", "slot")
        first = {tuple(point[name] for name in names) for point in deleted if not point["lane"]}
        gone = {(*(point[name] for name in names), point["lane"]) for point in deleted}
        lines = []
        for time in sorted({point["time"] for point in deleted if not point["lane"]}):
            for row in self._points(f"WHERE {between(time, time + 1)} AND \"lane\" <> ''"):
                at = tuple(row[name] for name in names)
                if at in first and (*at, row["lane"]) not in gone:
                    seq = int(row["lane"]) * SLOTS + row["slot"]
                    lines.append(rejected_line(_as_rejected(self._refusal(row)), int(row["partition"]), seq))
        return lines

    def _state(self, stream: str, partition: int) -> StreamState:
        state = self._held(stream, partition)
        if state is None:
            raise QingtuError(f"partition {partition} of {stream} is another process's: stop all processes first")
        return state

    # --------------------------------------------------------------------------------------------------- writing it

    def delete(self, points: Sequence[Mapping[str, str]]) -> None:
        """Delete points of the bucket for days; those that are gone are gone.

        Raises:
            RetryLater: the server does not answer now.
        """
        path = f"/api/v2/delete?org={quote(self._settings.org)}&bucket={quote(self._settings.daily)}"
        for one in points:
            self._client.call("POST", path, dict(one))

    def write(self, bucket: str, lines: Sequence[str]) -> None:
        """Write lines; those that are too old for the bucket are left out.

        Raises:
            RetryLater: the server does not answer now; some may be written.
            QingtuError: the server does not take others.
        """
        self._own(bucket, Lines.of(lines))

    def tell(self, promotions: Sequence[Promotion]) -> None:
        """Write how far promotes are.

        Raises:
            RetryLater: the server does not answer now.
        """
        self.write(self._settings.daily, [promotion_line(one) for one in promotions])

    def book(self, booking: Booking) -> None:
        """Save what is booked, once, and tell it.

        Raises:
            RetryLater: the bus or the server does not answer now; the same may be booked again.
        """
        partition = booking.partition
        state = self._state(REJECTED, partition)
        if state.seq < booking.rejected_seq:
            self._save(REJECTED, partition, replace(state, seq=booking.rejected_seq))
        state = self._state(PROCESSED, partition)
        if state.promoted < booking.revision:
            counts = {(network, hour): np.array(row, np.int64) for network, hour, row in booking.counts}
            after = replace(
                state.counted(counts, booking.days),
                seq=booking.seq,
                high=max(state.high, booking.high),
                high_event=max(state.high_event, booking.high_event),
                promoted=booking.revision,
                pending=booking.entries,
            )
            self._save(PROCESSED, partition, after)
        self.catch_up(now=True)

    def _save(self, stream: str, partition: int, after: StreamState) -> None:
        bus, at = self._bus, (stream, partition)
        assert bus is not None
        bus.save_state(GROUPS[stream], partition, delta(self._saved[at], after))
        with self._lock:
            self._states[at] = self._saved[at] = after
        self._behind.add(at)


def _texts(lines: Lines) -> list[str]:
    return [lines.line(at) for at in range(len(lines))]


def _deletion(point: Mapping[str, Any]) -> dict[str, str]:
    """Return what the server is asked to delete a refusal with."""
    own = " AND ".join(f'"{name}"="{point[name]}"' for name in _RAW_NAMES if point[name])
    at = _rfc_3339(point["time"] * 1000 + point["slot"])
    return {"start": at, "stop": at, "predicate": f'_measurement="rejected" AND {own}'}


def _as_rejected(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a refusal that was read as a row of ``REJECTED_ROWS``, times in µs UTC."""
    return {**row, "readings_refused": row["refused"], "refused": row["refused_by_gateway"]}


def _rfc_3339(ns: int) -> str:
    return str(np.datetime64(ns, "ns")) + "Z"
