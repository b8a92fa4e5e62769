"""Figures: what is the same keeps its first revision, what changed is a correction; and a copy in wide points."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa

from qingtu.properties import load_properties
from qingtu.store.influx.corrections import SLOTS, lane_of
from qingtu.store.influx.lines import fields, measurement_of, nanoseconds, tags
from qingtu.store.influx.rows import columns_of
from qingtu.store.influx.wide import between, one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qingtu.records import Frame
    from qingtu.settings import InfluxSettings
    from qingtu.store.influx.client import InfluxClient

_SIDE: Final = ("value", "count", "expected", "valid", "reason", "inputs", "revision", "known")
_LONG: Final = ("day", "week", "month", "season", "quarter", "year")
_STAT: Final = {"sum": "sum", "counter": "sum", "max": "max", "last": "last"}
"""Name of the statistic by the property's kind of aggregation; every other kind is a mean of some sort."""
_NAMES: Final = ("what", "station", "property", "channel")
VALUES: Final[Mapping[str, pa.DataType]] = {
    "value": pa.float64(), "count": pa.int64(), "expected": pa.int64(), "valid": pa.int64(), "reason": pa.string(),
    "inputs": pa.string(), "revision": pa.int64(), "known": pa.int64(), "n": pa.int64(), "void": pa.int64(),
}  # fmt: skip
CHANGES: Final[Mapping[str, pa.DataType]] = {
    f"{side}_{name}": kind
    for side in ("old", "new")
    for name, kind in (
        ("value", pa.float64()), ("count", pa.int64()), ("valid", pa.int64()), ("inputs", pa.string()),
        ("expected", pa.int64()), ("reason", pa.string()), ("revision", pa.int64()), ("known", pa.int64()),
    )
}  # fmt: skip
_CAST: Final = {pa.float64(): "float", pa.int64(): "integer", pa.string(): "string"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; units as in ``FIGURE_ROWS``; ``n`` is how often it was replaced."""

    value: float | None
    count: int
    expected: int
    valid: int
    reason: str
    inputs: str
    revision: int
    known: int
    n: int = 0

    def same(self, other: Figure) -> bool:
        """Say whether both tell the same."""
        return self._published() == other._published()

    def _published(self) -> tuple[Any, ...]:
        return self.value, self.count, self.expected, self.valid, self.reason, stats_of(self.inputs)


def stats_of(inputs: str) -> dict[str, Any]:
    """Return the statistics that are published beside a figure's value."""
    found: dict[str, Any] = (orjson.loads(inputs) if inputs else {}).get("stats", {})
    return found


_STATIONS: Final = 200
INDEX: Final = "index"
"""Measurement of the wide copy of indices."""
Key = tuple[str, str, str, str, int]
"""(what, station, property, channel, start)."""


def bucket_of(what: str, settings: InfluxSettings) -> str:
    """Return the bucket that keeps a figure: daily for periods of a day and more."""
    return settings.daily if what.startswith(_LONG) else settings.hourly


def columns(values: Mapping[str, pa.DataType]) -> tuple[str, dict[str, pa.DataType]]:
    """Return what to select for figures or their corrections, and the types of the answer."""
    selected = [f'"{name}"::{_CAST[kind]}' for name, kind in values.items()]
    names = (*_NAMES, "lane") if values is CHANGES else _NAMES
    return ", ".join([*selected, *(f'"{n}"::tag' for n in names)]), {**values, **dict.fromkeys(names, pa.string())}


class FigureWriter:
    """Works out what figures change, and writes them.

    Args:
        client: the server.
        settings: names of buckets.
    """

    def __init__(self, client: InfluxClient, settings: InfluxSettings) -> None:
        self._client = client
        self._settings = settings

    def lines(self, frames: Sequence[Frame]) -> dict[str, list[str]]:
        """Return lines by bucket: corrections before what they replaced.

        Args:
            frames: in order; the oldest revision in them tells what a commit that was cut off has left.

        Raises:
            RetryLater: what is stored cannot be read now.
        """
        made: list[tuple[Key, Figure]] = []
        for frame in frames:
            named = columns_of(frame.sections["figures"])
            made += [_figure(dict(zip(named, row, strict=True))) for row in zip(*named.values(), strict=True)]
        if not made:
            return {}
        # A frame may hold a window again: what each tick made replaces what the one before had made.
        made.sort(key=lambda one: one[1].revision)
        now = self._before([key for key, _ in made], made[0][1].revision)
        corrections: dict[str, list[str]] = {}
        changed: dict[Key, Figure] = {}
        for key, figure in made:
            old = now.get(key)
            if old is not None and old.same(figure):
                continue
            n = 0 if old is None else old.n + 1
            if old is not None:
                bucket = bucket_of(key[0], self._settings)
                corrections.setdefault(bucket, []).append(_correction(key, old, figure, old.n))
            now[key] = changed[key] = replace(figure, n=n)
        out = corrections
        for key, figure in changed.items():
            out.setdefault(bucket_of(key[0], self._settings), []).extend((_line(key, figure), _wide(key, figure)))
        return out

    def _before(self, keys: Sequence[Key], base: int) -> dict[Key, Figure]:
        """Return what stood under keys before these frames."""
        by: dict[str, list[Key]] = {}
        for key in keys:
            by.setdefault(bucket_of(key[0], self._settings), []).append(key)
        out: dict[Key, Figure] = {}
        for bucket, some in by.items():
            wanted = set(some)
            rows = {key: row for row in self._ask(bucket, "figures", some, VALUES) if (key := _key(row)) in wanted}
            out.update({key: _stored(row) for key, row in rows.items() if row["revision"] < base})
            if again := [key for key, row in rows.items() if row["revision"] >= base]:
                out.update(self._cut_off(bucket, again, base))
        return out

    def _cut_off(self, bucket: str, keys: Sequence[Key], base: int) -> dict[Key, Figure]:
        """Return what stood under keys before a commit that was cut off: see :mod:`qingtu.store.influx.existing`."""
        wanted, earliest = set(keys), dict[Key, Any]()
        for row in self._ask(bucket, "figure_corrections", keys, CHANGES, f"new_revision >= {base}"):
            row["n"] = int(row["lane"] or 0) * SLOTS + row["slot"]
            if (key := _key(row)) in wanted and (key not in earliest or row["n"] < earliest[key]["n"]):
                earliest[key] = row
        return {key: _side_of(row, "old_") for key, row in earliest.items() if row["old_revision"] < base}

    def _ask(
        self, bucket: str, measurement: str, keys: Sequence[Key], values: Mapping[str, pa.DataType], also: str = ""
    ) -> Iterable[dict[str, Any]]:
        starts = [key[4] for key in keys]
        where = [between(min(starts), max(starts) + 1), one_of("property", (key[2] for key in keys))]
        if len({key[1] for key in keys}) <= _STATIONS:
            where.append(one_of("station", (key[1] for key in keys)))
        if also:
            where.append(also)
        selected, types = columns(values)
        question = f"SELECT {selected} FROM {measurement} WHERE {' AND '.join(where)}"  # noqa: S608 - quoted
        rows: list[dict[str, Any]] = self._client.table(bucket, question, types).to_pylist()
        return rows


def _key(row: Mapping[str, Any]) -> Key:
    what, station, prop, channel = (row[name] or "" for name in _NAMES)
    return what, station, prop, channel, row["time"]


def _stored(row: Mapping[str, Any]) -> Figure:
    """Read a figure: the number of one that has none any more is still there, and marked as void."""
    figure = _side_of(row, "")
    return replace(figure, value=None) if row["void"] else figure


def _side_of(row: Mapping[str, Any], prefix: str) -> Figure:
    """Read a figure from columns; in CSV an empty string looks like none at all."""
    side: dict[str, Any] = {name: row[prefix + name] for name in _SIDE}
    return Figure(**{**side, "reason": side["reason"] or "", "inputs": side["inputs"] or ""}, n=row["n"])


def _figure(row: Mapping[str, Any]) -> tuple[Key, Figure]:
    value = None if row["value"] is None or math.isnan(row["value"]) else row["value"]
    figure = Figure(
        value, row["count"], row["expected"], int(row["valid"]), row["reason"] or "", row["inputs"] or "",
        row["revision"], row["known_at"],
    )  # fmt: skip
    return (row["what"], row["station"], row["property"], row["channel"], row["start"]), figure


def _tags(key: Key) -> str:
    return tags(what=key[0], station=key[1], property=key[2], channel=key[3])


def _line(key: Key, figure: Figure) -> str:
    body = fields(**asdict(figure), void=figure.value is None)
    return f"figures{_tags(key)} {body} {nanoseconds(key[4])}"


def _correction(key: Key, old: Figure, new: Figure, n: int) -> str:
    names = _tags(key) + tags(lane=lane_of(n))
    both = {f"old_{k}": v for k, v in asdict(old).items() if k != "n"}
    both |= {f"new_{k}": v for k, v in asdict(new).items() if k != "n"}
    return f"figure_corrections{names} {fields(**both)} {nanoseconds(key[4], n % SLOTS)}"


def _wide(key: Key, figure: Figure) -> str:
    """Write the copy for dashboards: all figures, or all indices, of a station and period in one point."""
    what, station, prop, channel, start = key
    period, _, stat = what.partition("_")
    if stat == "index":
        parts = {
            prop: figure.value, f"{prop}_count": figure.count, f"{prop}_expected": figure.expected,
            f"{prop}_valid": figure.valid,
            **{f"{prop}_{name}": value for name, value in stats_of(figure.inputs).items()},
        }  # fmt: skip
        return f"{INDEX}{tags(period=period, station=station)} {fields(**parts)} {nanoseconds(start)}"
    known = load_properties().get(prop)
    # A statistic that is a figure of its own, such as day_ld, has a count and validity of its own, too.
    own = f"{prop}_{stat}" if stat else prop
    stat = stat or ("mean" if known is None else _STAT.get(known.agg, "mean"))
    body = fields(
        **{
            f"{prop}_{stat}": figure.value, f"{own}_count": figure.count, f"{own}_expected": figure.expected,
            f"{own}_valid": figure.valid,
            **{f"{own}_{name}": value for name, value in stats_of(figure.inputs).items()},
        }
    )  # fmt: skip
    return f"{measurement_of(prop)}_{period}{tags(station=station, channel=channel)} {body} {nanoseconds(start)}"
