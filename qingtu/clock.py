"""Time comes from a clock that is passed in; all times are whole microseconds UTC since 1970."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Clock(Protocol):
    """A source of time. Stages never call one: their time is in the rows that they read."""

    def now_us(self) -> int:
        """Return wall time in µs UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Return wall time in µs UTC."""
        return time.time_ns() // 1000


class ManualClock:
    """A clock that stands until it is moved; for simulations and tests.

    Args:
        now_us: where it starts, µs UTC.
    """

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        """Return the time that was last set, µs UTC."""
        return self._now_us

    def advance(self, us: int) -> None:
        """Move forward by ``us`` microseconds."""
        self._now_us += us


def iso(us: int) -> str:
    """Write µs UTC as RFC 3339 with a Z, as short as the value allows.

    >>> iso(0), iso(1_500_000)
    ('1970-01-01T00:00:00Z', '1970-01-01T00:00:01.500000Z')
    """
    whole = datetime.fromtimestamp(us // SECOND, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    rest = us % SECOND
    return f"{whole}.{rest:06d}Z" if rest else f"{whole}Z"
