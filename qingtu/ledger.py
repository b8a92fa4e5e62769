"""The ledger: proves that every message received has ended in exactly one place.

*Received* is counted from the headers of raw frames, *outcomes* by the store from manifests, *in flight* from bus
offsets: messages of raw frames that the primary store has not decided. Nothing is got by subtraction, so a wrong sum
shows. :func:`audit` recounts everything from the rows themselves.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from qingtu.clock import HOUR
from qingtu.contracts import StateDelta
from qingtu.records import RAW, Kind, codes_of, decode, decode_header, times_of
from qingtu.store.books import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.contracts import Bus
    from qingtu.store.duckdb import DuckStore

_GROUP: Final = "ledger"
_BATCH: Final = 256
_SAVE_FRAMES: Final = 256
_OUTCOMES: Final = ("stored", "duplicate", "quarantined", "ignored")
_READINGS: Final = {
    "decoded": "decoded",
    "stored": "r_stored",
    "revised": "r_revised",
    "repeated": "r_repeated",
    "duplicate": "r_duplicate",
    "quarantined": "r_quarantined",
}
Key = tuple[str, int]


class Ledger:
    """Counts what came in, and compares it with what became of it. Any thread may ask.

    Args:
        bus: whose raw frames are counted.
        store: whose books are compared.
    """

    def __init__(self, bus: Bus, store: DuckStore) -> None:
        self._bus = bus
        self._store = store
        self._lock = threading.Lock()
        self._received: dict[int, Counter[Key]] = {}
        self._next: dict[int, int] = {}
        self._saved: dict[int, int] = {}
        self._open: dict[int, deque[tuple[int, list[tuple[Key, int]]]]] = {}
        for partition in range(bus.partitions):
            self._restore(partition)

    def _restore(self, partition: int) -> None:
        saved = self._bus.load_state(_GROUP, partition)
        self._next[partition] = self._saved[partition] = saved.next_offset if saved else 0
        self._open[partition] = deque()
        self._received[partition] = Counter()
        if saved is None:
            return
        for network, hour, n in orjson.loads(saved.parts["received"]):
            self._received[partition][network, hour] += n
        # What was counted before, but perhaps not decided: in flight again until the store says otherwise.
        origin = self._store.ledger()[1].get(partition, -1)
        at = max(origin + 1, self._bus.start(RAW, partition))
        while at < self._next[partition]:
            for record in self._bus.read(RAW, partition, at, _BATCH):
                if record.offset < self._next[partition]:
                    self._open[partition].append((record.offset, _counts(record.data)))
                at = record.offset + 1

    def step(self) -> bool:
        """Count some raw frames; True when there were any."""
        with self._lock:
            return self._count_all()

    def _count_all(self) -> bool:
        found = [self._count(partition) for partition in self._next]
        return any(found)

    def _count(self, partition: int) -> bool:
        found = self._bus.read(RAW, partition, self._next[partition], _BATCH)
        for record in found:
            counts = _counts(record.data)
            for key, n in counts:
                self._received[partition][key] += n
            self._open[partition].append((record.offset, counts))
            self._next[partition] = record.offset + 1
        if self._next[partition] - self._saved[partition] >= _SAVE_FRAMES:
            self._save(partition)
        return bool(found)

    def _save(self, partition: int) -> None:
        rows = [[network, hour, n] for (network, hour), n in self._received[partition].items()]
        put = {"received": orjson.dumps(rows)}
        self._bus.save_state(_GROUP, partition, StateDelta(self._next[partition], put))
        self._saved[partition] = self._next[partition]

    def save(self) -> dict[int, int]:
        """Count what came in and save it: a start does not read all raw again, and raw may be trimmed.

        Returns:
            by partition the raw offset below which everything is counted and saved.
        """
        with self._lock:
            while self._count_all():
                pass
            for partition in self._next:
                self._save(partition)
            return dict(self._saved)

    def report(self) -> dict[str, Any]:
        """Return the ledger as JSON data, as of now.

        Returns:
            ``balanced``; ``messages`` with received, the outcomes and in_flight; ``readings`` with decoded and its
            outcomes; ``reflagged`` and ``redriven``; ``by`` with the messages of each network and hour (µs UTC);
            ``raw_end``, by partition the raw offset up to which was counted.
        """
        with self._lock:
            # The store first: what it decides while raw is counted is then still in flight, never lost.
            books, origins = self._store.ledger()
            while self._count_all():
                pass
            flying: Counter[Key] = Counter()
            for partition, frames in self._open.items():
                while frames and frames[0][0] <= origins.get(partition, -1):
                    frames.popleft()
                for _, counts in frames:
                    for key, n in counts:
                        flying[key] += n
            received: Counter[Key] = sum(self._received.values(), Counter())
            ends = [self._next[partition] for partition in range(self._bus.partitions)]
        return {**_report(received, books, flying), "raw_end": ends}


def _report(
    received: Mapping[Key, int], books: Mapping[Key, Mapping[str, int]], flying: Mapping[Key, int]
) -> dict[str, Any]:
    none = dict.fromkeys(COLUMNS, 0)
    by, balanced = [], True
    sums: Counter[str] = Counter()
    for key in sorted({*received, *books, *flying}, key=lambda k: (k[1], k[0])):
        book = books.get(key, none)
        row = {"received": received.get(key, 0), **{o: book[o] for o in _OUTCOMES}, "in_flight": flying.get(key, 0)}
        readings = {name: book[column] for name, column in _READINGS.items()}
        right = row["received"] == sum(row.values()) - row["received"]
        right &= 2 * readings["decoded"] == sum(readings.values())
        balanced &= right
        by.append({"network": key[0], "hour": key[1] * HOUR, "balanced": right, **row, "readings": readings})
        sums.update({f"m_{k}": v for k, v in row.items()})
        sums.update({f"r_{k}": v for k, v in readings.items()})
        sums.update({k: book[k] for k in ("reflagged", "redriven")})
    return {
        "balanced": balanced,
        "messages": {k: sums[f"m_{k}"] for k in ("received", *_OUTCOMES, "in_flight")},
        "readings": {k: sums[f"r_{k}"] for k in _READINGS},
        "reflagged": sums["reflagged"],
        "redriven": sums["redriven"],
        "by": by,
    }


def _counts(data: bytes) -> list[tuple[Key, int]]:
    return [((network, hour // HOUR), n) for network, hour, n in decode_header(data)["counts"]]


def audit(bus: Bus, store: DuckStore, report: Mapping[str, Any]) -> dict[str, Any]:
    """Recount everything from raw rows, the store and quarantine, and compare with the ledger.

    Args:
        bus: raw is read from its oldest frame on.
        store: its tables are counted.
        report: the ledger to be checked. The store may not move between the report and the end of this call;
            raw may grow.

    Returns:
        ``agrees``, and ``checks``: rows of name, counted, booked, agrees. When raw was trimmed, what came in is
        compared for the hours that are still wholly held. Readings that expired count as they were counted then.
    """
    in_store = store.count("readings") + store.expired()
    in_quarantine = len(store.in_quarantine())
    counted: Counter[Key] = Counter()
    first_hour = 0
    for partition in range(bus.partitions):
        at, end = bus.start(RAW, partition), report["raw_end"][partition]
        trimmed = at > 0
        while at < end:
            for record in bus.read(RAW, partition, at, min(_BATCH, end - at)):
                rows = decode(record.data).sections["rows"]
                mine = np.asarray(rows.column("kind")) == Kind.MESSAGE
                mine &= ~rows.column("redrive_of").is_valid().to_numpy(zero_copy_only=False)
                networks, names = codes_of(rows.column("network"))
                hours = times_of(rows.column("received_at")) // HOUR
                if trimmed:
                    first_hour, trimmed = max(first_hour, int(hours.min()) + 1), False
                for code, hour in zip(networks[mine].tolist(), hours[mine].tolist(), strict=True):
                    counted[names[code], hour] += 1
                at = record.offset + 1
    booked = {(r["network"], r["hour"] // HOUR): r["received"] for r in report["by"]}
    checks = [
        ("messages in raw", _since(counted, first_hour), _since(booked, first_hour)),
        ("readings in the store", in_store, report["readings"]["stored"]),
        ("messages in quarantine", in_quarantine, report["messages"]["quarantined"]),
    ]
    rows_ = [{"name": n, "counted": c, "booked": b, "agrees": c == b} for n, c, b in checks]
    return {"agrees": all(r["agrees"] for r in rows_), "checks": rows_}


def _since(counts: Mapping[Key, int], hour: int) -> int:
    return sum(n for key, n in counts.items() if key[1] >= hour)
