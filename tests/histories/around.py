"""What stations around say of each other, and what people said, worked out again from what a store holds at rest."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qingtu.clock import HOUR
from qingtu.records import NEIGHBOUR, OVERRIDDEN, RECEIPT_TIME
from tests.histories.story import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUSPECT: Final = 40.0
MINIMUM: Final = 2
_GOOD: Final = 2


class Word(NamedTuple):
    """What a person said of a reading, as the person saw it.

    Attributes:
        place: station, property, channel, time in µs UTC.
    """

    place: tuple[str, str, str, int]
    value: float | None
    flag: int


def look_at_neighbours(rows: Iterable[Sequence[Any]]) -> None:
    """Compare each hour of each station with the others: (station, property, channel, time, value, flag, tests, …)."""
    hours: dict[tuple[str, int], dict[str, list[tuple[float, int, int]]]] = {}
    for station, prop, _, time, value, flag, tests, *_ in rows:
        if prop == "pm25":
            known = math.nan if value is None else value
            hours.setdefault((prop, time // HOUR), {}).setdefault(station, []).append((known, flag, tests))
    for (_, hour), of in hours.items():
        good = {station: [v for v, *marks in readings if _good(v, *marks)] for station, readings in of.items()}
        means = {station: statistics.fmean(values) for station, values in good.items() if values}
        for station, readings in of.items():
            around = [mean for other, mean in means.items() if other != station]
            apart = abs(means[station] - statistics.median(around)) if station in means and around else 0.0
            if abs(apart - SUSPECT) < 1e-6:
                continue  # as floats fall
            bad = len(around) >= MINIMUM and apart > SUSPECT
            wrong = [tests for v, flag, tests in readings if _other(v, flag, tests, bad=bad)]
            if wrong:
                raise Violation("neighbours", f"{station} in hour {hour}: {apart:.1f} apart; tests say {wrong[0]:#x}")


def _good(value: float, flag: int, tests: int) -> bool:
    return not math.isnan(value) and (flag <= _GOOD or tests & ~RECEIPT_TIME == NEIGHBOUR)


def _other(value: float, flag: int, tests: int, *, bad: bool) -> bool:
    """Say whether a reading says something else than the verdict; what a person said stands."""
    if tests & OVERRIDDEN:
        return False
    return _good(value, flag, tests) and not tests & NEIGHBOUR if bad else bool(tests & NEIGHBOUR)


def look_at_words(words: Iterable[Word], rows: Iterable[Sequence[Any]], corrections: Iterable[Sequence[Any]]) -> None:
    """What a person said stands while the value stands: (…, old value, old flag, old revision, new value, …)."""
    changed = {tuple(row[:4]) for row in corrections if row[4] != row[7]}
    now = {tuple(row[:4]): row[4:] for row in rows}
    last = {word.place: word for word in words}
    for place, word in last.items():
        if place in changed or place not in now:
            continue
        value, flag, tests, *_ = now[place]
        if value == word.value and not (tests & OVERRIDDEN and flag == word.flag):
            raise Violation("words", f"somebody set {place} to {word.flag}; it is {flag}, {tests:#x}")
