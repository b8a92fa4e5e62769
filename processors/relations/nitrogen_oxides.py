"""Nitrogen oxides: NO and NO2 must add up to NOx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors.relations.groups import by_channel
from qingtu.contracts import Related
from qingtu.properties import load_properties
from qingtu.records import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue


class NitrogenOxides:
    """All three 3 when ``|NO · M(NO2)/M(NO) + NO2 − NOx|`` exceeds ``share`` of the larger side + ``floor``, else 1.

    NOx is given as NO2, all in µg/m³; without one of them 2. Source: what NOx is (a chemiluminescence monitor measures
    NO and NOx, and gives the difference as NO2); share and floor are engineering values, unconfirmed.
    """

    key = "nitrogen_oxides"
    bit = 12

    def prepare(self, catalogue: Catalogue) -> Related | None:
        """Return the stations with all three and a limit: NO, NO2, NOx."""
        found = [
            (numbers, (limit.share, limit.floor))
            for station, numbers in by_channel(catalogue, ("nitric_oxide", "no2", "nox"))
            if (limit := catalogue.relations_of(station).nitrogen_oxides)
        ]
        return Related.of(found)

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Check; see :class:`qingtu.contracts.MessageCheck`."""
        dictionary = load_properties()
        masses = [dictionary[key].gas_molar_mass for key in ("no2", "nitric_oxide")]
        assert masses[0] is not None
        assert masses[1] is not None
        total = values[0] * (masses[0] / masses[1]) + values[1]
        share, floor = limits[group].T
        far = np.abs(total - values[2]) > share * np.maximum(total, values[2]) + floor
        flags = np.where(far, np.uint8(Flag.SUSPECT), np.uint8(Flag.PASS))
        flags[np.isnan(values).any(axis=0)] = Flag.NOT_EVALUATED
        return np.tile(flags, (3, 1))
