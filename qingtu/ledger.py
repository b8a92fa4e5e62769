"""The ledger: proves that every message received has ended in exactly one place.

*Received* is counted from the headers of raw frames, *outcomes* by the store from manifests, *in flight* from bus
offsets: messages of raw frames that the primary store has not decided. Nothing is got by subtraction, so a wrong sum
shows. :mod:`qingtu.audit` recounts everything from the rows themselves.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.clock import HOUR
from qingtu.contracts import Prefetching, StateDelta
from qingtu.errors import RetryLater
from qingtu.records import RAW, decode_header
from qingtu.stage import missing
from qingtu.store.books import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.contracts import Bus, Record
    from qingtu.store.contract import PrimaryStore

_GROUP: Final = "ledger"
_BATCH: Final = 256
_SAVE_FRAMES: Final = 256
_TURN_S: Final = 0.5
"""So long who must not wait for the bus waits for another who counts."""
_OUTCOMES: Final = ("stored", "duplicate", "quarantined", "ignored")
_READINGS: Final = {
    "decoded": "decoded",
    "stored": "r_stored",
    "revised": "r_revised",
    "repeated": "r_repeated",
    "duplicate": "r_duplicate",
    "quarantined": "r_quarantined",
}
_MESSAGES: Final = ("received", *_OUTCOMES, "in_flight")
_BESIDE: Final = ("reflagged", "redriven")
_NOTHING: Final = dict.fromkeys(COLUMNS, 0)
Key = tuple[str, int]
Books = Mapping[Key, Mapping[str, int]]


class Ledger:
    """Counts what came in, and compares it with what became of it. Any thread may ask.

    A bus on servers can let a reader wait, and a saver for as long as an outage lasts. So there are three locks, always
    taken in this order: ``_saving``, ``_counting`` while raw is read, ``_lock`` around the figures, in which nobody
    waits for anything. :meth:`summary` and :meth:`off`, which the status asks, never wait for servers.

    Args:
        bus: whose raw frames are counted.
        store: whose books are compared.
    """

    def __init__(self, bus: Bus, store: PrimaryStore) -> None:
        self._bus = bus
        self._store = store
        self._ahead = bus if isinstance(bus, Prefetching) else None
        self._saving = threading.Lock()
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self._received: dict[int, Counter[Key]] = {}
        self._first: dict[int, dict[int, int]] = {}
        self._next: dict[int, int] = {}
        self._saved: dict[int, int] = {}
        self._open: dict[int, deque[tuple[int, list[tuple[Key, int]]]]] = {}
        self._rows: dict[Key, dict[str, Any]] = {}
        self._seen: Books = {}
        self._changed: set[Key] = set()
        self._summed: dict[Key, dict[str, int]] = {}
        self._sums: Counter[str] = Counter()
        self._wrong: dict[Key, int] = {}
        for partition in range(bus.partitions):
            self._restore(partition)

    def _restore(self, partition: int) -> None:
        saved = self._bus.load_state(_GROUP, partition)
        self._next[partition] = self._saved[partition] = saved.next_offset if saved else 0
        self._open[partition] = deque()
        self._received[partition] = Counter()
        self._first[partition] = {}
        if saved is None:
            return
        self._first[partition] = dict(orjson.loads(saved.parts["first"]))
        for network, hour, n in orjson.loads(saved.parts["received"]):
            self._received[partition][network, hour] += n
            self._changed.add((network, hour))
        # What was counted before, but perhaps not decided: in flight again until the store says otherwise.
        origin = self._store.ledger()[1].get(partition, -1)
        at = max(origin + 1, self._bus.start(RAW, partition))
        for record in frames(self._bus, partition, at, self._next[partition]):
            self._open[partition].append((record.offset, _counts(record.data)))

    def step(self) -> bool:
        """Count some raw frames, and save what was counted now and then; True when there were any. May wait long."""
        with self._saving:
            with self._counting:
                busy = self._count_all(self._bus.read)
            for partition, at in self._next.items():
                if at - self._saved[partition] >= _SAVE_FRAMES:
                    self._save(partition)
        return busy

    def _count_all(self, read: Callable[[str, int, int, int], list[Record]]) -> bool:
        found = [self._count(partition, read) for partition in self._next]
        return any(found)

    def _count(self, partition: int, read: Callable[[str, int, int, int], list[Record]]) -> bool:
        found = read(RAW, partition, self._next[partition], _BATCH)
        with self._lock:
            for record in found:
                counts = _counts(record.data)
                for key, n in counts:
                    self._received[partition][key] += n
                    self._first[partition].setdefault(key[1], record.offset)
                    self._changed.add(key)
                self._open[partition].append((record.offset, counts))
                self._next[partition] = record.offset + 1
        return bool(found)

    def _save(self, partition: int) -> None:
        """Save what was counted; ``_saving`` is held, so that nothing older overwrites it."""
        with self._lock:
            at = self._next[partition]
            rows = [[network, hour, n] for (network, hour), n in self._received[partition].items()]
            put = {"received": orjson.dumps(rows), "first": orjson.dumps(list(self._first[partition].items()))}
        self._bus.save_state(_GROUP, partition, StateDelta(at, put))
        self._saved[partition] = at

    def save(self) -> dict[int, int]:
        """Count what came in and save it: a start does not read all raw again, and raw may be trimmed.

        Returns:
            by partition the raw offset below which everything is counted and saved.
        """
        with self._saving:
            busy = True
            while busy:
                with self._counting:
                    busy = self._count_all(self._bus.read)
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
        with self._counting:
            books, origins = self._books(self._bus.read)
            with self._lock:
                self._reckon(books, origins)
                by = [self._rows[key] for key in sorted(self._rows, key=lambda k: (k[1], k[0]))]
                return {**self._summary(), "by": by, "raw_end": [self._next[p] for p in range(self._bus.partitions)]}

    def summary(self) -> dict[str, Any]:
        """Return :meth:`report` without ``by`` and ``raw_end``: what is asked every few seconds.

        Only hours in which something changed since the last call are reckoned again, so the price does not grow
        with the age of the data. While servers do not give what the store has decided, it is as of the last look.
        """
        self._glance()
        with self._lock:
            return self._summary()

    def off(self) -> int:
        """Return by how many messages and readings the networks and hours do not balance; 0 when all do.

        As of the same moment as :meth:`summary`.
        """
        self._glance()
        with self._lock:
            return sum(self._wrong.values())

    def trimmed(self) -> set[int]:
        """Return the hours of which raw does not hold all any more.

        Told by where each hour first stood, not by the age of what is held: our clock may have been set back, and it is
        no matter who trimmed.
        """
        held = {partition: self._bus.start(RAW, partition) for partition in self._first}
        with self._lock:
            return self._begun(held)

    def begun(self, before: Mapping[int, int]) -> set[int]:
        """Return the hours that have messages in raw frames before an offset, which is given by partition."""
        with self._lock:
            return self._begun(before)

    def _begun(self, before: Mapping[int, int]) -> set[int]:
        return {hour for p, first in self._first.items() for hour, offset in first.items() if offset < before[p]}

    def _books(self, read: Callable[[str, int, int, int], list[Record]]) -> tuple[Books, Mapping[int, int]]:
        """Count raw, and return the store's books and the offsets that they reach; ``_counting`` is held."""
        # The store first: what it decides while raw is counted is then still in flight, never lost.
        found = self._store.ledger()
        while self._count_all(read):
            pass
        return found

    def _glance(self) -> None:
        """Look without waiting for servers: not at all where the store is ahead of what they have given."""
        if not self._counting.acquire(timeout=_TURN_S):
            return
        try:
            books, origins = self._books(self._bus.read if self._ahead is None else self._ahead.at_hand)
            if self._ahead is None or self._reached(origins):
                with self._lock:
                    self._reckon(books, origins)
        except (
            RetryLater
        ):  # the last look stands; :meth:`step` meets the same in its own thread, and the status tells it
            return
        finally:
            self._counting.release()

    def _reached(self, origins: Mapping[int, int]) -> bool:
        """Return whether all that the store has decided is counted, or is not held any more."""
        return all(max(at, self._bus.start(RAW, p)) > origins.get(p, -1) for p, at in self._next.items())

    def _reckon(self, books: Books, origins: Mapping[int, int]) -> None:
        """Bring the rows of all networks and hours, and their sums, up to these books; both inner locks are held."""
        flying: Counter[Key] = Counter()
        for partition, frames in self._open.items():
            while frames and frames[0][0] <= origins.get(partition, -1):
                self._changed.update(key for key, _ in frames.popleft()[1])
            for _, counts in frames:
                for key, n in counts:
                    flying[key] += n
        seen = self._seen
        # A store gives the same object again for a book that did not change: that is all there is to do for old hours.
        self._changed.update(key for key, book in books.items() if seen.get(key) is not book)
        self._changed.update(flying)
        self._seen = books
        for key in self._changed:
            received = sum(counted[key] for counted in self._received.values() if key in counted)
            book = books.get(key, _NOTHING)
            self._put(key, _row(key, received, book, flying[key]), book)
        self._changed = set(flying)

    def _put(self, key: Key, row: dict[str, Any], book: Mapping[str, int]) -> None:
        """Replace one row, never change it: a report that was given out holds it, too."""
        self._sums.subtract(self._summed.get(key, {}))
        self._summed[key] = {
            **{f"m_{name}": row[name] for name in _MESSAGES},
            **{f"r_{name}": n for name, n in row["readings"].items()},
            **{name: book[name] for name in _BESIDE},
        }
        self._sums.update(self._summed[key])
        self._rows[key] = row
        self._wrong.pop(key, None)
        if off := _off(row):
            self._wrong[key] = off

    def _summary(self) -> dict[str, Any]:
        return {
            "balanced": not self._wrong,
            "messages": {name: self._sums[f"m_{name}"] for name in _MESSAGES},
            "readings": {name: self._sums[f"r_{name}"] for name in _READINGS},
            **{name: self._sums[name] for name in _BESIDE},
        }


def _row(key: Key, received: int, book: Mapping[str, int], flying: int) -> dict[str, Any]:
    """Return what one network and hour shows."""
    row = {"received": received, **{outcome: book[outcome] for outcome in _OUTCOMES}, "in_flight": flying}
    readings = {name: book[column] for name, column in _READINGS.items()}
    out = {"network": key[0], "hour": key[1] * HOUR, "balanced": True, **row, "readings": readings}
    return out | {"balanced": not _off(out)}


def _off(row: Mapping[str, Any]) -> int:
    """Return by how many messages and readings one network and hour does not balance."""
    outcomes = sum(row[name] for name in _MESSAGES) - row["received"]
    readings = row["readings"]
    off: int = abs(row["received"] - outcomes) + abs(2 * readings["decoded"] - sum(readings.values()))
    return off


def _counts(data: bytes) -> list[tuple[Key, int]]:
    return [((network, hour // HOUR), n) for network, hour, n in decode_header(data)["counts"]]


def frames(bus: Bus, partition: int, at: int, end: int, stream: str = RAW) -> Iterator[Record]:
    """Yield the frames of a stream, raw unless told, from an offset up to another one.

    Raises:
        RetryLater: it ends before: it is another one than was counted.
    """
    while at < end:
        found = bus.read(stream, partition, at, _BATCH)
        missing(bus, stream, partition, end, ())
        if not found:  # a gap up to the end, or the stream is closed
            return
        for record in found:
            if record.offset >= end:
                return
            yield record
            at = record.offset + 1
