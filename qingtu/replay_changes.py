"""Which readings, events and alerts a generation tells otherwise than the live store: SQL over a copy of it.

Works on a copy of the live store with the generation attached as ``gen``. Leaves temporary tables behind::

    homes      the partition in which each station lives
    spans      by partition: the positions of the span, of the end of what was run, and of the promote
    changes    the readings that change, with the raw row that they come from
    happened   the events that are new

A live row belongs to the span when the generation knows the message that brought it: the same position, and the same
time at which it became known. The position alone would not do: a message that is driven again may bring readings of a
station of another partition, and positions count in each partition anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from processors.quality import CHECKS
from qingtu.partitions import partition_of
from qingtu.records import NEIGHBOUR, OVERRIDDEN, RECEIPT_TIME, VERDICTS, Cause, Flag, position
from qingtu.store.queries import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from qingtu.replay_raw import Span

# Rows with the raw row that brought their value: a verdict belongs to the value that it judged, and the revision of a
# promote to the row that the promote took it from.
_WITH_ORIGIN: Final = """
WITH chain AS (
    SELECT series, time, max(new_revision) FILTER (cause NOT IN ({decided})) AS brought,
        arg_max(known_at, new_revision) FILTER (cause NOT IN ({decided})) AS brought_known,
        max(new_revision) FILTER (cause = {late}) AS decided,
        max(new_revision) FILTER (cause = {word}) AS spoken,
        min(old_revision) AS first, arg_min(old_known_at, old_revision) AS first_known
    FROM {db}.corrections GROUP BY ALL)
SELECT r.*, s.station, s.property, s.channel, h.partition AS home, p.origin_partition AS replayed_from,
    p.partition AS acted_in,
    coalesce(p.origin, c.brought, c.first, r.revision) AS origin,
    coalesce(c.brought_known, c.first_known, r.known_at) AS origin_known, c.decided, c.spoken
FROM {db}.readings r
JOIN {db}.series s ON s.id = r.series
JOIN homes h ON h.station = s.station
LEFT JOIN chain c ON c.series = r.series AND c.time = r.time
LEFT JOIN {db}.replayed p
    ON p.series = r.series AND p.time = r.time AND p.revision = coalesce(c.brought, c.first, r.revision)
"""
# ``source``: the partition of the raw row, null when it is none of the span. ``counted_in``: the one that the revision
# counts in, as far as it is known. ``later``: it stands behind the span; of what was driven again in another partition
# only the book tells.
_MINE: Final = """
SELECT r.series, r.time, r.value, r.flag, r.tests, r.revision, r.known_at, r.home, r.origin,
    coalesce(r.replayed_from, own.partition, other.partition) AS source, coalesce(r.acted_in, source) AS counted_in,
    source IS NOT NULL AND (r.replayed_from IS NULL OR (r.origin >= s.low AND r.origin < s.high)) AS inside,
    NOT inside AND (r.origin >= s.high
        OR (r.replayed_from IS NULL AND r.origin IN (SELECT moved_by FROM driven_later))) AS later,
    coalesce(r.decided >= h.ran, false) AS after, coalesce(r.spoken >= h.ran, false) AS spoken_after
FROM ({rows}) r
LEFT JOIN gen.outcomes own ON r.replayed_from IS NULL
    AND own.partition = r.home AND own.position = r.origin AND own.known = r.origin_known
LEFT JOIN (SELECT position, known, min(partition) AS partition FROM gen.outcomes GROUP BY ALL) other
    ON r.replayed_from IS NULL AND other.position = r.origin AND other.known = r.origin_known
LEFT JOIN spans s ON s.partition = coalesce(r.replayed_from, r.home)
LEFT JOIN spans h ON h.partition = r.home
"""
_THEIRS: Final = """
SELECT s.id AS series, r.time, r.value, r.flag, r.tests, r.home, r.origin,
    coalesce(e.partition, r.home) AS source, r.origin >= b.low AND r.origin < b.high AS inside
FROM ({rows}) r
JOIN series s ON s.station = r.station AND s.property = r.property AND s.channel = r.channel
LEFT JOIN elsewhere e ON e.station = r.station AND e.position = r.origin
JOIN spans b ON b.partition = coalesce(e.partition, r.home)
"""
_DRIVEN_LATER: Final = """
CREATE OR REPLACE TEMP TABLE driven_later AS
SELECT DISTINCT b.moved_by FROM quarantine_book b JOIN spans s USING (partition) WHERE b.moved_by >= s.high;
CREATE OR REPLACE TEMP TABLE elsewhere AS
SELECT station, position, min(partition) AS partition FROM gen.elsewhere GROUP BY ALL
"""
_NEW_SERIES: Final = """
INSERT INTO series SELECT (SELECT count(*) FROM series) + row_number() OVER (ORDER BY g.id) - 1,
    g.station, g.property, g.channel
FROM gen.series g ANTI JOIN series s ON s.station = g.station AND s.property = g.property AND s.channel = g.channel
"""
# A replay runs raw a little further than its span; what people, the stations around or the next reading (a spike) said
# of a value later than that is not in the generation. While the value is the same, the word of the live store stands.
_BOTH: Final = """
SELECT m.* EXCLUDE (series, time), series, time, t.value AS t_value, t.home AS t_home, t.origin AS t_origin,
    t.source AS t_source, t.inside AS t_inside, t.flag AS found,
    m.flag IS NOT NULL AND t.flag IS NOT NULL AND m.value IS NOT DISTINCT FROM t.value AS same,
    same AND (m.tests & {person}) <> 0 AND ((t.tests & {person}) = 0 OR m.spoken_after) AS said,
    same AND m.after AND (m.tests & {next}) <> 0 AND (t.tests & {next}) = 0 AS spiked,
    CASE WHEN same THEN (t.tests & ~{around}::UINTEGER) | (m.tests & {around}) ELSE t.tests END
        | CASE WHEN said THEN {person} ELSE 0 END | CASE WHEN spiked THEN {next} ELSE 0 END AS t_tests,
    CASE WHEN said THEN m.flag
        WHEN spiked AND t.flag IN ({good}) THEN m.flag
        WHEN spiked THEN greatest(t.flag, m.flag)
        WHEN same AND (m.tests & {around}) <> 0 AND (t.tests & {around}) = 0 AND t.flag IN ({good}) THEN {suspect}
        WHEN same AND (m.tests & {around}) = 0 AND (t.tests & ~{receipt}::UINTEGER) = {around} THEN {passes}
        ELSE t.flag END AS t_flag
FROM ({mine}) m FULL JOIN ({theirs}) t USING (series, time)
"""
# A revision that the station's own partition has not reached came from another one: what comes behind it is there.
_CHANGES: Final = """
CREATE OR REPLACE TEMP TABLE changes AS
SELECT series, time, m.value AS old_value, m.flag AS old_flag, m.tests AS old_tests, m.revision AS old_revision,
    m.known_at AS old_known_at, m.t_value AS new_value, coalesce(m.t_flag, {missing})::UTINYINT AS new_flag,
    coalesce(m.t_tests, 0)::UINTEGER AS new_tests, coalesce(m.t_origin, m.origin) AS origin,
    coalesce(m.t_source, m.source) AS origin_partition, act.partition, act.act,
    CASE WHEN m.flag IS NULL THEN 'new' WHEN m.found IS NULL THEN 'withdrawn' ELSE 'changed' END AS what
FROM ({both}) m
JOIN spans h ON h.partition = coalesce(m.home, m.t_home)
JOIN spans act ON act.partition = CASE WHEN m.revision >= h.act THEN coalesce(m.counted_in, h.partition)
    ELSE h.partition END
WHERE (coalesce(m.inside, false) OR coalesce(m.t_inside, false))
    AND NOT coalesce(m.later, false)
    AND (m.revision IS NULL OR m.revision < act.act)
    AND time >= $kept
    AND (m.flag IS NULL OR m.value IS DISTINCT FROM m.t_value OR m.flag <> coalesce(m.t_flag, {missing})
        OR m.tests <> coalesce(m.t_tests, 0))
"""
# An event is the same when all that a device said of it is; what only the live store has stays, as it was told.
_HAPPENED: Final = """
CREATE OR REPLACE TEMP TABLE happened AS
SELECT e.* REPLACE (act.act AS revision, $now AS known_at), act.partition FROM gen.events e
JOIN homes h ON h.station = e.station
JOIN spans act ON act.partition = h.partition
LEFT JOIN elsewhere x ON x.station = e.station AND x.position = e.revision
JOIN spans s ON s.partition = coalesce(x.partition, h.partition)
WHERE e.revision >= s.low AND e.revision < s.high AND e.time >= $kept AND NOT EXISTS (FROM events m
    WHERE m.time = e.time AND m.station = e.station AND m.kind = e.kind AND m.attributes = e.attributes)
"""
_ALERTS_ONLY: Final = """
SELECT alert, rule, station, property, level, state, epoch_ms(time) AS time_ms, value FROM {here}.alerts a
JOIN homes h USING (station) JOIN spans s ON s.partition = h.partition
WHERE revision >= s.low AND revision < s.high AND who = ''
    AND (alert, state, level, revision) NOT IN (SELECT (alert, state, level, revision) FROM {there}.alerts)
ORDER BY time, alert, state LIMIT 1000
"""
_BY: Final = """
SELECT s.station, s.property, s.channel, count(*) FILTER (what = 'new') AS new,
    count(*) FILTER (what = 'changed') AS changed, count(*) FILTER (what = 'withdrawn') AS withdrawn,
    epoch_ms(min(time)) AS first_ms, epoch_ms(max(time)) AS last_ms,
    arg_max(old_value, time) AS old_value, arg_max(new_value, time) AS new_value
FROM changes JOIN series s ON s.id = changes.series GROUP BY ALL ORDER BY ALL
"""
_LISTED: Final = """
SELECT s.station, s.property, s.channel, epoch_ms(time) AS time_ms, what, old_value, old_flag, old_tests, new_value,
    new_flag, new_tests FROM changes JOIN series s ON s.id = changes.series ORDER BY ALL LIMIT ?
"""
_STATIONS: Final = """
SELECT station FROM series UNION SELECT station FROM gen.series UNION SELECT station FROM gen.events
UNION SELECT station FROM alerts UNION SELECT station FROM gen.alerts
"""


def find_changes(
    db: duckdb.DuckDBPyConnection, spans: Sequence[Span], at: Sequence[int], times: dict[str, Any]
) -> None:
    """Make the temporary tables of this module; only series that are new are written.

    Args:
        db: of the live store's copy, in a transaction, with the generation attached as ``gen``.
        spans: of the generation, by partition.
        at: positions of the promote, by partition.
        times: ``kept``, readings older than this are not brought back; ``now``, when it becomes known.
    """
    n = len(spans)
    stations = [row[0] for row in db.execute(_STATIONS).fetchall()]
    homes = {"station": stations, "partition": pa.array([partition_of(name, n) for name in stations], pa.int32())}
    bounds = {
        "partition": pa.array(range(n), pa.int32()), "low": pa.array([span.low for span in spans], pa.int64()),
        "high": pa.array([span.high for span in spans], pa.int64()), "act": pa.array(at, pa.int64()),
        "ran": pa.array([position(span.last, 0) for span in spans], pa.int64()),
    }  # fmt: skip
    for name, columns in (("homes", {**homes, "station": pa.array(stations, pa.string())}), ("spans", bounds)):
        db.register("given", pa.table(columns))
        db.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM given")
        db.unregister("given")
    db.execute(_DRIVEN_LATER)
    db.execute(_NEW_SERIES)
    causes = {"decided": ", ".join(str(int(cause)) for cause in VERDICTS), "late": int(Cause.QUALITY_DECIDED),
              "word": int(Cause.OVERRIDE)}  # fmt: skip
    mine = _MINE.format(rows=_WITH_ORIGIN.format(db=name_of(db), **causes))
    theirs = _THEIRS.format(rows=_WITH_ORIGIN.format(db="gen", **causes))
    both = _BOTH.format(
        mine=mine, theirs=theirs, person=OVERRIDDEN, around=NEIGHBOUR, receipt=RECEIPT_TIME,
        next=1 << CHECKS["spike"].bit, suspect=int(Flag.SUSPECT), passes=int(Flag.PASS),
        good=f"{int(Flag.PASS)}, {int(Flag.NOT_EVALUATED)}",
    )  # fmt: skip
    db.execute(_CHANGES.format(both=both, missing=int(Flag.MISSING)), {"kept": times["kept"]})
    db.execute(_HAPPENED, times)


def told(
    db: duckdb.DuckDBPyConnection, limit: int
) -> tuple[dict[str, int], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return how many readings are new, changed, withdrawn; the same by series; and each one, ``limit`` at most."""
    by = rows_of(db, _BY, [])
    return (
        {kind: sum(row[kind] for row in by) for kind in ("new", "changed", "withdrawn")},
        by,
        rows_of(db, _LISTED, [limit]),
    )


def alerts_told(db: duckdb.DuckDBPyConnection) -> dict[str, list[dict[str, Any]]]:
    """Return the transitions of alerts in the span that only one side has."""
    live = name_of(db)
    return {
        "only_live": rows_of(db, _ALERTS_ONLY.format(here=live, there="gen"), []),
        "only_replay": rows_of(db, _ALERTS_ONLY.format(here="gen", there=live), []),
    }


def name_of(db: duckdb.DuckDBPyConnection) -> str:
    """Return the quoted name of the database that is open, beside those that are attached."""
    row = db.execute("SELECT current_database()").fetchone()
    assert row is not None
    return f'"{row[0]}"'
