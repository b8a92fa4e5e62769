"""Reading wide points back: which InfluxQL asks for readings, and how its answer becomes one row a reading."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from qingtu.store.influx.lines import measurement_of
from qingtu.store.merging import Versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from qingtu.store.influx.client import InfluxClient

Key = tuple[str, str, str]
"""(station, property, channel)."""
FOREVER: Final = (-(1 << 62), 1 << 62)
"""A range of times in µs that holds all."""
_OWN: Final = (
    ("", "float", pa.float64()),
    ("_flag", "integer", pa.int64()),
    ("_tests", "integer", pa.int64()),
    ("_rev", "integer", pa.int64()),
    ("_known", "integer", pa.int64()),
    ("_n", "integer", pa.int64()),
    ("_void", "integer", pa.int64()),
)
_STATIONS: Final = 200
"""With more stations than this, all of a measurement are asked for: long conditions are dearer than their rows."""


def ident(name: str) -> str:
    """Write an InfluxQL identifier."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def text(value: str) -> str:
    """Write an InfluxQL string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def tags_of(series: str) -> dict[str, str]:
    """Take the tags out of a series key, as SHOW SERIES gives it."""
    pairs = [re.split(r"(?<!\\)=", part, maxsplit=1) for part in re.split(r"(?<!\\),", series)[1:]]
    return {name: re.sub(r"\\([,= ])", r"\1", value) for name, value in pairs}


def one_of(tag: str, values: Iterable[str]) -> str:
    """Write the condition that a tag has one of these values; an empty one is the absent tag."""
    return "(" + " OR ".join(f"{ident(tag)} = {text(value)}" for value in sorted(set(values))) + ")"


def between(start_us: int, end_us: int) -> str:
    """Write the condition that a time is in the range, end exclusive; cut to what InfluxDB can hold."""
    lowest, highest = -9_223_372_036_854_774, 9_223_372_036_854_774
    start, end = (min(max(us, lowest), highest) * 1000 for us in (start_us, end_us))
    return f"time >= {start} AND time < {end}"


@dataclass(frozen=True, slots=True)
class Found:
    """Readings as they are stored, shape (n,) each.

    Attributes:
        key: int32, index into the keys that were asked for.
        time: int64, µs UTC.
        versions: what stands there; ``cause`` is not known.
        steps: int64, how often the reading was replaced.
        void: bool, its number is withdrawn: a later one must say that it counts again.
    """

    key: NDArray[np.int32]
    time: NDArray[np.int64]
    versions: Versions
    steps: NDArray[np.int64]
    void: NDArray[np.bool_]

    def take(self, which: NDArray[Any]) -> Found:
        """Return some of them: a mask or places."""
        return Found(self.key[which], self.time[which], self.versions.take(which), self.steps[which], self.void[which])


def select(keys: Sequence[Key], condition: str, tail: str = "") -> tuple[str, dict[str, pa.DataType]]:
    """Build the question for keys of one measurement.

    Returns:
        the statement and the types of its columns, for :meth:`InfluxClient.table`.
    """
    props = sorted({prop for _, prop, _ in keys})
    columns: dict[str, pa.DataType] = {}
    parts = []
    for prop in props:
        for suffix, cast, kind in _OWN:
            parts.append(f"{ident(prop + suffix)}::{cast}")
            columns[prop + suffix] = kind
    for name in ("rev", "known"):
        parts.append(f"{name}::integer")
        columns[name] = pa.int64()
    for name in ("station", "channel"):
        parts.append(f"{name}::tag")
        columns[name] = pa.string()
    where = [condition, "(" + " OR ".join(f"{ident(prop + '_flag')} >= 0" for prop in props) + ")"]
    stations = {station for station, _, _ in keys}
    if len(stations) <= _STATIONS:
        where.append(one_of("station", stations))
    channels = {channel for _, _, channel in keys}
    where.append(one_of("channel", channels))
    measurement = ident(measurement_of(keys[0][1]))
    question = f"SELECT {', '.join(parts)} FROM {measurement} WHERE {' AND '.join(where)} {tail}"  # noqa: S608 - quoted
    return question.rstrip(), columns


def fetch(client: InfluxClient, bucket: str, keys: Sequence[Key], start_us: int, end_us: int, tail: str = "") -> Found:
    """Ask for the readings of keys in a range of times, end exclusive; in no order."""
    by: dict[str, list[int]] = {}
    for i, (_, prop, _) in enumerate(keys):
        by.setdefault(measurement_of(prop), []).append(i)
    parts = []
    for places in by.values():
        some = [keys[i] for i in places]
        statement, columns = select(some, between(start_us, end_us), tail)
        found = melt(client.table(bucket, statement, columns), some)
        parts.append(Found(np.array(places, np.int32)[found.key], *_rest(found)))
    return join(parts)


def melt(table: pa.Table, keys: Sequence[Key]) -> Found:
    """Turn wide points into one row a reading; what is not one of the keys, or not ours, is left out."""
    stations = {name: i for i, name in enumerate(dict.fromkeys(key[0] for key in keys))}
    channels = {name: i for i, name in enumerate(dict.fromkeys(key[2] for key in keys))}
    props = {name: i for i, name in enumerate(dict.fromkeys(key[1] for key in keys))}
    place = np.full((len(props), len(stations) + 1, len(channels) + 1), -1, np.int32)
    for i, (station, prop, channel) in enumerate(keys):
        place[props[prop], stations[station], channels[channel]] = i
    station_at = _codes(table.column("station"), stations)
    channel_at = _codes(table.column("channel"), channels)
    time = np.asarray(table.column("time"))
    rev, known = _whole(table, "rev", -1), _whole(table, "known", 0)
    parts = []
    for prop, number in props.items():
        flag = _whole(table, prop + "_flag", -1)
        key = place[number, station_at, channel_at]
        revision = _whole(table, prop + "_rev", -1)
        own = revision >= 0
        revision = np.where(own, revision, rev)
        rows = np.flatnonzero((flag >= 0) & (key >= 0) & (revision >= 0))
        value = table.column(prop).to_numpy()[rows].astype(np.float64)
        void = _whole(table, prop + "_void", 0)[rows] == 1
        value[void] = np.nan
        versions = Versions(
            value,
            flag[rows].astype(np.uint8),
            _whole(table, prop + "_tests", 0)[rows].astype(np.uint32),
            revision[rows],
            np.where(own, _whole(table, prop + "_known", 0), known)[rows],
            np.zeros(len(rows), np.uint8),
        )
        parts.append(Found(key[rows], time[rows], versions, _whole(table, prop + "_n", 0)[rows], void))
    return join(parts)


def join(parts: Sequence[Found]) -> Found:
    """Put findings behind each other."""
    if not parts:
        nothing = Versions(*(np.zeros(0, d) for d in ("f8", "u1", "u4", "i8", "i8", "u1")))
        return Found(
            np.zeros(0, np.int32), np.zeros(0, np.int64), nothing, np.zeros(0, np.int64), np.zeros(0, np.bool_)
        )
    versions = Versions(*(np.concatenate([getattr(p.versions, n) for p in parts]) for n in Versions.__slots__))
    key, time, steps, void = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("key", "time", "steps", "void")
    )
    return Found(key, time, versions, steps, void)


def _rest(found: Found) -> tuple[NDArray[np.int64], Versions, NDArray[np.int64], NDArray[np.bool_]]:
    return found.time, found.versions, found.steps, found.void


def _whole(table: pa.Table, name: str, absent: int) -> NDArray[np.int64]:
    return np.asarray(table.column(name).fill_null(absent))


def _codes(column: pa.ChunkedArray, numbers: dict[str, int]) -> NDArray[np.int64]:
    """Return the number of each name; what has none gets the one behind the last."""
    encoded = column.combine_chunks().fill_null("").dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    known = np.array([numbers.get(name, len(numbers)) for name in encoded.dictionary.to_pylist()], np.int64)
    out: NDArray[np.int64] = known[np.asarray(encoded.indices)] if len(encoded) else np.zeros(0, np.int64)
    return out
