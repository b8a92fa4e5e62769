"""Where streams end: the primary store, and sinks that follow. One line a sink in SINKS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sinks import parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from qingtu.contracts import Sink

SINKS: Final[Mapping[str, Callable[[Path], Sink]]] = {
    "parquet": parquet.ParquetSink,
}
