"""Which channels are told of a transition, who is told later when nobody acts, and when a channel is quiet. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from qingtu.catalogue_words import LEVELS
from qingtu.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qingtu.catalogue_model import Station
    from qingtu.settings_notify import ChannelSettings, NotifyRouteSettings

ENDS: Final = ("resolved", "withdrawn")
"""States that end an alert."""


def told_by_routes(
    routes: Sequence[NotifyRouteSettings],
    *,
    state: str,
    level: int,
    rule: str,
    station_id: str,
    station: Station | None,
) -> set[str]:
    """Return the channels that routes name for a transition that is no end.

    Args:
        routes: all of them; each that fits adds its channels.
        state: ``open``, ``acknowledged`` or ``comment``.
        level: 1 to 4.
        rule: its id.
        station_id: "" for an alert of no station.
        station: None when it is not in the catalogue: then only routes that name no domain, network or district fit.
    """
    return {
        name
        for route in routes
        if state in route.states and _fits(route, level, rule, station_id, station)
        for name in route.channels
    }


def escalations(
    routes: Sequence[NotifyRouteSettings], *, level: int, rule: str, station_id: str, station: Station | None
) -> Iterator[tuple[str, int]]:
    """Yield (channel, µs after the opening) of who is told while nobody acknowledges, by all routes that fit."""
    for route in routes:
        if "open" in route.states and _fits(route, level, rule, station_id, station):
            for n, name in enumerate(route.escalate_to, 1):
                yield name, n * route.escalate_s * SECOND


def is_quiet(channel: ChannelSettings, zone: str, now_us: int) -> bool:
    """Return whether a channel has quiet hours: the wall clock of the zone shows a time from begin to end.

    By the wall clock, so on a day on which the clock is turned back the hours that come twice are quiet twice, and of
    those that are skipped none is waited for.
    """
    if channel.quiet_from is None or channel.quiet_to is None:
        return False
    shown = datetime.fromtimestamp(now_us // SECOND, tz=ZoneInfo(zone)).strftime("%H:%M")
    begin, end = channel.quiet_from, channel.quiet_to
    return begin <= shown < end if begin < end else shown >= begin or shown < end


def breaks_through(channel: ChannelSettings, level: int) -> bool:
    """Return whether a level is told in quiet hours all the same."""
    return level >= LEVELS.index(channel.quiet_level) + 1


def _fits(route: NotifyRouteSettings, level: int, rule: str, station_id: str, station: Station | None) -> bool:
    known = 1 <= level <= len(LEVELS) and LEVELS[level - 1] in route.levels
    places = (
        (route.domains, station.domain if station else None),
        (route.networks, station.network if station else None),
        (route.districts, station.district if station else None),
        (route.stations, station_id),
        (route.rules, rule),
    )
    return known and all(not wanted or one in wanted for wanted, one in places)
