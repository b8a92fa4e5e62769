"""Flat line: a value that does not move for too long (QARTOD test 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from processors.quality.memory import Rings
from qingtu.grouped import last_of_each
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from processors.quality.memory import Trace
    from qingtu.catalogue import Series
    from qingtu.contracts import CheckInput

_CELLS: Final = 1 << 20
"""Readings that are looked at together: bounds memory when a long history is driven through."""
_NEVER: Final = 1 << 40
"""Readings that never come."""


@dataclass(frozen=True, slots=True)
class FlatLimits:
    """Limits by series, shape (series,).

    Attributes:
        tolerance: float64, canonical unit; 0: not tested.
        suspect, fail: int64, so many readings before the judged one, with it, must be flat.
        limited: bool.
    """

    tolerance: NDArray[np.float64]
    suspect: NDArray[np.int64]
    fail: NDArray[np.int64]
    limited: NDArray[np.bool_]


class FlatLine:
    """4 when the last ``fail_s`` are flat, 3 when the last ``suspect_s`` are, else 1; flat: range < tolerance.

    A time is as many readings as the declared interval puts into it, at least two, beside the judged one. Missing
    values are skipped inside; before so many readings have come the flag is 1. Without limit or not fresh 2, without
    value 9. Source: ioos_qc ``flat_line_test``, equal to it where its median interval is the declared one.
    """

    key = "flat_line"
    bit = 5

    def prepare(self, series: Sequence[Series]) -> FlatLimits | None:
        """Return limits by series, or None when nothing is limited."""
        tolerance = np.array([s.limits.flat_tolerance for s in series], np.float64)
        suspect = np.array([_readings(s.limits.flat_suspect_s, s.interval_s) for s in series], np.int64)
        fail = np.array([_readings(s.limits.flat_fail_s, s.interval_s) for s in series], np.int64)
        limited = (tolerance > 0) & (np.minimum(suspect, fail) < _NEVER)
        return FlatLimits(tolerance, suspect, fail, limited) if limited.any() else None

    def memory(self, limits: FlatLimits) -> Rings:
        """Return room for the readings since each series last moved, as many as its longest limit looks back on."""
        finite = [np.where(n < _NEVER, n, 0) for n in (limits.suspect, limits.fail)]
        return Rings(np.where(limits.limited, np.maximum(*finite), 0))

    def __call__(self, data: CheckInput, limits: FlatLimits, memory: Rings) -> tuple[NDArray[np.uint8], None]:
        """Check; see :class:`qingtu.contracts.Check`."""
        flags = np.full(len(data.value), Flag.NOT_EVALUATED, np.uint8)
        trace = memory.trace(data)
        own = np.full(len(trace.row), Flag.PASS, np.uint8)
        moved = np.abs(trace.value - memory.before(trace)) >= limits.tolerance[trace.series]
        still = _still(trace, moved, memory.held)
        # Whatever moved within its window is not flat: only the few others are looked at reading by reading.
        suspect, fail = limits.suspect[trace.series], limits.fail[trace.series]
        for which in _chunks(np.flatnonzero(still > np.minimum(suspect, fail)), memory.reach[trace.series] + 1):
            flat = _flat(memory, trace, which, limits.tolerance[trace.series[which]])
            own[which[flat > suspect[which]]] = Flag.SUSPECT
            own[which[flat > fail[which]]] = Flag.FAIL
        flags[trace.row] = own
        flags[np.isnan(data.value)] = Flag.MISSING
        memory.put(trace)
        last = last_of_each(trace.series)
        ends = trace.series[last]
        memory.held[ends] = np.minimum(memory.held[ends], still[last])
        return flags, None


def _readings(time_s: float, interval_s: float) -> int:
    return max(2, int(int(time_s) / interval_s)) if np.isfinite(time_s) else _NEVER


def _still(trace: Trace, moved: NDArray[np.bool_], held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many readings up to and with each of a trace came since the last one that moved, that one counted."""
    place = np.arange(len(trace.row))
    start = np.maximum.accumulate(np.where(moved | (trace.rank == 0), place, 0))
    since: NDArray[np.int64] = place - start + 1
    # Where none moved in this pass the readings that are remembered go on.
    open_ = (trace.rank[start] == 0) & ~moved[start]
    return since + np.where(open_, held[trace.series], 0)


def _chunks(which: NDArray[np.int64], width: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut places of a trace into parts whose windows fit into memory."""
    if len(which):
        step = max(1, _CELLS // int(width[which].max()))
        for at in range(0, len(which), step):
            yield which[at : at + step]


def _flat(memory: Rings, trace: Trace, which: NDArray[np.int64], tolerance: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many readings, newest first, stay within the tolerance, shape (k,)."""
    length = int(memory.reach[trace.series[which]].max()) + 1
    _, value, known = memory.window(trace, which, length)
    high = np.fmax.accumulate(value, axis=1)
    low = np.fmin.accumulate(value, axis=1)
    with np.errstate(invalid="ignore"):
        flat = (np.abs(high - low) < tolerance[:, None]) & known
    # The range only grows: what is flat stands in front.
    out: NDArray[np.int64] = flat.sum(axis=1)
    return out
