"""InfluxDB as the primary store: the shared suite, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.services.influx_support import Bench
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
