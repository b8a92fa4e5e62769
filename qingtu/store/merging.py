"""What a sequence of rows makes of each key that is stored already, worked out in memory. Knows no database.

The greatest revision of a key wins, what is the same changes nothing, a late verdict of quality counts only while the
value that it judged still stands, and a person's word stands when the same value comes once more (docs/records.md,
table of effects).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qingtu.records import OVERRIDDEN, is_verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEW: Final = 0
REVISED: Final = 1
UNCHANGED: Final = 2
NONE: Final = -1
"""No version."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Values that keys have had or may get, one a row; all of shape (v,).

    Attributes:
        value: float64, canonical unit; NaN: missing.
        flag: uint8.
        tests: uint32, bit set.
        revision: int64.
        known_us: int64, µs UTC.
        cause: uint8, see :class:`qingtu.records.Cause`; of stored rows it is not known and never asked for.
    """

    value: NDArray[np.float64]
    flag: NDArray[np.uint8]
    tests: NDArray[np.uint32]
    revision: NDArray[np.int64]
    known_us: NDArray[np.int64]
    cause: NDArray[np.uint8]

    def take(self, which: NDArray[Any]) -> Versions:
        """Return some of them: a mask or places."""
        return Versions(*(getattr(self, name)[which] for name in self.__slots__))

    def behind(self, first: Versions) -> Versions:
        """Return ``first`` with these behind it."""
        return Versions(*(np.concatenate([getattr(first, name), getattr(self, name)]) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of m rows and k keys; places are those of ``versions`` in :func:`merge`.

    Attributes:
        state: uint8 (m,), NEW, REVISED or UNCHANGED.
        replaced: int64 (m,), place of the version that a revised row replaced; NONE for the others.
        now: int64 (k,), place of the version that each key has at last; NONE when there is none.
    """

    state: NDArray[np.uint8]
    replaced: NDArray[np.int64]
    now: NDArray[np.int64]


def merge(key: NDArray[np.int64], first: NDArray[np.int64], versions: Versions) -> Merged:
    """Apply rows to their keys.

    Args:
        key: (m,), which key each row is of: 0..k-1, sorted; rows of one key stand in the order in which they count.
        first: (k,), place of the version that is stored of each key, NONE for a key that is not stored.
        versions: the m rows are the last m of them.
    """
    m = len(key)
    places = np.arange(len(versions.value) - m, len(versions.value))
    state = np.full(m, UNCHANGED, np.uint8)
    replaced = np.full(m, NONE, np.int64)
    now = first.copy()
    often = np.bincount(key, minlength=len(first))[key] > 1
    once = np.flatnonzero(~often)
    before = now[key[once]]
    wins = _wins(versions, before, places[once])
    state[once[wins]] = np.where(before[wins] == NONE, NEW, REVISED)
    replaced[once[wins]] = before[wins]
    now[key[once[wins]]] = places[once[wins]]
    if often.any():
        _one_by_one(np.flatnonzero(often), key, versions, Merged(state, replaced, now))
    return Merged(state, replaced, now)


def _wins(versions: Versions, before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say where ``after`` takes the place of ``before``; shape (n,), places in ``versions``."""
    held = before != NONE
    old, new = versions.take(before), versions.take(after)  # NONE takes any: it is masked by ``held``
    same_value = (old.value == new.value) | (np.isnan(old.value) & np.isnan(new.value))
    same = same_value & (old.flag == new.flag) & (old.tests == new.tests)
    decided = is_verdict(new.cause)
    # A verdict about a reading that is gone (expired) does not bring it back. It may have the revision of its value.
    verdict = held & same_value & (old.revision <= new.revision)
    # What a person said of a value is not taken back by the same value, sent or driven again.
    said = held & same_value & (old.tests & OVERRIDDEN != 0) & (new.tests & OVERRIDDEN == 0)
    reading = ~held | ((old.revision < new.revision) & ~said)
    wins: NDArray[np.bool_] = np.where(decided, verdict, reading) & ~(held & same)
    return wins


def _one_by_one(which: NDArray[np.int64], key: NDArray[np.int64], versions: Versions, out: Merged) -> None:
    """Apply the rows ``which`` of keys that come more than once: each sees what those before it did."""
    offset = len(versions.value) - len(key)
    now = {k: int(out.now[k]) for k in np.unique(key[which]).tolist()}
    used = np.concatenate([which + offset, [at for at in now.values() if at != NONE]]).astype(np.int64)
    some = versions.take(used)
    # A missing value is None here: NaN is not equal to itself.
    values = [None if math.isnan(value) else value for value in some.value.tolist()]
    columns = zip(values, some.flag.tolist(), some.tests.tolist(), strict=True)
    content = dict(zip(used.tolist(), columns, strict=True))
    revision = dict(zip(used.tolist(), some.revision.tolist(), strict=True))
    decided = is_verdict(versions.cause[which + offset]).tolist()
    for row, k, verdict in zip(which.tolist(), key[which].tolist(), decided, strict=True):
        old, new = now[k], row + offset
        if old == NONE:
            if not verdict:
                out.state[row], now[k] = NEW, new
            continue
        if verdict:
            newer = content[old][0] == content[new][0] and revision[old] <= revision[new]
        else:
            said = (
                content[old][0] == content[new][0] and content[old][2] & OVERRIDDEN and not content[new][2] & OVERRIDDEN
            )
            newer = revision[old] < revision[new] and not said
        if newer and content[old] != content[new]:
            out.state[row], out.replaced[row], now[k] = REVISED, old, new
    out.now[list(now)] = list(now.values())
