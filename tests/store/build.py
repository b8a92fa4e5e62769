"""Frames of every stream made from plain rows, and a model that says what a store must hold after them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qingtu import records
from qingtu.clock import HOUR, MINUTE, SECOND
from qingtu.records import Cause, Frame, Outcome, position

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
        return sum(r.cause != Cause.QUALITY_DECIDED for r in self.readings)


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
    rows.sort(key=lambda row: row[0].cause == Cause.QUALITY_DECIDED)
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


def figure_frame(origin: int, rows: Sequence[tuple[int, float, int]]) -> Frame:
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
            "expected": np.full(n, 60, np.int32),
            "valid": np.ones(n, np.bool_),
            "reason": listed([""] * n),
            "inputs": ["{}"] * n,
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


def frames_of(messages: Sequence[Message], cuts: Sequence[int]) -> list[Frame]:
    """Cut messages into processed frames with origins 0, 1, 2 and so on."""
    edges = [0, *sorted({c for c in cuts if 0 < c < len(messages)}), len(messages)]
    return [processed(i, messages[a:b]) for i, (a, b) in enumerate(pairwise(edges))]


@dataclass(frozen=True)
class Version:
    """One value that a key has had."""

    value: float | None
    flag: int
    tests: int
    revision: int
    known: int


@dataclass
class Model:
    """What a store must hold: every version of every key, in plain Python."""

    chains: dict[tuple[int, int], list[Version]] = field(default_factory=dict)
    stored: int = 0
    revised: int = 0
    repeated: int = 0
    reflagged: int = 0

    @classmethod
    def of(cls, messages: Sequence[Message], cuts: Sequence[int]) -> Model:
        """Apply messages one by one; ``cuts`` only give them their positions."""
        model = cls()
        offset, row = 0, 0
        for number, message in enumerate(messages):
            if number and number in cuts:
                offset, row = offset + 1, 0
            for verdicts in (False, True):
                for reading in message.readings:
                    if (reading.cause == Cause.QUALITY_DECIDED) is verdicts:
                        model.apply(reading, position(offset, row), message.known)
            row += 1
        return model

    def apply(self, reading: Reading, revision: int, known: int) -> None:
        """Apply one reading or verdict."""
        value = None if math.isnan(reading.value) else reading.value
        new = Version(value, reading.flag, reading.tests, revision, known)
        chain = self.chains.setdefault((reading.series, reading.time), [])
        now = chain[-1] if chain else None
        same = now is not None and (now.value, now.flag, now.tests) == (new.value, new.flag, new.tests)
        if reading.cause == Cause.QUALITY_DECIDED:
            if now is not None and now.value == new.value and not same:
                chain.append(new)
                self.reflagged += 1
        elif now is None:
            chain.append(new)
            self.stored += 1
        elif not same and revision > now.revision:
            chain.append(new)
            self.revised += 1
        else:
            self.repeated += 1

    def rows(self, as_of: int | None = None, known_by: int | None = None) -> list[tuple[Any, ...]]:
        """Return (series, time, value, flag, tests, revision, known) as they were known, in order."""
        out = []
        for (series, time), chain in sorted(self.chains.items()):
            seen = [
                v for v in chain if (as_of is None or v.revision <= as_of) and (known_by is None or v.known <= known_by)
            ]
            if seen:
                v = seen[-1]
                out.append((series, time, v.value, v.flag, v.tests, v.revision, v.known))
        return out

    def corrections(self) -> list[tuple[Any, ...]]:
        """Return (series, time, old value, old flag, old revision, new value, new flag, new revision)."""
        return [
            (series, time, a.value, a.flag, a.revision, b.value, b.flag, b.revision)
            for (series, time), chain in sorted(self.chains.items())
            for a, b in pairwise(chain)
        ]
