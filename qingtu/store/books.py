"""The ledger's books in the store: outcomes by network and hour of receipt, counted from manifests.

Counts move only together with the rows that they speak of, in one transaction. A message that is driven again is a
booked move from quarantine; it is never counted as received twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qingtu.clock import HOUR
from qingtu.records import Frame, Outcome, codes_of, position, times_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from numpy.typing import NDArray

COLUMNS: Final = (
    "stored", "duplicate", "quarantined", "ignored", "decoded", "r_stored", "r_revised", "r_repeated",
    "r_duplicate", "r_quarantined", "reflagged", "redriven",
)  # fmt: skip
_AT: Final = {name: i for i, name in enumerate(COLUMNS)}
_OUTCOME_COLUMN: Final = {
    Outcome.STORED: "stored",
    Outcome.DUPLICATE: "duplicate",
    Outcome.QUARANTINED: "quarantined",
    Outcome.IGNORED: "ignored",
}
_STORED: Final = int(Outcome.STORED)
Key = tuple[str, int]
"""(network, hour since 1970)."""


@dataclass(slots=True)
class BookEntry:
    """A message that is or was in quarantine.

    Attributes:
        network, hour: where it is counted.
        decoded, refused: readings, as last decided.
        outcome: as last decided.
        moved_by: position of the row that drove it again, -1 for none.
    """

    network: str
    hour: int
    decoded: int
    refused: int
    outcome: int = Outcome.QUARANTINED
    moved_by: int = -1


@dataclass(slots=True)
class Changes:
    """What one transaction adds to the books.

    Attributes:
        counts: by (network, hour), int64 (len(COLUMNS),) to add.
        quarantined: (partition, position) → entry, new or changed.
    """

    counts: dict[Key, NDArray[np.int64]] = field(default_factory=dict)
    quarantined: dict[tuple[int, int], BookEntry] = field(default_factory=dict)

    def add(self, key: Key, column: str, amount: int) -> None:
        """Add to one count."""
        row = self.counts.get(key)
        if row is None:
            row = self.counts[key] = np.zeros(len(COLUMNS), np.int64)
        row[_AT[column]] += amount

    def and_all(self, others: Iterable[Changes]) -> Changes:
        """Return these and others together."""
        out = Changes({key: row.copy() for key, row in self.counts.items()}, dict(self.quarantined))
        for other in others:
            for key, row in other.counts.items():
                out.counts[key] = out.counts[key] + row if key in out.counts else row.copy()
            out.quarantined.update(other.quarantined)
        return out


@dataclass(frozen=True, slots=True)
class ManifestKeys:
    """Which (network, hour) each row of a raw frame belongs to.

    Attributes:
        keys: distinct ones.
        of_row: int32 (rows of the raw frame,), index into keys; -1 for what is no message.
        redriven: raw row → position of the row it drives again; below 0: in another partition.
    """

    keys: list[Key]
    of_row: NDArray[np.int32]
    redriven: dict[int, int]


def count_manifest(frame: Frame, partition: int, changes: Changes) -> ManifestKeys | None:
    """Count the outcomes of a processed frame's messages; re-driven ones are left to :func:`move`."""
    manifest = frame.get("manifest")
    if manifest is None:
        return None
    networks, names = codes_of(manifest.column("network"))
    hours = times_of(manifest.column("received_at")) // HOUR
    both = networks.astype(np.int64) << 40 | hours
    if (both == both[0]).all():  # usual
        distinct, which = both[:1], np.zeros(len(both), np.int64)
    else:
        distinct, which = np.unique(both, return_inverse=True)
    keys = [(names[int(d >> 40)], int(d & ((1 << 40) - 1))) for d in distinct]
    row = np.asarray(manifest.column("row")).astype(np.int64)
    outcome = np.asarray(manifest.column("outcome")).astype(np.int64)
    decoded = np.asarray(manifest.column("decoded")).astype(np.int64)
    refused = np.asarray(manifest.column("refused")).astype(np.int64)
    redrive = manifest.column("redrive_of")
    of_row = np.full(int(row.max()) + 1, -1, np.int32)
    of_row[row] = which
    if len(keys) == 1 and redrive.null_count == len(row) and not refused.any() and (outcome == _STORED).all():  # usual
        changes.add(keys[0], "stored", len(row))
        changes.add(keys[0], "decoded", int(decoded.sum()))
        return ManifestKeys(keys, of_row, {})
    again = redrive.is_valid().to_numpy(zero_copy_only=False)
    first = ~again
    table = np.bincount(which[first] * 8 + outcome[first], minlength=8 * len(keys)).reshape(-1, 8)
    duplicate = first & (outcome == Outcome.DUPLICATE)
    kept = first & ~duplicate
    sums = {
        "decoded": np.bincount(which[first], decoded[first], len(keys)),
        "r_duplicate": np.bincount(which[duplicate], decoded[duplicate], len(keys)),
        "r_quarantined": np.bincount(which[kept], refused[kept], len(keys)),
    }
    for k, key in enumerate(keys):
        for code, column in _OUTCOME_COLUMN.items():
            changes.add(key, column, int(table[k, code]))
        for column, sum_ in sums.items():
            changes.add(key, column, int(sum_[k]))
    offset = _origin(frame)
    for i in np.flatnonzero(first & (outcome == Outcome.QUARANTINED)).tolist():
        network, hour = keys[which[i]]
        entry = BookEntry(network, hour, int(decoded[i]), int(refused[i]))
        changes.quarantined[partition, position(offset, int(row[i]))] = entry
    redriven = {int(row[i]): int(redrive[i].as_py()) for i in np.flatnonzero(again).tolist()}
    return ManifestKeys(keys, of_row, redriven)


def move(
    frame: Frame,
    partition: int,
    entries: dict[tuple[int, int], BookEntry],
    driven: dict[int, list[int]],
    changes: Changes,
) -> None:
    """Book what became of re-driven messages.

    What a message had brought into the store before stays there, so it stays booked as stored, whatever the message
    gives now. What is new in the store beyond the readings that were refused (driven with another shift, or mapped
    to another series) is booked as decoded anew.

    Args:
        frame: a processed frame.
        partition: its partition.
        entries: book entries of the messages that are driven again, by (partition, position); is changed.
        driven: raw row of the re-driven message → its readings that were new, revised, unchanged in the store.
        changes: is added to.
    """
    manifest = frame.sections["manifest"]
    offset = _origin(frame)
    for i, of in enumerate(manifest.column("redrive_of").to_pylist()):
        if of is None:
            continue
        row = int(manifest.column("row")[i].as_py())
        new, revised, same = driven.get(row, (0, 0, 0))
        if of < 0:
            _book_away(manifest, i, position(offset, row), (new, revised, same), partition, changes)
            continue
        entry = entries.get((partition, of))
        if entry is None or entry.outcome != Outcome.QUARANTINED:
            # It left quarantine before: the message does not move again, but what is new in the store counts.
            _book_new(changes, _key_of(manifest, i) if entry is None else (entry.network, entry.hour), new)
            continue
        outcome = int(manifest.column("outcome")[i].as_py())
        key = (entry.network, entry.hour)
        changes.add(key, "quarantined", -1)
        changes.add(key, _OUTCOME_COLUMN[Outcome(outcome)], 1)
        changes.add(key, "redriven", 1)
        had = entry.decoded - entry.refused
        decoded, refused = again(
            entry, int(manifest.column("decoded")[i].as_py()), int(manifest.column("refused")[i].as_py())
        )
        changes.add(key, "decoded", decoded - entry.decoded)
        changes.add(key, "r_quarantined", refused - entry.refused)
        accepted = decoded - refused - had
        stored = min(new, accepted)
        changed = min(revised, accepted - stored)
        changes.add(key, "r_stored", stored)
        changes.add(key, "r_revised", changed)
        changes.add(key, "r_repeated", accepted - stored - changed)
        _book_new(changes, key, new - stored)
        moved = BookEntry(entry.network, entry.hour, decoded, refused, outcome, position(offset, row))
        entries[partition, of] = changes.quarantined[partition, of] = moved


def again(entry: BookEntry, decoded: int, refused: int) -> tuple[int, int]:
    """Return what is booked as decoded and refused of a message that is driven again: what it had brought stays."""
    had = entry.decoded - entry.refused
    decoded = max(decoded, had)
    return decoded, min(refused, decoded - had)


def _book_away(
    manifest: pa.RecordBatch, i: int, at: int, brought: tuple[int, int, int], partition: int, changes: Changes
) -> None:
    """Book what a message of another partition brings here; the message itself is booked there, by what it is told.

    When the store refuses a part, which nobody there hears of, the message has left quarantine there and is in it here:
    the sums of its hour, which are those of all partitions together, hold it once.
    """
    key, refused = _key_of(manifest, i), int(manifest.column("refused")[i].as_py())
    changes.add(key, "decoded", sum(brought) + refused)
    for column, count in zip(
        ("r_stored", "r_revised", "r_repeated", "r_quarantined"), (*brought, refused), strict=True
    ):
        changes.add(key, column, count)
    if int(manifest.column("outcome")[i].as_py()) == Outcome.QUARANTINED:
        changes.add(key, "stored", -1)
        changes.add(key, "quarantined", 1)
        changes.quarantined[partition, at] = BookEntry(*key, sum(brought) + refused, refused)


def _book_new(changes: Changes, key: Key, readings: int) -> None:
    if readings:
        changes.add(key, "decoded", readings)
        changes.add(key, "r_stored", readings)


def _key_of(manifest: pa.RecordBatch, i: int) -> Key:
    return str(manifest.column("network")[i].as_py()), int(times_of(manifest.column("received_at"))[i]) // HOUR


def _origin(frame: Frame) -> int:
    origin = frame.origin
    assert origin is not None, "a processed frame has an origin"
    return origin[1]


def totals(books: dict[Key, NDArray[np.int64]]) -> dict[str, int]:
    """Sum all books by column."""
    if not books:
        return dict.fromkeys(COLUMNS, 0)
    summed: NDArray[Any] = np.sum(list(books.values()), axis=0)
    return dict(zip(COLUMNS, summed.tolist(), strict=True))
