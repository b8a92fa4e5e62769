"""The simulated processes of a history: the real stages, put together as the composition root does, without threads.

Each has a client on the bus that dies with it. ``step`` does a bounded piece of work and may raise
:class:`~tests.histories.bus.Crash`; what a host held in memory is then gone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ingest.bus_writer import BusWriter
from ingest.core import GatewayCore
from processors.aggregates.derive import Derive
from processors.process import Process
from qingtu.errors import RetryLater
from qingtu.ledger import Ledger
from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED, Frame
from qingtu.settings import MqttSettings
from qingtu.stage import StageLoop
from sinks.follow import Follower
from sinks.primary import StoreStage
from tests.histories import city

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from qingtu.contracts import Applied, FigureQuery, Operator, Progress, ReadingQuery
    from qingtu.store import books
    from tests.histories.broker import Wire
    from tests.histories.bus import BusClient
    from tests.histories.store import FullStore
    from tests.histories.world import World

GATEWAY: Final = "g"
GRACE_S: Final = 300
STORED: Final = (PROCESSED, ALERTS, REJECTED, FIGURES)


class Gateway:
    """The gateway: the real core and bus writer between a connection and the bus."""

    def __init__(self, world: World, client: BusClient) -> None:
        self._world = world
        self.client = client
        rng = world.rng
        limits = MqttSettings(
            flush_rows=rng.choice([8, 16, 64]), flush_ms=rng.choice([1, 100, 2000]), buffer_rows=rng.choice([40, 300])
        )
        self.core = GatewayCore(
            city.routes(), limits, gateway=GATEWAY, partitions=client.partitions, key=b"k" * 32,
            catalogue=world.catalogue.version, station_of=world.station_of,
        )  # fmt: skip
        self.writer = BusWriter(self.core, client)
        self.limits = limits
        self._wire: Wire | None = None
        self._since_us = 0
        self.untold = False

    def step(self) -> None:
        """Connect when there is no connection; read, flush, acknowledge."""
        world = self._world
        if self._wire is not None and not self._wire.open and world.rng.random() < 0.7:
            self._wire = None
            self.core.disconnected()
        if self._wire is None and world.broker.up and not self.core.overfull:
            self._connect()
        # As the network thread: reading pauses at the bound, and while the bus works on a flush and much has come.
        much = self.core.rows >= min(4 * self.limits.flush_rows, self.limits.buffer_rows // 2)
        pause = self.core.overfull or (self.writer.busy and much)
        if self._wire is not None and not pause and world.rng.random() < 0.85:
            self._read(self._wire, world.rng.randint(1, 40))
        now = world.now_us()
        ids = self.writer.step(now, world.true_us / 1e6)
        self.untold = self.untold and (self.writer.busy or self.core.wait_us(now) is not None)
        if ids and self._wire is not None:
            for number in ids:
                world.judge.acknowledged(self._since_us, number)
                world.broker.puback(self._wire, number)
            world.story.tell("gateway: PUBACK for %d messages on connection %d", len(ids), self._since_us)
        if world.broker.idle():  # a network that stalls for longer than the marker is waited for is not simulated
            self.core.poll(now)
        if self.core.overfull and self.writer.refusal is not None and self._wire is not None:
            world.story.tell("gateway: buffer full (%d rows), disconnects and keeps its session", self.core.rows)
            world.broker.cut()

    def hearing(self) -> dict[str, int]:
        """Return since when each route hears, as :meth:`ingest.mqtt.MqttGateway.hearing` does."""
        heard = {r.name: self.core.hearing_since(r.name) for r in self.core.routes.routes}
        return {name: since for name, since in heard.items() if since is not None}

    def _connect(self) -> None:
        world = self._world
        self._wire, present = world.broker.connect()
        self._since_us = max(self._since_us + 1, world.now_us())  # as ingest.mqtt_session numbers connections
        world.judge.connected(self._since_us, self._wire, session=present)
        self.core.connected(self._since_us, present)
        self.untold = self.untold or not present
        world.broker.publish_marker(*self.core.marker())
        world.story.tell("gateway: connection %d, session %s", self._since_us, "kept" if present else "new")

    def _read(self, wire: Wire, most: int) -> None:
        world = self._world
        world.broker.pump()
        taken = [wire.packets.popleft() for _ in range(min(most, len(wire.packets)))]
        if not taken:
            return
        publishes = []
        for dup, number, message in taken:
            head = 0x30 | dup << 3 | message.qos << 1
            publishes.append((head, message.topic.encode(), number, None, message.payload))
            world.judge.delivered(self._since_us, number, message)
        self.core.receive_many(publishes, world.now_us())
        world.story.tell("gateway: read %d messages, %d with DUP", len(taken), sum(dup for dup, _, _ in taken))
        world.judge.buffered(self.core.rows, self.limits.buffer_rows + most)


class Processor:
    """Process and derive for the partitions that the bus gives to this process."""

    def __init__(self, world: World, client: BusClient) -> None:
        self._world = world
        self.client = client
        self.every_s = world.rng.choice([1, 900, 3600, 1 << 30])
        self._batch = world.rng.choice([1, 4, 16])
        self.loops: dict[int, tuple[StageLoop, StageLoop]] = {}
        self.asleep = 0

    def step(self) -> None:
        """Take up and give up partitions, then step one stage of each."""
        if self.asleep:
            self.asleep -= 1  # it does not know that its partitions went
        else:
            self._follow_assignment()
        for partition in list(self.loops):
            process, derive = self.loops[partition]
            for stage in (process, derive) if self._world.rng.random() < 0.8 else (process,):
                try:
                    stage.step()
                except RetryLater as later:
                    if later.retry_after_s > 0.1:
                        self._world.story.tell("%s: waits: %s", stage.name, later)
            if self._world.rng.random() < 0.08:
                self.save(partition)

    def save(self, partition: int) -> None:
        """Save the state of both stages, if the bus lets us."""
        try:
            for stage in self.loops[partition]:
                stage.save()
        except RetryLater:
            return
        self._world.story.tell("%s: saved partition %d", self.client.name, partition)

    def _follow_assignment(self) -> None:
        mine = self.client.assigned("process", "raw")
        for partition in [p for p in self.loops if p not in mine]:
            if self._world.rng.random() < 0.5:
                self.save(partition)
            del self.loops[partition]
            self._world.story.tell("%s: gave partition %d up", self.client.name, partition)
        for partition in sorted(mine - self.loops.keys()):
            try:
                self.loops[partition] = self._open(partition)
            except RetryLater:
                continue
            at = self.loops[partition][0].next_offset
            self._world.story.tell("%s: took partition %d up at raw %d", self.client.name, partition, at)

    def _open(self, partition: int) -> tuple[StageLoop, StageLoop]:
        archive = city.archive().__getitem__
        n = self.client.partitions
        process = Process(archive, partition, n, tell=True)
        derive = Derive(StoreDoor(self._world, self.client), archive, GRACE_S, partition, partitions=n, tell=True)
        return self._loop(process, partition), self._loop(derive, partition)

    def _loop(self, operator: Operator, partition: int) -> StageLoop:
        return StageLoop(self.client, operator, partition, state_every_s=self.every_s, batch=self._batch)


class Storer:
    """The store stages of all partitions, and the ledger."""

    def __init__(self, world: World, client: BusClient) -> None:
        self._world = world
        self.client = client
        door = StoreDoor(world, client)
        rng = world.rng
        wait_ms, many = rng.choice([0, 1000, 600_000]), rng.choice([1, 40, 4000])
        self.stages = [
            StoreStage(client, door, stream, p, world, commit_ms=wait_ms, commit_messages=many)
            for stream in STORED
            for p in range(client.partitions)
        ]
        self.ledger = Ledger(client, door)

    def step(self) -> None:
        """Step every stage once; look at the ledger when something was committed."""
        before = self._world.commits
        for stage in self.stages:
            if self._world.rng.random() < 0.7:
                self.step_one(stage)
        if self._world.rng.random() < 0.1:
            with suppress(RetryLater):
                self.ledger.save()
        if self._world.commits > before and not self._world.faults.bus_down:
            self._world.judge.books(self.ledger.report())
        self._world.judge.books(self.ledger.summary())  # of the status: whatever is away

    def step_one(self, stage: StoreStage) -> None:
        """Step one stage; a store that refuses is tried again later."""
        try:
            stage.step()
        except RetryLater as later:
            self._world.story.tell("%s: waits: %s", stage.name, later)


class Notifier:
    """The follower of alerts: whoever is told of each transition."""

    def __init__(self, world: World, client: BusClient) -> None:
        self.client = client
        self.followers = [Follower(client, Bell(world, client), world, p) for p in range(client.partitions)]

    def step(self) -> None:
        """Step each follower once."""
        for follower in self.followers:
            try:
                follower.step()
            except RetryLater:
                continue


class Bell:
    """A sink that tells people of alerts: what it was given is known outside, whatever happens then."""

    name = "bell"
    stream = ALERTS

    def __init__(self, world: World, client: BusClient) -> None:
        self._world = world
        self._client = client

    def write(self, frames: Sequence[Frame]) -> None:
        """Take frames; see :class:`qingtu.contracts.Sink`."""
        self._client.point()
        if self._world.faults.chance("store_refuses", 0.2):
            raise RetryLater("the bell is stuck")
        for frame in frames:
            self._world.judge.notified(frame)
        self._client.point()


class StoreDoor:
    """The store as one process reaches it: it may be away, refuse, or the process dies before or after a commit."""

    def __init__(self, world: World, client: BusClient) -> None:
        self._world = world
        self._client = client
        self._store: FullStore = world.store

    def progress(self, stream: str, partition: int) -> Progress:
        """Return how far committed effects reach."""
        return self._store.progress(stream, partition)

    def apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Applied:
        """Apply as one, or not at all."""
        self._client.point()
        self._try()
        if self._world.faults.chance("store_refuses", 0.12):
            raise RetryLater("the store refuses this once")
        done = self._store.apply(stream, partition, frames, next_offset)
        self._world.commits += 1
        self._world.story.tell(
            "store: committed %d of %d frames of %s-%d, origin %d",
            done.frames, len(frames), stream, partition, self._store.progress(stream, partition).origin,
        )  # fmt: skip
        self._client.point()
        return done

    def readings(self, query: ReadingQuery) -> pa.Table:
        """Return readings."""
        self._try()
        if self._world.faults.chance("store_refuses", 0.03):
            raise RetryLater("the store refuses this once")
        return self._store.readings(query)

    def figures_of(self, query: FigureQuery) -> pa.Table:
        """Return figures."""
        self._try()
        if self._world.faults.chance("store_refuses", 0.03):
            raise RetryLater("the store refuses this once")
        return self._store.figures_of(query)

    def ledger(self) -> tuple[dict[books.Key, dict[str, int]], dict[int, int]]:
        """Return the books."""
        return self._store.ledger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def close(self) -> None:
        """Leave the store to the others."""

    def _try(self) -> None:
        if self._world.faults.store_down:
            raise RetryLater("the store is away")
