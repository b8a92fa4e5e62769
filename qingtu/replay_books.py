"""What a promote books: moves between quarantine and the store, and readings that are decoded anew.

The rules are those of a re-drive (:func:`qingtu.store.books.move`): what a message had brought into the store before
stays booked as stored, and received is never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qingtu import records
from qingtu.clock import HOUR
from qingtu.records import PROCESSED, Frame, Outcome
from qingtu.store import books
from qingtu.store.books import BookEntry, Changes

if TYPE_CHECKING:
    import duckdb

    from qingtu.replay_raw import Span

_CHUNK: Final = 1 << 16
_ENTRY: Final = "position, network, hour, decoded, refused, outcome, moved_by"
# Messages of the span that are or were in quarantine here, unless what moved them came behind the span.
_MINE: Final = f"""
SELECT {_ENTRY} FROM quarantine_book WHERE position >= $low AND position < $high AND (moved_by < $high
    OR moved_by >> 16 IN (SELECT revision >> 16 FROM promotions))
"""  # noqa: S608 - our own column names
_ALL_MINE: Final = "SELECT position FROM quarantine_book WHERE position >= $low AND position < $high"
_THEIRS: Final = f"SELECT {_ENTRY} FROM gen.quarantine_book WHERE position >= $low AND position < $high"  # noqa: S608
_OUTCOMES: Final = """
SELECT o.position, o.outcome, o.decoded, o.refused FROM gen.outcomes o JOIN quarantine_book b ON b.position = o.position
"""
# By message: readings that it brings anew, and those that it changes. A row that is driven again speaks for the first.
_BROUGHT: Final = f"""
SELECT coalesce(o.redrive_of, c.origin) AS message, any_value(o.network), any_value(o.received_us) // {HOUR},
    count(*) FILTER (c.what = 'new'), count(*) FILTER (c.what = 'changed')
FROM changes c JOIN gen.outcomes o ON o.position = c.origin GROUP BY message
"""  # noqa: S608
_SAME_REASON: Final = """
SELECT r.position FROM rejected r JOIN gen.rejected g ON g.position = r.position
WHERE r.stage = g.stage AND r.reason = g.reason AND r.detail = g.detail
"""


def book(db: duckdb.DuckDBPyConnection, span: Span, at: int, changes: Changes) -> dict[str, int]:
    """Work out what is booked, and bring the rows of ``rejected`` into line.

    Args:
        db: of the live store's copy, in a transaction, with the generation attached as ``gen`` and the temporary
            table ``changes``.
        span: of the generation.
        at: position of the promote.
        changes: is added to.

    Returns:
        how many messages ``left`` quarantine, ``entered`` it, or ``stay`` there otherwise than before.
    """
    bounds = {"low": span.low, "high": span.high}
    mine = {at_: BookEntry(*rest) for at_, *rest in db.execute(_MINE, bounds).fetchall()}
    everything = {row[0] for row in db.execute(_ALL_MINE, bounds).fetchall()}
    theirs = {at_: BookEntry(*rest) for at_, *rest in db.execute(_THEIRS, bounds).fetchall()}
    outcomes = {at_: tuple(rest) for at_, *rest in db.execute(_OUTCOMES).fetchall()}
    brought = {message: tuple(rest) for message, *rest in db.execute(_BROUGHT).fetchall()}
    same = {row[0] for row in db.execute(_SAME_REASON).fetchall()}
    now: dict[int, tuple[int, int, int]] = {}
    stay = []
    for message, entry in mine.items():
        if entry.outcome != Outcome.QUARANTINED:
            continue
        then = theirs.get(message)
        found = (then.outcome, then.decoded, then.refused) if then is not None else outcomes.get(message)
        if found is None or found == (entry.outcome, entry.decoded, entry.refused):
            if then is not None and message not in same:
                stay.append(message)
            continue
        now[message] = found
        if found[0] == Outcome.QUARANTINED:
            stay.append(message)
    entered = _enter(mine, everything, theirs, changes)
    _move(mine, now, brought, at, changes)
    for message, (network, hour, new, _) in brought.items():
        if message not in now and new:
            changes.add((network, hour), "decoded", new)
            changes.add((network, hour), "r_stored", new)
    _tell(db, [*entered, *stay])
    return {"left": sum(f[0] != Outcome.QUARANTINED for f in now.values()), "entered": len(entered), "stay": len(stay)}


def _enter(
    mine: dict[int, BookEntry], everything: set[int], theirs: dict[int, BookEntry], changes: Changes
) -> list[int]:
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
        changes.add(key, was.name.lower(), -1)
        changes.add(key, "quarantined", 1)
        decoded = entry.decoded if before is None else before.decoded
        changes.quarantined[0, message] = BookEntry(entry.network, entry.hour, decoded, 0)
        entered.append(message)
    return entered


def _move(
    mine: dict[int, BookEntry],
    now: dict[int, tuple[int, int, int]],
    brought: dict[int, tuple[Any, ...]],
    at: int,
    changes: Changes,
) -> None:
    """Book what became of quarantined messages, as if they had been driven again by the promote."""
    wanted = sorted(now)
    entries = {(0, message): mine[message] for message in wanted}
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
                "redrive_of": np.array(part, np.int64),
            },
        )
        frame = Frame({"stream": PROCESSED, "origin": [0, at >> 16]}, {"manifest": manifest})
        driven = {
            row: [brought[message][2], brought[message][3], 0] for row, message in enumerate(part) if message in brought
        }
        books.move(frame, 0, entries, driven, changes)


def _tell(db: duckdb.DuckDBPyConnection, messages: list[int]) -> None:
    """Let ``rejected`` say of these messages what the generation says."""
    if messages:
        given = [messages]
        db.execute("DELETE FROM rejected WHERE partition = 0 AND position IN (SELECT unnest(?))", given)
        db.execute("INSERT INTO rejected SELECT * FROM gen.rejected WHERE position IN (SELECT unnest(?))", given)
