"""Threshold rules: a value beyond a level, with hysteresis and hold.

A level is reached when met exactly. With ``hold_s`` the value must stay beyond it for that long in event time; the
alert then opens with, or rises to, the highest level that was held all the while. The level falls only when the value
is ``hysteresis`` on the good side. An alert whose opening reading is later flagged 3 or 4 is withdrawn. Only fresh
readings with flag 1 or 2 count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from processors.alerts.ladder import Ladder, Watch, levels_of
from processors.alerts.watching import SeriesKind, hysteresis_of
from qingtu.catalogue_rules import ThresholdRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors.alerts.batch import Batch


class Threshold(SeriesKind):
    """All threshold alerts. The measure is the value, turned round for ``below``."""

    model = ThresholdRule

    def prepare(self, watches: Sequence[Watch]) -> Ladder:
        """Make the ladder; see :class:`SeriesKind`."""
        rules = [w.rule for w in watches]
        self._sign = np.array([-1.0 if r.direction == "below" else 1.0 for r in rules], np.float64)
        self._turned = bool((self._sign < 0).any())
        return Ladder(watches, levels_of(rules) * self._sign[:, None], hysteresis_of(watches))

    def measure(self, w: NDArray[np.int64], batch: Batch, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the signed value."""
        value: NDArray[np.float64] = batch.value.take(row)
        return value * self._sign.take(w) if self._turned else value

    def told(self, w: int, batch: Batch, row: int, measure: float, level: int) -> tuple[float, float, dict[str, Any]]:
        """Tell the value and the limit."""
        del measure
        rule = self.ladder.watches[w].rule
        limit = self.ladder.limit_of(w, level) * float(self._sign[w])
        seen = {"direction": rule.direction, "hysteresis": rule.hysteresis, "unit": self.unit[w]}
        return float(batch.value[row]), limit, seen

    def taken_back(self, w: int, batch: Batch, row: int) -> tuple[float, float, dict[str, Any]]:
        """Tell the value that shows the opening one to be wrong."""
        return self.told(w, batch, row, np.nan, 0)
