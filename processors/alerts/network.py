"""Network rules: most stations of a network fell silent at about the same time, so it is not the stations that failed.

One alert names them. While it may come, the stations' own silence alerts wait one grace; when it stands they are
replaced by it, and when it ends those that are still silent raise their own. Counted on ticks, as silence is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from processors.alerts.batch import Unmoved
from processors.alerts.grouped import Book, Group
from processors.plan import Plan, carry
from qingtu.catalogue_rules import NetworkRule
from qingtu.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qingtu.contracts import Transition

_NOT: Final = -(1 << 62)
_EPSILON: Final = 1e-9
"""A share is met although 0.7 * 10 is not 7 in binary."""
_OUT, _NEW, _NAMED, _BACK = 0, 1, 2, 3
"""A station to the alert of its group: not in it; in it, but not named yet; named; named, and heard again since."""
_MEMBER: Final = np.dtype([("role", "u1"), ("fell", "<i8")])
"""A station of a group; ``fell``: when it was last heard as it came in."""


class Replaced(NamedTuple):
    """What the silence alerts of stations have to go by on this tick; shape (stations,) each.

    Attributes:
        by: int32, group whose alert stands and names the station; -1: none.
        extra_us: int64, how much longer than usual it must be silent.
        from_us: int64, no silence alert before this.
    """

    by: NDArray[np.int32]
    extra_us: NDArray[np.int64]
    from_us: NDArray[np.int64]


class _Look(NamedTuple):
    """The stations of one group on one tick; shape (n,) each, by place in ``Group.stations``.

    Attributes:
        fell_us: when each was last heard; what never was, since when its route is heard.
        until_us: when each should have been heard again at the latest, had it lived.
        counts: it can be heard and is not under maintenance.
        overdue: it counts and has been silent for as long as the rule wants.
    """

    fell_us: NDArray[np.int64]
    until_us: NDArray[np.int64]
    counts: NDArray[np.bool_]
    overdue: NDArray[np.bool_]


class Network(Unmoved):
    """All network alerts. A group is one rule on one network, which died between ``since`` and ``until``."""

    def __init__(self) -> None:
        self._book = Book([], 0)
        self._heard = np.zeros(0, np.int64)
        self._let_go = np.zeros(0, np.int64)
        self._members: list[NDArray[Any]] = []
        self._replaced: Replaced | None = None

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        before, old, old_members = getattr(self, "_plan", None), self._book, self._members
        heard, let_go = self._heard, self._let_go
        self._plan = plan
        interval = np.zeros(len(plan.station_names))
        np.maximum.at(interval, plan.device_station, [e.interval_s for e in plan.catalogue.devices.values()])
        self._interval_us = interval * SECOND
        routes = sorted(set(plan.device_route))
        self._routes = routes
        self._on = np.zeros((len(plan.station_names), len(routes)), np.bool_)
        self._on[plan.device_station, [routes.index(route) for route in plan.device_route]] = True
        groups = _groups(plan)
        self._book = Book(groups, plan.partition)
        self._heard = np.full(len(plan.station_names), _NOT, np.int64)
        self._let_go = np.full(len(plan.station_names), _NOT, np.int64)
        self._members = [np.zeros(len(group.stations), _MEMBER) for group in groups]
        self._replaced = None
        if source is None or before is None:
            return []
        known = np.array([before.station_number.get(name, -1) for name in plan.station_names], np.int64)
        self._heard, self._let_go = carry(heard, known, self._heard), carry(let_go, known, self._let_go)
        taken, out = self._book.adopt(old, at_us, revision)
        for g, was in enumerate(taken.tolist()):
            if was >= 0:
                place = {int(s): i for i, s in enumerate(old.groups[was].stations)}
                at = np.array([place.get(int(known[s]), -1) for s in groups[g].stations], np.int64)
                self._members[g] = carry(old_members[was], at, self._members[g])
        return out

    def on_heard(
        self, station: NDArray[np.int64], received_us: NDArray[np.int64], revision: NDArray[np.int64]
    ) -> list[Transition]:
        """Remember when each station was heard; what that means is decided on the next tick."""
        del revision
        np.maximum.at(self._heard, station, received_us)
        return []

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Open, follow and resolve, and settle what the silence alerts of the stations have to go by."""
        self._replaced = None
        if not self._book.groups:
            return []
        n = len(self._plan.station_names)
        since = np.array([hearing.get(route, clock_us) for route in self._routes], np.int64)
        since_us = np.where(self._on, since, _NOT).max(axis=1, initial=_NOT)
        base = np.maximum(self._heard, since_us)
        counts = np.asarray(self._on[:, [route not in hearing for route in self._routes]].sum(axis=1) == 0)
        if held is not None:
            counts &= ~held
        fell = np.where(self._heard == _NOT, base, self._heard)
        replaced = Replaced(np.full(n, -1, np.int32), np.zeros(n, np.int64), self._let_go)
        out: list[Transition] = []
        for g, group in enumerate(self._book.groups):
            rule, own = group.rule, group.stations
            assert isinstance(rule, NetworkRule)  # by _groups
            quiet_us, every = clock_us - base[own], self._interval_us[own]
            missed = counts[own] & (quiet_us > every)
            if not missed.any() and not self._book.state["opened"][g]:
                continue
            window = (every + rule.together_s * SECOND).astype(np.int64)
            overdue = counts[own] & (quiet_us > rule.after_intervals * every)
            look = _Look(fell[own], fell[own] + window, counts[own], overdue)
            out += self._follow(g, rule, look, clock_us, revision)
            replaced.by[own[_silent(self._members[g])]] = g
            grace = round(rule.grace_s * SECOND)
            waits = missed & _may_be_dead(rule, look)
            replaced.extra_us[own[waits]] = np.maximum(replaced.extra_us[own[waits]], grace)
        self._replaced = replaced
        return out

    def replaced(self) -> Replaced | None:
        """Return what silence has to go by on this tick; None: nothing."""
        return self._replaced

    def alert_of(self, group: int) -> str:
        """Return the id of the alert of a group, which stands."""
        return self._book.ident(group)

    def _follow(self, g: int, rule: NetworkRule, look: _Look, clock_us: int, revision: int) -> list[Transition]:
        book, member, grace = self._book, self._members[g], round(rule.grace_s * SECOND)
        if not book.state["opened"][g]:
            onset = _onset(rule, look)
            if onset is None:
                return []
            book.state["since"][g] = book.state["until"][g] = onset
            self._join(g, look)
            member["role"][member["role"] == _NEW] = _NAMED
            return [book.open(g, clock_us, revision, **self._seen(g, _silent(member), look))]
        back = _silent(member) & (look.fell_us > member["fell"])
        member["role"][back] = np.where(member["role"][back] == _NAMED, _BACK, _OUT)
        left = _silent(member)
        counted = (member["role"] > _OUT) | (look.counts & (look.until_us >= book.state["since"][g]))
        if not _enough(rule, left.sum(), counted.sum()):
            seen = self._seen(g, member["role"] >= _NAMED, look) | {"silent": self._names(g, left)}
            self._let_go[book.groups[g].stations[left]] = clock_us + grace
            member[:] = 0
            return [book.resolve(g, clock_us, revision, why="heard again", **seen)]
        self._join(g, look)
        if clock_us - int(book.state["told"][g]) < grace or not (member["role"] == _NEW).any():
            return []
        member["role"][member["role"] == _NEW] = _NAMED
        return [book.name_again(g, clock_us, revision, **self._seen(g, _silent(member), look))]

    def _join(self, g: int, look: _Look) -> None:
        """Take in overdue stations that may have died with those that are in; narrow down when that was."""
        state, member = self._book.state[g], self._members[g]
        may = (look.fell_us <= state["until"]) & (look.until_us >= state["since"])
        # One by one in the order in which they fell: each narrows the time for the next.
        fits = np.flatnonzero((member["role"] == _OUT) & look.overdue & may)
        for i in fits[np.argsort(look.fell_us[fits], kind="stable")].tolist():
            fell, until = int(look.fell_us[i]), int(look.until_us[i])
            if fell > state["until"] or until < state["since"]:
                continue
            first = not _silent(member).any()
            state["since"] = max(int(state["since"]), fell)
            state["until"] = until if first else min(int(state["until"]), until)
            member[i] = (_NEW, fell)

    def _names(self, g: int, which: NDArray[np.bool_]) -> list[str]:
        return [self._plan.station_names[s] for s in self._book.groups[g].stations[which].tolist()]

    def _seen(self, g: int, which: NDArray[np.bool_], look: _Look) -> dict[str, Any]:
        return {
            "network": self._book.groups[g].name,
            "stations": self._names(g, which),
            "of": int(look.counts.sum()),
            "since_us": int(self._book.state["since"][g]),
        }

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        return self._book.command(name, alert, who, note, at_us, revision)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return when stations were heard and let go, the open alerts, and whom they name."""
        members = np.concatenate([np.zeros(0, _MEMBER), *self._members])
        return {"heard": self._heard, "let_go": self._let_go, "groups": self._book.state, "members": members}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._heard, self._let_go, self._book.state = arrays["heard"], arrays["let_go"], arrays["groups"]
        ends = np.cumsum([len(group.stations) for group in self._book.groups])
        self._members = [part.copy() for part in np.split(arrays["members"], ends[:-1])] if len(ends) else []


def _groups(plan: Plan) -> list[Group]:
    """Return each network that a rule covers, with those of its stations that live here and have devices."""
    groups = []
    for rule in plan.catalogue.rules:
        if not isinstance(rule, NetworkRule):
            continue
        found: dict[str, list[int]] = {}
        for station in plan.catalogue.stations.values():
            if station.devices and station.id in plan.mine and rule.where.covers(station):
                found.setdefault(station.network, []).append(plan.station_number[station.id])
        groups += [Group(rule, name, np.array(stations, np.int64)) for name, stations in sorted(found.items())]
    return groups


def _silent(member: NDArray[Any]) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = (member["role"] == _NEW) | (member["role"] == _NAMED)
    return out


def _enough(rule: NetworkRule, dead: Any, of: Any) -> Any:
    """Say whether so many stations (numbers, or arrays of them) of so many make a network dead."""
    return (dead >= rule.least) & (dead >= rule.share * of - _EPSILON)


def _onset(rule: NetworkRule, look: _Look) -> int | None:
    """Return the moment at which most of the overdue stations may have fallen silent, if they are enough; else None.

    It is when one of them was last heard. Those that had fallen silent before it are not counted.
    """
    moment = np.sort(look.fell_us[look.overdue])
    if not len(moment):
        return None
    ends = np.sort(look.until_us[look.overdue])
    dead = np.searchsorted(moment, moment, "right") - np.searchsorted(ends, moment, "left")
    alive_then = np.sort(look.until_us[look.counts])
    of = len(alive_then) - np.searchsorted(alive_then, moment, "left")
    dead[~_enough(rule, dead, of)] = 0
    best = int(dead.argmax())
    return int(moment[best]) if dead[best] else None


def _may_be_dead(rule: NetworkRule, look: _Look) -> NDArray[np.bool_]:
    """Say for each station whether so few others were heard since it fell silent that all of them may be dead."""
    fell, until = np.sort(look.fell_us[look.counts]), np.sort(look.until_us[look.counts])
    before = np.searchsorted(until, look.fell_us, "left")
    not_since = np.searchsorted(fell, look.until_us, "right") - before
    out: NDArray[np.bool_] = _enough(rule, not_since, len(until) - before)
    return out
