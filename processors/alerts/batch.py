"""What rule kinds share: the pass of readings that they look at, and the identity of an alert."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from processors.quality.run import Judged


@dataclass(frozen=True, slots=True)
class Batch:
    """A pass of m judged readings, sorted by series and arrival. Columns as in ``READINGS``.

    Attributes:
        series: int32 (m,), dense series number of the plan.
        time_us: int64 (m,).
        value: float64 (m,).
        known_us: int64 (m,).
        revision: int64 (m,).
        judged: flags and revisions.
    """

    series: NDArray[np.int32]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    known_us: NDArray[np.int64]
    revision: NDArray[np.int64]
    judged: Judged


def alert_id(rule: str, station: str, prop: str, channel: str, opened_us: int) -> str:
    """Return the id of the alert that a reading opens: the same reading always gives the same id."""
    text = "\x1f".join((rule, station, prop, channel, str(opened_us)))
    return blake2b(text.encode(), digest_size=8).hexdigest()
