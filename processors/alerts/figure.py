"""Figure rules: an hour, day or index value beyond a level, with hysteresis.

Figures are made by derive, behind the store; alerts by the ordered pass. What derive published comes to the pass as a
row of raw (:mod:`processors.alerts.facts`), so raw alone decides which alerts there are, and replay decides the same.
A figure that does not hold (too few readings) raises and ends nothing. When the figure that opened an alert is
corrected to below the level, the alert is withdrawn. A figure of a station under maintenance opens and raises nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.batch import Unmoved, alert_id
from processors.plan import Plan, carry
from qingtu.catalogue_rules import FigureRule
from qingtu.catalogue_words import LEVELS
from qingtu.contracts import Transition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from processors.alerts.facts import Fact

_STATE: Final = np.dtype(
    [("level", "u1"), ("acknowledged", "u1"), ("opened", "<i8"), ("newest", "<i8"), ("seen", "<i8", 2)]
)
"""``newest``: latest period start that counted; ``seen``: (revision, start) of the fact looked at last."""
_NOT: Final = -(1 << 62)


class Figure(Unmoved):
    """All alerts on figures. A *watch* is one rule on one station."""

    def __init__(self) -> None:
        self._rules: list[FigureRule] = []
        self._keys: list[tuple[str, str]] = []
        self._state = _empty(0)

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        old_rules, old_keys, old_state = self._rules, self._keys, self._state
        rules = [rule for rule in plan.catalogue.rules if isinstance(rule, FigureRule)]
        watches = [
            (rule, station.id)
            for rule in rules
            for station in plan.catalogue.stations.values()
            if station.id in plan.mine and rule.where.covers(station)
        ]
        self._rules = [rule for rule, _ in watches]
        self._keys = [(rule.id, station) for rule, station in watches]
        self._watches: dict[tuple[str, str, str, str], list[int]] = {}
        for w, (rule, station) in enumerate(watches):
            self._watches.setdefault((station, rule.what, rule.property, rule.channel), []).append(w)
        self._state = _empty(len(watches))
        if source is None:
            return []
        old = {key: w for w, key in enumerate(old_keys)}
        taken = np.array([old.get(key, -1) for key in self._keys], np.int64)
        self._state = carry(old_state, taken, self._state)
        gone = set(np.flatnonzero(old_state["level"]).tolist()) - set(taken.tolist())
        return [
            _transition(
                old_rules[w],
                old_keys[w][1],
                old_state[w],
                "resolved",
                (at_us, at_us, revision),
                why="catalogue changed",
            )._replace(level=0)
            for w in sorted(gone)
        ]

    def on_figures(self, facts: Sequence[Fact], held: Sequence[bool], at_us: int, revision: int) -> list[Transition]:
        """Look at figures that derive published; one that is told again changes nothing. See the contract."""
        out: list[Transition] = []
        for fact, quiet in zip(facts, held, strict=True):
            for w in self._watches.get((fact.station, fact.what, fact.property, fact.channel), ()):
                done = self._look(w, fact, at_us, revision, held=quiet)
                if done is not None:
                    out.append(done)
        return out

    def _look(self, w: int, fact: Fact, at_us: int, revision: int, *, held: bool) -> Transition | None:
        state, rule = self._state[w], self._rules[w]
        if (fact.revision, fact.start_us) <= tuple(state["seen"].tolist()):
            return None  # derive was killed and tells it again
        state["seen"] = (fact.revision, fact.start_us)
        standing = int(state["level"])
        holds = fact.value is not None and fact.valid
        met, kept = _levels(rule, fact.value) if holds and fact.value is not None else (0, 0)
        met_now = min(met, standing) if held else met
        name, level, why = "", standing, {}
        if standing and fact.start_us == int(state["opened"]) and not met:
            name, level, why = "withdrawn", 0, {"why": "the opening figure was corrected"}
        elif not holds or fact.start_us < int(state["newest"]):
            return None
        elif met_now > standing:
            if not standing:
                state["opened"] = fact.start_us
            name, level, state["acknowledged"] = "open", met_now, 0
        elif kept < standing:
            name, level = "acknowledged" if state["acknowledged"] else "open", kept
            name = name if kept else "resolved"
        state["newest"] = max(int(state["newest"]), fact.start_us)
        if not name:
            return None
        state["level"] = level
        evidence = {"what": fact.what, "start_us": fact.start_us, "figure_revision": fact.revision, **why}
        done = _transition(rule, self._keys[w][1], state, name, (fact.start_us, at_us, revision), **evidence)
        return done._replace(value=float("nan") if fact.value is None else fact.value)

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        for w in np.flatnonzero(self._state["level"]).tolist():
            rule, state = self._rules[w], self._state[w]
            told = {"acknowledge": "acknowledged", "comment": "comment"}[name]
            done = _transition(rule, self._keys[w][1], state, told, (at_us, at_us, revision))
            if done.alert == alert:
                if name == "acknowledge":
                    state["acknowledged"] = 1
                return done._replace(limit=float("nan"), who=who, note=note)
        return None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the state of all watches."""
        return {"watches": self._state}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._state = arrays["watches"]


def _empty(n: int) -> NDArray[Any]:
    state = np.zeros(n, _STATE)
    state["newest"] = _NOT
    state["seen"] = _NOT
    return state


def _levels(rule: FigureRule, value: float) -> tuple[int, int]:
    """Return the highest level that a value meets, and the highest that it has not left."""
    sign = 1.0 if rule.direction == "above" else -1.0
    met = kept = 0
    for rank, level in enumerate(LEVELS, 1):
        if level in rule.levels:
            enter = sign * rule.levels[level]
            met = rank if sign * value >= enter else met
            kept = rank if sign * value >= enter - rule.hysteresis else kept
    return met, kept


def _transition(
    rule: FigureRule, station: str, state: Any, name: str, at: tuple[int, int, int], **evidence: Any
) -> Transition:
    """Make a transition to the level of ``state``; ``at`` is (time of what caused it, known at, revision)."""
    time_us, known_us, revision = at
    level, opened = int(state["level"]), int(state["opened"])
    limit = rule.levels.get(LEVELS[level - 1]) if level else None
    if limit is None:  # resolved, or a level that the rule has no more: its lowest is told
        limit = next(rule.levels[one] for one in LEVELS if one in rule.levels)
    return Transition(
        alert_id(rule.id, station, rule.property, rule.channel, opened), rule.id, station, rule.property, rule.channel,
        level, name, time_us, opened, float("nan"), float(limit), revision, known_us, evidence,
    )  # fmt: skip
