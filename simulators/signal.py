"""Noise and rhythms that every simulator is made of; each is a pure function of (key, time).

Nothing here has a state or a generator that moves on: a random number is a hash of a key and a counter (SplitMix64),
so a series has the same value at the same time however a run was cut. All randomness is bounded, so that a healthy
sensor never throws a value that quality control would have to flag.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qingtu.clock import DAY, HOUR, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

Times: TypeAlias = NDArray[np.int64]
"""µs UTC, shape (n,)."""
Values: TypeAlias = NDArray[np.float64]
"""Canonical unit of the property, shape (n,)."""

LOCAL_OFFSET_US = 8 * HOUR
"""China has one time, UTC+8 without daylight saving: the rhythm of the city follows it."""
_SMOOTH_TAPS = 4.0


@lru_cache(maxsize=1 << 17)
def key_of(seed: int, *words: str) -> int:
    """Return the 64-bit key of one source of randomness."""
    text = "\x1f".join((str(seed), *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hashes(key: int, counter: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 random bits for each counter: the SplitMix64 finaliser over counter and key."""
    mixed = _mix(_mix(counter.astype(np.uint64)) ^ np.uint64(key))
    return mixed  # noqa: RET504 - the type of a ufunc chain is known only here


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(key: int, counter: NDArray[np.int64]) -> Values:
    """Return numbers in [0, 1), one for each counter."""
    return (hashes(key, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform1(key: int, counter: int) -> float:
    """Return one number in [0, 1)."""
    return float(uniform(key, np.array([counter], dtype=np.int64))[0])


def hashes1(key: int, counter: int) -> int:
    """Return 64 random bits; ``counter`` may be negative."""
    return int(hashes(key, np.array([counter], dtype=np.int64))[0])


def bell(key: int, counter: NDArray[np.int64]) -> Values:
    """Return numbers of mean 0, standard deviation 1, never beyond ±3.47: the sum of four uniform ones."""
    bits = hashes(key, counter)
    total = np.zeros(bits.shape, dtype=np.float64)
    for shift in (0, 16, 32, 48):
        total += ((bits >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.float64)
    result: Values = (total / 65536.0 - 2.0) * 3.0**0.5
    return result


def wander(key: int, time_us: Times, period_s: float) -> Values:
    """Return a smooth random curve of mean 0 and about unit size, which turns every ``period_s``.

    Knots one period apart, joined by smoothsteps: never steeper than 10.4 / period.
    """
    period_us = max(1, round(period_s * SECOND))
    knot = time_us // period_us
    fraction = (time_us - knot * period_us) / period_us
    # neighbouring samples share knots: hash each knot once
    first, last = int(knot.min()), int(knot.max()) + 1
    values = bell(key, np.arange(first, last + 1, dtype=np.int64))
    at = knot - first
    step = fraction * fraction * (3.0 - 2.0 * fraction)
    result: Values = values[at] + (values[at + 1] - values[at]) * step
    return result


def hour_of_day(time_us: Times) -> Values:
    """Return local hours since midnight, 0 to below 24."""
    return ((time_us + LOCAL_OFFSET_US) % DAY) / HOUR


def local_day(time_us: Times) -> NDArray[np.int64]:
    """Return the number of the local day since 1970-01-01."""
    return (time_us + LOCAL_OFFSET_US) // DAY


def weekend(time_us: Times) -> NDArray[np.bool_]:
    """Return whether it is Saturday or Sunday here; 1970-01-01 was a Thursday."""
    result: NDArray[np.bool_] = (local_day(time_us) + 3) % 7 >= 5
    return result


def year_fraction(time_us: Times) -> Values:
    """Return the part of the year that has passed, 0 to below 1 (mean Gregorian year)."""
    return (time_us % round(365.2425 * DAY)) / (365.2425 * DAY)


def bump(hour: Values, centre: float, width: float) -> Values:
    """Return a bell over the hours of the day, 1 at ``centre``, around midnight too; ``width`` in hours."""
    distance = np.abs((hour - centre + 12.0) % 24.0 - 12.0)
    result: Values = np.exp(-0.5 * (distance / width) ** 2)
    return result


def monthly(time_us: Times, months: tuple[float, ...]) -> Values:
    """Interpolate twelve monthly means, given for the middles of the months."""
    place = year_fraction(time_us) * 12.0
    result: Values = np.interp(place, np.arange(12) + 0.5, np.array(months), period=12.0)
    return result


def traffic(time_us: Times) -> Values:
    """Return road traffic, about 0 at night to 1.2 in the rush hours; less at weekends."""
    hour = hour_of_day(time_us)
    rush = bump(hour, 8.0, 1.5) + 1.1 * bump(hour, 18.2, 2.0) + 0.45 * bump(hour, 13.0, 3.5)
    return rush * np.where(weekend(time_us), 0.7, 1.0)


def awake(time_us: Times) -> Values:
    """Return how much of the city is awake, 0.03 at night to 1."""
    hour = hour_of_day(time_us)
    rising = 1.0 / (1.0 + np.exp(-(hour - 6.8) * 1.8))
    falling = 1.0 / (1.0 + np.exp((hour - 22.3) * 1.5))
    result: Values = 0.03 + 0.97 * rising * falling
    return result


def decayed(rate: Callable[[Times], Values], time_us: Times, tau_h: float, *, reach: float = _SMOOTH_TAPS) -> Values:
    """Return what is left of a past rate that decays with ``tau_h``: ∫ rate(t - s) exp(-s / tau) ds in hours.

    Taken on fixed knots a quarter hour (or tau / 24, if longer) apart, so it is a pure function of time as well.
    """
    step_us = max(HOUR // 4, round(tau_h * HOUR / 24))
    taps = round(reach * tau_h * HOUR / step_us)
    first = int(time_us.min()) // step_us - taps
    last = int(time_us.max()) // step_us + 1
    knots = np.arange(first, last + 1, dtype=np.int64) * step_us
    hours = step_us / HOUR
    kernel = np.exp(-np.arange(taps + 1) * hours / tau_h) * hours
    past = np.convolve(rate(knots), kernel)[taps : len(knots)]
    result: Values = np.interp(time_us.astype(np.float64), knots[taps:].astype(np.float64), past)
    return result


@dataclass(frozen=True, slots=True)
class Place:
    """What a simulator knows of a station.

    Attributes:
        seed: of the whole run.
        station: station id.
        kind: station kind of the catalogue, such as ``ranch``.
        lon: degrees east, WGS84.
        lat: degrees north, WGS84.
        interval_s: between readings, seconds.
        channel: of the series; a backup sensor has noise of its own.
        noise_class: zone of GB 3096-2008, or "".
        roles: stories that this station has in this run: see :mod:`simulators.world`.
    """

    seed: int
    station: str
    kind: str
    lon: float = 120.38
    lat: float = 36.07
    interval_s: float = 300.0
    channel: str = "main"
    noise_class: str = ""
    roles: frozenset[str] = field(default_factory=frozenset)

    def key(self, word: str) -> int:
        """Return the key of randomness that belongs to this station (and channel)."""
        return key_of(self.seed, self.station, self.channel, word)

    def shared(self, word: str) -> int:
        """Return the key of randomness that the whole city shares, such as its weather."""
        return key_of(self.seed, "city", word)

    def constant(self, word: str, low: float, high: float) -> float:
        """Return a number that stays the same at this station for ever."""
        return low + (high - low) * uniform1(key_of(self.seed, self.station, word), 0)

    def wander(self, word: str, time_us: Times, period_h: float) -> Values:
        """Return this station's own smooth curve."""
        return wander(self.key(word), time_us, period_h * 3600.0)

    def city(self, word: str, time_us: Times, period_h: float) -> Values:
        """Return the city's smooth curve."""
        return wander(self.shared(word), time_us, period_h * 3600.0)

    def jitter(self, word: str, time_us: Times) -> Values:
        """Return the sensor's own noise: independent from sample to sample, standard deviation 1."""
        return bell(self.key(word), time_us)


Model: TypeAlias = "Callable[[Place, Times], Values]"
"""Values of one property at a place; a pure function."""


def steady(low: float, high: float, *, swing: float = 0.05, period_h: float = 8.0, noise: float = 0.002) -> Model:
    """Make the model of a quantity that stays near a level of its own.

    Args:
        low: lowest level that a station may have.
        high: highest.
        swing: size of slow changes, as a part of the level.
        period_h: how fast these turn, hours.
        noise: size of the sensor's noise, as a part of the level.
    """

    def model(place: Place, time_us: Times) -> Values:
        level = place.constant(f"level {low} {high}", low, high)
        word = f"steady {low} {high}"
        curve = swing * place.wander(word, time_us, period_h) + noise * place.jitter(word, time_us)
        return level * (1.0 + curve)

    return model
