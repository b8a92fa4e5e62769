"""Explaining a reading while the store may not have committed it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qingtu.explain import explain as explain_stored

if TYPE_CHECKING:
    from web.context import Context


def explain(context: Context, station: str, prop: str, time_us: int, channel: str) -> dict[str, Any]:
    """Explain a reading; the page shows readings before the store's commit, so wait for what is on its way.

    Args:
        context: service and live view.
        station: id of the station.
        prop: key of the property.
        time_us: of the reading, µs UTC, whole ms.
        channel: of the series.
    """
    found = explain_stored(context.service, station, prop, time_us, channel)
    if not found["found"] and context.live.series((station, prop, channel)) is not None:
        context.wait_for_store()
        found = explain_stored(context.service, station, prop, time_us, channel)
    return found
