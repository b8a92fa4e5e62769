"""An operator's word about a reading: command ``override`` on raw becomes a revision with a bit of its own.

What is overridden is the flag of a value, so the command names the value that the operator saw: it counts while that
value stands, as a late verdict does (docs/records.md). A later override takes its place. Name and reason are kept in
an event of kind ``override`` at the reading's time, as long as events are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.revise import Revised, revise
from qingtu.records import OVERRIDDEN, Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from processors.output import Output
    from processors.plan import Plan
    from processors.quality.run import Quality
    from qingtu.contracts import RuleKind

EVENT: Final = "override"


def override(
    plan: Plan,
    quality: Quality,
    kinds: Mapping[str, RuleKind],
    args: Mapping[str, Any],
    who: str,
    at_us: int,
    revision: int,
    output: Output,
) -> str | None:
    """Carry one out.

    Args:
        plan: look-up tables.
        quality: checks; their memory of the newest reading is told.
        kinds: rules; an alert that the reading opened is withdrawn when it is suspect or fails now.
        args: ``station``, ``property``, ``channel``, ``time_us``, ``value`` (None: missing) and ``tests`` as the
            operator saw them, ``flag`` that it gets, ``reason``.
        who: the person.
        at_us: when, µs UTC.
        revision: position of the command.
        output: is added to.

    Returns:
        why it was refused, or None.
    """
    key = (args["station"], args["property"], args["channel"])
    number = plan.catalogue.series_index(*key)
    if number is None:
        return f"no series {'/'.join(key)[:160]!r} in the catalogue"
    value = np.nan if args["value"] is None else float(args["value"])
    flag, tests, time_us = int(args["flag"]), int(args["tests"]) | OVERRIDDEN, int(args["time_us"])
    some = Revised(
        number, _one(time_us, np.int64), _one(value, np.float64), _one(flag, np.uint8), _one(tests, np.uint32)
    )
    revise(plan, quality, kinds, some, Cause.OVERRIDE, at_us, revision, output)
    attributes = {
        "property": key[1], "channel": key[2], "flag": flag, "who": who, "reason": args["reason"],
        "position": str(revision),
    }  # fmt: skip
    output.events.append((key[0], EVENT, 0, time_us, attributes, revision, at_us))
    return None


def _one(value: Any, dtype: Any) -> NDArray[Any]:
    return np.array([value], dtype)
