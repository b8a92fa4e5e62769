"""Quality rules: the share of readings flagged 3, 4 or 9 among the last ``readings``, or of the last ``span_s``.

All fresh readings count. Of ``readings`` the share is of their number, also while fewer are known. Of ``span_s`` it is
of the readings in the last twelve twelfths of it (counted from 1970, the running one included); nothing is judged
before half as many are known as the declared interval promises, and two at least. A reading that is flagged afterwards
counts as bad from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.alerts.watching import SeriesKind, option
from qingtu.catalogue_rules import QualityRule
from qingtu.clock import SECOND
from qingtu.grouped import NEVER
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors.alerts.batch import Batch
    from processors.alerts.ladder import Ladder, Watch

_SLOTS: Final = 12
_ONE: Final = np.uint64(1)
_BAD: Final = int(Flag.SUSPECT)


class Quality(SeriesKind):
    """All quality alerts. The measure is the share, 0 to 1."""

    model = QualityRule
    every_flag = True
    memory_row = np.array(
        [(0, 0, NEVER, np.full(_SLOTS, -1), np.zeros(_SLOTS), np.zeros(_SLOTS))],
        np.dtype(
            [
                ("bits", "<u8"), ("newest_bad", "u1"), ("newest", "<i8"),
                ("slot", "<i8", (_SLOTS,)), ("bad", "<i4", (_SLOTS,)), ("all", "<i4", (_SLOTS,)),
            ]
        ),
    )  # fmt: skip
    """``bits``: of the last readings, newest lowest, 1 is bad."""

    def prepare(self, watches: Sequence[Watch]) -> Ladder:
        """Make the ladder; see :class:`SeriesKind`."""
        last = option(watches, "readings")
        self._spans = np.isnan(last)
        self._last = np.where(self._spans, 1, last).astype(np.uint64)
        self._mask = ~np.uint64(0) >> (np.uint64(64) - self._last)
        span_s = np.where(self._spans, option(watches, "span_s"), _SLOTS)
        self._width_us = (span_s * SECOND / _SLOTS).astype(np.int64)
        self._any_spans = bool(self._spans.any())
        self._least = np.maximum(2, span_s / self.interval_s / 2)
        return super().prepare(watches)

    def measure(self, w: NDArray[np.int64], batch: Batch, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Count the reading in, and give the share."""
        time = batch.time_us.take(row)
        bad = batch.judged.flag.take(row) >= _BAD
        m = self.memory
        m["newest_bad"][w], m["newest"][w] = bad, time
        bits = m["bits"].take(w)
        bits <<= _ONE
        bits |= bad
        bits &= self._mask.take(w)
        m["bits"][w] = bits
        share: NDArray[np.float64] = np.bitwise_count(bits) / self._last.take(w)
        if self._any_spans and (spans := self._spans[w]).any():
            share[spans] = self._of_span(w[spans], time[spans], bad[spans])
        return share

    def _of_span(
        self, w: NDArray[np.int64], time: NDArray[np.int64], bad: NDArray[np.bool_]
    ) -> NDArray[np.float64]:  # fmt: skip
        slot = time // self._width_us[w]
        place = slot % _SLOTS
        new = self.memory["slot"][w, place] != slot
        self.memory["slot"][w, place] = slot
        self.memory["bad"][w, place] = np.where(new, 0, self.memory["bad"][w, place]) + bad
        self.memory["all"][w, place] = np.where(new, 0, self.memory["all"][w, place]) + 1
        held = self.memory["slot"][w] > slot[:, None] - _SLOTS
        every = (self.memory["all"][w] * held).sum(axis=1)
        share = (self.memory["bad"][w] * held).sum(axis=1) / every
        out: NDArray[np.float64] = np.where(every >= self._least[w], share, np.nan)
        return out

    def strike(self, w: NDArray[np.int64], struck_us: NDArray[np.int64]) -> None:
        """Count the newest readings as bad, unless they are already."""
        mine = (self.memory["newest"][w] == struck_us) & (self.memory["newest_bad"][w] == 0)
        w = w[mine]
        self.memory["newest_bad"][w] = 1
        self.memory["bits"][w] |= _ONE
        place = self.memory["newest"][w] // self._width_us[w] % _SLOTS
        self.memory["bad"][w, place] += self._spans[w]

    def told(self, w: int, batch: Batch, row: int, measure: float, level: int) -> tuple[float, float, dict[str, Any]]:
        """Tell the share, and the flag and checks of the newest reading."""
        rule = self.ladder.watches[w].rule
        seen = {
            "readings": rule.readings, "span_s": rule.span_s, "unit": "1", "hysteresis": rule.hysteresis,
            "flag": int(batch.judged.flag[row]), "tests": int(batch.judged.tests[row]),
        }  # fmt: skip
        return measure, self.ladder.limit_of(w, level), seen
