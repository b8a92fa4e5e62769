"""Rules that watch a series: the readings of a pass are shown to each watch one after the other, on arrays.

The k-th reading of every series makes up *round* k. Within a round no watch occurs twice, so a kind works on whole
arrays and yet each watch sees its readings in order, as if they had come alone: that is why results cannot depend on
how batches were cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from processors.alerts.batch import Unmoved
from processors.alerts.ladder import Ladder, Moment, Watch, levels_of
from processors.alerts.schedule import Schedules, Zones
from processors.columns import Columns
from qingtu.grouped import NEVER, follows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from processors.alerts.batch import Batch
    from processors.plan import Plan
    from qingtu.catalogue_rules import AnyRule
    from qingtu.contracts import Transition

NO_MEMORY: Final = np.zeros(1, np.dtype([]))
_NO_LEVEL: Final = np.zeros(0, np.uint8)


class Pairs:
    """Rows of a pass beside the watches of their series: p pairs, by row.

    Attributes:
        row: int64 (p,), of the batch.
        watch: int64 (p,).
        round: int64 (p,), how many rows of the same series come before, in this choice of rows.
    """

    def __init__(
        self, rows: NDArray[np.int64], series: NDArray[np.int64], start: NDArray[np.int64], count: NDArray[np.int64]
    ) -> None:
        n = count[series]
        first = np.cumsum(n) - n
        self.row = np.repeat(rows, n)
        self.watch = np.repeat(start[series] - first, n) + np.arange(len(self.row))
        behind = follows(series)
        if behind.any():
            place = np.arange(len(rows))
            self.round = np.repeat(place - np.maximum.accumulate(np.where(behind, 0, place)), n)
        else:
            self.round = np.zeros(len(self.row), np.int64)

    def only(self, mask: NDArray[np.bool_]) -> Pairs:
        """Return the pairs under the mask (p,)."""
        out = object.__new__(Pairs)
        out.row, out.watch, out.round = self.row[mask], self.watch[mask], self.round[mask]
        return out

    def rounds(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the (watches, rows) of each round."""
        if not len(self.round):
            return
        last = int(self.round.max())
        if not last:
            yield self.watch, self.row
            return
        order = np.argsort(self.round, kind="stable")
        edges = np.searchsorted(self.round[order], np.arange(last + 2))
        for k in range(last + 1):
            part = order[edges[k] : edges[k + 1]]
            yield self.watch[part], self.row[part]


class SeriesKind(Unmoved, ABC):
    """All alerts of one kind of rule on series; a kind says what it measures. See :class:`qingtu.contracts.RuleKind`.

    Attributes:
        model: of its rules.
        memory_row: what a watch remembers as it starts, shape (1,), structured.
        memory: the same of each watch.
        every_flag: the kind looks at all fresh readings, not only at those with flag 1 or 2.
    """

    model: ClassVar[type]
    memory_row: ClassVar[NDArray[Any]] = NO_MEMORY
    every_flag: ClassVar[bool] = False

    def __init__(self) -> None:
        self.ladder = Ladder([], levels_of([]))
        self.memory = Columns(self.memory_row, 0)

    # ------------------------------------------------------------------------------------ what a kind says of itself

    def prepare(self, watches: Sequence[Watch]) -> Ladder:
        """Make arrays of the rules' options, once per catalogue version, and the ladder of the watches."""
        return Ladder(watches, levels_of([w.rule for w in watches]), hysteresis_of(watches))

    @abstractmethod
    def measure(self, w: NDArray[np.int64], batch: Batch, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Measure a round: each watch (n,) sees the reading in its row (n,); memory moves on.

        Returns:
            float64 (n,), to be compared with the levels; NaN where nothing can be said, which changes nothing.
        """

    def strike(self, w: NDArray[np.int64], struck_us: NDArray[np.int64]) -> None:
        """Forget the newest readings (n,), which are flagged 3 or 4 after all, before the next one is measured."""

    @abstractmethod
    def told(self, w: int, batch: Batch, row: int, measure: float, level: int) -> tuple[float, float, dict[str, Any]]:
        """Return value, limit and evidence of a transition, right after the measure."""

    def taken_back(self, w: int, batch: Batch, row: int) -> tuple[float, float, dict[str, Any]]:
        """Return the same for a withdrawal, before the reading that strikes is measured."""
        del w, batch, row
        return np.nan, np.nan, {}

    # ------------------------------------------------------------------------------------------------- the contract

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        watches = watches_of(plan, self.model)
        old, old_memory = self.ladder, self.memory
        self.series = np.array([w.series for w in watches], np.int64)
        n = len(plan.catalogue.series)
        self._start = np.searchsorted(self.series, np.arange(n)).astype(np.int64)
        self._count = np.bincount(self.series, minlength=n).astype(np.int64)
        self._lone = None if (self._count > 1).any() else np.where(self._count, self._start, -1)
        self.unit = [plan.catalogue.series[w.series].unit for w in watches]
        self.interval_s = np.array([plan.catalogue.series[w.series].interval_s for w in watches], np.float64)
        self.zones = Zones(plan, watches)
        self.schedules = Schedules(self.zones, watches)
        self.ladder = self.prepare(watches)
        self.memory = Columns(self.memory_row, len(watches))
        if source is None:
            return []
        taken, out = self.ladder.adopt(old, at_us, revision)
        self.memory.take(old_memory, taken)
        return out

    def on_readings(self, batch: Batch) -> list[Transition]:
        """Look at a pass of judged readings."""
        if not len(self.ladder):
            return []
        counts, struck = counted(batch, self.every_flag)
        if self._lone is not None and struck is None and batch.once:
            # The usual frame has no series twice, and most kinds have no two watches on a series: one round of all.
            watch = self._lone.take(batch.series)
            row = ((watch >= 0) & counts).nonzero()[0]
            return _in_order(self._round(watch.take(row), row, batch)) if len(row) else []
        shown = counts if struck is None else counts | (struck != NEVER)
        rows = np.flatnonzero(shown & (self._count[batch.series] > 0))
        pairs = Pairs(rows, batch.series[rows], self._start, self._count)
        if not self.memory:
            pairs = self._stirring(pairs, batch, struck)
        out: list[Transition] = []
        for w, row in pairs.rounds():
            if struck is not None and (hit := struck[row] != NEVER).any():
                out.extend(self._strike(w[hit], row[hit], struck[row[hit]], batch))
                keep = counts[row]
                w, row = w[keep], row[keep]  # noqa: PLW2901 - rows that only strike say nothing else
            out.extend(self._round(w, row, batch))
        return _in_order(out)

    def _stirring(self, pairs: Pairs, batch: Batch, struck: NDArray[np.int64] | None) -> Pairs:
        """Leave only watches of which any reading may change something: without memory the others need no rounds."""
        if not pairs.round.any():
            return pairs
        stirred, _, _, _ = self._levels(pairs.watch, pairs.row, batch)
        mine = np.zeros(len(self.ladder), np.bool_)
        mine[pairs.watch[stirred]] = True
        if struck is not None:
            mine[pairs.watch[struck[pairs.row] != NEVER]] = True
        return pairs.only(mine[pairs.watch])

    def _strike(
        self, w: NDArray[np.int64], row: NDArray[np.int64], struck_us: NDArray[np.int64], batch: Batch
    ) -> list[Transition]:
        self.strike(w, struck_us)
        out = []
        for one, at, time in zip(w.tolist(), row.tolist(), struck_us.tolist(), strict=True):
            if not self.every_flag and self.ladder.withdraw(one, time):
                value, limit, seen = self.taken_back(one, batch, at)
                seen = {**seen, "why": "the opening reading was flagged"}
                moment = moment_of(batch, at)
                out.append(self.ladder.transition(one, 0, "withdrawn", moment, value, limit, **seen))
        return out

    def _levels(
        self, w: NDArray[np.int64], row: NDArray[np.int64], batch: Batch
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return which of n readings may change anything; their measures, and the levels that they meet and keep."""
        measure = self.measure(w, batch, row)
        near = self.ladder.near(w, measure, unmeasured=self.schedules.given)
        if not len(near):
            return near, measure[near], _NO_LEVEL, _NO_LEVEL
        w, row, measure = w[near], row[near], measure[near]
        time = batch.time_us[row]
        met, kept = self.ladder.met(w, measure), self.ladder.kept(w, measure)
        told = ~np.isnan(measure)
        inside = self.schedules.hold(w, time)
        if inside is not None:
            met, kept, told = met * inside, kept * inside, told | ~inside
            measure = np.where(inside, measure, np.nan)
        if batch.held is not None:
            met = np.where(batch.held[row], np.minimum(met, self.ladder.state["level"][w]), met)
        stirred = told & self.ladder.stirred(w, met, kept, time)
        return near[stirred], measure[stirred], met[stirred], kept[stirred]

    def _round(self, w: NDArray[np.int64], row: NDArray[np.int64], batch: Batch) -> list[Transition]:
        stirred, measure, met, kept = self._levels(w, row, batch)
        out = []
        for k, place in enumerate(stirred.tolist()):
            one, at = int(w[place]), int(row[place])
            done = self.ladder.step(one, int(met[k]), int(kept[k]), moment_of(batch, at))
            if done is not None:
                level, name, evidence = done
                value, limit, seen = self.told(one, batch, at, float(measure[k]), level)
                if np.isnan(measure[k]):
                    seen = {**seen, "why": "outside its hours"}
                moment = moment_of(batch, at)
                out.append(self.ladder.transition(one, level, name, moment, value, limit, **seen, **evidence))
        return out

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        return self.ladder.command(name, alert, who, note, at_us, revision)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the state of all watches."""
        return {"watches": self.ladder.state.rows()} | ({"memory": self.memory.rows()} if self.memory else {})

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self.ladder.restore(arrays["watches"])
        if "memory" in arrays:
            self.memory.restore(arrays["memory"])


def _in_order(out: list[Transition]) -> list[Transition]:
    """Sort what a pass caused: of one message that brings several series to one rule, the pass may not decide it."""
    return sorted(out, key=lambda t: (t.revision, t.rule, t.station, t.property, t.channel))


def counted(batch: Batch, every_flag: bool) -> tuple[NDArray[np.bool_], NDArray[np.int64] | None]:
    """Return which readings count, and the time of the reading that each one strikes (NEVER: none); None: no one."""
    return (batch.fresh if every_flag else batch.good), batch.struck


def moment_of(batch: Batch, row: int) -> Moment:
    """Return what a transition that a reading causes must know of it."""
    return Moment(int(batch.time_us[row]), int(batch.revision[row]), int(batch.known_us[row]))


def watches_of(plan: Plan, model: type) -> list[Watch]:
    """Return the watches of all rules of a model, by series and rule."""
    found = []
    for rule in plan.catalogue.rules:
        if isinstance(rule, model):
            covered = {s.id for s in plan.catalogue.stations.values() if rule.where.covers(s)}
            found += [
                Watch(rule, s.station, s.property, s.channel, i)
                for i, s in enumerate(plan.catalogue.series)
                if s.station in covered and _is_for(rule, s.property, s.channel)
            ]
    return sorted(found, key=lambda watch: (watch.series, watch.rule.id))


def _is_for(rule: AnyRule, prop: str, channel: str) -> bool:
    wanted: tuple[str | None, str | None] = getattr(rule, "property", None), getattr(rule, "channel", None)
    return wanted[0] in {None, prop} and wanted[1] in {None, channel}


def hysteresis_of(watches: Sequence[Watch]) -> NDArray[np.float64]:
    """Return (w,): how far below its level a measure must be for the level to fall."""
    return np.array([getattr(w.rule, "hysteresis", 0.0) for w in watches], np.float64)


def option(watches: Sequence[Watch], name: str) -> NDArray[np.float64]:
    """Return an option of each watch's rule, shape (w,); NaN where it is not given."""
    values = [getattr(w.rule, name) for w in watches]
    return np.array([np.nan if v is None else v for v in values], np.float64)
