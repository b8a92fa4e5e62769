"""Runs all checks over a pass of readings and combines their flags (QARTOD: FAIL > SUSPECT > PASS > rest)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.plan import Plan, carry
from processors.quality import CHECKS
from qingtu.contracts import CheckInput
from qingtu.grouped import NEVER, advance, follows, last_of_each
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Rank of each flag when combining; qartod.yaml, flags.aggregate: a pass hides what was not evaluated.
_RANK: Final = np.zeros(10, np.uint8)
_RANK[[Flag.MISSING, Flag.NOT_EVALUATED, Flag.PASS, Flag.SUSPECT, Flag.FAIL]] = [0, 1, 2, 3, 4]
_FLAG: Final = np.array([Flag.MISSING, Flag.NOT_EVALUATED, Flag.PASS, Flag.SUSPECT, Flag.FAIL], np.uint8)
_LAST: Final = np.array(
    [(0, np.nan, Flag.NOT_EVALUATED, 0)],
    np.dtype([("time", "<i8"), ("value", "<f8"), ("flag", "u1"), ("tests", "<u4")]),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """What quality says of a pass of m readings sorted by series and arrival.

    Attributes:
        flag: uint8 (m,).
        tests: uint32 (m,).
        late: bool (m,), not fresh.
        again_by: int64 (k,), row of the reading that caused each revision of an earlier one.
        again_time_us, again_value, again_flag, again_tests: shape (k,), the earlier reading as it is now.
    """

    flag: NDArray[np.uint8]
    tests: NDArray[np.uint32]
    late: NDArray[np.bool_]
    again_by: NDArray[np.int64]
    again_time_us: NDArray[np.int64]
    again_value: NDArray[np.float64]
    again_flag: NDArray[np.uint8]
    again_tests: NDArray[np.uint32]


class Quality:
    """All checks with their memory, for one plan."""

    def __init__(self, plan: Plan) -> None:
        self._use(plan)
        n = len(plan.catalogue.series)
        self.newest = np.full(n, NEVER, np.int64)
        self._last = np.repeat(_LAST, n)
        self._memory = {
            key: None if check.memory is None else np.repeat(check.memory, n) for key, check in CHECKS.items()
        }

    def _use(self, plan: Plan) -> None:
        self._plan = plan
        self._limits = {key: check.prepare(plan.catalogue.series) for key, check in CHECKS.items()}

    def adopt(self, plan: Plan, source: NDArray[np.int64]) -> None:
        """Go on with another catalogue; ``source`` is each new series' old number or -1."""
        n = len(plan.catalogue.series)
        self.newest = carry(self.newest, source, np.full(n, NEVER, np.int64))
        self._last = carry(self._last, source, np.repeat(_LAST, n))
        for key, check in CHECKS.items():
            memory = self._memory[key]
            if memory is not None and check.memory is not None:
                self._memory[key] = carry(memory, source, np.repeat(check.memory, n))
        self._use(plan)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all memory as named arrays."""
        memory = {f"check/{key}": m for key, m in self._memory.items() if m is not None}
        return {"newest": self.newest, "last": self._last, **memory}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned, for the same plan. A check that is new starts empty."""
        self.newest, self._last = arrays["newest"], arrays["last"]
        for key, memory in self._memory.items():
            if memory is not None and f"check/{key}" in arrays:
                self._memory[key] = arrays[f"check/{key}"]

    def judge(
        self,
        series: NDArray[np.int32],
        time_us: NDArray[np.int64],
        value: NDArray[np.float64],
        known_us: NDArray[np.int64],
    ) -> Judged:
        """Judge m readings, sorted by series and, within a series, by arrival.

        Args:
            series: int32 (m,).
            time_us: int64 (m,).
            value: float64 (m,), canonical unit, NaN when missing.
            known_us: int64 (m,), received at.
        """
        fresh = self._fresh(series, time_us, known_us)
        chain = np.flatnonzero(fresh)
        chained = series[chain]
        behind = follows(chained)
        before = np.full(len(chain), -1, np.int64)
        before[behind] = chain[np.flatnonzero(behind) - 1]
        data = CheckInput(series, time_us, value, chain, before, last_of_each(chained))
        rank = np.zeros(len(series), np.uint8)
        tests = np.zeros(len(series), np.uint32)
        late_rank = np.zeros(len(chain), np.uint8)
        late_tests = np.zeros(len(chain), np.uint32)
        for key, check in CHECKS.items():
            # Differences of numbers near the end of float64 are infinite, which is beyond every limit: as it should be.
            with np.errstate(over="ignore", invalid="ignore"):
                flags, verdict = check(data, self._limits[key], self._memory[key])
            np.maximum(rank, _RANK[flags], out=rank)
            if (bad := flags > Flag.NOT_EVALUATED).any():
                tests[bad] |= np.uint32(1 << check.bit)
            if verdict is not None and len(verdict.at):
                late_rank[verdict.at] = np.maximum(late_rank[verdict.at], _RANK[verdict.flag])
                late_tests[verdict.at] |= np.uint32(1 << check.bit)
        flag = _FLAG[rank]
        # A missing value is told by the check of that name alone.
        tests[np.isnan(value)] = np.uint32(1 << CHECKS["missing"].bit)
        again = self._again(data, flag, tests, late_rank, late_tests)
        self._remember(data, flag, tests)
        return Judged(flag, tests, ~fresh, *again)

    def _fresh(
        self, series: NDArray[np.int32], time_us: NDArray[np.int64], known_us: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Say which readings are newer than all before in their series and not delayed; move ``newest``."""
        before = advance(series, time_us, self.newest)
        fresh: NDArray[np.bool_] = (time_us > before) & (known_us - time_us <= self._plan.delay_us[series])
        return fresh

    def _again(
        self,
        data: CheckInput,
        flag: NDArray[np.uint8],
        tests: NDArray[np.uint32],
        late_rank: NDArray[np.uint8],
        late_tests: NDArray[np.uint32],
    ) -> tuple[NDArray[Any], ...]:
        """Work out the revisions of earlier readings that this pass decided."""
        at = np.flatnonzero(late_rank)
        by, before, series = data.chain[at], data.before[at], data.series[data.chain[at]]
        known = before < 0
        memory = self._last[series]
        old_flag = np.where(known, memory["flag"], flag[before])
        old_tests = np.where(known, memory["tests"], tests[before])
        new_flag = _FLAG[np.maximum(_RANK[old_flag], late_rank[at])]
        new_tests = (old_tests | late_tests[at]).astype(np.uint32)
        changed = (new_flag != old_flag) | (new_tests != old_tests)
        return (
            by[changed],
            np.where(known, memory["time"], data.time_us[before])[changed],
            np.where(known, memory["value"], data.value[before])[changed],
            new_flag[changed],
            new_tests[changed],
        )

    def _remember(self, data: CheckInput, flag: NDArray[np.uint8], tests: NDArray[np.uint32]) -> None:
        rows = data.chain[data.last]
        series = data.series[rows]
        self._last["time"][series] = data.time_us[rows]
        self._last["value"][series] = data.value[rows]
        self._last["flag"][series] = flag[rows]
        self._last["tests"][series] = tests[rows]
