"""The audit: counts raw, the store's rows and what the pass said of each message again, and compares with the ledger.

What the ledger counted while it went along is not used. It errs on one side alone: what cannot be counted wholly any
more is left out, so that a check that does not agree is always a fault.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from processors.process import CONFIGURE
from qingtu.clock import HOUR
from qingtu.ledger import frames
from qingtu.records import PROCESSED, RAW, Kind, Outcome, codes_of, decode, times_of
from qingtu.store.fresh import fresh

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.contracts import Bus
    from qingtu.ledger import Key, Ledger
    from qingtu.records import Frame
    from qingtu.store.contract import PrimaryStore

_SAID: Final = {"duplicate": Outcome.DUPLICATE, "ignored": Outcome.IGNORED}
"""Outcomes of which a message never leaves and which it never gets later, but by a promote."""

_NOTHING: Final = 1 << 62
"""Raw offset from which on manifests are held, when none are."""


def audit(bus: Bus, store: PrimaryStore, ledger: Ledger) -> dict[str, Any]:
    """Recount everything from raw rows, manifests, the store and quarantine, and compare with the ledger.

    Args:
        bus: raw is read from its oldest frame on, and processed up to where the store has applied it.
        store: its tables are counted. It may not move before this call has ended; raw may grow.
        ledger: to be checked.

    Returns:
        ``ledger``, its report; ``agrees``, and ``checks``: rows of name, counted, booked, agrees. When raw was trimmed,
        what came in is compared for the hours that are still wholly held. What expired counts as it was counted then.
        Duplicate and ignored messages are compared network by network and hour by hour, of the hours of which the
        manifests are still wholly held; what is neither is stored or in quarantine, since the sum balances.
    """
    report = ledger.report()
    in_store = store.count("readings") + store.expired()
    in_quarantine = len(store.in_quarantine()) + store.rejected_expired()
    counted, promoted = _received(bus, report["raw_end"])
    gone = ledger.trimmed()
    received = _without(counted, gone), _without(_booked(report, "received"), gone)
    checks = [
        ("messages in raw", sum(received[0].values()), sum(received[1].values()), True),
        ("readings in the store", in_store, report["readings"]["stored"], True),
        ("messages in quarantine", in_quarantine, report["messages"]["quarantined"], True),
    ]
    said, held_from = _said(bus, store)
    gone |= ledger.begun({p: max(held_from[p], promoted[p]) for p in range(bus.partitions)})
    for name, outcome in _SAID.items():
        mine, theirs = _without(said[outcome], gone), _without(_booked(report, name), gone)
        checks.append((f"{name} messages", sum(mine.values()), sum(theirs.values()), mine == theirs))
    rows = [{"name": n, "counted": c, "booked": b, "agrees": c == b and each} for n, c, b, each in checks]
    return {"ledger": report, "agrees": all(r["agrees"] for r in rows), "checks": rows}


def _received(bus: Bus, end: list[int]) -> tuple[Counter[Key], dict[int, int]]:
    """Count the messages on raw; also, by partition, the offset behind the last promote, which decides again."""
    counted: Counter[Key] = Counter()
    promoted = dict.fromkeys(range(bus.partitions), 0)
    for partition in promoted:
        for record in frames(bus, partition, bus.start(RAW, partition), end[partition]):
            rows = decode(record.data).sections["rows"]
            kind = np.asarray(rows.column("kind"))
            counted.update(_keys(rows, (kind == Kind.MESSAGE) & _first(rows)))
            if any(_promotes(rows.column("payload")[i].as_py()) for i in np.flatnonzero(kind == Kind.COMMAND).tolist()):
                promoted[partition] = record.offset + 1
    return counted, promoted


def _said(bus: Bus, store: PrimaryStore) -> tuple[dict[Outcome, Counter[Key]], dict[int, int]]:
    """Count what the pass said of messages; also, by partition, the raw offset from which on it is wholly held."""
    counted: dict[Outcome, Counter[Key]] = {outcome: Counter() for outcome in _SAID.values()}
    held_from = dict.fromkeys(range(bus.partitions), 0)
    for partition in held_from:
        start, end = bus.start(PROCESSED, partition), store.progress(PROCESSED, partition).next_offset
        found, after = not start, -1
        held_from[partition] = 0 if found else _NOTHING
        for frame in _decoded(bus, partition, start, end):
            # A stage that was killed emits some again: once, as the store does.
            new, after = fresh(PROCESSED, [frame], after)
            if not found:
                found, held_from[partition] = True, after + 1  # what came of this very raw frame is perhaps not whole
            if new and (manifest := frame.get("manifest")) is not None:
                outcome = np.asarray(manifest.column("outcome"))
                for one, into in counted.items():
                    into.update(_keys(manifest, (outcome == one) & _first(manifest)))
        if bus.start(PROCESSED, partition) != start:  # servers trim by themselves, also while this reads
            held_from[partition] = _NOTHING
    return counted, held_from


def _decoded(bus: Bus, partition: int, start: int, end: int) -> Iterator[Frame]:
    for record in frames(bus, partition, start, end, PROCESSED):
        yield decode(record.data)


def _first(rows: pa.RecordBatch) -> NDArray[np.bool_]:
    """Say which rows are messages that came in, not those that drive one again."""
    out: NDArray[np.bool_] = rows.column("redrive_of").is_null().to_numpy(zero_copy_only=False)
    return out


def _keys(rows: pa.RecordBatch, chosen: NDArray[np.bool_]) -> Iterator[Key]:
    if chosen.any():
        networks, names = codes_of(rows.column("network"))
        hours = times_of(rows.column("received_at")) // HOUR
        for code, hour in zip(networks[chosen].tolist(), hours[chosen].tolist(), strict=True):
            yield names[code], hour


def _promotes(payload: bytes) -> bool:
    command = orjson.loads(payload)
    return command.get("name") == CONFIGURE and "promoted" in command.get("args", ())


def _booked(report: Mapping[str, Any], column: str) -> dict[Key, int]:
    return {(row["network"], row["hour"] // HOUR): row[column] for row in report["by"] if row[column]}


def _without(counts: Mapping[Key, int], hours: Collection[int]) -> dict[Key, int]:
    return {key: n for key, n in counts.items() if key[1] not in hours}
