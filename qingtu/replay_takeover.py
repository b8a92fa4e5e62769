"""Takes a generation over into a copy of the live store, and says what that changed.

Diff and promote both run this: what the one shows is what the other does. The copy is private until it is swapped in,
so several transactions may be used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa

from processors.aggregates import DERIVED
from processors.aggregates.derive import Derive, ticks_needed
from processors.aggregates.periods import BIN
from qingtu import records
from qingtu.clock import DAY
from qingtu.records import FIGURES, PROCESSED, VERDICTS, Cause, Flag, Frame, decode
from qingtu.replay_books import book
from qingtu.replay_store import REPLAY_TABLES
from qingtu.store.books import Changes
from qingtu.store.duckdb import DuckStore
from qingtu.store.queries import rows_of
from qingtu.store.writer import Staged

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store
    from qingtu.replay import Generation

# Rows with the raw row that brought their value: a verdict belongs to the value that it judged, and the revision of a
# promote to the row that the promote took it from.
_WITH_ORIGIN: Final = """
WITH chain AS (
    SELECT series, time, max(new_revision) FILTER (cause NOT IN ({decided})) AS brought, min(old_revision) AS first
    FROM {db}.corrections GROUP BY ALL)
SELECT r.*, coalesce(p.origin, c.brought, c.first, r.revision) AS origin
FROM {db}.readings r
LEFT JOIN chain c ON c.series = r.series AND c.time = r.time
LEFT JOIN {db}.replayed p
    ON p.series = r.series AND p.time = r.time AND p.revision = coalesce(c.brought, c.first, r.revision)
"""
_NEW_SERIES: Final = """
INSERT INTO series SELECT (SELECT count(*) FROM series) + row_number() OVER (ORDER BY g.id) - 1,
    g.station, g.property, g.channel
FROM gen.series g ANTI JOIN series s ON s.station = g.station AND s.property = g.property AND s.channel = g.channel
"""
_CHANGES: Final = """
CREATE OR REPLACE TEMP TABLE changes AS
WITH theirs AS (
    SELECT s.id AS series, t.* EXCLUDE (series) FROM ({theirs}) t JOIN gen.series g ON g.id = t.series
    JOIN series s ON s.station = g.station AND s.property = g.property AND s.channel = g.channel)
SELECT series, time, m.value AS old_value, m.flag AS old_flag, m.tests AS old_tests, m.revision AS old_revision,
    m.known_at AS old_known_at, t.value AS new_value, coalesce(t.flag, {missing})::UTINYINT AS new_flag,
    coalesce(t.tests, 0)::UINTEGER AS new_tests, coalesce(t.origin, m.origin) AS origin,
    CASE WHEN m.flag IS NULL THEN 'new' WHEN t.flag IS NULL THEN 'withdrawn' ELSE 'changed' END AS what
FROM ({mine}) m FULL JOIN theirs t USING (series, time)
WHERE ((m.origin >= $low AND m.origin < $high) OR (t.origin >= $low AND t.origin < $high))
    AND (m.origin IS NULL OR m.origin < $high)
    AND time >= $kept
    AND (m.flag IS NULL OR m.value IS DISTINCT FROM t.value OR m.flag <> coalesce(t.flag, {missing})
        OR m.tests <> coalesce(t.tests, 0))
"""
_CORRECT: Final = """
INSERT INTO corrections SELECT series, time, old_value, old_flag, old_tests, old_revision, old_known_at,
    new_value, new_flag, new_tests, $at, $now, {cause} FROM changes WHERE what <> 'new'
"""
_UPDATE: Final = """
UPDATE readings SET value = c.new_value, flag = c.new_flag, tests = c.new_tests, revision = $at, known_at = $now
FROM changes c WHERE c.what <> 'new' AND readings.series = c.series AND readings.time = c.time
"""
_ADD: Final = """
INSERT INTO readings SELECT series, time, new_value, new_flag, new_tests, $at, $now FROM changes WHERE what = 'new'
"""
# An event is the same when all that a device said of it is; what only the live store has stays, as it was told.
_EVENTS: Final = """
INSERT INTO events SELECT station, kind, level, time, attributes, $at, $now FROM gen.events e
WHERE revision >= $low AND revision < $high AND time >= $kept AND NOT EXISTS (FROM events m WHERE m.time = e.time
    AND m.station = e.station AND m.kind = e.kind AND m.attributes = e.attributes)
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
_FIGURES_CHANGED: Final = """
SELECT f.what, f.station, f.property, f.channel, epoch_ms(f.start) AS start_ms, c.old_value, c.old_count, c.old_valid,
    f.value AS new_value, f.count AS new_count, f.valid AS new_valid
FROM figures f LEFT JOIN (FROM figure_corrections WHERE new_revision = ?) c ON c.what = f.what
    AND c.station = f.station AND c.property = f.property AND c.channel = f.channel AND c.start = f.start
WHERE f.revision = ? ORDER BY ALL
"""
_ALERTS_ONLY: Final = """
SELECT alert, rule, station, property, level, state, epoch_ms(time) AS time_ms, value FROM {here}.alerts
WHERE revision >= ? AND revision < ? AND who = ''
    AND (alert, state, level, revision) NOT IN (SELECT (alert, state, level, revision) FROM {there}.alerts)
ORDER BY time, alert, state LIMIT 1000
"""


@dataclass(slots=True)
class Takeover:
    """What a promote changes, or would change.

    Attributes:
        readings: how many are new, changed, withdrawn.
        by: the same by series, with first and last time (ms UTC) and the newest old and new value.
        changes: of each reading what it was and what it is, by series and time, as many as were asked for.
        figures: all that changed or are new (``old_count`` None), with old and new value, count and validity.
        messages: how many left quarantine, entered it, or stay with another reason or other readings.
        events: how many are new.
        alerts: transitions that only the live store has (``only_live``) or only the generation (``only_replay``).
        promoted_us: when this generation was promoted into this store before, µs UTC; None: never.
    """

    readings: dict[str, int]
    by: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    figures: list[dict[str, Any]] = field(default_factory=list)
    messages: dict[str, int] = field(default_factory=dict)
    events: int = 0
    alerts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    promoted_us: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing in the dataset changes; alerts are told, not changed."""
        return not (any(self.readings.values()) or self.figures or any(self.messages.values()) or self.events)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        names = ("readings", "by", "changes", "figures", "messages", "events", "alerts")
        return {"empty": self.empty, **{name: getattr(self, name) for name in names}}


class NextStore(DuckStore):
    """A private copy of the live store, in which a generation is taken over."""

    def take_over(
        self,
        generation: Generation,
        folder: Path,
        catalogue: Catalogue,
        *,
        at: int,
        now_us: int,
        keep_days: int,
        grace_s: int,
        limit: int = 1000,
    ) -> Takeover:
        """Take over what the generation's span gives today. Call once; the books in memory are read again after.

        Args:
            generation: what to take over.
            folder: where it is.
            catalogue: that it was made with.
            at: position of the promote, the revision of all that changes.
            now_us: when it becomes known, µs UTC.
            keep_days: readings older than this are not brought back.
            grace_s: of figures.
            limit: list at most so many changes.
        """
        db, span = self._db, generation.span
        db.execute(REPLAY_TABLES)
        path = str(folder / "qingtu.duckdb").replace("'", "''")
        db.execute(f"ATTACH '{path}' AS gen (READ_ONLY)")
        kept = np.datetime64((now_us - keep_days * DAY) // DAY * DAY, "us").item()
        bounds = {"low": span.low, "high": span.high, "kept": kept}
        now = np.datetime64(now_us, "us").item()
        try:
            db.begin()
            self._find_changes(bounds)
            out = self._found(limit)
            self._write(bounds, {"at": at, "now": now}, out)
            changes = Changes()
            out.messages = book(db, span, at, changes)
            self._save_books(changes)
            out.promoted_us = self._promoted(generation)
            act = [at, generation.name, now, catalogue.version, span.low, span.high]
            db.execute("INSERT INTO promotions VALUES (?, ?, ?, ?, ?, ?)", act)
            db.commit()
        except BaseException:
            self._undo()
            raise
        out.alerts = self._alerts_told([span.low, span.high])
        db.execute("DETACH gen")
        self._load()
        out.figures = self._derive(generation, catalogue, at, now_us, grace_s)
        return out

    def _promoted(self, generation: Generation) -> int | None:
        """Return when it was promoted last; one that had its name before it was made does not count."""
        row = self._db.execute(
            "SELECT max(epoch_us(promoted_at)) FROM promotions WHERE name = ? AND epoch_us(promoted_at) >= ?",
            [generation.name, generation.made_us],
        ).fetchone()
        return None if row is None else row[0]

    def _write(self, bounds: dict[str, Any], known: dict[str, Any], out: Takeover) -> None:
        """Write readings, their corrections and origins, and events."""
        for statement in (_CORRECT, _UPDATE, _ADD):
            self._db.execute(statement.format(cause=int(Cause.REPLAY)), known)
        self._db.execute("INSERT INTO replayed SELECT series, time, ?, origin FROM changes", [known["at"]])
        row = self._db.execute(_EVENTS, {**known, **bounds}).fetchone()
        out.events = int(row[0]) if row else 0

    def _alerts_told(self, between: list[Any]) -> dict[str, list[dict[str, Any]]]:
        live = self._name()
        return {
            "only_live": rows_of(self._db, _ALERTS_ONLY.format(here=live, there="gen"), between),
            "only_replay": rows_of(self._db, _ALERTS_ONLY.format(here="gen", there=live), between),
        }

    def _name(self) -> str:
        row = self._db.execute("SELECT current_database()").fetchone()
        assert row is not None
        return f'"{row[0]}"'

    def _find_changes(self, bounds: dict[str, Any]) -> None:
        self._db.execute(_NEW_SERIES)
        decided = ", ".join(str(int(cause)) for cause in VERDICTS)
        mine = _WITH_ORIGIN.format(db=self._name(), decided=decided)
        theirs = _WITH_ORIGIN.format(db="gen", decided=decided)
        self._db.execute(_CHANGES.format(mine=mine, theirs=theirs, missing=int(Flag.MISSING)), bounds)

    def _found(self, limit: int) -> Takeover:
        by = rows_of(self._db, _BY, [])
        kinds = ("new", "changed", "withdrawn")
        return Takeover({kind: sum(row[kind] for row in by) for kind in kinds}, by, rows_of(self._db, _LISTED, [limit]))

    def _derive(
        self, generation: Generation, catalogue: Catalogue, at: int, now_us: int, grace_s: int
    ) -> list[dict[str, Any]]:
        """Evaluate the windows of all changed readings again, by the operator that derive runs."""
        touched = self._touched(at)
        if touched is None:
            return []
        origin = self.progress(PROCESSED, 0).origin
        ticks = [(now_us, at, catalogue.version)] * ticks_needed(touched.num_rows)
        header = {"stream": PROCESSED, "clock": now_us, "ticks": ticks, "origin": [0, origin]}
        store: Store = self
        derive = Derive(store, lambda _: catalogue, grace_s, derived=DERIVED)
        made = derive.apply(Frame(header, {"readings": touched}), 0)
        if FIGURES not in made:
            return []
        batch = decode(made[FIGURES]).sections["figures"]
        told = [
            orjson.dumps({**orjson.loads(text), "replay": generation.name}).decode()
            for text in batch.column("inputs").to_pylist()
        ]
        place = batch.schema.get_field_index("inputs")
        columns = [pa.array(told) if i == place else column for i, column in enumerate(batch.columns)]
        frame = Frame({}, {"figures": pa.RecordBatch.from_arrays(columns, schema=batch.schema)})
        self._db.begin()
        self._figures(0, [frame], Staged(np.zeros(0, np.int64)), Changes())
        self._db.commit()
        return rows_of(self._db, _FIGURES_CHANGED, [at, at])

    def _touched(self, at: int) -> pa.RecordBatch | None:
        """Return one reading for each (series, bin) in which something changed; None when nothing did."""
        rows = self._db.execute(
            "SELECT DISTINCT s.station, s.property, s.channel, epoch_us(time) // $bin * $bin "
            "FROM changes JOIN series s ON s.id = changes.series ORDER BY ALL",
            {"bin": BIN},
        ).fetchall()
        if not rows:
            return None
        station, prop, channel, start = (list(column) for column in zip(*rows, strict=True))
        n = len(rows)
        zeros = {name: np.zeros(n, kind) for name, kind in (("value", np.float64), ("flag", np.uint8),
                 ("tests", np.uint32), ("cause", np.uint8), ("late", np.bool_))}  # fmt: skip
        times = records.times(np.array(start, np.int64))
        names = {"station": station, "property": prop, "channel": channel}
        return records.batch(
            records.READINGS,
            {
                **{key: pa.array(column, pa.string()).dictionary_encode() for key, column in names.items()},
                "time": times, "known_at": times, "revision": np.full(n, at, np.int64), **zeros,
            },
        )  # fmt: skip
