"""Particle sizes: fine particles are part of the coarser ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors.relations.groups import by_channel
from qingtu.contracts import Related
from qingtu.records import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue


class ParticleSizes:
    """Both 3 when PM2.5 exceeds PM10 by more than ``floor`` µg/m³ (strictly), else 1; with one alone 2.

    Source: what the sizes are (PM10 holds PM2.5); the floor stands for the noise of both instruments and is an
    engineering value, unconfirmed.
    """

    key = "particle_sizes"
    bit = 13

    def prepare(self, catalogue: Catalogue) -> Related | None:
        """Return the stations with both and a limit: PM2.5, PM10."""
        found = [
            (numbers, (limit.floor,))
            for station, numbers in by_channel(catalogue, ("pm25", "pm10"))
            if (limit := catalogue.relations_of(station).particle_sizes)
        ]
        return Related.of(found)

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Check; see :class:`qingtu.contracts.MessageCheck`."""
        fine, coarse = values
        flags = np.where(fine - coarse > limits[group, 0], np.uint8(Flag.SUSPECT), np.uint8(Flag.PASS))
        flags[np.isnan(values).any(axis=0)] = Flag.NOT_EVALUATED
        return np.tile(flags, (2, 1))
