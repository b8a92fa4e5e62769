"""Counting the ledger's books from a batch that is written, and the lines of the quarantine's book that it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from qingtu.records import Cause
from qingtu.store import books
from qingtu.store.books import BookEntry, Changes, ManifestKeys
from qingtu.store.influx.quarantine import Guilty, Placed, find_entries, judged
from qingtu.store.influx.rows import quarantine_line, received_of
from qingtu.store.merging import NEW, REVISED, UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.records import Frame
    from qingtu.store.influx.client import InfluxClient
    from qingtu.store.influx.writing import Plan

COUNTED: Final = {NEW: "r_stored", REVISED: "r_revised", UNCHANGED: "r_repeated"}


@dataclass(frozen=True, slots=True)
class Bookkeeper:
    """Counts what a batch did.

    Attributes:
        client: asked for the entries of messages that are driven again.
        bucket: of the quarantine.
    """

    client: InfluxClient
    bucket: str

    def count(
        self,
        partition: int,
        frames: Sequence[Frame],
        plan: Plan,
        guilty: dict[tuple[int, int], Guilty],
        kept_from: int,
    ) -> tuple[Changes, dict[tuple[int, int], Placed]]:
        """Count the books of a batch; return also where entries stand that are moved.

        Messages received before ``kept_from`` (µs UTC) are expired, and move no more.
        """
        changes, placed = Changes(), dict[tuple[int, int], Placed]()
        driven: dict[tuple[int, int], list[int]] = {}
        keyed = []
        for number, frame in enumerate(frames):
            mine = {row: one for (at, row), one in guilty.items() if at == number}
            one = judged(frame, mine) if mine and "manifest" in frame.sections else frame
            keys = books.count_manifest(one, partition, changes)
            keyed.append((one, keys))
            if keys is not None:
                _count_rows(plan, number, keys, changes, driven)
        for number, (frame, keys) in enumerate(keyed):
            if keys is not None and keys.redriven:
                counts = {row: n for (at, row), n in driven.items() if at == number}
                self._move(partition, frame, keys, counts, changes, placed, kept_from)
        return changes, placed

    def _move(
        self,
        partition: int,
        frame: Frame,
        keys: ManifestKeys,
        driven: dict[int, list[int]],
        changes: Changes,
        placed: dict[tuple[int, int], Placed],
        kept_from: int,
    ) -> None:
        received = received_of(frame.sections["manifest"])
        own = {of: row for row, of in keys.redriven.items() if of >= 0}
        wanted = {of: received[row] for of, row in own.items() if (partition, of) not in placed}
        if wanted:
            found = find_entries(self.client, self.bucket, partition, wanted, kept_from)
            placed.update({(partition, of): one for of, one in found.items()})
        entries: dict[tuple[int, int], BookEntry] = {at: replace(one.entry) for at, one in placed.items()}
        entries |= {at: entry for at, entry in changes.quarantined.items() if at[1] in own}
        books.move(frame, partition, entries, driven, changes)


def entry_lines(
    partition: int,
    frames: Sequence[Frame],
    changes: Changes,
    placed: dict[tuple[int, int], Placed],
    seq: int,
) -> tuple[list[str], int]:
    """Return the lines of the quarantine's book that a batch changes, and the next number."""
    if not changes.quarantined:
        return [], seq
    received: dict[int, dict[int, int]] = {}
    for frame in frames:
        if frame.origin is not None and "manifest" in frame.sections:
            received[frame.origin[1]] = received_of(frame.sections["manifest"])
    lines = []
    for at, entry in changes.quarantined.items():
        if (stood := placed.get(at)) is not None:
            lines.append(quarantine_line(entry, partition, at[1], stood.received_us, stood.seq))
        else:
            time = received[at[1] >> 16][at[1] & 0xFFFF]
            lines.append(quarantine_line(entry, partition, at[1], time, seq))
            seq += 1
    return lines, seq


def _count_rows(
    plan: Plan,
    frame: int,
    keys: ManifestKeys,
    changes: Changes,
    driven: dict[tuple[int, int], list[int]],
) -> None:
    """Count the rows of a frame under their (network, hour). Quality's own revisions and re-driven rows go apart."""
    mine = plan.rows.frame == frame
    cause, revision = plan.rows.versions.cause, plan.rows.versions.revision
    for place, (code, column) in enumerate(COUNTED.items()):
        mask = mine & plan.counts(code)
        own = keys.of_row[revision[mask & (cause == Cause.READING)] & 0xFFFF]
        decided = keys.of_row[revision[mask & (cause == Cause.QUALITY_DECIDED)] & 0xFFFF]
        for k, n in enumerate(np.bincount(own, minlength=len(keys.keys)).tolist()):
            if n:
                changes.add(keys.keys[k], column, n)
        for k, n in enumerate(np.bincount(decided, minlength=len(keys.keys)).tolist()):
            if n and code == REVISED:
                changes.add(keys.keys[k], "reflagged", n)
        if keys.redriven:
            for row in (revision[mask & (cause == Cause.REDRIVE)] & 0xFFFF).tolist():
                driven.setdefault((frame, row), [0, 0, 0])[place] += 1
