"""A picture of what InfluxDB holds of a span of time, as a DuckDB store: for those who must change what they look at.

Only reads. Rows that are written meanwhile may be in it or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from qingtu.clock import DAY
from qingtu.store.books import COLUMNS
from qingtu.store.duckdb import DuckStore
from qingtu.store.influx.corrections import fetch_corrections
from qingtu.store.influx.promotions import promotions, replayed
from qingtu.store.influx.published import figures_between
from qingtu.store.influx.quarantine import ENTRY, ENTRY_SELECTED
from qingtu.store.influx.queries import InfluxQueries
from qingtu.store.influx.wide import Found, between, fetch
from qingtu.store.schema import REPLAY_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qingtu.store.influx.corrections import Corrections
    from qingtu.store.influx.wide import Key

_AROUND: Final = {"hourly": 2 * DAY, "daily": 400 * DAY}
"""So far around the span figures are taken: a day is made of its hours, a year of its days or months."""
_TIMES: Final = ("time", "start", "received_at", "opened_at", "known_at", "old_known_at", "promoted_at")
_PROMOTION: Final = ("revision", "name", "catalogue", "low", "high", "partition")
_BOOK: Final = ("position", "network", "hour", "decoded", "refused", "outcome", "moved_by")


class Image(InfluxQueries):
    """Draws pictures of what others write; see :class:`qingtu.store.influx.store.InfluxStore`."""

    def draw(self, path: Path, span: tuple[int, int], received: tuple[int, int]) -> None:
        """Write a DuckDB store.

        Args:
            path: a file that is not there yet.
            span: readings, their corrections and events of these times, µs UTC, end exclusive; figures also around it.
            received: refused messages with these times of receipt, µs UTC, end exclusive. Alerts and books are whole.

        Raises:
            RetryLater: the server does not answer now.
            StartError: a promote into the server has begun and is not done.
        """
        self.refuse_unfinished()
        DuckStore(path).close()
        with duckdb.connect(str(path)) as db:
            db.execute(REPLAY_TABLES)
            for name, table in self._tables(span, received):
                for at, column in enumerate(table.column_names):
                    if column in _TIMES:
                        table = table.set_column(at, column, table.column(column).cast(pa.timestamp("us")))  # noqa: PLW2901
                if not table.num_columns:  # of an empty list
                    continue
                db.register("drawn", table)
                db.execute(f"INSERT INTO {name} BY NAME FROM drawn")
                db.unregister("drawn")

    def _tables(self, span: tuple[int, int], received: tuple[int, int]) -> Iterator[tuple[str, pa.Table]]:
        yield from self._readings(max(span[0], self._kept_from()), span[1])
        yield "events", _listed(self.events(*span, limit=1 << 31))
        for tier, around in _AROUND.items():
            bucket = getattr(self._settings, tier)
            yield "figures", _listed(figures_between(self._client, bucket, span[0] - around, span[1] + around))
        alerts = self._transitions().drop(["slot"])
        renamed = {"opened": "opened_at", "known": "known_at"}
        yield "alerts", alerts.rename_columns([renamed.get(name, name) for name in alerts.column_names])
        when = between(*received)
        question = f"SELECT {ENTRY_SELECTED} FROM quarantine WHERE {when}"  # noqa: S608 - numbers only
        entries = self._client.table(self._settings.daily, question, ENTRY).to_pylist()
        yield (
            "quarantine_book",
            _listed(
                [
                    {"partition": int(row["partition"]), **{n: row[n] for n in _BOOK}, "network": row["network"] or ""}
                    for row in entries
                    if row["position"] is not None
                ]
            ),
        )
        yield "rejected", _listed(self._whole(f"WHERE {when}"))
        yield "ledger", self._books()
        yield "progress", _listed(self._progress_rows())
        promoted = promotions(self._client, self._settings.daily)
        yield (
            "promotions",
            _listed([{"promoted_at": p.promoted_us, **{n: getattr(p, n) for n in _PROMOTION}} for p in promoted]),
        )

    def _progress_rows(self) -> list[dict[str, Any]]:
        return [
            {"stream": stream, "partition": partition, "next_offset": row["next_offset"], "origin": row["origin"]}
            for (stream, partition), row in self._progresses().items()
        ]

    def _readings(self, start_us: int, end_us: int) -> Iterator[tuple[str, pa.Table]]:
        keys: list[Key] = []
        for some in self._stored_series():
            found = fetch(self._client, self._settings.bucket, some, start_us, end_us)
            chain = fetch_corrections(self._client, self._settings.bucket, some, start_us, end_us)
            yield "readings", _reading_table(found, len(keys))
            yield "corrections", _correction_table(_counted(found, chain), len(keys))
            origins = replayed(self._client, self._settings.bucket, some, start_us, end_us)
            yield "replayed", _listed([{"series": row.pop("key") + len(keys), **row} for row in origins])
            keys += some
        columns = zip(*keys, strict=True) if keys else ((), (), ())
        names = dict(zip(("station", "property", "channel"), (pa.array(c, pa.string()) for c in columns), strict=True))
        yield "series", pa.table({"id": pa.array(range(len(keys)), pa.int32()), **names})

    def _books(self) -> pa.Table:
        sums: dict[tuple[str, int], Any] = {}
        for key, counts in self._told_ledger(frozenset())[1]:
            sums[key] = sums.get(key, 0) + counts
        return _listed(
            [
                {"network": network, "hour": hour, **dict(zip(COLUMNS, counts.tolist(), strict=True))}
                for (network, hour), counts in sums.items()
            ]
        )


def _listed(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows)


def _reading_table(found: Found, first: int) -> pa.Table:
    v = found.versions
    columns: dict[str, Any] = {"series": found.key + np.int32(first), "time": found.time}
    columns |= {"value": pa.array(v.value, mask=np.isnan(v.value)), "flag": v.flag, "tests": v.tests}
    return pa.table({**columns, "revision": v.revision, "known_at": v.known_us})


def _counted(found: Found, chain: Corrections) -> Corrections:
    """Leave out corrections of a commit that was cut off: the reading counts how many it has had."""
    steps = dict(zip(zip(found.key.tolist(), found.time.tolist(), strict=True), found.steps.tolist(), strict=True))
    of = zip(chain.key.tolist(), chain.time.tolist(), chain.step.tolist(), strict=True)
    return chain.take(np.array([step < steps.get((key, time), 0) for key, time, step in of], np.bool_))


def _correction_table(chain: Corrections, first: int) -> pa.Table:
    columns: dict[str, Any] = {"series": chain.key + np.int32(first), "time": chain.time}
    for side, v in (("old", chain.old), ("new", chain.new)):
        columns |= {
            f"{side}_value": pa.array(v.value, mask=np.isnan(v.value)), f"{side}_flag": v.flag,
            f"{side}_tests": v.tests, f"{side}_revision": v.revision,
        }  # fmt: skip
    columns |= {"old_known_at": chain.old.known_us, "known_at": chain.new.known_us, "cause": chain.new.cause}
    return pa.table(columns)
