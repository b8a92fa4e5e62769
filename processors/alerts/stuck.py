"""Stuck rules: a value that has not left a band of ``tolerance`` for ``for_s``, in at least ``readings`` readings.

The band begins anew with the reading that would make it wider than the tolerance: no two readings in it differ by
more. All fresh readings with a value count, also those that a quality check has flagged: a check that finds the same
must not hide it from the operator. At the values ``normal`` (give or take the tolerance) standing still is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.ladder import Ladder, Watch, one_level
from processors.alerts.watching import SeriesKind, option
from qingtu.catalogue_rules import StuckRule
from qingtu.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors.alerts.batch import Batch

_ROUNDING: Final = 1e-12


class Stuck(SeriesKind):
    """All stuck alerts. The measure is for how many seconds the value has stood still."""

    model = StuckRule
    every_flag = True
    memory_row = np.array(
        [(0, 0, np.inf, -np.inf)], np.dtype([("since", "<i8"), ("n", "<i8"), ("low", "<f8"), ("high", "<f8")])
    )

    def prepare(self, watches: Sequence[Watch]) -> Ladder:
        """Make the ladder; see :class:`SeriesKind`."""
        rules = [w.rule for w in watches]
        self._tolerance = option(watches, "tolerance")
        self._least = option(watches, "readings")
        most = max((len(r.normal) for r in rules), default=0)
        self._normal = np.array([(*r.normal, *[np.nan] * (most - len(r.normal))) for r in rules], np.float64)
        self._normal = self._normal.reshape(len(rules), most)
        return Ladder(watches, one_level(rules, [r.for_s for r in rules]))

    def measure(self, w: NDArray[np.int64], batch: Batch, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Widen the band, or begin anew."""
        time, value, tolerance = batch.time_us.take(row), batch.value.take(row), self._tolerance.take(w)
        valued = ~np.isnan(value)
        m = self.memory
        low, high = np.fmin(m["low"].take(w), value), np.fmax(m["high"].take(w), value)
        since, n = m["since"].take(w), m["n"].take(w)
        with np.errstate(invalid="ignore", over="ignore"):
            # 30.1 - 30 is more than 0.1 in binary: a tolerance of one step of the device must hold it.
            room = tolerance + _ROUNDING * np.fmax(np.abs(high), np.abs(low))
            anew = valued & ((high - low > room) | (n == 0))
        n += valued
        for column, begun in ((since, time), (n, 1), (low, value), (high, value)):
            np.copyto(column, begun, where=anew)
        if self._normal.shape[1]:
            with np.errstate(invalid="ignore", over="ignore"):
                normal = valued & (np.abs(value[:, None] - self._normal[w]) <= tolerance[:, None]).any(axis=1)
            n[normal], low[normal], high[normal] = 0, np.inf, -np.inf
        m["since"][w], m["n"][w], m["low"][w], m["high"][w] = since, n, low, high
        stood: NDArray[np.float64] = (time - since) / SECOND
        stood *= n >= self._least.take(w)
        stood[~valued] = np.nan
        return stood

    def told(self, w: int, batch: Batch, row: int, measure: float, level: int) -> tuple[float, float, dict[str, Any]]:
        """Tell the value, since when it stands still, and in how many readings."""
        del measure, level
        rule = self.ladder.watches[w].rule
        seen = {
            "since_us": int(self.memory["since"][w]), "readings": int(self.memory["n"][w]), "for_s": rule.for_s,
            "tolerance": rule.tolerance, "unit": self.unit[w],
        }  # fmt: skip
        return float(batch.value[row]), np.nan, seen
