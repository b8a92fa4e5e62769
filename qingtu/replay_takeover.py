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
from qingtu.partitions import partition_of
from qingtu.records import FIGURE_ROWS, FIGURES, PROCESSED, Cause, Frame, decode
from qingtu.replay_books import book
from qingtu.replay_changes import alerts_told, find_changes, told
from qingtu.store.books import Changes
from qingtu.store.duckdb import DuckStore
from qingtu.store.queries import rows_of
from qingtu.store.rows import plain
from qingtu.store.schema import REPLAY_TABLES
from qingtu.store.writer import Staged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store
    from qingtu.replay import Generation
    from qingtu.replay_books import At, Booked

_CORRECT: Final = """
INSERT INTO corrections SELECT series, time, old_value, old_flag, old_tests, old_revision, old_known_at,
    new_value, new_flag, new_tests, act, $now, {cause} FROM changes WHERE what <> 'new'
"""
_UPDATE: Final = """
UPDATE readings SET value = c.new_value, flag = c.new_flag, tests = c.new_tests, revision = c.act, known_at = $now
FROM changes c WHERE c.what <> 'new' AND readings.series = c.series AND readings.time = c.time
"""
_ADD: Final = """
INSERT INTO readings SELECT series, time, new_value, new_flag, new_tests, act, $now FROM changes WHERE what = 'new'
"""
_REPLAYED: Final = "INSERT INTO replayed SELECT series, time, act, origin, partition, origin_partition FROM changes"
_EVENTS: Final = "INSERT INTO events SELECT * EXCLUDE (partition) FROM happened"
_RECEIVED: Final = """
SELECT o.partition, o.position, o.received_us
FROM gen.outcomes o JOIN quarantine_book b ON b.partition = o.partition AND b.position = o.position
"""
_PARTITIONS: Final = "SELECT partition FROM changes UNION SELECT partition FROM happened"
_CHANGED: Final = """
SELECT s.station, s.property, s.channel, epoch_us(time) AS time, coalesce(new_value, 'nan'::DOUBLE) AS value,
    new_flag AS flag, new_tests AS tests, origin, origin_partition
FROM changes c JOIN series s ON s.id = c.series WHERE c.partition = ? ORDER BY time, c.series
"""
_HAPPENED: Final = """
SELECT station, kind, level, epoch_us(time) AS time, attributes, revision, epoch_us(known_at) AS known_at
FROM happened WHERE partition = ? ORDER BY ALL
"""
_REFUSALS: Final = """
SELECT * EXCLUDE (refused, refused_by_gateway, received_at), refused AS readings_refused,
    refused_by_gateway AS refused, epoch_us(received_at) AS received_at
FROM rejected WHERE partition = ? AND coalesce(redrive_of, position) IN (SELECT unnest(?)) ORDER BY position
"""
_FIGURES_CHANGED: Final = """
SELECT DISTINCT f.what, f.station, f.property, f.channel, epoch_ms(f.start) AS start_ms,
    c.old_value, c.old_count, c.old_valid, f.value AS new_value, f.count AS new_count, f.valid AS new_valid
FROM figures f JOIN figures_made m USING (what, station, property, channel, start, revision)
LEFT JOIN figure_corrections c ON c.what = f.what AND c.station = f.station AND c.property = f.property
    AND c.channel = f.channel AND c.start = f.start AND c.new_revision = f.revision
ORDER BY ALL
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
        partitions: those in which something changes.
        promoted_us: when this generation was promoted into this store before, µs UTC; None: never.
    """

    readings: dict[str, int]
    by: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    figures: list[dict[str, Any]] = field(default_factory=list)
    messages: dict[str, int] = field(default_factory=dict)
    events: int = 0
    alerts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    partitions: tuple[int, ...] = ()
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
    """A private copy of the live store, in which a generation is taken over.

    Attributes:
        booked: what changes in the books; like the others once a generation is taken over.
        received: time of receipt (µs UTC) of the messages of the span that have an entry in the quarantine's book.
        made: the figures that were evaluated again, as ``FIGURE_ROWS`` by partition.
    """

    booked: Booked
    received: dict[At, int]
    made: list[pa.RecordBatch]

    def take_over(
        self,
        generation: Generation,
        folder: Path,
        catalogue: Catalogue,
        *,
        at: Sequence[int],
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
            at: positions of the promote, by partition: the revisions of all that changes in each.
            now_us: when it becomes known, µs UTC.
            keep_days: readings older than this are not brought back.
            grace_s: of figures.
            limit: list at most so many changes.
        """
        db = self._db
        db.execute(REPLAY_TABLES)
        path = str(folder / "qingtu.duckdb").replace("'", "''")
        db.execute(f"ATTACH '{path}' AS gen (READ_ONLY)")
        kept = np.datetime64((now_us - keep_days * DAY) // DAY * DAY, "us").item()
        now = np.datetime64(now_us, "us").item()
        try:
            db.begin()
            find_changes(db, generation.spans, at, {"kept": kept, "now": now})
            out = Takeover(*told(db, limit))
            self._write(now, out)
            self.booked = book(db, at)
            out.messages = self.booked.messages
            self._save_books(Changes().and_all(self.booked.changes))
            self.received = {(p, at_): us for p, at_, us in db.execute(_RECEIVED).fetchall()}
            out.promoted_us = self._promoted(generation)
            touched = self.booked.partitions | {int(row[0]) for row in db.execute(_PARTITIONS).fetchall()}
            db.commit()
        except BaseException:
            self._undo()
            raise
        out.alerts = alerts_told(db)
        db.execute("DETACH gen")
        self._load()
        out.figures, evaluated = self._derive(generation, catalogue, at, now_us, grace_s)
        out.partitions = tuple(sorted(touched | evaluated))
        for partition in out.partitions:
            span = generation.spans[partition]
            act = [at[partition], generation.name, now, catalogue.version, span.low, span.high, partition]
            db.execute("INSERT INTO promotions VALUES (?, ?, ?, ?, ?, ?, ?)", act)
        return out

    def _promoted(self, generation: Generation) -> int | None:
        """Return when it was promoted last; one that had its name before it was made does not count."""
        row = self._db.execute(
            "SELECT max(epoch_us(promoted_at)) FROM promotions WHERE name = ? AND epoch_us(promoted_at) >= ?",
            [generation.name, generation.made_us],
        ).fetchone()
        return None if row is None else row[0]

    def _write(self, now: Any, out: Takeover) -> None:
        """Write readings, their corrections and origins, and events."""
        for statement in (_CORRECT, _UPDATE, _ADD):
            self._db.execute(statement.format(cause=int(Cause.REPLAY)), {"now": now})
        self._db.execute(_REPLAYED)
        row = self._db.execute(_EVENTS).fetchone()
        out.events = int(row[0]) if row else 0

    def _derive(
        self, generation: Generation, catalogue: Catalogue, at: Sequence[int], now_us: int, grace_s: int
    ) -> tuple[list[dict[str, Any]], set[int]]:
        """Evaluate the windows of all changed readings again, by the operator that derive runs.

        Returns:
            the figures that changed or are new, and the partitions in which they are.
        """
        # Behind all that any partition holds: the copy stands still, so this is as of now in each of them.
        newest = max(at)
        touched = self._touched(newest)
        self.made = [pa.RecordBatch.from_pylist([], FIGURE_ROWS) for _ in at]
        if touched is None:
            return [], set()
        origin = self.progress(PROCESSED, 0).origin
        ticks = [(now_us, newest, catalogue.version)] * ticks_needed(touched.num_rows)
        header = {"stream": PROCESSED, "clock": now_us, "ticks": ticks, "origin": [0, origin]}
        store: Store = self
        derive = Derive(store, lambda _: catalogue, grace_s, derived=DERIVED)
        made = derive.apply(Frame(header, {"readings": touched}), 0)
        if FIGURES not in made:
            return [], set()
        batch = decode(made[FIGURES]).sections["figures"]
        inputs = [
            orjson.dumps({**orjson.loads(text), "replay": generation.name}).decode()
            for text in batch.column("inputs").to_pylist()
        ]
        homes = np.array(self._homes(batch.column("station").to_pylist(), catalogue, len(at)))
        ours = {"inputs": pa.array(inputs), "revision": pa.array(np.array(at, np.int64)[homes])}
        columns = [ours.get(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
        batch = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
        self.made = [batch.filter(pa.array(homes == partition)) for partition in range(len(at))]
        self._db.begin()
        self._figures(0, [Frame({}, {"figures": batch})], Staged(np.zeros(0, np.int64)), Changes())
        self._db.commit()
        self._db.register("figures_made", plain(batch))
        changed = rows_of(self._db, _FIGURES_CHANGED, [])
        self._db.unregister("figures_made")
        return changed, set(self._homes([row["station"] for row in changed], catalogue, len(at)))

    def _homes(self, names: Sequence[str], catalogue: Catalogue, partitions: int) -> list[int]:
        """Return the partition of each figure: that of its station; figures of areas are made in the first."""
        stations = {*catalogue.stations, *(station for station, _, _ in self._names.keys)}
        return [partition_of(name, partitions) if name in stations else 0 for name in names]

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

    # --------------------------------------------------------------------------------- what another store is told

    def changed(self, partition: int, size: int) -> Iterator[pa.RecordBatch]:
        """Give the readings that change in a partition, by time, so many at once. Ask nothing else meanwhile.

        Returns:
            station, property, channel; time (µs UTC), value (NaN when missing), flag, tests; ``origin`` and
            ``origin_partition``, the raw row that the value comes from.
        """
        for rows in self._db.sql(_CHANGED, params=[partition]).to_arrow_reader(size):
            yield from (rows.slice(at, size) for at in range(0, rows.num_rows, size))

    def happened(self, partition: int) -> list[dict[str, Any]]:
        """Return the events that are new in a partition, as ``EVENTS``; times in µs UTC."""
        return rows_of(self._db, _HAPPENED, [partition])

    def refusals(self, partition: int) -> list[dict[str, Any]]:
        """Return what ``rejected`` says now of the messages of a partition that are told of, as ``REJECTED_ROWS``."""
        given = [partition, [position for p, position in self.booked.told if p == partition]]
        return rows_of(self._db, _REFUSALS, given)
