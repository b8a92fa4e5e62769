"""Threshold rules: a value beyond a level, with hysteresis and hold.

A level is reached when met exactly. With ``hold_s`` the value must stay beyond it for that long in event time; the
alert then opens with, or rises to, the highest level that was held all the while. The level falls only when the value
is ``hysteresis`` on the good side. An alert whose opening reading is later flagged 3 or 4 is withdrawn. Only fresh
readings with flag 1 or 2 count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.batch import Batch, alert_id
from processors.plan import Plan, carry
from qingtu.catalogue_model import LEVELS, ThresholdRule
from qingtu.clock import SECOND
from qingtu.contracts import Transition
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_SINCE: Final = tuple(f"since_{level}" for level in LEVELS)
"""Since when a level above the standing one has been met without a break, µs UTC; 0: it is not."""
_STATE: Final = np.dtype([("level", "u1"), ("opened", "<i8"), ("acknowledged", "u1"), *((n, "<i8") for n in _SINCE)])
_RANKS: Final = np.arange(1, len(LEVELS) + 1, dtype=np.uint8)


class Threshold:
    """All threshold alerts. A *watch* is one rule on one series; watches are sorted by series."""

    def __init__(self) -> None:
        self._state = np.zeros(0, _STATE)
        self._rules: list[ThresholdRule] = []
        self._keys: list[tuple[str, int]] = []

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        before, old_keys, old_state = getattr(self, "_plan", None), self._keys, self._state
        self._plan = plan
        watches = sorted(
            (
                (i, rule)
                for rule in plan.catalogue.rules
                if isinstance(rule, ThresholdRule)
                for i in self._series_of(plan, rule)
            ),
            key=lambda watch: (watch[0], watch[1].id),
        )
        self._rules = [rule for _, rule in watches]
        self._series = np.array([i for i, _ in watches], np.int32)
        self._keys = [(rule.id, i) for i, rule in watches]
        n = len(plan.catalogue.series)
        self._start = np.searchsorted(self._series, np.arange(n)).astype(np.int64)
        self._count = np.bincount(self._series, minlength=n).astype(np.int64)
        self._sign = np.array([1.0 if r.direction == "above" else -1.0 for r in self._rules])
        limits = [[r.levels.get(level, np.nan) for level in LEVELS] for r in self._rules]
        self._limits = np.array(limits, np.float64).reshape(-1, len(LEVELS))
        signed = self._limits * self._sign[:, None]
        self._enter = np.where(np.isnan(signed), np.inf, signed)
        self._leave = self._enter - np.array([r.hysteresis for r in self._rules])[:, None]
        self._hold_us = np.array([r.hold_s * SECOND for r in self._rules], np.int64)
        self._state = np.zeros(len(watches), _STATE)
        if source is None or before is None:
            return []
        return self._carry(before, source, old_keys, old_state, at_us, revision)

    @staticmethod
    def _series_of(plan: Plan, rule: ThresholdRule) -> list[int]:
        stations = [s.id for s in plan.catalogue.stations.values() if rule.where.covers(s)]
        found = (plan.catalogue.series_index(s, rule.property, rule.channel) for s in stations)
        return [i for i in found if i is not None]

    def _carry(
        self,
        before: Plan,
        source: NDArray[np.int64],
        old_keys: list[tuple[str, int]],
        old_state: NDArray[Any],
        at_us: int,
        revision: int,
    ) -> list[Transition]:
        old = {key: w for w, key in enumerate(old_keys)}
        taken = np.array([old.get((rule, int(source[i])), -1) for rule, i in self._keys], np.int64)
        self._state = carry(old_state, taken, self._state)
        gone = set(np.flatnonzero(old_state["level"]).tolist()) - set(taken.tolist())
        out = []
        for w in sorted(gone):
            rule, i = old_keys[w]
            s, opened = before.catalogue.series[i], int(old_state["opened"][w])
            out.append(
                Transition(
                    alert_id(rule, s.station, s.property, s.channel, opened), rule, s.station, s.property, s.channel,
                    0, "resolved", at_us, opened, np.nan, np.nan, revision, at_us, {"why": "catalogue changed"},
                )
            )  # fmt: skip
        return out

    def on_readings(self, batch: Batch) -> list[Transition]:
        """Look at a pass of judged readings."""
        if not len(self._state):
            return []
        judged = batch.judged
        bad = judged.again_flag >= Flag.SUSPECT
        struck = dict(zip(judged.again_by[bad].tolist(), judged.again_time_us[bad].tolist(), strict=True))
        counts = ~judged.late & (judged.flag <= Flag.NOT_EVALUATED)
        counts[judged.again_by[bad]] = True
        rows = np.flatnonzero(counts & (self._count[batch.series] > 0))
        n = self._count[batch.series[rows]]
        pair_row = np.repeat(rows, n)
        first = np.cumsum(n) - n
        watch = self._start[batch.series[pair_row]] + np.arange(len(pair_row)) - np.repeat(first, n)
        signed = (batch.value[pair_row] * self._sign[watch])[:, None]
        met = ((signed >= self._enter[watch]) * _RANKS).max(axis=1, initial=0)
        kept = ((signed >= self._leave[watch]) * _RANKS).max(axis=1, initial=0)
        level = self._state["level"][watch]
        waiting = np.logical_or.reduce([self._state[name] > 0 for name in _SINCE])
        stirred = (met > level) | (kept < level) | waiting[watch]
        if struck:
            stirred |= np.isin(pair_row, list(struck))
        if not stirred.any():
            return []
        # Few watches are stirred; each goes through its readings one by one, as if they had come alone.
        mine = np.flatnonzero(np.isin(watch, np.unique(watch[stirred])))
        out: list[Transition] = []
        for p in mine[np.lexsort((watch[mine], pair_row[mine]))].tolist():
            row, w = int(pair_row[p]), int(watch[p])
            if row in struck:
                out.extend(self._withdraw(w, struck[row], batch, row))
            if not judged.late[row] and judged.flag[row] <= Flag.NOT_EVALUATED:
                out.extend(self._step(w, int(met[p]), int(kept[p]), batch, row))
        return sorted(out, key=lambda t: (t.revision, t.rule))

    def _step(self, w: int, met: int, kept: int, batch: Batch, row: int) -> list[Transition]:
        state, time = self._state[w], int(batch.time_us[row])
        level = int(state["level"])
        # Each level above the standing one is held on its own: a higher one may have been met later.
        to, began = level, 0
        for rank, name in enumerate(_SINCE, 1):
            if not level < rank <= met:
                state[name] = 0
                continue
            if not state[name]:
                state[name] = time
            if time - int(state[name]) >= self._hold_us[w]:
                to, began = rank, int(state[name])
        if to > level:
            if not level:
                state["opened"] = time
            state["level"], state["acknowledged"] = to, 0
            for name in _SINCE[:to]:
                state[name] = 0
            return [self._transition(w, to, "open", batch, row, held_s=(time - began) / SECOND)]
        if kept < level:
            state["level"] = kept
            name = "resolved" if not kept else "acknowledged" if state["acknowledged"] else "open"
            return [self._transition(w, kept, name, batch, row)]
        return []

    def _withdraw(self, w: int, struck_us: int, batch: Batch, row: int) -> list[Transition]:
        state = self._state[w]
        for name in _SINCE:
            if int(state[name]) == struck_us:
                state[name] = 0
        if not state["level"] or int(state["opened"]) != struck_us:
            return []
        out = self._transition(w, 0, "withdrawn", batch, row, why="the opening reading was flagged")
        state["level"] = 0
        for name in _SINCE:
            state[name] = 0
        return [out]

    def _transition(self, w: int, level: int, name: str, batch: Batch, row: int, **evidence: Any) -> Transition:
        rule, s = self._rules[w], self._plan.catalogue.series[self._series[w]]
        opened = int(self._state["opened"][w])
        limits = self._limits[w]
        # A level can be one that the rule does not have (any more), and 0: then its lowest is told.
        limit = limits[level - 1] if level and not np.isnan(limits[level - 1]) else limits[~np.isnan(limits)][0]
        return Transition(
            alert=alert_id(rule.id, s.station, s.property, s.channel, opened),
            rule=rule.id, station=s.station, property=s.property, channel=s.channel,
            level=level, state=name, time_us=int(batch.time_us[row]), opened_us=opened,
            value=float(batch.value[row]), limit=float(limit),
            revision=int(batch.revision[row]), known_us=int(batch.known_us[row]),
            evidence={"direction": rule.direction, "hysteresis": rule.hysteresis, "unit": s.unit, **evidence},
        )  # fmt: skip

    def on_heard(
        self, station: NDArray[np.int32], received_us: NDArray[np.int64], revision: NDArray[np.int64]
    ) -> list[Transition]:
        """Nothing to do: only values count here."""
        del station, received_us, revision
        return []

    def on_tick(self, clock_us: int, hearing: Mapping[str, int], revision: int) -> list[Transition]:
        """Nothing to do: event time alone counts here."""
        del clock_us, hearing, revision
        return []

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        for w in np.flatnonzero(self._state["level"]).tolist():
            rule, s = self._rules[w], self._plan.catalogue.series[self._series[w]]
            opened = int(self._state["opened"][w])
            if alert_id(rule.id, s.station, s.property, s.channel, opened) != alert:
                continue
            if name == "acknowledge":
                self._state["acknowledged"][w] = 1
            state = {"acknowledge": "acknowledged", "comment": "comment"}[name]
            return Transition(
                alert, rule.id, s.station, s.property, s.channel, int(self._state["level"][w]), state,
                at_us, opened, np.nan, np.nan, revision, at_us, {}, who, note,
            )  # fmt: skip
        return None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the state of all watches."""
        return {"watches": self._state}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._state = arrays["watches"]
