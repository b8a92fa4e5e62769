"""Derive: the operator that makes all figures, level by level, as functions of the store.

Readings only *touch* windows; at a tick that lies a grace behind a window's end, and once the store has applied
everything up to that tick, the touched windows are evaluated as of the tick's position: ten minutes and hours from
readings, the levels above from the level below. So a restart, a replay, or a store that is further already, gives the
same figure. A window that is touched again later (late, revised, re-driven) is evaluated again, with those that are
made of it, and a changed figure is a correction. Frames that `process` emits again after a crash are told by their
origin and skipped: their ticks would take figures back to what was known then. Why: docs/decisions/0006-derive.md and
0015-cascade.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa

from ingest.raw import command_row, raw_frame
from processors.aggregates.areas import AREAS, Areas, OfAreas, Told
from processors.aggregates.areas import read as read_areas
from processors.aggregates.areas import told as tell_areas
from processors.aggregates.evaluate import FromReadings
from processors.aggregates.hooks import Hooks
from processors.aggregates.neighbours import Neighbours, is_group
from processors.aggregates.parts import FromParts, published
from processors.aggregates.plan import Plan
from processors.aggregates.rules import READINGS
from processors.aggregates.touched import Touched, Window
from processors.alerts.facts import Watched, fact_row, told
from processors.neighbour import NEIGHBOURS
from qingtu import records
from qingtu.clock import SECOND
from qingtu.errors import RetryLater
from qingtu.partitions import partition_of
from qingtu.records import FIGURES, PROCESSED, RAW, Frame, times_of
from qingtu.state import pack, unpack
from qingtu.store.names import SeriesNames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from processors.aggregates.areas import AreaPeriod
    from processors.aggregates.evaluate import Due, Row
    from processors.aggregates.hooks import Derived
    from processors.aggregates.neighbours import Judged
    from processors.aggregates.parts import Made
    from processors.alerts.facts import Fact
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Outputs, Store

GROUP: Final = "derive"
SECTIONS: Final = ("readings",)
"""What it looks at of a processed frame, beside the header."""
WINDOWS: Final = 50_000
WINDOWS_OF_A_READING: Final = 40
"""More than the windows that one reading can touch, with all that is made of them."""
_MAIN: Final = "main"


class Derive:
    """Operator over ``processed`` that makes figures. See :class:`qingtu.contracts.Operator`.

    Args:
        store: read for the readings and parts of a window.
        catalogues: returns the archived catalogue of a version.
        grace_s: a window is evaluated so long after its end.
        partition: the one that this is for; figures of areas are made in partition 0.
        partitions: how many there are.
        derived: what is made of figures; see :mod:`processors.aggregates.hooks`.
        tell: tell through raw: the ordered pass the figures that an alert rule watches, and partition 0 the areas.
        at_once: windows that are evaluated at one tick at most; the others wait for the next.
    """

    group = GROUP
    source = PROCESSED

    def __init__(
        self,
        store: Store,
        catalogues: Callable[[str], Catalogue],
        grace_s: int,
        partition: int = 0,
        *,
        partitions: int = 1,
        derived: Sequence[Derived] = (),
        tell: bool = False,
        at_once: int = WINDOWS,
    ) -> None:
        self._store = store
        self._catalogues = catalogues
        self._grace_us = grace_s * SECOND
        self._partition, self._partitions = partition, partitions
        self._derived = tuple(derived)
        self._tell = tell
        self._at_once = at_once
        self._watched: tuple[str, Watched] | None = None
        self._areas = Areas(store, partitions, self._grace_us)
        self._neighbours = Neighbours(store, partitions)
        self._elsewhere: set[AreaPeriod] = set()
        self._verdicts: dict[int, list[pa.RecordBatch]] = {}
        self.restore(None)

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up the touched windows."""
        self._names = SeriesNames()
        self._touched = Touched()
        self._plan: Plan | None = None
        self._origin = -1
        self._emitted = -1
        self._made: Made = {}
        self._areas.restore({})
        self._neighbours.restore(())
        if parts:
            arrays, values = unpack(parts[_MAIN])
            self._areas.restore(values.get(AREAS, {}))
            self._neighbours.restore(values.get(NEIGHBOURS, ()))
            self._origin, self._emitted = values["origin"], values["emitted"]
            self._names = SeriesNames([(i, *key) for i, key in enumerate(values["keys"])])
            self._touched = Touched.unpack(arrays, values["windows"], len(self._names))

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Return touched windows, the names of their series, and the newest frames that came in and went out."""
        arrays, windows, used = self._touched.pack()
        values = {
            "keys": [self._names.keys[s] for s in used.tolist()],
            "windows": windows,
            "origin": self._origin,
            "emitted": self._emitted,
            AREAS: self._areas.saved(),
            NEIGHBOURS: self._neighbours.saved(),
        }
        return {_MAIN: pack(arrays, values)}, []

    def oldest_touched_us(self) -> int | None:
        """Return the end of the oldest window that waits to be evaluated; None when none does."""
        return min((window.end for window in self._touched.windows), default=None)

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Touch windows; at a tick, evaluate those that are due."""
        del only
        ticks = frame.header["ticks"]
        origin = frame.origin
        assert origin is not None
        if origin[1] <= self._origin:
            return {}
        if ticks and self._store.progress(PROCESSED, self._partition).origin < origin[1]:
            raise RetryLater("等待入库 / derive waits for the store", retry_after_s=0.1)
        before = (self._touched.copy(), self._areas.saved(), self._neighbours.saved()) if ticks else None
        self._made, self._elsewhere, self._verdicts = {}, set(), {}
        try:
            rows = self._follow(frame, ticks)
        except RetryLater:
            # The store refuses half-way: the whole frame is done again, from what was touched before it.
            assert before is not None
            self._touched = before[0]
            self._areas.restore(before[1])
            self._neighbours.restore(before[2])
            raise
        self._origin = origin[1]
        if not ticks:
            return {}
        clock_us, _, catalogue = ticks[-1]
        if not rows:
            return self._to_tell(clock_us, catalogue)
        self._emitted = offset
        header = {"stream": FIGURES, "clock": clock_us, "catalogue": catalogue, "origin": [self._partition, offset]}
        figures = records.encode(header, {"figures": _batch(rows)})
        out: Outputs = {FIGURES: figures, **self._told(rows, clock_us, catalogue)}
        out |= self._to_tell(clock_us, catalogue)
        if self._tell and self._elsewhere:
            periods = sorted(self._elsewhere)
            out[RAW, 0] = tell_areas(Told(self._partition, ticks[-1][1], offset, periods), clock_us, catalogue)
        return out

    def joins(self, frame: Frame) -> int:
        """Return 1 for a frame that only touches windows, however many rows it has: all are touched at once."""
        return 0 if frame.header["ticks"] or AREAS in frame.header else 1

    def apply_joined(self, frames: Sequence[tuple[int, Frame]]) -> list[Outputs]:
        """Touch windows; see the contract."""
        new: list[pa.RecordBatch] = []
        newest = self._origin
        for _, frame in frames:
            origin = frame.origin
            assert origin is not None
            if origin[1] > newest:
                newest = origin[1]
                if (batch := frame.get("readings")) is not None:
                    new.append(batch)
        if new:
            self._touch(*new)
        self._origin = newest
        return [{} for _ in frames]

    def _told(self, rows: Sequence[Row], clock_us: int, version: str) -> Outputs:
        """Return the raw frame that tells the pass what its rules watch; it may be told again after a kill."""
        if not self._tell:
            return {}
        facts = self._watching(version).among(rows)
        return {RAW: told(facts, clock_us, version)} if facts else {}

    def _watching(self, version: str) -> Watched:
        if self._watched is None or self._watched[0] != version:
            self._watched = version, Watched(self._use(version).catalogue)
        return self._watched[1]

    def _follow(self, frame: Frame, ticks: Sequence[tuple[int, int, str]]) -> list[Row]:
        """Touch and evaluate in the order of raw rows, so that it makes no difference how frames were cut."""
        batch = frame.get("readings")
        revision = np.zeros(0, np.int64) if batch is None else np.asarray(batch.column("revision"))
        # What was told once names frames of the run that told it: a replay has others.
        told = frame.header.get(AREAS, ()) if self._tell else ()
        heard = [(position, read_areas(args)) for position, args in told]
        rows: list[Row] = []
        done = -1
        for clock_us, at, version in ticks:
            # What stands behind the tick in its frame is not part of what is evaluated at it.
            if batch is not None:
                self._touch(batch.filter(pa.array((revision > done) & (revision <= at))))
            for _, some in (one for one in heard if done < one[0] <= at):
                self._areas.hear(some)
            made = self._evaluate_due(clock_us, at, version) + self._evaluate_areas(clock_us, at, version)
            rows += [{**row, "revision": at, "known": clock_us} for row in made]
            done = at
        for _, some in (one for one in heard if one[0] > done):
            self._areas.hear(some)
        if batch is not None:
            self._touch(batch.filter(pa.array(revision > done)) if ticks else batch)
        return rows

    def _touch(self, *batches: pa.RecordBatch) -> None:
        series = self._names.numbers(*batches)
        times = np.concatenate([times_of(batch.column("time")) for batch in batches])
        self._touched.readings(series, times, len(self._names))

    def _evaluate_due(self, clock_us: int, at: int, version: str) -> list[Row]:
        """Evaluate what a tick at position ``at`` makes due, from the lowest level up.

        A level is looked at only when nothing below it is due any more: then all its parts are made.
        """
        if not self._touched.bins and not any(
            w.end + self._grace_us <= clock_us for w in self._touched.windows
        ):  # usual
            return []
        plan = self._use(version)
        plan.sort_in(self._touched)
        out: list[Row] = []
        room = self._at_once
        for level in range(len(plan.rules.levels)):
            due = self._touched.due(level, clock_us, self._grace_us, room)
            if not due:
                continue
            room -= sum(len(series) for _, series in due)
            rows = self._evaluate(level, [(w, s[plan.still(w, s)]) for w, s in due], at, plan)
            self._touch_groups(due, plan)
            for window, series in due:
                self._touched.done(window, series)
            self._touch_above(rows, due, plan)
            out += self._with_derived(rows, at, plan)
            if room <= 0:
                break
        return out

    def _evaluate(self, level: int, due: Due, at: int, plan: Plan) -> list[Row]:
        some = [(window, series) for window, series in due if len(series)]
        if not some:
            return []
        if plan.rules.levels[level].below == READINGS:
            rows = FromReadings(self._store, plan, self._names, at).rows(some)
        else:
            self._await_figures()
            rows = FromParts(self._store, plan, self._names, at, self._made).rows(some)
        self._remember(rows)
        return rows

    def _await_figures(self) -> None:
        """Go on only when the store has all figures that were made before this frame."""
        if self._store.progress(FIGURES, self._partition).origin < self._emitted:
            raise RetryLater("等待指标入库 / derive waits for the store to take its figures", retry_after_s=0.1)

    def _remember(self, rows: Sequence[Row]) -> None:
        for row in rows:
            made = self._made.setdefault(row["what"], {})
            old = made.get((row["key"], row["start"]))
            if old is None or published(old) != published(row):
                made[row["key"], row["start"]] = row

    def _touch_above(self, rows: Sequence[Row], due: Due, plan: Plan) -> None:
        """Touch what is made of the figures of a level."""
        level = due[0][0].level
        if not plan.above[level]:
            return
        by: dict[int, set[int]] = {}
        for row in rows:
            if row["what"] == plan.rules.levels[level].name:
                number = self._names.number(row["key"])
                assert number is not None
                by.setdefault(row["start"], set()).add(number)
        for window, series in due:
            made = by.get(window.start, set())
            some = np.array([s for s in series.tolist() if s in made], np.int64)
            if len(some):
                plan.touch_above(self._touched, window, some)

    def _with_derived(self, rows: list[Row], at: int, plan: Plan) -> list[Row]:
        if not self._derived or not rows:
            return rows
        self._await_figures()
        levels = {level.name for level in plan.rules.levels}
        own = [row for row in rows if row["what"] in levels]
        more = Hooks(self._store, plan, at, self._made).rows(self._derived, own)
        self._remember(more)
        for entry in self._derived:
            if isinstance(entry, OfAreas):
                periods = entry.touched_areas(plan.catalogue, more)
                if self._partition:
                    self._elsewhere |= periods
                else:
                    self._areas.touch(periods)
        return rows + more

    def _evaluate_areas(self, clock_us: int, at: int, version: str) -> list[Row]:
        """Evaluate the areas that were touched, of the figures that all partitions have made."""
        due = self._areas.due(clock_us)
        if not due:
            return []
        self._judge_groups([period for period in due if is_group(period)], clock_us, at, version)
        due = [period for period in due if not is_group(period)]
        if not due:
            return []
        self._await_figures()
        catalogue = self._use(version).catalogue
        out: list[Row] = []
        for entry in self._derived:
            if isinstance(entry, OfAreas):
                out += self._areas.rows(entry, catalogue, due, at, self._made)
        self._areas.done(due)
        return out

    def _touch_groups(self, due: Due, plan: Plan) -> None:
        """Touch the periods in which stations are compared with their neighbours."""
        if self._tell:
            periods = self._neighbours.touched(due, plan, self._names)
            if self._partition:
                self._elsewhere |= periods
            else:
                self._areas.touch(periods)

    def _judge_groups(self, due: Sequence[AreaPeriod], clock_us: int, at: int, version: str) -> None:
        """Compare stations with their neighbours, and tell the pass of their partitions what it must revise."""
        now, gone = self._neighbours.mine(due, self._use(version), clock_us)
        self._areas.done(gone)
        if not now:
            return
        judged = self._neighbours.judge(now, self._areas.heard(at), clock_us)
        self._revise(now, judged, clock_us)
        of: dict[int, list[Fact]] = {}
        for fact in self._watching(version).among(judged.differences):
            of.setdefault(partition_of(fact.station, self._partitions), []).append(fact)
        for partition, facts in of.items():
            self._verdicts.setdefault(partition, []).append(fact_row(facts, clock_us))

    def _revise(self, periods: Sequence[AreaPeriod], judged: Judged, clock_us: int) -> None:
        """Tell the passes which readings get another flag; what the store does not show yet stays touched."""
        del periods
        self._areas.done(judged.done)
        for partition, verdicts in judged.told.items():
            row = command_row(clock_us, NEIGHBOURS, "system", {"verdicts": verdicts})
            self._verdicts.setdefault(partition, []).append(row)

    def _to_tell(self, clock_us: int, version: str) -> Outputs:
        """Encode what the passes of the partitions must be told of neighbours."""
        return {
            (RAW, partition): raw_frame(rows, gateway="", catalogue=version, clock_us=clock_us)
            for partition, rows in self._verdicts.items()
        }

    def _use(self, version: str) -> Plan:
        """Return the plan for a catalogue and all series that were seen."""
        plan = self._plan
        if plan is None or plan.catalogue.version != version:
            plan = self._new_plan(self._catalogues(version))
        elif plan.size < len(self._names):
            plan = self._new_plan(plan.catalogue)
        self._plan = plan
        return plan

    def _new_plan(self, catalogue: Catalogue) -> Plan:
        return Plan(catalogue, self._names)


def ticks_needed(readings: int) -> int:
    """Return at how many ticks all that so many readings touch is evaluated."""
    return readings * WINDOWS_OF_A_READING // WINDOWS + 2


def _batch(rows: list[Row]) -> pa.RecordBatch:
    def names(values: list[str]) -> Any:
        return pa.array(values, pa.string()).dictionary_encode()

    return records.batch(
        records.FIGURE_ROWS,
        {
            "what": names([r["what"] for r in rows]),
            "station": names([r["key"][0] for r in rows]),
            "property": names([r["key"][1] for r in rows]),
            "channel": names([r["key"][2] for r in rows]),
            "start": records.times(np.array([r["start"] for r in rows], np.int64)),
            "value": np.array([r["value"] for r in rows], np.float64),
            "count": np.array([r["count"] for r in rows], np.int32),
            "expected": np.array([r["expected"] for r in rows], np.int32),
            "valid": np.array([r["valid"] for r in rows], np.bool_),
            "reason": names([r["reason"] for r in rows]),
            "inputs": [orjson.dumps(r["inputs"]).decode() for r in rows],
            "revision": np.array([r["revision"] for r in rows], np.int64),
            "known_at": records.times(np.array([r["known"] for r in rows], np.int64)),
        },
    )


__all__ = ["SECTIONS", "Derive", "Window", "ticks_needed"]
