"""Derive on the level of hours: functions of the store as of a tick, whatever was killed, replayed or late."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.aggregates import KINDS
from processors.aggregates.areas import AREAS
from processors.aggregates.derive import Derive
from qingtu.clock import SECOND
from qingtu.errors import RetryLater
from qingtu.properties import load_properties
from qingtu.records import FIGURES, PROCESSED, Frame, decode
from qingtu.stage import StageLoop
from tests.process.support import T0, catalogue, command, configure, message, reading, station, tick
from tests.store.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from qingtu.contracts import FigureQuery, ReadingQuery
    from qingtu.store.duckdb import DuckStore


def _of_kind() -> dict[str, str]:
    """For each aggregation kind, a property that takes values 40 to 60 without a flag."""
    out: dict[str, str] = {}
    for spec in load_properties():
        low, high = spec.plausible
        if spec.agg in KINDS and low <= 40 and high >= 60:
            out.setdefault(spec.agg, spec.key)
    return out


PROPERTY = _of_kind()
CATALOGUE = catalogue(
    [
        station("A", [{"id": "a", "properties": sorted(PROPERTY.values())}]),
        station("B", [{"id": "b", "properties": ["pm25"]}], interval_s=600),
    ],
    [],
)
LATER = catalogue(
    [
        station("A", [{"id": "a", "properties": sorted(PROPERTY.values())}]),
        station("B", [{"id": "b", "properties": ["pm25"]}], interval_s=600),
        station("X", [{"id": "x", "properties": ["pm25"]}], interval_s=600),
    ],
    [],
)
HOUR_S = 3600


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline that was configured."""
    made = Pipeline(tmp_path, [CATALOGUE, LATER])
    made.feed(configure(0, CATALOGUE.version))
    yield made
    made.close()


def feed_b(pipeline: Pipeline, values: Sequence[float | None], first_s: float = 0) -> None:
    """Feed readings of B, one every ten minutes, each in a frame of its own."""
    for i, value in enumerate(values):
        at = first_s + 600 * i + 1
        pipeline.feed(reading("b", at, pm25=value))


def oracle(kind: str, values: np.ndarray[Any, Any]) -> float:
    """The textbook formula of each kind."""
    if kind == "energy":
        return 10 * math.log10(sum(10 ** (v / 10) for v in values) / len(values))
    if kind == "circular":
        total = sum(complex(math.cos(math.radians(v)), math.sin(math.radians(v))) for v in values)
        return math.degrees(math.atan2(total.imag, total.real)) % 360
    if kind == "rms":
        return math.sqrt(sum(v * v for v in values) / len(values))
    if kind == "mean":
        return float(sum(values) / len(values))
    if kind == "counter":
        return float(sum(max(b - a, 0) for a, b in pairwise(values)))
    return float({"sum": sum(values), "max": max(values), "last": values[-1]}[kind])


def test_every_kind_is_in_the_dictionary() -> None:
    """No aggregation kind is without a property to test it by, and none of the dictionary is unknown here."""
    assert set(PROPERTY) == set(KINDS)
    assert {spec.agg for spec in load_properties()} - set(KINDS) == {"none"}


def test_hour_values_of_every_kind(pipeline: Pipeline) -> None:
    """Against the textbook formula, over two hours; value, count, expected, validity and position of the tick."""
    values = {kind: np.random.default_rng(1).uniform(40, 60, 120).round(2) for kind in PROPERTY}
    for i in range(120):
        now = {PROPERTY[kind]: float(values[kind][i]) for kind in PROPERTY}
        pipeline.feed(reading("a", 60 * i, **now))
    at = pipeline.feed(tick(2 * HOUR_S + 60))
    pipeline.run()
    found = {(prop, hour): rest for station_, prop, hour, *rest in pipeline.figures() if station_ == "A"}
    assert len(found) == 2 * len(PROPERTY)
    for kind, prop in PROPERTY.items():
        for hour in range(2):
            value, count, expected, valid, reason, revision = found[prop, hour]
            # A meter's first reading ever is no step; the step into the second hour begins in the first one.
            before = 1 if kind == "counter" and hour else 0
            assert value == pytest.approx(oracle(kind, values[kind][60 * hour - before : 60 * hour + 60]), rel=1e-9)
            steps = 60 - (kind == "counter" and not hour)
            assert (count, expected, valid, reason, revision) == (steps, 60, True, "", at << 16)


def test_opposite_directions_have_no_mean(pipeline: Pipeline) -> None:
    """They cancel out: no value is made up, and the figure says why it is not valid."""
    for i in range(60):
        pipeline.feed(reading("a", 60 * i, wind_direction=90.0 + 180 * (i % 2)))
    pipeline.feed(tick(HOUR_S + 60))
    pipeline.run()
    assert [row[3:8] for row in pipeline.figures()] == [(None, 60, 60, False, "undefined")]


def test_a_window_is_evaluated_at_its_end_plus_grace(pipeline: Pipeline) -> None:
    """Not a second before, and only touched ones; at a tick, never because time passes."""
    feed_b(pipeline, [1, 2, 3, 4, 5, 6])
    pipeline.feed(tick(HOUR_S + 59.999))
    pipeline.run()
    assert pipeline.figures() == []
    feed_b(pipeline, [7], HOUR_S + 100)
    at = pipeline.feed(tick(HOUR_S + 60))
    pipeline.feed(tick(HOUR_S + 700))
    pipeline.run()
    assert pipeline.figures() == [("B", "pm25", 0, 3.5, 6, 6, True, "", at << 16)]


def test_validity_needs_three_quarters_of_the_expected(pipeline: Pipeline) -> None:
    """Six are expected of B: four are too few, five are enough; bad ones do not count, and none good has no value."""
    feed_b(pipeline, [1, 2, 3, 4], 0)
    feed_b(pipeline, [1, 2, 3, 4, 5], HOUR_S)
    feed_b(pipeline, [1, 2, 3, 4, None, 5000], 2 * HOUR_S)  # one missing, one implausible
    feed_b(pipeline, [None], 3 * HOUR_S)
    pipeline.feed(tick(4 * HOUR_S + 60))
    pipeline.run()
    assert [row[2:8] for row in pipeline.figures()] == [
        (0, 2.5, 4, 6, False, "too_few"),
        (1, 3.0, 5, 6, True, ""),
        (2, 2.5, 4, 6, False, "too_few"),
        (3, None, 0, 6, False, "none_good"),
    ]


@pytest.mark.parametrize("flag", [3, 4, 9])
def test_suspect_and_bad_readings_are_left_out(pipeline: Pipeline, flag: int) -> None:
    """Whatever check gave the flag: as the store has it, so it counts."""
    feed_b(pipeline, [1, 2, 3, 4, 5, 900])
    while pipeline.step("process") or pipeline.step("store"):
        pass
    with pipeline.store.cursor() as db:
        db.execute("UPDATE readings SET flag = ? WHERE value = 900", [flag])
    pipeline.feed(tick(HOUR_S + 60))
    pipeline.run()
    assert [row[3:5] for row in pipeline.figures()] == [(3.0, 5)]


def test_derive_waits_for_the_store(pipeline: Pipeline) -> None:
    """At a tick the store must have applied everything up to it."""
    feed_b(pipeline, [1, 2, 3, 4, 5, 6])
    pipeline.feed(tick(HOUR_S + 60))
    while pipeline.step("process"):
        pass
    with pytest.raises(RetryLater):
        _step_to_end(pipeline.derive)
    pipeline.apply_processed(100)
    _step_to_end(pipeline.derive)
    (record,) = pipeline.bus.read(FIGURES, 0, 0)
    assert decode(record.data).sections["figures"].column("value").to_pylist() == [3.5]


def _step_to_end(stage: StageLoop) -> None:
    while stage.step():
        pass


def test_late_revised_and_redriven_readings_correct_only_their_hours(pipeline: Pipeline) -> None:
    """Each changed figure is one correction with what it was and since which tick; all others stay untouched."""
    for hour in range(4):
        feed_b(pipeline, [1, 2, 3, 4, 5, 6], hour * HOUR_S)
    pipeline.feed(reading("x", 601, pm25=1))
    first = pipeline.feed(tick(4 * HOUR_S + 60)) << 16
    pipeline.run()
    pipeline.feed(reading("b", HOUR_S + 1500, 4 * HOUR_S + 70, pm25=27))  # late
    pipeline.feed(reading("b", 2 * HOUR_S + 1, 4 * HOUR_S + 80, pm25=7))  # the same key with another value
    pipeline.feed(reading("b", 3 * HOUR_S + 1, 4 * HOUR_S + 90, pm25=1.0))  # the same value: nothing changes
    pipeline.feed(configure(4 * HOUR_S + 100, LATER.version))
    second = pipeline.feed(tick(4 * HOUR_S + 110)) << 16
    pipeline.run()
    assert pipeline.figure_corrections() == [
        ("B", "pm25", 1, 3.5, 48 / 7, first, second),
        ("B", "pm25", 2, 3.5, 4.5, first, second),
    ]
    revisions = {row[2]: row[-1] for row in pipeline.figures()}
    assert revisions == {0: first, 1: second, 2: second, 3: first}
    pipeline.redrive(at_s=4 * HOUR_S + 120)
    third = pipeline.feed(tick(4 * HOUR_S + 130)) << 16
    pipeline.run()
    assert [row for row in pipeline.figures() if row[0] == "X"] == [
        ("X", "pm25", 0, 1.0, 1, 6, False, "too_few", third)
    ]
    assert len(pipeline.figure_corrections()) == 2


def test_readings_behind_the_tick_of_their_frame_count_next_time(pipeline: Pipeline) -> None:
    """A frame may hold a tick and then messages: the window is touched again, not forgotten."""
    feed_b(pipeline, [1, 1, 1, 1, 1])
    at = HOUR_S + 60
    first = pipeline.feed(reading("b", 3001, at, pm25=1), tick(at), reading("b", 3002, at, pm25=8))
    pipeline.run()
    assert [row[3:5] for row in pipeline.figures()] == [(1.0, 6)]
    second = pipeline.feed(tick(at + 5))
    pipeline.run()
    assert pipeline.figure_corrections() == [("B", "pm25", 0, 1.0, 2.0, first << 16 | 1, second << 16)]


def test_each_tick_of_a_frame_sees_what_stood_before_it(pipeline: Pipeline) -> None:
    """A frame may hold several: each is evaluated as of its own position, and the second corrects the first."""
    feed_b(pipeline, [1, 1, 1, 1, 1])
    at = HOUR_S + 60
    rows = [reading("b", 3001, at, pm25=1), tick(at), reading("b", 3002, at, pm25=8), tick(at + 5), tick(at + 9)]
    frame = pipeline.feed(*rows) << 16
    pipeline.run()
    assert [(row[3], row[-1]) for row in pipeline.figures()] == [(2.0, frame | 3)]
    assert pipeline.figure_corrections() == [("B", "pm25", 0, 1.0, 2.0, frame | 1, frame | 3)]


def test_a_store_that_refuses_between_two_ticks_changes_nothing(pipeline: Pipeline) -> None:
    """The frame is done again from its beginning, and no window is evaluated at a tick before it was touched."""
    feed_b(pipeline, [1, 1, 1, 1, 1, 1])
    at = HOUR_S + 60
    late = message("b", {"time": T0 // 1000 - 600_000, "readings": {"pm25": 5}}, at + 1)  # of the hour before
    frame = pipeline.feed(tick(at), late, tick(at + 5)) << 16
    while pipeline.step("process") or pipeline.step("store"):
        pass
    store = _Refusing(pipeline.store, calls=1)
    hours = Derive(store, pipeline._archive.__getitem__, 60)
    derive = StageLoop(pipeline.bus, hours, state_every_s=1 << 30)
    with pytest.raises(RetryLater):
        _step_to_end(derive)
    store.left = 1 << 30
    _step_to_end(derive)
    pipeline.run()
    assert [(row[2], row[3], row[4], row[-1]) for row in pipeline.figures()] == [
        (-1, 5.0, 1, frame | 2), (0, 1.0, 6, frame),
    ]  # fmt: skip
    assert pipeline.figure_corrections() == []


class _Refusing:
    """A real store that is away after so many questions."""

    def __init__(self, store: DuckStore, calls: int) -> None:
        self._store = store
        self.left = calls
        self.progress, self.apply, self.close = store.progress, store.apply, store.close

    def readings(self, query: ReadingQuery) -> pa.Table:
        """Answer, or refuse."""
        self.left -= 1
        if self.left < 0:
            raise RetryLater("store: away")
        return self._store.readings(query)

    def figures_of(self, query: FigureQuery) -> pa.Table:
        """Answer."""
        return self._store.figures_of(query)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(1, 60), max_size=8))
def test_figures_do_not_depend_on_the_cut_into_frames(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: tuple[Any, Any], cuts: list[int]
) -> None:
    """Ticks, readings and catalogues in one frame or in many: the same figures and corrections, by raw row."""
    pipeline = Pipeline(tmp_path_factory.mktemp("cut"), [CATALOGUE])
    rows = [configure(0, CATALOGUE.version), *_history()]
    row_at: dict[int, int] = {}
    edges = [0, *sorted({cut for cut in cuts if cut < len(rows)}), len(rows)]
    for start, stop in pairwise(edges):
        offset = pipeline.feed(*rows[start:stop])
        row_at |= {offset << 16 | i: start + i for i in range(stop - start)}
    pipeline.run()
    figures, corrections = undisturbed
    assert [(*row[:-1], row_at[row[-1]]) for row in pipeline.figures()] == [(*r[:-1], r[-1] >> 16) for r in figures]
    assert [(*row[:-2], *(row_at[at] for at in row[-2:])) for row in pipeline.figure_corrections()] == [
        (*row[:-2], *(at >> 16 for at in row[-2:])) for row in corrections
    ]
    pipeline.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(shown=st.lists(st.integers(0, 9), min_size=1, max_size=16), joined=st.lists(st.integers(1, 5), max_size=16))
def test_frames_together_touch_what_each_of_them_touches(
    pipeline: Pipeline, shown: list[int], joined: list[int]
) -> None:
    """In whatever runs frames are taken, and whichever of them were emitted again by a pass that was killed."""
    if not pipeline.bus.end(PROCESSED, 0):
        for i in range(8):
            at = 1000 * i
            pipeline.feed(reading("b", at, pm25=i), reading("a", at, pm25=i), reading("b", at - 4000, pm25=1))
        pipeline.feed(reading("nobody", 9000, pm25=1))  # no readings
        while pipeline.step("process"):
            pass
    held = [(record.offset, decode(record.data)) for record in pipeline.bus.read(PROCESSED, 0, 0)]
    assert len(held) == 10
    frames = [held[i] for i in shown]
    one, many = (Derive(pipeline.store, pipeline._archive.__getitem__, 60) for _ in range(2))
    assert all(many.joins(frame) for _, frame in frames)
    alone = [one.apply(frame, offset) for offset, frame in frames]
    made, sizes = [], iter(joined)
    while frames:
        size = next(sizes, 16)
        made += many.apply_joined(frames[:size])
        frames = frames[size:]
    assert made == alone
    assert many.snapshot() == one.snapshot()


def test_what_does_more_than_touch_is_taken_alone(pipeline: Pipeline) -> None:
    """What stands before a tick is touched before it is looked at; what another partition says has its place, too."""
    pipeline.feed(tick(5))
    pipeline.feed(reading("b", 6, pm25=1))
    while pipeline.step("process"):
        pass
    derive = Derive(pipeline.store, pipeline._archive.__getitem__, 60)
    frames = [decode(record.data) for record in pipeline.bus.read(PROCESSED, 0, 0)]
    assert [derive.joins(frame) for frame in frames] == [1, 0, 1]
    assert not derive.joins(Frame({**frames[2].header, AREAS: [[0, {}]]}, frames[2].sections))


def overridden(at_s: float, time_s: float, flag: int, value: float, tests: int = 0) -> dict[str, Any]:
    """The command of an operator about a reading of B."""
    args = {
        "station": "B", "property": "pm25", "channel": "main", "time_us": T0 + round(time_s * SECOND), "value": value,
        "tests": tests, "flag": flag, "reason": "seen",
    }  # fmt: skip
    return command(at_s, "override", "Li", **args)


def test_an_override_computes_its_hour_again(pipeline: Pipeline) -> None:
    """A reading that a person fails leaves the mean of its hour, and comes back with a later word."""
    feed_b(pipeline, [1, 1, 1, 1, 1, 7])
    first = pipeline.feed(tick(HOUR_S + 60)) << 16
    pipeline.run()
    assert [row[3:5] for row in pipeline.figures()] == [(2.0, 6)]
    pipeline.feed(overridden(HOUR_S + 100, 3001, 4, 7.0))
    second = pipeline.feed(tick(HOUR_S + 160)) << 16
    pipeline.run()
    assert [row[3:5] for row in pipeline.figures()] == [(1.0, 5)]
    pipeline.feed(overridden(HOUR_S + 200, 3001, 1, 7.0))
    third = pipeline.feed(tick(HOUR_S + 260)) << 16
    pipeline.run()
    assert set(pipeline.figure_corrections()) == {
        ("B", "pm25", 0, 2.0, 1.0, first, second), ("B", "pm25", 0, 1.0, 2.0, second, third),
    }  # fmt: skip


def test_an_override_of_a_value_that_is_gone_changes_nothing(pipeline: Pipeline) -> None:
    """It was about another value, which has been replaced since the person saw it."""
    feed_b(pipeline, [1, 1, 1, 1, 1, 7])
    pipeline.feed(tick(HOUR_S + 60))
    pipeline.run()
    pipeline.feed(overridden(HOUR_S + 100, 3001, 4, 6.0))
    pipeline.feed(tick(HOUR_S + 160))
    pipeline.run()
    assert [row[3:5] for row in pipeline.figures()] == [(2.0, 6)]
    assert pipeline.figure_corrections() == []


def test_a_series_that_left_the_catalogue_has_no_new_figure(pipeline: Pipeline) -> None:
    """Its readings stay; nobody says how often to expect them."""
    feed_b(pipeline, [1, 2])
    gone = catalogue([station("A", [{"id": "a", "properties": ["pm25"]}])], [])
    pipeline._archive[gone.version] = gone
    pipeline.feed(configure(1300, gone.version))
    pipeline.feed(tick(HOUR_S + 60))
    pipeline.run()
    assert pipeline.figures() == []


def _history() -> list[dict[str, Any]]:
    """Three hours of B and A with late, revised and repeated readings, and a tick every ten minutes."""
    rows: list[dict[str, Any]] = []
    for i in range(16):
        at = 600 * i + 1
        rows.append(reading("b", at, pm25=i % 7))
        rows.append(reading("a", at + 1, pm25=i, **{PROPERTY["max"]: 41 + i % 5}))
        if i % 5 == 3:
            rows.append(message("b", {"time": T0 // 1000 + (at - 1500) * 1000, "readings": {"pm25": 20}}, at + 2))
        if i % 6 == 5:
            rows.append(message("b", {"time": T0 // 1000 + (at - 3000) * 1000, "readings": {"pm25": 9}}, at + 3))
        rows.append(tick(at + 60))
    return rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Figures and corrections of the history when nothing happens."""
    pipeline = Pipeline(tmp_path_factory.mktemp("derive"), [CATALOGUE])
    pipeline.feed(configure(0, CATALOGUE.version))
    for made in _history():
        pipeline.feed(made)
        pipeline.run()
    out = pipeline.figures(), pipeline.figure_corrections()
    assert len(out[1]) == 2
    pipeline.close()
    return out


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_kills_and_replays_give_the_same_figures_and_corrections(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: tuple[Any, Any], data: st.DataObject
) -> None:
    """Stages run ahead of each other and are killed between any steps: nothing differs, no correction is made up."""
    pipeline = Pipeline(tmp_path_factory.mktemp("derive"), [CATALOGUE])
    pipeline.feed(configure(0, CATALOGUE.version))
    rows = _history()
    acts = st.sampled_from(["process", "process", "store", "derive", "derive", "save process", "save derive", "kill"])
    while rows:
        some = data.draw(st.integers(8, 30))
        pipeline.feed_each(rows[:some])
        rows = rows[some:]
        for act in data.draw(st.lists(acts, max_size=5)):
            if act == "kill":
                pipeline.kill()
            elif act == "save process":
                pipeline.process.save()
            elif act == "save derive":
                pipeline.derive.save()
            else:
                for _ in range(5):
                    pipeline.step(act)
    pipeline.run()
    pipeline.kill()
    pipeline.run()
    assert (pipeline.figures(), pipeline.figure_corrections()) == undisturbed
    assert pipeline.store.progress(PROCESSED, 0).origin == pipeline.bus.end("raw", 0) - 1
    pipeline.close()


def test_state_is_what_is_touched(pipeline: Pipeline) -> None:
    """A restart goes on with the touched windows, also of series that touched nothing since."""
    feed_b(pipeline, [1, 2, 3, 4, 5, 6])
    pipeline.run()
    pipeline.save()
    pipeline.kill()
    pipeline.feed(tick(HOUR_S + 60))
    pipeline.run()
    assert [row[3] for row in pipeline.figures()] == [3.5]
    found = pipeline.store.figures("B", "pm25", T0, T0 + 3600 * SECOND)
    told = {"kind": "mean", "readings": 6, "newest_revision": 6 << 16, "stats": {"min": 1.0, "max": 6.0}}
    assert orjson.loads(found[0]["inputs"]) == told
