"""What the server does not take: only the guilty rows go to quarantine, with its words, and the ledger balances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from ingest.raw import redrive_rows
from qingtu.clock import DAY, MINUTE
from qingtu.contracts import ReadingQuery
from qingtu.records import PROCESSED, RAW, REJECTED, Cause, Outcome, position
from qingtu.store.influx import InfluxStore
from tests.process.support import frame_of
from tests.process.support import message as raw_message
from tests.services.influx_support import Bench
from tests.store.build import (
    SERIES,
    T0,
    Message,
    Reading,
    event_frame,
    frame,
    manifest,
    processed,
    refused,
    rejected_frame,
)
from tests.suites.store import stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deploy.native.influx import InfluxServer
    from qingtu.records import Frame

pytestmark = pytest.mark.services
YEAR_MIN = 365 * 24 * 60


@pytest.fixture
def make_bench(influx: InfluxServer, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a store with raw frames on its bus."""
    made: list[Bench] = []

    def make(raw: int = 0, **more: Any) -> Bench:
        bench = Bench(influx, tmp_path / "bus", **more)
        made.append(bench)
        bench.open()
        for offset in range(raw):
            rows = [raw_message("a", f"payload {offset}.{row}".encode()) for row in range(6)]
            assert bench.bus.append(RAW, 0, [frame_of(rows)]).result() == [offset]
        return bench

    yield make
    for bench in made:
        bench.close()


def line(bench: Bench, text: str, minute: int = 0) -> None:
    """Write a line of somebody else's."""
    bench.client.write(bench.settings.bucket, f"{text} {(T0 + minute * MINUTE) * 1000}\n".encode())


def balanced(store: InfluxStore) -> dict[str, int]:
    """Return the sums of the books, and check that readings balance in each."""
    for book in store.ledger()[0].values():
        parts = ("r_stored", "r_revised", "r_repeated", "r_duplicate", "r_quarantined")
        assert book["decoded"] == sum(book[c] for c in parts)
    names = ("stored", "quarantined", "decoded", "r_stored", "r_revised", "r_repeated", "r_quarantined", "redriven")
    return {name: sum(b[name] for b in store.ledger()[0].values()) for name in names}


def everything(store: InfluxStore) -> list[tuple[Any, ...]]:
    """Return (series, time, value) of all readings, however old."""
    table = store.readings(ReadingQuery(SERIES, -(10**18), 10**18))
    return list(zip(*(table.column(name).to_pylist() for name in ("series", "time", "value")), strict=True))


def test_a_field_of_another_type_takes_only_its_own_readings(make_bench: Callable[..., Bench]) -> None:
    """Somebody writes pm25 as text into the same measurement: o3 of the same messages is stored."""
    bench = make_bench(raw=2, batch_lines=4)
    line(bench, 'air,host=x pm25="text"')
    messages = [Message((Reading(0, n, 1.0 + n), Reading(1, n, 2.0 + n))) for n in range(3)]
    messages += [Message((Reading(1, 9, 9.0),))]
    store = bench.store
    done = store.apply(PROCESSED, 0, [processed(0, messages)], 1)
    assert done.readings == 4
    assert [(row[0], row[2]) for row in stored(store)] == [(1, 2.0), (1, 3.0), (1, 4.0), (1, 9.0)]
    sums = balanced(store)
    assert sums == {
        "stored": 1, "quarantined": 3, "decoded": 7, "r_stored": 4, "r_revised": 0, "r_repeated": 0,
        "r_quarantined": 3, "redriven": 0,
    }  # fmt: skip
    rows = store.quarantine()
    assert sorted(row["position"] for row in rows) == [0, 1, 2]
    assert {(r["stage"], r["reason"], r["refused"], r["outcome"]) for r in rows} == {("store", "store_refused", 1, 3)}
    assert {bytes(r["payload"]) for r in rows} == {b"payload 0.0", b"payload 0.1", b"payload 0.2"}
    assert all("A/pm25/main" in r["detail"] and "already exists as type string" in r["detail"] for r in rows)
    assert store.quarantine_counts() == [{"reason": "store_refused", "stage": "store", "count": 3}]
    assert store.count("readings") == 4


def test_a_refused_message_can_be_driven_again(make_bench: Callable[..., Bench]) -> None:
    """Refused again it stays in quarantine; once somebody has mended the bucket's retention it leaves it."""
    bench = make_bench(raw=1, keep_s=3650 * 86400)
    old = -40 * YEAR_MIN
    store = bench.store
    store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, old, 1.0), Reading(1, 1, 2.0)))])], 1)
    assert store.in_quarantine() == [(0, 0)]
    driven = redrive_rows(store.raw_rows([(0, 0)]), [0], 0)
    assert driven.column("payload").to_pylist() == [b"payload 0.0"]
    again = Message((Reading(0, old, 1.0, cause=Cause.REDRIVE), Reading(1, 1, 2.0, cause=Cause.REDRIVE)), redrive_of=0)
    assert bench.bus.append(RAW, 0, [frame_of([raw_message("a", b"payload 0.0", redrive_of=0)])]).result() == [1]
    store.apply(PROCESSED, 0, [processed(1, [again])], 2)
    assert store.in_quarantine() == [(0, 0)]
    assert balanced(store)["quarantined"] == 1
    newest = store.quarantine()[0]
    assert (newest["position"], newest["redrive_of"], newest["outcome"]) == (position(1, 0), 0, 3)
    client = bench.client
    found = client.call("GET", f"/api/v2/buckets?name={bench.settings.bucket}")["buckets"][0]["id"]
    forever = {"retentionRules": [{"type": "expire", "everySeconds": 0}]}
    client.call("PATCH", f"/api/v2/buckets/{found}", forever)
    store.apply(PROCESSED, 0, [processed(2, [again])], 3)
    assert store.in_quarantine() == []
    assert [row[2] for row in everything(store)] == [1.0, 2.0]
    sums = balanced(store)
    assert (sums["stored"], sums["quarantined"], sums["redriven"], sums["r_stored"]) == (1, 0, 2, 2)


def test_a_message_driven_again_is_known_though_its_raw_is_trimmed(make_bench: Callable[..., Bench]) -> None:
    """What the server refuses of it is its newest refusal, not a message of its own."""
    bench = make_bench(raw=1, keep_s=3650 * 86400)
    store = bench.store
    old = Reading(0, -40 * YEAR_MIN, 1.0)
    store.apply(REJECTED, 0, [rejected_frame(0, [(0, "no_route", b"a")])], 1)
    store.apply(PROCESSED, 0, [processed(0, [refused()]), processed(1, [Message((old,), redrive_of=0)])], 2)
    (row,) = store.quarantine()
    assert (row["reason"], row["redrive_of"], row["moved_by"]) == ("store_refused", 0, position(1, 0))
    assert store.in_quarantine("store_refused") == [(0, 0)]
    assert store.in_quarantine("no_route") == []


def test_a_message_that_two_stages_refused_expires_once(make_bench: Callable[..., Bench]) -> None:
    """Both reasons are told while it is there; what left is counted against the ledger."""
    bench = make_bench(raw=1, keep_s=3650 * 86400)
    store = bench.store
    store.apply(REJECTED, 0, [rejected_frame(0, [(0, "unknown_property", b"a")])], 1)
    message = Message((Reading(0, -40 * YEAR_MIN, 1.0),), 0, Outcome.QUARANTINED, 1)
    store.apply(PROCESSED, 0, [processed(0, [message])], 1)
    assert sorted(row["reason"] for row in store.quarantine_counts()) == ["store_refused", "unknown_property"]
    assert store.in_quarantine() == [(0, 0)]
    store.expire(0, T0 + 400 * DAY)
    assert store.rejected_expired() == 1


def test_too_old_for_the_bucket(make_bench: Callable[..., Bench]) -> None:
    """A bucket that keeps less than the readings' age, beside a conflict that the server names alone."""
    bench = make_bench(raw=2, keep_s=3650 * 86400, batch_lines=3)
    line(bench, 'air,host=x o3="text"')
    old = [Message((Reading(0, -40 * YEAR_MIN - n, float(n)),)) for n in range(2)]
    messages = [*old, Message((Reading(0, 1, 5.0), Reading(1, 1, 6.0))), Message((Reading(2, 1, 7.0),))]
    store = bench.store
    happened = event_frame(1, [("A", "door", -40 * 365 * 86400, "{}")])
    happened.sections["manifest"] = manifest([Message()])
    store.apply(PROCESSED, 0, [processed(0, messages), happened], 2)
    assert [(row[0], row[2]) for row in stored(store)] == [(0, 5.0), (2, 7.0)]
    sums = balanced(store)
    assert (sums["stored"], sums["quarantined"], sums["r_quarantined"]) == (1, 4, 4)
    details = sorted(row["detail"] for row in store.quarantine())
    assert sum("outside retention policy" in detail for detail in details) == 3
    assert sum("already exists as type string" in detail for detail in details) == 1


def long_name_frame(origin: int) -> Frame:
    """Make a frame of two messages; the first names a station that no line can hold."""
    good = processed(origin, [Message((Reading(0, 1, 1.0),)), Message((Reading(0, 2, 2.0),))])
    batch = good.sections["readings"]
    names = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["x" * 70_000, "A"]))
    good.sections["readings"] = batch.set_column(0, batch.schema.field(0), names)
    return good


def test_a_line_that_cannot_be_read_does_not_take_the_others_with_it(make_bench: Callable[..., Bench]) -> None:
    """400 stores nothing of its request: the guilty line is found, the server's words are cut."""
    bench = make_bench(raw=1)
    store = bench.store
    store.apply(PROCESSED, 0, [long_name_frame(0)], 1)
    assert [row[2] for row in stored(store)] == [2.0]
    (row,) = store.quarantine()
    assert row["position"] == 0
    assert len(row["detail"]) <= 2000
    assert balanced(store)["r_quarantined"] == 1


def test_foreign_points_in_the_same_measurements(make_bench: Callable[..., Bench]) -> None:
    """Other tags, other fields, the same names: they are not ours, and ours stay as they are."""
    bench = make_bench()
    for minute in range(3):
        line(bench, "air,station=A,channel=main,host=x pm25=99,other=1", minute)
        line(bench, "air,station=A pm25=98", minute)
        line(bench, "air,station=A,channel=main humidity=97", minute)
        line(bench, 'alert,station=A pm25=1,text="x"', minute)
        line(bench, "event,station=A,kind=door level=9", minute)
    store: Any = bench.store
    frames = [processed(n, [Message((Reading(0, n, float(n)), Reading(0, 0, 10.0 + n)))]) for n in range(3)]
    for n, one in enumerate(frames):
        store.apply(PROCESSED, 0, [one], n + 1)
    assert [row[2] for row in stored(store)] == [12.0, 1.0, 2.0]
    assert store.count("readings") == 3
    assert store.latest().column("value").to_pylist() == [2.0]
    assert store.export(bench.folder.parent / "x.csv", T0, T0 + DAY, fmt="csv") == 3
    assert store.events(T0, T0 + DAY) == []
    assert store.alerts(active=False) == []
    foreign = bench.client.query(bench.settings.bucket, "SELECT pm25 FROM air WHERE host = 'x'")
    assert foreign.count(b",99") == 3


def test_a_restart_looks_before_it_writes(make_bench: Callable[..., Bench]) -> None:
    """Readings up to the newest time before the restart are merged, not written over, of any series."""
    bench = make_bench()
    bench.store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 5, 1.0), Reading(1, 3, 1.0)))])], 1)
    store: Any = bench.open()
    store.apply(PROCESSED, 0, [processed(1, [Message((Reading(1, 3, 2.0), Reading(1, 4, 3.0)))])], 2)
    assert [row[2] for row in stored(store)] == [1.0, 2.0, 3.0]
    assert [c["old_value"] for c in store.reading(SERIES[1], T0 + 3 * MINUTE)["corrections"]] == [1.0]


def test_a_reader_elsewhere_sees_progress_books_and_rows(make_bench: Callable[..., Bench]) -> None:
    """Without a bus: what the writer tells in the database; it may not apply."""
    bench = make_bench()
    store: Any = bench.store
    messages = [Message((Reading(0, 1, 1.0),)), Message((), 0, Outcome.QUARANTINED, 2)]
    store.apply(PROCESSED, 0, [processed(4, messages)], 7)
    store.expire(T0 - DAY)
    store.apply(PROCESSED, 0, [processed(5, [Message((Reading(0, 2, 1.0),))])], 8)
    store.catch_up(now=True)
    reader: Any = InfluxStore(bench.settings, bench.server.token)
    assert reader.progress(PROCESSED, 0) == store.progress(PROCESSED, 0)
    assert reader.progress(RAW, 3) == (0, -1)
    assert reader.ledger() == store.ledger()
    assert stored(reader) == stored(store)
    assert reader.expired() == store.expired() == 0
    with pytest.raises(Exception, match="only reads"):
        reader.apply(PROCESSED, 0, [], 9)
    reader.close()


def test_two_partitions_in_two_processes_and_a_takeover(make_bench: Callable[..., Bench]) -> None:
    """Each knows its own from memory and the other's from the database; who takes over goes on."""
    bench = make_bench(partitions=2)
    store = bench.store
    store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 1.0),))])], 1)
    other = Message((Reading(1, 1, 1.0),))
    far = frame(PROCESSED, 3, {**processed(3, [other]).sections, "manifest": manifest([other])})
    store.apply(PROCESSED, 1, [far], 1)
    assert store.ledger()[1] == {0: 0, 1: 3}
    store.release(PROCESSED, 1)
    assert store.progress(PROCESSED, 1).origin == 3
    assert store.ledger()[1] == {0: 0, 1: 3}
    assert sum(b["r_stored"] for b in store.ledger()[0].values()) == 2
    again = processed(4, [Message((Reading(1, 1, 5.0),))])
    store.apply(PROCESSED, 1, [far, again], 2)
    assert sum(b["r_stored"] for b in store.ledger()[0].values()) == 2
    assert sum(b["r_revised"] for b in store.ledger()[0].values()) == 1


def test_many_late_readings_over_many_days(make_bench: Callable[..., Bench]) -> None:
    """A backfill is read in ranges of time, and merged exactly."""
    bench = make_bench()
    store = bench.store
    rng = np.random.default_rng(3)
    minutes = rng.permutation(40) * 311 - 6000
    store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 9000, 0.0),))])], 1)
    first = [Message((Reading(0, int(m), 1.0),)) for m in minutes]
    second = [Message((Reading(0, int(m), 1.0 + (m % 2)),)) for m in minutes]
    store.apply(PROCESSED, 0, [processed(1, first)], 2)
    store.apply(PROCESSED, 0, [processed(2, second)], 3)
    table = store.readings(ReadingQuery([SERIES[0]], T0 - 10**12, T0 + 10**12))
    assert table.num_rows == 41
    sums = balanced(store)
    assert (sums["r_stored"], sums["r_revised"] + sums["r_repeated"]) == (41, 40)
    assert sums["r_revised"] == sum(m % 2 for m in minutes)
