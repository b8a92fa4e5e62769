"""Duplicates: which messages came before, decided on hashes of the bytes (docs/decisions/0004-duplicates.md).

A payload with its own time or counter is a duplicate when the same device sent the same bytes within the
horizon. Without one, equal bytes are new readings, unless the broker marks a redelivery (DUP) and the same bytes
under the same packet identifier came on an earlier connection: then they are what we had already made durable.

Memory is 16 bytes a message in segments of one hour of received_at: sorted, written to state once, dropped whole.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qingtu.clock import HOUR
from qingtu.state import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

HASH: Final = np.dtype([("hi", "<u8"), ("lo", "<u8")])
_BIT: Final = np.left_shift(1, np.arange(8), dtype=np.uint8, casting="unsafe")
PIECE: Final = 1 << 20
"""Hashes that a piece is merged from at most: 16 MiB."""
_REUSE: Final = 60_000
"""Brokers hand out packet identifiers in turn: one cannot come again within so many messages."""


def sender(network: str, device: str) -> bytes:
    """Write a sender so that no two can be confused, to be hashed in front of the payload."""
    return f"{len(network)}:{network}{len(device)}:{device}|".encode()


def fingerprints(senders: Sequence[bytes], payloads: Sequence[bytes]) -> NDArray[np.void]:
    """Hash sender and payload of n messages.

    Args:
        senders: from :func:`sender`.
        payloads: the bytes as received.

    Returns:
        shape (n,), dtype :data:`HASH`: 128 bits of BLAKE2b.
    """
    digests = [blake2b(s + payload, digest_size=16).digest() for s, payload in zip(senders, payloads, strict=True)]
    return np.frombuffer(b"".join(digests), HASH)


class Segments:
    """Hashes seen, by hour of receipt; a few sorted pieces an hour that are saved once.

    The clock is the newest time of receipt so far: it never runs backwards, so what is known at a message depends on
    the messages before it alone, not on where they were cut into runs.

    Args:
        horizon_us: how long hashes are kept, at least; whole hours are dropped.
        maximum: hashes kept at most; the oldest hours go first, which shortens the effective horizon. The newest
            hour is kept whatever its size.
        piece: hashes that are merged into one piece at most.
    """

    def __init__(self, horizon_us: int, maximum: int, piece: int = PIECE) -> None:
        self.horizon_us = horizon_us
        self.maximum = maximum
        self.piece = piece
        self._clear()

    def _clear(self) -> None:
        self._hours: dict[int, list[tuple[str, NDArray[np.void]]]] = {}
        self._unsaved: set[str] = set()
        self._dropped: list[str] = []
        self._number = 0
        self._size = 0
        self._filter = _Filter([])
        self.now_us = 0

    def __len__(self) -> int:
        return self._size

    def oldest_us(self) -> int | None:
        """Start of the oldest hour that is still known, µs UTC."""
        return min(self._hours) * HOUR if self._hours else None

    def decide(self, hashes: NDArray[np.void], received_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Take n messages in order, say which came before, and remember the others.

        Args:
            hashes: (n,), see :func:`fingerprints`.
            received_us: int64 (n,).
        """
        n, at = len(hashes), 0
        again = np.zeros(n, np.bool_)
        if not n:
            return again
        begin, self.now_us = self.now_us, max(self.now_us, int(received_us.max()))
        # Nearly always all are of one hour, and then it need not be known of each.
        hours, last = None, self.now_us // HOUR
        if max(begin, int(received_us[0])) // HOUR < last:
            hours = np.maximum(np.maximum.accumulate(received_us), begin) // HOUR
        while at < n:
            hour = last if hours is None else int(hours[at])
            self._expire(hour)
            part = slice(at, n if hours is None else int(np.searchsorted(hours, hour, "right")))
            known = self._seen(hashes[part])
            if (first := first_of_each(hashes[part])) is not None:
                known |= ~first
            if self._size + part.stop - at > self.maximum and min(self._hours, default=hour) < hour:
                # Room counts message by message: the first new one that finds none makes the oldest hour go.
                fit = int(np.searchsorted(np.cumsum(~known), max(self.maximum - self._size, 0), "right"))
                if not fit:
                    self._drop(min(self._hours))
                    continue
                part = slice(at, at + fit)
                known = known[:fit]
            again[part] = known
            self._add(hour, hashes[part][~known] if known.any() else hashes[part])
            at = part.stop
        return again

    def _seen(self, hashes: NDArray[np.void]) -> NDArray[np.bool_]:
        found = np.zeros(len(hashes), np.bool_)
        likely = np.flatnonzero(self._filter.maybe(hashes))
        if not len(likely):
            return found
        likely = likely[np.argsort(hashes["hi"][likely])]
        wanted = hashes[likely]
        for pieces in self._hours.values():
            for _, piece in pieces:
                found[likely] |= _inside(piece, wanted)
        return found

    def _add(self, hour: int, hashes: NDArray[np.void]) -> None:
        if not len(hashes):
            return
        if self._hours and hour not in self._hours:
            self._merge(max(self._hours), 1)  # an hour that is over is searched for long: make it few pieces
        pieces = self._hours.setdefault(hour, [])
        self._keep(pieces, hour, _sorted(hashes))
        self._size += len(hashes)
        self._filter.mark(hashes)
        if self._filter.full:
            self._filter = _Filter([piece for kept in self._hours.values() for _, piece in kept])
        # Each piece is at least twice as long as the next: a look-up meets few, and each hash moves seldom.
        while len(pieces) > 1 and len(pieces[-2][1]) < 2 * len(pieces[-1][1]):
            if not self._merge(hour, len(pieces) - 1):
                break

    def _merge(self, hour: int, to: int) -> bool:
        """Merge the last pieces of an hour until there are ``to`` of them; False when they would be too large.

        Merging takes several times as much memory as it gives, and the pass waits for it: 0.8 s and 230 MB for an hour
        of 2,000 messages a second. An hour of ten times as many would be more than SQLite takes as one part of a state.
        """
        pieces = self._hours[hour]
        while len(pieces) > to:
            if len(pieces[-2][1]) + len(pieces[-1][1]) > self.piece:
                return False
            last, before = pieces.pop(), pieces.pop()
            self._forget((last[0], before[0]))
            self._keep(pieces, hour, _sorted(np.concatenate([before[1], last[1]])))
        return True

    def _keep(self, pieces: list[tuple[str, NDArray[np.void]]], hour: int, hashes: NDArray[np.void]) -> None:
        self._number += 1
        name = f"dedup/{hour}/{self._number}"
        pieces.append((name, hashes))
        self._unsaved.add(name)

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self._unsaved:
                self._unsaved.discard(name)
            else:
                self._dropped.append(name)

    def _expire(self, hour: int) -> None:
        """Drop hours beyond the horizon."""
        first = hour + self.horizon_us // -HOUR
        for old in [kept for kept in self._hours if kept < first]:
            self._drop(old)

    def _drop(self, hour: int) -> None:
        for name, piece in self._hours.pop(hour):
            self._forget([name])
            self._size -= len(piece)

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Return parts to put (new pieces) and parts to drop."""
        put = {
            name: pack({"hashes": piece})
            for pieces in self._hours.values()
            for name, piece in pieces
            if name in self._unsaved
        }
        dropped, self._dropped = self._dropped, []
        self._unsaved.clear()
        return put, dropped

    def restore(self, parts: Mapping[str, bytes], now_us: int) -> None:
        """Forget everything and take up saved parts.

        Args:
            parts: all parts of the state; others than ours are left alone.
            now_us: ``now_us`` as it was.
        """
        self._clear()
        self.now_us = now_us
        for name, data in parts.items():
            if name.startswith("dedup/"):
                _, hour, number = name.split("/")
                self._number = max(self._number, int(number))
                self._hours.setdefault(int(hour), []).append((name, unpack(data)[0]["hashes"]))
        for pieces in self._hours.values():
            pieces.sort(key=lambda piece: -len(piece[1]))
        kept = [piece for pieces in self._hours.values() for _, piece in pieces]
        self._size = sum(map(len, kept))
        self._filter = _Filter(kept)


class _Filter:
    """Two bits of a bit array for each hash: says no to 99 % of new ones without searching any piece.

    What was dropped stays marked until the filter is full and made again; that costs searches, never a wrong answer.

    Args:
        pieces: hashes to start with.
    """

    def __init__(self, pieces: Sequence[NDArray[np.void]]) -> None:
        n = sum(map(len, pieces))
        bits = max(20, (n * 32).bit_length())
        self._shift = np.uint64(64 - bits)
        self._bits = np.zeros(1 << (bits - 3), np.uint8)
        self._room = 1 << (bits - 4)
        for piece in pieces:
            self.mark(piece)

    @property
    def full(self) -> bool:
        """Say whether so much was marked that another filter should be made."""
        return self._room < 0

    def mark(self, hashes: NDArray[np.void]) -> None:
        """Remember hashes (k,)."""
        byte, bit = self._places(hashes)
        np.bitwise_or.at(self._bits, byte, bit)
        self._room -= len(hashes)

    def maybe(self, hashes: NDArray[np.void]) -> NDArray[np.bool_]:
        """Say which of ``hashes`` (m,) may have been marked."""
        byte, bit = self._places(hashes)
        marked = self._bits.take(byte) & bit
        out: NDArray[np.bool_] = np.logical_and(marked[::2], marked[1::2])
        return out

    def _places(self, hashes: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return where the two bits of each hash (m,) are: byte and bit in it, shape (2 m,), two after two."""
        at = (hashes.view(np.uint64) >> self._shift).astype(np.int64)
        return at >> 3, _BIT.take(at & 7)


class InFlight:
    """The last timeless message under each packet identifier, to tell a redelivery from a new equal message."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], tuple[bytes, int, int]] = {}
        self._count = 0

    def decide(
        self,
        rows: NDArray[np.int64],
        qos: NDArray[np.bool_],
        dup: NDArray[np.bool_],
        packet_id: NDArray[np.int32],
        connection: NDArray[np.int64],
        gateway: tuple[NDArray[np.int32], list[str]],
        hashes: NDArray[np.void],
    ) -> NDArray[np.bool_]:
        """Take n messages in order and say which are redeliveries of what is durable.

        Args:
            rows: which of them have no time or counter of their own.
            qos: bool (n,), QoS 1: only those have packet identifiers.
            dup: bool (n,).
            packet_id: int32 (n,).
            connection: int64 (n,), number of the connection.
            gateway: name column of n; each gateway has a session, and so packet identifiers, of its own.
            hashes: (n,), see :func:`fingerprints`.
        """
        again = np.zeros(len(qos), np.bool_)
        counts = self._count + np.cumsum(qos)
        codes, names = gateway
        for row in rows[qos[rows]].tolist():
            key, count, number = (names[codes[row]], int(packet_id[row])), int(counts[row]), int(connection[row])
            hashed = hashes[row].tobytes()
            before = self._rows.get(key)
            if dup[row] and before is not None and before[0] == hashed:
                # Another connection, not a greater number: numbers are times, and our clock may have been set back.
                again[row] = before[1] != number and count - before[2] < _REUSE
            if not again[row]:
                self._rows[key] = (hashed, number, count)
        self._count = int(counts[-1]) if len(counts) else self._count
        return again

    def count(self, qos: NDArray[np.bool_]) -> None:
        """Take n messages with a time or counter of their own: they only use up packet identifiers."""
        self._count += int(np.count_nonzero(qos))

    def forget(self, gateway: str) -> None:
        """Forget what came in a gateway's session that the broker has ended: its identifiers begin anew."""
        self._rows = {key: row for key, row in self._rows.items() if key[0] != gateway}

    def snapshot(self) -> bytes:
        """Return the part to put."""
        # What is too old to decide anything is forgotten here, and only here: so memory stays bounded.
        self._rows = {key: row for key, row in self._rows.items() if self._count - row[2] < _REUSE}
        gateways = sorted({gateway for gateway, _ in self._rows})
        rows = self._rows.values()
        columns = {
            "gateway": np.array([gateways.index(gateway) for gateway, _ in self._rows], np.int32),
            "packet_id": np.array([packet_id for _, packet_id in self._rows], np.int32),
            "hash": np.frombuffer(b"".join(row[0] for row in rows), HASH),
            "connection": np.array([row[1] for row in rows], np.int64),
            "count": np.array([row[2] for row in rows], np.int64),
        }
        return pack(columns, {"count": self._count, "gateways": gateways})

    def restore(self, part: bytes | None) -> None:
        """Forget everything and take up a saved part."""
        self._rows, self._count = {}, 0
        if part is not None:
            columns, values = unpack(part)
            self._count = values["count"]
            keys = zip((values["gateways"][g] for g in columns["gateway"]), columns["packet_id"].tolist(), strict=True)
            hashes = [h.tobytes() for h in columns["hash"]]
            rows = zip(hashes, columns["connection"].tolist(), columns["count"].tolist(), strict=True)
            self._rows = dict(zip(keys, rows, strict=True))


def first_of_each(hashes: NDArray[np.void]) -> NDArray[np.bool_] | None:
    """Say for each hash (m,) whether it is the first of its kind in the array; None: all are."""
    halves = np.sort(hashes["hi"])
    if (halves[1:] != halves[:-1]).all():  # nearly always; numpy is slow at sorting what has two fields
        return None
    out: NDArray[np.bool_] = np.zeros(len(hashes), np.bool_)
    out[np.unique(hashes, return_index=True)[1]] = True
    return out


def _sorted(hashes: NDArray[np.void]) -> NDArray[np.void]:
    # Stable means timsort for 64 bits: it merges two sorted pieces in one run.
    out: NDArray[np.void] = hashes[np.argsort(hashes["hi"], kind="stable")]
    return out


def _inside(piece: NDArray[np.void], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which of ``wanted`` are in ``piece``; both sorted by hi."""
    at = np.searchsorted(piece["hi"], wanted["hi"])
    at[at == len(piece)] = 0
    same: NDArray[np.bool_] = (piece["hi"][at] == wanted["hi"]) & (piece["lo"][at] == wanted["lo"])
    # Equal upper halves of different hashes are next to each other; so rare that a loop is right.
    clash = np.flatnonzero((piece["hi"][at] == wanted["hi"]) & ~same)
    for i in clash:
        end = np.searchsorted(piece["hi"], wanted["hi"][i], "right")
        same[i] = wanted["lo"][i] in piece["lo"][at[i] : end]
    return same
