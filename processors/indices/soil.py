"""Soil against screening and control values; shared by the standards of farmland and building land."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from processors.indices.contract import ITEMS_MISSING, MISSING, Exceeding, Input, Level, Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Values = tuple[Decimal, Decimal | None]
"""(screening, control) value in mg/kg; None where there is no control value."""


def risk(content: Decimal, values: Values) -> int:
    """Return 1 up to the screening value, 3 above the control value, 2 between; a value itself is on the lower side."""
    screening, control = values
    if content <= screening:
        return 1
    return 3 if control is not None and content > control else 2


def result_of(
    rule: Mapping[str, Any],
    figures: Sequence[Input],
    values: Mapping[str, Values],
    beside: Sequence[Input] = (),
    **details: Any,
) -> Result:
    """Make the result of a station: the worst of its metals.

    Args:
        rule: the data file.
        figures: of the metals that the station measures.
        values: by metal; a metal without values (the bin of pH is unknown) counts as missing.
        beside: figures that the values depend on.
        details: what else to say.
    """
    good = {each.name: each.good for each in figures}
    known = [(name, value, values[name]) for name, value in good.items() if value is not None and name in values]
    risks = {name: risk(content, pair) for name, content, pair in known}
    missing = [name for name in good if name not in risks]
    worst = max(risks.values(), default=None)
    return Result(
        value=None if worst is None else Decimal(worst),
        level=None if worst is None else _level(rule, worst),
        valid=worst is not None and not missing,
        reason=MISSING if worst is None else ITEMS_MISSING if missing else "",
        standard=rule["standard"],
        edition=rule["edition"],
        confidence=rule["confidence"],
        inputs=(*figures, *beside),
        primary=tuple(name for name, number in risks.items() if number == worst and number > 1),
        exceeding=tuple(
            Exceeding(name, content, screening, (content - screening) / screening)
            for name, content, (screening, _) in known
            if content > screening
        ),
        details={"risk": risks, "missing": missing, **details},
    )


def _level(rule: Mapping[str, Any], number: int) -> Level:
    row = rule["levels"][number - 1]
    return Level(number, row["zh"], row["en"], "", False, row.get("advice_zh", ""), row.get("advice_en", ""))
