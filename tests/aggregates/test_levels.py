"""Every level and kind against an independent computation, in zones with and without summer time."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from qingtu.clock import DAY, HOUR, MINUTE, SECOND
from tests.aggregates.oracle import levels
from tests.aggregates.support import KINDS, feed, figures, one_station, opened, said, tick_at

if TYPE_CHECKING:
    from pathlib import Path


def us(zone: str, *at: int) -> int:
    """Return a local time as µs UTC."""
    return round(datetime(*at, tzinfo=ZoneInfo(zone)).astimezone(UTC).timestamp()) * SECOND  # type: ignore[misc, arg-type]


def history(first: int, last: int, interval_s: int, seed: int) -> dict[str, list[tuple[int, float]]]:
    """Make samples with gaps: some hours are too thin, some days too."""
    rng = np.random.default_rng(seed)
    out: dict[str, list[tuple[int, float]]] = {prop: [] for prop in KINDS}
    meter = 100.0
    for at in range(first, last, interval_s * SECOND):
        bad_day = at // DAY % 9 == 4 and at // HOUR % 24 < 9
        if rng.random() < 0.06 or bad_day:
            continue
        meter = 0.5 if rng.random() < 0.01 else meter + round(float(rng.uniform(0, 2)), 2)
        values = {
            "pm25": rng.uniform(5, 200), "o3": rng.uniform(5, 250), "noise_leq": rng.uniform(40, 80),
            "wind_speed": rng.uniform(0, 12), "wind_direction": rng.uniform(0, 359),
            "rainfall": rng.choice([0, 0, 0.4, 3.2]), "electric_energy": meter, "wind_gust": rng.uniform(3, 20),
            "bin_fill_level": rng.uniform(0, 100), "electric_field": rng.uniform(0.1, 3),
            "water_temperature": rng.uniform(4, 25),
        }  # fmt: skip
        for prop, value in values.items():
            if rng.random() > 0.02:
                out[prop].append((at, round(float(value), 2)))
    return out


def rows_of(samples: dict[str, list[tuple[int, float]]], end: int) -> list[dict[str, Any]]:
    """Write samples as messages with a tick every day, and one when all is over."""
    by: dict[int, dict[str, float]] = {}
    for prop, values in samples.items():
        for at, value in values:
            by.setdefault(at, {})[prop] = value
    rows, day = [], 0
    for at in sorted(by):
        if at // DAY != day:
            rows.append(tick_at(at))
            day = at // DAY
        rows.append(said(at, by[at]))
    return [*rows, tick_at(end)]


@pytest.mark.parametrize(
    ("zone", "first", "last"),
    [
        ("Asia/Shanghai", (2026, 10, 27, 3), (2026, 11, 9, 15)),
        ("Europe/Berlin", (2026, 10, 20), (2026, 11, 3)),  # summer time ends on October 25th
        ("America/New_York", (2026, 3, 1), (2026, 3, 12)),  # and begins on March 8th
    ],
)
def test_all_kinds_and_levels(tmp_path: Path, zone: str, first: tuple[int, ...], last: tuple[int, ...]) -> None:
    """Values, counts, expected numbers and validity are those that pandas finds in the raw readings."""
    start, end = us(zone, *first), us(zone, *last)
    samples = history(start, end, 1200, 7)
    pipeline = opened(tmp_path, one_station(zone, 1200), start)
    feed(pipeline, rows_of(samples, us(zone, 2027, 1, 2)))
    found = figures(pipeline)
    wanted = levels(samples, KINDS, zone, 1200)
    apart = {key for key in found if key[1] == "wind_direction" and key[0] in ("month", "year")}
    assert found.keys() - apart == wanted.keys()
    for key, (value, count, expected, valid) in wanted.items():
        row = found[key]
        assert (row["count"], row["expected"], row["valid"]) == (count, expected, valid), key
        assert (row["value"] is None) == math.isnan(value), key
        if row["value"] is not None:
            assert row["value"] == pytest.approx(value, rel=1e-9, abs=1e-7), key
        assert bool(row["reason"]) != valid
    assert {row["valid"] for key, row in found.items() if key[0] == "hour"} == {True, False}
    pipeline.close()


@pytest.mark.parametrize(("day", "hours"), [((2026, 10, 24), 24), ((2026, 10, 25), 25), ((2026, 3, 29), 23)])
def test_a_day_has_as_many_hours_as_its_clocks_show(tmp_path: Path, day: tuple[int, ...], hours: int) -> None:
    """Berlin changes its clocks: the day begins at local midnight, and expects 23, 24 or 25 hours."""
    zone = "Europe/Berlin"
    start = us(zone, *day)
    samples = [said(start + i * 10 * MINUTE, {"water_temperature": 10.0}) for i in range(6 * hours)]
    pipeline = opened(tmp_path, one_station(zone, 600, ["water_temperature"]), start)
    feed(pipeline, [*samples, tick_at(start + hours * HOUR + MINUTE)])
    row = figures(pipeline)["day", "water_temperature", start]
    assert (row["value"], row["count"], row["expected"], row["valid"]) == (10.0, hours, hours, True)
    pipeline.close()


def test_hours_of_a_zone_with_a_quarter_begin_at_its_full_hours(tmp_path: Path) -> None:
    """Kathmandu is 5:45 ahead: its hours begin at a quarter past in UTC, its ten minutes five minutes off."""
    zone = "Asia/Kathmandu"
    start = us(zone, 2026, 11, 1, 9)
    assert start % HOUR == 15 * MINUTE
    minutes = [said(start + i * MINUTE, {"wind_gust": float(i % 17)}) for i in range(60)]
    pipeline = opened(tmp_path, one_station(zone, 60, ["wind_gust"]), start)
    feed(pipeline, [*minutes, tick_at(start + 2 * HOUR)])
    found = {key[2] - start: row["value"] for key, row in figures(pipeline).items() if key[0] == "10min"}
    values = [float(i % 17) for i in range(60)]
    assert found == {i * 10 * MINUTE: max(values[10 * i : 10 * i + 10]) for i in range(6)}
    assert figures(pipeline)["hour", "wind_gust", start]["value"] == 16.0
    pipeline.close()


def test_ten_minutes_only_where_they_are_asked_for(tmp_path: Path) -> None:
    """Of weather, noise and ocean, and only of series that give two readings in ten minutes."""
    start = us("Asia/Shanghai", 2026, 11, 1, 9)
    props = ["wind_gust", "noise_leq", "pm25", "water_level"]
    for interval, wanted in ((60, {"wind_gust", "noise_leq", "water_level"}), (600, set())):
        pipeline = opened(tmp_path / str(interval), one_station("Asia/Shanghai", interval, props), start)
        values = dict.fromkeys(props, 50.0) | {"wind_gust": 5.0, "water_level": 2.0}
        rows = [said(start + i * interval * SECOND, values) for i in range(3600 // interval)]
        feed(pipeline, [*rows, tick_at(start + 2 * HOUR)])
        assert {prop for what, prop, _ in figures(pipeline) if what == "10min"} == wanted
        assert {prop for what, prop, _ in figures(pipeline) if what == "hour"} == set(props)
        pipeline.close()


def test_levels_that_are_exceeded(tmp_path: Path) -> None:
    """L10, L50 and L90 are what numpy's percentiles of the samples say, beside smallest and largest."""
    start = us("Asia/Shanghai", 2026, 11, 1, 9)
    levels_ = np.random.default_rng(3).uniform(40, 80, 60).round(1)
    pipeline = opened(tmp_path, one_station("Asia/Shanghai", 60, ["noise_leq"]), start)
    rows = [said(start + i * MINUTE, {"noise_leq": float(level)}) for i, level in enumerate(levels_)]
    feed(pipeline, [*rows, tick_at(start + 2 * HOUR)])
    found = figures(pipeline)
    for what, some in (("hour", levels_), ("10min", levels_[:10])):
        stats = found[what, "noise_leq", start]["inputs"]["stats"]
        for percent in (10, 50, 90):
            assert stats[f"l{percent}"] == pytest.approx(np.percentile(some, 100 - percent), rel=1e-12)
        assert (stats["min"], stats["max"]) == (some.min(), some.max())
    pipeline.close()


def test_day_and_night_hours_are_those_of_the_catalogue(tmp_path: Path) -> None:
    """The station's hours, else its network's, else six and twenty-two; the night may be any part of the day."""
    start = us("Asia/Shanghai", 2026, 11, 1)
    rows = [said(start + i * HOUR, {"noise_la": 50.0 if 7 <= i < 23 else 40.0}) for i in range(24)]
    made = one_station("Asia/Shanghai", 3600, ["noise_la"], day_hours=[7, 23])
    pipeline = opened(tmp_path, made, start)
    feed(pipeline, [*rows, tick_at(start + DAY + MINUTE)])
    found = figures(pipeline)
    assert found["day_ld", "noise_la", start]["value"] == pytest.approx(50)
    assert found["day_ln", "noise_la", start]["value"] == pytest.approx(40)
    assert found["day_ldn", "noise_la", start]["value"] == pytest.approx(50)  # (16 at 50 and 8 at 40 + 10)
    assert [found[f"day_{n}", "noise_la", start]["expected"] for n in ("ld", "ln", "ldn")] == [16, 8, 24]
    pipeline.close()


@pytest.mark.parametrize(
    ("hours", "day", "eight"), [(24, True, True), (20, True, True), (19, False, True), (5, False, False)]
)
def test_validity_of_air_pollutants(tmp_path: Path, hours: int, day: bool, eight: bool) -> None:
    """GB 3095-2026 table 4: a day needs 20 hours, eight hours need six; on both sides of each number."""
    start = us("Asia/Shanghai", 2026, 11, 1)
    rows = [said(start + i * HOUR, {"o3": 60.0}) for i in range(hours)]
    pipeline = opened(tmp_path, one_station("Asia/Shanghai", 3600, ["o3"]), start)
    feed(pipeline, [*rows, tick_at(start + 2 * DAY)])
    found = figures(pipeline)
    assert (found["day", "o3", start]["valid"], found["8h", "o3", start]["valid"]) == (day, eight)
    assert found["day", "o3", start]["reason"] == ("" if day else "too_few")
    last = start + (hours - 6) * HOUR
    assert (last < start) or found["8h", "o3", last]["valid"]
    pipeline.close()


@pytest.mark.parametrize(
    ("month", "days", "valid"),
    [((2026, 2), 25, True), ((2026, 2), 24, False), ((2026, 3), 27, True), ((2026, 3), 26, False)],
)
def test_months_of_air_pollutants(tmp_path: Path, month: tuple[int, int], days: int, valid: bool) -> None:
    """GB 3095-2026 table 4: 27 days, of a February 25."""
    start = us("Asia/Shanghai", *month, 1)
    rows = [said(start + i * HOUR, {"pm25": 30.0}) for i in range(24 * days)]
    pipeline = opened(tmp_path, one_station("Asia/Shanghai", 3600, ["pm25"]), start)
    feed(pipeline, [*rows, tick_at(start + 40 * DAY)])
    row = figures(pipeline)["month", "pm25", start]
    assert (row["count"], row["valid"], row["value"]) == (days, valid, 30.0)
    pipeline.close()


def test_years_of_air_pollutants(tmp_path: Path) -> None:
    """GB 3095-2026 table 4: 324 days; a day that comes late makes the year valid, and that is a correction."""
    start = us("Asia/Shanghai", 2025, 1, 1)
    rows = [said(start + day * DAY + i * HOUR, {"pm25": 30.0}) for day in range(323) for i in range(20)]
    pipeline = opened(tmp_path, one_station("Asia/Shanghai", 3600, ["pm25"]), start)
    over = start + 366 * DAY
    feed(pipeline, [*rows, tick_at(over)], cut=30_000)
    row = figures(pipeline)["year", "pm25", start]
    assert (row["count"], row["expected"], row["valid"], row["reason"]) == (323, 365, False, "too_few")
    late = [said(start + 350 * DAY + i * HOUR, {"pm25": 30.0}, over + i) for i in range(20)]
    feed(pipeline, [*late, tick_at(over + HOUR)])
    row = figures(pipeline)["year", "pm25", start]
    assert (row["count"], row["valid"], row["reason"]) == (324, True, "")
    changed = pipeline.store.figure_corrections(what="year")
    assert [(c["old_count"], c["new_count"], c["old_valid"], c["new_valid"]) for c in changed] == [
        (323, 324, False, True)
    ]
    pipeline.close()


def test_a_series_that_reports_every_four_hours_has_valid_days(tmp_path: Path) -> None:
    """A day expects as many hours with a reading as the interval can give: six, of which it needs three quarters."""
    start = us("Asia/Shanghai", 2026, 11, 1)
    for readings, valid in ((6, True), (5, True), (4, False)):
        rows = [said(start + i * 4 * HOUR, {"codmn": 3.0}) for i in range(readings)]
        pipeline = opened(tmp_path / str(readings), one_station("Asia/Shanghai", 14_400, ["codmn"]), start)
        feed(pipeline, [*rows, tick_at(start + DAY + MINUTE)])
        row = figures(pipeline)["day", "codmn", start]
        assert (row["count"], row["expected"], row["valid"]) == (readings, 6, valid)
        pipeline.close()


def test_calm_hours_have_no_direction_but_count_in_the_day(tmp_path: Path) -> None:
    """A vector without length says nothing of the direction, and the wind that blew later decides the day."""
    start = us("Asia/Shanghai", 2026, 11, 1)
    rows = [
        said(start + i * HOUR, {"wind_speed": 0.0 if i < 12 else 4.0, "wind_direction": 0.0 if i < 12 else 90.0})
        for i in range(24)
    ]
    pipeline = opened(tmp_path, one_station("Asia/Shanghai", 3600, ["wind_speed", "wind_direction"]), start)
    feed(pipeline, [*rows, tick_at(start + DAY + MINUTE)])
    found = figures(pipeline)
    calm = found["hour", "wind_direction", start]
    assert (calm["value"], calm["count"], calm["valid"], calm["reason"]) == (None, 1, False, "undefined")
    day = found["day", "wind_direction", start]
    assert (day["value"], day["count"], day["valid"]) == (pytest.approx(90), 24, True)
    pipeline.close()


def test_a_direction_without_a_speed_is_averaged_as_it_is(tmp_path: Path) -> None:
    """Without a speed at the station each weighs the same; where there is one, a direction without it is left out."""
    start = us("Asia/Shanghai", 2026, 11, 1)
    at = [0.0, 0.0, 90.0, 90.0]
    both = ["wind_speed", "wind_direction"]
    for props, value, count in ((both[1:], 45.0, 4), (both, 90.0, 2)):
        speeds = [{}, {}, {"wind_speed": 3.0}, {"wind_speed": 3.0}] if len(props) > 1 else [{}] * 4
        rows = [said(start + i * 15 * MINUTE, {"wind_direction": at[i], **speeds[i]}) for i in range(4)]
        pipeline = opened(tmp_path / str(count), one_station("Asia/Shanghai", 900, props), start)
        feed(pipeline, [*rows, tick_at(start + 2 * HOUR)])
        row = figures(pipeline)["hour", "wind_direction", start]
        assert (row["value"], row["count"]) == (pytest.approx(value), count)
        pipeline.close()
