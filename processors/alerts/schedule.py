"""When rules hold: days and hours in the zone of each station."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import numpy as np

from qingtu.catalogue_rules import DAYS
from qingtu.clock import DAY, MINUTE, SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors.alerts.ladder import Watch
    from processors.plan import Plan

_STEP_US: Final = 15 * MINUTE
"""Zones change their offset at whole quarters of an hour UTC."""
_EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday; Monday is 0."""


def local_us(time_us: NDArray[np.int64], zone: NDArray[np.int64], zones: Sequence[ZoneInfo]) -> NDArray[np.int64]:
    """Return local times taken as if they were UTC, µs.

    Args:
        time_us: int64 (n,), µs UTC.
        zone: int64 (n,), index into ``zones``.
        zones: distinct ones.
    """
    steps = time_us // _STEP_US * len(zones) + zone
    if len(steps) and (steps == steps[0]).all():  # nearly always: what comes in is of now
        step = int(steps[0])
        same: NDArray[np.int64] = time_us + _offset_us(step // len(zones) * _STEP_US, zones[step % len(zones)])
        return same
    steps, at = np.unique(steps, return_inverse=True)
    offsets = [_offset_us(step // len(zones) * _STEP_US, zones[step % len(zones)]) for step in steps.tolist()]
    out: NDArray[np.int64] = time_us + np.array(offsets, np.int64)[at]
    return out


def _offset_us(at_us: int, zone: ZoneInfo) -> int:
    # numpy, not datetime.fromtimestamp: exact, and not bound to the platform's range
    moment = np.datetime64(at_us // SECOND, "s").item().replace(tzinfo=ZoneInfo("UTC"))
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None  # a ZoneInfo always knows
    return round(offset.total_seconds()) * SECOND


class Zones:
    """The zone of each watch's station."""

    def __init__(self, plan: Plan, watches: Sequence[Watch]) -> None:
        names = [_zone_of(plan, watch.station) for watch in watches]
        known = sorted(set(names))
        self._zones = [ZoneInfo(name) for name in known]
        place = {name: i for i, name in enumerate(known)}
        self._zone = np.array([place[name] for name in names], np.int64)
        self._newest = (0, 0)

    def local(self, w: NDArray[np.int64], time_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the local time of each watch (n,) at times (n,) µs UTC."""
        if len(self._zones) == 1 and len(time_us):
            return self._of_one(time_us)
        return local_us(time_us, self._zone[w], self._zones)

    def _of_one(self, time_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the same where all stations are in one zone; nearly always the offset is that of the time before."""
        first, last = int(time_us.min()) // _STEP_US, int(time_us.max()) // _STEP_US
        if first != last:
            return local_us(time_us, np.zeros(len(time_us), np.int64), self._zones)
        if self._newest[0] != first:
            self._newest = first, _offset_us(first * _STEP_US, self._zones[0])
        out: NDArray[np.int64] = time_us + self._newest[1]
        return out


def _zone_of(plan: Plan, station: str) -> str:
    found = plan.catalogue.stations[station]
    return found.timezone or plan.catalogue.networks[found.network].timezone


class Schedules:
    """The hours of all watches of a kind.

    Attributes:
        given: some rule has hours.
    """

    def __init__(self, zones: Zones, watches: Sequence[Watch]) -> None:
        self.given = any(w.rule.schedule is not None for w in watches)
        if not self.given:
            return
        self._zones = zones
        self._days = np.ones((len(watches), 7), np.bool_)
        self._start = np.zeros(len(watches), np.int64)
        self._end = np.zeros(len(watches), np.int64)
        for i, watch in enumerate(watches):
            if (plan_of := watch.rule.schedule) is not None:
                self._days[i] = [day in plan_of.days for day in DAYS]
                self._start[i], self._end[i] = _minute_us(plan_of.start), _minute_us(plan_of.end)

    def hold(self, w: NDArray[np.int64], time_us: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Say which watches (n,) hold at times (n,) µs UTC; None: all of them, always."""
        if not self.given:
            return None
        local = self._zones.local(w, time_us)
        day, into = (local // DAY + _EPOCH_WEEKDAY) % 7, local % DAY
        start, end = self._start[w], self._end[w]
        over = end <= start  # the window ends on the day after
        today = (into >= start) & (over | (into < end)) & self._days[w, day]
        yesterday = over & (into < end) & self._days[w, (day - 1) % 7]
        out: NDArray[np.bool_] = today | yesterday
        return out


def _minute_us(clock: str) -> int:
    hour, minute = clock.split(":")
    return (int(hour) * 60 + int(minute)) * MINUTE
