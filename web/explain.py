"""Explaining a reading while the store may not have committed it yet."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from qingtu.explain import explain as explain_stored
from qingtu.records import PROCESSED

if TYPE_CHECKING:
    from web.context import Context

_WAIT_S: Final = 3.0
_LOOK_S: Final = 0.05


def explain(context: Context, station: str, prop: str, time_us: int, channel: str) -> dict[str, Any]:
    """Explain a reading; the page shows readings before the store's commit, so wait for what is on its way.

    Args:
        context: service and live view.
        station: id of the station.
        prop: key of the property.
        time_us: of the reading, µs UTC, whole ms.
        channel: of the series.
    """
    service = context.service
    latest = context.live.series((station, prop, channel))
    found = explain_stored(service, station, prop, time_us, channel)
    end = [service.bus.end(PROCESSED, p) for p in range(service.bus.partitions)]
    deadline = time.monotonic() + _WAIT_S
    pause = threading.Event()
    while not found["found"] and latest is not None and time.monotonic() < deadline:
        behind = any(service.store.progress(PROCESSED, p).next_offset < at for p, at in enumerate(end))
        for stage in service.stores:
            stage.hurry()
        pause.wait(_LOOK_S)
        found = explain_stored(service, station, prop, time_us, channel)
        if not behind:
            break
    return found
