"""Faults that sensors and networks really have, injected on purpose, each with what must come of it.

Like the values, faults are pure functions of (seed, device, sample): a run may be cut anywhere. The rate of a
*message fault* is the share of messages that it hits; the rate of an *episode* is the chance that a device (a
network, for ``gateway_dead``) has one within six hours. A message has one fault at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qingtu.clock import HOUR, MINUTE
from qingtu.errors import ConfigError, Problem
from simulators.signal import key_of, uniform, uniform1

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MESSAGE_FAULTS = ("loss", "duplicate", "garbage", "clock", "spike", "unit")
EPISODES = ("late", "stuck", "drift", "gateway_dead")
FAULTS = (*MESSAGE_FAULTS, *EPISODES)

PRESETS: Mapping[str, Mapping[str, float]] = {
    "none": {},
    "demo": {
        "loss": 0.002, "duplicate": 0.004, "garbage": 0.001, "clock": 0.001, "spike": 0.001, "unit": 0.001,
        "late": 0.02, "stuck": 0.02, "drift": 0.02, "gateway_dead": 0.1,
    },
    "all": {
        "loss": 0.01, "duplicate": 0.01, "garbage": 0.01, "clock": 0.005, "spike": 0.005, "unit": 0.005,
        "late": 0.15, "stuck": 0.15, "drift": 0.15, "gateway_dead": 0.1,
    },
}  # fmt: skip

_SLOT_US = 6 * HOUR
_DURATION_US = {
    "late": (30 * MINUTE, 50 * MINUTE),
    "stuck": (2 * HOUR, 4 * HOUR),
    "drift": (2 * HOUR, 5 * HOUR),
    "gateway_dead": (20 * MINUTE, 60 * MINUTE),
}
LONGEST_HOLD_US = 51 * MINUTE
"""A held message is sent at most this long after its time."""
LONGEST_REPEAT_US = 30_000_000
"""A duplicate follows at most this long after the first."""


def parse_faults(text: str) -> dict[str, float]:
    """Read ``loss=0.01,duplicate=0.01``, a preset, or a preset and changes to it: ``demo,loss=0.1``.

    Raises:
        ConfigError: a fault or preset is not known, or a rate is not within 0 and 1.
    """
    rates: dict[str, float] = {}
    problems: list[Problem] = []
    for part in (word.strip() for word in text.split(",")):
        name, equals, number = part.partition("=")
        if not equals and name in PRESETS:
            rates.update(PRESETS[name])
        elif not equals or name not in FAULTS:
            allowed = f"is not one of {', '.join((*PRESETS, *(f'{fault}=RATE' for fault in FAULTS)))}"
            problems.append(Problem("--faults", 0, name, part, allowed))
        else:
            _read_rate(rates, problems, name, number)
    total = sum(rates.get(name, 0.0) for name in MESSAGE_FAULTS)
    if total > 1.0:
        problems.append(Problem("--faults", 0, "rates", f"{total:g}", "message faults must not add up to more than 1"))
    if problems:
        raise ConfigError(problems)
    return rates


def _read_rate(rates: dict[str, float], problems: list[Problem], name: str, number: str) -> None:
    try:
        rate = float(number)
    except ValueError:
        rate = -1.0
    if 0.0 <= rate <= 1.0:
        rates[name] = rate
    else:
        problems.append(Problem("--faults", 0, name, number, "is not a rate from 0 to 1"))


class Episode(NamedTuple):
    """A stretch of time in which something is wrong.

    Attributes:
        start_us: µs UTC, inclusive.
        end_us: µs UTC, exclusive.
    """

    start_us: int
    end_us: int


@dataclass(slots=True)
class FaultPlan:
    """Which faults happen when.

    Attributes:
        seed: of the run.
        rates: by fault; what is absent does not happen.
        begin_us: samples before this were never sent: what would be sent late, or twice, of them is not sent either.
        live_from_us: samples before this are published as history, long after their time: a clock must then be wrong
            by more to be noticed, and checks with memory do not look at what is so late.
    """

    seed: int
    rates: Mapping[str, float] = field(default_factory=dict)
    begin_us: int = 0
    live_from_us: int = 0
    _episodes: dict[tuple[str, str, int], Episode | None] = field(default_factory=dict)

    def rate(self, fault: str) -> float:
        """Return a fault's rate."""
        return self.rates.get(fault, 0.0)

    def message_faults(self, device: str, samples: NDArray[np.int64]) -> list[str]:
        """Return the message fault of each sample of a device, "" for none."""
        total = sum(self.rate(name) for name in MESSAGE_FAULTS)
        if total == 0.0:
            return [""] * len(samples)
        draw = uniform(key_of(self.seed, device, "fault"), samples)
        bounds = np.cumsum([self.rate(name) for name in MESSAGE_FAULTS])
        names = (*MESSAGE_FAULTS, "")
        return [names[i] for i in np.searchsorted(bounds, draw, side="right")]

    def episode(self, fault: str, who: str, time_us: int) -> Episode | None:
        """Return the episode of a device or network that covers a time, or None."""
        if self.rate(fault) == 0.0:
            return None
        found = self._in_slot(fault, who, time_us // _SLOT_US)
        return found if found is not None and found.start_us <= time_us < found.end_us else None

    def episodes(self, fault: str, who: str, start_us: int, end_us: int) -> list[Episode]:
        """Return the episodes that overlap [start, end)."""
        if self.rate(fault) == 0.0:
            return []
        slots = range(start_us // _SLOT_US, (end_us - 1) // _SLOT_US + 1)
        found = (self._in_slot(fault, who, slot) for slot in slots)
        return [e for e in found if e is not None and e.start_us < end_us and e.end_us > start_us]

    def _in_slot(self, fault: str, who: str, slot: int) -> Episode | None:
        known = (fault, who, slot)
        if known not in self._episodes:
            if len(self._episodes) > 200_000:
                self._episodes.clear()
            self._episodes[known] = self._draw(fault, who, slot)
        return self._episodes[known]

    def _draw(self, fault: str, who: str, slot: int) -> Episode | None:
        key = key_of(self.seed, who, fault)
        if uniform1(key, 3 * slot) >= self.rate(fault):
            return None
        shortest, longest = _DURATION_US[fault]
        duration = shortest + int((longest - shortest) * uniform1(key, 3 * slot + 1))
        # an episode lies within its slot, so a time is in one at most
        start = slot * _SLOT_US + int((_SLOT_US - duration) * uniform1(key, 3 * slot + 2))
        return Episode(start, start + duration)
