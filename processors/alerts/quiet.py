"""What people ask for: mutes, which mark alerts, and maintenance of a station, which keeps alerts from opening.

Both come as commands on raw with a person and an end, and are part of the state; maintenance may also stand in the
catalogue. A muted alert is recorded all the same, marked in its evidence, so that nothing is hidden from the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from qingtu.clock import DAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from processors.plan import Plan
    from qingtu.contracts import Transition

LONGEST_US: Final = 366 * DAY
"""What people switch off must come back by itself."""


class Mute(NamedTuple):
    """Alerts that fit all words that are not "" are muted until then."""

    station: str
    district: str
    rule: str
    until_us: int
    who: str
    note: str


class Maintenance(NamedTuple):
    """No alert of the station opens or rises in this time; ``who`` is "" when it stands in the catalogue."""

    station: str
    from_us: int
    until_us: int
    who: str = ""
    note: str = ""


class Quiet:
    """All mutes and maintenance in force, for one catalogue."""

    def __init__(self, plan: Plan, saved: Mapping[str, Sequence[Sequence[Any]]] | None = None) -> None:
        self._mutes = [Mute(*row) for row in (saved or {}).get("mutes", ())]
        self._asked = [Maintenance(*row) for row in (saved or {}).get("maintenance", ())]
        self.use(plan)

    def use(self, plan: Plan) -> None:
        """Go on with another catalogue."""
        self._plan = plan
        self._planned = [
            Maintenance(station.id, window.start_us, window.end_us)
            for station in plan.catalogue.stations.values()
            for window in station.maintenance
        ]

    def saved(self) -> dict[str, list[list[Any]]]:
        """Return what :class:`Quiet` takes up again."""
        return {"mutes": [list(m) for m in self._mutes], "maintenance": [list(m) for m in self._asked]}

    def command(self, name: str, args: Mapping[str, Any], who: str, at_us: int) -> str | None:
        """Carry out ``mute`` or ``maintenance``; one for the same takes the place of the last, an end now ends it.

        Returns:
            what is wrong with it, None when it is done.
        """
        until = args.get("until_us")
        if type(until) is not int or until > at_us + LONGEST_US:
            return "needs an end (until_us), at most 366 days ahead"
        station = str(args.get("station", ""))
        scope = (station, str(args.get("district", "")), str(args.get("rule", "")))
        # What is in force can be ended, also when its station has left the catalogue meanwhile.
        ends = until <= at_us and scope in self._in_force(name, at_us)
        if station and station not in self._plan.catalogue.stations and not ends:
            return f"no station {station[:80]!r}"
        if name == "maintenance":
            if not station:
                return "needs a station"
            begun = next((m.from_us for m in self._asked if m.station == station and m.until_us > at_us), at_us)
            # What has ended stays for a day: readings of then may still come.
            self._asked = [
                m for m in self._asked if m.until_us > at_us - DAY and (m.station, m.from_us) != (station, begun)
            ]
            self._asked.append(Maintenance(station, begun, until, who, str(args.get("note", ""))))
            return None
        mute = Mute(*scope, until, who, args.get("note", ""))
        if not any(mute[:3]):
            return "needs a station, district or rule"
        self._mutes = [m for m in self._mutes if m.until_us > at_us and m[:3] != mute[:3]]
        if until > at_us:
            self._mutes.append(mute)
        return None

    def _in_force(self, name: str, at_us: int) -> set[tuple[str, str, str]]:
        """Return the (station, district, rule) that people have muted, or that they maintain."""
        if name == "mute":
            return {m[:3] for m in self._mutes if m.until_us > at_us}
        return {(m.station, "", "") for m in self._asked if m.until_us > at_us}

    def marked(self, transition: Transition) -> Transition:
        """Return a transition with the mute that it falls under in its evidence."""
        for mute in self._mutes:
            if transition.known_us < mute.until_us and self._fits(mute, transition):
                muted = {"who": mute.who, "until_us": mute.until_us, "note": mute.note}
                return transition._replace(evidence={**transition.evidence, "muted": muted})
        return transition

    def _fits(self, mute: Mute, transition: Transition) -> bool:
        station = self._plan.catalogue.stations.get(transition.station)
        own = transition.station, (station and station.district) or "", transition.rule
        return all(wanted in {"", found} for wanted, found in zip(mute[:3], own, strict=True))

    @property
    def holds(self) -> bool:
        """Whether any station is, was or will be under maintenance."""
        return bool(self._planned or self._asked)

    def held(self, station: NDArray[np.int32], time_us: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Say which (n,) are under maintenance, by station number and time; None: none is."""
        out: NDArray[np.bool_] | None = None
        for one in (*self._planned, *self._asked):
            number = self._plan.station_number.get(one.station)
            mask = (station == number) & (time_us >= one.from_us) & (time_us < one.until_us)
            if mask.any():
                out = mask if out is None else out | mask
        return out

    def held_now(self, clock_us: int) -> NDArray[np.bool_] | None:
        """Say which stations are under maintenance now."""
        n = len(self._plan.station_names)
        return self.held(np.arange(n, dtype=np.int32), np.full(n, clock_us, np.int64))

    def spoiled(self, station: str, start_us: int, end_us: int) -> bool:
        """Say whether a station is under maintenance at the end of a time, or was for more than a quarter of it.

        A quarter is what a figure may lack and still hold: an hour in which a sensor was calibrated says nothing, and
        a day does not become mute by one hour of it.
        """
        under, reached = 0, start_us
        for begins, ends in sorted(m[1:3] for m in (*self._planned, *self._asked) if m.station == station):
            if begins <= end_us < ends:
                return True
            under += max(0, min(ends, end_us) - max(begins, reached))
            reached = max(reached, ends)
        return 4 * under > max(0, end_us - start_us)
