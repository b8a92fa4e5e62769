"""Instrument: what the device itself says of a reading, such as calibration, maintenance, fault or power-on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qingtu.marks import load_marks
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput


class Instrument:
    """The flag of the mark that came with the reading; without one 2; without value 9. Source: qingtu/marks.yaml."""

    key = "instrument"
    bit = 15

    def prepare(self, series: Sequence[Series]) -> NDArray[np.uint8]:
        """Return (marks + 1,): the flag of each mark, 0 for none."""
        del series
        return np.array([Flag.NOT_EVALUATED, *(mark.flag for mark in load_marks())], np.uint8)

    def memory(self, limits: NDArray[np.uint8]) -> None:
        """It has none."""

    def __call__(
        self, data: CheckInput, limits: NDArray[np.uint8], memory: None
    ) -> tuple[NDArray[np.uint8] | None, None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        del memory
        if data.mark is None:
            return None, None
        flags = limits[data.mark]
        flags[data.missing] = Flag.MISSING
        return flags, None
