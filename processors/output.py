"""What the pass says about one raw frame, collected and written as at most one frame per output stream."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from qingtu import records
from qingtu.records import ALERTS, PROCESSED, REJECTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from processors.elsewhere import Verdict
    from processors.plan import Plan
    from qingtu.contracts import Outputs, Transition

_STATION: Final = records.READINGS.get_field_index("station"), records.READINGS.field("station")
"""Place and field."""


class Built(NamedTuple):
    """Sections that have their columns already; None: empty."""

    readings: pa.RecordBatch | None
    manifest: pa.RecordBatch | None
    alerts: pa.RecordBatch | None


@dataclass(slots=True)
class Output:
    """Everything that one raw frame causes.

    Attributes:
        readings: column arrays of blocks of readings, with ``series`` numbers of the plan under which they came.
        events: (station, kind, level, time_us, attributes, revision, known_us).
        manifest: column arrays of blocks of manifest rows.
        transitions: of alerts, in order.
        seen: how many of these situations have looked at.
        rejected: (row, stage, reason, detail, readings refused).
        areas: (position, what another partition says of areas); for derive.
        away: what became of messages that are in quarantine in other partitions.
        astray: rows that belong into other partitions.
        built: of a part of several frames, its readings, manifest and alerts; they are in no other field.
    """

    readings: list[tuple[Plan, dict[str, NDArray[Any]]]] = field(default_factory=list)
    events: list[tuple[str, str, int, int, dict[str, Any], int, int]] = field(default_factory=list)
    manifest: list[dict[str, Any]] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    seen: int = 0
    rejected: list[tuple[int, str, str, str, int]] = field(default_factory=list)
    areas: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    away: list[Verdict] = field(default_factory=list)
    astray: list[int] = field(default_factory=list)
    built: Built | None = None

    def frames(self, header: Mapping[str, Any], rows: pa.RecordBatch, offset: int) -> Outputs:
        """Encode.

        Args:
            header: origin, clock, catalogue and ticks; goes into every frame.
            rows: the raw rows.
            offset: of the raw frame.
        """
        built = self.built
        if built is None:
            # Kinds look at a whole run one after the other; what counts is the order of raw rows.
            self.transitions.sort(key=_revision)
            built = Built(_readings(self.readings), _manifest(self.manifest), _alerts(self.transitions))
        sections = {"readings": built.readings, "events": _events(self.events), "manifest": built.manifest}
        present = {name: batch for name, batch in sections.items() if batch is not None}
        told = {"areas": self.areas} if self.areas else {}
        out: Outputs = {PROCESSED: records.encode({**header, **told, "stream": PROCESSED}, present)}
        if built.alerts is not None:
            out[ALERTS] = records.encode({**header, "stream": ALERTS}, {"alerts": built.alerts})
        if self.rejected:
            batch = _rejected(self.rejected, rows, offset)
            out[REJECTED] = records.encode({**header, "stream": REJECTED}, {"rejected": batch})
        return out

    def cut(self, starts: Sequence[int], offsets: Sequence[int]) -> list[Output]:
        """Cut what the messages of several raw frames caused, none of them driven again, into what those of each did.

        Args:
            starts: number of the first row of each frame.
            offsets: of the frames.
        """
        out = [Output(built=built) for built in self._built(starts, offsets)]
        place = {offset: frame for frame, offset in enumerate(offsets)}
        for event in self.events:
            out[place[event[5] >> 16]].events.append(event)
        for row, stage, reason, detail, refused in self.rejected:
            frame = bisect_right(starts, row) - 1
            out[frame].rejected.append((row - starts[frame], stage, reason, detail, refused))
        for row in self.astray:
            frame = bisect_right(starts, row) - 1
            out[frame].astray.append(row - starts[frame])
        return out

    def _built(self, starts: Sequence[int], offsets: Sequence[int]) -> Iterator[Built]:
        """Yield the columns of each frame.

        They are built once for all of them, and slices of it are written: each call of Arrow costs more than its work.
        """
        (block,) = self.manifest
        sizes = np.diff([*starts, len(block["row"])])
        manifest = _manifest([{**block, "row": block["row"] - np.repeat(starts, sizes).astype(np.uint16)}])
        assert manifest is not None
        readings = _cut_readings(self.readings, offsets)
        alerts = _cut_alerts(self.transitions, offsets)
        for frame, (start, size) in enumerate(zip(starts, sizes.tolist(), strict=True)):
            yield Built(readings[frame], manifest.slice(start, size), alerts[frame])


def _revision(transition: Transition) -> int:
    return transition.revision


def _cut_readings(
    blocks: list[tuple[Plan, dict[str, NDArray[Any]]]], offsets: Sequence[int]
) -> list[pa.RecordBatch | None]:
    """Return the readings of each frame, in the order in which they are."""
    if not blocks:
        return [None for _ in offsets]
    ((plan, columns),) = blocks
    of, known = columns["revision"] >> 16, np.array(offsets)
    frame = np.searchsorted(known, of).astype(np.uint16)  # of 16 bits, which are sorted four times as fast
    if (astray := (known.take(frame, mode="clip") != of)).any():
        raise LookupError(f"{np.count_nonzero(astray)} readings are of none of the frames {offsets}")
    order = np.argsort(frame, kind="stable")
    ordered = {name: column.take(order) for name, column in columns.items()}
    station = plan.series_station.take(ordered["series"])
    batch = _reading_block(plan, ordered, records.same_name("", len(order)))  # each frame names its own stations
    edges = [0, *np.cumsum(np.bincount(frame, minlength=len(offsets))).tolist()]
    return [
        batch.slice(start, stop - start).set_column(*_STATION, _stations(plan, station[start:stop]))
        if start < stop
        else None
        for start, stop in pairwise(edges)
    ]


def _cut_alerts(transitions: list[Transition], offsets: Sequence[int]) -> list[pa.RecordBatch | None]:
    """Return the transitions of each frame, in the order of raw rows."""
    transitions.sort(key=_revision)
    batch = _alerts(transitions)
    if batch is None:
        return [None for _ in offsets]
    of = np.array([transition.revision >> 16 for transition in transitions])
    starts, stops = np.searchsorted(of, offsets, "left").tolist(), np.searchsorted(of, offsets, "right").tolist()
    if sum(stops) - sum(starts) < len(of):
        raise LookupError(f"of {len(of)} transitions some are of none of the frames {offsets}")
    return [
        batch.slice(start, stop - start) if start < stop else None for start, stop in zip(starts, stops, strict=True)
    ]


def _readings(blocks: list[tuple[Plan, dict[str, NDArray[Any]]]]) -> pa.RecordBatch | None:
    batches = [
        _reading_block(plan, columns, _stations(plan, plan.series_station.take(columns["series"])))
        for plan, columns in blocks
        if len(columns["series"])
    ]
    if len(batches) < 2:
        return batches[0] if batches else None
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    return table.to_batches()[0]


def _reading_block(plan: Plan, columns: dict[str, NDArray[Any]], station: pa.DictionaryArray) -> pa.RecordBatch:
    series = columns["series"]
    return records.batch(
        records.READINGS,
        {
            "station": station,
            "property": _dictionary(plan.series_property.take(series), plan.properties),
            "channel": _dictionary(plan.series_channel.take(series), plan.channels),
            "time": records.times(columns["time"]),
            "value": columns["value"],
            "flag": columns["flag"],
            "tests": columns["tests"],
            "revision": columns["revision"],
            "known_at": records.times(columns["known"]),
            "cause": columns["cause"],
            "late": columns["late"],
        },
    )


def _stations(plan: Plan, station: NDArray[np.int32]) -> pa.DictionaryArray:
    """Build a name column of the stations that occur, and no others: a reader looks up each name of the dictionary."""
    used = np.zeros(len(plan.station_names), np.bool_)
    used[station] = True
    place = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return _dictionary(place.take(station), plan.stations.take(used.nonzero()[0]))


def _dictionary(codes: NDArray[np.int32], values: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes), values, safe=False)


def _listed(values: list[str]) -> pa.DictionaryArray:
    """Build a name column from a list of names with repetitions."""
    place: dict[str, int] = {}
    codes = np.array([place.setdefault(value, len(place)) for value in values], np.int32)
    return records.names(codes, list(place))


def _events(rows: list[tuple[str, str, int, int, dict[str, Any], int, int]]) -> pa.RecordBatch | None:
    if not rows:
        return None
    station, kind, level, time, attributes, revision, known = (list(column) for column in zip(*rows, strict=True))
    return records.batch(
        records.EVENTS,
        {
            "station": _listed(station),
            "kind": _listed(kind),
            "level": np.array(level, np.uint8),
            "time": records.times(np.array(time, np.int64)),
            "attributes": [orjson.dumps(a, option=orjson.OPT_SORT_KEYS).decode() for a in attributes],
            "revision": np.array(revision, np.int64),
            "known_at": records.times(np.array(known, np.int64)),
        },
    )


def _manifest(blocks: list[dict[str, Any]]) -> pa.RecordBatch | None:
    batches = [
        records.batch(
            records.MANIFEST,
            {**block, "network": records.names(*block["network"]), "received_at": records.times(block["received_at"])},
        )
        for block in blocks
    ]
    if len(batches) < 2:
        return batches[0] if batches else None
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]


def _alerts(rows: list[Transition]) -> pa.RecordBatch | None:
    if not rows:
        return None
    columns = dict(zip(rows[0]._fields, (list(c) for c in zip(*rows, strict=True)), strict=True))
    return records.batch(
        records.ALERT_ROWS,
        {
            "alert": columns["alert"],
            "rule": _listed(columns["rule"]),
            "station": _listed(columns["station"]),
            "property": _listed(columns["property"]),
            "channel": _listed(columns["channel"]),
            "level": np.array(columns["level"], np.uint8),
            "state": _listed(columns["state"]),
            "time": records.times(np.array(columns["time_us"], np.int64)),
            "opened_at": records.times(np.array(columns["opened_us"], np.int64)),
            "value": np.array(columns["value"], np.float64),
            "limit": np.array(columns["limit"], np.float64),
            "revision": np.array(columns["revision"], np.int64),
            "known_at": records.times(np.array(columns["known_us"], np.int64)),
            "evidence": [orjson.dumps(e, option=orjson.OPT_SORT_KEYS).decode() for e in columns["evidence"]],
            "who": columns["who"],
            "note": columns["note"],
        },
    )


def _rejected(rejected: list[tuple[int, str, str, str, int]], rows: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    row, stage, reason, detail, refused = (list(column) for column in zip(*rejected, strict=True))
    at = np.array(row, np.int64)
    raw = rows.take(pa.array(at))
    return records.batch(
        records.REJECTED_ROWS,
        {
            "position": (offset << 16) | at,
            "stage": _listed(stage),
            "reason": _listed(reason),
            "detail": [d[:2000] for d in detail],
            "readings_refused": np.array(refused, np.int32),
            **{name: raw.column(name) for name in raw.schema.names},
        },
    )
