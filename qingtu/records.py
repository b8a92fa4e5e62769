"""The rows of every stream, and the frame that carries them on the bus.

A *frame* is one bus record. It holds one or more *sections*, each an Arrow record batch with the schema below,
and a small JSON header that can be read without touching Arrow (the ledger counts from headers)::

    b"QTF1" | u32 header bytes | header JSON | section | section ...

    header = {"v": 1, "stream": "raw", "catalogue": "…", "origin": [partition, offset] | null,
              "clock": µs, "sections": [["rows", 1234], …], …}

One frame carries several tables because one input frame gives at most one output frame per stream, and what
`process` has to say about a raw frame is readings, events and the outcome of each row
(docs/decisions/0002-frames.md). A reader that meets a newer version raises
:class:`~qingtu.errors.VersionError`.

All times are ``timestamp[us, UTC]``. A *position* is where a raw row stands in its partition:
``frame offset << 16 | row``; it is the revision of everything that the row causes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa

from qingtu.errors import FrameError, VersionError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

FRAME_VERSION: Final = 1
MAX_ROWS: Final = 1 << 16
"""Raw rows in one frame at most: a position keeps 16 bits for the row."""
PLACE: Final = 52
"""Bits of a position within what names a message of another partition: see :func:`away`."""

_MAGIC: Final = b"QTF1"
_HEAD: Final = struct.Struct("<4sI")
# lz4 costs 0.4 us a message and makes raw three, processed six times smaller; below this it only adds headers.
# Arrow's own threads are left out: to wake them costs more than a frame.
_PACKED: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ: Final = pa.ipc.IpcReadOptions(use_threads=False)
_AS_IS: Final = pa.ipc.IpcWriteOptions()
_SMALL: Final = 16 * 1024
_FEW, _MANY = 64, 4096
_LISTED: Final = 4
"""So few names are nearly always the same ones, and are built once."""

RAW, PROCESSED, FIGURES, ALERTS, REJECTED = "raw", "processed", "figures", "alerts", "rejected"
STREAMS: Final = (RAW, PROCESSED, FIGURES, ALERTS, REJECTED)


class Kind(IntEnum):
    """What a raw row is."""

    MESSAGE = 0
    TICK = 1
    COMMAND = 2


class MessageFlag(IntFlag):
    """Bits of the raw column ``flags``; the two lowest bits are the quality of service."""

    QOS = 3
    DUP = 4
    RETAIN = 8
    TRUNCATED = 16
    PSEUDONYMISED = 32


class Outcome(IntEnum):
    """Where a message ended. Each message ends in exactly one; ``NONE`` marks ticks and commands."""

    NONE = 0
    STORED = 1
    DUPLICATE = 2
    QUARANTINED = 3
    IGNORED = 4


class Flag(IntEnum):
    """QARTOD quality flags (standards: qartod.yaml, flags)."""

    PASS = 1
    NOT_EVALUATED = 2
    SUSPECT = 3
    FAIL = 4
    MISSING = 9


class Level(IntEnum):
    """Alert levels as Chinese warnings use them, lowest first."""

    NONE = 0
    BLUE = 1
    YELLOW = 2
    ORANGE = 3
    RED = 4


class Cause(IntEnum):
    """Why a row of ``processed.readings`` was written."""

    READING = 0
    QUALITY_DECIDED = 1
    REDRIVE = 2
    REPLAY = 3
    OVERRIDE = 4
    NEIGHBOUR = 5


VERDICTS: Final = (Cause.QUALITY_DECIDED, Cause.OVERRIDE, Cause.NEIGHBOUR)
"""Causes that say something about a value that stands, and bring none: they count only while it does."""
_IS_VERDICT: Final = np.isin(np.arange(256), VERDICTS)
OVERRIDDEN: Final = 1 << 16
"""Bit of ``tests`` that says that a person set the flag; no check has it."""
NEIGHBOUR: Final = 1 << 17
"""Bit of ``tests`` that says that the stations around read something else; derive decides it, not the pass."""
RECEIPT_TIME: Final = 1 << 18
"""Bit of ``tests`` that says that the time is that of receipt, since the device gave none. It is about no check:
whoever asks whether checks passed leaves it out."""


def is_verdict(cause: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Say which rows of readings only speak about a value, shape (n,)."""
    out: NDArray[np.bool_] = _IS_VERDICT[cause]
    return out


_TIME = pa.timestamp("us", tz="UTC")
_NAME = pa.dictionary(pa.int32(), pa.string())

RAW_ROWS = pa.schema(
    [
        ("kind", pa.int8()),  # Kind
        ("received_at", _TIME),  # when our gateway had it; a re-driven row keeps the first one
        ("gateway", _NAME),
        ("network", _NAME),
        ("route", _NAME),
        ("device", _NAME),
        ("topic", _NAME),
        ("payload", pa.binary()),  # verbatim; cut to 64 KiB when TRUNCATED; JSON for ticks and commands
        ("size", pa.int64()),  # bytes as received
        ("flags", pa.uint8()),  # MessageFlag
        ("packet_id", pa.int32()),  # MQTT packet identifier, 0 for QoS 0
        ("connection", pa.int64()),  # µs UTC at which the connection was made: grows, unique in a gateway
        ("properties", pa.binary()),  # MQTT 5 properties as on the wire, null when none
        ("refused", _NAME),  # the gateway's reason code, "" when it took the message
        ("digest", pa.binary()),  # SHA-256 of the whole payload when it is not kept whole
        ("redrive_of", pa.int64()),  # position of the row that is driven again, null otherwise; see ``away``
        ("shift_us", pa.int64()),  # added to claimed times of a re-driven row
    ]
)
READINGS = pa.schema(
    [
        ("station", _NAME),
        ("property", _NAME),
        ("channel", _NAME),
        ("time", _TIME),  # of the phenomenon
        ("value", pa.float64()),  # canonical unit; NaN when missing
        ("flag", pa.uint8()),  # Flag
        ("tests", pa.uint32()),  # bit set of the checks that did not pass, and of marks
        ("revision", pa.int64()),  # position of the raw row that caused the value or flag
        ("known_at", _TIME),
        ("cause", pa.uint8()),  # Cause
        ("late", pa.bool_()),  # not newer than the newest of its series, or delayed: never moves latest
    ]
)
EVENTS = pa.schema(
    [
        ("station", _NAME),
        ("kind", _NAME),
        ("level", pa.uint8()),
        ("time", _TIME),
        ("attributes", pa.string()),  # JSON object, pseudonymised at the gateway
        ("revision", pa.int64()),
        ("known_at", _TIME),
    ]
)
MANIFEST = pa.schema(
    [
        ("row", pa.uint16()),  # of the raw frame
        ("network", _NAME),
        ("received_at", _TIME),
        ("outcome", pa.uint8()),  # Outcome
        ("decoded", pa.int32()),  # readings and events that the payload holds
        ("refused", pa.int32()),  # of these, how many were refused
        ("redrive_of", pa.int64()),
    ]
)
ALERT_ROWS = pa.schema(
    [
        ("alert", pa.string()),  # id = hash(rule, station, property, time of the opening reading)
        ("rule", _NAME),
        ("station", _NAME),
        ("property", _NAME),
        ("channel", _NAME),
        ("level", pa.uint8()),
        ("state", _NAME),  # open, acknowledged, resolved, withdrawn, and comment, which changes no state
        ("time", _TIME),  # of what caused the transition
        ("opened_at", _TIME),  # time of the opening reading
        ("value", pa.float64()),
        ("limit", pa.float64()),
        ("revision", pa.int64()),
        ("known_at", _TIME),
        ("evidence", pa.string()),  # JSON object
        ("who", pa.string()),
        ("note", pa.string()),
    ]
)
REJECTED_ROWS = pa.schema(
    [
        ("position", pa.int64()),
        ("stage", _NAME),
        ("reason", _NAME),
        ("detail", pa.string()),  # names what was refused, for people
        ("readings_refused", pa.int32()),  # 0 when the payload could not be read at all
        *RAW_ROWS,  # its ``refused`` is the gateway's reason
    ]
)
FIGURE_ROWS = pa.schema(
    [
        ("what", _NAME),  # such as hour_mean
        ("station", _NAME),
        ("property", _NAME),
        ("channel", _NAME),
        ("start", _TIME),  # of the period
        ("value", pa.float64()),
        ("count", pa.int32()),
        ("expected", pa.int32()),
        ("valid", pa.bool_()),
        ("reason", _NAME),  # why not valid, "" when valid
        ("inputs", pa.string()),  # JSON: what it was made of
        ("revision", pa.int64()),  # position of the tick at which it was made
        ("known_at", _TIME),
    ]
)
SECTIONS: Final[Mapping[str, pa.Schema]] = {
    "rows": RAW_ROWS,
    "readings": READINGS,
    "events": EVENTS,
    "manifest": MANIFEST,
    "alerts": ALERT_ROWS,
    "rejected": REJECTED_ROWS,
    "figures": FIGURE_ROWS,
}


def _fields(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(spec.name, spec.type) for spec in schema]


def _row_bytes(schema: pa.Schema) -> int:
    """Return how many bytes a row has at least: columns of fixed width, and the codes of names."""
    kinds = [kind.index_type if pa.types.is_dictionary(kind) else kind for _, kind in _fields(schema)]
    return sum(kind.bit_width // 8 for kind in kinds if pa.types.is_primitive(kind))


# Of a schema Arrow makes new objects at each look, and its hash costs as much.
_FIELDS: Final = {id(schema): _fields(schema) for schema in SECTIONS.values()}
_ROW_BYTES: Final = {name: _row_bytes(schema) for name, schema in SECTIONS.items()}


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded bus record.

    Attributes:
        header: the JSON header (see the module's first lines).
        sections: record batches by name; what is empty is absent.
    """

    header: dict[str, Any]
    sections: dict[str, pa.RecordBatch] = field(default_factory=dict)

    @property
    def origin(self) -> tuple[int, int] | None:
        """(partition, offset) of the input frame that this one was made from."""
        at = self.header.get("origin")
        return None if at is None else (int(at[0]), int(at[1]))

    @property
    def clock_us(self) -> int:
        """Newest time of receipt or tick in the frame, µs UTC."""
        return int(self.header["clock"])

    def get(self, section: str) -> pa.RecordBatch | None:
        """Return the section, or None when the frame has none."""
        return self.sections.get(section)


def encode(header: Mapping[str, Any], sections: Mapping[str, pa.RecordBatch], texts: int = 0) -> bytes:
    """Write a frame.

    Args:
        header: must hold ``stream`` and ``clock``; ``v`` and ``sections`` are set here.
        sections: batches whose schemas are those of :data:`SECTIONS`; ``rows`` has at most :data:`MAX_ROWS`.
        texts: bytes that each section has at least in columns of texts, where that is known.

    Raises:
        ValueError: more raw rows than positions can tell apart.
    """
    parts: list[bytes] = []
    index: list[list[Any]] = []
    for name, batch in sections.items():
        if batch.num_rows == 0:
            continue
        if name == "rows" and batch.num_rows > MAX_ROWS:
            raise ValueError(f"a frame holds at most {MAX_ROWS} raw rows, this has {batch.num_rows}")
        sink = pa.BufferOutputStream()
        options = _PACKED if _is_large(name, batch, texts) else _AS_IS
        with pa.RecordBatchStreamWriter(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        body = sink.getvalue().to_pybytes()
        parts.append(body)
        index.append([name, len(body)])
    head = orjson.dumps({**header, "v": FRAME_VERSION, "sections": index})
    return b"".join((_HEAD.pack(_MAGIC, len(head)), head, *parts))


def _is_large(section: str, batch: pa.RecordBatch, texts: int) -> bool:
    """Say whether a batch is so large that it is packed; Arrow takes as long to say its exact size as to write it."""
    if batch.num_rows * _ROW_BYTES.get(section, 0) + texts > _SMALL:  # usual, and Arrow need not be asked
        return True
    return batch.get_total_buffer_size() > _SMALL and bool(batch.nbytes > _SMALL)


def decode_header(data: bytes) -> dict[str, Any]:
    """Read only the JSON header of a frame.

    Raises:
        FrameError: the bytes are not a frame.
        VersionError: the frame was written by a newer program.
    """
    if len(data) < _HEAD.size:
        raise FrameError(f"a frame has at least {_HEAD.size} bytes, this has {len(data)}")
    magic, size = _HEAD.unpack_from(data)
    if magic != _MAGIC or _HEAD.size + size > len(data):
        raise FrameError("not a frame: wrong first bytes or cut short")
    try:
        header: dict[str, Any] = orjson.loads(data[_HEAD.size : _HEAD.size + size])
        version = int(header["v"])
    except (ValueError, TypeError, KeyError) as error:
        raise FrameError(f"not a frame: its header cannot be read: {error!r}") from error
    if version > FRAME_VERSION:
        raise VersionError(
            f"由更新的程序写入 / frame version {version} was written by a newer program; this one reads up to "
            f"{FRAME_VERSION}"
        )
    return header


def decode(data: bytes, only: Collection[str] | None = None) -> Frame:
    """Read a frame.

    Args:
        data: as :func:`encode` wrote it.
        only: the sections that are wanted; None: all.

    Raises:
        FrameError: the bytes are not a frame or are cut short.
        VersionError: the frame was written by a newer program.
    """
    header = decode_header(data)
    at = _HEAD.size + _HEAD.unpack_from(data)[1]
    buffer = pa.py_buffer(data)
    sections: dict[str, pa.RecordBatch] = {}
    for name, size in header["sections"]:
        if at + size > len(data):
            raise FrameError(f"frame is cut short in section {name}")
        if only is None or name in only:
            try:
                sections[name] = pa.ipc.open_stream(buffer.slice(at, size), options=_READ).read_next_batch()
            except (pa.ArrowException, OSError, StopIteration) as error:
                raise FrameError(f"section {name} cannot be read: {error}") from error
        at += size
    return Frame(header, sections)


def position(offset: int, row: int) -> int:
    """Where a raw row stands in its partition.

    >>> position(3, 5) == 3 << 16 | 5
    True
    """
    return offset << 16 | row


def away(partition: int, at: int) -> int:
    """Name, in ``redrive_of``, a message of another partition: below 0, so that no message of this one is meant.

    >>> home(away(3, position(7, 5)), 1) == (3, position(7, 5)), home(position(7, 5), 1) == (1, position(7, 5))
    (True, True)

    Args:
        partition: where the message is in quarantine.
        at: its position there; below 2^52, which is 2^36 frames.
    """
    return ~(partition << PLACE | at)


def home(redrive_of: int, partition: int) -> tuple[int, int]:
    """Return partition and position of the message that a row of ``partition`` drives again."""
    return (partition, redrive_of) if redrive_of >= 0 else (~redrive_of >> PLACE, ~redrive_of & (1 << PLACE) - 1)


def names(codes: NDArray[np.integer[Any]], values: Sequence[str]) -> pa.DictionaryArray:
    """Build a dictionary-encoded name column.

    Args:
        codes: shape (n,), index into ``values`` of each row.
        values: the distinct names.
    """
    texts = _texts(tuple(values)) if len(values) <= _LISTED else pa.array(values, pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32, copy=False)), texts, safe=False)


@lru_cache(maxsize=256)
def _texts(values: tuple[str, ...]) -> pa.StringArray:
    """Build an array of a few names: of rules, states, networks."""
    return pa.array(values, pa.string())


def same_name(value: str, n: int) -> pa.DictionaryArray:
    """Build a name column of ``n`` equal values."""
    # The usual frame has some such columns, which cost ten times as much to build as to cut off. A short one is built:
    # all of the long one would count as its size.
    if _FEW <= n <= _MANY:
        return _many(value).slice(0, n)
    return names(np.zeros(n, np.int32), [value])


@lru_cache(maxsize=64)
def _many(value: str) -> pa.DictionaryArray:
    return names(np.zeros(_MANY, np.int32), [value])


def codes_of(column: pa.DictionaryArray) -> tuple[NDArray[np.int32], list[str]]:
    """Take a name column apart.

    Returns:
        codes, shape (n,) int32, and the distinct names they index.
    """
    return column.indices.to_numpy(zero_copy_only=False), column.dictionary.to_pylist()


def times_of(column: pa.Array) -> NDArray[np.int64]:
    """Return a time column as µs UTC, shape (n,), without copying."""
    out: NDArray[np.int64] = np.asarray(column.view(pa.int64()))
    return out


def times(us: NDArray[np.int64]) -> pa.Array:
    """Build a time column from µs UTC, shape (n,)."""
    # Taken as times, not cast: a frame has many columns, and each call of a compute kernel costs more than its work.
    return pa.Array.from_buffers(_TIME, len(us), [None, pa.py_buffer(np.ascontiguousarray(us, np.int64))])


def batch(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Build a record batch with the schema's column order; plain numpy arrays become Arrow arrays."""
    arrays = []
    for name, kind in _FIELDS.get(id(schema)) or _fields(schema):
        column = columns[name]
        if isinstance(column, np.ndarray):
            array = pa.array(column)
            column = array if array.type == kind else array.cast(kind)
        elif not isinstance(column, pa.Array):
            column = pa.array(column, kind)
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
