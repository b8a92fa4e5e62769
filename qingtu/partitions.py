"""Which partition something belongs to: a station lives in one partition all the way."""

from __future__ import annotations

from zlib import crc32


def partition_of(name: str, partitions: int) -> int:
    """Return the partition of a station; of "network/device" while the station is not known.

    >>> partition_of("any", 1)
    0
    """
    return crc32(name.encode()) % partitions
