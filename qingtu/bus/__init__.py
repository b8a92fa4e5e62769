"""Where frames are durable: SQLite files in one process, or Kafka for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qingtu.records import RAW

if TYPE_CHECKING:
    from collections.abc import Collection

    from qingtu.bus.kafka import KafkaBus
    from qingtu.bus.sqlite import SqliteBus
    from qingtu.settings import Settings

SHARED: Final = {"process": RAW}
"""Stages whose partitions are shared out among all processes that have them, with what they read."""
_MIB: Final = 1024 * 1024


def open_bus(settings: Settings, stages: Collection[str]) -> SqliteBus | KafkaBus:
    """Open the bus that the settings name.

    Args:
        settings: checked settings.
        stages: what this process has.

    Raises:
        StartError: it cannot be opened; the text says what to do.
    """
    if settings.bus.kind == "kafka":
        from qingtu.bus.kafka import KafkaBus  # noqa: PLC0415 - loaded only where it is used
        from qingtu.bus.kafka_topics import check_sizes  # noqa: PLC0415

        check_sizes(settings)
        return KafkaBus(settings.kafka, {stage: stream for stage, stream in SHARED.items() if stage in stages})
    from qingtu.bus.sqlite import SqliteBus  # noqa: PLC0415 - see above

    return SqliteBus(settings.data / "bus", free_floor_bytes=settings.bus.free_floor_mb * _MIB)
