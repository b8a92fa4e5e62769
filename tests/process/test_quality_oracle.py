"""Every check against ioos_qc on a thousand random regular series, and on records as tide, buoy and air stations give.

All series of a check are judged together, in passes cut at random, as the pipeline does it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ioos_qc import qartod

from processors.plan import Plan
from processors.quality import CHECKS
from processors.quality.run import Quality
from qingtu.clock import SECOND
from tests.process.judging import FAR
from tests.process.support import T0, catalogue, station

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SERIES, LONGEST = 1200, 60


@dataclass
class Case:
    """One series: values (NaN: missing) every ``every_s`` seconds, limits, and where its depth is."""

    values: NDArray[np.float64]
    every_s: int
    limits: dict[str, Any]
    depth_m: float | None = None


def judged(cases: Sequence[Case], key: str, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return where a check found each reading of each series bad, all judged together in passes cut at random."""
    stations = []
    for i, case in enumerate(cases):
        field = {"property": "water_level", "depth_m": case.depth_m}
        device = {"id": f"d{i}", "fields": {"water_level": field}, "interval_s": case.every_s}
        limits = {"water_level": {"range": [-FAR, FAR], **case.limits}}
        stations.append(station(f"S{i:04d}", [device], limits=limits))
    quality = Quality(Plan(catalogue(stations, [])))
    out = [np.zeros(len(case.values), np.int64) for case in cases]
    longest = max(len(case.values) for case in cases)
    cuts = [0, *np.sort(rng.integers(0, longest, 7)).tolist(), longest]
    for start, stop in itertools.pairwise(cuts):
        parts = [case.values[start:stop] for case in cases]
        series = np.repeat(np.arange(len(cases)), [len(part) for part in parts])
        step = np.concatenate([np.arange(start, start + len(part)) for part in parts])
        every = np.array([case.every_s for case in cases])[series]
        time = T0 + step * every * SECOND
        found = quality.judge(series, time, np.concatenate(parts), time)
        for s, k, tests in zip(series.tolist(), step.tolist(), found.tests.tolist(), strict=True):
            out[s][k] = tests >> CHECKS[key].bit & 1
        again = series[found.again_by]
        steps = (found.again_time_us - T0) // (every[found.again_by] * SECOND)
        for s, k, tests in zip(again.tolist(), steps.tolist(), found.again_tests.tolist(), strict=True):
            out[s][k] = tests >> CHECKS[key].bit & 1
    return out


def values(rng: np.random.Generator) -> NDArray[np.float64]:
    """Quarter steps that stay for a while, jump, and are sometimes missing; or anything."""
    n = int(rng.integers(3, LONGEST))
    stays = rng.random(n) < rng.choice([0.2, 0.6, 0.95])
    steps = np.where(stays, 0, rng.integers(-12, 13, n)) / 4
    out = np.cumsum(steps) if rng.random() < 0.5 else steps + rng.choice([0.0, 0.25], n)
    if rng.random() < 0.3:
        out = out + rng.normal(0, 0.3, n)
    out[rng.random(n) < rng.choice([0.0, 0.1])] = np.nan
    return np.asarray(out, np.float64)


def times(case: Case) -> NDArray[np.datetime64]:
    """Times of a case, as the oracle takes them."""
    start = np.datetime64(T0, "us").astype("datetime64[ns]")
    out: NDArray[np.datetime64] = start + np.arange(len(case.values)) * np.timedelta64(case.every_s, "s")
    return out


def masked(case: Case) -> np.ma.MaskedArray[Any, Any]:
    """Values of a case, as the oracle takes them."""
    return np.ma.masked_invalid(case.values)


def rising(rng: np.random.Generator) -> list[float]:
    """Two thresholds that no quarter step meets exactly."""
    return sorted((rng.uniform(0.1, 4, 2)).tolist())


# Each of these makes limits for a series, and asks the oracle about it.


def _gross_range(rng: np.random.Generator, x: NDArray[np.float64], every_s: int) -> tuple[Case, Callable[[], Any]]:
    low, a, b, high = sorted((rng.integers(-20, 20, 4) / 4 + np.arange(4) * 0.01).tolist())
    case = Case(x, every_s, {"range": [low, high], "suspect": [a, b]})
    return case, lambda: qartod.gross_range_test(masked(case), [low, high], [a, b])


def _spike(rng: np.random.Generator, x: NDArray[np.float64], every_s: int) -> tuple[Case, Callable[[], Any]]:
    (suspect, fail), method = rising(rng), str(rng.choice(["average", "differential"]))
    case = Case(x, every_s, {"spike": {"suspect": suspect, "fail": fail, "method": method}})
    return case, lambda: qartod.spike_test(masked(case), suspect, fail, method)


def _rate(rng: np.random.Generator, x: NDArray[np.float64], every_s: int) -> tuple[Case, Callable[[], Any]]:
    suspect, fail = (n / every_s for n in rising(rng))
    case = Case(x, every_s, {"rate_per_h": {"suspect": suspect * 3600, "fail": fail * 3600}})
    return case, lambda: qartod.rate_of_change_test(masked(case), times(case), suspect, fail)


def _flat_line(rng: np.random.Generator, x: NDArray[np.float64], every_s: int) -> tuple[Case, Callable[[], Any]]:
    suspect, fail = sorted((rng.uniform(2, 12, 2) * every_s).tolist())
    tolerance = float(rng.choice([0.1, 0.25, 0.3, 1.0, 3.0]))
    case = Case(x, every_s, {"flat_line": {"suspect_s": suspect, "fail_s": fail, "tolerance": tolerance}})
    return case, lambda: qartod.flat_line_test(masked(case), times(case), suspect, fail, tolerance)


def _gap(rng: np.random.Generator, x: NDArray[np.float64], every_s: int) -> tuple[Case, Callable[[], Any]]:
    # Regular series have no gap: the interval itself is one for half of the limits. The oracle knows fail alone.
    fail_s = every_s + int(rng.integers(-1, 2)) * int(rng.integers(0, 2))
    case = Case(x, every_s, {"gap": {"fail_s": max(fail_s, 1)}})

    def flags() -> Any:
        out = qartod.time_gap_test(times(case), max(fail_s, 1) / 3600)
        out[0] = 2  # the oracle gives the first what the second gets; a stream has nothing before it
        return out

    return case, flags


def _climatology(rng: np.random.Generator, x: NDArray[np.float64], every_s: int) -> tuple[Case, Callable[[], Any]]:
    del every_s
    every_s, depth = 86400, float(rng.uniform(0, 30)) if rng.random() < 0.7 else None
    entries, config = [], []
    for _ in range(int(rng.integers(1, 4))):
        first, last = sorted(rng.integers(1, 13, 2).tolist())
        low, a, b, high = sorted((rng.integers(-20, 20, 4) / 4 + np.arange(4) * 0.01).tolist())
        deep = sorted(rng.uniform(0, 30, 2).tolist()) if rng.random() < 0.4 else None
        fail = [low, high] if rng.random() < 0.7 else None
        entries.append({"months": list(range(first, last + 1)), "suspect": [a, b], "fail": fail, "depth": deep})
        config.append({"tspan": (first, last), "vspan": (a, b), "fspan": fail, "zspan": deep, "period": "month"})
    case = Case(x, every_s, {"climatology": entries}, depth)
    z = np.full(len(x), np.nan if depth is None else depth)
    return case, lambda: qartod.climatology_test(config, masked(case), times(case), z)


def _attenuated(rng: np.random.Generator, x: NDArray[np.float64], every_s: int) -> tuple[Case, Callable[[], Any]]:
    fail, suspect = rising(rng)
    window = int(rng.integers(2, 12)) * every_s + int(rng.integers(0, every_s))
    least, measure = int(rng.integers(2, 6)), str(rng.choice(["std", "range"]))
    spec = {"suspect": suspect, "fail": fail, "window_s": window, "measure": measure, "min_readings": least}
    case = Case(x, every_s, {"attenuated": spec})
    return case, lambda: qartod.attenuated_signal_test(
        masked(case), times(case), suspect, fail, window, min_obs=least, check_type=measure
    )


MAKERS: dict[str, Any] = {
    "gross_range": _gross_range, "spike": _spike, "rate_of_change": _rate, "flat_line": _flat_line, "gap": _gap,
    "climatology": _climatology, "attenuated_signal": _attenuated,
}  # fmt: skip


def agrees(cases: Sequence[Case], oracles: Sequence[Callable[[], Any]], key: str, rng: np.random.Generator) -> int:
    """Compare; return how many readings were bad."""
    bad = 0
    for case, oracle, mine in zip(cases, oracles, judged(cases, key, rng), strict=True):
        flags = np.ma.getdata(oracle())
        theirs = ((flags == 3) | (flags == 4)) & ~np.isnan(case.values)
        assert mine.tolist() == theirs.astype(int).tolist(), (case, flags)
        bad += int(theirs.sum())
    return bad


@pytest.mark.parametrize("key", sorted(MAKERS))
def test_a_thousand_random_series_are_judged_as_ioos_qc_does(key: str) -> None:
    """No reading of any regular whole-second series is told otherwise, however the stream was cut."""
    rng = np.random.default_rng(sorted(MAKERS).index(key))
    made = [MAKERS[key](rng, values(rng), int(rng.choice([1, 60, 600]))) for _ in range(SERIES)]
    assert agrees([case for case, _ in made], [oracle for _, oracle in made], key, rng) > SERIES


# --------------------------------------------------------------------------------------------------------- records


def tide(rng: np.random.Generator) -> NDArray[np.float64]:
    """Thirty hours of a tide gauge, a value a minute to the millimetre: spikes, a gap of values, a float that stuck."""
    at = np.arange(1800) / 60
    level = (
        2.4 + 1.3 * np.cos(2 * np.pi * at / 12.42) + 0.4 * np.cos(2 * np.pi * at / 12.0 + 1) + rng.normal(0, 0.01, 1800)
    )
    level[[311, 900, 1401]] += [0.4, -0.9, 0.25]
    level[1000:1200] = level[1000]
    level[600:612] = np.nan
    return np.round(level, 3)


def buoy(rng: np.random.Generator) -> NDArray[np.float64]:
    """Twelve days of a buoy's sea temperature, a value each ten minutes to the hundredth: slow, noisy, then fouled."""
    at = np.arange(1728) / 144
    value = 13 + 0.2 * at + 0.8 * np.sin(2 * np.pi * at) + np.cumsum(rng.normal(0, 0.01, 1728))
    value[1300:] = value[1300] + rng.normal(0, 0.002, 428)
    value[rng.random(1728) < 0.01] = np.nan
    value[[77, 500]] += [4.0, -2.0]
    return np.round(value, 2)


def air(rng: np.random.Generator) -> NDArray[np.float64]:
    """Forty days of a PM2.5 monitor, a value an hour to the microgram: rough, with an episode and a stuck tape."""
    at = np.arange(960)
    value = np.exp(3.3 + 0.4 * np.sin(2 * np.pi * at / 24) + np.cumsum(rng.normal(0, 0.12, 960)) * 0.3)
    value[400:460] *= 3
    value[700:712] = value[700]
    value[rng.random(960) < 0.02] = np.nan
    value[[50, 333]] = [985.0, 0.0]
    return np.asarray(np.round(value), np.float64)


RECORDS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "tide": (tide, 60, {
        "range": [-3, 9], "suspect": [0.9, 3.8], "spike": {"suspect": 0.2, "fail": 0.5},
        "rate_per_h": {"suspect": 1.5, "fail": 6.0}, "gap": {"fail_s": 3600},
        "flat_line": {"suspect_s": 3600, "fail_s": 10800, "tolerance": 0.005},
        "attenuated": {"suspect": 0.3, "fail": 0.05, "window_s": 10800, "min_readings": 90},
        "climatology": [{"months": "autumn", "suspect": [0.9, 3.8], "fail": [0, 5]}],
    }),
    "buoy": (buoy, 600, {
        "range": [-2, 35], "suspect": [0, 15], "spike": {"suspect": 1.5, "fail": 3.0, "method": "differential"},
        "rate_per_h": {"suspect": 2.0, "fail": 20.0}, "gap": {"fail_s": 7200},
        "flat_line": {"suspect_s": 10800, "fail_s": 21600, "tolerance": 0.01},
        "attenuated": {"suspect": 0.05, "fail": 0.005, "window_s": 43200, "min_readings": 36},
        "climatology": [{"months": [11, 12], "suspect": [12, 14.5]}],
    }),
    "air": (air, 3600, {
        "range": [0, 1000], "suspect": [1, 500], "spike": {"suspect": 100, "fail": 250},
        "rate_per_h": {"suspect": 100, "fail": 400}, "gap": {"fail_s": 7200},
        "flat_line": {"suspect_s": 14400, "fail_s": 28800, "tolerance": 0.5},
        "attenuated": {"suspect": 3, "fail": 1, "window_s": 86400, "min_readings": 12, "measure": "range"},
        "climatology": [{"months": "winter", "suspect": [2, 300]}, {"months": 11, "suspect": [2, 150]}],
    }),
}  # fmt: skip


def _oracle(key: str, case: Case) -> Any:
    """Let ioos_qc judge a record by its limits."""
    limits, x, t = case.limits, masked(case), times(case)
    spike, rate, flat, moves = (limits[name] for name in ("spike", "rate_per_h", "flat_line", "attenuated"))
    usual = [
        {"tspan": span, "vspan": one["suspect"], "fspan": one.get("fail"), "period": "month"}
        for one in limits["climatology"]
        for span in _spans(one["months"])
    ]
    ask: dict[str, Callable[[], Any]] = {
        "gross_range": lambda: qartod.gross_range_test(x, limits["range"], limits["suspect"]),
        "spike": lambda: qartod.spike_test(x, spike["suspect"], spike["fail"], spike.get("method", "average")),
        "rate_of_change": lambda: qartod.rate_of_change_test(x, t, rate["suspect"] / 3600, rate["fail"] / 3600),
        "flat_line": lambda: qartod.flat_line_test(x, t, flat["suspect_s"], flat["fail_s"], flat["tolerance"]),
        "gap": lambda: qartod.time_gap_test(t, limits["gap"]["fail_s"] / 3600),
        "climatology": lambda: qartod.climatology_test(usual, x, t, np.full(len(x), np.nan)),
        "attenuated_signal": lambda: qartod.attenuated_signal_test(
            x, t, moves["suspect"], moves["fail"], moves["window_s"], min_obs=moves["min_readings"],
            check_type=moves.get("measure", "std"),
        ),
    }  # fmt: skip
    return ask[key]()


def _spans(months: str | int | list[int]) -> list[tuple[int, int]]:
    if isinstance(months, str):
        return {"autumn": [(9, 11)], "winter": [(12, 12), (1, 2)]}[months]
    return [(months, months)] if isinstance(months, int) else [(months[0], months[-1])]


@pytest.mark.parametrize("name", sorted(RECORDS))
@pytest.mark.parametrize("key", sorted(MAKERS))
def test_records_are_judged_as_ioos_qc_does(key: str, name: str) -> None:
    """A record as such an instrument gives it, with what goes wrong there: the same readings are found bad."""
    make, every_s, limits = RECORDS[name]
    rng = np.random.default_rng(7)
    case = Case(make(rng), every_s, limits)
    bad = agrees([case], [lambda: _oracle(key, case)], key, rng)
    assert key == "gap" or bad > 0, "the limits find nothing in this record"
