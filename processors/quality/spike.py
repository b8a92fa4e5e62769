"""Spike: a reading far from the mean of its neighbours (QARTOD test 6, method average).

It needs the next reading, so a reading is first passed on without this check's verdict; when the next one shows a
spike, a revision follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qingtu.contracts import Verdict
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput

_MEMORY: Final = np.dtype([("one", "<f8"), ("two", "<f8")])


class Spike:
    """For ``x[n-1]`` with ``d = |x[n-1] - (x[n-2] + x[n]) / 2|``: 4 when d exceeds fail, 3 when it exceeds suspect.

    Strictly greater; without neighbours, or with a missing one, 2. Source: ioos_qc ``spike_test`` (average), whose
    flags are equal to ours once the next reading has come. An infinite threshold is none.
    """

    key = "spike"
    bit = 4
    memory = np.array([(np.nan, np.nan)], _MEMORY)

    def prepare(self, series: Sequence[Series]) -> NDArray[np.float64]:
        """Return (2, series): suspect and fail threshold in the canonical unit."""
        rows = [(s.limits.spike_suspect, s.limits.spike_fail) for s in series]
        return np.ascontiguousarray(np.array(rows, np.float64).reshape(-1, 2).T)

    def __call__(
        self, data: CheckInput, limits: NDArray[np.float64], memory: NDArray[Any] | None
    ) -> tuple[NDArray[np.uint8], Verdict]:
        """Check; see :class:`qingtu.contracts.Check`. ``memory`` holds the last reading and the one before it."""
        assert memory is not None
        flags = np.full(len(data.value), Flag.NOT_EVALUATED, np.uint8)
        flags[np.isnan(data.value)] = Flag.MISSING
        series, value = data.series[data.chain], data.value[data.chain]
        n = len(series)
        # one: the fresh reading before, two: the one before that; from the chain, else from memory.
        first = data.before < 0
        one = np.where(first, memory["one"][series], data.value[data.before])
        after_first = np.zeros(n, np.bool_)
        after_first[1:] = first[:-1] & ~first[1:]
        two = np.empty(n)
        two[2:] = value[:-2]
        two[first] = memory["two"][series[first]]
        two[after_first] = memory["one"][series[after_first]]
        far = np.abs(one - (two + value) / 2)
        suspect, fail = limits[0][series], limits[1][series]
        hit = np.flatnonzero((far > suspect) | (far > fail))
        verdict = Verdict(hit, np.where(far[hit] > fail[hit], Flag.FAIL, Flag.SUSPECT).astype(np.uint8))
        last = data.last
        memory["two"][series[last]] = one[last]
        memory["one"][series[last]] = value[last]
        return flags, verdict
