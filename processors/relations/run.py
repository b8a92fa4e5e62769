"""Runs the checks of several properties over a pass: brings together what one message says, and spreads the flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from processors.quality.flags import FLAG, RANK
from processors.relations import MESSAGE_CHECKS
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import MessageCheck, Related


@dataclass(frozen=True, slots=True)
class _Layer:
    """One role of the groups of a check.

    Attributes:
        role: its number.
        slot: int32 (series,), which of its station's groups a series has this role in; -1: none.
        group: int32 (series,), number of that group.
    """

    role: int
    slot: NDArray[np.int32]
    group: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A check, its limits, and where its series stand; ``width``: groups of a station at most."""

    check: MessageCheck
    related: Related
    layers: list[_Layer]
    width: int


class MessageChecks:
    """The checks that a catalogue asks for; they remember nothing."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._prepared = [
            _prepare(check, related, catalogue)
            for check in MESSAGE_CHECKS.values()
            if (related := check.prepare(catalogue)) is not None
        ]

    def __bool__(self) -> bool:
        return bool(self._prepared)

    def judge(
        self, series: NDArray[np.int64], value: NDArray[np.float64], sample: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield bit and flags, shape (m,), of each check.

        Args:
            series: int64 (m,).
            value: float64 (m,), NaN when missing.
            sample: int64 (m,), readings with the same number have one message and one time.
        """
        samples = int(sample.max()) + 1 if len(sample) else 0
        for one in self._prepared:
            yield one.check.bit, _judge(one, series, value, sample, samples)


def _prepare(check: MessageCheck, related: Related, catalogue: Catalogue) -> _Prepared:
    n, (groups, roles) = len(catalogue.series), related.series.shape
    taken: dict[str, int] = {}
    slots = np.empty(groups, np.int32)
    for group, first in enumerate(related.series[:, 0].tolist()):
        station = catalogue.series[first].station
        slots[group] = taken.get(station, 0)
        taken[station] = int(slots[group]) + 1
    layers = []
    for role in range(roles):
        left = np.arange(groups)
        # A series may have a role in several groups of its station: a layer for each time.
        while len(left):
            members, at = np.unique(related.series[left, role], return_index=True)
            slot, number = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
            slot[members], number[members] = slots[left[at]], left[at]
            layers.append(_Layer(role, slot, number))
            left = np.delete(left, at)
    return _Prepared(check, related, layers, max(taken.values()))


def _judge(
    one: _Prepared, series: NDArray[np.int64], value: NDArray[np.float64], sample: NDArray[np.int64], samples: int
) -> NDArray[np.uint8]:
    """Bring the readings of each group and sample together, ask the check, and give every reading its worst flag.

    A sample is of one message, so of one station: (sample, slot) tells a group. Of several readings of one series in
    a sample the last counts, as in the store.
    """
    out = np.where(np.isnan(value), np.uint8(Flag.MISSING), np.uint8(Flag.NOT_EVALUATED))
    place = np.full((one.related.series.shape[1], samples * one.width), -1, np.int64)
    group = np.full(samples * one.width, -1, np.int32)
    for layer in one.layers:
        slot = layer.slot[series]
        rows = np.flatnonzero(slot >= 0)
        cell = sample[rows] * one.width + slot[rows]
        place[layer.role, cell] = rows
        group[cell] = layer.group[series[rows]]
    cells = np.flatnonzero(group >= 0)
    if not len(cells):
        return out
    place = place[:, cells]
    there = place >= 0
    values = np.where(there, value[place], np.nan)
    flags = one.check(values, group[cells].astype(np.int64), one.related.limits)
    there &= ~np.isnan(values)
    worst = np.zeros(len(series), np.uint8)
    np.maximum.at(worst, place[there], RANK[flags[there]])
    touched = place[there]
    out[touched] = FLAG[worst[touched]]
    return out
