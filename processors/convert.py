"""Third step: numbers as sent to canonical units, and claimed times to UTC.

Numbers that mean "no value" are looked for before conversion. A unit that is not known for the property is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from qingtu.clock import HOUR, SECOND

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from numpy.typing import NDArray

    from processors.plan import Plan
    from qingtu.contracts import Decoded


def values(plan: Plan, entry: NDArray[np.int64], decoded: Decoded) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Convert numbers.

    Args:
        plan: look-up tables.
        entry: int64 (m,), none UNKNOWN.
        decoded: m readings.

    Returns:
        value float64 (m,), NaN when missing, and refused bool (m,): the unit is not known for the property.
    """
    sent = decoded.value
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        value = sent * plan.entry_scale.take(entry)
        value += plan.entry_offset.take(entry)
    refused = np.zeros(len(sent), np.bool_)
    if len(decoded.units) > 1:
        other = np.flatnonzero(decoded.unit)
        pairs = entry[other] * len(decoded.units) + decoded.unit[other]
        distinct, which = np.unique(pairs, return_inverse=True)
        for k, pair in enumerate(distinct.tolist()):
            rows = other[which == k]
            to = plan.unit(pair // len(decoded.units), decoded.units[pair % len(decoded.units)])
            if to is None:
                refused[rows] = True
            else:
                with np.errstate(over="ignore"):
                    value[rows] = sent[rows] * to.scale + to.offset
    for k, numbers in enumerate(plan.sentinel_sets):
        if len(numbers):
            missing = np.zeros(len(sent), np.bool_)
            for number in numbers:
                missing |= sent == number
            if missing.any():
                rows = np.flatnonzero(missing & (plan.entry_sentinels[entry] == k))
                value[rows[~_real(plan, entry[rows], decoded.unit[rows], value[rows])]] = np.nan
    # A scale can carry a huge number over the edge of 64 bits; infinite is not a value.
    refused |= np.isinf(value)
    return value, refused


def _real(
    plan: Plan, entry: NDArray[np.int64], unit: NDArray[np.int32], value: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Say which numbers that look like "no value" are one, shape (n,).

    What the defaults call missing was judged in the declared unit: 99999 hPa is no pressure, 99999 Pa is one.
    """
    low, high = plan.entry_plausible[entry].T
    out: NDArray[np.bool_] = (unit != 0) & plan.entry_inherited[entry] & (low <= value) & (value <= high)
    return out


def to_utc(local_us: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """Turn local times, written as if they were UTC, into UTC; the earlier one where a time occurs twice.

    Args:
        local_us: int64 (k,), µs.
        zone: the zone they were read in.
    """
    hours, which = np.unique(local_us // HOUR, return_inverse=True)
    offsets = [_offset_us(hour, zone) for hour in hours.tolist()]
    out: NDArray[np.int64] = local_us - np.array(offsets, np.int64)[which]
    return out


def _offset_us(hour: int, zone: ZoneInfo) -> int:
    try:
        moment = datetime.fromtimestamp(hour * 3600, tz=UTC).replace(tzinfo=zone)
    except (OverflowError, ValueError, OSError):
        return 0  # far outside of any calendar: refused as clock_wrong right after
    offset = moment.utcoffset()
    return 0 if offset is None else int(offset.total_seconds()) * SECOND
