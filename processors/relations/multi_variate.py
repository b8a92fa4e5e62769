"""Multi-variate: what one property says of another, as the catalogue puts it (QARTOD test 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors.relations.groups import by_channel
from qingtu.contracts import Related
from qingtu.records import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue


class MultiVariate:
    """``expect`` 3 when it lies outside its range while ``when`` lies within its own (bounds inclusive), else 1.

    While ``when`` lies elsewhere, or is not there, 2; ``when`` itself always 2. Source: QARTOD multi-variate test,
    which leaves the relation to the operator; ioos_qc has none.
    """

    key = "multi_variate"
    bit = 11

    def prepare(self, catalogue: Catalogue) -> Related | None:
        """Return the stations that have both properties of a relation: expect, when."""
        pairs = {
            (one.expect, one.when)
            for station in catalogue.stations
            for one in catalogue.relations_of(station).multi_variate or ()
        }
        found = [
            (numbers, (*one.within, *one.range))
            for pair in sorted(pairs)
            for station, numbers in by_channel(catalogue, pair)
            for one in catalogue.relations_of(station).multi_variate or ()
            if (one.expect, one.when) == pair
        ]
        return Related.of(found)

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Check; see :class:`qingtu.contracts.MessageCheck`."""
        flags = np.full(values.shape, Flag.NOT_EVALUATED, np.uint8)
        low, high, least, most = limits[group].T
        expect, when = values
        outside = (expect < least) | (expect > most)
        flags[0] = np.where(outside, Flag.SUSPECT, Flag.PASS)
        flags[0, ~((when >= low) & (when <= high))] = Flag.NOT_EVALUATED
        return flags
