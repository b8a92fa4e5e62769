"""Runs all checks over a pass of readings and combines their flags (QARTOD: FAIL > SUSPECT > PASS > rest)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.columns import Columns
from processors.plan import Plan, carry
from processors.quality import CHECKS
from processors.quality.flags import FLAG, RANK
from processors.relations.run import MessageChecks
from qingtu.contracts import CheckInput
from qingtu.grouped import NEVER, advance, follows, last_of_each
from qingtu.records import OVERRIDDEN, RECEIPT_TIME, Flag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qingtu.contracts import Memory, Verdict

_LAST: Final = np.array(
    [(0, np.nan, Flag.NOT_EVALUATED, 0)],
    np.dtype([("time", "<i8"), ("value", "<f8"), ("flag", "u1"), ("tests", "<u4")]),
)
_FINE: Final = int(Flag.NOT_EVALUATED)
_NOTHING_AGAIN: Final = tuple(np.zeros(0, dtype) for dtype in (np.int64, np.int64, np.float64, np.uint8, np.uint32))


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
    """All checks with their memory, for one plan.

    Attributes:
        newest: int64 (series,), time of the newest fresh reading, µs UTC.
        revised: int64 (series,), position of the last row that spoke of a reading before the newest; -1: none did.
    """

    def __init__(self, plan: Plan) -> None:
        self._use(plan)
        n = len(plan.catalogue.series)
        self.newest = np.full(n, NEVER, np.int64)
        self._last = Columns(_LAST, n)
        self.revised = np.full(n, -1, np.int64)

    def _use(self, plan: Plan) -> None:
        self._plan = plan
        limits = {key: check.prepare(plan.catalogue.series) for key, check in CHECKS.items()}
        # A check that nothing in the catalogue asks for costs nothing.
        self._together = MessageChecks(plan.catalogue)
        self._limits = {key: mine for key, mine in limits.items() if mine is not None}
        self._memory: dict[str, Memory | None] = {key: CHECKS[key].memory(mine) for key, mine in self._limits.items()}

    def adopt(self, plan: Plan, source: NDArray[np.int64]) -> None:
        """Go on with another catalogue; ``source`` is each new series' old number or -1."""
        n = len(plan.catalogue.series)
        self.newest = carry(self.newest, source, np.full(n, NEVER, np.int64))
        last, self._last = self._last, Columns(_LAST, n)
        self._last.take(last, source)
        self.revised = carry(self.revised, source, np.full(n, -1, np.int64))
        before = self._memory
        self._use(plan)
        for key, memory in self._memory.items():
            if memory is not None and (old := before.get(key)) is not None:
                memory.take(old, source)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all memory as named arrays."""
        out = {"newest": self.newest, "last": self._last.rows(), "revised": self.revised}
        for key, memory in self._memory.items():
            if memory is not None:
                out |= {f"check/{key}{name and '/'}{name}": array for name, array in memory.state().items()}
        return out

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned, for the same plan. A check that is new starts empty."""
        self.newest = arrays["newest"]
        self._last.restore(arrays["last"])
        self.revised = arrays.get("revised", self.revised)  # older states do not have it
        for key, memory in self._memory.items():
            where = f"check/{key}"
            mine = {name[len(where) :].lstrip("/"): array for name, array in arrays.items()
                    if name == where or name.startswith(f"{where}/")}  # fmt: skip
            if memory is not None and mine:
                memory.restore(mine)

    def judge(
        self,
        series: NDArray[np.int64],
        time_us: NDArray[np.int64],
        value: NDArray[np.float64],
        known_us: NDArray[np.int64],
        sample: NDArray[np.int64] | None = None,
        mark: NDArray[np.uint8] | None = None,
        timeless: NDArray[np.bool_] | None = None,
    ) -> Judged:
        """Judge m readings, sorted by series and, within a series, by arrival.

        Args:
            series: int64 (m,).
            time_us: int64 (m,).
            value: float64 (m,), canonical unit, NaN when missing.
            known_us: int64 (m,), received at.
            sample: int64 (m,), readings with one number are looked at together; see :meth:`samples`. None: none are.
            mark: uint8 (m,), what the devices say of them, 0 for nothing; None: nothing of any.
            timeless: bool (m,), the time is that of receipt; None: all have their own.
        """
        fresh = self._fresh(series, time_us, known_us)
        data = _looked_at(series, time_us, value, fresh, mark)
        said = _Said(data)
        # Differences of numbers near the end of float64 are infinite, which is beyond every limit: as it should be.
        with np.errstate(over="ignore", invalid="ignore"):
            for key, limits in self._limits.items():
                check = CHECKS[key]
                flags, verdict = check(data, limits, self._memory[key])
                if flags is not None:
                    said.note(flags, check.bit)
                if verdict is not None and len(verdict.at):
                    said.afterwards(verdict, check.bit)
        if sample is not None:
            for bit, flags in self._together.judge(series, value, sample):
                said.note(flags, bit)
        flag, tests = said.flag(), said.tests
        # A missing value is told by the check of that name alone.
        tests[data.missing] = np.uint32(1 << CHECKS["missing"].bit)
        if timeless is not None:
            tests[timeless] |= np.uint32(RECEIPT_TIME)
        again = self._again(data, flag, tests, said)
        self._remember(data, flag, tests)
        return Judged(flag, tests, ~fresh, *again)

    def samples(self, message: NDArray[np.int64], time_us: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Number the samples of readings in the order of messages, shape (m,); None when no check looks at them.

        A sample is what one message says in a row of one time. So what a reading is compared with does not depend on
        where the stream was cut.
        """
        if not self._together:
            return None
        new = np.zeros(len(message), np.bool_)
        new[1:] = (message[1:] != message[:-1]) | (time_us[1:] != time_us[:-1])
        out: NDArray[np.int64] = np.cumsum(new)
        return out

    def override(self, series: int, time_us: int, value: float, flag: int, tests: int) -> None:
        """Let the newest reading of a series have another flag, if it is this one: later verdicts go on from there."""
        last = self._last
        known = last["value"][series]
        if last["time"][series] == time_us and (known == value or (np.isnan(known) and np.isnan(value))):
            last["flag"][series], last["tests"][series] = flag, tests

    def _fresh(
        self, series: NDArray[np.int64], time_us: NDArray[np.int64], known_us: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Say which readings are newer than all before in their series and not delayed; move ``newest``."""
        before = advance(series, time_us, self.newest)
        fresh: NDArray[np.bool_] = (time_us > before) & (known_us - time_us <= self._plan.delay_us.take(series))
        return fresh

    def _again(
        self, data: CheckInput, flag: NDArray[np.uint8], tests: NDArray[np.uint32], said: _Said
    ) -> tuple[NDArray[Any], ...]:
        """Work out the revisions of earlier readings that this pass decided."""
        if said.late_rank is None or said.late_tests is None:
            return _NOTHING_AGAIN
        at = said.late_rank.nonzero()[0]
        by, before, series = data.chain[at], data.before[at], data.series[data.chain[at]]
        known = before < 0
        memory = {name: column[series] for name, column in self._last.items()}
        old_flag = np.where(known, memory["flag"], flag[before])
        old_tests = np.where(known, memory["tests"], tests[before])
        new_flag = FLAG[np.maximum(RANK[old_flag], said.late_rank[at])]
        # What a person said stands; the bit of the check is added to it.
        new_flag = np.where(old_tests & np.uint32(OVERRIDDEN), old_flag, new_flag).astype(np.uint8)
        new_tests = (old_tests | said.late_tests[at]).astype(np.uint32)
        changed = (new_flag != old_flag) | (new_tests != old_tests)
        return (
            by[changed],
            np.where(known, memory["time"], data.time_us[before])[changed],
            np.where(known, memory["value"], data.value[before])[changed],
            new_flag[changed],
            new_tests[changed],
        )

    def _remember(self, data: CheckInput, flag: NDArray[np.uint8], tests: NDArray[np.uint32]) -> None:
        series = data.series
        columns: tuple[NDArray[Any], ...] = (data.time_us, data.value, flag, tests)
        if not (data.whole and data.once):
            rows = data.chain[data.last]
            series, columns = series[rows], tuple(column[rows] for column in columns)
        for kept, column in zip(self._last.values(), columns, strict=True):
            kept[series] = column


class _Said:
    """What checks say of a pass, as it is gathered.

    Attributes:
        tests: uint32 (m,).
        late_rank, late_tests: uint8 and uint32 (f,), verdicts on what came before each fresh one; None: none.
    """

    def __init__(self, data: CheckInput) -> None:
        self._data = data
        self._rank: NDArray[np.uint8] | None = None
        self._passed = False
        self.tests = np.zeros(len(data.series), np.uint32)
        self.late_rank: NDArray[np.uint8] | None = None
        self.late_tests: NDArray[np.uint32] | None = None

    def note(self, flags: NDArray[np.uint8], bit: int) -> None:
        """Add what one check says."""
        if flags is self._data.passed:
            self._passed = True
            return
        bad = (flags > _FINE).nonzero()[0]
        if self._passed and not len(bad) and not self._data.missing.any():
            return  # 1 hides 2, but 2 hides 9
        if self._rank is None:
            self._rank = np.zeros(len(flags), np.uint8)
        np.maximum(self._rank, RANK[flags], out=self._rank)
        self.tests[bad] |= np.uint32(1 << bit)

    def afterwards(self, verdict: Verdict, bit: int) -> None:
        """Add what one check says of readings before."""
        if self.late_rank is None or self.late_tests is None:
            n = len(self._data.chain)
            self.late_rank, self.late_tests = np.zeros(n, np.uint8), np.zeros(n, np.uint32)
        self.late_rank[verdict.at] = np.maximum(self.late_rank[verdict.at], RANK[verdict.flag])
        self.late_tests[verdict.at] |= np.uint32(1 << bit)

    def flag(self) -> NDArray[np.uint8]:
        """Return the flag of each reading."""
        if self._rank is None:
            return self._data.passed if self._passed else np.full(len(self.tests), Flag.MISSING, np.uint8)
        if self._passed:
            np.maximum(self._rank, RANK[self._data.passed], out=self._rank)
        return FLAG[self._rank]


def _looked_at(
    series: NDArray[np.int64],
    time_us: NDArray[np.int64],
    value: NDArray[np.float64],
    fresh: NDArray[np.bool_],
    mark: NDArray[np.uint8] | None,
) -> CheckInput:
    """Return what checks look at."""
    chain = fresh.nonzero()[0]
    chained = series if len(chain) == len(series) else series[chain]
    before = np.full(len(chain), -1, np.int64)
    last = last_of_each(chained)
    if not last.all():
        behind = follows(chained).nonzero()[0]
        before[behind] = chain[behind - 1]
    return CheckInput(series, time_us, value, chain, before, last, mark)
