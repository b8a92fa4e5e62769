"""Rules about one station: one file a kind, one line here; docs/alerts.md has a section for each.

A rule is a block in the catalogue; its ``kind`` says which of these looks after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.alerts import silence, threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qingtu.contracts import RuleKind

RULES: Final[Mapping[str, Callable[[], RuleKind]]] = {
    "threshold": threshold.Threshold,
    "silence": silence.Silence,
}
