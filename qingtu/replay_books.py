"""What a promote books: moves between quarantine and the store, and readings that are decoded anew.

The rules are those of a re-drive (:func:`qingtu.store.books.move`): what a message had brought into the store before
stays booked as stored, and received is never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from qingtu import records
from qingtu.clock import HOUR
from qingtu.records import PROCESSED, Frame, Outcome
from qingtu.store import books
from qingtu.store.books import BookEntry, Changes
from qingtu.store.queries import NEWEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

At = tuple[int, int]
"""Partition and position of a message."""
_CHUNK: Final = 1 << 16
_ENTRY: Final = "b.partition, b.position, b.network, b.hour, b.decoded, b.refused, b.outcome, b.moved_by"
_INSIDE: Final = "JOIN spans s ON s.partition = b.partition WHERE b.position >= s.low AND b.position < s.high"
# Messages of the span that are or were in quarantine here, unless what moved them came behind the span.
_MINE: Final = f"""
SELECT {_ENTRY} FROM quarantine_book b {_INSIDE} AND (b.moved_by < s.high
    OR (b.partition, b.moved_by >> 16) IN (SELECT (partition, revision >> 16) FROM promotions))
"""  # noqa: S608 - our own column names
_ALL_MINE: Final = f"SELECT b.partition, b.position FROM quarantine_book b {_INSIDE}"  # noqa: S608
_THEIRS: Final = f"SELECT {_ENTRY} FROM gen.quarantine_book b {_INSIDE}"  # noqa: S608
_OUTCOMES: Final = """
SELECT o.partition, o.position, o.outcome, o.decoded, o.refused
FROM gen.outcomes o JOIN quarantine_book b ON b.partition = o.partition AND b.position = o.position
"""
# By message: readings that it brings anew, and those that it changes. A row that is driven again speaks for the first,
# which is perhaps in another partition: see ``records.home``.
_BROUGHT: Final = f"""
SELECT CASE WHEN o.redrive_of < 0 THEN ~o.redrive_of >> {records.PLACE} ELSE o.partition END AS home,
    CASE WHEN o.redrive_of < 0 THEN ~o.redrive_of & {(1 << records.PLACE) - 1}
        ELSE coalesce(o.redrive_of, c.origin) END AS message,
    any_value(o.network), any_value(o.received_us) // {HOUR},
    count(*) FILTER (c.what = 'new'), count(*) FILTER (c.what = 'changed')
FROM changes c JOIN gen.outcomes o ON o.partition = c.origin_partition AND o.position = c.origin
GROUP BY home, message
"""  # noqa: S608
_SAME_REASON: Final = f"""
SELECT mine.partition, mine.message FROM ({NEWEST.format(of="")}) mine JOIN ({NEWEST.format(of="gen.")}) theirs
    ON theirs.partition = mine.partition AND theirs.message = mine.message
JOIN rejected r ON r.partition = mine.partition AND r.position = mine.position
JOIN gen.rejected g ON g.partition = theirs.partition AND g.position = theirs.position
WHERE r.stage = g.stage AND r.reason = g.reason AND r.detail = g.detail
"""  # noqa: S608


class Booked(NamedTuple):
    """What is booked.

    Attributes:
        changes: of the books, by partition of the messages.
        messages: how many ``left`` quarantine, ``entered`` it, or ``stay`` there otherwise than before.
        partitions: of these messages.
        told: messages of which ``rejected`` says what the generation says.
    """

    changes: list[Changes]
    messages: dict[str, int]
    partitions: set[int]
    told: list[At]


def book(db: duckdb.DuckDBPyConnection, at: Sequence[int]) -> Booked:
    """Work out what is booked, and bring the rows of ``rejected`` into line.

    Args:
        db: of the live store's copy, in a transaction, with the generation attached as ``gen`` and the temporary
            tables of :mod:`qingtu.replay_changes`.
        at: positions of the promote, by partition.
    """
    mine = {(p, at_): BookEntry(*rest) for p, at_, *rest in db.execute(_MINE).fetchall()}
    everything = {(p, at_) for p, at_ in db.execute(_ALL_MINE).fetchall()}
    theirs = {(p, at_): BookEntry(*rest) for p, at_, *rest in db.execute(_THEIRS).fetchall()}
    outcomes = {(p, at_): tuple(rest) for p, at_, *rest in db.execute(_OUTCOMES).fetchall()}
    brought = {(p, at_): tuple(rest) for p, at_, *rest in db.execute(_BROUGHT).fetchall()}
    same = {(p, at_) for p, at_ in db.execute(_SAME_REASON).fetchall()}
    changes = [Changes() for _ in at]
    now: dict[At, tuple[int, int, int]] = {}
    stay: list[At] = []
    for message, entry in mine.items():
        if entry.outcome != Outcome.QUARANTINED:
            continue
        then = theirs.get(message)
        found = (then.outcome, then.decoded, then.refused) if then is not None else outcomes.get(message)
        if found is None or (
            found[0] == entry.outcome and books.again(entry, *found[1:]) == (entry.decoded, entry.refused)
        ):
            if then is not None and message not in same:
                stay.append(message)
            continue
        now[message] = found
        if found[0] == Outcome.QUARANTINED:
            stay.append(message)
    entered = _enter(mine, everything, theirs, changes)
    for partition, position in enumerate(at):
        moved = {message: found for message, found in now.items() if message[0] == partition}
        _move(partition, mine, moved, brought, position, changes[partition])
    for message, (network, hour, new, _) in brought.items():
        if message not in now and new:
            changes[message[0]].add((network, hour), "decoded", new)
            changes[message[0]].add((network, hour), "r_stored", new)
    _tell(db, [*entered, *stay])
    left = sum(found[0] != Outcome.QUARANTINED for found in now.values())
    counts = {"left": left, "entered": len(entered), "stay": len(stay)}
    partitions = {partition for partition, _ in (*now, *entered, *stay)}
    return Booked(changes, counts, partitions, [*entered, *stay])


def _enter(
    mine: dict[At, BookEntry], everything: set[At], theirs: dict[At, BookEntry], changes: Sequence[Changes]
) -> list[At]:
    """Book messages that do not pass any more. What they had brought is withdrawn, not unbooked."""
    entered = []
    for message, entry in theirs.items():
        before = mine.get(message)
        if entry.outcome != Outcome.QUARANTINED or (before is None and message in everything):
            continue
        if before is not None and before.outcome == Outcome.QUARANTINED:
            continue
        key = (entry.network, entry.hour)
        was = Outcome.STORED if before is None else Outcome(before.outcome)
        own = changes[message[0]]
        own.add(key, was.name.lower(), -1)
        own.add(key, "quarantined", 1)
        decoded, refused = entry.decoded, 0
        if before is not None:
            # What it had brought is booked where its station lives, when it was driven again there.
            decoded, refused = books.again(before, entry.decoded, entry.refused)
            own.add(key, "decoded", decoded - before.decoded)
            own.add(key, "r_quarantined", refused - before.refused)
        # Which row refused it last is the generation's: an old re-drive that passed must not speak for it.
        own.quarantined[message] = BookEntry(entry.network, entry.hour, decoded, refused, moved_by=entry.moved_by)
        entered.append(message)
    return entered


def _move(
    partition: int,
    mine: dict[At, BookEntry],
    now: dict[At, tuple[int, int, int]],
    brought: dict[At, tuple[Any, ...]],
    at: int,
    changes: Changes,
) -> None:
    """Book what became of a partition's quarantined messages, as if they had been driven again by the promote."""
    wanted = sorted(now)
    entries = {message: mine[message] for message in wanted}
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        columns = np.array([now[message] for message in part], np.int64)
        n = len(part)
        manifest = records.batch(
            records.MANIFEST,
            {
                "row": np.arange(n, dtype=np.uint16),
                "network": records.same_name("", n),  # the entry's counts
                "received_at": records.times(np.zeros(n, np.int64)),
                "outcome": columns[:, 0].astype(np.uint8),
                "decoded": columns[:, 1].astype(np.int32),
                "refused": columns[:, 2].astype(np.int32),
                "redrive_of": np.array([position for _, position in part], np.int64),
            },
        )
        frame = Frame({"stream": PROCESSED, "origin": [partition, at >> 16]}, {"manifest": manifest})
        driven = {
            row: [brought[message][2], brought[message][3], 0] for row, message in enumerate(part) if message in brought
        }
        books.move(frame, partition, entries, driven, changes)


def _tell(db: duckdb.DuckDBPyConnection, messages: list[At]) -> None:
    """Let ``rejected`` say of these messages what the generation says, also of the rows that drove them again."""
    for partition in {partition for partition, _ in messages}:
        given = [partition, [position for p, position in messages if p == partition]]
        some = "WHERE partition = ? AND coalesce(redrive_of, position) IN (SELECT unnest(?))"
        db.execute(f"DELETE FROM rejected {some}", given)  # noqa: S608 - our own words
        db.execute(f"INSERT INTO rejected SELECT * FROM gen.rejected {some}", given)  # noqa: S608
