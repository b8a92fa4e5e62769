"""Gap: a reading that comes after too long a time without one (QARTOD test 1, timing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from processors.quality.memory import Rows
from qingtu.clock import SECOND
from qingtu.grouped import NEVER
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput

_EMPTY: Final = np.array([(NEVER,)], np.dtype([("time", "<i8")]))


class Gap:
    """4 when the fresh reading before is more than ``fail_s`` older, 3 more than ``suspect_s`` (strictly), else 1.

    The first reading of a series, one that is not fresh, and all without limit get 2; without value 9. Source: ioos_qc
    ``time_gap_test``, equal to it from the second reading on.
    """

    key = "gap"
    bit = 6

    def prepare(self, series: Sequence[Series]) -> NDArray[np.float64] | None:
        """Return (2, series): suspect and fail time in µs; infinite where there is none."""
        rows = [(s.limits.gap_suspect_s, s.limits.gap_fail_s) for s in series]
        limits = np.ascontiguousarray(np.array(rows, np.float64).reshape(-1, 2).T) * SECOND
        return limits if np.isfinite(limits).any() else None

    def memory(self, limits: NDArray[np.float64]) -> Rows:
        """Return room for the time of the last fresh reading of each series."""
        return Rows(_EMPTY, limits.shape[1])

    def __call__(self, data: CheckInput, limits: NDArray[np.float64], memory: Rows) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        series, time, _ = data.fresh
        before = memory.before(data, "time", data.time_us)
        suspect, fail = limits[0][series], limits[1][series]
        elapsed = time - before
        own = np.full(len(series), Flag.PASS, np.uint8)
        own[elapsed > suspect] = Flag.SUSPECT
        own[elapsed > fail] = Flag.FAIL
        own[(before == NEVER) | (np.isinf(suspect) & np.isinf(fail))] = Flag.NOT_EVALUATED
        memory.put(data, time=time)
        return data.flags(own), None
