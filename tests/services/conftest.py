"""Real servers for tests: one Kafka and one InfluxDB for the session, and factories for servers of a test's own.

Where a server cannot be had, what needs it skips and says what is missing.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from deploy.native.influx import InfluxServer
from deploy.native.kafka import KafkaServer
from deploy.native.mosquitto import MosquittoServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deploy.native.process import Server

AnyServer = TypeVar("AnyServer", bound="Server")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Kafka for all tests of the session: use topics of your own, and never kill it."""
    yield from _held(KafkaServer, tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxServer]:
    """InfluxDB for all tests of the session: use buckets of your own, and never kill it."""
    yield from _held(InfluxServer, tmp_path_factory.mktemp("influx"))


@pytest.fixture
def new_kafka(own_servers: list[Server], tmp_path: Path) -> Callable[[], KafkaServer]:
    """Make Kafkas of the test's own, running; they are killed after it."""
    return lambda: _started(KafkaServer, own_servers, tmp_path / "kafka")


@pytest.fixture
def new_influx(own_servers: list[Server], tmp_path: Path) -> Callable[[], InfluxServer]:
    """Make InfluxDBs of the test's own, running and set up; they are killed after it."""
    return lambda: _started(InfluxServer, own_servers, tmp_path / "influx")


@pytest.fixture
def new_mosquitto(own_servers: list[Server], tmp_path: Path) -> Callable[..., MosquittoServer]:
    """Make mosquittos of the test's own, running; they are killed after it. Takes what MosquittoServer takes."""
    return lambda **given: _started(MosquittoServer, own_servers, tmp_path / "mosquitto", **given)


@pytest.fixture
def own_servers() -> Iterator[list[Server]]:
    """Servers of one test."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.kill()
        shutil.rmtree(server.data, ignore_errors=True)  # the logs stay, the bulk does not


def _need(kind: type[Server]) -> None:
    if missing := kind.available():
        pytest.skip(missing)


def _held(kind: type[AnyServer], folder: Path) -> Iterator[AnyServer]:
    _need(kind)
    with kind(folder) as server:
        yield server
    shutil.rmtree(server.data, ignore_errors=True)


def _started(kind: type[AnyServer], servers: list[Server], name: Path, **given: Any) -> AnyServer:
    """Start one more server of a test, in a folder of its own beside the others."""
    _need(kind)
    server = kind(name.with_name(f"{name.name}-{len(servers)}"), **given)
    servers.append(server)
    return server.start()
