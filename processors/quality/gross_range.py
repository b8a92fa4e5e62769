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
        """Return (4, series): fail_min, fail_max, suspect_min, suspect_max; infinite where not limited."""
        rows = [(s.limits.fail_min, s.limits.fail_max, s.limits.suspect_min, s.limits.suspect_max) for s in series]
        return np.ascontiguousarray(np.array(rows, np.float64).reshape(-1, 4).T)

    def memory(self, limits: NDArray[np.float64]) -> None:
        """It has none."""

    def __call__(self, data: CheckInput, limits: NDArray[np.float64], memory: None) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        del memory
        value, low, high, suspect_low, suspect_high = data.value, *(limits[i][data.series] for i in range(4))
        flags = np.full(len(value), Flag.PASS, np.uint8)
        flags[(value < suspect_low) | (value > suspect_high)] = Flag.SUSPECT
        flags[(value < low) | (value > high)] = Flag.FAIL
        flags[np.isnan(value)] = Flag.MISSING
        return flags, None
