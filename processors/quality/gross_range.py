"""Gross range: outside what the sensor or the catalogue allows (QARTOD test 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput


class GrossRange:
    """4 outside the fail span, else 3 outside the suspect span, else 1; bounds are inclusive; 9 without value.

    Source: ioos_qc ``gross_range_test``; equal to it on every input but an empty one.
    """

    key = "gross_range"
    bit = 0

    def prepare(self, series: Sequence[Series]) -> NDArray[np.float64]:
        """Return (4, series): fail_min, fail_max, and the bounds of what is within both; infinite where not limited."""
        rows = [(s.limits.fail_min, s.limits.fail_max, s.limits.suspect_min, s.limits.suspect_max) for s in series]
        low, high, suspect_low, suspect_high = np.array(rows, np.float64).reshape(-1, 4).T
        return np.array([low, high, np.maximum(low, suspect_low), np.minimum(high, suspect_high)])

    def memory(self, limits: NDArray[np.float64]) -> None:
        """It has none."""

    def __call__(self, data: CheckInput, limits: NDArray[np.float64], memory: None) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        del memory
        low, high = limits[2].take(data.series), limits[3].take(data.series)
        out = ((data.value < low) | (data.value > high)).nonzero()[0]
        if not len(out):
            return data.passed, None
        value, series = data.value[out], data.series[out]
        flags = data.passed.copy()
        failed = (value < limits[0][series]) | (value > limits[1][series])
        flags[out] = np.where(failed, np.uint8(Flag.FAIL), np.uint8(Flag.SUSPECT))
        return flags, None
