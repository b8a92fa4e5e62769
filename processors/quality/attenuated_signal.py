"""Attenuated signal: a signal that moves less than it must (QARTOD test 10): a fouled or damped sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from processors.quality.memory import Rings
from qingtu.clock import SECOND
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput

_CELLS: Final = 1 << 20
"""Readings that are looked at together: bounds memory when a long history is driven through."""


@dataclass(frozen=True, slots=True)
class AttenuatedLimits:
    """Limits by series, shape (series,).

    Attributes:
        suspect, fail: float64, canonical unit; a measure below is bad; 0: no limit.
        window_us: int64.
        readings: int64, as many as the window holds at the declared interval; 0: not tested.
        least: int64, readings with a value that the window must hold.
        spread: bool, the measure is the range, not the standard deviation.
    """

    suspect: NDArray[np.float64]
    fail: NDArray[np.float64]
    window_us: NDArray[np.int64]
    readings: NDArray[np.int64]
    least: NDArray[np.int64]
    spread: NDArray[np.bool_]


class AttenuatedSignal:
    """4 when the signal moved less than ``fail`` in the window up to a reading, 3 less than ``suspect``, else 1.

    The window is ``window_s`` long, its begin excluded, and holds at most as many readings as the declared interval
    puts into it. With less than ``min_readings`` values, or for a range with a missing one, 2; without limit or not
    fresh 2; without value 9. Source: ioos_qc ``attenuated_signal_test`` with ``test_period`` and ``min_obs``.
    """

    key = "attenuated_signal"
    bit = 8

    def prepare(self, series: Sequence[Series]) -> AttenuatedLimits | None:
        """Return limits by series, or None when nothing is limited."""
        given = [(s.limits.attenuated, s.interval_s) for s in series]
        if not any(one for one, _ in given):
            return None
        rows = []
        for one, interval_s in given:
            if one is None:
                rows.append((0.0, 0.0, 0, 0, 0, False))
                continue
            readings = max(2, math.ceil(one.window_s / interval_s))
            least = one.min_readings or max(2, math.ceil(readings / 2))
            window_us = round(one.window_s * SECOND)
            rows.append((one.suspect or 0.0, one.fail or 0.0, window_us, readings, least, one.measure == "range"))
        suspect, fail, window, readings_, least_, spread = (np.array(column) for column in zip(*rows, strict=True))
        return AttenuatedLimits(suspect, fail, window, readings_, least_, spread)

    def memory(self, limits: AttenuatedLimits) -> Rings:
        """Return room for the readings of a window but the judged one."""
        return Rings(np.maximum(limits.readings - 1, 0))

    def __call__(self, data: CheckInput, limits: AttenuatedLimits, memory: Rings) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        flags = np.full(len(data.value), Flag.NOT_EVALUATED, np.uint8)
        trace = memory.trace(data)
        if len(trace.row):
            length = int(limits.readings[trace.series].max())
            step = max(1, _CELLS // length)
            for at in range(0, len(trace.row), step):
                which = np.arange(at, min(at + step, len(trace.row)))
                series = trace.series[which]
                time, value, known = memory.window(trace, which, length)
                inside = known & (time > (trace.time_us[which] - limits.window_us[series])[:, None])
                holed = (inside & np.isnan(value)).any(axis=1)
                inside &= ~np.isnan(value)
                measure = _measure(value, inside, limits.spread[series])
                own = np.full(len(which), Flag.PASS, np.uint8)
                own[measure < limits.suspect[series]] = Flag.SUSPECT
                own[measure < limits.fail[series]] = Flag.FAIL
                # As the oracle does it: a standard deviation goes on over a missing value, a range does not.
                unsure = (inside.sum(axis=1) < limits.least[series]) | (holed & limits.spread[series])
                own[unsure] = Flag.NOT_EVALUATED
                flags[trace.row[which]] = own
            memory.put(trace)
        flags[data.missing] = Flag.MISSING
        return flags, None


def _measure(value: NDArray[np.float64], inside: NDArray[np.bool_], spread: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return standard deviation or range of the values inside, shape (k,); of none at all something infinite."""
    out: NDArray[np.float64] = np.where(inside, value, -np.inf).max(axis=1) - np.where(inside, value, np.inf).min(
        axis=1
    )
    if not spread.all():
        n = np.maximum(inside.sum(axis=1), 1)
        mean = np.where(inside, value, 0.0).sum(axis=1) / n
        distance = np.where(inside, value - mean[:, None], 0.0)
        out = np.where(spread, out, np.sqrt((distance * distance).sum(axis=1) / n))
    return out
