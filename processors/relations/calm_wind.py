"""Calm wind: a vane that no wind turns stands where it last was, and its direction says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors.relations.groups import by_channel
from qingtu.contracts import Related
from qingtu.records import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue


class CalmWind:
    """The direction 3 while the speed is below ``below`` m/s (strictly), else 1; without speed 2.

    Nothing is said of the speed. Source: a vane needs wind to turn; WMO-No. 8 tells calm below 0.2 m/s (from memory,
    unconfirmed).
    """

    key = "calm_wind"
    bit = 14

    def prepare(self, catalogue: Catalogue) -> Related | None:
        """Return the stations with both and a limit: direction, speed."""
        found = [
            (numbers, (limit.below,))
            for station, numbers in by_channel(catalogue, ("wind_direction", "wind_speed"))
            if (limit := catalogue.relations_of(station).calm_wind)
        ]
        return Related.of(found)

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Check; see :class:`qingtu.contracts.MessageCheck`."""
        flags = np.full(values.shape, Flag.NOT_EVALUATED, np.uint8)
        speed = values[1]
        flags[0] = np.where(speed < limits[group, 0], Flag.SUSPECT, Flag.PASS)
        flags[0, np.isnan(speed)] = Flag.NOT_EVALUATED
        return flags
