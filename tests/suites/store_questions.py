"""What a primary store answers beyond readings: corrections, latest, figures, events, alerts, quarantine, export.

A store's own test module subclasses :class:`StoreQuestionsSuite` and gives the fixture ``open_store`` of
:mod:`tests.suites.store`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from qingtu import records
from qingtu.clock import DAY, HOUR, MINUTE, SECOND
from qingtu.contracts import FigureQuery
from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED, Cause, Outcome, away, position
from tests.store.build import (
    NAN,
    SERIES,
    T0,
    Message,
    Reading,
    alert_frame,
    event_frame,
    figure_frame,
    frames_of,
    processed,
    reading,
    refused,
    rejected_frame,
)
from tests.store.model import Model
from tests.suites.store import MESSAGES, SLOW, OpenStore, apply_in, corrections_in, counted, stored

if TYPE_CHECKING:
    from pathlib import Path


class StoreQuestionsSuite:
    """Answers that the API, the ledger and explain count on."""

    @SLOW
    @given(messages=st.lists(MESSAGES, min_size=1, max_size=10), cuts=st.lists(st.integers(1, 9)))
    def test_corrections_tell_every_step(
        self, fresh_store: OpenStore, messages: list[Message], cuts: list[int]
    ) -> None:
        """Each correction goes from one version to the next, and latest is the newest time of each series."""
        store: Any = fresh_store()
        apply_in(store, frames_of(messages, cuts), [])
        model = Model.of(messages, cuts)
        steps = []
        chains = {key: chain for key, chain in model.chains.items() if chain}
        for (series, time), chain in chains.items():
            found = store.reading(SERIES[series], time)
            assert (found["value"], found["flag"], found["tests"]) == (chain[-1].value, chain[-1].flag, chain[-1].tests)
            steps += corrections_in(found, series, time)
        assert sorted(map(repr, steps)) == sorted(map(repr, model.corrections()))
        assert store.count("corrections") == len(steps)
        assert store.count("readings") == len(chains) == model.stored
        newest: dict[int, tuple[Any, ...]] = {row[0]: row for row in model.rows()}
        mine = {
            SERIES.index((r["station"], r["property"], r["channel"])): (r["time"], r["value"], r["flag"])
            for r in store.latest().to_pylist()
        }
        assert mine == {series: (row[1], row[2], row[3]) for series, row in newest.items()}
        store.close()

    def test_one_reading_with_its_corrections(self, open_store: OpenStore) -> None:
        """Explain reads them, oldest first; a value that was driven again says so."""
        store: Any = open_store()
        again = Message((Reading(0, 1, 7.0, cause=Cause.REDRIVE),), redrive_of=0)
        store.apply(PROCESSED, 0, [processed(i, [reading(1, float(i))]) for i in range(3)], 3)
        store.apply(PROCESSED, 0, [processed(3, [again])], 4)
        found = store.reading(SERIES[0], T0 + MINUTE)
        assert found["value"] == 7.0
        steps = [(c["old_value"], c["new_value"], c["cause"]) for c in found["corrections"]]
        assert steps == [(0.0, 1.0, 0), (1.0, 2.0, 0), (2.0, 7.0, Cause.REDRIVE)]
        assert store.reading(SERIES[0], T0) is None
        assert store.reading(("X", "x", "main"), T0) is None
        store.close()

    def test_equal_events_are_one_whatever_the_cut(self, fresh_store: OpenStore) -> None:
        """In one frame, in two, and driven again: an event is told by station, time, kind and attributes."""
        events = [
            ("A", "door", 1, "{}"), ("A", "door", 1, "{}"), ("A", "door", 2, "{}"), ("A", "fire", 1, "{}"),
            ("A", "door", 1, '{"n": 1}'),
        ]  # fmt: skip
        for frames in ([event_frame(0, events)], [event_frame(i, [e]) for i, e in enumerate([*events, events[0]])]):
            store: Any = fresh_store()
            store.apply(PROCESSED, 0, frames, len(frames))
            found = [(e["kind"], (e["time"] - T0) // SECOND, e["attributes"]) for e in store.events(T0, T0 + HOUR)]
            assert sorted(found) == [
                ("door", 1, '{"n": 1}'), ("door", 1, "{}"), ("door", 2, "{}"), ("fire", 1, "{}"),
            ]  # fmt: skip
            assert len(store.events(T0, T0 + HOUR, 1)) == 1
            store.close()

    def test_a_figure_that_changes_is_a_correction(self, open_store: OpenStore) -> None:
        """What is the same keeps its first revision; a value that goes is missing, not the old one."""
        store: Any = open_store()
        for origin, value in enumerate([10.0, 10.0, 11.0]):
            store.apply(FIGURES, 0, [figure_frame(origin, [(0, value, 60), (1, 5.0, 60)])], origin + 1)
        rows = store.figures("A", "pm25", T0, T0 + DAY)
        assert [(r["value"], r["revision"] >> 16, r["start"]) for r in rows] == [(11.0, 2, T0), (5.0, 0, T0 + HOUR)]
        store.apply(FIGURES, 0, [figure_frame(3, [(1, NAN, 0)]), figure_frame(4, [(1, 6.0, 60)])], 5)
        store.apply(FIGURES, 0, [figure_frame(5, [(0, NAN, 0)])], 6)
        changed = store.figure_corrections()
        steps = [(c["old_value"], c["new_value"], c["old_revision"] >> 16, c["new_revision"] >> 16) for c in changed]
        assert steps == [(11.0, None, 2, 5), (None, 6.0, 3, 4), (5.0, None, 0, 3), (10.0, 11.0, 0, 2)]
        assert [r["value"] for r in store.figures("A", "pm25", T0, T0 + DAY, what="hour")] == [None, 6.0]
        assert store.figures("A", "pm25", T0, T0 + DAY, channel="backup") == []
        store.close()

    def test_figures_as_they_were_published(self, open_store: OpenStore) -> None:
        """Before every position and at every time, whole."""
        store: Any = open_store()
        steps: list[list[tuple[int, float, int]]] = [
            [(0, 10.0, 60), (1, 5.0, 60)], [(0, 10.0, 60)], [(0, 11.0, 60), (2, 1.0, 3)], [(1, NAN, 0)], [(1, 6.0, 9)],
        ]  # fmt: skip
        query = FigureQuery([("X", "pm25", "main"), ("A", "pm25", "main")], T0, T0 + DAY, what="hour")
        noted = []
        for origin, rows in enumerate(steps):
            store.apply(FIGURES, 0, [figure_frame(origin, rows)], origin + 1)
            noted.append(store.figures_of(query).to_pylist())
        assert [len(rows) for rows in noted] == [2, 2, 3, 3, 3]
        assert {row["series"] for rows in noted for row in rows} == {1}
        for origin, rows in enumerate(noted):
            assert store.figures_of(replace(query, before=position(origin + 1, 0))).to_pylist() == rows
            assert store.figures_of(replace(query, known_by_us=T0 + origin * MINUTE)).to_pylist() == rows
            asked = store.figures("A", "pm25", T0, T0 + DAY, known_by_us=T0 + origin * MINUTE)
            assert asked == [{name: value for name, value in row.items() if name != "series"} for row in rows]
        assert store.figures_of(replace(query, before=position(0, 0))).num_rows == 0
        assert store.figures_of(replace(query, what="day")).num_rows == 0
        assert store.figures_of(replace(query, series=[])).num_rows == 0
        assert [row["what"] for row in store.figures_of(replace(query, what=None)).to_pylist()] == ["hour"] * 3
        store.close()

    def test_a_correction_keeps_both_sides_whole(self, open_store: OpenStore) -> None:
        """Expected number, reason and statistics are part of a figure; where it comes from is not."""
        store: Any = open_store()
        sides: list[dict[str, Any]] = [
            {"inputs": '{"newest_revision":1,"stats":{"min":1.0}}'},
            {"inputs": '{"newest_revision":2,"stats":{"min":1.0}}'},
            {"inputs": '{"newest_revision":3,"stats":{"min":0.5}}'},
            {"inputs": '{"newest_revision":3,"stats":{"min":0.5}}', "expected": 70, "reason": "too_few"},
        ]
        for origin, side in enumerate(sides):
            store.apply(FIGURES, 0, [figure_frame(origin, [(0, 10.0, 60)], **side)], origin + 1)
        late, early = store.figure_corrections(what="hour", station="A", prop="pm25")
        assert (early["old_inputs"], early["new_inputs"]) == (sides[0]["inputs"], sides[2]["inputs"])
        assert (late["old_expected"], late["new_expected"]) == (60, 70)
        assert (late["old_reason"], late["new_reason"], late["old_count"], late["old_valid"]) == (
            "",
            "too_few",
            60,
            True,
        )
        assert (late["known_at"], late["old_known_at"]) == (T0 + 3 * MINUTE, T0 + 2 * MINUTE)
        assert store.figure_corrections(T0 + 3 * MINUTE) == [late]
        assert store.figure_corrections(limit=1) == [late]
        assert store.figure_corrections(what="day") == store.figure_corrections(station="B") == []
        assert store.figure_corrections(prop="o3") == []
        store.close()

    def test_alerts_as_their_last_transition_left_them(self, open_store: OpenStore) -> None:
        """Unacknowledged first; who acted last with a state, the newest note; values come from the reading."""
        store: Any = open_store()
        steps = [
            [("one", "open", 2, ""), ("two", "open", 4, "")],
            [("one", "acknowledged", 2, "Li"), ("one", "comment", 2, "Wang"), ("three", "open", 1, "")],
            [("two", "resolved", 4, "")],
        ]
        store.apply(ALERTS, 0, [alert_frame(i, rows) for i, rows in enumerate(steps)], 3)
        store.apply(ALERTS, 0, [alert_frame(i, rows) for i, rows in enumerate(steps)], 6)  # again: skipped
        assert [(a["alert"], a["state"]) for a in store.alerts(active=True)] == [
            ("three", "open"),
            ("one", "acknowledged"),
        ]
        assert [(a["alert"], a["state"]) for a in store.alerts(active=False)][2] == ("two", "resolved")
        one = store.alert_now("one")
        assert repr(one) == repr(store.alerts(active=True)[1])  # NaN is not equal to itself
        assert (one["who"], one["note"], one["shown_value"], one["shown_limit"]) == ("Li", "note of Wang", 80.0, 75.0)
        assert (one["opened_at"], one["changed_at"]) == (T0, T0 + MINUTE)
        assert [t["state"] for t in store.alert("one")] == ["open", "acknowledged", "comment"]
        assert store.alert("none") == []
        assert store.alert_now("none") is None
        assert [(a["alert"], a["state"]) for a in store.alerts_of("A", "pm25", position(1, 2))] == [("three", "open")]
        store.close()

    def test_who_is_named_is_known(self, open_store: OpenStore) -> None:
        """By readings, events, figures or alerts, also after a restart; nobody else, and no pattern of a name."""
        store: Any = open_store()
        assert not any(store.knows(name) for name in ("", "A", "B"))
        store.apply(PROCESSED, 0, [processed(0, [reading(0, series=2)]), event_frame(1, [("E", "door", 1, "{}")])], 2)
        store.apply(FIGURES, 0, [figure_frame(0, [(0, 1.0, 60)])], 1)
        store.apply(ALERTS, 0, [alert_frame(0, [("one", "open", 1, "")])], 1)
        store.close()
        store = open_store()
        named = {name for name in ("", "A", "B", "E", "b", "%", "' OR '1'='1", "no") if store.knows(name)}
        assert named == {"A", "B", "E"}
        store.close()

    def test_expiry_takes_whole_days_and_is_remembered(self, open_store: OpenStore) -> None:
        """Readings, their corrections, events; how many readings is kept for the audit, over a restart."""
        store: Any = open_store()
        day = 24 * 60
        messages = [reading(0), reading(0, 2.0), reading(day - 1), reading(day), reading(2 * day)]
        store.apply(PROCESSED, 0, [processed(0, messages), event_frame(1, [("A", "door", 1, "{}")])], 2)
        assert store.expire(T0 + DAY + HOUR) == 2
        assert store.expire(T0 + DAY + HOUR) == 0
        assert [row[1] for row in stored(store)] == [T0 + DAY, T0 + 2 * DAY]
        assert store.count("corrections") == 0
        store.apply(PROCESSED, 0, [processed(2, [reading(2 * day + 1)])], 3)
        store.close()
        store = open_store()
        assert [row[1] for row in stored(store)] == [T0 + DAY, T0 + 2 * DAY, T0 + 2 * DAY + MINUTE]
        assert store.count("readings") == 3
        assert store.events(T0, T0 + DAY) == []
        assert store.expired() == 2
        store.close()

    def test_export_holds_names_and_times(self, open_store: OpenStore, tmp_path: Path) -> None:
        """Parquet and CSV, in order, only the range."""
        store: Any = open_store()
        store.apply(PROCESSED, 0, [processed(0, [reading(2), reading(1, NAN, 2), reading(9)])], 1)
        assert store.export(tmp_path / "it's.parquet", T0, T0 + 300_000_000) == 2
        rows = pq.read_table(tmp_path / "it's.parquet").to_pylist()
        assert [(r["station"], r["channel"], r["value"]) for r in rows] == [("A", "main", 1.0), ("B", "backup", None)]
        assert store.export(tmp_path / "all.csv", T0, T0 + DAY, fmt="csv") == 3
        text = (tmp_path / "all.csv").read_text().splitlines()
        assert text[0].startswith("station,property,channel,time,value,flag")
        assert text[1].startswith("A,pm25,main,2026-11-23T00:02:00.000000Z,1.0,1")
        store.close()

    # ------------------------------------------------------------------------------------------------- quarantine

    def test_rejected_messages_keep_every_byte(self, open_store: OpenStore) -> None:
        """Empty, absent, not text, and as large as a route may allow; equal times of receipt; newest first."""
        store: Any = open_store()
        payloads = [b"", None, bytes(range(256)), b'\xff\n\\",' * 500_000]
        frames = [rejected_frame(0, [(i, "bad_json", p) for i, p in enumerate(payloads)])]
        frames += [rejected_frame(1, [(0, "no_route", b"x")], 9), rejected_frame(2, [(0, "bad_json", b"y")], 3)]
        store.apply(REJECTED, 0, frames, 3)
        store.apply(PROCESSED, 0, [processed(0, [refused()] * 4), processed(1, [refused(9)])], 2)
        rows = store.quarantine()
        assert [r["position"] for r in rows][:3] == [position(1, 0), position(2, 0), position(0, 3)]
        assert [r["payload"] for r in rows][2:] == payloads[::-1]
        assert (rows[5]["topic"], rows[5]["digest"]) == ("topic é,= \n\\", b"\x00\xff")
        assert (rows[5]["detail"], rows[5]["refused"]) == ('it says "no",\n and \\ more', 2)
        assert [(r["outcome"], r["moved_by"]) for r in rows[:2]] == [(3, -1), (None, None)]
        assert [r["position"] for r in store.quarantine(reason="no_route")] == [position(1, 0)]
        assert [r["position"] for r in store.refusals_of((0, position(2, 0)))] == [position(2, 0)]
        assert store.refusals_of((1, position(2, 0))) == store.refusals_of((0, 7)) == []
        assert len(store.quarantine(limit=2)) == 2
        raw = store.raw_rows([(0, position(1, 0)), (0, position(0, 2)), (0, position(0, 1))])
        assert raw.schema == records.RAW_ROWS
        assert raw.column("payload").to_pylist() == [b"x", bytes(range(256)), None]
        assert raw.column("connection").to_pylist() == [T0 - 1] * 3
        assert raw.column("network").to_pylist() == ["network é,= \n\\"] * 3
        store.close()

    def test_a_message_leaves_quarantine_once(self, open_store: OpenStore) -> None:
        """Driven again: refused again it stays, then it goes, then it cannot go again; the book says by which row."""
        store: Any = open_store()
        store.apply(REJECTED, 0, [rejected_frame(0, [(0, "bad_unit", b"a"), (1, "no_route", b"b")])], 1)
        store.apply(PROCESSED, 0, [processed(0, [refused(), refused()])], 1)
        assert store.in_quarantine() == [(0, position(0, 0)), (0, position(0, 1))]
        assert store.in_quarantine("no_route") == [(0, position(0, 1))]
        store.apply(PROCESSED, 0, [processed(1, [refused(0, position(0, 0))])], 2)
        store.apply(REJECTED, 0, [rejected_frame(1, [(0, "bad_unit", b"a")], redrive_of=position(0, 0))], 2)
        assert len(store.in_quarantine()) == 2
        both = (Reading(0, 1, 1.0, cause=Cause.REDRIVE), Reading(0, 2, 1.0, cause=Cause.REDRIVE))
        good = Message(both, 0, redrive_of=position(0, 0))
        for origin in (2, 3):
            store.apply(PROCESSED, 0, [processed(origin, [good])], origin + 1)
        assert store.in_quarantine() == [(0, position(0, 1))]
        assert store.quarantine_counts() == [{"reason": "no_route", "stage": "decode", "count": 1}]
        rows = {r["position"]: (r["outcome"], r["moved_by"]) for r in store.quarantine()}
        moved = (int(Outcome.STORED), position(2, 0))
        assert rows == {position(1, 0): moved, position(0, 1): (3, -1)}
        (book,) = store.ledger()[0].values()
        assert [book[c] for c in ("stored", "quarantined", "redriven", "decoded")] == [1, 1, 2, 4]
        assert counted(store) == (2, 0, 0, 0)
        store.close()

    def test_a_message_of_another_partition_brings_its_readings_alone(self, open_store: OpenStore) -> None:
        """One of this partition at the same position stays in quarantine, and none is counted."""
        store: Any = open_store()
        store.apply(REJECTED, 0, [rejected_frame(0, [(0, "unknown_device", b"a")])], 1)
        one, two = Reading(0, 1, 7.0, cause=Cause.REDRIVE), Reading(1, 1, 8.0, cause=Cause.REDRIVE)
        away_once = Message((one, two), redrive_of=away(1, position(0, 0)))
        changed = Message((replace(one, value=9.0), two), redrive_of=away(1, position(0, 1)))
        store.apply(PROCESSED, 0, [processed(0, [refused()]), processed(1, [away_once, changed])], 2)
        assert store.in_quarantine() == [(0, 0)]
        (book,) = store.ledger()[0].values()
        assert [book[c] for c in ("stored", "quarantined", "redriven")] == [0, 1, 0]
        assert [book[c] for c in ("decoded", "r_stored", "r_revised", "r_repeated", "r_quarantined")] == [6, 2, 1, 1, 2]

    def test_what_is_refused_again_has_its_newest_reason(self, open_store: OpenStore) -> None:
        """In counts, lists and choices; it keeps its id, and what it was refused for before is told under both."""
        store: Any = open_store()
        first, second, other = position(0, 0), position(1, 0), position(0, 1)
        rows = [(0, "unknown_device", b"a"), (1, "no_route", b"b")]
        store.apply(REJECTED, 0, [rejected_frame(0, rows)], 1)
        store.apply(PROCESSED, 0, [processed(0, [refused(), refused()])], 1)
        again = rejected_frame(1, [(0, "unknown_property", b"a")], redrive_of=first)
        store.apply(REJECTED, 0, [again], 2)
        # Both streams are written each on its own: until the book says who decided last, the old reason holds.
        assert store.in_quarantine("unknown_device") == [(0, first)]
        assert store.in_quarantine("unknown_property") == []
        store.apply(PROCESSED, 0, [processed(1, [refused(0, first)])], 2)
        for _ in range(2):
            assert store.in_quarantine() == [(0, first), (0, other)]
            assert store.in_quarantine("unknown_property") == [(0, first)]
            assert store.in_quarantine("unknown_device") == []
            assert store.quarantine_counts() == [
                {"reason": "no_route", "stage": "decode", "count": 1},
                {"reason": "unknown_property", "stage": "decode", "count": 1},
            ]
            listed = [(r["position"], r["redrive_of"], r["reason"], r["outcome"]) for r in store.quarantine()]
            assert listed == [(second, first, "unknown_property", 3), (other, None, "no_route", 3)]
            assert [r["position"] for r in store.quarantine(reason="unknown_property", limit=1)] == [second]
            assert store.quarantine(reason="unknown_device") == []
            told = [(r["reason"], r["payload"], r["moved_by"]) for r in store.refusals_of((0, first))]
            assert told == [("unknown_property", b"a", second), ("unknown_device", b"a", second)]
            assert store.refusals_of((0, second)) == store.refusals_of((0, first))
            store.close()
            store = open_store()
        store.close()

    def test_a_row_that_drove_a_message_again_too_late_says_nothing_of_it(self, open_store: OpenStore) -> None:
        """It had left quarantine: what it was refused for is what it was refused for while it was there."""
        store: Any = open_store()
        store.apply(REJECTED, 0, [rejected_frame(0, [(0, "no_route", b"a")])], 1)
        store.apply(REJECTED, 0, [rejected_frame(2, [(0, "clock_wrong", b"a")], redrive_of=0)], 3)
        good = Message((Reading(0, 1, 1.0, cause=Cause.REDRIVE),), 0, redrive_of=0)
        frames = [processed(0, [refused()]), processed(1, [good]), processed(2, [refused(0, 0)])]
        store.apply(PROCESSED, 0, frames, 3)
        assert store.in_quarantine() == []
        assert [(r["reason"], r["outcome"]) for r in store.quarantine()] == [("no_route", int(Outcome.STORED))]
        assert [r["reason"] for r in store.refusals_of((0, 0))] == ["no_route"]
        store.close()

    def test_two_reasons_at_once_hold_until_the_message_is_refused_again(self, open_store: OpenStore) -> None:
        """Two stages may refuse one message, each for its own reason; a later refusal replaces both."""
        store: Any = open_store()
        store.apply(REJECTED, 0, [rejected_frame(0, [(0, "bad_unit", b"a"), (0, "store_refused", b"a")])], 1)
        store.apply(PROCESSED, 0, [processed(0, [refused()])], 1)
        assert store.in_quarantine("bad_unit") == store.in_quarantine("store_refused") == store.in_quarantine()
        assert {r["reason"] for r in store.quarantine()} == {"bad_unit", "store_refused"}
        store.apply(REJECTED, 0, [rejected_frame(1, [(0, "no_route", b"a")], redrive_of=0)], 2)
        store.apply(PROCESSED, 0, [processed(1, [refused(0, 0)])], 2)
        assert store.in_quarantine("bad_unit") == store.in_quarantine("store_refused") == []
        assert store.in_quarantine("no_route") == store.in_quarantine() == [(0, 0)]
        assert [r["reason"] for r in store.refusals_of((0, 0))] == ["no_route", "bad_unit", "store_refused"]
        store.close()

    def test_what_expires_is_told_by_its_newest_reason(self, open_store: OpenStore) -> None:
        """Once, and only if it was still in quarantine."""
        store: Any = open_store()
        store.apply(REJECTED, 0, [rejected_frame(0, [(0, "no_route", b"a"), (1, "no_route", b"b")], 5.0)], 1)
        store.apply(PROCESSED, 0, [processed(0, [refused(5.0), refused(5.0)])], 1)
        good = Message((Reading(0, 1, 1.0, cause=Cause.REDRIVE),), 5.0, redrive_of=1)
        store.apply(REJECTED, 0, [rejected_frame(1, [(0, "bad_unit", b"a")], 5.0, redrive_of=0)], 2)
        store.apply(PROCESSED, 0, [processed(1, [refused(5.0, 0)]), processed(2, [good])], 3)
        store.expire(0, T0 + DAY + HOUR)
        assert store.quarantine_expired() == [
            {"reason": "bad_unit", "stage": "decode", "count": 1, "last_day": T0 // DAY}
        ]
        assert store.in_quarantine() == store.quarantine() == store.refusals_of((0, 0)) == []
        store.close()

    def test_quarantine_expires_by_days_of_receipt(self, open_store: OpenStore) -> None:
        """What is gone is told by reason and stage, over a restart, and moves no more; the books stay."""
        store: Any = open_store()
        day_s = DAY // SECOND
        for n, at in enumerate([5.0, 6.0, day_s + 5.0]):
            store.apply(REJECTED, 0, [rejected_frame(n, [(0, "no_route", b"a"), (1, "bad_json", b"b")], at)], n + 1)
            store.apply(PROCESSED, 0, [processed(n, [refused(at), refused(at)])], n + 1)
        good = Message((Reading(0, 1, 1.0, cause=Cause.REDRIVE),), 6.0, redrive_of=position(1, 0))
        store.apply(PROCESSED, 0, [processed(3, [good])], 4)
        assert store.expire(0, T0 + DAY + HOUR) == 0
        assert store.expire(0, T0 + DAY + HOUR) == 0
        late = Message((Reading(0, 2, 1.0, cause=Cause.REDRIVE),), 5.0, redrive_of=position(0, 0))
        store.apply(PROCESSED, 0, [processed(4, [late])], 5)
        store.close()
        store = open_store()
        assert store.quarantine_expired() == [
            {"reason": "bad_json", "stage": "decode", "count": 2, "last_day": T0 // DAY},
            {"reason": "no_route", "stage": "decode", "count": 1, "last_day": T0 // DAY},
        ]
        assert store.rejected_expired() == 3
        assert store.in_quarantine() == [(0, position(2, 0)), (0, position(2, 1))]
        assert [r["position"] for r in store.quarantine()] == [position(2, 1), position(2, 0)]
        assert store.count("rejected") == store.count("quarantine_book") == 2
        sums = {c: sum(b[c] for b in store.ledger()[0].values()) for c in ("stored", "quarantined", "decoded")}
        assert sums == {"stored": 1, "quarantined": 5, "decoded": 12}
        store.close()
