"""The parts that series are made of: bounded, smooth, and functions of time alone."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qingtu.clock import DAY, HOUR, MINUTE, SECOND
from simulators.signal import (
    bell,
    bump,
    decayed,
    hour_of_day,
    key_of,
    monthly,
    uniform,
    wander,
    weekend,
)

T0 = 1_795_363_200_000_000


def test_random_numbers_are_spread_as_they_should_be() -> None:
    """Uniform numbers fill [0, 1); bell ones have mean 0 and deviation 1 and end at 3.47; keys are independent."""
    counter = np.arange(200_000, dtype=np.int64)
    flat, curve = uniform(key_of(1, "a"), counter), bell(key_of(1, "a"), counter)
    assert 0 <= flat.min() < 1e-4
    assert 1 - 1e-4 < flat.max() < 1
    assert np.histogram(flat, 20)[0].min() > 9_500
    assert abs(curve.mean()) < 0.01
    assert curve.std() == pytest.approx(1, abs=0.01)
    assert np.abs(curve).max() < 3.47
    assert abs(np.corrcoef(curve, bell(key_of(1, "b"), counter))[0, 1]) < 0.01
    assert abs(np.corrcoef(curve[1:], curve[:-1])[0, 1]) < 0.01


@settings(deadline=None)
@given(st.lists(st.integers(-DAY, DAY), min_size=1, max_size=30), st.sampled_from([60.0, 3600.0, 100_000.0]))
def test_a_curve_at_a_time_does_not_depend_on_the_other_times(offsets: list[int], period_s: float) -> None:
    """Asked one by one or together, the curve has the same values."""
    times = np.array([T0 + offset for offset in offsets], dtype=np.int64)
    key = key_of(5, "curve")
    together = wander(key, times, period_s)
    assert [wander(key, times[i : i + 1], period_s)[0] for i in range(len(times))] == together.tolist()


def test_a_curve_is_never_steeper_than_it_says() -> None:
    """The slope stays within 10.4 per period."""
    times = np.arange(T0, T0 + 30 * DAY, MINUTE, dtype=np.int64)
    slope = np.diff(wander(key_of(2, "slope"), times, 3600.0)) * 60.0
    assert 1.0 < np.abs(slope).max() < 10.4


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 20 * DAY), st.sampled_from([0.8, 12.0, 72.0]))
def test_what_is_left_of_a_rate_does_not_depend_on_the_range_asked(shift: int, tau_h: float) -> None:
    """A constant rate leaves rate times tau; a range gives what its parts give."""
    times = np.arange(T0 + shift, T0 + shift + DAY, 10 * MINUTE, dtype=np.int64)
    assert decayed(lambda t: np.ones(t.shape), times, tau_h) == pytest.approx(tau_h, rel=0.25)

    def rain(t: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.maximum(wander(key_of(1, "rain"), t, 9 * 3600.0), 0.0)

    whole = decayed(rain, times, tau_h)
    parts = np.concatenate([decayed(rain, part, tau_h) for part in np.array_split(times, 7)])
    assert parts == pytest.approx(whole, rel=1e-12, abs=1e-12)


def test_clock_and_calendar_are_those_of_china() -> None:
    """Hours, weekdays and months agree with the calendar."""
    times = np.arange(T0, T0 + 14 * DAY, 7 * HOUR, dtype=np.int64)
    for at, hour, rest in zip(times.tolist(), hour_of_day(times), weekend(times), strict=True):
        here = datetime.fromtimestamp((at + 8 * HOUR) / SECOND, tz=UTC)
        assert hour == here.hour + here.minute / 60
        assert rest == (here.weekday() >= 5)
    months = tuple(float(m) for m in range(12))
    middle = np.array([datetime(2026, m + 1, 15, tzinfo=UTC).timestamp() * 1e6 for m in range(12)], dtype=np.int64)
    assert monthly(middle, months)[1:11] == pytest.approx(months[1:11], abs=0.1)


def test_a_bump_reaches_around_midnight() -> None:
    """Its centre may be anywhere in the day."""
    hours = np.array([23.0, 1.0, 12.0])
    before, after, far = bump(hours, 0.0, 2.0)
    assert before == after
    assert after > 0.8
    assert far < 1e-6
