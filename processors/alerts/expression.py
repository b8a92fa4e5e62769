"""Expression rules: CEL over the newest readings of a station (:mod:`qingtu.expressions` checks it on load).

``KEY`` is the newest fresh reading of a property with flag 1 or 2 on channel main, ``KEY_age`` its age in seconds,
``KEY_flag`` the flag of the newest fresh reading, whatever it is. Ages are in event time, up to the newest reading
that the expression names. It is evaluated once for each message with a reading that it names; not while one of them is
missing or older than ``max_age_s``, which leaves the alert as it is.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.batch import Unmoved
from processors.alerts.ladder import Ladder, Moment, Watch, levels_of, one_level
from processors.alerts.schedule import Schedules, Zones
from processors.alerts.watching import counted, moment_of
from qingtu.catalogue_rules import ExpressionRule
from qingtu.clock import SECOND
from qingtu.expressions import Expression, compiled, facts_of
from qingtu.grouped import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cel.cel import Context
    from numpy.typing import NDArray

    from processors.alerts.batch import Batch
    from processors.plan import Plan
    from qingtu.contracts import Transition

_SLOT: Final = np.dtype([("value", "<f8"), ("time", "<i8"), ("flag", "u1"), ("seen", "<i8")])


class _Slots:
    """What is known of each slot; lists, because CEL takes one value after the other.

    Attributes:
        value, time: of the newest good reading; time NEVER: there was none.
        flag, seen: flag and time of the newest fresh reading.
    """

    def __init__(self, n: int) -> None:
        self.value: list[float] = [np.nan] * n
        self.time: list[int] = [NEVER] * n
        self.flag: list[int] = [0] * n
        self.seen: list[int] = [NEVER] * n

    def take(self, rows: NDArray[Any], at: Sequence[int]) -> None:
        """Put saved rows into places."""
        for name in _SLOT.names or ():
            column = getattr(self, name)
            for place, value in zip(at, rows[name].tolist(), strict=True):
                column[place] = value

    def rows(self) -> NDArray[Any]:
        """Return all of it, to be saved."""
        out = np.zeros(len(self.value), _SLOT)
        for name in _SLOT.names or ():
            out[name] = getattr(self, name)
        return out


class ExpressionKind(Unmoved):
    """All expression alerts. A watch is one rule on one station; a slot is one property that a watch names."""

    def __init__(self) -> None:
        self._ladder = Ladder([], levels_of([]))
        self._slots = _Slots(0)
        self._busy: set[int] = set()
        """Watches with an alert, or with a condition that is being held."""
        self._slot_keys: list[tuple[str, str, str]] = []

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        old, old_slots, old_keys = self._ladder, self._slots, self._slot_keys
        self._expressions: list[Expression] = []
        self._contexts: list[Context] = []
        watches: list[Watch] = []
        keys: list[tuple[str, str, str]] = []
        of_series: list[tuple[int, int, int]] = []
        self._used: list[list[tuple[str, int, str]]] = []  # of each watch: names, their slots, and what of them
        for rule in (r for r in plan.catalogue.rules if isinstance(r, ExpressionRule)):
            expression = compiled(rule.when)
            for station in plan.catalogue.stations.values():
                series = [plan.catalogue.series_index(station.id, key) for key in expression.properties]
                facts = facts_of(expression, station) if rule.where.covers(station) else None
                known = [i for i in series if i is not None]
                if facts is None or len(known) < len(series):
                    continue
                self._used.append(_used(expression, len(keys)))
                of_series += [(i, len(watches), len(keys) + k) for k, i in enumerate(known)]
                keys += [(rule.id, station.id, key) for key in expression.properties]
                watches.append(Watch(rule, station.id))
                self._expressions.append(expression)
                self._contexts.append(_context(facts))
        self._schedules = Schedules(Zones(plan, watches), watches)
        self._ladder = Ladder(watches, one_level([w.rule for w in watches], [1.0] * len(watches)))
        self._rank = [int(self._ladder.met(np.array([w]), np.ones(1))[0]) for w in range(len(watches))]
        self._max_age_us = [round(w.rule.max_age_s * SECOND) for w in watches]
        self._named: dict[int, list[tuple[int, int]]] = {}
        for i, w, slot in of_series:
            self._named.setdefault(i, []).append((w, slot))
        self._watched = np.zeros(len(plan.catalogue.series), np.bool_)
        self._watched[list(self._named)] = True
        self._slot_keys, self._slots, self._busy = keys, _Slots(len(keys)), set()
        if source is None:
            return []
        number = {key: n for n, key in enumerate(old_keys)}
        kept = [(place, number[key]) for place, key in enumerate(keys) if key in number]
        self._slots.take(old_slots.rows()[[old for _, old in kept]], [new for new, _ in kept])
        _, out = self._ladder.adopt(old, at_us, revision)
        self._note_busy()
        return out

    def _note_busy(self) -> None:
        self._busy = set(np.flatnonzero(self._ladder.awake()).tolist())

    def on_readings(self, batch: Batch) -> list[Transition]:
        """Look at a pass of judged readings, message by message."""
        if not self._contexts:
            return []
        good, struck = counted(batch, every_flag=False)
        rows = np.flatnonzero(~batch.judged.late & self._watched[batch.series])
        if not len(rows):
            return []
        rows = rows[np.argsort(batch.revision[rows], kind="stable")]
        edges = np.flatnonzero(np.diff(batch.revision[rows], prepend=-1, append=-1)).tolist()
        none = np.full(len(rows), NEVER) if struck is None else struck[rows]
        columns = (
            batch.series[rows],
            batch.time_us[rows],
            batch.value[rows],
            batch.judged.flag[rows],
            good[rows],
            none,
        )
        readings = list(zip(*(column.tolist() for column in columns), strict=True))
        out: list[Transition] = []
        for start, end in itertools.pairwise(edges):
            row = int(rows[start])
            held = batch.held is not None and bool(batch.held[row])
            out.extend(self._message(readings[start:end], moment_of(batch, row), held=held))
        return out

    def _message(self, readings: list[tuple[Any, ...]], moment: Moment, *, held: bool) -> list[Transition]:
        """Take up the readings of one message, then evaluate what names them."""
        out: list[Transition] = []
        newest: dict[int, int] = {}
        slots = self._slots
        for series, time, value, flag, good, struck_us in readings:
            for w, slot in self._named[series]:
                if struck_us != NEVER:
                    out.extend(self._strike(w, slot, struck_us, moment._replace(time_us=time)))
                slots.seen[slot], slots.flag[slot] = time, flag
                if good:
                    slots.value[slot], slots.time[slot] = value, time
                newest[w] = max(time, newest.get(w, NEVER))
        for w in sorted(newest):
            out.extend(self._evaluate(w, moment._replace(time_us=newest[w]), held=held))
        return out

    def _strike(self, w: int, slot: int, struck_us: int, moment: Moment) -> list[Transition]:
        if self._slots.time[slot] == struck_us:
            self._slots.value[slot], self._slots.time[slot] = np.nan, NEVER
        if not self._ladder.withdraw(w, struck_us):
            return []
        why = "a reading of the opening message was flagged"
        return [self._ladder.transition(w, 0, "withdrawn", moment, why=why)]

    def _evaluate(self, w: int, moment: Moment, *, held: bool) -> list[Transition]:
        values = self._values(w)
        if values is None:
            return []
        context = self._contexts[w]
        for name, value in values.items():
            context.add_variable(name, value)
        rank = self._rank[w] if self._expressions[w].program.execute(context) else 0
        if not rank and w not in self._busy:
            return []
        inside = self._schedules.hold(np.array([w]), np.array([moment.time_us]))
        if inside is not None and not inside[0]:
            rank = 0
        level = int(self._ladder.state["level"][w])
        done = self._ladder.step(w, min(rank, level) if held else rank, rank, moment)
        (self._busy.add if rank else self._busy.discard)(w)
        if done is None:
            return []
        seen = {"when": self._ladder.watches[w].rule.when, "values": values}
        return [self._ladder.transition(w, done[0], done[1], moment, **seen, **done[2])]

    def _values(self, w: int) -> dict[str, float] | None:
        """Return what the expression is told of readings; None while it cannot be evaluated."""
        slots, used = self._slots, self._used[w]
        now = max(slots.seen[slot] for _, slot, _ in used)
        out = {}
        for name, slot, what in used:
            known = slots.seen[slot] if what == "flag" else slots.time[slot]
            if known < now - self._max_age_us[w]:
                return None
            if what == "value":
                out[name] = slots.value[slot]
            else:
                out[name] = (now - known) / SECOND if what == "age" else float(slots.flag[slot])
        return out

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        return self._ladder.command(name, alert, who, note, at_us, revision)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the newest readings of slots, and the state of all watches."""
        return {"slots": self._slots.rows(), "watches": self._ladder.state.rows()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._slots.take(arrays["slots"], range(len(self._slot_keys)))
        self._ladder.restore(arrays["watches"])
        self._note_busy()


def _used(expression: Expression, first: int) -> list[tuple[str, int, str]]:
    slot = {key: first + k for k, key in enumerate(expression.properties)}
    return [
        *((key, slot[key], "value") for key in expression.values),
        *((f"{key}_age", slot[key], "age") for key in expression.ages),
        *((f"{key}_flag", slot[key], "flag") for key in expression.flags),
    ]


def _context(facts: Mapping[str, Any]) -> Context:
    from cel import Context  # noqa: PLC0415 - see qingtu.expressions

    return Context(dict(facts))
