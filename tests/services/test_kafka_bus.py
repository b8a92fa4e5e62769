"""The Kafka bus: exactly the suite of the embedded one, and what only topics can do wrong."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from qingtu.bus.kafka import KafkaBus
from qingtu.bus.kafka_topics import setup
from qingtu.settings import BusSettings, KafkaSettings
from tests.suites.bus import BusSuite, OpenBus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.native.kafka import KafkaServer
    from qingtu.contracts import Bus

pytestmark = pytest.mark.services
_NUMBERS = itertools.count()


class TestKafkaBus(BusSuite):
    """The suite on topics of its own for each test."""

    @pytest.fixture
    def open_bus(self, kafka: KafkaServer) -> Iterator[OpenBus]:
        """Open the bus with one prefix; all are closed in the end."""
        prefix = f"suite-{os.getpid()}-{next(_NUMBERS)}"
        opened: list[KafkaBus] = []

        def make(partitions: int = 1) -> Bus:
            settings = KafkaSettings(servers=(kafka.address,), prefix=prefix, partitions=partitions)
            setup(settings, BusSettings())
            opened.append(KafkaBus(settings))
            return opened[-1]

        yield make
        for bus in opened:
            bus.close()
