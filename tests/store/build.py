"""Frames of every stream made from plain rows; :mod:`tests.store.model` says what a store must hold after them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qingtu import records
from qingtu.clock import HOUR, MINUTE, SECOND
from qingtu.records import VERDICTS, Cause, Frame, Outcome, position

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T0 = 1_795_392_000_000_000  # 2026-11-23T00:00:00Z
NAN = float("nan")
SERIES = (("A", "pm25", "main"), ("A", "o3", "main"), ("B", "pm25", "backup"))


@dataclass(frozen=True)
class Reading:
    """One reading: which series, at which minute after T0, and what quality said."""

    series: int
    minute: int
    value: float
    flag: int = 1
    tests: int = 0
    cause: Cause = Cause.READING

    @property
    def time(self) -> int:
        return T0 + self.minute * MINUTE


@dataclass(frozen=True)
class Message:
    """One raw row and what the pass made of it; ``known_s`` is when, in seconds after T0."""

    readings: tuple[Reading, ...] = ()
    known_s: float = 0
    outcome: Outcome = Outcome.STORED
    refused: int = 0
    network: str = "n"
    redrive_of: int | None = None

    @property
    def known(self) -> int:
        return T0 + round(self.known_s * SECOND)

    @property
    def own(self) -> int:
        """Readings of its own: late verdicts are none."""
        return sum(r.cause not in VERDICTS for r in self.readings)


def reading(minute: int, value: float = 1.0, series: int = 0) -> Message:
    """Make a message with one reading."""
    return Message((Reading(series, minute, value),), known_s=minute)


def refused(known_s: float = 0, redrive_of: int | None = None) -> Message:
    """Make a message that could not be used at all: two readings were in it."""
    return Message((), known_s, Outcome.QUARANTINED, refused=2, redrive_of=redrive_of)


def frame(stream: str, origin: int, sections: Mapping[str, pa.RecordBatch], clock: int = T0, **header: Any) -> Frame:
    """Make a frame as it comes from the bus: encoded and decoded."""
    head = {"stream": stream, "clock": clock, "catalogue": "c", "origin": [0, origin], "ticks": [], **header}
    return records.decode(records.encode(head, sections))


def listed(values: Sequence[str]) -> pa.DictionaryArray:
    """Make a name column."""
    return pa.array(list(values), pa.string()).dictionary_encode()


def stamps(values: Sequence[int]) -> pa.Array:
    """Make a time column."""
    return records.times(np.array(values, np.int64))


def processed(origin: int, messages: Sequence[Message], **header: Any) -> Frame:
    """Make the processed frame of a raw frame with these messages; late verdicts stand last."""
    rows = [(r, at, m) for at, m in enumerate(messages) for r in m.readings]
    rows.sort(key=lambda row: row[0].cause in VERDICTS)
    sections = {}
    if rows:
        keys = [SERIES[r.series] for r, _, _ in rows]
        sections["readings"] = records.batch(
            records.READINGS,
            {
                "station": listed([k[0] for k in keys]),
                "property": listed([k[1] for k in keys]),
                "channel": listed([k[2] for k in keys]),
                "time": stamps([r.time for r, _, _ in rows]),
                "value": np.array([r.value for r, _, _ in rows]),
                "flag": np.array([r.flag for r, _, _ in rows], np.uint8),
                "tests": np.array([r.tests for r, _, _ in rows], np.uint32),
                "revision": np.array([position(origin, at) for _, at, _ in rows], np.int64),
                "known_at": stamps([m.known for _, _, m in rows]),
                "cause": np.array([r.cause for r, _, _ in rows], np.uint8),
                "late": np.zeros(len(rows), np.bool_),
            },
        )
    if messages:
        sections["manifest"] = manifest(messages)
    return frame(records.PROCESSED, origin, sections, **header)


def manifest(messages: Sequence[Message]) -> pa.RecordBatch:
    """Make the manifest of messages."""
    return records.batch(
        records.MANIFEST,
        {
            "row": np.arange(len(messages), dtype=np.uint16),
            "network": listed([m.network for m in messages]),
            "received_at": stamps([m.known for m in messages]),
            "outcome": np.array([m.outcome for m in messages], np.uint8),
            "decoded": np.array([m.own + m.refused for m in messages], np.int32),
            "refused": np.array([m.refused for m in messages], np.int32),
            "redrive_of": pa.array([m.redrive_of for m in messages], pa.int64()),
        },
    )


def event_frame(origin: int, events: Sequence[tuple[str, str, int, str]]) -> Frame:
    """Make a processed frame of events (station, kind, second, attributes)."""
    n = len(events)
    batch = records.batch(
        records.EVENTS,
        {
            "station": listed([e[0] for e in events]),
            "kind": listed([e[1] for e in events]),
            "level": np.zeros(n, np.uint8),
            "time": stamps([T0 + e[2] * SECOND for e in events]),
            "attributes": [e[3] for e in events],
            "revision": np.array([position(origin, i) for i in range(n)], np.int64),
            "known_at": stamps([T0] * n),
        },
    )
    return frame(records.PROCESSED, origin, {"events": batch})


def figure_frame(
    origin: int, rows: Sequence[tuple[int, float, int]], *, expected: int = 60, reason: str = "", inputs: str = "{}"
) -> Frame:
    """Make a figures frame of (hour, value, count), all of series A pm25."""
    n = len(rows)
    batch = records.batch(
        records.FIGURE_ROWS,
        {
            "what": listed(["hour"] * n),
            "station": listed(["A"] * n),
            "property": listed(["pm25"] * n),
            "channel": listed(["main"] * n),
            "start": stamps([T0 + hour * HOUR for hour, _, _ in rows]),
            "value": np.array([value for _, value, _ in rows]),
            "count": np.array([count for _, _, count in rows], np.int32),
            "expected": np.full(n, expected, np.int32),
            "valid": np.ones(n, np.bool_),
            "reason": listed([reason] * n),
            "inputs": [inputs] * n,
            "revision": np.full(n, position(origin, 0), np.int64),
            "known_at": stamps([T0 + origin * MINUTE] * n),
        },
    )
    return frame(records.FIGURES, origin, {"figures": batch})


def alert_frame(origin: int, rows: Sequence[tuple[str, str, int, str]]) -> Frame:
    """Make an alerts frame of (alert, state, level, who)."""
    n = len(rows)
    batch = records.batch(
        records.ALERT_ROWS,
        {
            "alert": [r[0] for r in rows],
            "rule": listed(["dust"] * n),
            "station": listed(["A"] * n),
            "property": listed(["pm25"] * n),
            "channel": listed(["main"] * n),
            "level": np.array([r[2] for r in rows], np.uint8),
            "state": listed([r[1] for r in rows]),
            "time": stamps([T0 + origin * MINUTE] * n),
            "opened_at": stamps([T0] * n),
            "value": np.array([NAN if r[3] else 80.0 for r in rows]),
            "limit": np.array([NAN if r[3] else 75.0 for r in rows]),
            "revision": np.array([position(origin, i) for i in range(n)], np.int64),
            "known_at": stamps([T0 + origin * MINUTE] * n),
            "evidence": ["{}"] * n,
            "who": [r[3] for r in rows],
            "note": [f"note of {r[3]}" if r[3] else "" for r in rows],
        },
    )
    return frame(records.ALERTS, origin, {"alerts": batch})


def rejected_frame(
    origin: int, rows: Sequence[tuple[int, str, bytes | None]], known_s: float = 0, redrive_of: int | None = None
) -> Frame:
    """Make a rejected frame of (raw row, reason, payload); all were received at one moment."""
    n = len(rows)
    columns: dict[str, Any] = {
        "position": np.array([position(origin, row) for row, _, _ in rows], np.int64),
        "stage": listed(["decode"] * n),
        "reason": listed([reason for _, reason, _ in rows]),
        "detail": ['it says "no",\n and \\ more'] * n,
        "readings_refused": np.full(n, 2, np.int32),
        "kind": np.zeros(n, np.int8),
        "received_at": stamps([T0 + round(known_s * SECOND)] * n),
        **{name: listed([f"{name} é,= \n\\"] * n) for name in ("gateway", "network", "route", "device", "topic")},
        "payload": pa.array([payload for _, _, payload in rows], pa.binary()),
        "size": np.full(n, 7, np.int64),
        "flags": np.full(n, 5, np.uint8),
        "packet_id": np.full(n, 65535, np.int32),
        "connection": np.full(n, T0 - 1, np.int64),
        "properties": pa.array([None] * n, pa.binary()),
        "refused": listed([""] * n),
        "digest": pa.array([b"\x00\xff"] * n, pa.binary()),
        "redrive_of": pa.array([redrive_of] * n, pa.int64()),
        "shift_us": np.full(n, -3, np.int64),
    }
    return frame(records.REJECTED, origin, {"rejected": records.batch(records.REJECTED_ROWS, columns)})


def frames_of(messages: Sequence[Message], cuts: Sequence[int]) -> list[Frame]:
    """Cut messages into processed frames with origins 0, 1, 2 and so on."""
    edges = [0, *sorted({c for c in cuts if 0 < c < len(messages)}), len(messages)]
    return [processed(i, messages[a:b]) for i, (a, b) in enumerate(pairwise(edges))]
