"""The ledger: every message in exactly one place, by counting and never by subtraction."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qingtu.clock import HOUR, SECOND
from qingtu.errors import RetryLater
from qingtu.ledger import Ledger
from qingtu.records import PROCESSED, RAW
from tests.process.support import CAT, T0, catalogue, configure, message, reading, station, tick
from tests.store.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("good", "same", "two", "unknown", "partial", "garbage", "sys", "wrong_clock", "tick")
OUTCOMES = ("stored", "duplicate", "quarantined", "ignored")


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline that was configured."""
    made = Pipeline(tmp_path, [CAT, LATER])
    made.feed(configure(0, CAT.version))
    yield made
    made.close()


def _later() -> Any:
    """The catalogue after it was mended: device x is known, and a measures o3, too."""
    return catalogue(
        [
            station("A", [{"id": "a", "properties": ["pm25", "air_temperature", "o3"]}]),
            station("X", [{"id": "x", "properties": ["pm25", "o3"]}]),
        ]
    )


LATER = _later()


def row(kind: str, number: int, at_s: float) -> tuple[dict[str, Any], str, Counter[str]]:
    """Make a raw row of a kind; return it with its outcome and what it adds to the readings' books."""
    if kind == "tick":
        return tick(at_s), "", Counter()
    rows = {
        "same": reading("a", 1, at_s, pm25=7),  # the same bytes each time: new at first, then a duplicate
        "two": reading("a", at_s, pm25=number, air_temperature=3),
        "unknown": reading("x", at_s, pm25=number, o3=1),
        "partial": reading("a", at_s, pm25=number, o3=5),
        "garbage": message("a", b"{%d" % number, at_s),
        "sys": message("", b"1", at_s, network="", refused="sys_topic"),
        "wrong_clock": reading("a", at_s + 4000, at_s, pm25=number),
        "good": reading("a", at_s, pm25=number),
    }
    return (rows[kind], *_BOOKED[kind])


_BOOKED: dict[str, tuple[str, Counter[str]]] = {
    "same": ("same", Counter(decoded=1)),
    "two": ("stored", Counter(decoded=2, stored=2)),
    "unknown": ("quarantined", Counter(decoded=2, quarantined=2)),
    "partial": ("quarantined", Counter(decoded=2, stored=1, quarantined=1)),
    "garbage": ("quarantined", Counter()),
    "sys": ("ignored", Counter()),
    "wrong_clock": ("quarantined", Counter(decoded=1, quarantined=1)),
    "good": ("stored", Counter(decoded=1, stored=1)),
}


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.booleans(), st.integers(0, 5)), min_size=1, max_size=25),
    behind=st.integers(0, 20),
    kill=st.booleans(),
)
def test_any_history_balances_at_any_moment(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, bool, int]], behind: int, kill: bool
) -> None:
    """Random messages in random frames over hours; the store is some frames behind; a restart in between."""
    pipeline = Pipeline(tmp_path_factory.mktemp("ledger"), [CAT])
    pipeline.feed(configure(0, CAT.version))
    sizes, frame = [0], []
    readings, outcomes, by_hour = Counter[str](), Counter[str](), Counter[int]()
    at_s, messages = 1.0, 0
    for number, (kind, cut, wait) in enumerate(kinds):
        at_s += 1 + wait * 700
        made, outcome, booked = row(kind, number, at_s)
        frame.append(made)
        if outcome == "same":
            first = outcomes["first"] == 0
            outcomes["first"] += 1
            outcome = "stored" if first else "duplicate"
            booked = booked + Counter({outcome: 1})
        if outcome:
            messages += 1
            outcomes[outcome] += 1
            readings += booked
            by_hour[int((T0 + at_s * SECOND) // HOUR)] += 1
        if cut or number == len(kinds) - 1:
            pipeline.feed(*frame)
            sizes.append(sum(r["kind"] == 0 for r in frame))
            frame = []
    while pipeline.step("process"):
        pass
    applied = max(0, len(sizes) - behind)
    pipeline.apply_processed(applied)
    if kill:
        pipeline.ledger.save()
        pipeline.kill()
    report = pipeline.report()
    assert report == Ledger(pipeline.bus, pipeline.store).report(), "reckoned as it grew, and anew"
    assert report["balanced"]
    assert report["messages"]["received"] == messages
    assert report["messages"]["in_flight"] == sum(sizes[applied:])
    while pipeline.step("process") or pipeline.step("store"):
        assert pipeline.ledger.summary()["balanced"]
    pipeline.run()
    report = pipeline.report()
    assert report == Ledger(pipeline.bus, pipeline.store).report()
    assert pipeline.ledger.summary() == {name: report[name] for name in pipeline.ledger.summary()}
    assert report["balanced"]
    assert report["messages"] == {"received": messages, "in_flight": 0, **{o: outcomes[o] for o in OUTCOMES}}
    wanted = dict.fromkeys(("decoded", "stored", "revised", "repeated", "duplicate", "quarantined"), 0)
    assert report["readings"] == wanted | dict(readings)
    found = Counter[int]()
    for line in report["by"]:
        found[line["hour"] // HOUR] += line["received"]
    assert found == by_hour
    assert pipeline.audit()["agrees"]
    pipeline.close()


def test_networks_have_their_own_lines(pipeline: Pipeline) -> None:
    """Also a network that the catalogue does not know, and messages without a route."""
    pipeline.feed(
        reading("a", 1, pm25=1),
        message("a", {"readings": {"pm25": 1}}, 2, network="elsewhere"),
        message("", b"x", 3, network="", route="", refused="no_route"),
        reading("a", 3601, pm25=2),
    )
    pipeline.run()
    lines = [
        (line["network"], (line["hour"] - T0) // HOUR, line["stored"], line["quarantined"])
        for line in pipeline.report()["by"]
    ]
    assert lines == [("", 0, 0, 1), ("elsewhere", 0, 0, 1), ("n", 0, 1, 0), ("n", 1, 1, 0)]


@pytest.mark.parametrize(
    "column", ["stored", "duplicate", "quarantined", "ignored", "decoded", "r_stored", "r_quarantined"]
)
def test_a_wrong_book_shows(pipeline: Pipeline, column: str) -> None:
    """Nothing is got by subtraction, so one count that is wrong unbalances the sum."""
    pipeline.feed(reading("a", 1, pm25=1), reading("x", 2, pm25=1))
    pipeline.run()
    assert pipeline.report()["balanced"]
    with pipeline.store.cursor() as db:
        db.execute(f"UPDATE ledger SET {column} = {column} + 1")
    pipeline.kill()
    report = pipeline.report()
    assert not report["balanced"]
    assert [line["balanced"] for line in report["by"]] == [False]


def test_a_lost_frame_shows(pipeline: Pipeline) -> None:
    """A store that claims to have decided what it never saw cannot make the sum right."""
    pipeline.feed(reading("a", 1, pm25=1))
    pipeline.run()
    lost = pipeline.feed(reading("a", 2, pm25=1))
    with pipeline.store.cursor() as db:
        db.execute("UPDATE progress SET origin = ? WHERE stream = 'processed'", [lost])
    pipeline.kill()
    assert not pipeline.report()["balanced"]


@pytest.mark.parametrize(
    ("table", "name"), [("readings", "readings in the store"), ("rejected", "messages in quarantine")]
)
def test_the_audit_finds_rows_that_are_gone(pipeline: Pipeline, table: str, name: str) -> None:
    """One row deleted by hand: the books balance, the audit disagrees and says where."""
    pipeline.feed(*(reading(d, i, pm25=i) for i in range(1, 4) for d in ("a", "x")))
    pipeline.run()
    assert pipeline.audit()["agrees"]
    with pipeline.store.cursor() as db:
        db.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")
    pipeline.kill()
    assert pipeline.report()["balanced"]
    audit = pipeline.audit()
    assert not audit["agrees"]
    assert [(c["name"], c["booked"] - c["counted"]) for c in audit["checks"] if not c["agrees"]] == [(name, 1)]


@pytest.mark.parametrize(
    ("instead", "name"),
    [("duplicate", "duplicate messages"), ("ignored", "ignored messages"), ("quarantined", "messages in quarantine")],
)
def test_the_audit_finds_messages_booked_under_another_outcome(pipeline: Pipeline, instead: str, name: str) -> None:
    """The sum balances, and nothing is gone from the store: what the pass said of each message tells."""
    pipeline.feed(reading("a", 1, pm25=1), reading("a", 1, pm25=1), reading("x", 2, pm25=1))
    pipeline.feed(*(reading("a", at, pm25=at) for at in range(3, 9)))
    pipeline.run()
    assert pipeline.audit()["agrees"]
    with pipeline.store.cursor() as db:
        db.execute(f"UPDATE ledger SET stored = stored - 2, {instead} = {instead} + 2")
    pipeline.kill()
    assert pipeline.report()["balanced"]
    audit = pipeline.audit()
    assert [(c["name"], c["booked"] - c["counted"]) for c in audit["checks"] if not c["agrees"]] == [(name, 2)]


def test_the_audit_compares_outcomes_hour_by_hour(pipeline: Pipeline) -> None:
    """What is too many in one hour does not make up for what is missing in another."""
    for hour in range(2):
        pipeline.feed(*(reading("a", hour * 3600 + 1, pm25=1) for _ in range(3)))
    pipeline.run()
    assert pipeline.audit()["agrees"]
    with pipeline.store.cursor() as db:
        sign = "CASE WHEN hour % 2 = 0 THEN 1 ELSE -1 END"
        db.execute(f"UPDATE ledger SET stored = stored + {sign}, duplicate = duplicate - {sign}")
    pipeline.kill()
    assert pipeline.report()["balanced"]
    checks = pipeline.audit()["checks"]
    assert [(c["name"], c["counted"], c["booked"]) for c in checks if not c["agrees"]] == [("duplicate messages", 4, 4)]


@pytest.mark.parametrize("kill", [False, True])
def test_the_audit_of_trimmed_manifests_leaves_out_what_is_not_held(pipeline: Pipeline, kill: bool) -> None:
    """An hour of which a manifest is gone is not compared; one that is wholly held is, also if it was said twice."""
    for hour in range(4):
        for _ in range(3):
            pipeline.feed(reading("a", hour * 3600 + 1, pm25=1))
    pipeline.run()
    if kill:  # without a save: the pass says everything again
        pipeline.ledger.save()
        pipeline.kill()
        pipeline.run()
    frames = pipeline.bus.end(PROCESSED, 0)
    pipeline.bus.trim(PROCESSED, 0, frames - 8)  # one of hour 1, and all of hours 2 and 3
    counted = {c["name"]: c["counted"] for c in pipeline.audit()["checks"]}
    assert pipeline.audit()["agrees"]
    assert counted["duplicate messages"] == 4
    with pipeline.store.cursor() as db:
        db.execute("UPDATE ledger SET stored = stored - 1, duplicate = duplicate + 1 WHERE hour = ?", [T0 // HOUR + 1])
    pipeline.kill()
    assert pipeline.audit()["agrees"], "of hour 1 nobody knows any more"
    with pipeline.store.cursor() as db:
        db.execute("UPDATE ledger SET stored = stored - 1, duplicate = duplicate + 1 WHERE hour = ?", [T0 // HOUR + 2])
    pipeline.kill()
    assert not pipeline.audit()["agrees"]


def test_the_audit_asks_no_manifest_of_what_a_promote_decided_again(pipeline: Pipeline) -> None:
    """A generation may say otherwise of a message than the pass did then: hours before the promote are left out."""
    pipeline.feed(reading("a", 1, pm25=1), reading("a", 1, pm25=1))
    pipeline.run()
    with pipeline.store.cursor() as db:
        db.execute("UPDATE ledger SET stored = stored + 1, duplicate = duplicate - 1")
    pipeline.kill()
    assert not pipeline.audit()["agrees"]
    pipeline.feed(configure(2, CAT.version, promoted="better"))
    pipeline.feed(reading("a", 3601, pm25=1), reading("a", 3601, pm25=1))
    pipeline.run()
    audit = pipeline.audit()
    assert audit["agrees"]
    assert {c["name"]: c["counted"] for c in audit["checks"]}["duplicate messages"] == 1


def test_the_audit_agrees_after_expiry_and_trimming(pipeline: Pipeline) -> None:
    """What was deleted by age is not missing; hours that raw holds no more are not compared."""
    for hour in range(4):
        pipeline.feed(reading("a", hour * 3600 + 1, pm25=1))
    pipeline.run()
    pipeline.save()
    pipeline.bus.trim(RAW, 0, 3)
    pipeline.store.expire(T0 + 48 * HOUR)
    assert pipeline.store.count("readings") == 0
    pipeline.kill()
    assert pipeline.report()["balanced"]
    audit = pipeline.audit()
    assert audit["agrees"]
    # The configure row, and hours 0 and 1, are gone; the other two are wholly there.
    assert {c["name"]: c["counted"] for c in audit["checks"]}["messages in raw"] == 2


def test_the_audit_of_trimmed_raw_goes_by_place_not_by_time(pipeline: Pipeline) -> None:
    """Our clock was set back: the frame that was trimmed is younger than the first that is held."""
    for hour in (3, 1, 3, 2):
        pipeline.feed(reading("a", hour * 3600 + pipeline.bus.end(RAW, 0), pm25=1))
    pipeline.run()
    pipeline.save()
    pipeline.bus.trim(RAW, 0, 2)
    audit = pipeline.audit()
    assert audit["agrees"], audit["checks"]
    assert {c["name"]: c["counted"] for c in audit["checks"]}["messages in raw"] == 2  # hours 1 and 2: 3 is half gone


def test_old_hours_are_not_reckoned_again(pipeline: Pipeline) -> None:
    """What a look costs depends on what changed, not on how long the service has run."""
    for hour in range(5):
        pipeline.feed(reading("a", hour * 3600 + 1, pm25=1))
    pipeline.run()
    before = pipeline.ledger.report()["by"]
    pipeline.feed(reading("a", 3600 + 9, pm25=1))
    pipeline.run()
    after = pipeline.ledger.report()["by"]
    assert [a is b for a, b in zip(before, after, strict=True)] == [True, False, True, True, True]
    assert (before[1]["stored"], after[1]["stored"]) == (1, 2), "a report that was given out stays as it was"


def test_quarantine_expires_by_age_and_the_books_stay_right(pipeline: Pipeline) -> None:
    """Whole days of receipt; listed by reason; what is left can be driven again, what is gone moves nothing."""
    day_s = 86_400
    for at_s in (1, 5000, day_s + 1, 2 * day_s + 1):
        pipeline.feed(reading("x", at_s, pm25=at_s), message("a", b"{%d" % at_s, at_s))
    pipeline.run()
    gone = [at for _, at in pipeline.store.in_quarantine()][:1]
    before = pipeline.report()
    pipeline.feed(configure(2 * day_s + 2, LATER.version))
    pipeline.redrive(gone, at_s=2 * day_s + 3)  # stands on raw when its message expires
    pipeline.store.expire(0, T0 + day_s * SECOND + HOUR)
    assert pipeline.store.quarantine_expired() == [
        {"reason": reason, "stage": stage, "count": 2, "last_day": T0 // (24 * HOUR)}
        for reason, stage in (("bad_json", "decode"), ("unknown_device", "locate"))
    ]
    assert (pipeline.store.rejected_expired(), len(pipeline.store.in_quarantine())) == (4, 4)
    assert min(row["received_at"] for row in pipeline.store.quarantine()) >= T0 + day_s * SECOND
    pipeline.kill()
    pipeline.run()
    assert pipeline.report()["messages"] == before["messages"]
    assert pipeline.audit()["agrees"], pipeline.audit()["checks"]
    pipeline.redrive(at_s=2 * day_s + 5)
    pipeline.run()
    after = pipeline.report()
    assert after["balanced"]
    assert after["messages"]["quarantined"] == before["messages"]["quarantined"] - 2  # of unknown devices
    assert pipeline.audit()["agrees"], pipeline.audit()["checks"]
    pipeline.store.expire(0, T0 + 9 * day_s * SECOND)
    assert pipeline.store.count("rejected") == pipeline.store.count("quarantine_book") == 0
    assert pipeline.store.rejected_expired() == 6
    assert pipeline.audit()["agrees"]


def test_counting_goes_on_after_kill_without_save(pipeline: Pipeline) -> None:
    """What was received is counted again from raw, once."""
    for at in range(1, 6):
        pipeline.feed(reading("a", at, pm25=1))
    pipeline.report()
    pipeline.kill()
    pipeline.report()
    pipeline.ledger.save()
    pipeline.feed(reading("a", 9, pm25=1))
    pipeline.kill()
    report = pipeline.report()
    assert report["messages"] == {
        "received": 6, "stored": 0, "duplicate": 0, "quarantined": 0, "ignored": 0, "in_flight": 6,
    }  # fmt: skip


def _books(pipeline: Pipeline) -> tuple[dict[str, int], dict[str, int]]:
    report = pipeline.report()
    assert report["balanced"], report
    assert pipeline.audit()["agrees"], pipeline.audit()["checks"]
    messages = {k: v for k, v in report["messages"].items() if v and k != "received"}
    return messages, {k: v for k, v in report["readings"].items() if v}


def test_a_redriven_message_moves_once(pipeline: Pipeline) -> None:
    """From quarantined to stored, with its readings; a second time, and in the same frame, nothing moves."""
    pipeline.feed(reading("x", 1, pm25=1, o3=2), reading("a", 2, pm25=3))
    pipeline.run()
    assert _books(pipeline) == ({"stored": 1, "quarantined": 1}, {"decoded": 3, "stored": 1, "quarantined": 2})
    ids = [at for _, at in pipeline.store.in_quarantine()]
    pipeline.feed(configure(10, LATER.version))
    pipeline.redrive([*ids, *ids], at_s=11)
    pipeline.redrive(ids, at_s=12)
    pipeline.run()
    assert _books(pipeline) == ({"stored": 2}, {"decoded": 3, "stored": 3})
    assert pipeline.report()["redriven"] == 1
    assert pipeline.store.in_quarantine() == []
    pipeline.kill()
    pipeline.redrive(ids, at_s=13)
    pipeline.run()
    assert _books(pipeline) == ({"stored": 2}, {"decoded": 3, "stored": 3})


def test_a_redriven_message_that_is_refused_again_stays(pipeline: Pipeline) -> None:
    """And can be driven again later; the moves are booked in the hour of its first receipt."""
    pipeline.feed(reading("x", 1, pm25=1, o3=2))
    pipeline.run()
    pipeline.redrive(at_s=4000)
    pipeline.run()
    assert _books(pipeline) == ({"quarantined": 1}, {"decoded": 2, "quarantined": 2})
    pipeline.feed(configure(8000, LATER.version))
    pipeline.redrive(at_s=8001)
    pipeline.run()
    assert _books(pipeline) == ({"stored": 1}, {"decoded": 2, "stored": 2})
    assert [(line["hour"] - T0) // HOUR for line in pipeline.report()["by"]] == [0]


def test_a_partly_refused_message(pipeline: Pipeline) -> None:
    """What was stored at first is not counted again; only what was refused moves."""
    pipeline.feed(reading("a", 1, pm25=1, o3=2))
    pipeline.run()
    assert _books(pipeline) == ({"quarantined": 1}, {"decoded": 2, "stored": 1, "quarantined": 1})
    pipeline.feed(configure(10, LATER.version))
    pipeline.redrive(at_s=11)
    pipeline.run()
    assert _books(pipeline) == ({"stored": 1}, {"decoded": 2, "stored": 2})


def test_a_redriven_reading_that_is_there_already(pipeline: Pipeline) -> None:
    """The same key came by another message meanwhile: with another value it is revised, with the same repeated."""
    pipeline.feed(reading("x", 1, pm25=1), reading("x", 2, pm25=1))
    pipeline.run()
    pipeline.feed(configure(10, LATER.version))
    pipeline.feed(message("x", {"time": T0 // 1000 + 1000, "readings": {"pm25": 1}, "seq": 1}, 11))
    pipeline.feed(message("x", {"time": T0 // 1000 + 2000, "readings": {"pm25": 5}, "seq": 2}, 12))
    pipeline.redrive(at_s=13)
    pipeline.run()
    assert _books(pipeline) == ({"stored": 4}, {"decoded": 4, "stored": 2, "revised": 1, "repeated": 1})


def test_a_catalogue_that_got_worse_takes_nothing_back(pipeline: Pipeline) -> None:
    """What a message brought into the store stays stored, though driven again it is refused altogether."""
    pipeline.feed(reading("b", 1, dust=1, o3=2))
    pipeline.run()
    assert _books(pipeline) == ({"quarantined": 1}, {"decoded": 2, "stored": 1, "quarantined": 1})
    pipeline.feed(configure(10, LATER.version))  # knows no device b
    pipeline.redrive(at_s=11)
    pipeline.run()
    assert _books(pipeline) == ({"quarantined": 1}, {"decoded": 2, "stored": 1, "quarantined": 1})


def test_a_wrong_clock_is_driven_with_a_shift(pipeline: Pipeline) -> None:
    """All readings come in at the shifted time."""
    pipeline.feed(reading("a", 90_000, 5, pm25=1, air_temperature=2))
    pipeline.run()
    assert _books(pipeline) == ({"quarantined": 1}, {"decoded": 2, "quarantined": 2})
    pipeline.redrive(shift_s=-90_000 + 5, at_s=6)
    pipeline.run()
    assert _books(pipeline) == ({"stored": 1}, {"decoded": 2, "stored": 2})
    found = pipeline.store.reading(("A", "pm25", "main"), T0 + 5 * SECOND)
    assert found is not None
    assert found["value"] == 1


def test_a_shift_that_stores_readings_again_is_booked(pipeline: Pipeline) -> None:
    """A message with one good time, stored at first, is stored once more at the shifted one: audit and sum agree."""
    body = [
        {"time": T0 // 1000 + 1000, "readings": {"pm25": 1}},
        {"time": T0 // 1000 + 90_000_000, "readings": {"pm25": 2}},
    ]
    pipeline.feed(message("a", body, 5))
    pipeline.run()
    assert _books(pipeline) == ({"quarantined": 1}, {"decoded": 2, "stored": 1, "quarantined": 1})
    pipeline.redrive(shift_s=-89_990, at_s=6)
    pipeline.run()
    assert _books(pipeline) == ({"stored": 1}, {"decoded": 3, "stored": 3})


@pytest.mark.parametrize(
    "body",
    [
        b'[{"time":%d,"readings":{"pm25":1}},{"time":%d,"readings":{"pm25":2}}]',
        b'{"time":%d,"readings":{"pm25":1,"PM2.5":2}}',
    ],
)
def test_of_two_readings_with_one_time_in_a_message_the_first_is_stored(pipeline: Pipeline, body: bytes) -> None:
    """In an array, and in two spellings of one property (docs/formats/native.md); the other is booked as repeated."""
    at_s = T0 // SECOND + 1
    pipeline.feed(message("a", body % ((at_s,) * body.count(b"%d")), 2))
    pipeline.run()
    with pipeline.store.cursor() as db:
        assert db.execute("SELECT value FROM readings").fetchall() == [(1.0,)]
    assert _books(pipeline) == ({"stored": 1}, {"decoded": 2, "stored": 1, "repeated": 1})


def test_raw_that_was_lost_is_told(tmp_path: Path) -> None:
    """State that has counted more than there is: the start says so, and does not look for it for ever."""
    pipeline = Pipeline(tmp_path, [CAT])
    pipeline.feed(configure(0, CAT.version))
    pipeline.feed(reading("a", 1, 1, pm25=1))
    Ledger(pipeline.bus, pipeline.store).save()
    pipeline.close()
    for path in tmp_path.rglob("raw.db*"):
        path.unlink()
    with pytest.raises(RetryLater, match="raw-0 ends before 2"):
        Pipeline(tmp_path, [CAT])
