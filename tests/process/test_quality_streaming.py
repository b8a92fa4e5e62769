"""Where a stream must differ from ioos_qc, and what the default limits make of a healthy and a stuck city."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ioos_qc import qartod

from processors.plan import Plan
from processors.quality import CHECKS
from processors.quality.run import Quality
from qingtu.catalogue import load_catalogue
from qingtu.clock import HOUR, MINUTE, SECOND
from qingtu.properties import load_properties
from qingtu.records import Flag
from simulators import MODELS
from simulators.signal import Place
from tests.process.judging import BITS, Judge, of_check, with_limits
from tests.process.support import T0

DEFAULTS = load_catalogue(Path(__file__).parents[2] / "stations")


def test_the_declared_interval_counts_not_the_median() -> None:
    """A device that sends twice as often is flat after as many readings as its declared interval says."""
    flat = {"tolerance": 0.1, "suspect_s": 240}
    judge = Judge(with_limits(60, flat_line=flat))
    judge.add([T0 + i * 30 * SECOND for i in range(9)], [1.0] * 9)
    assert of_check(judge, "flat_line") == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    times = np.datetime64("2026-01-01", "s") + np.arange(9) * np.timedelta64(30, "s")
    assert np.ma.getdata(qartod.flat_line_test([1.0] * 9, times, 240, 9999, 0.1)).tolist() == [1] * 8 + [3]


def test_dt_is_exact() -> None:
    """Ten readings a second have a rate; with dt cut to whole seconds it would be infinite."""
    judge = Judge(with_limits(0.1, rate_per_h={"suspect": 3600 * 2}))
    judge.add([T0 + i * 100_000 for i in range(4)], [0.0, 0.1, 0.2, 0.5])
    assert of_check(judge, "rate_of_change") == [0, 0, 0, 1]


def test_one_reading_is_never_flat() -> None:
    """A limit shorter than two intervals is taken as two."""
    judge = Judge(with_limits(600, flat_line={"tolerance": 0.1, "suspect_s": 60}))
    judge.add([T0 + i * 600 * SECOND for i in range(4)], [1.0] * 4)
    assert of_check(judge, "flat_line") == [0, 0, 1, 1]


def test_the_first_reading_has_no_gap() -> None:
    """Nothing stands before it; that the second comes late does not change it."""
    judge = Judge(with_limits(60, gap={"fail_s": 90}))
    judge.add([T0, T0 + HOUR], [1.0, 1.0])
    assert of_check(judge, "gap") == [0, 1]


def test_a_window_holds_what_the_declared_interval_lets_expect() -> None:
    """Ten times as many readings as declared do not make the memory grow: the newest ones are looked at."""
    cat = with_limits(60, attenuated={"suspect": 1, "window_s": 300, "measure": "range", "min_readings": 3})
    quality = Quality(Plan(cat))
    judge = Judge(cat)
    judge.quality = quality
    judge.add([T0 + i * 6 * SECOND for i in range(40)], [0.0, 5.0] + [0.0] * 38)
    assert of_check(judge, "attenuated_signal") == [0] * 6 + [1] * 34
    assert sum(a.nbytes for name, a in quality.state().items() if "attenuated" in name) < 200


def flat_by_hand(values: list[float], tolerance: float, limit: int) -> list[int]:
    """Whether more than ``limit`` readings up to and with each one stay within the tolerance: looked at one by one."""
    out = []
    for i, value in enumerate(values):
        seen = [value]
        n = 1
        while n <= min(i, limit):
            earlier = values[i - n]
            if not math.isnan(earlier):
                seen.append(earlier)
            if max(seen) - min(seen) >= tolerance:
                break
            n += 1
        out.append(int(not math.isnan(value) and n > limit))
    return out


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_value_that_creeps_is_flat_only_while_it_is_within_the_tolerance(data: st.DataObject) -> None:
    """Long runs of small steps, some values missing, in any cutting: as a plain loop over all readings says."""
    limit, step = data.draw(st.integers(2, 9)), data.draw(st.sampled_from([0.25, 0.5, 1.0]))
    moves = st.sampled_from([0.0, 0.0, 0.0, step, step, -step, math.nan])
    values, at = [], 0.0
    for move in data.draw(st.lists(moves, min_size=1, max_size=80)):
        at += 0.0 if math.isnan(move) else move
        values.append(math.nan if math.isnan(move) else at)
    judge = Judge(with_limits(60, flat_line={"tolerance": 1.0, "suspect_s": 60 * limit}))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=12), "cuts"))
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        judge.add([T0 + i * MINUTE for i in range(start, stop)], values[start:stop])
    assert of_check(judge, "flat_line") == flat_by_hand(values, 1.0, limit)


def test_what_a_series_has_passed_is_not_kept() -> None:
    """The memory of a healthy series is a few readings, however long its limit is."""
    cat = with_limits(1, flat_line={"tolerance": 0.1, "suspect_s": 86400})
    judge = Judge(cat)
    judge.add([T0 + i * SECOND for i in range(5000)], [float(i % 7) for i in range(5000)])
    state = judge.quality.state()
    assert len(state["check/flat_line/value"]) == 1


def test_memory_goes_on_when_limits_grow_or_shrink() -> None:
    """After another catalogue a stuck series goes on being stuck, as far back as was remembered."""
    for before, after, first in ((180, 300, 6), (600, 180, 4)):
        one, two = (with_limits(60, flat_line={"tolerance": 0.1, "suspect_s": s}) for s in (before, after))
        judge = Judge(one)
        judge.add([T0 + i * MINUTE for i in range(4)], [1.0] * 4)
        judge.quality.adopt(Plan(two), np.zeros(1, np.int64))
        judge.add([T0 + i * MINUTE for i in range(4, 8)], [1.0] * 4)
        flat = of_check(judge, "flat_line")
        assert flat.index(1, 4) == first
        assert flat[first:] == [1] * (8 - first)


def test_a_check_that_nothing_asks_for_is_not_run() -> None:
    """It has no memory, and no bit of it is ever set."""
    quality = Quality(Plan(with_limits()))
    assert not any(name.startswith("check/") for name in quality.state())


# -------------------------------------------------------------------------------------------------- default limits


def city(hours: int, stuck: bool = False) -> tuple[Quality, np.ndarray, np.ndarray, np.ndarray]:
    """Return checks with the default limits, and what all stations of the simulated city measure."""
    dictionary = load_properties()
    series, times, values = [], [], []
    for number, s in enumerate(DEFAULTS.series):
        station = DEFAULTS.stations[s.station]
        step = round(s.interval_s * SECOND)
        at = T0 + np.arange(hours * HOUR // step) * step
        place = Place(
            3, station.id, station.kind, *station.position, s.interval_s, s.channel, station.noise_class or "",
            frozenset(),
        )  # fmt: skip
        value = np.round(MODELS[s.property](place, at), dictionary[s.property].precision)
        if stuck:
            value[len(value) // 2 :] = value[len(value) // 2]
        series.append(np.full(len(at), number, np.int32))
        times.append(at)
        values.append(value)
    return Quality(Plan(DEFAULTS)), np.concatenate(series), np.concatenate(times), np.concatenate(values)


def test_default_limits_raise_no_false_alarm_in_the_simulated_city() -> None:
    """A day and a half of a healthy city passes every check."""
    quality, series, time, value = city(36)
    station = np.unique([s.station for s in DEFAULTS.series], return_inverse=True)[1]
    sample = np.unique(station[series] * 10_000 + (time - T0) // MINUTE, return_inverse=True)[1]
    judged = quality.judge(series, time, value, time, sample)
    bad = np.flatnonzero(judged.flag > Flag.NOT_EVALUATED)
    told = {(DEFAULTS.series[series[i]].property, *(k for k, b in BITS.items() if judged.tests[i] & b)) for i in bad}
    assert told == set()
    assert len(judged.again_by) == 0


@pytest.mark.parametrize("prop", ["water_level", "noise_leq", "pm25", "air_temperature", "gamma_dose_rate", "o3"])
def test_default_limits_see_a_stuck_sensor(prop: str) -> None:
    """A sensor that has not moved for four hours is found by flat_line."""
    quality, series, time, value = city(8, stuck=True)
    judged = quality.judge(series, time, value, time)
    mine = np.array([s.property == prop and s.limits.flat_tolerance > 0 for s in DEFAULTS.series])[series]
    last = mine & (time > T0 + 8 * HOUR - 6 * MINUTE)
    assert last.any()
    assert (judged.tests[last] >> CHECKS["flat_line"].bit & 1).all()
