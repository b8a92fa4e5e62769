"""The cascade: order, batching, kills and late readings; what changed is told with its cause; indices hook in."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qingtu.causes import told
from qingtu.clock import DAY, HOUR, MINUTE
from qingtu.contracts import FigureQuery
from qingtu.records import FIGURES, PROCESSED
from tests.aggregates.support import feed, figures, one_station, opened, said, tick_at
from tests.process.support import T0

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from processors.aggregates.evaluate import Row
    from qingtu.catalogue import Catalogue
    from tests.store.pipeline import Pipeline

ZONE = "Asia/Shanghai"
START = T0 - 8 * HOUR  # local midnight
PROPERTIES = ["pm25", "o3", "noise_la", "wind_speed", "wind_direction", "rainfall", "electric_energy", "bin_fill_level"]
CATALOGUE = one_station(ZONE, 1200, PROPERTIES)
SLOW = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


def value_at(prop: str, i: int) -> float:
    """Return the reading of a property at step i: no two alike near each other, a meter that goes on."""
    if prop == "electric_energy":
        return 10.0 * i if i % 50 < 40 else 10.0 * (i % 50)
    return float((i * 37 + len(prop) * 11) % 53 + 1)


def sample(i: int, received_us: int | None = None, **more: float) -> dict[str, Any]:
    """Make the message of step i, every twenty minutes from midnight."""
    values = {prop: value_at(prop, i) for prop in PROPERTIES} | more
    return said(START + i * 20 * MINUTE, values, received_us)


def without_provenance(pipeline: Pipeline) -> dict[Any, Any]:
    """Return what is published, without what a figure tells of the rows that it was first made of."""
    out = {}
    for key, row in figures(pipeline).items():
        out[key] = {**{name: row[name] for name in row if name != "inputs"}, "stats": row["inputs"].get("stats")}
    return out


def test_a_late_reading_changes_its_periods_and_no_others(tmp_path: Path) -> None:
    """Hour, moving eight hours and day around it; each correction names the message; all else keeps its revision."""
    pipeline = opened(tmp_path, CATALOGUE, START)
    missing = 3 * 30 + 1  # 06:20 of the second day
    feed(pipeline, [sample(i) for i in range(3 * 72) if i != missing])
    now = START + 3 * DAY
    feed(pipeline, [tick_at(now + MINUTE)])
    before = {key: row for key, row in _with_revisions(pipeline).items() if key[1] == "o3"}
    late = said(START + missing * 20 * MINUTE, {"o3": 200.0}, now + 2 * MINUTE)
    position = pipeline.feed(late) << 16
    feed(pipeline, [tick_at(now + 3 * MINUTE)])
    after = {key: row for key, row in _with_revisions(pipeline).items() if key[1] == "o3"}
    changed = {
        (what, (start - START) // HOUR)
        for what, _, start in after
        if before[what, "o3", start] != after[what, "o3", start]
    }
    assert changed == {("hour", 30), ("day", 24), *(("8h", hour) for hour in range(23, 31))}
    corrections = [told(row, pipeline.store, CATALOGUE) for row in pipeline.store.figure_corrections()]
    assert {(c["what"], (c["start"] - START) // HOUR) for c in corrections} == changed
    for one in corrections:
        at = START + missing * 20 * MINUTE
        assert one["because"] == [{"station": "A", "position": position, "property": "o3", "time": at}]
        assert one["causes"] == 1
        assert (one["old"]["value"], one["old"]["count"]) != (one["new"]["value"], one["new"]["count"])
    assert [c["what"] for c in pipeline.store.figure_corrections(what="day", station="A", prop="o3")] == ["day"]
    assert pipeline.store.figure_corrections(station="B") == pipeline.store.figure_corrections(prop="pm25") == []
    assert pipeline.store.figure_corrections(now + 3 * MINUTE + 1) == []
    pipeline.close()


def _with_revisions(pipeline: Pipeline) -> dict[Any, Any]:
    with pipeline.store.cursor() as db:
        rows = db.execute("SELECT what, property, epoch_us(start), value, count, revision FROM figures").fetchall()
    return {(what, prop, start): rest for what, prop, start, *rest in rows}


def test_a_late_speed_corrects_the_direction_that_it_weighs(tmp_path: Path) -> None:
    """And a late reading of a meter corrects the period in which its next one lies."""
    pipeline = opened(tmp_path, CATALOGUE, START)
    rows = [sample(i) for i in range(12)]
    rows[1] = said(START + 20 * MINUTE, {"wind_direction": 77.0})
    rows[5] = said(START + 100 * MINUTE, {"pm25": 1.0})
    feed(pipeline, [*rows, tick_at(START + 5 * HOUR)])
    late = START + 5 * HOUR + MINUTE
    feed(pipeline, [said(START + 20 * MINUTE, {"wind_speed": 9.0}, late), tick_at(late)])
    changed = pipeline.store.figure_corrections(prop="wind_direction")
    assert [(c["what"], c["start"], c["old_count"], c["new_count"]) for c in changed] == [("hour", START, 2, 3)]
    assert told(changed[0], pipeline.store, CATALOGUE)["because"][0]["property"] == "wind_speed"
    feed(pipeline, [said(START + 100 * MINUTE, {"electric_energy": 45.0}, late + 1), tick_at(late + MINUTE)])
    changed = pipeline.store.figure_corrections(prop="electric_energy")
    steps = [((c["start"] - START) // HOUR, c["old_value"], c["new_value"]) for c in changed]
    assert steps == [(2, 40.0, 35.0), (1, 10.0 + 10.0, 10.0 + 10.0 + 5.0)]
    pipeline.close()


def test_the_same_reading_again_changes_nothing(tmp_path: Path) -> None:
    """The windows are evaluated, the figures are the same: they keep their revision, and nothing is a correction."""
    pipeline = opened(tmp_path, CATALOGUE, START)
    feed(pipeline, [*(sample(i) for i in range(80)), tick_at(START + 2 * DAY + HOUR)])
    before = _with_revisions(pipeline)
    again = [sample(i, START + 3 * DAY + i) for i in range(0, 80, 7)]
    feed(pipeline, [*again, tick_at(START + 3 * DAY + HOUR)])
    assert _with_revisions(pipeline) == before
    assert pipeline.store.figure_corrections() == []
    pipeline.close()


STEPS = 73
"""A day and twenty minutes."""


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What the figures are when every reading comes in time."""
    pipeline = opened(tmp_path_factory.mktemp("ordered"), CATALOGUE, START)
    feed(pipeline, [*(sample(i) for i in range(STEPS)), tick_at(START + 40 * DAY)])
    out = without_provenance(pipeline)
    assert {what for what, _, _ in out} == {"hour", "8h", "day", "month", "year", "day_ld", "day_ln", "day_ldn"}
    pipeline.close()
    return out


@SLOW
@given(order=st.permutations(range(STEPS)), ticks=st.sets(st.integers(0, STEPS), max_size=6), cut=st.integers(1, 90))
def test_any_order_ends_in_the_same_figures(
    tmp_path_factory: pytest.TempPathFactory, in_order: dict[Any, Any], order: list[int], ticks: set[int], cut: int
) -> None:
    """Readings in any order and batches, with ticks in between that publish what there is: in the end all is one."""
    pipeline = opened(tmp_path_factory.mktemp("order"), CATALOGUE, START)
    now = START + 30 * DAY
    rows = []
    for n, i in enumerate(order):
        rows.append(sample(i, now + n * MINUTE))
        if n in ticks:
            rows.append(tick_at(now + n * MINUTE))
    feed(pipeline, [*rows, tick_at(START + 40 * DAY)], cut)
    assert without_provenance(pipeline) == in_order
    pipeline.close()


def _history() -> list[dict[str, Any]]:
    """A day and a half with holes that are filled late, repeated and revised readings, and a tick every two hours."""
    rows: list[dict[str, Any]] = []
    for i in range(110):
        at = START + i * 20 * MINUTE
        if i % 17 != 3:
            rows.append(sample(i))
        if i % 29 == 20:
            rows.append(sample(i - 17 if (i - 17) % 17 == 3 else 3, at + MINUTE))
        if i % 31 == 30:
            rows.append(sample(i - 12, at + MINUTE, pm25=77.0))
        if i % 6 == 5:
            rows.append(tick_at(at + 2 * MINUTE))
    end = START + 2 * DAY
    return [*rows, tick_at(end), sample(20, end + 1), tick_at(end + MINUTE), tick_at(START + 40 * DAY)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Figures and corrections when nothing happens, each row a frame."""
    pipeline = opened(tmp_path_factory.mktemp("calm"), CATALOGUE, START)
    feed(pipeline, _history(), 1)
    out = pipeline.everything()
    assert {"hour", "8h", "day"} <= {row[0] for row in out[1]}
    pipeline.close()
    return out


@SLOW
@given(data=st.data())
def test_kills_between_any_steps_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: tuple[Any, Any], data: st.DataObject
) -> None:
    """Stages run ahead of each other, are killed and do again what was not saved: the same rows, every column."""
    pipeline = opened(tmp_path_factory.mktemp("killed"), CATALOGUE, START)
    rows = _history()
    acts = st.sampled_from(["process", "process", "store", "derive", "save process", "save derive", "kill"])
    while rows:
        some = data.draw(st.integers(10, 60))
        pipeline.feed_each(rows[:some])
        rows = rows[some:]
        for act in data.draw(st.lists(acts, max_size=6)):
            if act == "kill":
                pipeline.kill()
            elif act == "save process":
                pipeline.process.save()
            elif act == "save derive":
                pipeline.derive.save()
            else:
                for _ in range(9):
                    pipeline.step(act)
    pipeline.run()
    pipeline.kill()
    pipeline.run()
    assert pipeline.everything() == undisturbed
    pipeline.close()


@SLOW
@given(cuts=st.sets(st.integers(1, 220), max_size=12))
def test_figures_do_not_depend_on_the_cut_into_frames(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: tuple[Any, Any], cuts: set[int]
) -> None:
    """Many ticks and readings in one frame, or each in its own: the same figures and corrections, by raw row."""
    pipeline = opened(tmp_path_factory.mktemp("cut"), CATALOGUE, START)
    rows = _history()
    row_at = {0: 0, -1: -1}
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for start, stop in pairwise(edges):
        offset = pipeline.feed(*rows[start:stop])
        row_at |= {offset << 16 | i: start + i + 1 for i in range(stop - start)}
    pipeline.run()
    alone = {i << 16: i for i in range(len(rows) + 1)} | {-1: -1}
    found = [[_by_row(row, row_at) for row in table] for table in pipeline.everything()]
    wanted = [[_by_row(row, alone) for row in table] for table in undisturbed]
    assert [sorted(table, key=repr) for table in found] == [sorted(table, key=repr) for table in wanted]
    pipeline.close()


def _by_row(row: Sequence[Any], row_at: Mapping[int, int]) -> list[Any]:
    """Replace positions by numbers of raw rows; they are whole numbers that nothing else in a row is as large as."""
    out = []
    for value in row:
        if isinstance(value, str) and value.startswith("{"):
            inputs = orjson.loads(value)
            inputs["newest_revision"] = row_at[inputs["newest_revision"]]
            out.append(inputs)
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 16:
            out.append(row_at[value])
        else:
            out.append(value)
    return out


def test_what_was_published_at_any_time_can_be_asked(tmp_path: Path) -> None:
    """After every tick the figures are noted; later, as of that tick, the store gives the same."""
    pipeline = opened(tmp_path, CATALOGUE, START)
    keys = [("A", prop, "main") for prop in PROPERTIES]
    noted = []
    for row in _history():
        offset = pipeline.feed(row)
        if row["kind"] and offset % 3 == 0:
            pipeline.run()
            query = FigureQuery(keys, START - DAY, START + 40 * DAY)
            noted.append((offset, row["received_at"], pipeline.store.figures_of(query).to_pylist()))
    assert len({len(rows) for _, _, rows in noted}) > 3
    for offset, known, rows in noted:
        before = FigureQuery(keys, START - DAY, START + 40 * DAY, before=(offset + 1) << 16)
        assert pipeline.store.figures_of(before).to_pylist() == rows
        by = FigureQuery(keys, START - DAY, START + 40 * DAY, known_by_us=known)
        assert pipeline.store.figures_of(by).to_pylist() == rows
    pipeline.close()


def _index(
    catalogue: Catalogue, station: str, what: str, start: int, get: Callable[[str, str, str, int], Row | None]
) -> list[Row]:
    """An index of days: the worst of eight hours of ozone in the day, over PM2.5 of the day."""
    assert station in catalogue.stations
    if what != "day":
        return []
    dust = get("pm25", "main", "day", start)
    ozone = [row for i in range(17) if (row := get("o3", "main", "8h", start + i * HOUR)) is not None]
    if dust is None or not ozone:
        return []
    worst = max(row["value"] for row in ozone)
    valid = dust["valid"] and sum(row["valid"] for row in ozone) >= 14
    return [
        {
            "what": "day", "key": (station, "aqi", "main"), "start": start, "value": worst + dust["value"],
            "count": len(ozone), "expected": 17, "valid": valid, "reason": "" if valid else "too_few",
            "inputs": {"stats": {"ozone": worst}, "standard": "made up"},
        }
    ]  # fmt: skip


def test_an_index_is_made_of_figures_and_corrected_with_them(tmp_path: Path) -> None:
    """It sees figures of the same tick and of earlier ones, goes out in the same frame, and changes when they do."""
    pipeline = opened(tmp_path, CATALOGUE, START, derived=(_index,))
    rows: list[Mapping[str, Any]] = []
    for i in range(72):
        rows.append(sample(i))
        if i % 3 == 2:
            rows.append(tick_at(START + (i + 1) * 20 * MINUTE + MINUTE))
    feed(pipeline, rows, 24)
    pipeline.save()
    pipeline.kill()  # what the index asks for stands in the store alone
    feed(pipeline, [tick_at(START + DAY + 2 * MINUTE), sample(5, START + DAY + 3 * MINUTE, pm25=500.0)])
    found = figures(pipeline)
    ozone = max(found["8h", "o3", START + i * HOUR]["value"] for i in range(17))
    index = found["day", "aqi", START]
    assert index["value"] == ozone + found["day", "pm25", START]["value"]
    assert (index["valid"], index["inputs"]["standard"]) == (True, "made up")
    feed(pipeline, [tick_at(START + DAY + 4 * MINUTE)])
    changed = pipeline.store.figure_corrections(prop="aqi")
    assert [(c["old_value"], c["new_value"]) for c in changed] == [
        (index["value"], ozone + figures(pipeline)["day", "pm25", START]["value"])
    ]
    pipeline.close()


def test_derive_waits_until_the_store_has_its_figures(tmp_path: Path) -> None:
    """A day is not made before its hours are stored, however far the readings are."""
    pipeline = opened(tmp_path, CATALOGUE, START)
    feed(pipeline, [sample(i) for i in range(72)])
    pipeline.feed(tick_at(START + DAY - HOUR))
    pipeline.feed(tick_at(START + DAY + MINUTE))
    while pipeline.step("process"):
        pass
    pipeline.apply_processed(1000)
    while pipeline.step("derive"):
        pass
    made = pipeline.bus.end(FIGURES, 0)
    assert made >= 1
    assert pipeline.derive.next_offset < pipeline.bus.end(PROCESSED, 0)
    pipeline.run()
    assert figures(pipeline)["day", "pm25", START]["count"] == 24
    pipeline.close()


def test_a_bounded_number_of_windows_at_one_tick(tmp_path: Path) -> None:
    """What is too much waits for the next ticks, lower levels first: in the end nothing is missing."""
    pipeline = opened(tmp_path / "a", CATALOGUE, START, at_once=30)
    rows = [sample(i) for i in range(STEPS)]
    late = START + 40 * DAY
    feed(pipeline, [*rows, tick_at(late)])
    assert {what for what, _, _ in figures(pipeline)} == {"hour"}
    feed(pipeline, [tick_at(late + i * MINUTE) for i in range(1, 30)])
    bounded = without_provenance(pipeline)
    pipeline.close()
    pipeline = opened(tmp_path / "b", CATALOGUE, START)
    feed(pipeline, [*rows, tick_at(late)])
    assert bounded == without_provenance(pipeline)
    pipeline.close()
