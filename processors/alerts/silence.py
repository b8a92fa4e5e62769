"""Silence rules: nothing was heard of a station for too long, while its route was heard.

Counted on ticks, in received_at: from the later of the last message and ``hearing_since`` of the route, so neither
our own restart nor a backlog at the broker raises anything. An alert on a whole network (``network.py``) takes the
place of those on its stations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.batch import Unmoved, alert_id
from processors.alerts.ladder import Watch
from processors.alerts.network import Network
from processors.alerts.schedule import Schedules, Zones
from processors.plan import Plan, carry
from qingtu.catalogue_rules import SilenceRule
from qingtu.catalogue_words import LEVELS
from qingtu.clock import SECOND
from qingtu.contracts import Transition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from processors.alerts.network import Replaced
    from qingtu.contracts import RuleKind

_STATE: Final = np.dtype([("opened", "<i8"), ("acknowledged", "u1")])
_NOT: Final = -(1 << 62)


class Silence(Unmoved):
    """All silence alerts. A *watch* is one rule on one station. ``opened`` of 0 means that it is heard."""

    def __init__(self) -> None:
        self._network: Network | None = None
        self._keys: list[tuple[str, str]] = []
        self._state = np.zeros(0, _STATE)
        self._heard = np.zeros(0, np.int64)

    def go_by(self, kinds: Mapping[str, RuleKind]) -> None:
        """Let an alert on a whole network take the place of those on its stations."""
        found = kinds["network"]
        assert isinstance(found, Network)
        self._network = found

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        before, old_keys, old_state, old_heard = getattr(self, "_plan", None), self._keys, self._state, self._heard
        self._plan = plan
        catalogue = plan.catalogue
        routes: dict[str, set[str]] = {}
        interval: dict[str, float] = {}
        for entry in catalogue.devices.values():
            routes.setdefault(entry.station.id, set()).add(entry.route)
            interval[entry.station.id] = max(entry.interval_s, interval.get(entry.station.id, 0))
        rules = [r for r in catalogue.rules if isinstance(r, SilenceRule)]
        watches = [
            (rule, station.id)
            for station in catalogue.stations.values()
            if station.id in routes and station.id in plan.mine
            for rule in rules
            if rule.where.covers(station)
        ]
        self._keys = [(rule.id, station) for rule, station in watches]
        watched = [Watch(rule, station) for rule, station in watches]
        self._schedules = Schedules(Zones(plan, watched), watched)
        self._levels = np.array([LEVELS.index(rule.level) + 1 for rule, _ in watches], np.uint8)
        self._station = np.array([plan.station_number[station] for _, station in watches], np.int32)
        self._routes = [tuple(sorted(routes[station])) for _, station in watches]
        after = [
            rule.after_s if rule.after_s is not None else (rule.after_intervals or 0) * interval[station]
            for rule, station in watches
        ]
        self._after_us = np.array(after, np.float64) * SECOND
        self._state = np.zeros(len(watches), _STATE)
        self._heard = np.full(len(plan.station_names), _NOT, np.int64)
        if source is None or before is None:
            return []
        return self._carry(before, old_keys, old_state, old_heard, at_us, revision)

    def _carry(
        self,
        before: Plan,
        old_keys: list[tuple[str, str]],
        old_state: NDArray[Any],
        old_heard: NDArray[np.int64],
        at_us: int,
        revision: int,
    ) -> list[Transition]:
        stations = np.array([before.station_number.get(name, -1) for name in self._plan.station_names], np.int64)
        self._heard = carry(old_heard, stations, self._heard)
        old = {key: w for w, key in enumerate(old_keys)}
        taken = np.array([old.get(key, -1) for key in self._keys], np.int64)
        self._state = carry(old_state, taken, self._state)
        gone = set(np.flatnonzero(old_state["opened"]).tolist()) - set(taken.tolist())
        return [
            self._transition(*old_keys[w], int(old_state["opened"][w]), 0, "resolved", at_us, revision,
                             why="catalogue changed")
            for w in sorted(gone)
        ]  # fmt: skip

    def on_heard(
        self, station: NDArray[np.int64], received_us: NDArray[np.int64], revision: NDArray[np.int64]
    ) -> list[Transition]:
        """Remember when each station was heard; what was silent and is heard again is resolved."""
        np.maximum.at(self._heard, station, received_us)
        opened = np.flatnonzero(self._state["opened"])
        out: list[Transition] = []
        if not len(opened):
            return out
        for w in opened[np.isin(self._station[opened], station)].tolist():
            row = np.flatnonzero(station == self._station[w])[0]
            since = int(self._state["opened"][w])
            self._state[w] = (0, 0)
            rule, name = self._keys[w]
            at, by = int(received_us[row]), int(revision[row])
            out.append(self._transition(rule, name, since, 0, "resolved", at, by, why="heard again"))
        return out

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Open alerts for stations that were silent too long; none while one of their routes is not in ``hearing``."""
        if not self._keys:
            return []
        # Of a station with devices on several routes one may live on the route that is not heard.
        since = np.array([max(hearing.get(route, clock_us) for route in routes) for routes in self._routes], np.int64)
        base = np.maximum(self._heard[self._station], since)
        after, out = self._after_us, list[Transition]()
        free = self._state["opened"] == 0
        if self._network is not None and (replaced := self._network.replaced()) is not None:
            out = self._give_way(self._network, replaced, clock_us, revision)
            after = after + replaced.extra_us[self._station]
            free &= (replaced.by[self._station] < 0) & (clock_us >= replaced.from_us[self._station])
        due = (clock_us - base > after) & free
        if held is not None:
            due &= ~held[self._station]
        every = np.arange(len(due))
        inside = self._schedules.hold(every, np.full(len(due), clock_us, np.int64))
        if inside is not None:
            due &= inside
        for w in np.flatnonzero(due).tolist():
            self._state[w] = (clock_us, 0)
            heard = int(self._heard[self._station[w]])
            out.append(
                self._transition(
                    *self._keys[w], clock_us, int(self._levels[w]), "open", clock_us, revision,
                    last_heard_us=None if heard == _NOT else heard, hearing_since_us=int(since[w]),
                    after_s=float(self._after_us[w] / SECOND),
                )
            )  # fmt: skip
        return out

    def _give_way(self, network: Network, replaced: Replaced, clock_us: int, revision: int) -> list[Transition]:
        """Resolve what the alert on its network takes the place of."""
        by = replaced.by[self._station]
        out = []
        for w in np.flatnonzero((self._state["opened"] > 0) & (by >= 0)).tolist():
            since = int(self._state["opened"][w])
            self._state[w] = (0, 0)
            why = f"network dead: {network.alert_of(int(by[w]))}"
            out.append(self._transition(*self._keys[w], since, 0, "resolved", clock_us, revision, why=why))
        return out

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        for w in np.flatnonzero(self._state["opened"]).tolist():
            rule, station = self._keys[w]
            opened = int(self._state["opened"][w])
            if alert_id(rule, station, "", "", opened) != alert:
                continue
            if name == "acknowledge":
                self._state["acknowledged"][w] = 1
            state = {"acknowledge": "acknowledged", "comment": "comment"}[name]
            done = self._transition(rule, station, opened, int(self._levels[w]), state, at_us, revision)
            return done._replace(who=who, note=note)
        return None

    @staticmethod
    def _transition(
        rule: str, station: str, opened: int, level: int, state: str, at_us: int, revision: int, **evidence: Any
    ) -> Transition:
        return Transition(
            alert_id(rule, station, "", "", opened), rule, station, "", "", level, state,
            at_us, opened, np.nan, np.nan, revision, at_us, evidence,
        )  # fmt: skip

    def state(self) -> dict[str, NDArray[Any]]:
        """Return when stations were heard, and the open alerts."""
        return {"heard": self._heard, "watches": self._state}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._heard, self._state = arrays["heard"], arrays["watches"]
