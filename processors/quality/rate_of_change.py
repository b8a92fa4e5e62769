"""Rate of change: faster than the phenomenon can change (QARTOD test 7)."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits by series, shape (series,).

    Attributes:
        suspect, fail: float64, canonical unit per hour; infinite where there is none.
        least: float64, the smaller one.
        rest: uint8, flag of what does not exceed any: 1 with a limit, 2 without.
        all: every series has a limit.
    """

    suspect: NDArray[np.float64]
    fail: NDArray[np.float64]
    least: NDArray[np.float64]
    rest: NDArray[np.uint8]
    all: bool


class RateOfChange:
    """3 when ``|x[n] - x[n-1]| / dt`` exceeds the suspect rate, 4 above the fail rate (strictly), else 1.

    The first reading, and one after a missing value, is 1; without any limit, or not fresh, 2; without value 9.
    Source: ioos_qc ``rate_of_change_test``; equal to it on series with whole-second steps (it cuts dt to seconds,
    here dt is exact).
    """

    key = "rate_of_change"
    bit = 2

    def prepare(self, series: Sequence[Series]) -> RateLimits | None:
        """Return limits by series, or None when nothing is limited."""
        suspect = np.array([s.limits.rate_suspect_per_h for s in series], np.float64)
        fail = np.array([s.limits.rate_fail_per_h for s in series], np.float64)
        least = np.minimum(suspect, fail)
        limited = np.isfinite(suspect) | np.isfinite(fail)
        rest = np.where(limited, np.uint8(Flag.PASS), np.uint8(Flag.NOT_EVALUATED))
        return RateLimits(suspect, fail, least, rest, bool(limited.all())) if limited.any() else None

    def memory(self, limits: RateLimits) -> Rows:
        """Return room for the last fresh reading of each series."""
        return Rows(_EMPTY, len(limits.least))

    def __call__(self, data: CheckInput, limits: RateLimits, memory: Rows) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        series, time, value = data.fresh
        before_value = memory.before(data, "value", data.value)
        before_time = memory.before(data, "time", data.time_us)
        # Fresh readings are newer than all before: dt is positive. Products, not quotients: a change of exactly the
        # limit must not exceed it by a rounding.
        change, elapsed = np.abs(value - before_value) * HOUR, (time - before_time).astype(np.float64)
        fast = (change > limits.least.take(series) * elapsed).nonzero()[0]
        memory.put(data, time=time, value=value)
        if limits.all and data.whole and not len(fast):
            return data.passed, None
        own = limits.rest.take(series)
        failed = change[fast] > limits.fail[series[fast]] * elapsed[fast]
        own[fast] = np.where(failed, np.uint8(Flag.FAIL), np.uint8(Flag.SUSPECT))
        return data.flags(own), None
