"""Aggregates: how readings of a period become figures, and what is made of figures.

Kinds of aggregation stand in :data:`KINDS` (processors/aggregates/kinds.py); levels, validity and pairs in
``aggregates.yaml``; :class:`processors.aggregates.derive.Derive` is the operator. docs/aggregates.md has the formulas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.aggregates.kinds import KINDS
from processors.indices.derived import indices

if TYPE_CHECKING:
    from processors.aggregates.hooks import Derived

__all__ = ["DERIVED", "KINDS"]

DERIVED: Final[tuple[Derived, ...]] = (indices,)
"""Indices and classes that derive makes of figures; the contract is in processors/aggregates/hooks.py."""
