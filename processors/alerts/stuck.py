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
        time, value, tolerance = batch.time_us[row], batch.value[row], self._tolerance[w]
        valued = ~np.isnan(value)
        memory = self.memory[w]
        low, high = np.fmin(memory["low"], value), np.fmax(memory["high"], value)
        with np.errstate(invalid="ignore", over="ignore"):
            # 30.1 - 30 is more than 0.1 in binary: a tolerance of one step of the device must hold it.
            room = tolerance + _ROUNDING * np.fmax(np.abs(high), np.abs(low))
            anew = valued & ((high - low > room) | (memory["n"] == 0))
            normal = valued & (np.abs(value[:, None] - self._normal[w]) <= tolerance[:, None]).any(axis=1)
        memory["since"] = np.where(anew, time, memory["since"])
        memory["n"] = np.where(normal, 0, np.where(anew, 1, memory["n"] + valued))
        memory["low"] = np.where(normal, np.inf, np.where(anew, value, low))
        memory["high"] = np.where(normal, -np.inf, np.where(anew, value, high))
        self.memory[w] = memory
        stood = np.where(memory["n"] >= self._least[w], (time - memory["since"]) / SECOND, 0.0)
        out: NDArray[np.float64] = np.where(valued, stood, np.nan)
        return out

    def told(self, w: int, batch: Batch, row: int, measure: float, level: int) -> tuple[float, float, dict[str, Any]]:
        """Tell the value, since when it stands still, and in how many readings."""
        del measure, level
        rule, memory = self.ladder.watches[w].rule, self.memory[w]
        seen = {
            "since_us": int(memory["since"]), "readings": int(memory["n"]), "for_s": rule.for_s,
            "tolerance": rule.tolerance, "unit": self.unit[w],
        }  # fmt: skip
        return float(batch.value[row]), np.nan, seen
