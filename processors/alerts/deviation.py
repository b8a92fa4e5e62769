"""Deviation rules: a value far from what the same hour of past days had.

For each hour of the day, in the station's zone, the mean of the hour's readings is one day's figure. Of past days::

    n'      = min(n + 1, days)
    d       = figure - mean
    mean   += d / n'
    between = (1 - 1/n') * (between + d * d / n')       variance of the days' means
    within += (variance in the hour - within) / n'
    spread  = sqrt(between + within)

Up to ``days`` days these are the exact mean and population variances; older ones then fade. The measure of a reading
is ``|x - mean| / max(spread, least / lowest level)``, so that a difference of ``least`` is needed in any case. Nothing
is judged before ``min_days`` days of that hour are known. Only fresh readings with flag 1 or 2 count, and are learned
when their hour is over: what lasts becomes history.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.watching import SeriesKind, option
from qingtu.catalogue_rules import DeviationRule
from qingtu.clock import HOUR
from qingtu.grouped import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors.alerts.batch import Batch
    from processors.alerts.ladder import Ladder, Watch

_SIGN: Final = {"above": 1.0, "below": -1.0, "either": np.nan}


class Deviation(SeriesKind):
    """All deviation alerts. The measure is the distance to history in spreads, by the rule's direction."""

    model = DeviationRule
    memory_row = np.zeros(
        1,
        np.dtype(
            [
                *((name, "<f8", (24,)) for name in ("days", "mean", "between", "within")),
                ("hour", "<i8"), ("k", "<i8"), ("now", "<f8"), ("squares", "<f8"), ("last", "<f8"), ("last_us", "<i8"),
            ]
        ),
    )  # fmt: skip
    """By hour of the day, what is known; and of the running hour: readings, their mean, squares, and the newest."""

    def prepare(self, watches: Sequence[Watch]) -> Ladder:
        """Make the ladder; see :class:`SeriesKind`."""
        ladder = super().prepare(watches)
        self._most, self._least_days = option(watches, "days"), option(watches, "min_days")
        lowest = [min(w.rule.levels.values()) for w in watches]
        self._floor = option(watches, "least") / np.array(lowest, np.float64)
        self._sign = np.array([_SIGN[w.rule.direction] for w in watches], np.float64)
        either = np.isnan(self._sign)
        self._either = either if either.any() else None
        return ladder

    def measure(self, w: NDArray[np.int64], batch: Batch, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compare each reading with its hour of past days, and add it to the running hour."""
        value, time, m = batch.value.take(row), batch.time_us.take(row), self.memory
        hour = self.zones.local(w, time) // HOUR
        begun = m["hour"].take(w) != hour
        if begun.any():
            self._learn(w[begun & (m["k"].take(w) > 0)])
            m["hour"][w] = hour
        place = w * 24 + hour % 24
        days, mean = m["days"].ravel().take(place), m["mean"].ravel().take(place)
        spread = np.sqrt(m["between"].ravel().take(place) + m["within"].ravel().take(place))
        np.maximum(spread, self._floor.take(w), out=spread)
        rest = (value - mean) / spread
        far: NDArray[np.float64] = rest * self._sign.take(w)
        if self._either is not None:
            np.copyto(far, np.abs(rest), where=self._either.take(w))
        self._add(w, value, time)
        far[days < self._least_days.take(w)] = np.nan
        return far

    def _learn(self, w: NDArray[np.int64]) -> None:
        """Take the hour that is over as one more day of its hour."""
        m, of_day = self.memory, self.memory["hour"][w] % 24
        n = np.minimum(m["days"][w, of_day] + 1, self._most[w])
        d = m["now"][w] - m["mean"][w, of_day]
        variance = m["squares"][w] / m["k"][w]
        m["days"][w, of_day] = n
        m["mean"][w, of_day] += d / n
        m["between"][w, of_day] = (1 - 1 / n) * (m["between"][w, of_day] + d * d / n)
        m["within"][w, of_day] += (variance - m["within"][w, of_day]) / n
        for name in ("k", "now", "squares"):
            m[name][w] = 0

    def _add(self, w: NDArray[np.int64], value: NDArray[np.float64], time: NDArray[np.int64]) -> None:
        m = self.memory
        k, before = m["k"].take(w) + 1, m["now"].take(w)
        d = value - before
        now = before + d / k
        m["squares"][w] += d * (value - now)
        m["k"][w], m["now"][w], m["last"][w], m["last_us"][w] = k, now, value, time

    def strike(self, w: NDArray[np.int64], struck_us: NDArray[np.int64]) -> None:
        """Take the newest readings out of the running hour."""
        m = self.memory
        w = w[m["last_us"][w] == struck_us]
        k, now, last = m["k"][w] - 1, m["now"][w], m["last"][w]
        before = np.where(k > 0, now - (last - now) / np.maximum(k, 1), 0.0)
        m["squares"][w] = np.where(k > 0, np.maximum(0.0, m["squares"][w] - (last - before) * (last - now)), 0.0)
        m["k"][w], m["now"][w], m["last_us"][w] = k, before, NEVER

    def told(self, w: int, batch: Batch, row: int, measure: float, level: int) -> tuple[float, float, dict[str, Any]]:
        """Tell the value, the bound that it is beyond, and what it was compared with."""
        of_day = self.memory["hour"][w] % 24
        mean, between, within, days = (float(self.memory[n][w, of_day]) for n in ("mean", "between", "within", "days"))
        spread = max(math.sqrt(between + within), float(self._floor[w]))
        rule, value = self.ladder.watches[w].rule, float(batch.value[row])
        sign = 1.0 if rule.direction == "above" or (rule.direction == "either" and value >= mean) else -1.0
        limit = mean + sign * self.ladder.limit_of(w, level) * spread
        seen = {
            "direction": rule.direction, "mean": mean, "spread": spread, "days": int(days), "unit": self.unit[w],
            "spreads": measure,
        }  # fmt: skip
        return value, limit, seen
