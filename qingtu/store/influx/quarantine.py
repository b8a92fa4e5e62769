"""The quarantine's book in the database, and what becomes of messages that the server refused.

A book entry changes only when the progress that it belongs to is saved: its lines wait in the saved state and are
written right after. So a message that is driven again moves exactly once, however often its frames are applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from qingtu import records
from qingtu.records import RAW, RAW_ROWS, VERDICTS, Frame, Outcome, decode, position
from qingtu.store.books import BookEntry
from qingtu.store.influx.rows import columns_of, received_of, rejected_line
from qingtu.store.influx.wide import FOREVER, between

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.contracts import Bus
    from qingtu.settings import InfluxSettings
    from qingtu.store.influx.client import InfluxClient
    from qingtu.store.influx.writing import Plan

STAGE: Final = "store"
REASON: Final = "store_refused"
ENTRY: Final[Mapping[str, pa.DataType]] = {
    **dict.fromkeys(("position", "hour", "decoded", "refused", "outcome", "moved_by", "seq"), pa.int64()),
    **dict.fromkeys(("network", "partition"), pa.string()),
}
ENTRY_SELECTED: Final = (
    "position::integer, hour::integer, decoded::integer, refused::integer, outcome::integer, moved_by::integer, "
    "seq::integer, network::string, partition::tag"
)
_FEW: Final = 50
_DETAIL: Final = 2000


@dataclass(frozen=True, slots=True)
class Placed:
    """A book entry and where it stands: its time of receipt (µs UTC) and its number."""

    entry: BookEntry
    received_us: int
    seq: int


def find_entries(
    client: InfluxClient, bucket: str, partition: int, wanted: Mapping[int, int], kept_from: int
) -> dict[int, Placed]:
    """Return the book entries of messages.

    Args:
        client: the server.
        bucket: of the quarantine.
        partition: of the messages.
        wanted: position → time of receipt, µs UTC, near which to look first.
        kept_from: messages received before are expired, µs UTC.
    """
    found = _ask(
        client, bucket, partition, wanted, between(max(min(wanted.values()), kept_from), max(wanted.values()) + 1)
    )
    if missing := [at for at in wanted if at not in found]:
        # Driven again by hand under another time of receipt: look everywhere.
        found |= _ask(client, bucket, partition, missing, between(max(kept_from, 0), FOREVER[1]))
    return found


def _ask(
    client: InfluxClient, bucket: str, partition: int, wanted: Mapping[int, int] | Sequence[int], when: str
) -> dict[int, Placed]:
    where = [when, f"\"partition\" = '{partition}'"]
    if len(wanted) <= _FEW:
        where.append("(" + " OR ".join(f"position = {at}" for at in wanted) + ")")
    question = f"SELECT {ENTRY_SELECTED} FROM quarantine WHERE {' AND '.join(where)}"  # noqa: S608 - numbers only
    out = {}
    for row in client.table(bucket, question, ENTRY).to_pylist():
        if row["position"] in wanted:
            entry = BookEntry(
                row["network"] or "", row["hour"], row["decoded"], row["refused"], row["outcome"], row["moved_by"]
            )
            out[row["position"]] = Placed(entry, row["time"], row["seq"])
    return out


def purge(client: InfluxClient, settings: InfluxSettings, partition: int, before_us: int) -> None:
    """Delete what stands in quarantine and was received before a time; doing it again changes nothing.

    Raises:
        RetryLater: the server does not answer now.
    """
    path = f"/api/v2/delete?org={quote(settings.org)}&bucket={quote(settings.daily)}"
    stop = np.datetime64(before_us, "us").item().isoformat() + "Z"
    for measurement in ("rejected", "quarantine"):
        predicate = f'_measurement="{measurement}" AND "partition"="{partition}"'
        client.call("POST", path, {"start": "1970-01-01T00:00:00Z", "stop": stop, "predicate": predicate})


# ------------------------------------------------------------------------------------------- refused by the server


@dataclass(slots=True)
class Guilty:
    """A message of which the server refused something.

    Attributes:
        words: what the server said, and of what.
        readings: how many of its readings.
        events: how many of its events.
    """

    words: str
    readings: int = 0
    events: int = 0


def guilty_messages(
    plan: Plan, names: Sequence[tuple[str, str, str]], events: Mapping[tuple[int, int], str]
) -> dict[tuple[int, int], Guilty]:
    """Return (index of frame, raw row) → what was refused of each message.

    Args:
        plan: after it was written.
        names: (station, property, channel) by number.
        events: (index of frame, raw row) → words, of refused events.
    """
    out: dict[tuple[int, int], Guilty] = {}

    for row, words in plan.refused.items():
        if plan.rows.versions.cause[row] not in VERDICTS:
            station, prop, channel = names[int(plan.rows.series[row])]
            at = int(plan.rows.frame[row]), int(plan.rows.versions.revision[row]) & 0xFFFF
            one = out.setdefault(at, Guilty(f"{station}/{prop}/{channel}: {words}"[:_DETAIL]))
            one.readings += 1
    for at, words in events.items():
        out.setdefault(at, Guilty(f"event: {words}"[:_DETAIL])).events += 1
    return out


def judged(frame: Frame, guilty: Mapping[int, Guilty]) -> Frame:
    """Return a processed frame whose manifest says what the server refused: raw row → :class:`Guilty`."""
    manifest = frame.sections["manifest"]
    row = np.asarray(manifest.column("row"))
    outcome = np.asarray(manifest.column("outcome")).copy()
    refused = np.asarray(manifest.column("refused")).copy()
    decoded = np.asarray(manifest.column("decoded")).copy()
    for i in np.flatnonzero(np.isin(row, list(guilty))).tolist():
        outcome[i] = Outcome.QUARANTINED
        one = guilty[int(row[i])]
        refused[i] += one.readings + one.events
        decoded[i] += one.events  # events are no readings; only those that are refused are booked beside them
    columns = {name: manifest.column(name) for name in manifest.schema.names}
    columns |= {"outcome": pa.array(outcome), "refused": pa.array(refused), "decoded": pa.array(decoded)}
    return Frame(frame.header, {**frame.sections, "manifest": records.batch(records.MANIFEST, columns)})


def refused_lines(bus: Bus, partition: int, frame: Frame, guilty: Mapping[int, Guilty], seq: int) -> list[str]:
    """Write the rejected rows of messages that the server refused, with their bytes from raw."""
    assert frame.origin is not None
    offset = frame.origin[1]
    raw = next((r for r in bus.read(RAW, partition, offset, 1) if r.offset == offset), None)
    rows = None if raw is None else columns_of(decode(raw.data).sections["rows"])
    lines = []
    for number, row in enumerate(sorted(guilty)):
        if rows is None:  # raw was trimmed: the message is named, its bytes are gone
            own: dict[str, Any] = dict.fromkeys(RAW_ROWS.names)
            manifest = frame.sections["manifest"]
            own |= {"received_at": received_of(manifest)[row], "kind": 0, "size": 0, "flags": 0}
            driven = zip(*(manifest.column(name).to_pylist() for name in ("row", "redrive_of")), strict=True)
            own["redrive_of"] = dict(driven)[row]
        else:
            own = {name: values[row] for name, values in rows.items()}
        if (own["redrive_of"] or 0) < 0:
            own["redrive_of"] = None  # its message has left quarantine elsewhere: it is one of its own here
        own |= {
            "position": position(offset, row), "stage": STAGE, "reason": REASON, "detail": guilty[row].words,
            "readings_refused": guilty[row].readings + guilty[row].events,
        }  # fmt: skip
        lines.append(rejected_line(own, partition, seq + number))
    return lines
