"""What histories are made of keeps the contracts: the bus and the store in memory pass the suites of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.histories.bus import SimBus
from tests.histories.store import ModelStore
from tests.suites.bus import BusSuite, OpenBus
from tests.suites.store import OpenStore, StoreSuite

if TYPE_CHECKING:
    from qingtu.contracts import Bus


class TestSimBus(BusSuite):
    """The shared suite; what was opened is one server with many clients."""

    @pytest.fixture
    def open_bus(self) -> OpenBus:
        """Open another client on one server."""
        servers: list[SimBus] = []

        def make(partitions: int = 1) -> Bus:
            if not servers:
                servers.append(SimBus(partitions))
            return servers[0].client()

        return make


@pytest.fixture
def open_store() -> OpenStore:
    """Open the one store of a test: closed and opened again it is the same object."""
    store = ModelStore()
    return lambda: store


@pytest.fixture(scope="class")
def fresh_store() -> OpenStore:
    """Open an empty store each time."""
    return ModelStore


class TestModelStore(StoreSuite):
    """The shared suite."""
