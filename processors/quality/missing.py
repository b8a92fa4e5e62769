"""Missing: the device sent no value, or one of its numbers for "no value" (null, NaN, a sentinel)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput


class Missing:
    """9 where there is no value, else 1."""

    key = "missing"
    bit = 3
    memory = None

    def prepare(self, series: Sequence[Series]) -> None:
        """Nothing to prepare: sentinels were taken out before conversion."""

    def __call__(self, data: CheckInput, limits: None, memory: NDArray[Any] | None) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        del limits, memory
        return np.where(np.isnan(data.value), np.uint8(Flag.MISSING), np.uint8(Flag.PASS)), None
