"""Lines of everything that is not a reading: alerts, events, rejected messages, quarantine, ledger, progress. Pure.

Points that would be one (same tags, same µs) are kept apart by a number of their own, counted in the saved state: its
last three digits are the ns of the time, what is above goes into the tag ``lane``, which begins anew after
:data:`LANES`. So two rows are one point only if they have the same tags and µs and more rows than a frame can hold came
in between, and a row that is written again is always the same point.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from qingtu.records import Level, codes_of, times_of
from qingtu.store.books import COLUMNS
from qingtu.store.influx.corrections import SLOTS
from qingtu.store.influx.lines import fields, nanoseconds, tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.store.books import BookEntry
    from qingtu.store.influx.state import StreamState

LANES: Final = 66
"""LANES × SLOTS is more than the rows of a frame."""
CHUNK: Final = 1_000_000
"""Characters of base64 in one string field, four times a whole number: InfluxDB takes 1 MiB at most."""
_BYTES: Final = ("payload", "properties", "digest")
_LEVEL_WORDS: Final = {
    Level.BLUE: ("蓝色", "blue"),
    Level.YELLOW: ("黄色", "yellow"),
    Level.ORANGE: ("橙色", "orange"),
    Level.RED: ("红色", "red"),
}
_STATE_WORDS: Final = {
    "open": "预警",
    "acknowledged": "已确认",
    "resolved": "已解除",
    "withdrawn": "已撤回",
    "comment": "备注",
}


def place(time_us: int, seq: int) -> tuple[str, int]:
    """Return the lane ("" for the first) and the time in ns of the row with this number."""
    lane = seq // SLOTS % LANES
    return str(lane) if lane else "", nanoseconds(time_us, seq % SLOTS)


def columns_of(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """Return columns as lists: names as text, times in µs UTC. Of two columns of one name the last is ``_refused``."""
    out: dict[str, list[Any]] = {}
    for spec, column in zip(batch.schema, batch.columns, strict=True):
        values = column
        if str(spec.type).startswith("timestamp"):
            values = column.cast("int64")
        out[spec.name] = values.to_pylist()
    return out


def alert_line(row: Mapping[str, Any], partition: int, seq: int) -> str:
    """Write one transition; ``title`` and ``text`` are for annotations."""
    names = tags(
        station=row["station"], property=row["property"], channel=row["channel"], rule=row["rule"],
        partition=str(partition),
    )  # fmt: skip
    zh, en = _LEVEL_WORDS.get(row["level"], ("", ""))
    state = _STATE_WORDS.get(row["state"], row["state"])
    body = fields(
        alert=row["alert"], state=row["state"], level=row["level"], opened=row["opened_at"], value=row["value"],
        limit=row["limit"], revision=row["revision"], known=row["known_at"], evidence=row["evidence"] or "",
        who=row["who"] or "", note=row["note"] or "", seq=seq,
        title=f"{zh}{state} {row['station']} {row['property']}".strip(),
        text=f"{row['rule']}: {en} {row['state']}".strip(),
    )  # fmt: skip
    return f"alert{names} {body} {nanoseconds(row['time'], seq % SLOTS)}"


def event_line(row: Mapping[str, Any], slot: int) -> str:
    """Write one event; ``slot`` tells events of one station, kind and time apart."""
    names = tags(station=row["station"], kind=row["kind"], lane=str(slot // SLOTS) if slot >= SLOTS else "")
    body = fields(
        level=row["level"], attributes=row["attributes"] or "", revision=row["revision"], known=row["known_at"]
    )
    return f"event{names} {body} {nanoseconds(row['time'], slot % SLOTS)}"


def rejected_line(row: Mapping[str, Any], partition: int, seq: int) -> str:
    """Write one refusal with its raw row; bytes in base64, cut into several fields where one cannot hold them."""
    lane, time = place(row["received_at"], seq)
    names = tags(partition=str(partition), stage=row["stage"], reason=row["reason"], lane=lane)
    body: dict[str, Any] = {
        "position": row["position"], "detail": row["detail"] or "", "refused": row["readings_refused"],
        "refused_by_gateway": row["refused"] or "",
        **{n: row[n] or "" for n in ("gateway", "network", "route", "device", "topic")},
        **{n: row[n] for n in ("kind", "size", "flags", "packet_id", "connection", "redrive_of", "shift_us")},
    }  # fmt: skip
    for name in _BYTES:
        if row[name] is not None:
            # In CSV an empty string looks like none at all; padding alone decodes to no bytes.
            text = base64.b64encode(row[name]).decode() or "="
            for number, at in enumerate(range(0, len(text), CHUNK)):
                body[f"{name}{number or ''}"] = text[at : at + CHUNK]
    return f"rejected{names} {fields(**body)} {time}"


def quarantine_line(entry: BookEntry, partition: int, position: int, received_us: int, seq: int) -> str:
    """Write an entry of the quarantine's book."""
    lane, time = place(received_us, seq)
    body = fields(
        position=position, network=entry.network, hour=entry.hour, decoded=entry.decoded, refused=entry.refused,
        outcome=int(entry.outcome), moved_by=entry.moved_by, seq=seq,
    )  # fmt: skip
    return f"quarantine{tags(partition=str(partition), lane=lane)} {body} {time}"


def ledger_lines(
    books: Mapping[int, Mapping[str, NDArray[np.int64]]], hours: Iterable[int], partition: int
) -> list[str]:
    """Write the books of some hours: sums of now, not changes."""
    return [
        f"ledger{tags(partition=str(partition), network=network)} "
        f"{fields(network_name=network, **dict(zip(COLUMNS, row.tolist(), strict=True)))} {hour * 3_600_000_000_000}"
        for hour in hours
        for network, row in books.get(hour, {}).items()
    ]


def progress_line(stream: str, partition: int, state: StreamState) -> str:
    """Write how far a stream is stored, and what is expired; a point that is overwritten each time."""
    body = fields(
        next_offset=state.progress.next_offset, origin=state.progress.origin, kept_from=state.kept_from,
        expired=state.expired, rejected_from=state.rejected_from,
        gone=orjson.dumps([[*key, *value] for key, value in state.gone.items()]).decode(),
    )  # fmt: skip
    return f"progress{tags(stream=stream, partition=str(partition))} {body} 0"


def received_of(manifest: pa.RecordBatch) -> dict[int, int]:
    """Return row → time of receipt, µs UTC."""
    rows = np.asarray(manifest.column("row")).tolist()
    return dict(zip(rows, times_of(manifest.column("received_at")).tolist(), strict=True))


def names_of(column: pa.DictionaryArray) -> list[str]:
    """Return a name column as text."""
    codes, values = codes_of(column)
    return [values[code] for code in codes.tolist()]
