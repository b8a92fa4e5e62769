"""Plausible range: outside what the observed property can be in nature, by the dictionary of properties.

The dictionary's ranges are engineering values, unconfirmed, so this only makes a reading suspect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qingtu.properties import load_properties
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput


class PlausibleRange:
    """3 outside the dictionary's plausible range, else 1; bounds are inclusive; 9 without value."""

    key = "plausible_range"
    bit = 1

    def prepare(self, series: Sequence[Series]) -> NDArray[np.float64]:
        """Return (2, series): smallest and largest plausible value in the canonical unit."""
        dictionary = load_properties()
        rows = [dictionary[s.property].plausible for s in series]
        return np.ascontiguousarray(np.array(rows, np.float64).reshape(-1, 2).T)

    def memory(self, limits: NDArray[np.float64]) -> None:
        """It has none."""

    def __call__(self, data: CheckInput, limits: NDArray[np.float64], memory: None) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        del memory
        low, high = limits[0].take(data.series), limits[1].take(data.series)
        out = ((data.value < low) | (data.value > high)).nonzero()[0]
        if not len(out):
            return data.passed, None
        flags = data.passed.copy()
        flags[out] = Flag.SUSPECT
        return flags, None
