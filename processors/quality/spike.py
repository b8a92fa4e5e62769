"""Spike: a reading that stands out from both of its neighbours (QARTOD test 6).

It needs the next reading, so a reading is first passed on without this check's verdict; when the next one shows a
spike, a revision follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from processors.quality.memory import Rows
from qingtu.contracts import Verdict
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput

_EMPTY: Final = np.array([(np.nan, np.nan)], np.dtype([("one", "<f8"), ("two", "<f8")]))


@dataclass(frozen=True, slots=True)
class SpikeLimits:
    """Limits by series, shape (series,).

    Attributes:
        suspect, fail: float64, height in the canonical unit; infinite: none.
        least: float64, the smaller one.
        differential: bool, by which method the height is measured.
        only: the method of all, as in ``differential``; None when both occur.
    """

    suspect: NDArray[np.float64]
    fail: NDArray[np.float64]
    least: NDArray[np.float64]
    differential: NDArray[np.bool_]
    only: bool | None


class Spike:
    """For ``x[n-1]`` with height d: 4 when d exceeds fail, 3 when it exceeds suspect (strictly), else 2.

    Method average: ``d = |x[n-1] - (x[n-2] + x[n]) / 2|``. Method differential: the smaller of both steps, when one
    goes up and the other down; otherwise there is no spike. Without neighbours, or with a missing one, 2. Source:
    ioos_qc ``spike_test``, whose 3 and 4 are equal to ours once the next reading has come.
    """

    key = "spike"
    bit = 4

    def prepare(self, series: Sequence[Series]) -> SpikeLimits | None:
        """Return thresholds and method by series."""
        suspect = np.array([s.limits.spike_suspect for s in series], np.float64)
        fail = np.array([s.limits.spike_fail for s in series], np.float64)
        differential = np.array([s.limits.spike_differential for s in series], np.bool_)
        limited = np.isfinite(suspect) | np.isfinite(fail)
        if not limited.any():
            return None
        used = np.unique(differential[limited])
        least = np.minimum(suspect, fail)
        return SpikeLimits(suspect, fail, least, differential, bool(used[0]) if len(used) == 1 else None)

    def memory(self, limits: SpikeLimits) -> Rows:
        """Return room for the last fresh reading of each series, and the one before it."""
        return Rows(_EMPTY, len(limits.suspect))

    def __call__(self, data: CheckInput, limits: SpikeLimits, memory: Rows) -> tuple[None, Verdict | None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        series, _, value = data.fresh
        # one: the fresh reading before, two: the one before that; from the chain, else from memory.
        one, two = memory.before(data, "one", data.value), self._two(data, memory)
        far = _height(limits, series, two, one, value)
        memory.put(data, two=one, one=value)
        hit = (far > limits.least.take(series)).nonzero()[0]
        if not len(hit):
            return None, None
        failed = far[hit] > limits.fail[series[hit]]
        return None, Verdict(hit, np.where(failed, np.uint8(Flag.FAIL), np.uint8(Flag.SUSPECT)))

    @staticmethod
    def _two(data: CheckInput, memory: Rows) -> NDArray[np.float64]:
        rows, (series, _, value) = memory.rows, data.fresh
        two: NDArray[np.float64] = rows["two"].take(series)
        if not data.once:
            first = data.before < 0
            after_first = np.zeros(len(series), np.bool_)
            after_first[1:] = first[:-1] & ~first[1:]
            two[2:] = np.where(first[2:], two[2:], value[:-2])
            two[after_first] = rows["one"][series[after_first]]
        return two


def _height(
    limits: SpikeLimits,
    series: NDArray[np.int64],
    two: NDArray[np.float64],
    one: NDArray[np.float64],
    value: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the height of ``one`` between ``two`` before it and ``value`` behind it; NaN where one is missing."""
    if limits.only is False:
        return np.abs(one - (two + value) / 2)
    before, after = one - two, value - one
    step = np.minimum(np.abs(before), np.abs(after))
    differential: NDArray[np.float64] = np.where(before * after >= 0, 0.0, step)
    if limits.only:
        return differential
    average = np.abs(one - (two + value) / 2)
    return np.where(limits.differential[series], differential, average)
