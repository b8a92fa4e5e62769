"""What is done to a city, and what its status must say meanwhile. The module test_city does it under load."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from deploy.native.influx import InfluxServer
    from deploy.native.kafka import KafkaServer
    from deploy.native.mosquitto import MosquittoServer
    from deploy.native.process import Server
    from tests.faults.proxy import Proxy
    from tests.services.city import City, Part

FORM: Final = os.environ.get("QINGTU_FAULTS", "")
"""``long`` or ``short``: docs/reliability.md is written, by faults of that length; by default they are short."""
LONG: Final = FORM == "long"
HANG_S: Final = 30.0 if LONG else 5.0
AWAY_S: Final = 12.0 if LONG else 5.0
"""In the long form longer than a stall, which is told after 10 s."""
_CUT_EVERY_S: Final = 0.7
_DELAY_MS: Final = 150.0


@dataclass
class Scene:
    """One city for all faults, and what was seen.

    Attributes:
        proxies: by the way that they stand in: ``broker`` (gateway to mosquitto), ``raw`` (gateway to Kafka), ``bus``
            (the first processor to Kafka), ``store`` (store to InfluxDB).
        steps: of the publisher's times that were used up.
        publisher: pid of the publisher while a fault is on.
    """

    city: City
    kafka: KafkaServer
    mosquitto: MosquittoServer
    influx: InfluxServer
    proxies: dict[str, Proxy]
    steps: int = 0
    publisher: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def target(self, name: str) -> Part | Server:
        """Return what can be killed, by name."""
        servers: dict[str, Server] = {"kafka": self.kafka, "mosquitto": self.mosquitto, "influx": self.influx}
        return servers.get(name) or self.city.parts[name]


class Strike(Protocol):
    """A fault is on within the context that this returns."""

    def __call__(self, scene: Scene) -> AbstractContextManager[None]:
        """Make the context."""
        ...


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: as the table of results says it.
        strike: does it, and undoes it.
        said: the status must say a problem that begins with one of these meanwhile; empty: it need not.
        from_start: it is on before the first message, and until the last one was published.
        away_s: how long it is on.
    """

    name: str
    strike: Strike
    said: tuple[str, ...] = ()
    from_start: bool = False
    away_s: float = AWAY_S


def _nothing() -> Strike:
    return lambda _: contextlib.nullcontext()


def _killed(*names: str) -> Strike:
    """Kill -9; started again afterwards."""

    @contextlib.contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        targets = [scene.target(name) for name in names]
        for target in targets:
            target.kill()
        yield
        for target in targets:
            target.start()

    return strike


def _stopped(name: str) -> Strike:
    """SIGSTOP; SIGCONT afterwards."""

    @contextlib.contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        scene.target(name).pause()
        yield
        scene.target(name).resume()

    return strike


def _network(way: str, what: str) -> Strike:
    """``drop`` or ``delay`` all bytes on a way, or ``cut`` its connections again and again."""

    @contextlib.contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        proxy, over = scene.proxies[way], threading.Event()
        before = proxy.forwarded

        def cutting() -> None:
            while not over.wait(_CUT_EVERY_S):
                proxy.cut()

        thread = threading.Thread(target=cutting, daemon=True)
        if what == "cut":
            thread.start()
        elif what == "delay":
            proxy.delay(_DELAY_MS)
        else:
            proxy.drop()
        yield
        over.set()
        if thread.ident is not None:
            thread.join()
        assert proxy.swallowed or proxy.forwarded > before, "nothing went this way: the fault hit nobody"
        proxy.heal()

    return strike


def _disk_full(name: str, *, restarted: bool = False) -> Strike:
    """No file of a process may grow any more: its data, its log.

    A limit of the kernel stands in for a full disk; writes fail with another number (EFBIG) at the same places. Two
    servers must be ``restarted`` when there is space again: Kafka ends itself, InfluxDB 2.7 refuses every write to a
    shard whose log failed once, for as long as it runs.
    """

    @contextlib.contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        target = scene.target(name)
        pid = target.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        yield
        if restarted:
            target.kill()
            target.start()
        else:
            assert target.running(), f"{name} did not survive a full disk"
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    return strike


@contextlib.contextmanager
def _broker_loses_its_store(scene: Scene) -> Iterator[None]:
    """Kill the broker, delete its files. Devices hold still until the gateway is back: nobody hears them before."""
    os.kill(scene.publisher, signal.SIGSTOP)
    scene.mosquitto.kill()
    shutil.rmtree(scene.mosquitto.data)
    yield
    scene.mosquitto.start()
    scene.city.wait(lambda: not any(p["key"] == "not_heard" for p in scene.city.get("/api/status")["problems"]), 60)
    os.kill(scene.publisher, signal.SIGCONT)


@contextlib.contextmanager
def _reloaded(scene: Scene) -> Iterator[None]:
    """A station more in the catalogue, told to the gateway alone; a wrong catalogue before it is refused."""
    city = scene.city
    file = city.catalogue / "bench.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("kind: threshold", "kind: thresholds"), encoding="utf-8")
    refused = city.command("reload", part="gateway")
    assert refused.returncode == 3, refused.stderr
    assert "thresholds" in refused.stderr
    added = next(line for line in text.splitlines() if "id: s0000" in line).replace("{id: s0000,", "{id: n0000,")
    file.write_text(f"{text}{added}\n", encoding="utf-8")
    done = city.command("reload", part="gateway")
    assert done.returncode == 0, done.stderr
    assert "changed" in done.stdout
    version = done.stdout.split("catalogue ")[1].split(":")[0].strip()
    city.wait(lambda: city.get("/api/status")["catalogue"] == version, 30)
    assert any(station["id"] == "n0000" for station in city.get("/api/stations")["features"])
    yield


_DEAF: Final = ("not_heard",)
_BUS: Final = ("bus", "not_heard")
_SLOW: Final = ("store-", "stalled_store") if LONG else ()
FAULTS: Final = (
    Fault("none", _nothing()),
    Fault("kill -9 gateway", _killed("gateway"), _DEAF),
    Fault("kill -9 processor", _killed("process0")),  # the other has its partitions within a stall
    Fault("kill -9 store, derive and map", _killed("map"), ("no answer",)),
    Fault("kill -9 mosquitto, gateway connected", _killed("mosquitto"), _DEAF),
    Fault("kill -9 Kafka", _killed("kafka"), _BUS),
    Fault("kill -9 InfluxDB", _killed("influx"), ("store-",)),
    Fault("kill -9 gateway and processor", _killed("gateway", "process1"), _DEAF),
    Fault("kill -9 both processors", _killed("process0", "process1"), _DEAF),
    Fault("kill -9 Kafka and store", _killed("kafka", "map"), ("no answer",)),
    Fault("kill -9 InfluxDB and gateway", _killed("influx", "gateway"), _DEAF),
    Fault("SIGSTOP processor", _stopped("process0"), away_s=HANG_S),  # as above
    Fault("SIGSTOP gateway", _stopped("gateway"), _DEAF, away_s=HANG_S),
    Fault("SIGSTOP Kafka", _stopped("kafka"), _BUS, away_s=HANG_S),
    Fault("SIGSTOP InfluxDB", _stopped("influx"), _SLOW, away_s=HANG_S),
    Fault("network gateway to mosquitto drops all", _network("broker", "drop"), _DEAF if LONG else ()),
    Fault("network gateway to mosquitto is slow", _network("broker", "delay")),
    Fault("network gateway to mosquitto is cut again and again", _network("broker", "cut")),
    Fault("network gateway to Kafka drops all", _network("raw", "drop"), _DEAF),
    Fault("network processor to Kafka drops all", _network("bus", "drop")),
    Fault("network processor to Kafka is slow", _network("bus", "delay")),
    Fault("network processor to Kafka is cut again and again", _network("bus", "cut")),
    Fault("network store to InfluxDB drops all", _network("store", "drop"), _SLOW),
    Fault("network store to InfluxDB is slow", _network("store", "delay")),
    Fault("network store to InfluxDB is cut again and again", _network("store", "cut")),
    Fault("disk of the gateway full", _disk_full("gateway")),
    Fault("disk of a processor full", _disk_full("process0")),
    Fault("disk of store, derive and map full", _disk_full("map")),
    Fault("disk of InfluxDB full", _disk_full("influx", restarted=True), ("store-",)),
    Fault("disk of Kafka full", _disk_full("kafka", restarted=True), _BUS),
    Fault("mosquitto restarts without its store", _broker_loses_its_store, _DEAF),
    Fault("no gateway until all is published", _killed("gateway"), _DEAF, from_start=True),
    Fault("catalogue reloaded", _reloaded),
)
