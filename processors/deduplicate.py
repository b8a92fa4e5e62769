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
_REUSE: Final = 60_000
"""Brokers hand out packet identifiers in turn: one cannot come again within so many messages."""

_IN_FLIGHT = np.dtype([("hash", HASH), ("connection", "<i8"), ("count", "<i8"), ("packet_id", "<i4")])


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
    """Hashes seen, by hour of received_at; each hour a few sorted pieces that are saved once.

    Args:
        horizon_us: how long hashes are kept.
        maximum: hashes kept at most; the oldest hours go first, which shortens the effective horizon.
    """

    def __init__(self, horizon_us: int, maximum: int) -> None:
        self.horizon_us = horizon_us
        self.maximum = maximum
        self._hours: dict[int, list[tuple[str, NDArray[np.void]]]] = {}
        self._unsaved: set[str] = set()
        self._dropped: list[str] = []
        self._number = 0

    def __len__(self) -> int:
        return sum(len(piece) for pieces in self._hours.values() for _, piece in pieces)

    def oldest_us(self) -> int | None:
        """Start of the oldest hour that is still known, µs UTC."""
        return min(self._hours) * HOUR if self._hours else None

    def seen(self, hashes: NDArray[np.void]) -> NDArray[np.bool_]:
        """Say which of ``hashes`` (m,) are known."""
        found = np.zeros(len(hashes), np.bool_)
        order = np.argsort(hashes["hi"])
        wanted = hashes[order]
        for pieces in self._hours.values():
            for _, piece in pieces:
                found[order] |= _inside(piece, wanted)
        return found

    def add(self, hashes: NDArray[np.void], received_us: NDArray[np.int64]) -> None:
        """Remember hashes (m,) under the hours of their receipt."""
        if not len(hashes):
            return
        hours = received_us // HOUR
        for hour in np.unique(hours).tolist():
            pieces = self._hours.setdefault(hour, [])
            self._keep(pieces, hour, _sorted(hashes[hours == hour]))
            # Each piece is at least twice as long as the next: a look-up meets few, and each hash moves seldom.
            while len(pieces) > 1 and len(pieces[-2][1]) < 2 * len(pieces[-1][1]):
                last, before = pieces.pop(), pieces.pop()
                self._forget((last[0], before[0]))
                self._keep(pieces, hour, _sorted(np.concatenate([before[1], last[1]])))
        self._expire(int(received_us.max()))

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

    def _expire(self, now_us: int) -> None:
        while self._hours:
            oldest = min(self._hours)
            too_many = len(self) > self.maximum and len(self._hours) > 1
            if (oldest + 1) * HOUR >= now_us - self.horizon_us and not too_many:
                return
            self._forget([name for name, _ in self._hours.pop(oldest)])

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

    def restore(self, parts: Mapping[str, bytes]) -> None:
        """Forget everything and take up saved parts."""
        self._hours, self._number = {}, 0
        self._unsaved.clear()
        self._dropped = []
        for name, data in parts.items():
            if name.startswith("dedup/"):
                _, hour, number = name.split("/")
                self._number = max(self._number, int(number))
                self._hours.setdefault(int(hour), []).append((name, unpack(data)[0]["hashes"]))
        for pieces in self._hours.values():
            pieces.sort(key=lambda piece: -len(piece[1]))


class InFlight:
    """The last timeless message under each packet identifier, to tell a redelivery from a new equal message."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[bytes, int, int]] = {}
        self._count = 0

    def decide(
        self,
        rows: NDArray[np.int64],
        qos: NDArray[np.bool_],
        dup: NDArray[np.bool_],
        packet_id: NDArray[np.int32],
        connection: NDArray[np.int64],
        hashes: NDArray[np.void],
    ) -> NDArray[np.bool_]:
        """Take n messages in order and say which are redeliveries of what is durable.

        Args:
            rows: which of them have no time or counter of their own.
            qos: bool (n,), QoS 1: only those have packet identifiers.
            dup: bool (n,).
            packet_id: int32 (n,).
            connection: int64 (n,), number of the connection.
            hashes: (n,), see :func:`fingerprints`.
        """
        again = np.zeros(len(qos), np.bool_)
        counts = self._count + np.cumsum(qos)
        for row in rows[qos[rows]].tolist():
            key, count, number = int(packet_id[row]), int(counts[row]), int(connection[row])
            hashed = hashes[row].tobytes()
            before = self._rows.get(key)
            if dup[row] and before is not None and before[0] == hashed:
                again[row] = before[1] < number and count - before[2] < _REUSE
            if not again[row]:
                self._rows[key] = (hashed, number, count)
        self._count = int(counts[-1]) if len(counts) else self._count
        return again

    def snapshot(self) -> bytes:
        """Return the part to put."""
        rows = [
            (np.frombuffer(h, HASH)[0], connection, count, packet_id)
            for packet_id, (h, connection, count) in self._rows.items()
            if self._count - count < _REUSE
        ]
        return pack({"rows": np.array(rows, _IN_FLIGHT)}, {"count": self._count})

    def restore(self, part: bytes | None) -> None:
        """Forget everything and take up a saved part."""
        self._rows, self._count = {}, 0
        if part is not None:
            arrays, values = unpack(part)
            self._count = values["count"]
            for row in arrays["rows"]:
                self._rows[int(row["packet_id"])] = (row["hash"].tobytes(), int(row["connection"]), int(row["count"]))


def first_of_each(hashes: NDArray[np.void]) -> NDArray[np.bool_]:
    """Say for each hash (m,) whether it is the first of its kind in the array."""
    out: NDArray[np.bool_] = np.zeros(len(hashes), np.bool_)
    out[np.unique(hashes, return_index=True)[1]] = True
    return out


def _sorted(hashes: NDArray[np.void]) -> NDArray[np.void]:
    out: NDArray[np.void] = hashes[np.argsort(hashes["hi"])]
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
