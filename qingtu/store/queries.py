"""Reading from the DuckDB store: ranges, as-of, latest, figures, alerts, quarantine, corrections, export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from qingtu.contracts import FigureQuery
from qingtu.records import RAW_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import duckdb

    from qingtu.contracts import ReadingQuery
    from qingtu.store.names import SeriesNames

_NOW: Final = "SELECT series, time, value, flag, tests, revision, known_at FROM readings"
_RFC_3339: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
_COLUMNS: Final = "series, epoch_us(time) AS time, value, flag, tests, revision, epoch_us(known_at) AS known_at"

_REPLAY_OF: Final = """
SELECT p.origin, p.origin_partition AS partition, m.name, m.catalogue, epoch_us(m.promoted_at) AS promoted_us
FROM replayed p JOIN series s ON s.id = p.series
JOIN promotions m ON m.revision = p.revision AND m.partition = p.partition
WHERE s.station = ? AND s.property = ? AND s.channel = ? AND p.time = ? AND p.revision = ?
"""

_NAMING: Final = ("series", "events", "figures", "alerts")
_NAMED: Final = " UNION ALL ".join(f"(SELECT 1 FROM {table} WHERE station = ? LIMIT 1)" for table in _NAMING)  # noqa: S608
"""Whether a table names a station; series stay when the readings of long ago are gone."""

_MESSAGE: Final = "coalesce(r.redrive_of, r.position)"
_BOOKED: Final = f"quarantine_book b ON b.partition = r.partition AND b.position = {_MESSAGE}"
# A row behind the one that decided last decides later, or never: its message had left before it was driven again.
_DECIDED: Final = f"r.kind = 0 AND r.position <= greatest(b.moved_by, {_MESSAGE})"
_REFUSED: Final = (
    "SELECT r.* EXCLUDE (received_at), epoch_us(r.received_at) AS received_at, b.outcome, b.moved_by "  # noqa: S608
    f"FROM rejected r LEFT JOIN {_BOOKED}"
)
NEWEST: Final = f"""
SELECT r.partition, {_MESSAGE} AS message, max(r.position) AS position
FROM {{of}}rejected r LEFT JOIN {{of}}{_BOOKED} WHERE {_DECIDED} GROUP BY ALL
"""  # noqa: S608
"""The raw row that says today why a message was refused: its own, or the last one that drove it again in vain.

A promote decides, too, and has no row here; it replaces those of the message. ``of`` names an attached database.
"""
_NEWEST: Final = NEWEST.format(of="")
IN_QUARANTINE: Final = (
    f"FROM quarantine_book b JOIN ({_NEWEST}) n ON n.partition = b.partition AND n.message = b.position "
    "JOIN rejected r ON r.partition = n.partition AND r.position = n.position WHERE b.outcome = 3"
)
"""Messages that are in quarantine now, each with its newest refusal."""


class Queries:
    """The reading half of :class:`qingtu.store.duckdb.DuckStore`. Any thread may call."""

    _names: SeriesNames

    def cursor(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Lend a cursor; implemented by the store."""
        raise NotImplementedError

    def readings(self, query: ReadingQuery) -> pa.Table:
        """Return readings in order of series and time.

        Returns:
            columns series (int32, index into ``query.series``), time, value (null: missing), flag, tests, revision,
            known_at; times in µs UTC as int64.
        """
        wanted = [(i, self._names.number(key)) for i, key in enumerate(query.series)]
        known = [(i, number) for i, number in wanted if number is not None]
        numbers = pa.table(
            {
                "place": pa.array([i for i, _ in known], pa.int32()),
                "number": pa.array([number for _, number in known], pa.int32()),
            }
        )
        span: list[Any] = [_stamp(query.start_us), _stamp(query.end_us)]
        source, args = _as_of(query, span)
        limit = "" if query.limit is None else f"ORDER BY time DESC LIMIT {int(query.limit)}"
        with self.cursor() as db:
            db.register("wanted", numbers)
            return db.sql(
                f"SELECT {_COLUMNS} FROM (SELECT place AS series, time, value, flag, tests, revision, known_at "  # noqa: S608
                f"FROM ({source}) r JOIN wanted ON r.series = wanted.number {limit}) ORDER BY series, time",
                params=args,
            ).to_arrow_table()

    def latest(self) -> pa.Table:
        """Return the newest reading of every series: station, property, channel, and columns as :meth:`readings`."""
        with self.cursor() as db:
            return db.sql(
                "SELECT s.station, s.property, s.channel, epoch_us(n.b.at) AS time, n.b.v AS value, n.b.f AS flag, "
                "n.b.t AS tests, n.b.r AS revision, epoch_us(n.b.k) AS known_at FROM (SELECT series, "
                "max_by(struct_pack(at := time, v := value, f := flag, t := tests, r := revision, k := known_at), "
                "time) AS b FROM readings GROUP BY series) n JOIN series s ON s.id = n.series"
            ).to_arrow_table()

    def reading(self, key: tuple[str, str, str], time_us: int) -> dict[str, Any] | None:
        """Return one reading with its corrections, newest last, or None."""
        number = self._names.number(key)
        if number is None:
            return None
        with self.cursor() as db:
            found = rows_of(
                db,
                f"SELECT {_COLUMNS} FROM readings WHERE series = ? AND time = ?",  # noqa: S608
                [number, _stamp(time_us)],
            )
            if not found:
                return None
            found[0]["corrections"] = rows_of(
                db,
                "SELECT old_value, old_flag, old_tests, old_revision, epoch_us(old_known_at) AS old_known_at, "
                "new_value, new_flag, new_tests, new_revision, epoch_us(known_at) AS known_at, cause FROM corrections "
                "WHERE series = ? AND time = ? ORDER BY new_revision",
                [number, _stamp(time_us)],
            )
        return found[0]

    def replay_of(self, key: tuple[str, str, str], time_us: int, revision: int) -> dict[str, Any] | None:
        """Return by which promote a reading got the value of a revision, or None when it was none.

        Args:
            key: (station, property, channel).
            time_us: of the reading, µs UTC.
            revision: that brought the value.

        Returns:
            ``origin`` and ``partition`` of the raw row that the value comes from; ``name`` of the generation;
            ``catalogue`` that it was made with; ``promoted_us``.
        """
        with self.cursor() as db:
            if not db.execute("SELECT 1 FROM information_schema.tables WHERE table_name = 'promotions'").fetchone():
                return None
            found = rows_of(db, _REPLAY_OF, [*key, np.datetime64(time_us, "us").item(), revision])
        return found[0] if found else None

    def figures(
        self, station: str, prop: str, start_us: int, end_us: int, *, channel: str = "main", what: str | None = None,
        known_by_us: int | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return the figures of a series whose period starts in the range, oldest first.

        Args:
            station: of the series.
            prop: property of the series.
            channel: of the series.
            start_us: first start, inclusive.
            end_us: last start, exclusive.
            what: only this statistic.
            known_by_us: as they were published at this time; None: as they are now.
        """
        query = FigureQuery([(station, prop, channel)], start_us, end_us, what=what, known_by_us=known_by_us)
        rows: list[dict[str, Any]] = self.figures_of(query).drop(["series"]).to_pylist()
        return rows

    def figures_of(self, query: FigureQuery) -> pa.Table:
        """Return figures in order of series, start and what; see :meth:`qingtu.contracts.Store.figures_of`."""
        keys = list(zip(*query.series, strict=True)) or [(), (), ()]
        names = {name: pa.array(keys[i], pa.string()) for i, name in enumerate(("station", "property", "channel"))}
        place = pa.array(np.arange(len(query.series), dtype=np.int32))
        source, args = _figures_as_of(query)
        with self.cursor() as db:
            db.register("wanted", pa.table({"place": place, **names}))
            return db.sql(
                "SELECT place AS series, what, epoch_us(start) AS start, value, count, expected, valid, reason, "  # noqa: S608
                f"inputs, revision, epoch_us(known_at) AS known_at FROM ({source}) f JOIN wanted w ON "
                "f.station = w.station AND f.property = w.property AND f.channel = w.channel "
                "ORDER BY place, start, what",
                params=args,
            ).to_arrow_table()

    def figure_corrections(
        self, since_us: int = 0, limit: int = 1000, *, station: str | None = None, prop: str | None = None,
        what: str | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return which published figures changed, from what to what, newest first.

        Args:
            since_us: only those that became known at this time or later.
            limit: at most so many.
            station: only of this one.
            prop: only of this property.
            what: only of this statistic.
        """
        with self.cursor() as db:
            return rows_of(
                db,
                "SELECT what, station, property, channel, epoch_us(start) AS start, "
                "old_value, old_count, old_expected, old_valid, old_reason, old_inputs, old_revision, "
                "epoch_us(old_known_at) AS old_known_at, "
                "new_value, new_count, new_expected, new_valid, new_reason, new_inputs, new_revision, "
                "epoch_us(known_at) AS known_at FROM figure_corrections WHERE known_at >= $since "
                "AND ($station IS NULL OR station = $station) AND ($prop IS NULL OR property = $prop) "
                "AND ($what IS NULL OR what = $what) ORDER BY known_at DESC, new_revision DESC, start DESC, "
                "what, station, property, channel "
                "LIMIT $limit",
                {"since": _stamp(since_us), "station": station, "prop": prop, "what": what, "limit": limit},
            )

    def alerts(self, *, active: bool, limit: int = 500) -> list[dict[str, Any]]:
        """Return alerts as their last transition left them; the highest unacknowledged level first.

        Args:
            active: only open and acknowledged ones.
            limit: at most so many.
        """
        where = "WHERE state IN ('open', 'acknowledged')" if active else ""
        with self.cursor() as db:
            return rows_of(db, ALERTS_NOW.format(where=where), [limit])

    def alert_now(self, alert: str) -> dict[str, Any] | None:
        """Return one alert as :meth:`alerts` does, or None when there is no such alert."""
        with self.cursor() as db:
            found = rows_of(db, ALERTS_NOW.format(where="WHERE a.alert = ?"), [alert, 1])
        return found[0] if found else None

    def alert(self, alert: str) -> list[dict[str, Any]]:
        """Return the transitions of one alert, oldest first; empty when there is no such alert."""
        with self.cursor() as db:
            return rows_of(
                db,
                "SELECT * EXCLUDE (time, opened_at, known_at), epoch_us(time) AS time, "
                "epoch_us(opened_at) AS opened_at, epoch_us(known_at) AS known_at "
                "FROM alerts WHERE alert = ? ORDER BY seq",
                [alert],
            )

    def alerts_of(self, station: str, prop: str, revision: int) -> list[dict[str, Any]]:
        """Return the alert transitions that a raw row caused."""
        with self.cursor() as db:
            return rows_of(
                db,
                'SELECT alert, rule, state, level, epoch_us(time) AS time, value, "limit" FROM alerts '
                "WHERE station = ? AND property IN (?, '') AND revision = ? ORDER BY seq",
                [station, prop, revision],
            )

    def quarantine(self, *, reason: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """Return rejected messages, newest first, as they were refused last; see the contract.

        Args:
            reason: only those whose newest reason code is this.
            limit: at most so many.
        """
        with self.cursor() as db:
            return rows_of(
                db,
                f"{_REFUSED} JOIN ({_NEWEST}) n ON n.partition = r.partition AND n.position = r.position "
                "WHERE ? IS NULL OR r.reason = ? ORDER BY r.received_at DESC, r.position DESC, r.reason LIMIT ?",
                [reason, reason, limit],
            )

    def refusals_of(self, message: tuple[int, int]) -> list[dict[str, Any]]:
        """Return how a message was refused, the newest first; see the contract."""
        partition, at = message
        with self.cursor() as db:
            return rows_of(
                db,
                f"{_REFUSED} WHERE r.partition = $partition AND {_DECIDED} AND {_MESSAGE} IN "  # noqa: S608
                f"(SELECT {_MESSAGE} FROM rejected r WHERE r.partition = $partition AND r.position = $at) "
                "ORDER BY r.position DESC, r.reason",
                {"partition": partition, "at": at},
            )

    def raw_rows(self, ids: Sequence[tuple[int, int]]) -> pa.RecordBatch:
        """Return the raw rows of rejected messages, in the order of ``ids``, as ``RAW_ROWS``."""
        names = ", ".join("refused_by_gateway AS refused" if n == "refused" else f'"{n}"' for n in RAW_ROWS.names)
        wanted = pa.table({"p": [p for p, _ in ids], "at": [at for _, at in ids], "n": list(range(len(ids)))})
        with self.cursor() as db:
            db.register("wanted", wanted)
            table = db.sql(
                f"SELECT {names} FROM (SELECT r.*, w.n FROM rejected r JOIN wanted w ON r.partition = w.p "  # noqa: S608
                "AND r.position = w.at) ORDER BY n"
            ).to_arrow_table()
        columns = []
        for field in RAW_ROWS:
            column = table.column(field.name).combine_chunks()
            if pa.types.is_timestamp(field.type):
                column = column.cast(pa.timestamp("us")).cast(pa.int64()).cast(field.type)
            columns.append(column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, schema=RAW_ROWS)

    def in_quarantine(self, reason: str | None = None) -> list[tuple[int, int]]:
        """Return (partition, position) of every message in quarantine now, oldest first; see the contract."""
        with self.cursor() as db:
            rows: list[tuple[int, int]] = db.execute(
                f"SELECT DISTINCT b.partition, b.position {IN_QUARANTINE} AND (? IS NULL OR r.reason = ?) ORDER BY ALL",
                [reason, reason],
            ).fetchall()
        return rows

    def quarantine_counts(self) -> list[dict[str, Any]]:
        """Return how many messages are in quarantine now, by reason and stage."""
        with self.cursor() as db:
            return rows_of(
                db,
                f"SELECT r.reason, r.stage, count(*) AS count {IN_QUARANTINE} "
                "GROUP BY ALL ORDER BY count DESC, r.reason",
                [],
            )

    def quarantine_expired(self) -> list[dict[str, Any]]:
        """Return how many messages left quarantine because of their age, by reason and stage, until which day."""
        with self.cursor() as db:
            return rows_of(
                db,
                "SELECT reason, stage, CAST(sum(count) AS BIGINT) AS count, max(day) AS last_day FROM rejected_expired "
                "GROUP BY ALL ORDER BY count DESC, reason",
                [],
            )

    def rejected_expired(self) -> int:
        """Return how many messages left quarantine because of their age, ever."""
        return sum(row["count"] for row in self.quarantine_expired())

    def events(self, start_us: int, end_us: int, limit: int = 1000) -> list[dict[str, Any]]:
        """Return events in a time range, newest first."""
        with self.cursor() as db:
            return rows_of(
                db,
                "SELECT station, kind, level, epoch_us(time) AS time, attributes, revision, "
                "epoch_us(known_at) AS known_at FROM events WHERE time >= ? AND time < ? ORDER BY time DESC LIMIT ?",
                [_stamp(start_us), _stamp(end_us), limit],
            )

    def knows(self, station: str) -> bool:
        """Return whether anything that is stored names a station; see the contract."""
        if not station:  # alerts of no station
            return False
        with self.cursor() as db:
            return db.execute(_NAMED, [station] * len(_NAMING)).fetchone() is not None

    def count(self, table: str) -> int:
        """Return the number of rows of one of the store's tables."""
        if not table.isidentifier():
            raise ValueError(f"{table!r} is not the name of a table")
        with self.cursor() as db:
            row = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - an identifier
        return int(row[0]) if row else 0

    def export(self, path: Path, start_us: int, end_us: int, *, fmt: str = "parquet") -> int:
        """Write readings with names to a Parquet or CSV file; return how many.

        Args:
            path: the file to write.
            start_us: first time, inclusive.
            end_us: last time, exclusive.
            fmt: ``parquet`` or ``csv``.
        """
        options = {
            "parquet": "FORMAT parquet, COMPRESSION zstd",
            "csv": f"FORMAT csv, HEADER, TIMESTAMPFORMAT '{_RFC_3339}'",
        }[fmt]
        target = str(path).replace("'", "''")
        with self.cursor() as db:
            row = db.execute(
                f"COPY (SELECT s.station, s.property, s.channel, r.time, r.value, r.flag, r.tests, r.revision, "  # noqa: S608
                f"r.known_at FROM readings r JOIN series s ON s.id = r.series WHERE r.time >= ? AND r.time < ? "
                f"ORDER BY s.station, s.property, s.channel, r.time) TO '{target}' ({options})",
                [_stamp(start_us), _stamp(end_us)],
            ).fetchone()
        return int(row[0]) if row else 0


# A transition by hand carries neither value nor evidence, and a comment no state: what the rule said last stays.
ALERTS_NOW: Final = """
SELECT * FROM (
    SELECT alert, any_value(rule) AS rule, any_value(station) AS station, any_value(property) AS property,
        any_value(channel) AS channel, epoch_us(any_value(opened_at)) AS opened_at, epoch_us(max(time)) AS changed_at,
        arg_max(level, seq) FILTER (state <> 'comment') AS level,
        arg_max(state, seq) FILTER (state <> 'comment') AS state,
        arg_max(value, seq) FILTER (state <> 'comment') AS value,
        arg_max("limit", seq) FILTER (state <> 'comment') AS "limit",
        arg_max(evidence, seq) FILTER (who = '') AS evidence,
        coalesce(arg_max(who, seq) FILTER (state = 'acknowledged' AND who <> ''), '') AS who,
        coalesce(arg_max(note, seq) FILTER (note <> ''), '') AS note,
        arg_max(value, seq) FILTER (NOT isnan(value)) AS shown_value,
        arg_max("limit", seq) FILTER (NOT isnan("limit")) AS shown_limit,
        max(level) AS top_level
    FROM alerts GROUP BY alert) a
{where}
ORDER BY (a.state = 'open') DESC, (a.state = 'acknowledged') DESC, a.level DESC, a.opened_at DESC LIMIT ?
"""


def rows_of(db: duckdb.DuckDBPyConnection, sql: str, args: list[Any] | dict[str, Any]) -> list[dict[str, Any]]:
    """Run a query and return its rows as dictionaries."""
    result = db.execute(sql, args)
    columns = [column[0] for column in result.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]


def _as_of(query: ReadingQuery, span: list[Any]) -> tuple[str, list[Any]]:
    """Build the rows as they were known: current rows, less later corrections."""
    current = f"{_NOW} WHERE time >= ? AND time < ?"
    replaced = (
        "SELECT series, time, old_value, old_flag, old_tests, old_revision, old_known_at FROM corrections "
        "WHERE time >= ? AND time < ?"
    )
    if query.as_of is not None:
        at = query.as_of
        return (
            f"{current} AND revision <= ? UNION ALL {replaced} AND old_revision <= ? AND new_revision > ?",
            [*span, at, *span, at, at],
        )
    if query.known_by_us is not None:
        stamp = _stamp(query.known_by_us)
        # Clocks are set back: a later revision may have been known earlier, and then it is the one that counts.
        return (
            (
                f"SELECT * FROM ({current} AND known_at <= ? UNION ALL {replaced} AND old_known_at <= ? "  # noqa: S608
                "AND known_at > ?) QUALIFY row_number() OVER (PARTITION BY series, time ORDER BY revision DESC) = 1"
            ),
            [*span, stamp, *span, stamp, stamp],
        )
    return current, span


def _figures_as_of(query: FigureQuery) -> tuple[str, list[Any]]:
    """Build the figures as they were published: current ones, less later corrections."""
    span: list[Any] = [_stamp(query.start_us), _stamp(query.end_us)]
    where = "start >= ? AND start < ?"
    if query.what is not None:
        where, span = f"{where} AND what = ?", [*span, query.what]
    key = "what, station, property, channel, start"
    current = (
        f"SELECT {key}, value, count, expected, valid, reason, inputs, revision, known_at FROM figures WHERE {where}"  # noqa: S608
    )
    replaced = (
        f"SELECT {key}, old_value, old_count, old_expected, old_valid, old_reason, old_inputs, old_revision, "  # noqa: S608
        f"old_known_at FROM figure_corrections WHERE {where}"
    )
    if query.before is not None:
        at = query.before
        union = f"{current} AND revision < ? UNION ALL {replaced} AND old_revision < ? AND new_revision >= ?"
        return union, [*span, at, *span, at, at]
    if query.known_by_us is not None:
        stamp = _stamp(query.known_by_us)
        # As of readings: clocks are set back, and then the greatest revision counts.
        union = f"{current} AND known_at <= ? UNION ALL {replaced} AND old_known_at <= ? AND known_at > ?"
        newest = f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY revision DESC) = 1"
        return f"SELECT * FROM ({union}) {newest}", [*span, stamp, *span, stamp, stamp]  # noqa: S608
    return current, span


def _stamp(us: int) -> Any:
    """Return µs UTC as a datetime without a zone, which is how DuckDB takes a TIMESTAMP."""
    return np.datetime64(us, "us").item()
