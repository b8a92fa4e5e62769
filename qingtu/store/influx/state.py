"""What the store keeps on the bus, by stream and partition: progress, and beside it what cannot be read from rows.

It is saved after the server has the rows, so it never says more than is stored, and another process can go on from it.
Of ``processed``, the saved parts are::

    head             origin, newest time of all readings and events, counters, age limit
    books/hHOUR      outcomes by network of one hour of receipt
    books/mMONTH     the same of older hours, many in one part
    days/MONTH       how many readings were stored, by day of their time
    gone             how many messages left quarantine because of their age, by reason and stage
    pending          what follows in the database right after the save: see :class:`StreamState`

and of the other streams a head with origin and counter. A commit puts only the parts that it changes; there are few
parts at any time, because a bus may list them all in each snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from qingtu.contracts import Progress, SavedState, StateDelta
from qingtu.errors import VersionError
from qingtu.grouped import NEVER
from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED
from qingtu.store.books import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qingtu.store.books import Key

VERSION: Final = 1
GROUPS: Final = {
    PROCESSED: "store",
    ALERTS: "store-alerts",
    REJECTED: "store-rejected",
    FIGURES: "store-figures",
}
"""Group of each stream: under it state is saved."""
_MONTH_D: Final = 31
_RECENT_D: Final = 2
"""Hours of so many days, counted from the newest, have a part of their own."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """State of one stream in one partition, as it is saved. Never changed: each commit makes the next.

    Attributes:
        progress: see :class:`Progress`.
        seq: number of the next row that needs one: alerts, rejected; of processed: entries of the quarantine's book.
        refused_seq: of processed: number of the next row that the server refused.
        high: newest time of all readings that may be stored, µs UTC.
        high_event: the same of events.
        kept_from: readings older than this are expired, µs UTC.
        expired: how many readings expired, ever.
        rejected_from: messages of the quarantine that were received before this are expired, µs UTC.
        gone: how many messages left quarantine because of their age: (reason, stage) → (count, newest day of receipt).
        books: outcomes by hour and network, int64 (len(COLUMNS),).
        days: readings stored, by day of their time since 1970.
        promoted: revision of the newest promote that the books hold, -1: none.
        pending: lines of the quarantine's book that belong to the newest commit.
        hours: whose books the newest commit changed.
    """

    progress: Progress = Progress(0, -1)  # noqa: RUF009 - immutable
    seq: int = 0
    refused_seq: int = 0
    high: int = NEVER
    high_event: int = NEVER
    kept_from: int = NEVER
    expired: int = 0
    rejected_from: int = NEVER
    gone: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    books: Mapping[int, Mapping[str, NDArray[np.int64]]] = field(default_factory=dict)
    days: Mapping[int, int] = field(default_factory=dict)
    promoted: int = -1
    pending: Sequence[str] = ()
    hours: Sequence[int] = ()

    def counted(self, counts: Mapping[Key, NDArray[np.int64]], days: Mapping[int, int]) -> StreamState:
        """Return the state with these counts added."""
        none = np.zeros(len(COLUMNS), np.int64)
        books = dict(self.books)
        for (network, hour), row in counts.items():
            own = books.get(hour, {})
            books[hour] = {**own, network: own.get(network, none) + row}
        sums = {**self.days, **{day: self.days.get(day, 0) + n for day, n in days.items()}}
        return replace(self, books=books, days=sums, hours=sorted({hour for _, hour in counts}))

    def aged(self, before_us: int, before_day: int) -> tuple[StreamState, int]:
        """Return the state without readings of days before ``before_day``, and how many those were."""
        gone = sum(n for day, n in self.days.items() if day < before_day)
        days = {day: n for day, n in self.days.items() if day >= before_day}
        kept_from = max(self.kept_from, before_us)
        return replace(self, days=days, kept_from=kept_from, expired=self.expired + gone), gone

    def forgot(self, before_us: int, gone: Mapping[tuple[str, str], tuple[int, int]]) -> StreamState:
        """Return the state without messages of the quarantine received before a time; ``gone`` as of that time."""
        sums = dict(self.gone)
        for key, (count, day) in gone.items():
            had, newest = sums.get(key, (0, day))
            sums[key] = had + count, max(newest, day)
        return replace(self, rejected_from=max(self.rejected_from, before_us), gone=sums)


_HEAD: Final = ("seq", "refused_seq", "high", "high_event", "kept_from", "expired", "rejected_from", "promoted")


def delta(before: StreamState, after: StreamState) -> StateDelta:
    """Return what must be saved to go from one state to the next."""
    head = {"v": VERSION, "origin": after.progress.origin, **{name: getattr(after, name) for name in _HEAD}}
    put, drop = _books(before, after)
    put["head"] = orjson.dumps(head)
    for month in {
        day // _MONTH_D for day in {*before.days, *after.days} if before.days.get(day) != after.days.get(day)
    }:
        days = [[day, n] for day, n in after.days.items() if day // _MONTH_D == month]
        if days:
            put[f"days/{month}"] = orjson.dumps(days)
        else:
            drop.append(f"days/{month}")
    if after.gone != before.gone:
        put["gone"] = orjson.dumps([[*key, *value] for key, value in after.gone.items()])
    if after.pending or after.hours:
        put["pending"] = orjson.dumps({"lines": list(after.pending), "hours": list(after.hours)})
    elif before.pending or before.hours:
        drop.append("pending")
    return StateDelta(after.progress.next_offset, put, drop)


def _books(before: StreamState, after: StreamState) -> tuple[dict[str, bytes], list[str]]:
    """Return the parts with books that changed, or that were folded because a new day began."""
    was, now = _recent(before), _recent(after)
    changed = {hour for hour, rows in after.books.items() if before.books.get(hour) is not rows}
    folded = {hour for hour in before.books if was <= hour < now} if now != was else set[int]()
    months = {hour // (24 * _MONTH_D) for hour in changed | folded if hour < now}
    rows: dict[str, list[list[object]]] = {}
    for hour in [h for h in after.books if (h in changed if h >= now else h // (24 * _MONTH_D) in months)]:
        part = f"books/h{hour}" if hour >= now else f"books/m{hour // (24 * _MONTH_D)}"
        counts = [[network, hour, *row.tolist()] for network, row in after.books[hour].items()]
        rows.setdefault(part, []).extend(counts)
    return {part: orjson.dumps(some) for part, some in rows.items()}, [f"books/h{hour}" for hour in folded]


def _recent(state: StreamState) -> int:
    """Return the first hour that has a part of its own."""
    return (max(state.books) // 24 - _RECENT_D) * 24 if state.books else 0


def restore(saved: SavedState | None) -> StreamState:
    """Read a saved state.

    Raises:
        VersionError: a newer program saved it.
    """
    if saved is None:
        return StreamState()
    head = orjson.loads(saved.parts["head"])
    if head["v"] > VERSION:
        raise VersionError(
            f"由更新的程序写入 / the store's state has version {head['v']}, written by a newer program; "
            f"this reads {VERSION}"
        )
    books: dict[int, dict[str, NDArray[np.int64]]] = {}
    days: dict[int, int] = {}
    for name, data in saved.parts.items():
        if name.startswith("books/"):
            for network, hour, *row in orjson.loads(data):
                books.setdefault(hour, {})[network] = np.array(row, np.int64)
        elif name.startswith("days/"):
            days.update(dict(orjson.loads(data)))
    pending = orjson.loads(saved.parts.get("pending", b'{"lines": [], "hours": []}'))
    return StreamState(
        Progress(saved.next_offset, head["origin"]),
        gone={(r, s): (n, day) for r, s, n, day in orjson.loads(saved.parts.get("gone", b"[]"))},
        books=books,
        days=days,
        pending=tuple(pending["lines"]),
        hours=tuple(pending["hours"]),
        **{name: head[name] for name in _HEAD if name in head},  # a program before this knew of no promotes
    )
