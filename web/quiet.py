"""What people have switched off: mutes and maintenance in force, as `process` tells them with every tick. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processors.alerts.quiet import Maintenance, Mute

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qingtu.catalogue import Catalogue

Told = dict[str, list[list[Any]]]
"""As :meth:`processors.alerts.quiet.Quiet.saved` returns it."""


def mutes(told: Iterable[Mapping[str, Sequence[Sequence[Any]]]], now_us: int) -> list[Mute]:
    """Return the mutes that hold, the first to end first. Every partition tells all of them."""
    found = {Mute(*row) for one in told for row in one.get("mutes", ())}
    return sorted((m for m in found if m.until_us > now_us), key=lambda m: (m.until_us, m))


def maintenance(
    told: Iterable[Mapping[str, Sequence[Sequence[Any]]]], catalogue: Catalogue, now_us: int
) -> list[Maintenance]:
    """Return what is maintained now or will be by plan, the first to begin first; ``who`` "": by catalogue."""
    asked = {Maintenance(*row) for one in told for row in one.get("maintenance", ())}
    planned = {
        Maintenance(station.id, window.start_us, window.end_us)
        for station in catalogue.stations.values()
        for window in station.maintenance
    }
    return sorted((m for m in asked | planned if m.until_us > now_us), key=lambda m: (m.from_us, m))
