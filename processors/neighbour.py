"""What derive says of readings that stand apart from those of the stations around; command ``neighbours`` on raw.

The pass cannot see other stations, so the verdict comes through raw, with the readings as derive saw them. It counts
for a series only while nothing else was said about its earlier readings since: a verdict of another check or a person's
word must not be undone. Derive looks whether its word stands in the store, and says it again otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.revise import Revised, revise
from qingtu.records import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors.output import Output
    from processors.plan import Plan
    from processors.quality.run import Quality
    from qingtu.contracts import RuleKind

NEIGHBOURS: Final = "neighbours"
"""Name of the command."""
EVENT: Final = "neighbour"
"""Kind of the event that keeps what was compared, at the start of the period."""
_KEPT: Final = ("property", "channel", "end_us", "bad", "mean", "median", "limit", "near")


def hear(
    plan: Plan,
    quality: Quality,
    kinds: Mapping[str, RuleKind],
    verdicts: list[dict[str, Any]],
    at_us: int,
    revision: int,
    output: Output,
) -> None:
    """Carry out one command.

    Args:
        plan: look-up tables.
        quality: checks with their memory.
        kinds: rules; an alert that a reading opened is withdrawn when it is suspect now.
        verdicts: of one series and period each, see :meth:`processors.aggregates.neighbours.Neighbours.judge`.
        at_us: when, µs UTC.
        revision: position of the command.
        output: is added to.
    """
    before = quality.revised.copy()
    for one in verdicts:
        number = plan.catalogue.series_index(one["station"], one["property"], one["channel"])
        if number is None or before[number] > one["at"]:
            continue
        time, value, flag, tests = zip(*one["readings"], strict=True)
        some = Revised(
            number, np.array(time, np.int64), np.array(value, np.float64), np.array(flag, np.uint8),
            np.array(tests, np.uint32),
        )  # fmt: skip
        revise(plan, quality, kinds, some, Cause.NEIGHBOUR, at_us, revision, output)
        attributes = {name: one[name] for name in _KEPT} | {"position": str(revision)}
        output.events.append((one["station"], EVENT, 0, one["start_us"], attributes, revision, at_us))
