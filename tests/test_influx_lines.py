"""Line protocol text and what is saved beside it: the parts of the InfluxDB store that need no server."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingtu.contracts import Progress, SavedState, StateDelta
from qingtu.errors import RetryLater, VersionError
from qingtu.store.books import COLUMNS
from qingtu.store.contract import PrimaryStore
from qingtu.store.duckdb import DuckStore
from qingtu.store.influx import InfluxStore
from qingtu.store.influx.client import Refused, read_csv, rows_of_csv
from qingtu.store.influx.lines import Explicit, Lines, ReadingText, fields, plain, string, tag, tags
from qingtu.store.influx.refusals import REQUEST_BYTES, deliver, isolate, requests
from qingtu.store.influx.rows import LANES, place
from qingtu.store.influx.state import StreamState, delta, restore
from qingtu.store.influx.wide import tags_of, text
from qingtu.store.merging import Versions
from qingtu.store.names import SeriesNames

NAMES = [(0, "A", "pm25", "main"), (1, "A", "o3", "main"), (2, "B b", "pm25", "back,up"), (3, "A", "no_such", "main")]


def versions(values: list[float], **more: Any) -> Versions:
    """Make versions of these values."""
    n = len(values)
    columns = {"flag": 1, "tests": 0, "revision": 7, "known_us": 9, "cause": 0} | more
    kinds = {"flag": "u1", "tests": "u4", "revision": "i8", "known_us": "i8", "cause": "u1"}
    arrays = [np.broadcast_to(np.array(columns[name], kinds[name]), n).copy() for name in kinds]
    return Versions(np.array(values), *arrays)


def lines(
    series: list[int], time: list[int], of: Versions, starts: list[int], shared: list[bool], more: Any = None
) -> list[str]:
    """Make lines and return them as text."""
    writer = ReadingText(SeriesNames(NAMES))
    writer.grow()
    first = np.zeros(len(series), np.bool_)
    first[starts] = True
    own = np.array(shared, np.bool_)[np.cumsum(first) - 1]
    made = writer.text(
        np.array(series, np.int32), np.array(time, np.int64), of, first, np.array(shared), more or plain(of, own)
    )
    return [made.line(i) for i in range(len(made))]


def test_readings_of_one_point_are_one_line() -> None:
    """What they share stands in it once; a missing value has a flag only; names are escaped."""
    found = lines(
        [0, 1, 2, 3], [5, 5, 6, 7], versions([1.5, np.nan, 2.0, 3.0], flag=[1, 9, 3, 2]), [0, 2, 3], [True, True, True]
    )
    assert found == [
        "air,station=A,channel=main pm25=1.5,pm25_flag=1i,o3_flag=9i,rev=7i,known=9i 5000",
        "air,station=B\\ b,channel=back\\,up pm25=2,pm25_flag=3i,rev=7i,known=9i 6000",
        "other,station=A,channel=main no_such=3,no_such_flag=2i,rev=7i,known=9i 7000",
    ]


def test_what_is_not_shared_stands_beside_the_reading() -> None:
    """Tests that did not pass, a revision of its own; all of it for what was replaced."""
    of = versions([1.0, 2.0], tests=[4, 0])
    assert lines([0, 1], [5, 5], of, [0], [False]) == [
        (
            "air,station=A,channel=main pm25=1,pm25_flag=1i,pm25_tests=4i,pm25_rev=7i,pm25_known=9i,"
            "o3=2,o3_flag=1i,o3_rev=7i,o3_known=9i 5000"
        )
    ]
    replaced = Explicit(np.array([1]), np.array([True]), np.array([0]), np.array([1], np.int8))
    assert lines([0, 1], [5, 5], of, [0], [True], replaced) == [
        (
            "air,station=A,channel=main pm25=1,pm25_flag=1i,o3=2,o3_flag=1i,o3_tests=0i,o3_rev=7i,o3_known=9i,o3_n=0i,"
            "o3_void=1i,rev=7i,known=9i 5000"
        )
    ]


def test_nothing_is_no_line() -> None:
    """Also of an empty list of lines."""
    assert lines([], [], versions([]), [], []) == []
    assert len(Lines.of([])) == 0


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_numbers_come_back_as_they_were(values: list[float]) -> None:
    """To the last bit, whatever their size."""
    found = lines(
        [0] * len(values), list(range(len(values))), versions(values), list(range(len(values))), [True] * len(values)
    )
    back = [float(re.search(r"pm25=([^,]+),", line)[1]) for line in found]  # type: ignore[index]
    assert [v.hex() for v in back] == [v.hex() for v in values]


@given(st.text(st.characters(exclude_characters="\n\r\\", exclude_categories=["Cs"]), min_size=1))
def test_tags_come_back_as_they_were(value: str) -> None:
    """As SHOW SERIES gives them."""
    assert tags_of(f"air{tags(channel='x', station=value)}") == {"channel": "x", "station": value}


def test_text_that_a_tag_cannot_hold() -> None:
    """A line break would end the line, a backslash at the end would swallow what follows."""
    assert tag("a\nb") == "a\\ b"
    assert tag("a\\") == "a＼"
    assert tags(station="", channel="x") == ",channel=x"
    assert text("it's \\") == "'it\\'s \\\\'"


def test_fields_by_their_kind() -> None:
    """Whole numbers have an i, also numpy's and truth; what is not there is left out."""
    written = fields(a=1, b=1.5, c=None, d=float("nan"), e='x"\\\n', f=True, g=-3, h="")
    assert written == 'a=1i,b=1.5,e="x\\"\\\\\n",f=1i,g=-3i,h=""'
    assert string("") == '""'


def test_rows_of_one_frame_are_never_one_point() -> None:
    """Slots and lanes tell more rows apart than a frame holds."""
    seen = {place(5, n) for n in range(1 << 16)}
    assert len(seen) == 1 << 16
    assert LANES * 1000 > 1 << 16
    assert all(5000 <= time < 6000 for _, time in seen)


def test_csv_is_read_by_name() -> None:
    """A column that the server leaves out is null; quotes and line breaks stay in text."""
    data = b'name,tags,time,v,s\nair,,1795392000000000123,1,"a\nb""c"\nair,,-1,,\n'
    table = read_csv(data, {"v": pa.float64(), "s": pa.string(), "gone": pa.int64()})
    assert table.to_pylist() == [
        {"time": 1795392000000000, "slot": 123, "v": 1.0, "s": 'a\nb"c', "gone": None},
        {"time": -1, "slot": 999, "v": None, "s": None, "gone": None},
    ]
    assert read_csv(b"", {"v": pa.float64()}).num_rows == 0
    assert rows_of_csv(b'name,tags,key\n,,"a,b"\n') == [{"name": "", "tags": "", "key": "a,b"}]


# ------------------------------------------------------------------------------------------------------- refusals


class Server:
    """Takes lines as InfluxDB 2 does: one bad line fails its request, a guilty one is dropped and named alone."""

    def __init__(self, bad: set[str], guilty: set[str]) -> None:
        self.bad, self.guilty = bad, guilty
        self.stored: set[str] = set()
        self.requests = 0

    def write(self, data: bytes) -> None:
        """Store, or refuse."""
        self.requests += 1
        found = data.decode().splitlines()
        if any(line in self.bad for line in found):
            raise Refused(400, "unable to parse")
        self.stored.update(line for line in found if line not in self.guilty)
        dropped = [line for line in found if line in self.guilty]
        conflicts = [line for line in dropped if " v=" in line]
        if conflicts:  # too old ones beside it are not counted
            raise Refused(422, f'input field "v" on measurement "m" is type float dropped={len(conflicts)}')
        if dropped:
            raise Refused(422, f"partial write: dropped {len(dropped)} points outside retention policy")


@given(
    kinds=st.lists(st.sampled_from(["good", "good", "bad", "conflict", "old"]), max_size=40), batch=st.integers(1, 50)
)
def test_only_the_guilty_lines_are_found_and_all_others_are_stored(kinds: list[str], batch: int) -> None:
    """Whatever stands together in a request, and whatever the server names."""
    every = [f"m,t=x {'v' if kind == 'conflict' else 'w'}=1 {i}" for i, kind in enumerate(kinds)]
    by = {
        kind: {line for line, k in zip(every, kinds, strict=True) if k == kind} for kind in ("bad", "conflict", "old")
    }
    server = Server(by["bad"], by["conflict"] | by["old"])
    whole = Lines.of(every)
    found: set[str] = set()
    for first, last in deliver(whole, server.write, batch):
        some = whole.take(np.arange(first, last))
        found |= {some.line(at) for at in isolate(some, server.write)}
    assert found == by["bad"] | by["conflict"] | by["old"]
    assert server.stored == set(every) - found


def test_requests_are_cut_by_number_and_by_size() -> None:
    """A rejected message may be large; one line that is larger than a request goes alone."""
    assert list(requests(Lines.of(["a"] * 5), 2)) == [(0, 2), (2, 4), (4, 5)]
    large = "x" * (REQUEST_BYTES // 2)
    assert list(requests(Lines.of(["a", large, large, "a", large * 3, "a"]), 100)) == [(0, 2), (2, 4), (4, 5), (5, 6)]


def test_thousands_of_equal_refusals_cost_few_requests() -> None:
    """Somebody changed a field's type: the server says that it dropped all of them."""
    every = [f"m,t=x {'v' if i % 2 else 'w'}=1 {i}" for i in range(4000)]
    server = Server(set(), {line for line in every if " v=" in line})
    assert len(isolate(Lines.of(every), server.write)) == 2000
    assert server.requests < 10


def test_a_server_that_is_away_is_no_refusal() -> None:
    """It ends the search: the same lines come again."""

    def away(_: bytes) -> None:
        raise RetryLater("away")

    with pytest.raises(RetryLater):
        isolate(Lines.of(["m v=1 1"]), away)


def test_the_servers_words_are_cut() -> None:
    """It echoes a bad line whole, however long."""
    refused = Refused(400, "unable to parse 'x" + "y" * 70_000)
    assert len(refused.words) == 300
    assert len(str(refused)) < 400


# ---------------------------------------------------------------------------------------------------------- state

_counts = st.dictionaries(
    st.tuples(st.sampled_from(["n", "m", ""]), st.integers(498_000, 498_200)), st.integers(-3, 9), max_size=4
)
_commits = st.lists(
    st.tuples(_counts, st.dictionaries(st.integers(20_000, 20_080), st.integers(1, 9), max_size=3)), max_size=12
)


class Kept:
    """Parts as a bus keeps them."""

    def __init__(self) -> None:
        self.saved: SavedState | None = None

    def save(self, change: StateDelta) -> None:
        """Put and drop."""
        parts = dict(self.saved.parts if self.saved else {}) | dict(change.put)
        for name in change.drop:
            del parts[name]
        self.saved = SavedState(change.next_offset, parts)


@given(_commits, st.integers(20_000, 20_090))
def test_state_comes_back_from_its_parts(commits: list[tuple[dict[Any, int], dict[int, int]]], before: int) -> None:
    """Whatever moves: hours become months, days expire, and only what changed is put."""
    bus, state = Kept(), StreamState()
    expected = 0
    for number, (counts, days) in enumerate(commits):
        rows = {key: np.full(len(COLUMNS), n, np.int64) for key, n in counts.items()}
        after = state.counted(rows, days)
        if number == 2:
            after, gone = after.aged(before * 10, before)
            expected += gone
        change = delta(state, after)
        bus.save(StateDelta(number, change.put, change.drop))
        state = after
    found = restore(bus.saved)
    assert {h: {n: r.tolist() for n, r in b.items()} for h, b in found.books.items()} == {
        h: {n: r.tolist() for n, r in b.items()} for h, b in state.books.items()
    }
    assert dict(found.days) == dict(state.days)
    assert (found.expired, found.kept_from) == (expected, state.kept_from)
    hours = [name for name in (bus.saved.parts if bus.saved else ()) if name.startswith("books/h")]
    assert len(hours) <= 24 * 3


def test_a_commit_puts_only_what_it_changes() -> None:
    """One hour and one month, though there are many."""
    state = StreamState()
    for hour in range(498_000, 498_100):
        state = state.counted({("n", hour): np.ones(len(COLUMNS), np.int64)}, {hour // 24: 5})
    after = state.counted({("n", 498_099): np.ones(len(COLUMNS), np.int64)}, {498_099 // 24: 1})
    assert sorted(delta(state, after).put) == ["books/h498099", f"days/{498_099 // 24 // 31}", "head", "pending"]


def test_a_newer_state_is_refused() -> None:
    """The message names both versions."""
    with pytest.raises(VersionError, match=r"version 9.*reads 1"):
        restore(SavedState(0, {"head": b'{"v": 9}'}))
    assert restore(None).progress == Progress(0, -1)


def test_both_stores_keep_the_same_contract() -> None:
    """As mypy checks it; at run time, that every name is there."""
    stores: tuple[type[PrimaryStore], ...] = (DuckStore, InfluxStore)
    names = [name for name in dir(PrimaryStore) if not name.startswith("_")]
    assert len(names) > 20
    for store in stores:
        assert [name for name in names if not callable(getattr(store, name, None))] == []
