"""Every bit of ``tests``, by the name of what sets it. A bit is never used again for anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.quality import CHECKS
from processors.relations import MESSAGE_CHECKS
from qingtu.records import NEIGHBOUR, OVERRIDDEN, RECEIPT_TIME

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS: Final[Mapping[str, int]] = {
    **{key: check.bit for key, check in CHECKS.items()},
    **{key: check.bit for key, check in MESSAGE_CHECKS.items()},
    "override": OVERRIDDEN.bit_length() - 1,
    "neighbour": NEIGHBOUR.bit_length() - 1,
    "receipt_time": RECEIPT_TIME.bit_length() - 1,
}


def named(tests: int) -> list[str]:
    """Return the names of the bits that are set.

    >>> named(0b10001)
    ['gross_range', 'spike']
    """
    return [key for key, bit in BITS.items() if tests >> bit & 1]
