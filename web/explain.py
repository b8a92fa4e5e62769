"""Explaining a reading while the store may not have committed it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qingtu.explain import explain as explain_stored
from web.context import is_private
from web.unknown import check_series

if TYPE_CHECKING:
    from web.context import Context


_BYTES = ("payload_text", "payload_hex")


def explain(
    context: Context, station: str, prop: str, time_us: int, channel: str, *, person: str | None
) -> dict[str, Any]:
    """Explain a reading; the page shows readings before the store's commit, so wait for what is on its way.

    Args:
        context: service and live view.
        station: id of the station.
        prop: key of the property.
        time_us: of the reading, µs UTC, whole ms.
        channel: of the series.
        person: who asks; nobody is not shown the raw bytes of a private network.

    Raises:
        ApiError: there is no such series (404), or no such property (422).
    """
    found = explain_stored(context.service, station, prop, time_us, channel)
    if not found["found"] and context.live.series((station, prop, channel)) is not None:
        context.wait_for_store()
        found = explain_stored(context.service, station, prop, time_us, channel)
    if not found["found"]:
        check_series(context, (station, prop, channel))
    if person is None:
        place = context.service.catalogue.stations.get(station)
        raw: dict[str, Any] = next((step["data"] for step in found["steps"] if step["step"] == "raw"), {})
        # The station may have moved to another network since the bytes came.
        now = place.network if place else None
        if is_private(context, raw.get("network"), raw.get("topic")) or is_private(context, now, None):
            _withhold(found["steps"])
    return found


def _withhold(data: Any) -> None:
    """Take the bytes of messages out, wherever they stand, and say so beside."""
    if isinstance(data, list):
        for one in data:
            _withhold(one)
    elif isinstance(data, dict):
        for name in _BYTES:
            if name in data:
                data[name] = None
                data["withheld"] = True
        for one in data.values():
            _withhold(one)
