"""Periods of figures: where they begin and end, in a station's zone. All times are µs UTC.

Ten minutes, hours and eight hours follow each other without gaps, on the grid of the zone's standard time: summer time
moves their labels, never their bounds. Days, months and years begin at local midnight: a day may have 23 or 25 hours.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from qingtu.clock import DAY, HOUR, MINUTE, SECOND

BIN: Final = 5 * MINUTE
"""Every bound of a period is a multiple of this: so are the offsets of all zones in use."""
FIXED: Final = {"10min": 10 * MINUTE, "hour": HOUR, "8h": 8 * HOUR}
"""Length of the levels that have always the same."""
_STEP: Final = {"10min": 10 * MINUTE, "hour": HOUR, "8h": HOUR}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def local(zone: str, time_us: int) -> datetime:
    """Return a time as the clocks of a zone show it."""
    return (_EPOCH + timedelta(microseconds=time_us)).astimezone(ZoneInfo(zone))


@lru_cache(maxsize=4096)
def _standard_offset(zone: str, day: int) -> int:
    at = local(zone, day * DAY)
    offset = (at.utcoffset() or timedelta()) - (at.dst() or timedelta())
    return round(offset.total_seconds()) * SECOND


def start_of(level: str, zone: str, time_us: int) -> int:
    """Return the start of the period that holds a time; of moving ones, of the newest that does."""
    step = _STEP.get(level)
    if step is None:
        return _bounds(level, zone, time_us // BIN)[0]
    offset = _standard_offset(zone, time_us // DAY)
    return (time_us + offset) // step * step - offset


def end_of(level: str, zone: str, start_us: int) -> int:
    """Return the end, exclusive, of the period that begins at a time."""
    length = FIXED.get(level)
    return _bounds(level, zone, start_us // BIN)[1] if length is None else start_us + length


@lru_cache(maxsize=65536)
def _bounds(level: str, zone: str, number: int) -> tuple[int, int]:
    """Return start and end of the day, month or year that holds a bin."""
    at = local(zone, number * BIN)
    if level == "day":
        first = datetime(at.year, at.month, at.day)  # noqa: DTZ001 - the zone is put on below
        following = first + timedelta(days=1)
    elif level == "month":
        first = datetime(at.year, at.month, 1)  # noqa: DTZ001
        following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1)  # noqa: DTZ001
    elif level == "year":
        first, following = datetime(at.year, 1, 1), datetime(at.year + 1, 1, 1)  # noqa: DTZ001
    else:
        raise ValueError(f"there is no level {level!r}")
    return _midnight(first, zone), _midnight(following, zone)


def _midnight(at: datetime, zone: str) -> int:
    # A midnight that summer time leaves out is the moment of the change; of one that comes twice, the first.
    return round((at.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) - _EPOCH) / timedelta(microseconds=1))


def holding(level: str, zone: str, time_us: int) -> list[int]:
    """Return the starts of all periods of a level that hold a time: one, or of moving ones several."""
    newest = start_of(level, zone, time_us)
    length = FIXED.get(level, 0)
    step = _STEP.get(level, length)
    return [newest - i * step for i in range(length // step if step else 1)]


def parts_in(level: str, below: str, zone: str, start_us: int, end_us: int) -> int:
    """Return how many periods of the level below begin within a period."""
    step = _STEP.get(below)
    if step is not None:
        return round((end_us - start_us) / step)
    if below != "day":
        raise ValueError(f"{level} cannot be made of {below}")
    first, last = local(zone, start_us).date(), local(zone, end_us).date()
    return (last - first).days


def is_february(zone: str, start_us: int) -> bool:
    """Say whether a period begins in February."""
    return local(zone, start_us).month == 2
