"""Raw frames: messages, ticks and commands as rows of ``RAW_ROWS``.

Messages come through :class:`RawBuilder`, which costs one list append a message and works on columns when a frame
is cut. Ticks, commands and re-driven rows are small record batches; :func:`raw_frame` puts any of them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from qingtu import records
from qingtu.clock import HOUR
from qingtu.records import RAW_ROWS, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Row = tuple["Source", bytes, int, int, "bytes | None", int, int, int, str, "bytes | None"]
"""One message: (source, payload, flags, packet id, properties, received_at µs, connection, size, refused, digest).

See ``RAW_ROWS`` for each field. A plain tuple: a class costs 0.3 µs more a message.
"""

SESSION: Final = "session"
"""Command: the broker began a new session with this gateway. Its packet identifiers say nothing about those before."""
_NAME_TYPE: Final = pa.dictionary(pa.int32(), pa.string())


class Source:
    """What all messages of one topic have in common. Compared by identity.

    Attributes:
        topic: as it is stored.
        network: "" when no route takes the topic.
        route: name of the route, "" without one.
        device: "" without a route.
    """

    __slots__ = ("device", "network", "route", "topic")

    def __init__(self, topic: str, network: str = "", route: str = "", device: str = "") -> None:
        self.topic = topic
        self.network = network
        self.route = route
        self.device = device


class RawBuilder:
    """Collects the messages of one frame.

    Args:
        gateway: name of this gateway, for the rows and the header.

    Attributes:
        rows: what was appended; at most ``records.MAX_ROWS``, which the caller sees to.
        append: ``rows.append``, without a call in between.
    """

    __slots__ = ("append", "gateway", "rows")

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self.rows: list[Row] = []
        self.append = self.rows.append

    def build(self, catalogue: str | None, clock_us: int, first: pa.RecordBatch | None = None) -> bytes:
        """Encode the frame; the builder keeps its rows.

        Args:
            catalogue: version of the catalogue in use, for the header.
            clock_us: newest time of receipt in the frame, µs UTC.
            first: a row that stands before the messages; there need be none behind it.
        """
        batches = [] if first is None else [first]
        if self.rows:
            messages, counts = _messages(self.rows, self.gateway)
            if first is None:
                payloads = sum([len(row[1]) for row in self.rows])
                return _encode(messages, self.gateway, catalogue, clock_us, counts, payloads)
            batches.append(messages)
        return raw_frame(batches, gateway=self.gateway, catalogue=catalogue, clock_us=clock_us)


def raw_frame(batches: Sequence[pa.RecordBatch], *, gateway: str, catalogue: str | None, clock_us: int) -> bytes:
    """Encode one raw frame from batches of ``RAW_ROWS``: ticks, commands, re-driven rows, in any mixture.

    Args:
        batches: at least one; together at most ``records.MAX_ROWS`` rows.
        gateway: name of this gateway.
        catalogue: version of the catalogue in use.
        clock_us: newest time of receipt or tick, µs UTC.
    """
    if len(batches) == 1:
        whole = batches[0]
    else:
        table = pa.Table.from_batches(batches, RAW_ROWS).unify_dictionaries().combine_chunks()
        whole = table.to_batches()[0]
    return _encode(whole, gateway, catalogue, clock_us, _counts_of(whole))


def tick_row(clock_us: int, hearing: Mapping[str, int], *, gateway: str = "") -> pa.RecordBatch:
    """Make a tick: the clock, and since when each route hears everything.

    Args:
        clock_us: µs UTC.
        hearing: route → µs UTC; a route that does not hear now is absent.
        gateway: whose routes they are.

    Returns:
        one row; its payload is ``{"hearing": {route: µs}}``.
    """
    return _own_row(Kind.TICK, clock_us, orjson.dumps({"hearing": dict(hearing)}), gateway)


def command_row(now_us: int, name: str, who: str, args: Mapping[str, Any], *, gateway: str = "") -> pa.RecordBatch:
    """Make a command, which goes into its station's partition.

    Args:
        now_us: when it was given, µs UTC.
        name: such as ``acknowledge``.
        who: the person, as the token names them.
        args: must be JSON.
        gateway: which program took it.

    Returns:
        one row; its payload is ``{"name": …, "who": …, "args": {…}}``.
    """
    return _own_row(Kind.COMMAND, now_us, orjson.dumps({"name": name, "who": who, "args": dict(args)}), gateway)


def redrive_rows(raw_rows: pa.RecordBatch, positions: Sequence[int], shift_us: int) -> pa.RecordBatch:
    """Copy raw rows so that they are processed again.

    Everything is verbatim, the first time of receipt too; only ``redrive_of`` and ``shift_us`` are set.

    Args:
        raw_rows: rows of ``RAW_ROWS`` (further columns are left out).
        positions: shape (rows,), where each stands; of a message of another partition as ``records.away`` names it.
        shift_us: added to the claimed times, for devices whose clock was wrong.
    """
    n = raw_rows.num_rows
    columns = {name: raw_rows.column(name) for name in RAW_ROWS.names}
    columns["redrive_of"] = pa.array(positions, pa.int64())
    columns["shift_us"] = pa.array(np.full(n, shift_us, np.int64))
    return records.batch(RAW_ROWS, columns)


def _messages(rows: list[Row], gateway: str) -> tuple[pa.RecordBatch, list[list[Any]]]:
    """Return messages as a batch, and how many are of which network and hour."""
    n = len(rows)
    sources, payloads, flags, ids, properties, received, connection, sizes, refused, digests = zip(*rows, strict=True)
    seen = {source: i for i, source in enumerate(dict.fromkeys(sources))}
    code = np.fromiter(map(seen.__getitem__, sources), np.int32, n)
    times = np.array(received, np.int64)
    network = _name_column([s.network for s in seen], code)
    none = pa.nulls(n, pa.int64())
    arrays = [
        pa.array(np.zeros(n, np.int8)),
        records.times(times),
        records.same_name(gateway, n),
        network,
        _name_column([s.route for s in seen], code),
        _name_column([s.device for s in seen], code),
        _name_column([s.topic for s in seen], code),
        pa.array(payloads, pa.binary()),
        pa.array(np.array(sizes, np.int64)),
        pa.array(np.array(flags, np.uint8)),
        pa.array(np.array(ids, np.int32)),
        pa.array(np.array(connection, np.int64)),
        pa.array(properties, pa.binary()) if any(properties) else pa.nulls(n, pa.binary()),
        pa.array(refused).dictionary_encode() if any(refused) else records.same_name("", n),
        pa.array(digests, pa.binary()) if any(digests) else pa.nulls(n, pa.binary()),
        none,
        none,
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=RAW_ROWS), _counts(network, times)


def _name_column(values: list[str], code: NDArray[np.int32]) -> pa.DictionaryArray:
    """Build a name column from what each source says; equal names of several sources share an entry."""
    distinct = dict.fromkeys(values)
    if len(distinct) == 1:
        return records.same_name(values[0], len(code))
    if len(distinct) < len(values):
        place = {value: i for i, value in enumerate(distinct)}
        code = np.fromiter(map(place.__getitem__, values), np.int32, len(values))[code]
    return records.names(code, list(distinct))


def _own_row(kind: Kind, time_us: int, payload: bytes, gateway: str) -> pa.RecordBatch:
    """Make one row that is not a message."""
    columns: dict[str, Any] = {name: records.same_name("", 1) for name in RAW_ROWS.names}
    columns |= {
        "kind": [int(kind)],
        "received_at": records.times(np.array([time_us], np.int64)),
        "gateway": records.same_name(gateway, 1),
        "payload": [payload],
        "size": [len(payload)],
        "flags": [0],
        "packet_id": [0],
        "connection": [0],
        "properties": [None],
        "digest": [None],
        "redrive_of": [None],
        "shift_us": [None],
    }
    return records.batch(RAW_ROWS, columns)


def _encode(
    batch: pa.RecordBatch,
    gateway: str,
    catalogue: str | None,
    clock_us: int,
    counts: list[list[Any]],
    payloads: int = 0,
) -> bytes:
    header = {
        "stream": records.RAW,
        "clock": clock_us,
        "catalogue": catalogue,
        "origin": None,
        "gateway": gateway,
        "counts": counts,
    }
    return records.encode(header, {"rows": batch}, payloads)


def _counts_of(batch: pa.RecordBatch) -> list[list[Any]]:
    """Count the messages among rows of ``RAW_ROWS``; those that are driven again were received before."""
    counted = batch.column("kind").to_numpy() == Kind.MESSAGE
    redriven = batch.column("redrive_of")
    if redriven.null_count < batch.num_rows:
        counted &= pc.is_null(redriven).to_numpy(zero_copy_only=False)
    return _counts(batch.column("network"), records.times_of(batch.column("received_at")), counted)


def _counts(
    network: pa.DictionaryArray, received_us: NDArray[np.int64], counted: NDArray[np.bool_] | slice = slice(None)
) -> list[list[Any]]:
    """Count messages by network and hour of receipt: what the ledger takes as received."""
    codes, names = records.codes_of(network)
    keys = (received_us // HOUR * len(names) + codes)[counted]
    if len(keys) and (keys == keys[0]).all():  # usual
        found, counts = keys[:1], np.array([len(keys)])
    else:
        found, counts = np.unique(keys, return_counts=True)
    return [
        [names[key % len(names)], key // len(names) * HOUR, n]
        for key, n in zip(found.tolist(), counts.tolist(), strict=True)
    ]
