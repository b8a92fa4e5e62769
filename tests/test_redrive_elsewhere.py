"""Messages that were quarantined in the partition of their device, and whose station lives in another one."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from processors.aggregates.derive import Derive
from processors.process import Process
from qingtu.audit import audit
from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SECOND, ManualClock
from qingtu.contracts import ReadingQuery
from qingtu.errors import RetryLater
from qingtu.ledger import Ledger
from qingtu.orders import Orders
from qingtu.partitions import partition_of
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, REJECTED, Kind, Outcome
from qingtu.stage import StageLoop
from qingtu.store.duckdb import DuckStore
from sinks.primary import StoreStage
from tests.process.support import T0, catalogue, configure, frame_of, reading, station, tick

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from qingtu.catalogue import Catalogue
    from qingtu.store.contract import PrimaryStore

# Of two partitions B2 lives in 0; the unknown device x is heard in 1.
HOME, HEARD = 0, 1
A = station("A1", [{"id": "a", "properties": ["pm25"]}], interval_s=600)
NEW = station("B2", [{"id": "x", "properties": ["pm25"]}], interval_s=600)
MORE = station("B2", [{"id": "x", "properties": ["pm25", "o3"]}], interval_s=600)
BEFORE, AFTER, LATER = catalogue([A], []), catalogue([A, NEW], []), catalogue([A, MORE], [])
HOUR_S = 3600


class City:
    """Two partitions: bus, process, store, derive and ledger in one folder, stepped by hand."""

    def __init__(self, folder: Path) -> None:
        self.catalogue = BEFORE
        self._folder = folder
        self._open()

    def _open(self) -> None:
        archive = {c.version: c for c in (BEFORE, AFTER, LATER)}.__getitem__
        self.bus = SqliteBus(self._folder / "bus", 2, free_floor_bytes=0)
        self.store = self._open_store()
        every = 1 << 30
        self.process = [
            StageLoop(self.bus, Process(archive, p, 2, tell=True), p, state_every_s=every, batch=1) for p in range(2)
        ]
        self.derive = [
            StageLoop(self.bus, Derive(self.store, archive, 60, p, partitions=2, tell=True), p, state_every_s=every)
            for p in range(2)
        ]
        self.stores = [
            StoreStage(self.bus, self.store, stream, p, ManualClock(T0), commit_ms=0)
            for stream in (PROCESSED, ALERTS, REJECTED, FIGURES)
            for p in range(2)
        ]
        self.ledger = Ledger(self.bus, self.store)

    def _open_store(self) -> PrimaryStore:
        return DuckStore(self._folder / "store.duckdb", "256MB", 1)

    def kill(self) -> None:
        """Forget what was not saved, and start again."""
        self.close()
        self._open()

    def close(self) -> None:
        """Close the files, save nothing."""
        self.bus.close()
        self.store.close()

    def station_of(self, network: str, device: str) -> str | None:
        """Return the station of a device in the catalogue of now."""
        entry = self.catalogue.devices.get((network, device))
        return None if entry is None else entry.station.id

    def feed(self, *rows: Mapping[str, Any]) -> None:
        """Append each row as a frame, a message where the gateway puts it, all others everywhere."""
        for row in rows:
            places = range(2)
            if row["kind"] == Kind.MESSAGE:
                name = self.station_of(row["network"], row["device"]) or f"{row['network']}/{row['device']}"
                places = range(at := partition_of(name, 2), at + 1)
            for place in places:
                self.bus.append(RAW, place, [frame_of([row])]).result()

    def use(self, catalogue: Catalogue, at_s: float) -> None:
        """Use a catalogue from here on."""
        self.catalogue = catalogue
        self.feed(configure(at_s, catalogue.version))

    def redrive(self, at_s: float, times: int = 1) -> None:
        """Drive all of the quarantine again, as the service does."""
        wanted = self.store.in_quarantine() * times
        orders = Orders(self.bus, ManualClock(T0 + round(at_s * SECOND)), self.catalogue.version)
        orders.redrive(self.store, wanted, "t", self.station_of, reason=None, shift_s=0)

    def step(self, stages: list[Any]) -> bool:
        """Step stages; waiting for another one counts as nothing done."""
        done = False
        for stage in stages:
            try:
                done |= stage.step()
            except RetryLater:
                continue
        return done

    def run(self) -> None:
        """Step everything until there is nothing to do; the books balance all the time."""
        while max([self.step(stages) for stages in (self.process, self.stores, self.derive)]):
            assert self.ledger.summary()["balanced"]

    def values(self) -> list[tuple[int, float, int]]:
        """Return the readings of B2: (seconds after T0, value, revision)."""
        rows = self.store.readings(ReadingQuery([("B2", "pm25", "main")], T0, T0 + 100 * HOUR_S * SECOND)).to_pylist()
        return [((row["time"] - T0) // SECOND, row["value"], row["revision"]) for row in rows]

    def audited(self) -> dict[str, Any]:
        """Return what the books say of messages and readings; they agree with what is there."""
        found = audit(self.bus, self.store, self.ledger)
        assert found["agrees"], found["checks"]
        assert found["ledger"]["balanced"]
        return {**found["ledger"]["messages"], **{f"r_{n}": k for n, k in found["ledger"]["readings"].items()}}

    def contents(self) -> list[Any]:
        """Return all that the store holds, without what says when and by which row it was decided."""
        left = "* EXCLUDE (revision, known_at)"
        assert isinstance(self.store, DuckStore)
        with self.store.cursor() as db:
            found = [db.execute(f"SELECT {left} FROM {t} ORDER BY ALL").fetchall() for t in ("readings", "figures")]
            book = db.execute("SELECT * EXCLUDE (moved_by) FROM quarantine_book ORDER BY ALL").fetchall()
        return [*found, book]

    def hours(self) -> list[tuple[int, float | None, int]]:
        """Return the hours of B2: (hour after T0, value, count)."""
        found = self.store.figures("B2", "pm25", T0, T0 + 100 * HOUR_S * SECOND, what="hour")
        return [((row["start"] - T0) // (HOUR_S * SECOND), row["value"], row["count"]) for row in found]


def begin(city: City) -> None:
    """Feed two hours of an unknown device; then the catalogue is mended."""
    assert (partition_of("B2", 2), partition_of("n/x", 2)) == (HOME, HEARD)
    city.use(BEFORE, 0)
    for i in range(12):
        city.feed(reading("x", 600 * i, pm25=10))
    city.use(AFTER, 2 * HOUR_S + 1)


@pytest.fixture
def city(tmp_path: Path) -> Iterator[City]:
    """One that has begun."""
    made = City(tmp_path)
    begin(made)
    yield made
    made.close()


@pytest.mark.parametrize("ahead", [HOME, HEARD])
def test_figures_have_what_was_driven_again(city: City, ahead: int) -> None:
    """Whichever partition has come further: an hour with readings of both kinds is made of both."""
    for i in range(40):
        city.bus.append(RAW, ahead, [frame_of([tick(2 * HOUR_S + 2 + i)])]).result()
    city.feed(reading("x", 6900, 2 * HOUR_S + 60, pm25=40))  # of the second hour, received when it was known
    city.feed(tick(2 * HOUR_S + 200))
    city.run()
    city.redrive(2 * HOUR_S + 300)
    city.feed(tick(2 * HOUR_S + 400), tick(2 * HOUR_S + 500))
    city.run()
    city.feed(tick(2 * HOUR_S + 600))
    city.run()
    assert [value for _, value, _ in city.values()] == [10.0] * 12 + [40.0]
    assert city.hours() == [(0, 10.0, 6), (1, pytest.approx(100 / 7), 7)]
    books = city.audited()
    assert (books["received"], books["stored"], books["quarantined"]) == (13, 13, 0)
    assert (books["r_decoded"], books["r_stored"], books["r_quarantined"]) == (13, 13, 0)


def test_a_reading_that_came_again_is_judged_by_its_own_partition(city: City) -> None:
    """Sent once more by the known device with another value, then driven again: the row of raw that is newer wins."""
    city.run()
    city.feed(reading("x", 600, 2 * HOUR_S + 60, pm25=33))
    city.run()
    city.redrive(2 * HOUR_S + 300)
    city.run()
    assert city.values()[1][:2] == (600, 10.0)
    city.feed(reading("x", 600, 2 * HOUR_S + 400, pm25=34))
    city.run()
    assert city.values()[1][:2] == (600, 34.0)
    books = city.audited()
    assert (books["stored"], books["r_decoded"], books["r_stored"], books["r_revised"]) == (14, 14, 12, 2)


def test_what_is_refused_again_stays_where_it_is(city: City) -> None:
    """For a field that nobody knows: what can be used is stored, the message keeps its id, says why, and goes later."""
    city.use(BEFORE, 2 * HOUR_S + 2)
    city.feed(reading("x", 7300, pm25=20, o3=5))
    city.run()
    city.use(AFTER, 2 * HOUR_S + 200)
    city.redrive(2 * HOUR_S + 300)
    city.run()
    (left,) = city.store.in_quarantine()
    (row,) = [row for row in city.store.quarantine() if row["outcome"] == Outcome.QUARANTINED]
    assert left[0] == HEARD
    assert (row["partition"], row["redrive_of"], row["reason"], row["outcome"]) == (
        *left,
        "unknown_property",
        Outcome.QUARANTINED,
    )
    assert row["position"] == row["moved_by"]
    assert [old["reason"] for old in city.store.refusals_of(left)] == ["unknown_property", "unknown_device"]
    books = city.audited()
    assert (books["stored"], books["quarantined"], books["r_quarantined"], books["r_stored"]) == (12, 1, 1, 13)
    city.use(LATER, 2 * HOUR_S + 400)
    city.redrive(2 * HOUR_S + 500)
    city.run()
    assert city.store.in_quarantine() == []
    books = city.audited()
    assert (books["stored"], books["quarantined"], books["r_quarantined"], books["r_stored"]) == (13, 0, 0, 14)


def test_driven_twice_at_once(city: City) -> None:
    """Each message moves once, and nothing is stored twice."""
    city.run()
    city.redrive(2 * HOUR_S + 300, times=2)
    city.run()
    books = city.audited()
    assert (books["received"], books["stored"], books["r_stored"], books["r_repeated"]) == (12, 12, 12, 12)


def test_a_message_that_comes_into_the_wrong_partition_goes_where_its_station_lives(city: City) -> None:
    """As of a gateway with another catalogue: nobody needs to drive it again, and no reading stands in between."""
    city.run()
    city.bus.append(RAW, HEARD, [frame_of([reading("x", 7300, pm25=20)])]).result()
    city.run()
    assert [(at, value) for at, value, _ in city.values()] == [(7300, 20.0)]
    assert city.values()[0][2] >> 16 == city.bus.end(RAW, HOME) - 1
    city.redrive(2 * HOUR_S + 300)
    city.run()
    assert city.audited()["stored"] == 13


def test_a_partition_that_does_not_know_the_device_yet_sends_it_home(city: City) -> None:
    """Driven again in front of the row that names the catalogue: refused there, it stays, and can be driven again."""
    city.use(BEFORE, 2 * HOUR_S + 2)
    city.run()
    city.catalogue = AFTER
    city.redrive(2 * HOUR_S + 300)
    city.run()
    books = city.audited()
    assert (books["quarantined"], books["r_quarantined"], books["r_stored"]) == (12, 12, 0)
    city.use(AFTER, 2 * HOUR_S + 400)
    city.redrive(2 * HOUR_S + 500)
    city.run()
    assert city.audited()["stored"] == 12


@pytest.mark.parametrize("seed", range(8))
def test_killed_anywhere(city: City, tmp_path: Path, seed: int) -> None:
    """Killed again and again while it goes on, saved or not: the store is that of a run without kills."""
    city.run()
    city.feed(reading("x", 6900, 2 * HOUR_S + 60, pm25=40))
    city.redrive(2 * HOUR_S + 300)
    city.feed(tick(2 * HOUR_S + 400))
    calm = City(tmp_path / "calm")
    for p in range(2):
        frames = [record.data for record in city.bus.read(RAW, p, 0, 1000)]
        calm.bus.append(RAW, p, frames).result()
    calm.run()
    rng = Random(seed)
    for _ in range(30):
        stages = [*city.process, *city.stores, *city.derive]
        city.step([rng.choice(stages)])
        if rng.random() < 0.3:
            rng.choice([*city.process, *city.derive]).save()
        if rng.random() < 0.3:
            city.kill()
        assert city.ledger.summary()["balanced"]
    city.run()
    assert city.contents() == calm.contents()
    assert city.audited() == calm.audited()
    calm.close()
