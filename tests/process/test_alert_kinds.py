"""Each kind of rule: the example on its page, and what is easy to get wrong."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import fmean, pvariance
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.alerts.batch import alert_id
from processors.alerts.ladder import SINCE, Ladder, Moment, Watch
from qingtu.catalogue_words import LEVELS
from qingtu.clock import HOUR, SECOND
from tests.process.support import T0, Result, catalogue, configure, drive, message, reading, station, tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.catalogue import Catalogue

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
_EXAMPLE = re.compile(r"^## (\w+)\n(?:(?!^## ).)*?```yaml\n([^`]+)```\n\n((?:\|[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
EXAMPLES = {name: (rule, table) for name, rule, table in _EXAMPLE.findall(PAGE)}
WITH_TABLE = ("threshold", "rate_of_change", "stuck", "quality", "deviation")


def watched(*rules: dict[str, Any], **more: Any) -> Catalogue:
    """Station A with pm25 and air temperature of one device, under the rules."""
    whole = [{"id": "r", "zh": "规", "en": "R"} | rule for rule in rules]
    device = {"id": "a", "properties": ["pm25", "air_temperature"]}
    limits = {"pm25": {"spike": {"suspect": 300}}, "air_temperature": {"range": [-60, 60]}}
    return catalogue([station("A", [device], limits=limits, **more)], whole)


def story(result: Result, rule: str = "r") -> list[tuple[str, int, float]]:
    """State, level and time in minutes of each transition."""
    return [(row["state"], row["level"], row["time"] / SECOND / 60) for row in result.alerts if row["rule"] == rule]


def run(cat: Catalogue, points: Sequence[tuple[float, float | None]], prop: str = "pm25") -> Result:
    """Drive (minute, value) one reading a frame."""
    rows = [configure(0, cat.version), *(reading("a", minute * 60, **{prop: value}) for minute, value in points)]
    return drive(rows, [cat], range(1, len(rows)))


@pytest.mark.parametrize("kind", WITH_TABLE)
def test_the_example_on_the_page_is_right(kind: str) -> None:
    """Rule and table of its section: what opens, changes and is resolved at which reading."""
    text, table = EXAMPLES[kind]
    rule = yaml.safe_load(text)
    head, _, *lines = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()]
    cells = [line if len(line) == 3 else [*line, ""] for line in lines]
    result = run(watched(rule), [(float(minute), float(value)) for minute, value, _ in cells], head[1])
    told = [
        (state, 0 if state == "resolved" else LEVELS.index(level) + 1, float(minute))
        for minute, _, then in cells if then
        for state, _, level in [then.partition(" ")]
    ]  # fmt: skip
    assert told
    assert story(result) == told
    assert rule["kind"] == kind


# ------------------------------------------------------------------------------------------------- rate of change


def test_rate_tells_the_change_and_since_when() -> None:
    """Value and limit per hour with the sign of the change, the reading, and where it is counted from."""
    cat = watched({"kind": "rate_of_change", "property": "pm25", "levels": {"blue": 60}})
    [opened] = run(cat, [(0, 200), (60, 120)]).alerts
    assert (opened["value"], opened["limit"]) == (-80, -60)
    assert f'"from_us":{T0}' in opened["evidence"]
    assert '"unit":"ug/m3/h"' in opened["evidence"]


def test_rate_forgets_a_spike() -> None:
    """The alert that a spike opened is withdrawn, and later readings are not compared with it."""
    rule = {"kind": "rate_of_change", "property": "pm25", "levels": {"blue": 100}, "over_s": 600}
    result = run(watched(rule), [(0, 10), (10, 400), (20, 11), (30, 12)])
    assert story(result) == [("open", 1, 10), ("withdrawn", 0, 20)]


def test_rate_judges_series_that_come_seldom_by_their_own_step() -> None:
    """An hourly series under over_s of an hour is compared with the reading before, also when it comes a bit late."""
    cat = watched({"kind": "rate_of_change", "property": "pm25", "levels": {"blue": 50}})
    assert story(run(cat, [(0, 10), (60.5, 90), (120, 91)])) == [("open", 1, 60.5), ("resolved", 0, 120)]


def test_rate_says_nothing_across_a_gap() -> None:
    """A change over a much longer time than over_s is no rate over over_s."""
    cat = watched({"kind": "rate_of_change", "property": "pm25", "levels": {"blue": 50}})
    assert story(run(cat, [(0, 10), (95, 290)])) == []


# ---------------------------------------------------------------------------------------------------------- stuck


def test_stuck_counts_flagged_readings_but_not_missing_ones() -> None:
    """A check that fails the standing value must not hide it; a missing value says nothing."""
    cat = watched({"kind": "stuck", "property": "pm25", "for_s": 240, "readings": 3})
    assert story(run(cat, [(i, -3) for i in range(5)])) == [("open", 2, 4)]
    assert story(run(cat, [(0, 5), (1, None), (2, 5), (3, None), (4, 5), (5, None), (6, 6)])) == [
        ("open", 2, 4), ("resolved", 0, 6),
    ]  # fmt: skip


def test_stuck_needs_readings_not_only_time() -> None:
    """Two equal readings hours apart prove nothing."""
    cat = watched({"kind": "stuck", "property": "pm25", "for_s": 3600, "readings": 4})
    assert story(run(cat, [(0, 5), (300, 5), (600, 5), (900, 5)])) == [("open", 2, 900)]


def test_a_slow_drift_is_not_stuck() -> None:
    """No two readings of the band may differ by more than the tolerance, however small the steps."""
    cat = watched({"kind": "stuck", "property": "pm25", "for_s": 600, "tolerance": 1})
    assert story(run(cat, [(i, 10 + 0.2 * i) for i in range(60)])) == []


# -------------------------------------------------------------------------------------------------------- quality


def test_quality_without_property_watches_each_series() -> None:
    """Two series of one station have two alerts with two ids."""
    cat = watched({"kind": "quality", "levels": {"yellow": 1}, "readings": 2})
    rows = [configure(0, cat.version), *(reading("a", i * 60, pm25=-9, air_temperature=99) for i in range(2))]
    assert {(r["property"], r["alert"]) for r in drive(rows, [cat]).alerts} == {
        (key, alert_id("r", "A", key, "main", T0 + 60 * SECOND)) for key in ("pm25", "air_temperature")
    }


def test_quality_counts_what_is_flagged_afterwards_once() -> None:
    """A spike is found by the next reading: it counts as bad from then on, and only once."""
    cat = watched({"kind": "quality", "property": "pm25", "levels": {"yellow": 0.5}, "readings": 2})
    assert story(run(cat, [(0, 10), (1, 500), (2, 10), (3, 10)])) == [("open", 2, 2), ("resolved", 0, 3)]


def test_quality_over_a_span_waits_for_half_of_what_is_promised() -> None:
    """Ten minutes at one a minute: judged from five readings on; what is older than the span is forgotten."""
    cat = watched({"kind": "quality", "property": "pm25", "levels": {"yellow": 0.6}, "span_s": 600})
    points = [(i, -9.0) for i in range(6)] + [(i, 10.0) for i in range(6, 20)]
    assert story(run(cat, points)) == [("open", 2, 4), ("resolved", 0, 10)]


# ------------------------------------------------------------------------------------------------------ deviation


@given(
    st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=4), min_size=3, max_size=8),
    st.integers(0, 300),
)
@settings(max_examples=40, deadline=None)
def test_deviation_is_mean_and_variance_of_past_days(days: list[list[int]], value: int) -> None:
    """While no day has faded, what it compares with is what the statistics module says of the same readings."""
    n = len(days)
    rule = {"kind": "deviation", "property": "pm25", "levels": {"red": 1e-9}, "least": 1e-18, "min_days": n}
    points = [(d * 1440 + i, float(v)) for d, values in enumerate(days) for i, v in enumerate(values)]
    base = {"id": "r", "zh": "规", "en": "R"}
    cat = catalogue([station("A", [{"id": "a", "properties": ["pm25"]}])], [base | rule])
    told = run(cat, [*points, (n * 1440, float(value))]).alerts
    figures = [fmean(values) for values in days]
    mean, spread = fmean(figures), math.sqrt(pvariance(figures) + fmean(pvariance(values) for values in days))
    if abs(value - mean) > 1e-6:
        evidence = orjson.loads(told[0]["evidence"])
        assert evidence["mean"] == pytest.approx(mean, abs=1e-9)
        assert evidence["spread"] == pytest.approx(spread, abs=1e-6)
        assert (evidence["days"], told[0]["value"]) == (n, value)


def test_deviation_knows_hours_apart_by_the_zone_of_the_station() -> None:
    """22:00 in Qingdao is 14:00 UTC: what is usual at noon says nothing of it."""
    rule = {"kind": "deviation", "property": "pm25", "levels": {"yellow": 2}, "least": 20, "min_days": 3}
    points = [(d * 1440 + h * 60, 100.0 if h == 14 else 10.0) for d in range(4) for h in range(24)]
    assert story(run(watched(rule), points)) == []
    moved = [*points, (4 * 1440 + 4 * 60, 100.0)]
    assert story(run(watched(rule), moved)) == [("open", 2, 4 * 1440 + 240)]


def test_deviation_does_not_learn_what_is_struck() -> None:
    """A spike does not move the mean of its hour."""
    rule = {"kind": "deviation", "property": "pm25", "levels": {"yellow": 1}, "least": 5, "min_days": 3}
    quiet = [(d * 1440 + m, 10.0) for d in range(3) for m in (0, 1, 3)]
    spiked = sorted([*quiet, (2, 600.0)])
    final = [(3 * 1440, 16.0)]
    assert story(run(watched(rule), [*quiet, *final])) == story(run(watched(rule), [*spiked, *final]))
    assert story(run(watched(rule), [*quiet, *final])) == [("open", 2, 4320)]


# ---------------------------------------------------------------------------------------------------------- clock


def wrong(at_s: float, device: str = "a", prop: str = "pm25") -> dict[str, Any]:
    """A message that claims a time a day ahead."""
    return reading(device, at_s + 86400, at_s, **{prop: 1})


def test_clock_opens_with_the_mark_and_is_resolved_without() -> None:
    """Any number of wrong messages make one alert; the first right one resolves it."""
    cat = watched({"kind": "clock_wrong", "level": "orange"})
    rows = [configure(0, cat.version), wrong(0), wrong(60), reading("a", 120, pm25=1), tick(130)]
    result = drive(rows, [cat], range(1, 5))
    assert story(result) == [("open", 3, 0), ("resolved", 0, 2)]
    assert '"devices":["a"]' in result.alerts[0]["evidence"]
    assert {r["alert"] for r in result.alerts} == {alert_id("r", "A", "", "", T0)}


def test_clock_waits_and_names_every_device() -> None:
    """With after_s it opens on a tick; it is resolved when the last device of the station is right."""
    rule = {"id": "r", "zh": "规", "en": "R", "kind": "clock_wrong", "after_s": 100}
    devices = [{"id": "a", "properties": ["pm25"]}, {"id": "b", "properties": ["pm10"]}]
    cat = catalogue([station("A", devices)], [rule])
    rows = [
        configure(0, cat.version), wrong(0), wrong(10, "b", "pm10"), tick(99), tick(100),
        reading("a", 120, pm25=1), tick(125), reading("b", 130, pm10=1),
    ]  # fmt: skip
    result = drive(rows, [cat], range(1, 8), [4, 6])
    assert story(result) == [("open", 2, 100 / 60), ("resolved", 0, 130 / 60)]
    assert '"devices":["a","b"]' in result.alerts[0]["evidence"]


# ----------------------------------------------------------------------------------------------------- expressions


def test_expression_of_the_page_over_two_readings() -> None:
    """It is evaluated once a message, with the newest good reading of each, and not with one that is too old."""
    rule = yaml.safe_load(re.findall(r"```yaml\n({id: r, kind: expression.*})\n```", PAGE)[0])
    cat = watched(rule)
    rows = [
        configure(0, cat.version), reading("a", 0, pm25=150), reading("a", 60, air_temperature=31),
        reading("a", 120, air_temperature=31), reading("a", 130, pm25=150, air_temperature=32),
        reading("a", 190, air_temperature=99), reading("a", 200, pm25=90),
    ]  # fmt: skip
    result = drive(rows, [cat], range(1, 7), [3, 5])
    assert [(state, level, at * 60) for state, level, at in story(result)] == [
        ("open", 4, 60), ("resolved", 0, 120), ("open", 4, 130), ("resolved", 0, 200),
    ]  # fmt: skip
    assert orjson.loads(result.alerts[2]["evidence"])["values"] == {
        "pm25": 150, "air_temperature": 32, "pm25_age": 0,
    }  # fmt: skip


def test_expression_is_withdrawn_with_its_opening_reading() -> None:
    """A spike opens it; the next reading shows the spike."""
    cat = watched({"kind": "expression", "when": "pm25 > 300.0", "level": "blue"})
    assert story(run(cat, [(0, 10), (1, 500), (2, 10)])) == [("open", 1, 1), ("withdrawn", 0, 2)]


def test_expression_is_only_for_stations_that_have_what_it_names() -> None:
    """An attribute of the catalogue can be its limit; a station without it, or without a property, is not watched."""
    rule = {
        "id": "r",
        "zh": "规",
        "en": "R",
        "kind": "expression",
        "when": "pm25 > attribute_limit && station_id != 'C'",
    }
    device = {"properties": ["pm25"]}
    stations = [
        station("A", [{"id": "a", **device}], attributes={"limit": 50}),
        station("B", [{"id": "b", **device}]),
        station("C", [{"id": "c", **device}], attributes={"limit": 50}),
        station("D", [{"id": "d", "properties": ["pm10"]}], attributes={"limit": 50}),
    ]
    cat = catalogue(stations, [rule])
    rows = [configure(0, cat.version), *(reading(d, 60, pm25=51) for d in "abc"), reading("d", 60, pm10=51)]
    assert [(r["station"], r["state"]) for r in drive(rows, [cat]).alerts] == [("A", "open")]


# ------------------------------------------------------------------------------------------------- again, schedules


def test_an_acknowledged_alert_is_not_said_again() -> None:
    """Somebody looks after it; rising asks for attention again, and begins the time anew."""
    rule = {"kind": "threshold", "property": "pm25", "levels": {"blue": 50, "red": 200}, "renotify_s": 120}
    cat = watched(rule)
    ident = alert_id("r", "A", "pm25", "main", T0)
    rows = [configure(0, cat.version), *(reading("a", i * 60, pm25=60) for i in range(4))]
    body = {"name": "acknowledge", "who": "Li", "args": {"alert": ident}}
    rows.append(message("", body, 181, kind=2, network="", route="", topic="", flags=0))
    rows += [reading("a", i * 60, pm25=60 if i < 9 else 201) for i in range(4, 13)]
    assert story(drive(rows, [cat], range(1, len(rows)), [3, 7])) == [
        ("open", 1, 0), ("open", 1, 2), ("acknowledged", 1, 181 / 60), ("open", 4, 9), ("open", 4, 11),
    ]  # fmt: skip


def test_outside_its_hours_a_rule_is_silent() -> None:
    """The night from 22:00 to 06:00 in Qingdao, of Monday alone; the first reading after it resolves."""
    window = {"days": ["mon"], "start": "22:00", "end": "06:00"}
    cat = watched({"kind": "threshold", "property": "pm25", "levels": {"blue": 50}, "schedule": window})
    # T0 is Monday 08:00 in Qingdao: the window is from 14 to 22 hours later, and then a week after.
    result = run(cat, [(h * 60, 60.0) for h in range(8 * 24)])
    assert story(result) == [("open", 1, 14 * 60), ("resolved", 0, 22 * 60), ("open", 1, (14 + 168) * 60),
                             ("resolved", 0, (22 + 168) * 60)]  # fmt: skip
    assert '"why":"outside its hours"' in result.alerts[1]["evidence"]


def test_summer_time_moves_the_hours_of_a_rule() -> None:
    """In Berlin 22:00 is 20:00 UTC in summer and 21:00 in winter; the change is on 25 October 2026."""
    window = {"start": "22:00", "end": "23:00"}
    rule = {"kind": "threshold", "property": "pm25", "levels": {"blue": 50}, "schedule": window}
    cat = watched(rule, timezone="Europe/Berlin")
    back = (T0 - 1_792_800_000_000_000) // HOUR * 60  # from 2026-10-24T00:00Z to T0, minutes
    rows = [configure(-(10**7), cat.version)]
    rows += [reading("a", (h * 60 - back) * 60, pm25=60) for h in range(48)]
    opened = [(r["time"] // HOUR * 60 + back) / 60 for r in drive(rows, [cat]).alerts if r["state"] == "open"]
    assert opened == [20, 45]


def test_silence_and_clocks_open_only_in_their_hours() -> None:
    """They stay until their cause is gone, but none opens outside."""
    window = {"start": "09:00", "end": "10:00"}  # one to two hours after T0
    silent = {"id": "s", "kind": "silence", "after_s": 600, "schedule": window}
    clock = {"id": "c", "kind": "clock_wrong", "schedule": window}
    cat = watched(silent, clock)
    rows = [configure(0, cat.version), wrong(0), tick(1200), tick(3700), tick(7300), reading("a", 7400, pm25=1)]
    result = drive(rows, [cat], range(1, 6))
    for rule in "sc":
        assert [(state, at * 60) for state, _, at in story(result, rule)] == [("open", 3700), ("resolved", 7400)]


@given(
    levels=st.lists(st.sampled_from([math.nan, 1.0, 2.0, 3.0]), min_size=4, max_size=4),
    hold=st.sampled_from([0, 2]),
    measures=st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.5, 3.5, math.nan]), max_size=12),
)
def test_who_is_not_near_is_not_stirred(levels: list[float], hold: int, measures: list[float]) -> None:
    """A measure that is left out because its watch rests far from its levels would have changed nothing."""
    ladder = Ladder([Watch(SimpleNamespace(id="r", hold_s=hold), "A")], np.array([levels]), 0.5)
    w = np.zeros(1, np.int64)
    for i, measure in enumerate(measures):
        seen, at = np.array([measure]), np.array([i * SECOND])
        met, kept = ladder.met(w, seen), ladder.kept(w, seen)
        stirred = not math.isnan(measure) and bool(ladder.stirred(w, met, kept, at)[0])
        assert len(ladder.near(w, seen)) or not stirred
        if stirred:
            ladder.step(0, int(met[0]), int(kept[0]), Moment(i * SECOND, i, i))
    saved = ladder.state.rows()
    again = Ladder(ladder.watches, ladder.limits, 0.5)
    again.restore(saved)
    assert len(again.near(w, np.array([math.inf]))) or not np.isfinite(ladder.limits).any()
    busy = bool(saved["level"][0]) or any(saved[name][0] for name in SINCE)
    assert (len(again.near(w, np.array([math.nan]), unmeasured=True)) > 0) == busy
