"""Reading from InfluxDB: the same answers as from DuckDB.

Alerts are few: their rows are fetched and asked with the very SQL that DuckDB answers, so that both stores cannot
differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import duckdb
import pyarrow as pa

from qingtu.clock import iso
from qingtu.contracts import FigureQuery
from qingtu.errors import QingtuError, StartError
from qingtu.store.influx.events import COLUMNS as EVENT_COLUMNS
from qingtu.store.influx.events import SELECTED as EVENT_SELECTED
from qingtu.store.influx.promotions import PromoteState, promotions, replayed
from qingtu.store.influx.published import corrections_since, figures_as_of
from qingtu.store.influx.quarantined import QuarantineQueries
from qingtu.store.influx.reading import ReadingQueries
from qingtu.store.influx.wide import FOREVER, between, text
from qingtu.store.queries import ALERTS_NOW, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.store.influx.promotions import Promotion

_ALERT: Final = {
    **dict.fromkeys(("alert", "state", "evidence", "who", "note"), ("string", pa.string())),
    **dict.fromkeys(("level", "opened", "revision", "known", "seq"), ("integer", pa.int64())),
    **dict.fromkeys(("value", "limit"), ("float", pa.float64())),
    **dict.fromkeys(("station", "property", "channel", "rule"), ("tag", pa.string())),
}


class InfluxQueries(ReadingQueries, QuarantineQueries):
    """The reading half of :class:`qingtu.store.influx.store.InfluxStore`. Any thread may call.

    Raises:
        RetryLater: of every method, when the server does not answer now.
    """

    def replay_of(self, key: tuple[str, str, str], time_us: int, revision: int) -> dict[str, Any] | None:
        """Return by which promote a reading got a value; see :meth:`qingtu.store.queries.Queries.replay_of`."""
        found = replayed(self._client, self._settings.bucket, [key], time_us, time_us + 1, revision)
        if not found:
            return None
        row = found[0]
        act = (row["partition"], revision)
        by = [one for one in promotions(self._client, self._settings.daily) if (one.partition, one.revision) == act]
        if not by:
            return None
        return {
            "origin": row["origin"], "partition": row["origin_partition"], "name": by[0].name,
            "catalogue": by[0].catalogue, "promoted_us": by[0].promoted_us,
        }  # fmt: skip

    def unfinished(self) -> list[Promotion]:
        """Return the promotes that have begun and are not done: one for each partition."""
        return [one for one in promotions(self._client, self._settings.daily) if one.state == PromoteState.BEGUN]

    def refuse_unfinished(self) -> None:
        """Refuse to go on from a state that is half of a promote.

        Raises:
            StartError: a promote has begun and is not done; the message says how to finish it.
        """
        for one in self.unfinished():
            raise StartError(
                f"回放 {one.name} 的发布未完成 / the promote of {one.name}, begun {iso(one.promoted_us)} by {one.who}, "
                f"is not done, InfluxDB holds a part of it: finish it with 'qingtu replay {one.name} --promote' and "
                f"the data folder that has generations/{one.name}; docs/replay.md"
            )

    # ------------------------------------------------------------------------------------------ figures and events

    def figures(
        self, station: str, prop: str, start_us: int, end_us: int, *, channel: str = "main", what: str | None = None,
        known_by_us: int | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return figures of a series; see :meth:`qingtu.store.queries.Queries.figures`."""
        query = FigureQuery([(station, prop, channel)], start_us, end_us, what=what, known_by_us=known_by_us)
        rows: list[dict[str, Any]] = self.figures_of(query).drop(["series"]).to_pylist()
        return rows

    def figures_of(self, query: FigureQuery) -> pa.Table:
        """Return figures in order of series, start and what; see :meth:`qingtu.contracts.Store.figures_of`."""
        return figures_as_of(self._client, self._settings, query)

    def figure_corrections(
        self, since_us: int = 0, limit: int = 1000, *, station: str | None = None, prop: str | None = None,
        what: str | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return corrections; see :meth:`qingtu.store.queries.Queries.figure_corrections`."""
        wanted = {"station": station, "property": prop, "what": what}
        return corrections_since(self._client, self._settings, since_us, limit, wanted)

    def events(self, start_us: int, end_us: int, limit: int = 1000) -> list[dict[str, Any]]:
        """Return events in a time range, newest first."""
        where = between(max(start_us, self._kept_from()), end_us)
        question = f"SELECT {EVENT_SELECTED} FROM event WHERE {where} ORDER BY time DESC LIMIT {int(limit)}"  # noqa: S608
        return [
            {
                "station": row["station"] or "", "kind": row["kind"] or "", "level": row["level"], "time": row["time"],
                "attributes": row["attributes"] or "", "revision": row["revision"], "known_at": row["known"],
            }
            for row in self._client.table(self._settings.bucket, question, EVENT_COLUMNS).to_pylist()
            if row["revision"] is not None
        ]  # fmt: skip

    # ------------------------------------------------------------------------------------------------------ alerts

    def alerts(self, *, active: bool, limit: int = 500) -> list[dict[str, Any]]:
        """Return alerts as their last transition left them; the highest unacknowledged level first."""
        where = "WHERE state IN ('open', 'acknowledged')" if active else ""
        return self._alerts_by(self._transitions(), where, [limit])

    def alert_now(self, alert: str) -> dict[str, Any] | None:
        """Return one alert as :meth:`alerts` does, or None when there is no such alert."""
        found = self._alerts_by(self._transitions(f"alert = {text(alert)}"), "", [1])
        return found[0] if found else None

    def alert(self, alert: str) -> list[dict[str, Any]]:
        """Return the transitions of one alert, oldest first; empty when there is no such alert."""
        found = self._transitions(f"alert = {text(alert)}").drop(["slot"])
        renamed = {"opened": "opened_at", "known": "known_at"}
        rows: list[dict[str, Any]] = found.rename_columns([renamed.get(n, n) for n in found.column_names]).to_pylist()
        return rows

    def alerts_of(self, station: str, prop: str, revision: int) -> list[dict[str, Any]]:
        """Return the alert transitions that a raw row caused."""
        found = self._transitions(f'"station" = {text(station)} AND revision = {int(revision)}').to_pylist()
        names = ("alert", "rule", "state", "level", "time", "value", "limit")
        return [{name: row[name] for name in names} for row in found if row["property"] in (prop, "")]

    def _transitions(self, condition: str = "seq >= 0") -> pa.Table:
        """Return transitions in their order; absent text is "", an absent value NaN."""
        selected = ", ".join(f'"{name}"::{cast}' for name, (cast, _) in _ALERT.items())
        question = f"SELECT {selected} FROM alert WHERE {condition} AND {between(*FOREVER)}"  # noqa: S608 - quoted
        table = self._client.table(self._settings.daily, question, {name: kind for name, (_, kind) in _ALERT.items()})
        for name, (_, kind) in _ALERT.items():
            if pa.types.is_integer(kind):
                continue
            empty: Any = "" if pa.types.is_string(kind) else float("nan")
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, table.column(name).fill_null(empty))
        return table.sort_by("seq")

    @staticmethod
    def _alerts_by(table: pa.Table, where: str, args: list[Any]) -> list[dict[str, Any]]:
        stamps = {"time": "time", "opened": "opened_at"}
        for name, new in stamps.items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, new, table.column(name).cast(pa.timestamp("us")))
        with duckdb.connect() as db:
            db.register("alerts", table)
            return rows_of(db, ALERTS_NOW.format(where=where), args)

    def backup(self, path: Path) -> None:
        """Refuse: a copy of the database belongs to the database's own tools.

        Raises:
            QingtuError: with the commands to run.
        """
        raise QingtuError(
            f"InfluxDB 用自己的工具备份 / {path.name} is not written: back the server up with `influx backup FOLDER` "
            "(all buckets, operator token) and the bus's state with it; see docs/influxdb.md"
        )

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()
