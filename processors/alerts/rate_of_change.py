"""Rate-of-change rules: a value that changes faster than a level, in canonical unit per hour, over the last ``over_s``.

The change is counted from the reading whose age is nearest to ``over_s``, of those between half of it and one and a
half times it; of each twelfth of ``over_s`` (counted from 1970) the first reading is remembered. While there is no
such reading nothing is judged. Only fresh readings with flag 1 or 2 count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.watching import SeriesKind, option
from qingtu.catalogue_rules import RateOfChangeRule
from qingtu.clock import HOUR, SECOND
from qingtu.grouped import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors.alerts.batch import Batch
    from processors.alerts.ladder import Ladder, Watch

_SLOTS: Final = 20  # one and a half times twelve, and the two that the window begins and ends in
_TWELFTHS: Final = 12
_SIGN: Final = {"rise": 1.0, "fall": -1.0, "either": np.nan}


class RateOfChange(SeriesKind):
    """All rate-of-change alerts. The measure is the change per hour, by the rule's direction."""

    model = RateOfChangeRule
    memory_row = np.array(
        [(np.full(_SLOTS, NEVER), np.zeros(_SLOTS))],
        np.dtype([("time", "<i8", (_SLOTS,)), ("value", "<f8", (_SLOTS,))]),
    )

    def prepare(self, watches: Sequence[Watch]) -> Ladder:
        """Make the ladder; see :class:`SeriesKind`."""
        self._over_us = (option(watches, "over_s") * SECOND).astype(np.int64)
        self._width_us = self._over_us // _TWELFTHS
        self._sign = np.array([_SIGN[w.rule.direction] for w in watches], np.float64)
        either = np.isnan(self._sign)
        self._either = either if either.any() else None
        self._rate = np.full(len(watches), np.nan)  # newest, for the evidence
        self._from_us = np.zeros(len(watches), np.int64)
        return super().prepare(watches)

    def measure(self, w: NDArray[np.int64], batch: Batch, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compare each reading with the one about ``over_s`` before it, and remember it."""
        time, value, over = batch.time_us.take(row), batch.value.take(row), self._over_us.take(w)
        then = self.memory["time"].take(w, axis=0)
        then -= (time - over)[:, None]
        best = np.abs(then, out=then).argmin(axis=1)
        # Of those within half of over_s around it: the nearest one is, or none.
        place = w * _SLOTS + best
        known = then.ravel().take(np.arange(0, then.size, _SLOTS) + best) <= over // 2
        place[~known] = w[~known] * _SLOTS
        from_us = self.memory["time"].ravel().take(place)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            rate = (value - self.memory["value"].ravel().take(place)) * HOUR / (time - from_us)
            rate[~known] = np.nan
            self._rate[w], self._from_us[w] = rate, from_us
            measure: NDArray[np.float64] = rate * self._sign.take(w)
        if self._either is not None:
            np.copyto(measure, np.abs(rate), where=self._either.take(w))
        self._remember(w, time, value)
        return measure

    def _remember(self, w: NDArray[np.int64], time: NDArray[np.int64], value: NDArray[np.float64]) -> None:
        width = self._width_us.take(w)
        slot = time // width
        place = w * _SLOTS + slot % _SLOTS
        times = self.memory["time"].reshape(-1)
        new = (times.take(place) // width != slot).nonzero()[0]
        if len(new):
            place = place[new]
            times[place] = time[new]
            self.memory["value"].reshape(-1)[place] = value[new]

    def strike(self, w: NDArray[np.int64], struck_us: NDArray[np.int64]) -> None:
        """Forget the newest readings."""
        times = self.memory["time"][w]
        self.memory["time"][w] = np.where(times == struck_us[:, None], NEVER, times)

    def told(self, w: int, batch: Batch, row: int, measure: float, level: int) -> tuple[float, float, dict[str, Any]]:
        """Tell the change per hour, since when it is counted, and the reading."""
        rule, rate = self.ladder.watches[w].rule, float(self._rate[w])
        limit = self.ladder.limit_of(w, level)
        sign = -1.0 if rule.direction == "fall" or (rule.direction == "either" and rate < 0) else 1.0
        del measure
        seen = {
            "direction": rule.direction, "hysteresis": rule.hysteresis, "unit": f"{self.unit[w]}/h",
            "reading": float(batch.value[row]), "from_us": int(self._from_us[w]),
        }  # fmt: skip
        return rate, limit * sign, seen
