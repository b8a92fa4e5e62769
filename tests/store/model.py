"""A model in plain Python: what a store must hold after messages of :mod:`tests.store.build`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from qingtu.records import Cause, position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.store.build import Message, Reading


@dataclass(frozen=True)
class Version:
    """One value that a key has had."""

    value: float | None
    flag: int
    tests: int
    revision: int
    known: int


@dataclass
class Model:
    """What a store must hold: every version of every key, in plain Python."""

    chains: dict[tuple[int, int], list[Version]] = field(default_factory=dict)
    stored: int = 0
    revised: int = 0
    repeated: int = 0
    reflagged: int = 0

    @classmethod
    def of(cls, messages: Sequence[Message], cuts: Sequence[int]) -> Model:
        """Apply messages one by one; ``cuts`` only give them their positions."""
        model = cls()
        offset, row = 0, 0
        for number, message in enumerate(messages):
            if number and number in cuts:
                offset, row = offset + 1, 0
            for verdicts in (False, True):
                for reading in message.readings:
                    if (reading.cause == Cause.QUALITY_DECIDED) is verdicts:
                        model.apply(reading, position(offset, row), message.known)
            row += 1
        return model

    def apply(self, reading: Reading, revision: int, known: int) -> None:
        """Apply one reading or verdict."""
        value = None if math.isnan(reading.value) else reading.value
        new = Version(value, reading.flag, reading.tests, revision, known)
        chain = self.chains.setdefault((reading.series, reading.time), [])
        now = chain[-1] if chain else None
        same = now is not None and (now.value, now.flag, now.tests) == (new.value, new.flag, new.tests)
        if reading.cause == Cause.QUALITY_DECIDED:
            if now is not None and now.value == new.value and not same:
                chain.append(new)
                self.reflagged += 1
        elif now is None:
            chain.append(new)
            self.stored += 1
        elif not same and revision > now.revision:
            chain.append(new)
            self.revised += 1
        else:
            self.repeated += 1

    def rows(self, as_of: int | None = None, known_by: int | None = None) -> list[tuple[Any, ...]]:
        """Return (series, time, value, flag, tests, revision, known) as they were known, in order."""
        out = []
        for (series, time), chain in sorted(self.chains.items()):
            seen = [
                v for v in chain if (as_of is None or v.revision <= as_of) and (known_by is None or v.known <= known_by)
            ]
            if seen:
                v = seen[-1]
                out.append((series, time, v.value, v.flag, v.tests, v.revision, v.known))
        return out

    def corrections(self) -> list[tuple[Any, ...]]:
        """Return (series, time, old value, old flag, old revision, new value, new flag, new revision)."""
        return [
            (series, time, a.value, a.flag, a.revision, b.value, b.flag, b.revision)
            for (series, time), chain in sorted(self.chains.items())
            for a, b in pairwise(chain)
        ]
