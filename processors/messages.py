"""The columns that the ordered pass works on: messages of a raw frame, and the readings made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qingtu.records import codes_of, times_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(slots=True)
class Messages:
    """A run of n messages of one raw frame, or of several. Names are given as codes into lists of their own.

    Attributes:
        row: int64 (n,), row of the raw frame; of several, counted through.
        at: int64 (n,), where each stands, see :func:`qingtu.records.position`.
        received_us: int64 (n,).
        gateway, network, device, route, refused: (int32 (n,), names); those of devices may hold a name several times.
        payload: n byte strings.
        digest: n byte strings or None, in place of a payload that is not whole.
        flags: uint8 (n,).
        packet_id: int32 (n,).
        connection: int64 (n,).
        redriven: bool (n,).
        driven: any is.
        away: bool (n,), re-driven, and in quarantine in another partition.
        redrive_of: Arrow int64 (n,), null where not re-driven.
        shift_us: int64 (n,), 0 where not re-driven.
    """

    row: NDArray[np.int64]
    at: NDArray[np.int64]
    received_us: NDArray[np.int64]
    gateway: tuple[NDArray[np.int32], list[str]]
    network: tuple[NDArray[np.int32], list[str]]
    device: tuple[NDArray[np.int32], list[str]]
    route: tuple[NDArray[np.int32], list[str]]
    refused: tuple[NDArray[np.int32], list[str]]
    payload: list[bytes]
    digest: list[bytes | None]
    flags: NDArray[np.uint8]
    packet_id: NDArray[np.int32]
    connection: NDArray[np.int64]
    redriven: NDArray[np.bool_]
    driven: bool
    away: NDArray[np.bool_]
    redrive_of: pa.Array
    shift_us: NDArray[np.int64]

    @classmethod
    def of(cls, rows: pa.RecordBatch, start: int, stop: int, offset: int) -> Messages:
        """Take rows ``start`` to ``stop`` (exclusive) of the raw frame at ``offset``."""
        n = stop - start
        row = np.arange(start, stop)
        part = rows if n == rows.num_rows else rows.slice(start, n)

        def plain(name: str) -> NDArray[Any]:
            return np.asarray(part.column(name))

        redrive_of, shift, digest = (part.column(name) for name in ("redrive_of", "shift_us", "digest"))
        # Rows that are driven again are rare, and a call of an Arrow kernel costs more than its work.
        none = redrive_of.null_count == n
        redriven = np.zeros(n, np.bool_) if none else redrive_of.is_valid().to_numpy(zero_copy_only=False)
        return cls(
            row=row,
            at=row | (offset << 16),
            received_us=times_of(part.column("received_at")),
            gateway=codes_of(part.column("gateway")),
            network=codes_of(part.column("network")),
            device=codes_of(part.column("device")),
            route=codes_of(part.column("route")),
            refused=codes_of(part.column("refused")),
            payload=part.column("payload").to_pylist(),
            digest=[None] * n if digest.null_count == n else digest.to_pylist(),
            flags=plain("flags"),
            packet_id=plain("packet_id"),
            connection=plain("connection"),
            redrive_of=redrive_of,
            driven=not none or shift.null_count < n,
            redriven=redriven,
            away=redriven if none else np.asarray(redrive_of.fill_null(0)) < 0,
            shift_us=np.zeros(n, np.int64) if shift.null_count == n else np.asarray(shift.fill_null(0)),
        )

    @classmethod
    def join(cls, parts: Sequence[Messages]) -> Messages:
        """Put messages of several raw frames behind each other, none of which is driven again."""

        def behind(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        def named(name: str) -> tuple[NDArray[np.int32], list[str]]:
            return _joined([getattr(part, name) for part in parts])

        n = sum(map(len, parts))
        return cls(
            row=np.arange(n),
            at=behind("at"),
            received_us=behind("received_us"),
            gateway=named("gateway"),
            network=named("network"),
            device=_behind([part.device for part in parts]),
            route=named("route"),
            refused=named("refused"),
            payload=[payload for part in parts for payload in part.payload],
            digest=[digest for part in parts for digest in part.digest],
            flags=behind("flags"),
            packet_id=behind("packet_id"),
            connection=behind("connection"),
            redriven=np.zeros(n, np.bool_),
            driven=False,
            away=np.zeros(n, np.bool_),
            redrive_of=pa.nulls(n, pa.int64()),
            shift_us=np.zeros(n, np.int64),
        )

    def __len__(self) -> int:
        return len(self.row)

    def sender(self, i: int) -> tuple[str, str]:
        """Return network and device of message ``i``."""
        networks, network_names = self.network
        devices, device_names = self.device
        return network_names[networks[i]], device_names[devices[i]]


def _behind(columns: Sequence[tuple[NDArray[np.int32], list[str]]]) -> tuple[NDArray[np.int32], list[str]]:
    """Put name columns behind each other, and their names too: most are in one of them only."""
    names: list[str] = []
    codes = []
    for own, values in columns:
        codes.append(own + np.int32(len(names)))
        names += values
    return np.concatenate(codes), names


def _joined(columns: Sequence[tuple[NDArray[np.int32], list[str]]]) -> tuple[NDArray[np.int32], list[str]]:
    """Put name columns behind each other."""
    names = columns[0][1]
    if all(own == names for _, own in columns):  # usual for all but devices
        return np.concatenate([codes for codes, _ in columns]), names
    place: dict[str, int] = {}
    codes = [np.array([place.setdefault(name, len(place)) for name in own], np.int32)[at] for at, own in columns]
    return np.concatenate(codes), list(place)


@dataclass(slots=True)
class Refusals:
    """What was refused of n messages, by message; each becomes one row of ``rejected``.

    Attributes:
        notes: message index → list of (stage, reason, detail).
        count: int64 (n,), readings refused.
        undecoded: int64 (n,), of these, the ones that the decoder refused, so that they are not among its readings.
    """

    count: NDArray[np.int64]
    undecoded: NDArray[np.int64]
    notes: dict[int, list[tuple[str, str, str]]] = field(default_factory=dict)

    def add(self, message: int, stage: str, reason: str, detail: str, readings: int) -> None:
        """Note that ``readings`` of a message (0: it could not be read at all) were refused."""
        self.notes.setdefault(message, []).append((stage, reason, detail))
        self.count[message] += readings

    def add_many(self, message: NDArray[np.integer[Any]], stage: str, reason: str, details: list[str]) -> None:
        """Note one refused reading each."""
        for i, detail in zip(message.tolist(), details, strict=True):
            self.add(i, stage, reason, detail, 1)


@dataclass(slots=True)
class Readings:
    """Readings as they come out of conversion, in the order of messages.

    Attributes:
        message: int64 (m,), index into the messages.
        series: int64 (m,).
        time_us: int64 (m,).
        value: float64 (m,), canonical unit, NaN when missing.
        mark: uint8 (m,), what the device says of it, 0 for nothing; None: nothing of any.
        timeless: bool (m,), the time is that of receipt; None: all have their own.
    """

    message: NDArray[np.int64]
    series: NDArray[np.int64]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    mark: NDArray[np.uint8] | None = None
    timeless: NDArray[np.bool_] | None = None

    def keep(self, which: NDArray[Any]) -> Readings:
        """Return some of the readings: a mask or places."""
        if which.dtype == np.bool_ and which.all():
            return self
        more = (None if column is None else column[which] for column in (self.mark, self.timeless))
        return Readings(self.message[which], self.series[which], self.time_us[which], self.value[which], *more)

    @classmethod
    def join(cls, blocks: list[Readings]) -> Readings:
        """Put blocks behind each other; each message is in one block only."""
        if len(blocks) == 1:
            return blocks[0]
        columns = ("message", "series", "time_us", "value")
        joined = cls(*(np.concatenate([getattr(b, column) for b in blocks]) for column in columns))
        if any(b.mark is not None for b in blocks):
            none = [np.zeros(len(b.message), np.uint8) if b.mark is None else b.mark for b in blocks]
            joined.mark = np.concatenate(none)
        if any(b.timeless is not None for b in blocks):
            own = [np.zeros(len(b.message), np.bool_) if b.timeless is None else b.timeless for b in blocks]
            joined.timeless = np.concatenate(own)
        return joined.ordered()

    def ordered(self) -> Readings:
        """Return the readings in the order of messages."""
        return self.keep(np.argsort(self.message, kind="stable"))
