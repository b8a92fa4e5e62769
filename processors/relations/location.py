"""Location: where a station that moves, or may break loose, says that it is (QARTOD test 3)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from processors.relations.groups import by_channel
from qingtu.contracts import Related
from qingtu.records import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue

EARTH_RADIUS_M: Final = 6_371_008.8
"""Mean radius of the earth (IUGG, R1)."""


class Location:
    """Both 4 where impossible, without the other, outside ``box`` or beyond ``fail_m``; 3 beyond ``suspect_m``; else 1.

    Distances are from the position that the catalogue gives.
    On the border of the box is outside. Distances are great circles on a sphere. Source: ioos_qc ``location_test`` and
    ``location_bounds_test``; the distance from an anchor takes the place of that from the position before, which does
    not tell a buoy that drifts.
    """

    key = "location"
    bit = 9

    def prepare(self, catalogue: Catalogue) -> Related | None:
        """Return the stations with both: longitude, latitude. Impossible positions need no limit."""
        found = []
        for station, numbers in by_channel(catalogue, ("longitude", "latitude")):
            limit = catalogue.relations_of(station).location
            box = (limit and limit.box) or (-math.inf, -math.inf, math.inf, math.inf)
            far = tuple(((limit and m) or math.inf) for m in ((limit and limit.suspect_m), (limit and limit.fail_m)))
            found.append((numbers, (*box, *far, *catalogue.stations[station].position)))
        return Related.of(found)

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Check; see :class:`qingtu.contracts.MessageCheck`."""
        lon, lat = values
        west, south, east, north, suspect_m, fail_m, home_lon, home_lat = limits[group].T
        flags = np.full(len(lon), Flag.PASS, np.uint8)
        away = distance_m(lon, lat, home_lon, home_lat)
        flags[away > suspect_m] = Flag.SUSPECT
        inside = (lon > west) & (lon < east) & (lat > south) & (lat < north)
        flags[(away > fail_m) | ~inside | (np.abs(lon) > 180) | (np.abs(lat) > 90)] = Flag.FAIL
        return np.tile(flags, (2, 1))


def distance_m(
    lon: NDArray[np.float64], lat: NDArray[np.float64], other_lon: NDArray[np.float64], other_lat: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return great-circle distances in metres between places in degrees (haversine)."""
    a, b = np.radians(lat), np.radians(other_lat)
    half = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lon - other_lon) / 2) ** 2
    out: NDArray[np.float64] = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
    return out
