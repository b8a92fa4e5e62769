"""Quality checks against ioos_qc 3.0.0, its vectors, and random series cut at random."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ioos_qc import qartod

from processors.plan import Plan
from processors.quality import CHECKS
from processors.quality.flags import FLAG, RANK
from processors.quality.run import Quality
from qingtu.clock import MINUTE, SECOND
from qingtu.marks import load_marks
from qingtu.records import Flag
from tests.process.judging import BITS, Judge, judged_alone, of_check, with_limits, without_2
from tests.process.support import T0, catalogue, configure, drive, reading, station

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


VECTORS = yaml.safe_load((Path(__file__).parent / "qartod.yaml").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------ vectors


@pytest.mark.parametrize("vector", VECTORS["gross_range"])
def test_gross_range_vector(vector: dict[str, Any]) -> None:
    """Bounds are inclusive; the fail span wins; missing is 9."""
    cat = with_limits(range=vector["fail"], suspect=vector["suspect"])
    assert list(judged_alone(cat, vector["x"]).flags.values()) == vector["flags"]


@pytest.mark.parametrize("vector", VECTORS["spike"], ids=lambda v: str(v["x"]))
def test_spike_vector(vector: dict[str, Any]) -> None:
    """After all revisions a reading has the flag that ioos_qc gives it."""
    judge = judged_alone(with_limits(spike={"suspect": vector["suspect"], "fail": vector["fail"]}), vector["x"])
    assert list(judge.flags.values()) == without_2(vector["flags"])
    assert of_check(judge, "spike") == [int(flag in {3, 4}) for flag in vector["flags"]]


@pytest.mark.parametrize("vector", VECTORS["rate_of_change"])
def test_rate_of_change_vector(vector: dict[str, Any]) -> None:
    """Strictly greater; the first reading and one after a missing one pass."""
    per_h = {"suspect": vector["suspect_per_s"] * 3600, "fail": vector["fail_per_s"] * 3600}
    judge = judged_alone(with_limits(rate_per_h=per_h), vector["x"], vector["dt_s"])
    assert list(judge.flags.values()) == vector["flags"]
    assert of_check(judge, "rate_of_change") == [int(flag in {3, 4}) for flag in vector["flags"]]


@pytest.mark.parametrize("vector", VECTORS["spike_differential"], ids=lambda v: str(v["x"]))
def test_spike_differential_vector(vector: dict[str, Any]) -> None:
    """By differences a step passes and a spike flags itself alone."""
    limits = {"suspect": vector["suspect"], "fail": vector["fail"], "method": "differential"}
    judge = judged_alone(with_limits(spike=limits), vector["x"])
    assert of_check(judge, "spike") == [int(flag in {3, 4}) for flag in vector["flags"]]
    assert list(judge.flags.values()) == without_2(vector["flags"])


@pytest.mark.parametrize("vector", VECTORS["flat_line"], ids=lambda v: str(v["x"]))
def test_flat_line_vector(vector: dict[str, Any]) -> None:
    """Strictly within the tolerance for so many readings; missing ones are skipped."""
    flat = {name: vector[name] for name in ("suspect_s", "fail_s", "tolerance")}
    judge = judged_alone(with_limits(vector["dt_s"], flat_line=flat), vector["x"], vector["dt_s"])
    assert list(judge.flags.values()) == vector["flags"]


@pytest.mark.parametrize("vector", VECTORS["climatology"])
def test_climatology_vector(vector: dict[str, Any]) -> None:
    """By month, bounds inclusive; a month that nothing is said of is not evaluated."""
    judge = Judge(with_limits(climatology=[vector["member"]]))
    for day, value in zip(vector["t"], vector["x"], strict=True):
        judge.add([int(np.datetime64(day, "us").astype(np.int64))], [value])
    assert of_check(judge, "climatology") == [int(flag in {3, 4}) for flag in vector["flags"]]
    assert list(judge.flags.values())[-2:] == vector["flags"][-2:]


@pytest.mark.parametrize("vector", VECTORS["gap"])
def test_gap_vector(vector: dict[str, Any]) -> None:
    """The reading after more than so long a time; exactly so long is none."""
    judge = Judge(with_limits(gap={"fail_s": vector["fail_h"] * 3600}))
    times = [int(np.datetime64(t, "us").astype(np.int64)) for t in vector["t"]]
    judge.add(times, [0.0] * len(times))
    assert list(judge.flags.values()) == vector["flags"]


@pytest.mark.parametrize("vector", VECTORS["aggregate"])
def test_aggregate_vector(vector: dict[str, Any]) -> None:
    """FAIL > SUSPECT > PASS > NOT EVALUATED > MISSING."""
    ranks = np.maximum(RANK[np.array(vector["a"])], RANK[np.array(vector["b"])])
    assert FLAG[ranks].tolist() == vector["flags"]


# ------------------------------------------------------------------------------------------------------- oracle

VALUES = st.lists(
    st.one_of(st.integers(-20, 20).map(lambda n: n / 4), st.floats(-1e6, 1e6), st.just(math.nan)),
    min_size=1, max_size=40,
)  # fmt: skip
PAIRS = st.tuples(st.floats(0.01, 20), st.floats(0.01, 20)).map(sorted)
# Eighths a second are whole numbers an hour: the oracle divides by 3600, and no rounding may decide at the limit.
RATES = st.tuples(st.integers(1, 160), st.integers(1, 160)).map(lambda pair: sorted(n / 8 for n in pair))


def oracle(values: Sequence[float], dt_s: int, limits: dict[str, Any]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Let ioos_qc judge: the aggregate, and each test."""
    x = np.ma.masked_invalid(np.array(values, np.float64))
    t = np.array([np.datetime64(0, "s") + np.timedelta64(i * dt_s, "s") for i in range(len(values))])
    tests = [
        qartod.gross_range_test(x, limits["range"], limits["suspect"]),
        qartod.spike_test(x, limits["spike"]["suspect"], limits["spike"]["fail"]),
        qartod.rate_of_change_test(x, t, limits["rate_per_h"]["suspect"] / 3600, limits["rate_per_h"]["fail"] / 3600),
    ]
    return np.ma.getdata(qartod.qartod_compare(tests)), [np.ma.getdata(test) for test in tests]


@given(VALUES, PAIRS, RATES, st.sampled_from([1, 60, 600]), st.data())
@settings(max_examples=200, deadline=None)
def test_flags_and_bits_are_those_of_ioos_qc(
    values: list[float], spike: list[float], rate: list[float], dt_s: int, data: st.DataObject
) -> None:
    """On regular whole-second series the final flag is ioos_qc's aggregate and each bit is its test's 3, 4 or 9."""
    limits: dict[str, Any] = {
        "range": [-5, 5], "suspect": [-3, 4], "spike": {"suspect": spike[0], "fail": spike[1]},
        "rate_per_h": {"suspect": rate[0] * 3600, "fail": rate[1] * 3600},
    }  # fmt: skip
    judge = Judge(with_limits(**limits))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5), "cuts"))
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        judge.add([T0 + i * dt_s * SECOND for i in range(start, stop)], values[start:stop])
    flags, tests = oracle(values, dt_s, limits)
    assert list(judge.flags.values()) == flags.tolist()
    missing = np.isnan(values)
    for key, test in zip(("gross_range", "spike", "rate_of_change"), tests, strict=True):
        assert of_check(judge, key) == ((test > 2) & ~missing).astype(int).tolist()
    assert of_check(judge, "missing") == missing.astype(int).tolist()


# ------------------------------------------------------------------------------------------ memory and lateness


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_cutting_a_random_series_changes_nothing(data: st.DataObject) -> None:
    """Repeated, late, delayed and missing readings in any cutting give the same flags, bits and revisions."""
    cat = with_limits(
        spike={"suspect": 2, "fail": 4, "method": data.draw(st.sampled_from(["average", "differential"]))},
        rate_per_h={"suspect": 100, "fail": 300},
        flat_line={"tolerance": 1.5, "suspect_s": 120, "fail_s": data.draw(st.integers(120, 400))},
        gap={"suspect_s": 60, "fail_s": 120},
        attenuated={"suspect": 2, "fail": 1, "window_s": data.draw(st.integers(60, 500)), "min_readings": 2},
        climatology=[{"months": [11], "suspect": [0.5, 8]}],
    )
    n = data.draw(st.integers(1, 30))
    steps = st.sampled_from([0, 1, -1, 1, 1, 2]).map(lambda k: k * MINUTE)
    times = np.cumsum([data.draw(steps) for _ in range(n)]) + T0
    received = [int(t) + data.draw(st.sampled_from([0, 0, 0, 11 * MINUTE])) for t in times]
    values = [data.draw(st.sampled_from([0.0, 1.0, 3.0, 9.0, math.nan])) for _ in range(n)]
    results = []
    for cuts in ([], sorted(data.draw(st.lists(st.integers(0, n), max_size=4))), list(range(n))):
        quality = Quality(Plan(cat))
        out: list[Any] = []
        again: list[Any] = []
        for start, stop in zip([0, *cuts], [*cuts, n], strict=True):
            judged = quality.judge(
                np.zeros(stop - start, np.int32), times[start:stop], np.array(values[start:stop]),
                np.array(received[start:stop], np.int64),
            )  # fmt: skip
            out += zip(judged.flag.tolist(), judged.tests.tolist(), judged.late.tolist(), strict=True)
            columns = (judged.again_time_us, judged.again_value, judged.again_flag, judged.again_tests)
            by = (judged.again_by + start).tolist()
            again += map(repr, zip(by, *(c.tolist() for c in columns), strict=True))
            kept = {name: state.tobytes() for name, state in quality.state().items()}
            quality = Quality(Plan(cat))
            quality.restore(
                {name: np.frombuffer(kept[name], s.dtype).copy() for name, s in Quality(Plan(cat)).state().items()}
            )
        results.append((out, again))
    assert results[1] == results[0]
    assert results[2] == results[0]


def test_late_readings_leave_memory_alone() -> None:
    """Older, equal-time and delayed readings get 2 from checks with memory, and are not remembered."""
    limits: dict[str, Any] = {"spike": {"suspect": 1}, "rate_per_h": {"suspect": 60}}
    late = Judge(with_limits(**limits))
    late.add([T0, T0 + MINUTE], [0, 0.5])
    late.add(
        [T0 - MINUTE, T0 + MINUTE, T0 + 2 * MINUTE],
        [8, 8, 8],
        [T0 + 2 * MINUTE, T0 + 2 * MINUTE, T0 + 60 * MINUTE],
    )
    assert late.late == {T0: False, T0 + MINUTE: False, T0 - MINUTE: True, T0 + 2 * MINUTE: True}
    assert late.flags == {T0: 1, T0 + MINUTE: 1, T0 - MINUTE: 1, T0 + 2 * MINUTE: 1}
    # 2 minutes was delayed but is newest: 3 minutes is fresh, and compared with 1 minute.
    late.add([T0 + 3 * MINUTE], [1])
    assert late.flags[T0 + 3 * MINUTE] == Flag.PASS
    assert late.revisions == 0


def test_checks_with_memory_do_not_speak_of_late_readings() -> None:
    """A late reading of 8 among zeros has no bit of spike or rate of change, whatever its neighbours are."""
    judge = Judge(with_limits(spike={"suspect": 1}, rate_per_h={"suspect": 60}))
    judge.add([T0, T0 + 2 * MINUTE], [0, 0])
    judge.add([T0 + MINUTE], [8])
    judge.add([T0 + 3 * MINUTE], [0])
    assert judge.tests[T0 + MINUTE] == 0
    assert judge.revisions == 0


def test_revision_only_when_something_changes() -> None:
    """A spike that failed its range before gets a revision for its bit; no revision repeats what is known."""
    judge = Judge(with_limits(range=[-10, 10], spike={"suspect": 1, "fail": 2}))
    judge.add([T0, T0 + MINUTE, T0 + 2 * MINUTE, T0 + 3 * MINUTE], [0, 50, 0, 0])
    assert judge.flags[T0 + MINUTE] == Flag.FAIL
    assert judge.tests[T0 + MINUTE] == BITS["gross_range"] | BITS["plausible_range"] | BITS["spike"]
    assert judge.revisions == 2, "the spike and the reading behind it"


def test_a_huge_step_is_beyond_every_limit() -> None:
    """Differences that overflow float64 are infinite and fail, without a warning."""
    judge = Judge(with_limits(range=[-1e300, 1e300], spike={"fail": 1}, rate_per_h={"fail": 1}))
    judge.add([T0, T0 + MINUTE, T0 + 2 * MINUTE], [-1.7e308, 1.7e308, -1.7e308])
    assert judge.tests[T0 + MINUTE] & BITS["rate_of_change"]
    assert judge.tests[T0 + MINUTE] & BITS["spike"]


def test_limits_change_and_memory_stays() -> None:
    """After another catalogue the next reading is compared with the last one under the new limits."""
    first, second = with_limits(rate_per_h={"suspect": 1000}), with_limits(rate_per_h={"suspect": 10})
    rows = [configure(0, first.version), reading("a", 0, water_level=0), reading("a", 60, water_level=1)]
    rows += [configure(61, second.version), reading("a", 120, water_level=2)]
    assert drive(rows, [first, second]).flags("A", "water_level") == {0: 1, 60: 1, 120: 3}


# -------------------------------------------------------------------------------------------------------- marks


def test_what_a_device_says_of_a_reading_comes_through() -> None:
    """From the payload to the bit; other readings of the message, and of other messages, have none."""
    cat = catalogue([station("A", [{"id": "a", "properties": ["pm25", "o3"]}])], [])
    rows = [
        configure(0, cat.version),
        reading("a", 0, pm25={"value": 30, "mark": "Calibration"}, o3=50),
        reading("a", 60, pm25={"value": 30, "unit": "ug/m3", "mark": "normal"}, o3={"value": 50, "mark": "power_on"}),
        reading("a", 120, pm25={"value": 30, "mark": "?"}, o3={"value": 50, "mark": None}),
        reading("a", 180, pm25={"value": 30, "mark": 7}, o3={"value": None, "mark": "fault"}),
    ]
    for cuts in ([], [1, 2, 3, 4]):
        result = drive(rows, [cat], cuts)
        assert result.flags("A", "pm25") == {0: 4, 60: 1, 120: 3}
        assert result.flags("A", "o3") == {0: 1, 60: 3, 120: 1, 180: 9}
        assert [r["reason"] for r in result.rejected] == ["bad_value"]
        marked = {(r["property"], r["time"] // SECOND) for r in result.readings if r["tests"] & BITS["instrument"]}
        assert marked == {("pm25", 0), ("o3", 60), ("pm25", 120)}


def test_marks_are_those_of_hj212_and_of_the_page() -> None:
    """Every letter of table 8 has a mark, and the page lists all with their flags."""
    assert {mark.hj212 for mark in load_marks()} - {None} == set("NFMSDCTB")
    page = (Path(__file__).parents[2] / "docs/quality.md").read_text(encoding="utf-8")
    for mark in load_marks():
        assert f"| `{mark.key}` | {mark.hj212 or ''} | {mark.flag} | {mark.zh} |".replace("|  |", "| |") in page


# --------------------------------------------------------------------------------------------------------- page


def test_worked_examples_of_the_page_are_true() -> None:
    """Each ``yaml example`` block of docs/quality.md gives the flags and tests that it shows."""
    page = (Path(__file__).parents[2] / "docs/quality.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml example\n(.*?)```", page, re.DOTALL)]
    assert {example["check"] for example in examples} == set(CHECKS)
    for example in examples:
        cat = with_limits(example["every_s"], example.get("depth_m"), **example.get("limits", {}))
        judge = judged_alone(cat, example["values"], example["every_s"], example.get("marks"))
        assert list(judge.flags.values()) == example["flags"], example
        assert of_check(judge, example["check"]) == example["bit"], example
