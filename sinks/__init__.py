"""Where streams end: the primary store, and sinks that follow. One line a sink in SINKS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sinks import notify, parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qingtu.contracts import Sink, SinkPlace

SINKS: Final[Mapping[str, Callable[[SinkPlace], Sink]]] = {
    "parquet": lambda place: parquet.ParquetSink(place.folder),
    "notify": notify.NotifySink,
}
