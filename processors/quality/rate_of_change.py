"""Rate of change: faster than the phenomenon can change (QARTOD test 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from processors.quality.memory import Rows
from qingtu.clock import HOUR
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput

_EMPTY: Final = np.array([(0, np.nan)], np.dtype([("time", "<i8"), ("value", "<f8")]))


class RateOfChange:
    """3 when ``|x[n] - x[n-1]| / dt`` exceeds the suspect rate, 4 above the fail rate (strictly), else 1.

    The first reading, and one after a missing value, is 1; without any limit, or not fresh, 2; without value 9.
    Source: ioos_qc ``rate_of_change_test``; equal to it on series with whole-second steps (it cuts dt to seconds,
    here dt is exact).
    """

    key = "rate_of_change"
    bit = 2

    def prepare(self, series: Sequence[Series]) -> NDArray[np.float64] | None:
        """Return (2, series): suspect and fail rate in canonical unit per hour; infinite where there is none."""
        rows = [(s.limits.rate_suspect_per_h, s.limits.rate_fail_per_h) for s in series]
        limits = np.ascontiguousarray(np.array(rows, np.float64).reshape(-1, 2).T)
        return limits if np.isfinite(limits).any() else None

    def memory(self, limits: NDArray[np.float64]) -> Rows:
        """Return room for the last fresh reading of each series."""
        return Rows(_EMPTY, limits.shape[1])

    def __call__(self, data: CheckInput, limits: NDArray[np.float64], memory: Rows) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        rows = memory.rows
        flags = np.full(len(data.value), Flag.NOT_EVALUATED, np.uint8)
        series, time, value = data.series[data.chain], data.time_us[data.chain], data.value[data.chain]
        known = data.before < 0
        before_value = np.where(known, rows["value"][series], data.value[data.before])
        before_time = np.where(known, rows["time"][series], data.time_us[data.before])
        # Fresh readings are newer than all before: dt is positive. Products, not quotients: a change of exactly the
        # limit must not exceed it by a rounding.
        change, elapsed = np.abs(value - before_value) * HOUR, (time - before_time).astype(np.float64)
        suspect, fail = limits[0][series], limits[1][series]
        own = np.full(len(series), Flag.PASS, np.uint8)
        own[change > suspect * elapsed] = Flag.SUSPECT
        own[change > fail * elapsed] = Flag.FAIL
        own[np.isinf(suspect) & np.isinf(fail)] = Flag.NOT_EVALUATED
        flags[data.chain] = own
        flags[np.isnan(data.value)] = Flag.MISSING
        last = data.last
        rows["time"][series[last]] = time[last]
        rows["value"][series[last]] = value[last]
        return flags, None
