"""What led to a situation: steps of its alerts by time, bounded in length."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.contracts import Transition


class Step(NamedTuple):
    """One line of a timeline."""

    time_us: int
    station: str
    rule: str
    property: str
    level: int
    state: str
    value: float | None
    alert: str

    @classmethod
    def of(cls, t: Transition) -> Step:
        """Return that of a transition."""
        value = t.value if math.isfinite(t.value) else None
        return cls(t.time_us, t.station, t.rule, t.property, t.level, t.state, value, t.alert)


@dataclass(slots=True)
class Timeline:
    """Steps by time; of more than ``most`` the first half and the newest half."""

    most: int
    steps: list[Step] = field(default_factory=list)
    left_out: int = 0

    def add(self, *steps: Step) -> None:
        """Put steps in their places."""
        for step in steps:
            insort(self.steps, step, key=lambda one: one.time_us)
        while len(self.steps) > self.most:
            del self.steps[self.most // 2]
            self.left_out += 1

    def packed(self) -> list[Any]:
        """Return it as JSON data."""
        return [self.left_out, [list(step) for step in self.steps]]

    @classmethod
    def of(cls, most: int, packed: Sequence[Any]) -> Self:
        """Take up what :meth:`packed` returned."""
        return cls(most, [Step(*step) for step in packed[1]], packed[0])
