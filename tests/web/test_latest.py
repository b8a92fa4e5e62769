"""Latest readings in arrays: the rule, however frames are cut; many series; rates; words for every code."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.core import Refused
from processors.bits import BITS
from qingtu.catalogue import synthetic_catalogue
from qingtu.catalogue_words import LEVELS, Domain, Kind
from qingtu.properties import load_properties
from qingtu.records import NEIGHBOUR, OVERRIDDEN, READINGS, Cause, Flag
from tests.web.conftest import Running, running
from web import words
from web.latest import NEVER, Latest, Rows
from web.rates import RATE_S, Rates

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
Reading = tuple[int, int, int, int]
"""(series 0..2, time, value, revision)."""


def _batch(rows: Sequence[Reading], **more: list[int]) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "station": [f"s{s}" for s, *_ in rows], "property": ["pm25"] * len(rows), "channel": ["main"] * len(rows),
        "time": [t for _, t, _, _ in rows], "value": [float(v) for *_, v, _ in rows], "flag": [1] * len(rows),
        "tests": [0] * len(rows), "revision": [r for *_, r in rows], "known_at": [r for *_, r in rows],
        "cause": [0] * len(rows), "late": [False] * len(rows),
    } | more  # fmt: skip
    arrays = [
        pa.array(columns[f.name], pa.string()).dictionary_encode()
        if pa.types.is_dictionary(f.type)
        else pa.array(columns[f.name], f.type)
        for f in READINGS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=READINGS)


def _state(latest: Latest) -> dict[str, tuple[int, float, int]]:
    arrays = latest.copy()
    columns = (arrays[name].tolist() for name in ("time", "value", "revision"))
    return {key[0]: rest for key, *rest in zip(latest.names.keys, *columns, strict=True)}  # type: ignore[misc]


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=9), max_size=6))
def test_thinned_rows_are_the_latest_of_each_series(frames: list[list[tuple[int, int]]]) -> None:
    """Of all that came, in order, exactly what stands in the end; late rows and what was overtaken are left out."""
    latest, at = Latest(), itertools.count()
    blocks = [latest.apply(_batch([(s, t, 0, next(at)) for s, t in frame])) for frame in frames]
    if not blocks:
        return
    rows = Rows.joined(blocks)
    assert len(rows) == sum(map(len, frames))
    thin = rows.thinned()
    assert sorted(zip(thin.series.tolist(), thin.time_us.tolist(), strict=True)) == [
        (number, time) for number, time in enumerate(latest.copy()["time"].tolist())
    ]
    assert thin.moved.all()
    assert len(rows.take(slice(0, 0)).thinned()) == 0


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 9)), max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_latest_is_the_newest_time_and_revision_however_frames_are_cut(
    given_rows: list[tuple[int, int, int]], cuts: list[int], seed: int
) -> None:
    """One rule, against a reading-by-reading oracle: a newer time, or another value of the same time, later."""
    rows: list[Reading] = [(s, t, v, n) for n, (s, t, v) in enumerate(given_rows)]
    oracle: dict[str, list[float]] = {}
    for s, t, v, r in rows:
        held = oracle.get(f"s{s}")
        if held is None or t > held[0] or (t == held[0] and v != held[1]):
            oracle[f"s{s}"] = [t, v, r]
    latest = Latest()
    # Within a frame a series' rows may stand in any order; between frames revisions grow.
    shuffle = np.random.default_rng(seed)
    edges = [0, *sorted(c for c in cuts if c < len(rows)), len(rows)]
    for start, stop in itertools.pairwise(edges):
        part = [rows[start + i] for i in shuffle.permutation(stop - start)]
        if part:
            latest.apply(_batch(part))
    assert {k: list(v) for k, v in _state(latest).items()} == oracle


_SAID = st.sampled_from(
    [(Cause.READING, 1, 0), (Cause.READING, 3, 1), (Cause.REDRIVE, 1, 0), (Cause.OVERRIDE, 4, OVERRIDDEN),
     (Cause.QUALITY_DECIDED, 3, 16), (Cause.NEIGHBOUR, 3, NEIGHBOUR)]
)  # fmt: skip
_VERDICTS = (Cause.OVERRIDE, Cause.QUALITY_DECIDED, Cause.NEIGHBOUR)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1), _SAID), max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_latest_is_what_the_store_makes_of_each_time(
    given_rows: list[tuple[int, int, int, tuple[int, int, int]]], cuts: list[int]
) -> None:
    """Sent again, set by a person, judged afterwards: reading by reading as docs/records.md says, for every time."""
    stored: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for r, (s, t, v, (cause, flag, tests)) in enumerate(given_rows):
        old = stored.get((s, t))
        same = old is not None and old[0] == v
        wins = same if cause in _VERDICTS else old is None or not (same and old[2] & OVERRIDDEN)
        if wins and (old is None or old[:3] != (v, flag, tests)):
            stored[s, t] = (v, flag, tests, r)
    expected = {f"s{s}": [t, *stored[s, t]] for s, t in sorted(stored)}  # of each series the newest time stays
    latest = Latest()
    edges = [0, *sorted(c for c in cuts if c < len(given_rows)), len(given_rows)]
    for start, stop in itertools.pairwise(edges):
        part = list(enumerate(given_rows))[start:stop]
        if part:
            rows = [(s, t, v, r) for r, (s, t, v, _) in part]
            said = zip(*(one for _, (_, _, _, one) in part), strict=True)
            more = {name: list(column) for name, column in zip(("cause", "flag", "tests"), said, strict=True)}
            latest.apply(_batch(rows, **more))
    arrays = latest.copy()
    columns = [arrays[name].tolist() for name in ("time", "value", "flag", "tests", "revision")]
    found = {key[0]: list(rest) for key, *rest in zip(latest.names.keys, *columns, strict=True)}
    assert {key: rest for key, rest in found.items() if rest[0] != NEVER} == expected


def test_rows_say_whether_they_moved_the_latest() -> None:
    """Exactly one row a series of a frame is its latest; an older one is none."""
    latest = Latest()
    assert latest.apply(_batch([(0, 5, 1, 1), (1, 5, 1, 1), (0, 6, 2, 2)])).moved.tolist() == [False, True, True]
    assert latest.apply(_batch([(0, 4, 9, 3), (1, 5, 7, 3)])).moved.tolist() == [False, True]


def test_what_is_driven_again_was_not_heard_now() -> None:
    """A re-driven reading moves the value but not when its station was heard; nor does what is said of a reading."""
    latest = Latest()
    latest.apply(_batch([(0, 5, 1, 10)]))
    latest.apply(_batch([(0, 6, 2, 99)], cause=[Cause.REDRIVE]))
    assert (latest.value[0], latest.heard[0]) == (2, 10)
    for cause in _VERDICTS:
        latest.apply(_batch([(0, 6, 2, 200)], cause=[cause], flag=[4]))
    assert (latest.flag[0], latest.heard[0]) == (4, 10)


def test_latest_of_fifty_thousand_series_is_whole(tmp_path: Path) -> None:
    """Every series of 6,250 stations is in one answer, with its own value."""
    keys = [
        p.key for p in load_properties() if p.domain in {"air", "weather"} and p.plausible[0] <= 1 <= p.plausible[1]
    ]
    catalogue = synthetic_catalogue(6250, keys[:8])
    with running(tmp_path / "data", catalogue) as run:
        at = run.now_ms()
        names = list(catalogue.stations)
        for i, name in enumerate(names):
            readings = {key: 1 + (i + k) % 7 / 100 for k, key in enumerate(keys[:8])}
            payload = b'{"time":%d,"readings":%s}' % (at, str(readings).replace("'", '"').encode())
            run.core.receive(
                f"qt/bench/{name}/up".encode(), payload, qos=0, dup=False, retain=False, packet_id=0,
                properties=None, now_us=at * 1000,
            )  # fmt: skip
        run.publish(names[0], network="bench")
        run.settle()
        rows = run.get("latest")["rows"]
        assert len(rows) == 50_000
        found = {(row[0], row[1]): row[4] for row in rows}
        for i in (0, 3, 6249):
            for k, key in enumerate(keys[:8]):
                assert found[names[i], key] == pytest.approx(1 + (i + k) % 7 / 100)
        assert len(run.get("stations")["features"]) == 6250


def test_rate_is_over_a_sliding_window() -> None:
    """Messages a second over the last full seconds; what is older no longer counts."""
    rates = Rates()
    second = 1_000_000
    none = np.zeros(0, np.int64)
    assert rates.per_s(100 * second) == 0
    for s in range(100, 110):
        rates.add(s * second, 50, none)
    assert rates.per_s(110 * second) == 50
    assert rates.per_s((110 + RATE_S + 1) * second) == 0


def test_p99_is_within_a_bucket() -> None:
    """The percentile is never told smaller than it is, and at most one bucket larger."""
    rates = Rates()
    assert rates.p99_ms(0) is None
    latencies = np.arange(1, 1001) * 1000
    rates.add(0, 1000, latencies)
    found = rates.p99_ms(0)
    assert found is not None
    assert 990 <= found <= 990 * 1.08
    assert rates.p99_ms(120_000_000) is None


def test_every_code_has_words(run: Running) -> None:
    """No check, level, flag, domain, unit or reason code of the program is without a name in both languages."""
    del run
    assert {test["key"] for test in words.tests().values()} == set(BITS)
    assert set(words.LEVEL_WORDS) == set(LEVELS)
    assert set(words.FLAGS) == {int(flag) for flag in Flag}
    assert set(words.DOMAINS) == set(get_args(Domain))
    assert set(words._HEADLINES) <= {*get_args(Domain), *get_args(Kind)}
    dictionary = load_properties()
    assert all(key in dictionary for keys in words._HEADLINES.values() for key in keys)
    plain = re.compile(r"[A-Za-z%/]*")
    assert [
        p.unit
        for p in dictionary
        if not plain.fullmatch(words.unit_label(p.unit)) and p.unit == words.unit_label(p.unit)
    ] == []


def test_every_reason_code_has_advice() -> None:
    """Reason codes are found in the sources of what refuses; each has a name and advice in both languages."""
    codes = {reason.value for reason in Refused}
    refuses = re.compile(
        r'(?:_Refusal\(|refused\.append\(\(\w+, |"(?:decode|locate|convert|process)", |reason, detail = )"([a-z_]+)"'
    )
    for path in (*ROOT.glob("ingest/decoders/*.py"), *ROOT.glob("processors/*.py")):
        codes |= set(refuses.findall(path.read_text(encoding="utf-8")))
    assert {"unknown_device", "bad_json", "not_finite", "too_large", "internal_error"} <= codes
    assert codes - set(words.REASONS) == set()
