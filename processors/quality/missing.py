"""Missing: the device sent no value, or one of its numbers for "no value" (null, NaN, a sentinel)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput


class Missing:
    """9 where there is no value, else 1."""

    key = "missing"
    bit = 3

    def prepare(self, series: Sequence[Series]) -> bool:
        """Nothing to prepare: sentinels were taken out before conversion."""
        del series
        return True

    def memory(self, limits: bool) -> None:
        """It has none."""

    def __call__(self, data: CheckInput, limits: bool, memory: None) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        del limits, memory
        return data.passed, None
