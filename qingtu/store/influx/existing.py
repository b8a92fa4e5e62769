"""What stands in the database under keys that are about to be merged, as it was before the frames that are applied.

A stage that died between the server's 204 and the save of its progress applies the same frames again. It then finds
revisions that only these frames can have brought: what stood there before is the old side of the earliest correction
with such a revision, or nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from qingtu.clock import HOUR, MINUTE
from qingtu.store.influx.corrections import fetch_corrections
from qingtu.store.influx.wide import Found, fetch, join
from qingtu.store.merging import Versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from qingtu.store.influx.client import InfluxClient
    from qingtu.store.names import SeriesNames

_GAP: Final = 15 * MINUTE
_SPAN: Final = 6 * HOUR
"""Keys are asked for by ranges of time: a longer gap begins a new range, and none is longer than the span."""


@dataclass(frozen=True, slots=True)
class Before:
    """What stands under those of k keys that are found, shape (h,) each.

    Attributes:
        place: int64, index of the key.
        present: bool, it stood there before these frames; otherwise only a commit that was cut off brought it.
        versions: what stood there before.
        steps: int64, how often the reading had been replaced before.
        void: bool, the number that stands there now is withdrawn.
    """

    place: NDArray[np.int64]
    present: NDArray[np.bool_]
    versions: Versions
    steps: NDArray[np.int64]
    void: NDArray[np.bool_]


def before(
    client: InfluxClient,
    bucket: str,
    names: SeriesNames,
    series: NDArray[np.int32],
    time: NDArray[np.int64],
    base: int,
) -> Before:
    """Ask what stood under keys before the frames whose positions begin at ``base``.

    Args:
        client: the server.
        bucket: of readings and corrections.
        names: of series.
        series: int32 (k,), sorted.
        time: int64 (k,), µs UTC, sorted within a series.
        base: position of the first row of the frames.

    Raises:
        RetryLater: the server does not answer now.
    """
    place, found = _now(client, bucket, names, series, time)
    versions = found.versions.take(np.arange(len(place)))  # a copy
    present, steps = np.ones(len(place), np.bool_), found.steps.copy()
    again = np.flatnonzero(versions.revision >= base)
    if len(again):
        numbers, which = np.unique(series[place[again]], return_inverse=True)
        keys = [names.keys[number] for number in numbers.tolist()]
        span = (int(found.time[again].min()), int(found.time[again].max()) + 1)
        chain = fetch_corrections(client, bucket, keys, *span, f"new_revision >= {base}")
        earliest: dict[tuple[int, int], int] = {}
        for i, key in enumerate(zip(chain.key.tolist(), chain.time.tolist(), strict=True)):
            earliest.setdefault(key, i)
        for row, key in zip(again.tolist(), which.tolist(), strict=True):
            at = earliest.get((key, int(found.time[row])))
            if at is None or chain.old.revision[at] >= base:
                present[row], steps[row] = False, 0
                continue
            steps[row] = chain.step[at]
            for name in Versions.__slots__:
                getattr(versions, name)[row] = getattr(chain.old, name)[at]
    return Before(place, present, versions, steps, found.void)


def _now(
    client: InfluxClient, bucket: str, names: SeriesNames, series: NDArray[np.int32], time: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Found]:
    """Return which of the keys are stored, and what stands there now."""
    places, parts = [np.zeros(0, np.int64)], []
    for some in _ranges(time):
        numbers, which = np.unique(series[some], return_inverse=True)
        times, when = np.unique(time[some], return_inverse=True)
        keys = [names.keys[number] for number in numbers.tolist()]
        found = fetch(client, bucket, keys, int(times[0]), int(times[-1]) + 1)
        wanted = which * len(times) + when  # sorted, as the keys are
        near = np.minimum(np.searchsorted(times, found.time), len(times) - 1)
        code = found.key.astype(np.int64) * len(times) + near
        at = np.minimum(np.searchsorted(wanted, code), len(wanted) - 1)
        good = (times[near] == found.time) & (wanted[at] == code)
        parts.append(found.take(good))
        places.append(some[at[good]])
    return np.concatenate(places), join(parts)


def _ranges(time: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut keys into ranges of time; gives indices of the keys, in their order."""
    order = np.argsort(time, kind="stable")
    sorted_ = time[order]
    at = 0
    while at < len(order):
        inside = np.searchsorted(sorted_, sorted_[at] + _SPAN, "right")
        gaps = np.flatnonzero(np.diff(sorted_[at:inside]) > _GAP)
        end = at + int(gaps[0]) + 1 if len(gaps) else int(inside)
        yield np.sort(order[at:end])
        at = end
