"""What rule kinds share: the pass of readings that they look at, and the identity of an alert."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import numpy as np

from qingtu.grouped import NEVER
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from processors.quality.run import Judged
    from qingtu.contracts import Transition
_GOOD: Final = int(Flag.NOT_EVALUATED)


@dataclass(frozen=True)  # no slots: what several kinds ask for is worked out once and kept
class Batch:
    """A pass of m judged readings, sorted by series and arrival. Columns as in ``READINGS``. Nothing of it is changed.

    Attributes:
        series: int64 (m,), dense series number of the plan.
        time_us: int64 (m,).
        value: float64 (m,).
        known_us: int64 (m,).
        revision: int64 (m,).
        judged: flags and revisions.
        held: bool (m,), the station is under maintenance: no alert opens or rises. None: of none.
    """

    series: NDArray[np.int64]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    known_us: NDArray[np.int64]
    revision: NDArray[np.int64]
    judged: Judged
    held: NDArray[np.bool_] | None = None

    @cached_property
    def once(self) -> bool:
        """Whether no series occurs twice."""
        return not (self.series[1:] == self.series[:-1]).any()

    @cached_property
    def fresh(self) -> NDArray[np.bool_]:
        """Which readings are fresh, bool (m,)."""
        return ~self.judged.late

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """Which are fresh and have flag 1 or 2, bool (m,)."""
        out: NDArray[np.bool_] = self.fresh & (self.judged.flag <= _GOOD)
        return out

    @cached_property
    def struck(self) -> NDArray[np.int64] | None:
        """Time of the earlier reading that each one shows to be bad, int64 (m,), NEVER: none; None: no one does."""
        judged = self.judged
        bad = judged.again_flag > _GOOD
        if not bad.any():
            return None
        out = np.full(len(self.series), NEVER, np.int64)
        out[judged.again_by[bad]] = judged.again_time_us[bad]
        return out


class Unmoved:
    """Base of all kinds: what a kind does not look at changes nothing. See :class:`qingtu.contracts.RuleKind`."""

    def on_readings(self, batch: Batch) -> list[Transition]:
        """Values do not count."""
        del batch
        return []

    def on_heard(
        self, station: NDArray[np.int64], received_us: NDArray[np.int64], revision: NDArray[np.int64]
    ) -> list[Transition]:
        """Being heard does not count."""
        del station, received_us, revision
        return []

    def on_clock(
        self,
        device: NDArray[np.int32],
        wrong: NDArray[np.bool_],
        at_us: NDArray[np.int64],
        revision: NDArray[np.int64],
    ) -> list[Transition]:
        """Clocks of devices do not count."""
        del device, wrong, at_us, revision
        return []

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Time that passes does not count."""
        del clock_us, hearing, held, revision
        return []


def alert_id(rule: str, station: str, prop: str, channel: str, opened_us: int) -> str:
    """Return the id of the alert that a reading opens: the same reading always gives the same id."""
    text = "\x1f".join((rule, station, prop, channel, str(opened_us)))
    return blake2b(text.encode(), digest_size=8).hexdigest()
