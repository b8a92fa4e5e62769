"""Situations of random alerts, against a plain reference that looks at the whole past each time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.alerts.batch import alert_id
from processors.alerts.situation import Situation
from processors.plan import Plan
from qingtu.clock import HOUR, MINUTE, SECOND
from qingtu.contracts import Transition
from tests.process.support import T0, catalogue, station

RULES = "xyz"
STATIONS = "ABCDEF"
RIVER = {"B": ["A"], "C": ["B"], "D": ["C", "E"]}
ABOVE = {"B": "A", "C": "AB", "D": "ABCE"}
EAST = {"A": 0.0, "B": 3.0, "C": 6.0, "D": 9.0, "E": 12.0, "F": 40.0}
KM_A_DEGREE = 2 * math.pi * 6371.0088 / 360
DISTRICT = {"A": "370202", "B": "370202", "C": "370203", "D": "370203", "E": None, "F": None}

KINDS: list[dict[str, Any]] = [
    {"rules": ["x", "y"], "place": "network", "stations": 3, "within_s": 1200, "clear_s": 600},
    {"rules": "x", "place": "district", "within_s": 600, "clear_s": 0, "level": "orange"},
    {"properties": "pm25", "place": "radius", "radius_km": 4, "within_s": 1800, "clear_s": 1200},
    {"rules": "x", "then": ["y", "z"], "place": "downstream", "within_s": 1800, "early_s": 300, "clear_s": 300},
]


def made(kind: dict[str, Any]) -> Plan:
    """A catalogue of six stations along the equator under three rules and one situation."""
    blocks = [
        station(name, [{"id": name.lower(), "properties": ["pm25"]}], position=[EAST[name] / KM_A_DEGREE, 0],
                downstream_of=RIVER.get(name, []), **({"district": DISTRICT[name]} if DISTRICT[name] else {}))
        for name in STATIONS
    ]  # fmt: skip
    base = {"kind": "threshold", "zh": "规", "en": "R", "property": "pm25", "levels": {"blue": 1}}
    situation = {"id": "s", "kind": "situation", "zh": "情", "en": "S", **kind}
    return Plan(catalogue(blocks, [*({"id": name, **base} for name in RULES), situation]))


@dataclass
class One:
    """An alert of the reference."""

    ident: str
    station: str
    rule: str
    opened: int
    level: int
    used: bool = False


@dataclass
class Group:
    """An incident of the reference: the keys whose alerts are in it."""

    ident: str
    station: str
    began: int
    keys: set[tuple[str, str]]
    level: int = 0
    calm: int | None = None


@dataclass
class Reference:
    """Says what a situation rule tells, from a list of all alerts that there ever were."""

    kind: dict[str, Any]
    alerts: list[One] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def _named(self, key: str) -> list[str]:
        value = self.kind.get(key, [])
        return [value] if isinstance(value, str) else value

    def _source(self, one: One) -> bool:
        return "rules" not in self.kind or one.rule in self._named("rules")

    def counts(self, rule: str) -> bool:
        """Alerts of this rule are looked at."""
        return "rules" not in self.kind or rule in [*self._named("rules"), *self._named("then")]

    def _place(self, a: str, b: str) -> bool:
        if a == b or self.kind["place"] == "network":
            return True
        if self.kind["place"] == "district":
            return DISTRICT[a] is not None and DISTRICT[a] == DISTRICT[b]
        if self.kind["place"] == "radius":
            return bool(abs(EAST[a] - EAST[b]) <= self.kind["radius_km"])
        return a in ABOVE.get(b, "")

    def _newest(self) -> dict[tuple[str, str], One]:
        return {(one.station, one.rule): one for one in self.alerts if not one.used}

    def _enough(self, near: list[One], first: One) -> bool:
        below = [one for one in near if one.rule in self._named("then") and one.station != first.station]
        flows = self.kind["place"] != "downstream" or bool(below)
        return flows and len({one.station for one in near}) >= self.kind.get("stations", 2)

    def _situation(self, among: list[One], must: One | None) -> list[One] | None:
        within, early = self.kind["within_s"], self.kind.get("early_s", 0)
        for first in sorted(among, key=lambda a: (a.opened, a.station, a.rule)):
            near = [
                one for one in among
                if self._place(first.station, one.station)
                and first.opened - early * 10**6 <= one.opened <= first.opened + within * 10**6
            ]  # fmt: skip
            if self._source(first) and (must is None or must in near) and self._enough(near, first):
                return [first, *(one for one in near if one is not first)]
        return None

    def _belongs(self, group: Group, one: One) -> bool:
        if one.opened < group.began - self.kind["within_s"] * 10**6:
            return False
        sources = self.kind["place"] == "downstream" and self._source(one)
        return self._place(group.station, one.station) or (
            sources and any(one.station in ABOVE.get(name, "") for name, _ in group.keys)
        )

    def _tell(self, group: Group, known: int) -> tuple[Any, ...]:
        newest = self._newest()
        levels = [newest[key].level for key in group.keys if newest[key].level]
        group.calm = None if levels else known
        was = group.level
        fixed = {"orange": 3}.get(self.kind.get("level", ""), 0)
        group.level = fixed or max(levels, default=was)
        return (
            group.ident,
            group.station,
            "comment" if was == group.level else "open",
            group.level,
            self._names(group),
        )

    def _names(self, group: Group) -> tuple[str, ...]:
        return tuple(sorted({group.station, *(name for name, _ in group.keys)}))

    def open(self, one: One, known: int) -> tuple[Any, ...] | None:
        """An alert opens."""
        key = (one.station, one.rule)
        self.alerts.append(one)
        group = next((g for g in self.groups if key in g.keys), None)
        group = group or next((g for g in self.groups if self._belongs(g, one)), None)
        if group is None:
            taken = set().union(*(g.keys for g in self.groups))
            free = [a for k, a in self._newest().items() if k not in taken]
            found = self._situation(free, one)
            if found is None:
                return None
            ident = alert_id("s", found[0].station, "", "", max(a.opened for a in found))
            group = Group(ident, found[0].station, found[0].opened, {(a.station, a.rule) for a in found})
            self.groups.append(group)
            for other in sorted(free, key=lambda a: (a.opened, a.station, a.rule)):
                if self._belongs(group, other):
                    group.keys.add((other.station, other.rule))
        group.keys.add(key)
        return self._tell(group, known)

    def change(self, one: One, level: int, state: str, known: int) -> tuple[Any, ...] | None:
        """The newest alert of its key rises, falls, ends or is taken back."""
        one.level = level
        key = (one.station, one.rule)
        group = next((g for g in self.groups if key in g.keys), None)
        if state == "withdrawn":
            self.alerts.remove(one)
            if group is not None and key not in self._newest():
                group.keys.discard(key)
        if group is None:
            return None
        if state == "withdrawn" and self._situation([self._newest()[k] for k in group.keys], None) is None:
            self.groups.remove(group)
            return (group.ident, group.station, "withdrawn", 0, self._names(group))
        return self._tell(group, known)

    def tick(self, now: int) -> list[tuple[Any, ...]]:
        """What has been calm is over, and what is in it is used up."""
        over = [g for g in self.groups if g.calm is not None and now - g.calm >= self.kind["clear_s"] * 10**6]
        out = [(g.ident, g.station, "resolved", 0, self._names(g)) for g in over]
        for group in over:
            self.groups.remove(group)
            for one in self.alerts:
                one.used |= (one.station, one.rule) in group.keys
        # What ended too long ago for any situation is not what counts again when a later one is withdrawn.
        taken = set().union(*(group.keys for group in self.groups))
        oldest = now - (self.kind["within_s"] + self.kind.get("early_s", 0)) * SECOND - HOUR
        for key, newest in self._newest().items():
            if not newest.level and key not in taken and newest.opened < oldest:
                for one in self.alerts:
                    one.used |= (one.station, one.rule) == key
        return out


def plain(done: list[Transition]) -> list[tuple[Any, ...]]:
    """What the reference says, too."""
    return [(t.alert, t.station, t.state, t.level, tuple(sorted(t.evidence["stations"]))) for t in done]


def transition(one: One, state: str, at: int, number: int) -> Transition:
    """A transition of an alert."""
    return Transition(
        one.ident, one.rule, one.station, "pm25", "main", one.level if state == "open" else 0, state, at, one.opened,
        1.0, 1.0, number, at, {},
    )  # fmt: skip


@given(st.integers(0, len(KINDS) - 1), st.data())
@settings(max_examples=150, deadline=None)
def test_random_alerts_make_the_incidents_of_the_reference(number: int, data: st.DataObject) -> None:
    """Alerts that open in and out of order, rise, end and are taken back, with the state saved now and then."""
    plan, reference = made(KINDS[number]), Reference(KINDS[number])
    kind = Situation()
    kind.adopt(plan, None, 0, 0)
    standing: dict[tuple[str, str], One] = {}
    now = T0
    for step in range(data.draw(st.integers(5, 40), "steps")):
        now += data.draw(st.sampled_from([0, 1, 2, 5, 12]), "later") * MINUTE
        name, rule = data.draw(st.tuples(st.sampled_from(STATIONS), st.sampled_from(sorted(RULES))), "key")
        one = standing.get((name, rule))
        what = data.draw(st.sampled_from(["rise", "end", "withdraw", "again"]) if one else st.just("open"), "what")
        told: list[Any] = []
        if one is None:
            late = data.draw(st.sampled_from([0, 0, 0, 1, 4]), "late") * MINUTE
            one = standing[name, rule] = One(
                f"{name}{rule}{step}", name, rule, now - late, data.draw(st.integers(1, 4))
            )
            expected = reference.open(one, now) if reference.counts(rule) else None
            told = [transition(one, "open", now, step)]
        elif what == "again":
            expected, told = None, [transition(one, "open", now, step)]
        else:
            level, state = one.level % 4 + 1 if what == "rise" else 0, {"end": "resolved", "withdraw": "withdrawn"}
            if level == 0:
                del standing[name, rule]
            counted = reference.counts(rule)
            expected = reference.change(one, level, state.get(what, "open"), now) if counted else None
            one.level = level
            told = [transition(one, state.get(what, "open"), now, step)]
        assert plain(kind.on_transitions(told)) == ([] if expected is None else [expected])
        if data.draw(st.booleans(), "tick"):
            assert sorted(plain(kind.on_tick(now, {}, None, step))) == sorted(reference.tick(now))
        if data.draw(st.integers(0, 3), "save") == 0:
            saved = {key: array.copy() for key, array in kind.state().items()}
            kind = Situation()
            kind.adopt(plan, None, 0, 0)
            kind.restore(saved)
            assert orjson.loads(kind.state()["books"].tobytes()) == orjson.loads(saved["books"].tobytes())


def test_what_joins_may_bring_a_source_above_it() -> None:
    """D came too early to be part of the beginning and joins; E is above D and nobody else, and comes with it."""
    plan, reference, kind = made(KINDS[3]), Reference(KINDS[3]), Situation()
    kind.adopt(plan, None, 0, 0)
    last: list[tuple[Any, ...]] = []
    for step, (name, rule, minute) in enumerate([("D", "x", 0), ("E", "x", 0), ("A", "x", 6), ("B", "y", 6)]):
        now = T0 + minute * MINUTE
        one = One(f"{name}{rule}", name, rule, now, 1)
        expected = reference.open(one, now)
        last = plain(kind.on_transitions([transition(one, "open", now, step)]))
        assert last == ([] if expected is None else [expected])
    assert [told[4] for told in last] == [("A", "B", "D", "E")]
