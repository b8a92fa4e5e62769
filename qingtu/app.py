"""The composition root: the stages of this process, by default all of them. The only place with threads."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from ingest.brokers import start_broker
from ingest.core import GatewayCore
from ingest.mqtt import MqttGateway
from ingest.routes import RouteTable
from processors.aggregates import DERIVED
from processors.aggregates.derive import SECTIONS, Derive
from processors.process import Process
from qingtu.audit import audit
from qingtu.bus import open_bus
from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.clock import Clock, SystemClock
from qingtu.contracts import SinkPlace
from qingtu.errors import NotFound, QingtuError, RetryLater, StartError
from qingtu.facts import Facts
from qingtu.folder import DataFolder
from qingtu.followers import Followers
from qingtu.health import problems
from qingtu.heap import keep_little
from qingtu.housekeeping import Housekeeping
from qingtu.lanes import Gather, Lanes
from qingtu.ledger import Ledger
from qingtu.metrics import Metrics
from qingtu.orders import Orders
from qingtu.outage import Outage
from qingtu.partitions import partition_of
from qingtu.records import PROCESSED, RAW, decode
from qingtu.stage import StageLoop
from qingtu.store import open_store
from qingtu.store.contract import Describing
from qingtu.worker import Worker
from sinks.stores import MOMENT_S, STORED, Stores, pause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.brokers import Broker
    from qingtu.settings import Settings
    from qingtu.store.contract import PrimaryStore
    from qingtu.turns import Turns
    from sinks.primary import StoreStage

_LOG = structlog.get_logger("qingtu")
STAGES: Final = ("gateway", "process", "store", "derive", "web")
"""Parts that a process can have."""
_DERIVE_S: Final = 1.0
"""derive looks so often at what came: a look at many frames costs little more than one at few."""
_WORKER_S: Final = 10.0
_FINISH_S: Final = 30.0
_AUDIT_S: Final = 30.0
_NEXT: Final = "nothing is lost: what is left is done at the next start"
_COUNT_S: Final = 1.0
"""The ledger counts so often what came in."""
_SINKS_S: Final = 5.0
"""So long a stop waits for sinks to take what is left; they take the rest after the next start."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a service is put together, beyond the settings.

    Attributes:
        stages: which of :data:`STAGES` this process has. All others run elsewhere, on the same Kafka servers.
        gateway: connect to a broker; without it only what is on the bus is worked on.
        own_broker: start the embedded broker when no other is set.
        stop_broker: end the embedded broker when the service stops (the demo does).
    """

    stages: frozenset[str] = frozenset(STAGES)
    gateway: bool = True
    own_broker: bool = True
    stop_broker: bool = True


class Service:
    """The whole embedded system. ``start``, then ``stop``; everything else may be asked in between.

    Args:
        settings: checked settings.
        options: what to leave out.
        clock: for times of receipt and ticks.
        catalogue: instead of the folder that the settings name.

    Raises:
        StartError: the environment refuses.
        ConfigError: the catalogue is wrong.
    """

    def __init__(
        self,
        settings: Settings,
        options: Options | None = None,
        *,
        clock: Clock | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.settings = settings
        self.options = options or Options()
        self.clock = clock or SystemClock()
        self.catalogue = catalogue or load_catalogue(settings.catalogue)
        self.metrics = Metrics()
        private = frozenset(n.id for n in self.catalogue.networks.values() if n.private)
        self._routes = RouteTable(settings.routes, private)
        with ExitStack() as opened:
            self._open(settings, opened)
            self._ledger = Ledger(self.bus, self.store) if self._store is not None else None
            self.broker: Broker | None = None
            self.gateway: MqttGateway | None = None
            self.started_us = self.clock.now_us()
            self._orders = Orders(self.bus, self.clock, self.catalogue.version)
            self.outage = Outage(self)
            self._facts = Facts(self)
            self._build()  # may refuse what a newer program has saved: what is open must be closed then
            opened.pop_all()

    def _open(self, settings: Settings, opened: ExitStack) -> None:
        """Open everything on disk; what is open is closed again when something refuses."""
        self.folder = DataFolder(settings.data)
        opened.callback(self.folder.close)
        try:
            self.key = self.folder.secret(settings.secret_file)
            self.tokens = self.folder.tokens(settings.web.tokens_file)
            self.folder.archive(self.catalogue)
        except OSError as error:
            raise StartError(
                f"数据目录不可写 / data folder {settings.data} cannot be written: {error}; free some space or choose "
                "another with --data"
            ) from error
        self.bus = open_bus(settings, self.options.stages)
        opened.callback(self.bus.close)
        self._store: PrimaryStore | None = None
        if "store" in self.options.stages:
            self._store = open_store(settings, self.bus)
            opened.callback(self._store.close)

    @property
    def store(self) -> PrimaryStore:
        """The primary store.

        Raises:
            QingtuError: this process has no store.
        """
        if self._store is None:
            raise QingtuError(f"a process with {', '.join(sorted(self.options.stages))} has no store")
        return self._store

    @property
    def ledger(self) -> Ledger:
        """The ledger, which is where the store is.

        Raises:
            QingtuError: this process has no store.
        """
        if self._ledger is None:
            raise QingtuError(f"a process with {', '.join(sorted(self.options.stages))} has no ledger")
        return self._ledger

    @property
    def stores(self) -> list[StoreStage]:
        """The stages of the store, which are none where it is elsewhere."""
        return [] if self.storing is None else self.storing.stages

    @property
    def turns(self) -> list[Turns]:
        """What knows of the stages here which cannot go on, and why."""
        return [self.process.turns, self.derive.turns, *([self.storing.turns] if self.storing is not None else ())]

    def _build(self) -> None:
        s, bus, has = self.settings, self.bus, self.options.stages
        gather = Gather(s.mqtt.flush_ms / 1000, s.process.gather_ms / 1000) if s.bus.kind == "sqlite" else None
        self.process = Lanes(bus, "process", RAW, self._process, gather)
        self.derive = Lanes(bus, "derive", PROCESSED, self._derive)
        self._hurry = threading.Event()
        self.storing = self._stores() if "store" in has else None
        for lanes in [lanes for name, lanes in (("process", self.process), ("derive", self.derive)) if name in has]:
            try:
                lanes.take_up()
            except RetryLater as later:  # such as a partition that goes to another process just now
                _LOG.info("not_taken_up_yet", stage=lanes.stream, reason=str(later), next="tried again at each step")
        workers = {
            "process": Worker("process", self.process.step, self.process.wait),
            "derive": Worker("derive", self.derive.step, self._await_ticks, _DERIVE_S),
        }
        if self.storing is not None:
            workers["store"] = Worker("store", self.storing.step, self.storing.wait)
        self.workers = [workers[name] for name in ("process", "store", "derive") if name in has]
        self._keeping: Housekeeping | None = None
        self._described = ""
        self._describing: Describing | None = self._store if isinstance(self._store, Describing) else None
        place = SinkPlace(s.data, s, bus, self.clock, self.folder.catalogue)
        self.followers = Followers(s.sinks if "store" in has else (), place)
        self._ticking = threading.Event()
        self.ticker = Worker("ticks", self._step_tick, lambda _: self._await_tick())
        # Not the ticker: a store that hangs while it is asked must not stop the clock.
        self.watcher = Worker("facts", self._step_facts, lambda _: self._await_tick())
        # Nor who looks at the status: counting for the ledger, and saving that, may wait for the bus.
        self.counter = Worker("counting", self._step_ledger, lambda _: self._await_count())

    def _process(self, partition: int) -> StageLoop:
        operator = Process(self._in_force, partition, self.bus.partitions, tell=True)
        return StageLoop(self.bus, operator, partition, state_every_s=self.settings.process.state_every_s)

    def _derive(self, partition: int) -> StageLoop:
        grace_s = self.settings.figures.grace_s
        operator = Derive(
            self.store, self._in_force, grace_s, partition, partitions=self.bus.partitions, derived=DERIVED, tell=True
        )
        every_s = self.settings.process.state_every_s
        return StageLoop(self.bus, operator, partition, state_every_s=every_s, only=SECTIONS)

    def _stores(self) -> Stores:
        s = self.settings.store
        beside = [
            ("catalogue", self._follow), ("stations", self._describe), ("others", self._tell),
            ("housekeeping", self._housekeep),
        ]  # fmt: skip
        return Stores(
            self.bus, self.store, self.clock,
            commit_ms=s.commit_ms, commit_messages=s.commit_messages, hurry=self._hurry, beside=beside,
        )  # fmt: skip

    def _saved_offset(self, stream: str, partition: int) -> int:
        """Return up to where the stage that reads a stream has saved its state; 0 when it runs elsewhere."""
        stage = (self.process if stream == RAW else self.derive).stages.get(partition)
        return 0 if stage is None else stage.saved_offset

    # -------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        """Start broker, gateway, stages and ticks."""
        taking = "gateway" in self.options.stages
        if taking:
            self.configure()
        # What exists now lives as long as the service; collecting rarely saves a tenth of the time of a message.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        keep_little()
        for worker in self.workers:
            worker.start()
        self.followers.start()
        if taking and self.options.gateway:
            if self.settings.mqtt.host is None and not self.options.own_broker:
                raise StartError(
                    "没有代理 / mqtt.host is not set: a gateway in a process of its own needs the address of a broker"
                )
            self.broker = start_broker(self.settings.mqtt, self.settings.data)
            self._core = GatewayCore(
                self._routes, self.settings.mqtt, gateway=self.settings.mqtt.client_id,
                partitions=self.bus.partitions, key=self.key, catalogue=self.catalogue.version,
                station_of=self._station_of,
            )  # fmt: skip
            self.gateway = MqttGateway(
                self.settings.model_copy(update={"mqtt": self.broker.adapt(self.settings.mqtt)}),
                self._core,
                self.bus,
                self.clock,
                self.metrics,
                address=(self.broker.host, self.broker.port),
            )
            self.gateway.start()
        if taking:
            self.ticker.start()
        if taking or self.stores:
            self.watcher.start()
        if self._ledger is not None:
            self.counter.start()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Stop taking messages, let what was taken go all the way, save, and give everything free."""
        self._ticking.set()
        self.ticker.stop(5)
        self.watcher.stop(5)
        self.counter.stop(5)
        if self.gateway is not None:
            self.gateway.stop(timeout_s=10)
        self.drain(timeout_s)
        for worker in self.workers:
            worker.stop(_WORKER_S)
        self.followers.stop(min(timeout_s, _SINKS_S))
        # In a thread of its own: where the bus does not answer, saving waits for it until it is closed.
        last = threading.Thread(target=self._finish, name="finish", daemon=True)
        last.start()
        last.join(_FINISH_S)
        if last.is_alive():
            _LOG.warning("stopped_behind", reason="the bus does not answer", next=_NEXT)

    def _finish(self) -> None:
        try:
            with self._between(_WORKER_S, self.workers):
                self.process.save()
                self.derive.save()
                self._settle()
            if self._ledger is not None:
                self._ledger.save()
        except (RetryLater, QingtuError) as later:
            _LOG.warning("stopped_behind", reason=str(later), next=_NEXT)

    @contextmanager
    def _between(self, timeout_s: float, workers: Sequence[Worker]) -> Iterator[None]:
        """Hold workers between two steps.

        Raises:
            RetryLater: one is within a step, and stays there.
        """
        deadline = time.monotonic() + timeout_s
        with ExitStack() as held:
            for worker in workers:
                held.enter_context(worker.between(deadline - time.monotonic()))
            yield

    def _settle(self) -> None:
        """Store all that stands on the bus now, and tell others; nobody else may step the stores meanwhile."""
        if self.storing is not None:
            self.storing.settle()
        if self._describing is not None:
            self._describing.catch_up(now=True)

    def close(self) -> None:
        """Let go of files; after :meth:`stop`, when the last questions were answered."""
        with ExitStack() as each:  # from the last to the first; one that fails stops none of the others
            each.callback(self.folder.close)
            each.callback(self.bus.close)
            if self._store is not None:
                each.callback(self._store.close)
            each.callback(self.followers.close)
            if self.broker is not None and self.options.stop_broker:
                each.callback(self.broker.stop)
        gc.unfreeze()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything on raw is stored; False when that takes longer."""
        self._hurry.set()
        deadline = time.monotonic() + timeout_s  # not the clock: it may be set back, or stand
        while time.monotonic() < deadline:
            if self._drained(deadline - time.monotonic()):
                return True
            if self.storing is not None:
                self.storing.hurry()
            threading.Event().wait(MOMENT_S)
        return False

    def _drained(self, timeout_s: float) -> bool:
        """Return whether everything on raw, in the partitions that are worked on here, is stored."""
        try:
            with self._between(timeout_s, self.workers):
                # Between steps: within one, frames are read already that were not sent on yet.
                read = {p: stage.next_offset for p, stage in self.process.stages.items()}
                done = all(at >= self.bus.end(RAW, p) for p, at in read.items())
                done = done and not any(stage.emitting for stage in self.process.stages.values())
                done = done and not (self.storing is not None and self.storing.behind())
        except RetryLater:
            return False
        return done and (
            not self.stores or all(self.store.progress(PROCESSED, p).origin >= at - 1 for p, at in read.items())
        )

    # ----------------------------------------------------------------------------------------------- inside loops

    def _follow(self) -> bool:
        """Show the catalogue that holds: where the gateways are other processes, they say which one it is."""
        if "gateway" not in self.options.stages:
            _, version = self.storing.told if self.storing is not None else (0, "")
            if version and version != self.catalogue.version:
                self._use(self._in_force(version))
        return False

    def _describe(self) -> bool:
        """Let a store that others read tell them which stations there are."""
        if self._describing is not None and self._described != self.catalogue.version:
            self._describing.describe(self.catalogue, self.folder.in_use_since_us(self.catalogue.version))
            self._described = self.catalogue.version
        return False

    def _tell(self) -> bool:
        """Let such a store tell them how far it is."""
        if self._describing is not None:
            self._describing.catch_up()
        return False

    def _housekeep(self) -> bool:
        if self._keeping is None:
            self._keeping = Housekeeping(
                self.settings,
                self.bus,
                self.store,
                self.ledger,
                self.followers,
                self.clock,
                self._saved_offset,
                self.started_us,
            )
        self._keeping.step(STORED)
        return False

    def _await_ticks(self, seconds: float) -> None:
        """Sleep: derive has work at ticks only, and looks a few times in between at what came."""
        pause(self._hurry, min(seconds, self.settings.figures.tick_s / 4))

    def _step_tick(self) -> bool:
        if not self._ticking.is_set():
            try:
                self.tick()
            finally:  # neither stops the other: a bus that refuses, a broker that cannot be started
                self._mend_broker()
        return False

    def _step_facts(self) -> bool:
        if not self._ticking.is_set():
            self._facts.step()
        return False

    def _step_ledger(self) -> bool:
        return self._ledger is not None and not self._ticking.is_set() and self._ledger.step()

    def _await_count(self) -> None:
        self._ticking.wait(_COUNT_S)

    def _mend_broker(self) -> None:
        """Start the embedded broker again when it has died; the gateway reconnects by itself."""
        if self.broker is not None and not self.broker.running():
            _LOG.warning("broker_ended", kind=self.broker.kind, next="it is started again")
            self.broker = start_broker(self.settings.mqtt, self.settings.data)

    def _await_tick(self) -> None:
        self._ticking.wait(self.settings.figures.tick_s)

    def tick(self) -> None:
        """Write the clock into raw, with what the gateway hears."""
        self._orders.tick(self.gateway.hearing() if self.gateway is not None else {})
        self.outage.measure()

    # -------------------------------------------------------------------------------------------- commands to raw

    def configure(self) -> None:
        """Tell raw which catalogue, decoders and limits hold from here on."""
        args = {
            "catalogue": self.catalogue.version,
            "routes": {route.name: route.decoder for route in self.settings.routes},
            **self.settings.process.model_dump(),
        }
        self._orders.configure(args)

    def command(self, name: str, who: str, args: dict[str, Any], station: str | None = "") -> int:
        """Write a command into raw; return the offset of its frame once it is durable.

        Args:
            name: of the command.
            who: the person.
            args: as the command needs them.
            station: into whose partition it goes; None: into the first, where situations are decided.
        """
        return self._orders.command(name, who, args, station)

    def tell(self, name: str, args: dict[str, Any]) -> None:
        """Write what this service has to tell into the first partition of raw."""
        self._orders.system(name, args)

    def command_all(self, name: str, who: str, args: dict[str, Any]) -> None:
        """Write a command into every partition; returns once it is durable."""
        self._orders.command_all(name, who, args)

    def redrive(
        self, ids: Sequence[tuple[int, int]] | None, who: str, *, reason: str | None = None, shift_s: float = 0
    ) -> int:
        """Drive messages of the quarantine again through the pass; return how many.

        Args:
            ids: (partition, position) of each; None takes all, or all with ``reason``.
            who: the person.
            reason: only with this reason code.
            shift_s: added to claimed times, for devices whose clock was wrong.
        """
        wanted = self.store.in_quarantine(reason)
        if ids is not None:
            asked = set(ids)
            wanted = [at for at in wanted if at in asked]
            if missing := asked - set(wanted):
                partition, at = min(missing)
                which = f"{partition}:{at}"
                raise NotFound(
                    f"{which} 不在隔离区 / {which} is not in quarantine ({len(missing)} of {len(asked)} are not)"
                )
        self._orders.redrive(self.store, wanted, who, self._station_of, reason=reason, shift_s=shift_s)
        return len(wanted)

    def reload(self) -> str:
        """Read the catalogue again and use it from the next raw row on; return its version.

        Only a process with the gateway may: it decides where a message goes, and raw tells all others from there.

        Raises:
            ConfigError: it is wrong; the old one stays in use.
            QingtuError: the gateway is another process.
            RetryLater, Undecided: raw does not take it now: do it again.
        """
        if "gateway" not in self.options.stages:
            raise QingtuError(
                "目录由网关决定 / the gateways say which catalogue holds: run qingtu reload with the --data of each "
                "gateway; all other processes follow"
            )
        catalogue = load_catalogue(self.settings.catalogue)
        self.folder.archive(catalogue)
        self._use(catalogue)
        self.configure()
        return catalogue.version

    def _use(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._orders.catalogue = catalogue.version
        self._routes = RouteTable(
            self.settings.routes, frozenset(n.id for n in catalogue.networks.values() if n.private)
        )
        if self.gateway is not None:
            self._core.configure(self._routes, catalogue.version, self._station_of)

    def _in_force(self, version: str) -> Catalogue:
        """Return the catalogue that raw names; see :meth:`qingtu.folder.DataFolder.catalogue_in_force`."""
        return self.folder.catalogue_in_force(version, self.settings.catalogue)

    def _station_of(self, network: str, device: str) -> str | None:
        entry = self.catalogue.devices.get((network, device))
        return None if entry is None else entry.station.id

    # --------------------------------------------------------------------------------------------------- questions

    def raw_row(self, position: int, station: str = "", partition: int | None = None) -> dict[str, Any]:
        """Return one raw row as it stands on the bus, in a station's partition unless another is named.

        Raises:
            NotFound: raw does not hold it any more.
        """
        offset, row = position >> 16, position & 0xFFFF
        if partition is None:
            partition = partition_of(station, self.bus.partitions)
        for record in self.bus.read(RAW, partition, offset, 1):
            if record.offset == offset:
                out: dict[str, Any] = decode(record.data).sections["rows"].slice(row, 1).to_pylist()[0]
                return out
        held = f"{self.settings.bus.raw_keep_h} h"
        raise NotFound(f"原始数据已过保存期 / raw row {position} is older than what raw still holds ({held})")

    def audit(self) -> dict[str, Any]:
        """Recount everything; see :func:`qingtu.audit.audit`. Storing waits meanwhile, nothing else does.

        Raises:
            QingtuError: this process has no ledger.
            RetryLater: storing is within a step that takes long.
        """
        ledger = self.ledger
        storing = [worker for worker in self.workers if worker.name == "store"]
        with self._between(_AUDIT_S, storing):
            self._settle()
            return audit(self.bus, self.store, ledger)

    def problems(self) -> list[dict[str, str]]:
        """Return what is wrong now, each with key, zh and en; empty when all is well."""
        return problems(self)
