"""Aggregates: how readings of a period become figures, and what is made of figures.

Kinds of aggregation stand in :data:`KINDS` (processors/aggregates/kinds.py); levels, validity and pairs in
``aggregates.yaml``; :class:`processors.aggregates.derive.Derive` is the operator. docs/aggregates.md has the formulas.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from processors.aggregates.kinds import KINDS
from processors.aggregates.rules import load_rules
from processors.indices.derived import indices
from processors.indices.run import WHATS

if TYPE_CHECKING:
    from processors.aggregates.hooks import Derived

__all__ = ["DERIVED", "KINDS", "statistics"]

DERIVED: Final[tuple[Derived, ...]] = (indices,)
"""Indices and classes that derive makes of figures; the contract is in processors/aggregates/hooks.py."""


@cache
def statistics() -> tuple[str, ...]:
    """Return every ``what`` that a figure may have: levels, levels by day and night, indices.

    >>> "8h" in statistics(), "day_ldn" in statistics(), "hour_index" in statistics()
    (True, True, True)
    """
    return (*(level.name for level in load_rules().levels), "day_ld", "day_ln", "day_ldn", *WHATS.values())
