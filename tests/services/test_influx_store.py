"""InfluxDB as the primary store: the shared suite, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qingtu.contracts import Progress
from qingtu.records import PROCESSED
from qingtu.store.influx import InfluxStore
from tests.services.influx_support import Bench
from tests.store.build import Message, Reading, processed
from tests.suites.store import OpenStore, StoreSuite
from tests.suites.store_questions import StoreQuestionsSuite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.native.influx import InfluxServer

pytestmark = pytest.mark.services


@pytest.fixture
def bench(influx: InfluxServer, tmp_path: Path) -> Iterator[Bench]:
    """A store with buckets of its own."""
    one = Bench(influx, tmp_path / "bus")
    yield one
    one.close()


@pytest.fixture
def open_store(bench: Bench) -> OpenStore:
    """The store of one test, opened again with what it held."""
    return bench.open


@pytest.fixture
def fresh_store(influx: InfluxServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenStore]:
    """An empty store each time."""
    made: list[Bench] = []

    def make() -> object:
        for one in made:
            one.close()
        made.append(Bench(influx, tmp_path_factory.mktemp("bus")))
        return made[-1].open()

    yield make  # type: ignore[misc]
    for one in made:
        one.close()


class TestInfluxStore(StoreSuite):
    """The shared suite."""


class TestInfluxQuestions(StoreQuestionsSuite):
    """The shared suite of questions."""


def test_others_are_told_everything_in_the_end(bench: Bench) -> None:
    """A process without a bus hears of the first commit at once, of those right behind it a second later at most."""
    store = bench.open()
    for origin in range(4):
        message = Message((Reading(0, origin, 1.0, 1, 0),), origin)
        store.apply(PROCESSED, 0, [processed(origin, [message])], origin + 1)
        if not origin:
            assert heard_elsewhere(bench) == (Progress(1, 0), store.ledger())
    store.catch_up()  # nothing is due yet, or all of it is
    store.catch_up(now=True)
    assert heard_elsewhere(bench) == (Progress(4, 3), store.ledger())
    store.apply(PROCESSED, 0, [processed(4, [Message((Reading(0, 4, 1.0, 1, 0),), 4)])], 5)
    again = bench.open()  # as after a kill: what was not told is told by who takes the partition over
    assert heard_elsewhere(bench) == (Progress(5, 4), again.ledger())


def heard_elsewhere(bench: Bench) -> tuple[Progress, Any]:
    """Return progress and books as a process without the bus reads them."""
    store = InfluxStore(bench.settings, bench.server.token)
    try:
        return store.progress(PROCESSED, 0), store.ledger()
    finally:
        store.close()
