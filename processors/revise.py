"""Other flags for readings that came before: revisions, and what they do to verdicts and alerts behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from processors.alerts.batch import Batch
from processors.quality.run import Judged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from processors.output import Output
    from processors.plan import Plan
    from processors.quality.run import Quality
    from qingtu.contracts import RuleKind
    from qingtu.records import Cause


class Revised(NamedTuple):
    """Readings of one series as they are from now on, oldest first; shape (n,) each.

    Attributes:
        series: number.
        time_us: int64.
        value: float64, the value that was seen: the word counts while it stands.
        flag: uint8, new.
        tests: uint32, new.
    """

    series: int
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    flag: NDArray[np.uint8]
    tests: NDArray[np.uint32]


def revise(
    plan: Plan,
    quality: Quality,
    kinds: Mapping[str, RuleKind],
    some: Revised,
    cause: Cause,
    at_us: int,
    revision: int,
    output: Output,
) -> None:
    """Write revisions.

    Args:
        plan: look-up tables.
        quality: checks; their memory of the newest reading is told.
        kinds: rules; an alert that a reading opened is withdrawn when it is suspect or fails now.
        some: the readings.
        cause: why.
        at_us: when it was said, µs UTC.
        revision: position of the command.
        output: is added to.
    """
    n = len(some.time_us)
    for time, value, flag, tests in zip(*(column.tolist() for column in some[1:]), strict=True):
        quality.override(some.series, time, value, flag, tests)
    quality.revised[some.series] = revision
    columns: dict[str, Any] = {
        "series": np.full(n, some.series, np.int64), "time": some.time_us, "value": some.value, "flag": some.flag,
        "tests": some.tests, "revision": np.full(n, revision, np.int64), "known": np.full(n, at_us, np.int64),
        "cause": np.full(n, cause, np.uint8), "late": np.ones(n, np.bool_),
    }  # fmt: skip
    output.readings.append((plan, columns))
    again = (np.arange(n), *(columns[name] for name in ("time", "value", "flag", "tests")))
    # Late, so that rules do not take it for a reading that comes now.
    judged = Judged(columns["flag"], columns["tests"], columns["late"], *again)
    batch = Batch(columns["series"], columns["time"], columns["value"], columns["known"], columns["revision"], judged)
    for kind in kinds.values():
        output.transitions.extend(kind.on_readings(batch))
