"""Clock rules: a device of the station claims impossible times, by the marks that the pass keeps of each device.

A device is marked by a message that claims a time too far ahead or too old, and unmarked by the next one that claims a
possible time. The alert opens when any device of the station has been marked for ``after_s``, at the message that
marks it or else on a tick, and is resolved when none is marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.batch import Unmoved
from processors.alerts.ladder import Ladder, Moment, Watch, levels_of, one_level
from processors.alerts.schedule import Schedules, Zones
from processors.plan import carry
from qingtu.catalogue_rules import ClockWrongRule
from qingtu.clock import SECOND
from qingtu.records import Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from processors.plan import Plan
    from qingtu.contracts import Transition

_RIGHT: Final = 0


class ClockWrong(Unmoved):
    """All clock alerts. A watch is one rule on one station; the measure is for how many seconds a clock is wrong."""

    def __init__(self) -> None:
        self._ladder = Ladder([], levels_of([]))
        self._since = np.zeros(0, np.int64)
        self._device: dict[tuple[str, str], int] = {}

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        old, old_since, old_device = self._ladder, self._since, self._device
        self._plan, self._device = plan, plan.device
        rules = [rule for rule in plan.catalogue.rules if isinstance(rule, ClockWrongRule)]
        watches = [
            Watch(rule, station.id)
            for station in plan.catalogue.stations.values()
            if station.id in plan.mine and station.devices
            for rule in rules
            if rule.where.covers(station)
        ]
        self._station = np.array([plan.station_number[w.station] for w in watches], np.int64)
        self._schedules = Schedules(Zones(plan, watches), watches)
        self._ladder = Ladder(watches, one_level([w.rule for w in watches], [w.rule.after_s for w in watches]))
        known = np.array([old_device.get(key, -1) for key in plan.device], np.int64)
        self._since = carry(old_since, known, np.zeros(len(plan.device), np.int64))
        return [] if source is None else self._ladder.adopt(old, at_us, revision)[1]

    def on_clock(
        self,
        device: NDArray[np.int32],
        wrong: NDArray[np.bool_],
        at_us: NDArray[np.int64],
        revision: NDArray[np.int64],
    ) -> list[Transition]:
        """Take up marks of devices, in the order of their messages."""
        out: list[Transition] = []
        for number, bad, at, by in zip(
            device.tolist(), wrong.tolist(), at_us.tolist(), revision.tolist(), strict=True
        ):  # fmt: skip
            self._since[number] = at if bad else _RIGHT
            station = self._plan.device_station[number]
            mine = np.flatnonzero(self._station == station).tolist()
            out.extend(self._look(mine, Moment(at, by, at), None))
        return out

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Open what has been wrong for long enough."""
        del hearing
        wrong = np.zeros(len(self._plan.station_names), np.bool_)
        wrong[self._plan.device_station[self._since > 0]] = True
        mine = np.flatnonzero(wrong[self._station]).tolist() if len(self._ladder) else []
        return self._look(mine, Moment(clock_us, revision, clock_us), held)

    def _look(self, mine: Iterable[int], moment: Moment, held: NDArray[np.bool_] | None) -> list[Transition]:
        out = []
        for w in mine:
            devices = np.flatnonzero((self._plan.device_station == self._station[w]) & (self._since > 0))
            since = int(self._since[devices].min(initial=moment.time_us))
            measure = (moment.time_us - since) / SECOND if len(devices) else -1.0
            at, one = np.array([w], np.int64), np.array([measure])
            met, kept = int(self._ladder.met(at, one)[0]), Level.RED if len(devices) else Level.NONE
            inside = self._schedules.hold(at, np.array([moment.time_us], np.int64))
            if (inside is not None and not inside[0]) or (held is not None and held[self._station[w]]):
                met = 0  # nothing opens; what stands is left until the clock is right
            done = self._ladder.step(w, met, int(kept), moment)
            if done is not None:
                names = [self._plan.device_names[d] for d in devices.tolist()]
                seen = {"devices": names, "since_us": since} if names else {"why": "clock right"}
                out.append(self._ladder.transition(w, done[0], done[1], moment, **seen))
        return out

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        return self._ladder.command(name, alert, who, note, at_us, revision)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the marks of devices, and the state of all watches."""
        return {"since": self._since, "watches": self._ladder.state.rows()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._since = arrays["since"]
        self._ladder.restore(arrays["watches"])
