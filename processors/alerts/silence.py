"""Silence rules: nothing was heard of a station for too long, while its route was heard.

Counted on ticks, in received_at: from the later of the last message and ``hearing_since`` of the route, so neither
our own restart nor a backlog at the broker raises anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.batch import alert_id
from processors.plan import Plan, carry
from qingtu.catalogue_model import LEVELS, SilenceRule
from qingtu.clock import SECOND
from qingtu.contracts import Transition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from processors.alerts.batch import Batch

_STATE: Final = np.dtype([("opened", "<i8"), ("acknowledged", "u1")])
_NOT: Final = -(1 << 62)


class Silence:
    """All silence alerts. A *watch* is one rule on one station. ``opened`` of 0 means that it is heard."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, str]] = []
        self._state = np.zeros(0, _STATE)
        self._heard = np.zeros(0, np.int64)

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
            if station.id in routes
            for rule in rules
            if rule.where.covers(station)
        ]
        self._keys = [(rule.id, station) for rule, station in watches]
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

    def on_readings(self, batch: Batch) -> list[Transition]:
        """Nothing to do: values do not count here."""
        del batch
        return []

    def on_heard(
        self, station: NDArray[np.int32], received_us: NDArray[np.int64], revision: NDArray[np.int64]
    ) -> list[Transition]:
        """Remember when each station was heard; what was silent and is heard again is resolved."""
        np.maximum.at(self._heard, station, received_us)
        opened = np.flatnonzero(self._state["opened"])
        out = []
        for w in opened[np.isin(self._station[opened], station)].tolist():
            row = np.flatnonzero(station == self._station[w])[0]
            since = int(self._state["opened"][w])
            self._state[w] = (0, 0)
            rule, name = self._keys[w]
            at, by = int(received_us[row]), int(revision[row])
            out.append(self._transition(rule, name, since, 0, "resolved", at, by, why="heard again"))
        return out

    def on_tick(self, clock_us: int, hearing: Mapping[str, int], revision: int) -> list[Transition]:
        """Open alerts for stations that were silent too long; none while one of their routes is not in ``hearing``."""
        if not self._keys:
            return []
        # Of a station with devices on several routes one may live on the route that is not heard.
        since = np.array([max(hearing.get(route, clock_us) for route in routes) for routes in self._routes], np.int64)
        base = np.maximum(self._heard[self._station], since)
        due = (clock_us - base > self._after_us) & (self._state["opened"] == 0)
        out = []
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
