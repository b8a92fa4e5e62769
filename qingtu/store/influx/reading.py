"""Reading readings from InfluxDB: wide points are taken apart with numpy, corrections taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from qingtu.properties import load_properties
from qingtu.store.influx.client import rows_of_csv
from qingtu.store.influx.corrections import fetch_corrections
from qingtu.store.influx.export import export_readings
from qingtu.store.influx.told import Told
from qingtu.store.influx.wide import FOREVER, Found, between, fetch, ident, join, melt, select, tags_of, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qingtu.contracts import ReadingQuery
    from qingtu.store.influx.wide import Key

_COUNTED: Final = {
    "corrections": ("bucket", "corrections", "new_revision"),
    "events": ("bucket", "event", "revision"),
    "alerts": ("daily", "alert", "revision"),
    "rejected": ("daily", "rejected", "position"),
    "quarantine_book": ("daily", "quarantine", "position"),
}
"""Table of DuckDB → bucket, measurement and a field that each of its points has."""


class ReadingQueries(Told):
    """Questions about readings."""

    def readings(self, query: ReadingQuery) -> pa.Table:
        """Return readings in order of series and time; see :meth:`qingtu.store.queries.Queries.readings`."""
        keys = list(dict.fromkeys(query.series))
        start = max(query.start_us, self._kept_from())
        found = self._current(keys, query, start)
        if query.limit is not None and len(found.time) > query.limit:
            found = found.take(np.argsort(found.time, kind="stable")[len(found.time) - query.limit :])
        place = {key: i for i, key in enumerate(query.series)}
        series = np.array([place[key] for key in keys], np.int32)[found.key]
        order = np.lexsort((found.time, series))
        v = found.versions.take(order)
        return pa.table(
            {
                "series": pa.array(series[order]),
                "time": pa.array(found.time[order]),
                "value": pa.array(v.value, mask=np.isnan(v.value)),
                "flag": pa.array(v.flag),
                "tests": pa.array(v.tests),
                "revision": pa.array(v.revision),
                "known_at": pa.array(v.known_us),
            }
        )

    def _current(self, keys: Sequence[Key], query: ReadingQuery, start: int) -> Found:
        """Return readings as they were known: current rows, less later corrections."""
        if not keys or start >= query.end_us:
            return join([])
        if query.as_of is None and query.known_by_us is None:
            tail = "" if query.limit is None else f"ORDER BY time DESC LIMIT {int(query.limit)}"
            return fetch(self._client, self._settings.bucket, keys, start, query.end_us, tail)
        now = fetch(self._client, self._settings.bucket, keys, start, query.end_us)
        if query.as_of is not None:
            at = query.as_of
            now = now.take(now.versions.revision <= at)
            also = f"old_revision <= {at} AND new_revision > {at}"
        else:
            at = query.known_by_us or 0
            now = now.take(now.versions.known_us <= at)
            also = f"old_known <= {at} AND known > {at}"
        replaced = fetch_corrections(self._client, self._settings.bucket, keys, start, query.end_us, also)
        none = np.zeros(len(replaced.time), np.int64)
        old = Found(replaced.key, replaced.time, replaced.old, none, none > 0)
        both = join([now, old])
        # Clocks are set back: of several that were known, the greatest revision counts.
        order = np.lexsort((both.versions.revision, both.time, both.key))
        both = both.take(order)
        last = np.ones(len(order), np.bool_)
        last[:-1] = (both.key[1:] != both.key[:-1]) | (both.time[1:] != both.time[:-1])
        return both.take(last)

    def latest(self) -> pa.Table:
        """Return the newest reading of every series: station, property, channel, and columns as :meth:`readings`."""
        parts = [_named([], join([]))]
        when = between(max(self._kept_from(), 0), FOREVER[1])
        for keys in self._stored_series():
            statement, types = select(keys, when, "GROUP BY station, channel ORDER BY time DESC LIMIT 1")
            found = melt(self._client.table(self._settings.bucket, statement, types), keys)
            parts.append(_named(keys, found))
        return pa.concat_tables(parts)

    def reading(self, key: Key, time_us: int) -> dict[str, Any] | None:
        """Return one reading with its corrections, newest last, or None."""
        found = fetch(self._client, self._settings.bucket, [key], time_us, time_us + 1)
        if not len(found.time) or time_us < self._kept_from():
            return None
        v = found.versions
        chain = fetch_corrections(self._client, self._settings.bucket, [key], time_us, time_us + 1)
        steps = []
        for i in range(min(len(chain.time), int(found.steps[0]))):
            old, new = chain.old, chain.new
            steps.append(
                {
                    "old_value": _value(old.value[i]), "old_flag": int(old.flag[i]), "old_tests": int(old.tests[i]),
                    "old_revision": int(old.revision[i]), "old_known_at": int(old.known_us[i]),
                    "new_value": _value(new.value[i]), "new_flag": int(new.flag[i]), "new_tests": int(new.tests[i]),
                    "new_revision": int(new.revision[i]), "known_at": int(new.known_us[i]), "cause": int(new.cause[i]),
                }
            )  # fmt: skip
        return {
            "series": 0, "time": time_us, "value": _value(v.value[0]), "flag": int(v.flag[0]),
            "tests": int(v.tests[0]), "revision": int(v.revision[0]), "known_at": int(v.known_us[0]),
            "corrections": steps,
        }  # fmt: skip

    def export(self, path: Path, start_us: int, end_us: int, *, fmt: str = "parquet") -> int:
        """Write readings with names to a Parquet or CSV file; see :meth:`qingtu.store.queries.Queries.export`."""
        keys = [key for some in self._stored_series() for key in some]
        start = max(start_us, self._kept_from())
        return export_readings(self._client, self._settings.bucket, keys, path, (start, end_us), fmt)

    def _stored_properties(self) -> dict[str, list[str]]:
        """Return measurement → properties that have readings in it, foreign fields left out."""
        known = load_properties()
        out: dict[str, list[str]] = {}
        for row in rows_of_csv(self._client.query(self._settings.bucket, "SHOW FIELD KEYS")):
            prop = row["fieldKey"].removesuffix("_flag")
            spec = known.get(prop)
            if row["fieldKey"].endswith("_flag") and spec is not None and spec.domain == row["name"]:
                out.setdefault(row["name"], []).append(prop)
        return out

    def _stored_series(self) -> Iterator[list[Key]]:
        """Give the series that may hold readings, of one property at a time."""
        for measurement, props in self._stored_properties().items():
            asked = f"SHOW SERIES FROM {ident(measurement)} WHERE \"station\" != '' AND \"channel\" != ''"
            found = [tags_of(row["key"]) for row in rows_of_csv(self._client.query(self._settings.bucket, asked))]
            places = sorted((t["station"], t["channel"]) for t in found if set(t) == {"station", "channel"})
            for prop in props if places else ():
                yield [(station, prop, channel) for station, channel in places]

    def knows(self, station: str) -> bool:
        """Return whether anything that is stored names a station; its index of tags tells, no row is read."""
        if not station:  # alerts of no station
            return False
        asked = f'SHOW SERIES WHERE "station" = {text(station)} LIMIT 1'
        buckets = dict.fromkeys((self._settings.bucket, *self._tiers()))
        return any(rows_of_csv(self._client.query(bucket, asked)) for bucket in buckets)

    def count(self, table: str) -> int:
        """Return the number of rows of one of the tables that DuckDB has, too."""
        if table == "readings":
            return self._count_readings()
        if table in ("figures", "figure_corrections"):
            value = "revision" if table == "figures" else "new_revision"
            return sum(self._count(bucket, table, [value]) for bucket in self._tiers())
        if table not in _COUNTED:
            raise ValueError(f"{table!r} is not the name of a table")
        bucket, measurement, value = _COUNTED[table]
        return self._count(getattr(self._settings, bucket), measurement, [value])

    def _count_readings(self) -> int:
        total = 0
        for measurement, props in self._stored_properties().items():
            total += self._count(self._settings.bucket, measurement, [f"{prop}_flag" for prop in props])
        return total

    def _count(self, bucket: str, measurement: str, names: Sequence[str]) -> int:
        selected = ", ".join(f"count({ident(name)}::integer)" for name in names)
        since = self._kept_from() if bucket == self._settings.bucket else FOREVER[0]
        question = f"SELECT {selected} FROM {ident(measurement)} WHERE {between(since, FOREVER[1])}"  # noqa: S608
        return sum(
            int(row[n])
            for row in rows_of_csv(self._client.query(bucket, question))
            for n in row
            if n.startswith("count")
        )

    def _tiers(self) -> list[str]:
        return list(dict.fromkeys((self._settings.hourly, self._settings.daily)))


def _value(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _named(keys: Sequence[Key], found: Found) -> pa.Table:
    v = found.versions
    names = [pa.array([key[i] for key in keys], pa.string()).take(pa.array(found.key)) for i in range(3)]
    return pa.table(
        {
            "station": names[0], "property": names[1], "channel": names[2],
            "time": found.time, "value": pa.array(v.value, mask=np.isnan(v.value)), "flag": v.flag, "tests": v.tests,
            "revision": v.revision, "known_at": v.known_us,
        }
    )  # fmt: skip
