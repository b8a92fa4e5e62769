"""Judging one series in pieces, as the pass does it: what the tests of quality checks share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from processors.plan import Plan
from processors.quality import CHECKS
from processors.quality.run import Quality
from qingtu.clock import SECOND
from qingtu.marks import mark_number
from tests.process.support import T0, catalogue, station

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.catalogue import Catalogue

BITS = {key: 1 << check.bit for key, check in CHECKS.items()}
FAR = 10**7  # the dictionary's range must not speak in tests of other checks


def with_limits(every_s: float = 60, depth_m: float | None = None, **limits: Any) -> Catalogue:
    """A catalogue of one station with one series of water level, every so many seconds."""
    spec = {"range": [-FAR, FAR], **limits}
    field = {"property": "water_level", "depth_m": depth_m}
    device = {"id": "a", "fields": {"water_level": field}, "interval_s": every_s}
    return catalogue([station("A", [device], limits={"water_level": spec})], [])


class Judge:
    """One series judged in pieces, as the pass does it; keeps the newest flag and bits of each reading."""

    def __init__(self, cat: Catalogue) -> None:
        self.quality = Quality(Plan(cat))
        self.flags: dict[int, int] = {}
        self.tests: dict[int, int] = {}
        self.late: dict[int, bool] = {}
        self.revisions = 0

    def add(
        self,
        times_us: Sequence[int],
        values: Sequence[float],
        received_us: Sequence[int] | None = None,
        marks: Sequence[str | None] | None = None,
    ) -> None:
        """Judge some more readings."""
        n = len(times_us)
        times = np.array(times_us, np.int64)
        mark = None if marks is None else np.array([(m and mark_number(m)) or 0 for m in marks], np.uint8)
        received = times if received_us is None else np.array(received_us, np.int64)
        judged = self.quality.judge(np.zeros(n, np.int64), times, np.array(values, np.float64), received, None, mark)
        for i, at in enumerate(times.tolist()):
            if at not in self.flags or not judged.late[i]:
                self.flags[at], self.tests[at] = int(judged.flag[i]), int(judged.tests[i])
                self.late[at] = bool(judged.late[i])
        for k, at in enumerate(judged.again_time_us.tolist()):
            self.flags[at], self.tests[at] = int(judged.again_flag[k]), int(judged.again_tests[k])
            self.revisions += 1


def judged_alone(
    cat: Catalogue, values: Sequence[float | None], dt_s: int = 60, marks: Sequence[str | None] | None = None
) -> Judge:
    """Judge a regular series as a whole."""
    judge = Judge(cat)
    times = [T0 + i * dt_s * SECOND for i in range(len(values))]
    judge.add(times, [math.nan if v is None else v for v in values], None, marks)
    return judge


def of_check(judge: Judge, key: str) -> list[int]:
    """Whether one check found each reading bad, as its bit says."""
    return [int(bool(tests & BITS[key])) for tests in judge.tests.values()]


def without_2(flags: Sequence[int]) -> list[int]:
    """What one check's flags become beside others that pass: a pass hides what was not evaluated."""
    return [1 if flag == 2 else flag for flag in flags]
