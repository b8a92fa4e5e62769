"""Density inversion: water must not be denser than what lies below it (QARTOD test 12)."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import yaml

from processors.relations.groups import by_channel
from qingtu.contracts import Related
from qingtu.records import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue

_TEMPERATURE, _SALINITY = "sea_water_temperature", "practical_salinity"
_FILE: Final = Path(__file__).with_name("sea_water.yaml")


class DensityInversion:
    """4 when the upper of two neighbouring waters is denser by more than ``fail`` kg/m³, 3 by more than ``suspect``.

    Else 1; it is said of temperature and salinity at both depths; with one of the four missing 2. Strictly greater.
    Density is that at atmospheric pressure (processors/relations/sea_water.yaml): over tens of metres the difference to
    potential density is beyond the sensors. Source: ioos_qc ``density_inversion_test``, whose thresholds are the
    negative of ours; equal to it on whole profiles.
    """

    key = "density_inversion"
    bit = 10

    def prepare(self, catalogue: Catalogue) -> Related | None:
        """Return the pairs of neighbouring depths with a limit: temperature and salinity above, and below."""
        depths: dict[str, list[tuple[float, tuple[int, ...]]]] = {}
        for station, numbers in by_channel(catalogue, (_TEMPERATURE, _SALINITY)):
            depth = catalogue.series[numbers[0]].depth_m
            if not math.isnan(depth) and catalogue.relations_of(station).density:
                depths.setdefault(station, []).append((depth, numbers))
        found = []
        for station, levels in depths.items():
            limit = catalogue.relations_of(station).density
            assert limit is not None
            far = (limit.suspect or math.inf, limit.fail or math.inf)
            found += [((*above, *below), far) for (_, above), (_, below) in itertools.pairwise(sorted(levels))]
        return Related.of(found)

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Check; see :class:`qingtu.contracts.MessageCheck`."""
        drop = density(values[0], values[1]) - density(values[2], values[3])
        suspect, fail = limits[group].T
        flags = np.full(len(drop), Flag.PASS, np.uint8)
        flags[drop > suspect] = Flag.SUSPECT
        flags[drop > fail] = Flag.FAIL
        flags[np.isnan(drop)] = Flag.NOT_EVALUATED
        return np.tile(flags, (4, 1))


def density(temperature: NDArray[np.float64], salinity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the density of sea water in kg/m³ at atmospheric pressure.

    Args:
        temperature: Cel.
        salinity: practical; below 0 there is no density.
    """
    by = _coefficients()
    with np.errstate(invalid="ignore"):
        root = np.sqrt(salinity)
    parts = (np.polynomial.polynomial.polyval(temperature, by[name]) for name in ("pure", "s1", "s15", "s2"))
    pure, s1, s15, s2 = parts
    out: NDArray[np.float64] = pure + salinity * (s1 + root * s15 + salinity * s2)
    return out


@cache
def _coefficients() -> dict[str, list[float]]:
    content: dict[str, list[float]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return content
