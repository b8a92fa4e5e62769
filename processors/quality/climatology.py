"""Climatology: outside what is usual in this month, perhaps at this depth (QARTOD test 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.catalogue_limits import Climate
    from qingtu.contracts import CheckInput


@dataclass(frozen=True, slots=True)
class ClimateLimits:
    """What is usual, by distinct profile.

    Attributes:
        profile: int32 (series,), -1 where nothing is limited.
        bounds: float64 (profiles, 12, 4): fail_min, fail_max, suspect_min, suspect_max of each month; NaN: none.
    """

    profile: NDArray[np.int32]
    bounds: NDArray[np.float64]


class Climatology:
    """4 outside ``fail`` of the month, else 3 outside ``suspect``, else 1; bounds are inclusive; 9 without value.

    Of several entries that fit, the last counts. A month without one, or a depth that the catalogue does not say: 2.
    The month is that of UTC. Source: ioos_qc ``climatology_test``, period month.
    """

    key = "climatology"
    bit = 7

    def prepare(self, series: Sequence[Series]) -> ClimateLimits | None:
        """Return what is usual in each month, one profile for like series."""
        known: dict[tuple[tuple[Climate, ...], float], int] = {}
        profile = []
        for s in series:
            depth = s.depth_m if any(one.depth for one in s.limits.climatology) and s.depth_m >= 0 else -1.0
            key = (s.limits.climatology, depth)
            profile.append(known.setdefault(key, len(known)) if s.limits.climatology else -1)
        bounds = np.full((len(known), 12, 4), np.nan)
        for (entries, depth), number in known.items():
            for one in entries:
                if one.depth is None or one.depth[0] <= depth <= one.depth[1]:
                    row = (*(one.fail or (-np.inf, np.inf)), *one.suspect)
                    bounds[number, [month - 1 for month in one.months]] = row
        return ClimateLimits(np.array(profile, np.int32), bounds) if known else None

    def memory(self, limits: ClimateLimits) -> None:
        """It has none."""

    def __call__(self, data: CheckInput, limits: ClimateLimits, memory: None) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        del memory
        flags = np.full(len(data.value), Flag.NOT_EVALUATED, np.uint8)
        rows = np.flatnonzero(limits.profile[data.series] >= 0)
        value = data.value[rows]
        month = data.time_us[rows].view("datetime64[us]").astype("datetime64[M]").astype(np.int64) % 12
        low, high, suspect_low, suspect_high = limits.bounds[limits.profile[data.series[rows]], month].T
        own = np.full(len(rows), Flag.PASS, np.uint8)
        own[(value < suspect_low) | (value > suspect_high)] = Flag.SUSPECT
        own[(value < low) | (value > high)] = Flag.FAIL
        own[np.isnan(suspect_low)] = Flag.NOT_EVALUATED
        flags[rows] = own
        flags[data.missing] = Flag.MISSING
        return flags, None
