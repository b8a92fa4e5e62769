"""How fast messages come and how long they take, over a sliding window. No thread; the caller gives the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_S: Final = 15
"""Seconds over which the rate is a mean."""
LATENCY_S: Final = 60
"""Seconds over which the latency is told."""
# Bucket borders in ms: about 7 % apart, from 1 ms to 100 s; what takes longer is in the last bucket.
_BORDERS_MS: Final = np.geomspace(1, 100_000, 171)


class Rates:
    """Counts of messages and of their latencies by second, in rings."""

    def __init__(self) -> None:
        self._second = 0
        self._first: int | None = None
        self._messages = np.zeros(LATENCY_S, np.int64)
        self._latency = np.zeros((LATENCY_S, len(_BORDERS_MS) + 1), np.int64)

    def add(self, now_us: int, messages: int, latency_us: NDArray[np.int64]) -> None:
        """Count messages seen now.

        Args:
            now_us: µs UTC.
            messages: how many.
            latency_us: shape (k,), from receipt to now, of those that are no old ones driven again.
        """
        self._move(now_us // 1_000_000)
        slot = self._second % LATENCY_S
        self._messages[slot] += messages
        buckets = np.searchsorted(_BORDERS_MS, latency_us / 1000)
        self._latency[slot] += np.bincount(buckets, minlength=len(_BORDERS_MS) + 1)

    def per_s(self, now_us: int) -> float:
        """Return messages a second, over the last full seconds."""
        self._move(now_us // 1_000_000)
        if self._first is None:
            return 0.0
        # The running second is not full yet; early on there are fewer full ones than the window has.
        seconds = min(RATE_S, self._second - self._first)
        if seconds < 1:
            return float(self._messages[self._second % LATENCY_S])
        slots = (self._second - 1 - np.arange(seconds)) % LATENCY_S
        return float(self._messages[slots].sum()) / seconds

    def p99_ms(self, now_us: int) -> float | None:
        """Return the 99th percentile of the latency in ms, rounded up to a bucket's border; None without messages."""
        self._move(now_us // 1_000_000)
        counts = self._latency.sum(axis=0)
        total = int(counts.sum())
        if not total:
            return None
        bucket = int(np.searchsorted(np.cumsum(counts), 0.99 * total))
        return float(_BORDERS_MS[min(bucket, len(_BORDERS_MS) - 1)])

    def _move(self, second: int) -> None:
        """Empty the slots of the seconds that passed. A clock that is set back keeps counting in the same second."""
        if self._first is None:
            self._first = self._second = second
        for passed in range(max(self._second + 1, second - LATENCY_S + 1), second + 1):
            self._messages[passed % LATENCY_S] = 0
            self._latency[passed % LATENCY_S] = 0
        self._second = max(self._second, second)
