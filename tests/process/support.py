"""A small catalogue, raw rows as plain dicts, and a driver of `process` whose results can be compared.

A *row* is a dict with the columns of ``RAW_ROWS``; :func:`drive` cuts a list of rows into frames, restores where it is
told, and gives everything that came out, with positions turned into numbers of the list.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from ingest.raw import raw_frame
from processors.process import Process
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from qingtu.clock import SECOND
from qingtu.records import ALERTS, PROCESSED, RAW_ROWS, REJECTED, Kind, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qingtu.contracts import Outputs

T0 = 1_795_392_000_000_000  # 2026-11-23T00:00:00Z
CONFIG: dict[str, Any] = {
    "ahead_limit_s": 300,
    "backfill_limit_d": 400,
    "dedup_horizon_h": 72,
    "dedup_max": 1_000_000,
    "routes": {"native": "native", "other": "native"},
}
NETWORK = {"id": "n", "zh": "网", "en": "Net", "interval_s": 60}
RULES: list[dict[str, Any]] = [
    {"id": "dust", "kind": "threshold", "zh": "尘", "en": "Dust", "property": "pm25",
     "levels": {"blue": 75, "orange": 150, "red": 250}, "hysteresis": 5},
    {"id": "dust-held", "kind": "threshold", "zh": "尘", "en": "Dust", "property": "pm25",
     "levels": {"yellow": 100, "red": 200}, "hysteresis": 10, "hold_s": 120},
    {"id": "frost", "kind": "threshold", "zh": "霜", "en": "Frost", "property": "air_temperature",
     "direction": "below", "levels": {"blue": 0, "yellow": -5}, "hysteresis": 1},
    {"id": "quiet", "kind": "silence", "zh": "静", "en": "Quiet", "after_s": 600, "level": "orange"},
]  # fmt: skip


def station(ident: str, devices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Write a station's block."""
    return {
        "id": ident, "zh": "站", "en": "Station", "network": "n", "domain": "air", "kind": "air",
        "position": [120.3, 36.1], "devices": list(devices), **more,
    }  # fmt: skip


def catalogue(
    stations: Sequence[Mapping[str, Any]] | None = None, rules: Sequence[Mapping[str, Any]] | None = None
) -> Catalogue:
    """Make a catalogue: without arguments, stations A, B and C of network n with all that the pass can meet."""
    limits = {
        "pm25": {"suspect": [0, 500], "spike": {"suspect": 60, "fail": 120}},
        "air_temperature": {"rate_per_h": {"suspect": 30, "fail": 60}},
    }
    fields = {"dust": {"property": "pm25", "unit": "mg/m3", "sentinels": [-999]}, "door": "door_open"}
    usual = [
        station("A", [{"id": "a", "properties": ["pm25", "air_temperature"]}], limits=limits),
        station("B", [{"id": "b", "fields": fields}], limits={"pm25": limits["pm25"]}),
        station("C", [{"id": "c", "properties": ["pm25"]}, {"id": "c2", "properties": ["o3"], "route": "other"}]),
    ]
    content = {
        "networks": [NETWORK],
        "stations": list(usual if stations is None else stations),
        "rules": list(RULES if rules is None else rules),
    }
    return Catalogue(Content.model_validate(content))


CAT = catalogue()
"""The usual one."""


def message(device: str, body: Any, at_s: float = 0, **columns: Any) -> dict[str, Any]:
    """Make a message row; ``at_s`` is its time of receipt in seconds after :data:`T0`."""
    payload = body if isinstance(body, bytes) else orjson.dumps(body)
    row = {
        "kind": Kind.MESSAGE, "received_at": T0 + round(at_s * SECOND), "gateway": "g", "network": "n",
        "route": "native", "device": device, "topic": f"qt/n/{device}/up", "payload": payload, "size": len(payload),
        "flags": 1, "packet_id": 0, "connection": 0, "properties": None, "refused": "", "digest": None,
        "redrive_of": None, "shift_us": None,
    }  # fmt: skip
    return row | columns


def reading(device: str, at_s: float, received_s: float | None = None, **values: Any) -> dict[str, Any]:
    """Make a message row with one object that claims ``at_s`` (seconds after :data:`T0`), received then too."""
    body = {"time": (T0 + round(at_s * SECOND)) // 1000, "readings": values}
    return message(device, body, at_s if received_s is None else received_s)


def tick(at_s: float, hearing: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Make a tick row; ``hearing`` gives for each route since when, in seconds after :data:`T0`."""
    heard = {"native": -1e6, "other": -1e6} if hearing is None else hearing
    body = {"hearing": {route: T0 + round(s * SECOND) for route, s in heard.items()}}
    return message("", body, at_s, kind=Kind.TICK, network="", route="", topic="", flags=0)


def command(at_s: float, name: str, who: str = "", **args: Any) -> dict[str, Any]:
    """Make a command row."""
    body = {"name": name, "who": who, "args": args}
    return message("", body, at_s, kind=Kind.COMMAND, network="", route="", topic="", flags=0)


def configure(at_s: float, version: str, **changes: Any) -> dict[str, Any]:
    """Make the command that tells catalogue, routes and limits in force."""
    return command(at_s, "configure", **{**CONFIG, "catalogue": version, **changes})


def batch_of(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Turn rows into one record batch."""
    arrays = []
    for spec in RAW_ROWS:
        values = [row[spec.name] for row in rows]
        if pa.types.is_dictionary(spec.type):
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(values, spec.type))
    return pa.RecordBatch.from_arrays(arrays, schema=RAW_ROWS)


def frame_of(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Encode rows as one raw frame."""
    clock_us = max(row["received_at"] for row in rows)
    return raw_frame([batch_of(rows)], gateway="g", catalogue=None, clock_us=clock_us)


@dataclass
class Result:
    """What came out, as dicts in the order of the raw rows; times are µs after :data:`T0`, NaN is None."""

    readings: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    manifest: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    process: Process | None = None

    def comparable(self) -> dict[str, list[str]]:
        """Everything as text; rows that one raw row caused have no order among themselves, but for alerts."""
        parts = {name: getattr(self, name) for name in ("readings", "events", "manifest", "rejected")}
        texts = {name: sorted(map(repr, rows)) for name, rows in parts.items()}
        return texts | {"alerts": list(map(repr, self.alerts))}

    def states(self, rule: str) -> list[tuple[str, int]]:
        """State and level of each transition of a rule."""
        return [(row["state"], row["level"]) for row in self.alerts if row["rule"] == rule]

    def flags(self, station_id: str, prop: str) -> dict[float, int]:
        """Newest flag of each reading of a main series, by its time in seconds after :data:`T0`."""
        mine = [r for r in self.readings if (r["station"], r["property"], r["channel"]) == (station_id, prop, "main")]
        return {r["time"] / SECOND: r["flag"] for r in sorted(mine, key=lambda r: r["revision"])}


def drive(
    rows: Sequence[Mapping[str, Any]],
    catalogues: Iterable[Catalogue],
    cuts: Iterable[int] = (),
    restores: Iterable[int] = (),
) -> Result:
    """Run rows through `process`.

    Args:
        rows: raw rows; the first must be a ``configure``.
        catalogues: all that the rows name.
        cuts: row numbers at which a new frame begins.
        restores: those cuts before which state is saved and taken up by a new process.
    """
    archive = {c.version: c for c in catalogues}
    edges = [0, *sorted({c for c in cuts if 0 < c < len(rows)}), len(rows)]
    process, result = Process(archive.__getitem__), Result()
    process.restore(None)
    saved: dict[str, bytes] = {}
    starts = []
    for offset, (start, stop) in enumerate(itertools.pairwise(edges)):
        if start in set(restores):
            put, drop = process.snapshot()
            saved = {name: data for name, data in (saved | put).items() if name not in drop}
            process = Process(archive.__getitem__)
            process.restore(saved)
        starts.append(start)
        outputs = process.apply(decode(frame_of(rows[start:stop])), offset)
        _collect(outputs, starts, start, result)
    result.process = process
    return result


def _collect(outputs: Outputs, starts: Sequence[int], start: int, result: Result) -> None:
    for stream, section in (
        (PROCESSED, "readings"), (PROCESSED, "events"), (PROCESSED, "manifest"), (ALERTS, "alerts"),
        (REJECTED, "rejected"),
    ):  # fmt: skip
        if stream not in outputs:
            continue
        found = decode(outputs[stream]).get(section)
        if found is None:
            continue
        columns = {name: _plain(found.column(name)) for name in found.schema.names}
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            for name in ("revision", "position"):
                if name in row:
                    row[name] = starts[row[name] >> 16] + (row[name] & 0xFFFF)
            if section == "manifest":
                row["row"] += start
            getattr(result, section).append(row)


def _plain(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [None if v is None else v - T0 for v in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_floating(column.type):
        return [None if v is None or math.isnan(v) else v for v in column.to_pylist()]
    return column.to_pylist()  # type: ignore[no-any-return]
