"""Rules, mostly about one station: one file a kind, one line here; docs/alerts.md has a section for each.

A rule is a block in the catalogue; its ``kind`` says which of these looks after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.alerts import (
    clock_wrong,
    deviation,
    expression,
    figure,
    link,
    network,
    quality,
    rate_of_change,
    silence,
    situation,
    stuck,
    system,
    threshold,
)
from qingtu.contracts import GoesBy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qingtu.contracts import RuleKind

RULES: Final[Mapping[str, Callable[[], RuleKind]]] = {
    "threshold": threshold.Threshold,
    "rate_of_change": rate_of_change.RateOfChange,
    "stuck": stuck.Stuck,
    "quality": quality.Quality,
    "deviation": deviation.Deviation,
    "expression": expression.ExpressionKind,
    "clock_wrong": clock_wrong.ClockWrong,
    "figure": figure.Figure,
    "link": link.Link,
    "network": network.Network,
    "silence": silence.Silence,
    "system": system.System,
    # behind all others: what they say of a row comes first
    "situation": situation.Situation,
}
"""In the order in which they are asked; who goes by another stands behind it."""


def rule_kinds() -> dict[str, RuleKind]:
    """Make one of each, and let those that go by others know them."""
    kinds = {key: make() for key, make in RULES.items()}
    for kind in kinds.values():
        if isinstance(kind, GoesBy):
            kind.go_by(kinds)
    return kinds
