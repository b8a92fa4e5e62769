"""What every primary store must do. A store's own test module subclasses :class:`StoreSuite`.

It gives a fixture ``open_store``: a function that opens the store of one test, and again after ``close`` the same one;
``fresh_store`` does so for an empty store each call, for tests that try many histories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qingtu.contracts import Progress, ReadingQuery, Store
from qingtu.errors import QingtuError
from qingtu.records import OVERRIDDEN, PROCESSED, Cause, Frame, Outcome, position
from tests.store.build import NAN, SERIES, T0, Message, Reading, frames_of, processed
from tests.store.model import Model

FAR = 1 << 60
WHOLE = (T0 - 10**12, T0 + 10**13)
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


class BookStore(Store, Protocol):
    """A store that keeps the ledger's books, as a primary store does."""

    def ledger(self) -> tuple[dict[tuple[str, int], dict[str, int]], dict[int, int]]: ...


OpenStore = Callable[[], BookStore]

_readings = st.builds(
    Reading,
    series=st.integers(0, 2),
    minute=st.integers(0, 4),
    value=st.sampled_from([1.0, 2.0, NAN]),
    flag=st.sampled_from([1, 3]),
    tests=st.sampled_from([0, 4]),
)
_verdicts = st.builds(
    Reading,
    series=st.integers(0, 2),
    minute=st.integers(0, 4),
    value=st.sampled_from([1.0, 2.0]),
    flag=st.sampled_from([3, 4]),
    tests=st.sampled_from([4, 16]),
    cause=st.just(Cause.QUALITY_DECIDED),
)
MESSAGES = st.builds(
    lambda readings, verdicts, known: Message((*readings, *verdicts), known),
    st.lists(_readings, max_size=4),
    st.lists(_verdicts, max_size=1),
    st.integers(0, 20),  # clocks are set back, too
)


def stored(store: Store, **query: Any) -> list[tuple[Any, ...]]:
    """Return all readings of SERIES as the model writes them."""
    table = store.readings(ReadingQuery(SERIES, *WHOLE, **query))
    columns = ("series", "time", "value", "flag", "tests", "revision", "known_at")
    return list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))


def corrections_in(found: Mapping[str, Any] | None, series: int, time: int) -> list[tuple[Any, ...]]:
    """Return the corrections of what :meth:`~qingtu.contracts.Store.reading` found, as the model writes them."""
    return [
        (series, time, *(c[f"{side}_{name}"] for side in ("old", "new") for name in ("value", "flag", "revision")))
        for c in (found["corrections"] if found else ())
    ]


def apply_in(store: Store, frames: Sequence[Frame], cuts: Sequence[int]) -> None:
    """Apply frames in calls that are cut at these numbers."""
    edges = [0, *sorted({c for c in cuts if 0 < c < len(frames)}), len(frames)]
    for a, b in pairwise(edges):
        store.apply(PROCESSED, 0, frames[a:b], b)


def counted(store: BookStore) -> tuple[int, ...]:
    """Return how many readings are booked as stored, revised, repeated and reflagged, over all books."""
    books = store.ledger()[0].values()
    return tuple(sum(b[column] for b in books) for column in ("r_stored", "r_revised", "r_repeated", "reflagged"))


class StoreSuite:
    """Behaviour that stages count on."""

    @SLOW
    @given(
        messages=st.lists(MESSAGES, min_size=1, max_size=12),
        frame_cuts=st.lists(st.integers(1, 11)),
        apply_cuts=st.lists(st.integers(1, 11)),
        at=st.integers(0, 12),
    )
    def test_any_history_in_any_cut_gives_what_the_model_says(
        self,
        fresh_store: OpenStore,
        messages: list[Message],
        frame_cuts: list[int],
        apply_cuts: list[int],
        at: int,
    ) -> None:
        """Late rows, equal keys in a frame and across, revisions, verdicts, NaN: now, as of and known by any moment."""
        store = fresh_store()
        frames = frames_of(messages, frame_cuts)
        apply_in(store, frames, apply_cuts)
        model = Model.of(messages, frame_cuts)
        assert stored(store) == model.rows()
        some = position(at // 3, at % 3)
        assert stored(store, as_of=some) == model.rows(as_of=some)
        assert stored(store, known_by_us=T0 + at * 1_000_000) == model.rows(known_by=T0 + at * 1_000_000)
        assert counted(store) == (model.stored, model.revised, model.repeated, model.reflagged)
        store.close()

    def test_two_thousand_equal_keys_in_one_frame(self, open_store: OpenStore) -> None:
        """A device that repeats one time: every step is kept, among rows of other keys, late ones and verdicts."""
        store = open_store()
        rng = np.random.default_rng(7)
        values = rng.choice([1.0, 2.0, 3.0, NAN], 2000).tolist()
        flags = rng.choice([1, 3], 2000).tolist()
        same = [
            Message((Reading(0, 5, value, flag),), i) for i, (value, flag) in enumerate(zip(values, flags, strict=True))
        ]
        judged = Reading(0, 5, values[-1], 4, 16, Cause.QUALITY_DECIDED)
        others = [Message((Reading(1, i % 7000 - 3000, float(i)),), i) for i in range(0, 9000, 50)]
        messages = [Message((Reading(0, 5, 9.0), Reading(1, 0, 9.0))), *same, *others, Message((judged,), 2000)]
        apply_in(store, frames_of(messages, [1]), [])
        model = Model.of(messages, [1])
        assert model.revised > 1000
        assert stored(store) == model.rows()
        for at in (0, 1, 999, 2000):
            assert stored(store, as_of=position(1, at)) == model.rows(as_of=position(1, at))
        assert counted(store) == (model.stored, model.revised, model.repeated, model.reflagged)
        store.close()

    @SLOW
    @given(
        messages=st.lists(MESSAGES, min_size=2, max_size=10),
        again=st.integers(0, 9),
        cuts=st.lists(st.integers(1, 9)),
    )
    def test_frames_that_come_again_change_nothing(
        self, fresh_store: OpenStore, messages: list[Message], again: int, cuts: list[int]
    ) -> None:
        """A stage that was killed emits frames again, at later offsets of the stream and in other calls."""
        store = fresh_store()
        frames = frames_of(messages, range(1, len(messages)))
        apply_in(store, frames, [])
        before, books = stored(store), store.ledger()
        for call, at in enumerate(range(min(again, len(frames) - 1), len(frames))):
            store.apply(PROCESSED, 0, [frames[at]], len(frames) + call + 1)
        apply_in(store, frames, cuts)
        assert stored(store) == before
        assert store.ledger() == books
        store.close()

    def test_what_was_applied_is_there_after_opening_again(self, open_store: OpenStore) -> None:
        """Rows, books and progress; and the next late row is still merged, not doubled."""
        store = open_store()
        store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 5, 1.0), Reading(2, 1, NAN, 9)))])], 1)
        before, books = stored(store), store.ledger()
        store.close()
        store = open_store()
        assert stored(store) == before
        assert store.ledger() == books
        assert store.progress(PROCESSED, 0) == Progress(1, 0)
        store.apply(PROCESSED, 0, [processed(1, [Message((Reading(0, 5, 2.0), Reading(0, 4, 3.0)))])], 2)
        assert [row[2] for row in stored(store)] == [3.0, 2.0, None]
        store.close()

    def test_progress_moves_with_frames_that_are_skipped(self, open_store: OpenStore) -> None:
        """Else a stage would read emitted-again frames for ever."""
        store = open_store()
        assert store.progress(PROCESSED, 0) == Progress(0, -1)
        store.apply(PROCESSED, 0, [processed(4, [])], 1)
        done = store.apply(PROCESSED, 0, [processed(3, [Message((Reading(0, 1, 1.0),))])], 2)
        assert store.progress(PROCESSED, 0) == Progress(2, 4)
        assert (done.frames, done.readings) == (0, 0)
        assert stored(store) == []
        store.close()

    def test_a_frame_without_origin_is_refused_and_nothing_is_applied(self, open_store: OpenStore) -> None:
        """Without an origin nobody could tell whether it came before."""
        store = open_store()
        nameless = Frame({"stream": PROCESSED, "origin": None, "clock": T0})
        with pytest.raises(QingtuError, match="origin"):
            store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 1.0),))]), nameless], 2)
        assert stored(store) == []
        store.close()

    def test_range_and_limit(self, open_store: OpenStore) -> None:
        """Start inclusive, end exclusive; a limit keeps the newest; unknown series give nothing."""
        store = open_store()
        store.apply(PROCESSED, 0, [processed(0, [Message(tuple(Reading(0, m, float(m)) for m in range(10)))])], 1)
        minute = 60_000_000
        table = store.readings(ReadingQuery([("X", "x", "main"), SERIES[0]], T0 + 2 * minute, T0 + 5 * minute))
        assert table.column("value").to_pylist() == [2.0, 3.0, 4.0]
        assert set(table.column("series").to_pylist()) == {1}
        newest = store.readings(ReadingQuery(SERIES, *WHOLE, limit=2))
        assert newest.column("value").to_pylist() == [8.0, 9.0]
        store.close()

    def test_a_verdict_is_about_the_value_that_it_judged(self, open_store: OpenStore) -> None:
        """It counts though the same message brought the value (equal positions); not once the value was replaced."""
        store = open_store()
        spike = Reading(0, 1, 9.0, 4, 16, Cause.QUALITY_DECIDED)
        store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 9.0), Reading(0, 2, 1.0), spike))])], 1)
        assert [row[3] for row in stored(store)] == [4, 1]
        store.apply(PROCESSED, 0, [processed(1, [Message((Reading(0, 1, 1.5),)), Message((spike,))])], 2)
        assert [(row[2], row[3]) for row in stored(store)] == [(1.5, 1), (1.0, 1)]
        assert sum(b["reflagged"] for b in store.ledger()[0].values()) == 1
        store.close()

    def test_an_override_is_about_the_value_that_a_person_saw(self, open_store: OpenStore) -> None:
        """It changes flag and bits, newest of its series or not; a later one takes its place; not once replaced."""
        store = open_store()
        bit = OVERRIDDEN
        store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 9.0), Reading(0, 2, 1.0)))])], 1)
        first, second = (Reading(0, 1, 9.0, 4, bit, Cause.OVERRIDE), Reading(0, 2, 1.0, 3, bit, Cause.OVERRIDE))
        store.apply(PROCESSED, 0, [processed(1, [Message((first,)), Message((second,))])], 2)
        assert [(row[2], row[3], row[4]) for row in stored(store)] == [(9.0, 4, bit), (1.0, 3, bit)]
        again = Reading(0, 1, 9.0, 1, bit, Cause.OVERRIDE)
        gone = [
            Message((Reading(0, 2, 1.5),)),
            Message((second,)),
            Message((Reading(1, 1, 5.0, 1, bit, Cause.OVERRIDE),)),
        ]
        store.apply(PROCESSED, 0, [processed(2, [Message((again,)), *gone])], 3)
        assert [(row[2], row[3], row[4]) for row in stored(store)] == [(9.0, 1, bit), (1.5, 1, 0)]
        assert sum(b["reflagged"] for b in store.ledger()[0].values()) == 0
        store.close()

    def test_what_a_person_said_stands_when_the_same_value_comes_again(self, open_store: OpenStore) -> None:
        """Sent or driven again, alone or with others of its key; another value ends it."""
        store = open_store()
        bit = OVERRIDDEN
        store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 9.0), Reading(0, 2, 1.0)))])], 1)
        words = (Reading(0, 1, 9.0, 4, bit, Cause.OVERRIDE), Reading(0, 2, 1.0, 3, bit, Cause.OVERRIDE))
        store.apply(PROCESSED, 0, [processed(1, [Message(words)])], 2)
        again = [Message((Reading(0, 1, 9.0),)), Message((Reading(0, 2, 1.0),)), Message((Reading(0, 2, 1.0, 3, 1),))]
        store.apply(PROCESSED, 0, [processed(2, again)], 3)
        assert [(row[2], row[3], row[4]) for row in stored(store)] == [(9.0, 4, bit), (1.0, 3, bit)]
        assert sum(b["r_repeated"] for b in store.ledger()[0].values()) == 3
        store.apply(PROCESSED, 0, [processed(3, [Message((Reading(0, 2, 1.5),)), Message((Reading(0, 2, 1.0),))])], 4)
        assert [(row[2], row[3], row[4]) for row in stored(store)] == [(9.0, 4, bit), (1.0, 1, 0)]
        store.close()

    def test_outcomes_are_counted_by_network_and_hour(self, open_store: OpenStore) -> None:
        """Each message in exactly one; readings of duplicates and refused ones have their own columns."""
        store = open_store()
        one = Reading(0, 1, 1.0)
        messages = [
            Message((one,), 0),
            Message((), 10, Outcome.DUPLICATE, refused=3),
            Message((Reading(0, 2, 1.0),), 20, Outcome.QUARANTINED, refused=2),
            Message((), 30, Outcome.IGNORED, network=""),
            Message((one,), 3700),
        ]
        store.apply(PROCESSED, 0, [processed(0, messages)], 1)
        books, at = store.ledger()
        hour = T0 // 3_600_000_000
        assert at == {0: 0}
        assert set(books) == {("n", hour), ("n", hour + 1), ("", hour)}
        first = books["n", hour]
        names = ("stored", "duplicate", "quarantined", "ignored")
        assert [first[c] for c in names] == [1, 1, 1, 0]
        assert [first[c] for c in ("decoded", "r_stored", "r_duplicate", "r_quarantined")] == [7, 2, 3, 2]
        assert [books["", hour][c] for c in names] == [0, 0, 0, 1]
        assert [books["n", hour + 1][c] for c in ("stored", "r_stored", "r_repeated")] == [1, 0, 1]
        store.close()
