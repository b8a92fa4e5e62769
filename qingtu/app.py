"""The composition root: all stages of the embedded system in one process. The only place with threads."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from ingest.brokers import start_broker
from ingest.core import GatewayCore
from ingest.mqtt import MqttGateway
from ingest.raw import command_row, raw_frame, redrive_rows, tick_row
from ingest.routes import RouteTable
from processors.aggregates.hour import Hours
from processors.process import CONFIGURE, Process
from qingtu.bus.sqlite import SqliteBus
from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.clock import DAY, HOUR, SECOND, Clock, SystemClock
from qingtu.errors import NotFound, RetryLater, StartError
from qingtu.folder import DataFolder
from qingtu.followers import Followers
from qingtu.ledger import Ledger, audit
from qingtu.metrics import Metrics
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, REJECTED, decode, decode_header
from qingtu.stage import StageLoop
from qingtu.store.duckdb import DuckStore
from qingtu.worker import Worker
from sinks.primary import StoreStage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from ingest.brokers import Broker
    from qingtu.settings import Settings

_LOG = structlog.get_logger("qingtu")
_REDRIVE_BATCH: Final = 1000
_MIB: Final = 1024 * 1024
_SINKS_S: Final = 5.0
"""So long a stop waits for sinks to take what is left; they take the rest after the next start."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a service is put together, beyond the settings.

    Attributes:
        gateway: connect to a broker; without it only what is on the bus is worked on.
        own_broker: start the embedded broker when no other is set.
        stop_broker: end the embedded broker when the service stops (the demo does).
    """

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
            self.ledger = Ledger(self.bus, self.store)
            opened.pop_all()
        self.broker: Broker | None = None
        self.gateway: MqttGateway | None = None
        self.started_us = self.clock.now_us()
        self._kept_us = 0
        self._build()

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
        self.bus = SqliteBus(settings.data / "bus", free_floor_bytes=settings.bus.free_floor_mb * _MIB)
        opened.callback(self.bus.close)
        self.store = DuckStore(settings.data / "qingtu.duckdb", settings.store.memory_limit, settings.store.threads)
        opened.callback(self.store.close)

    def _build(self) -> None:
        s, bus = self.settings, self.bus
        self.process = StageLoop(bus, Process(self.folder.catalogue), state_every_s=s.process.state_every_s)
        self.derive = StageLoop(bus, Hours(self.store, self.folder.catalogue, s.figures.grace_s))
        self.stores = [
            StoreStage(
                bus, self.store, stream, 0, self.clock,
                commit_ms=s.store.commit_ms, commit_messages=s.store.commit_messages,
            )
            for stream in (PROCESSED, ALERTS, REJECTED, FIGURES)
        ]  # fmt: skip
        self.workers = [
            Worker("process", self.process.step, lambda s: self._await(RAW, self.process.next_offset, s)),
            Worker("store", self._step_stores, self._await_stores),
            Worker("derive", self.derive.step, self._await_ticks),
        ]
        self.followers = Followers(s.sinks, s.data, bus, self.clock)
        self._hurry = threading.Event()
        self._ticking = threading.Event()
        self._ticker = Worker("ticks", self._step_tick, lambda _: self._await_tick())

    # -------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        """Start broker, gateway, stages and ticks."""
        self.configure()
        # What exists now lives as long as the service; collecting rarely saves a tenth of the time of a message.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        for worker in self.workers:
            worker.start()
        self.followers.start()
        if self.options.gateway:
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
        self._ticker.start()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Stop taking messages, let what was taken go all the way, save, and give everything free."""
        self._ticking.set()
        self._ticker.stop(5)
        if self.gateway is not None:
            self.gateway.stop(timeout_s=10)
        self.drain(timeout_s)
        for worker in self.workers:
            worker.stop()
        self.followers.stop(min(timeout_s, _SINKS_S))
        try:
            with self.workers[0].between, self.workers[1].between, self.workers[2].between:
                self.process.save()
                self.derive.save()
                self._settle()
            self.ledger.save()
        except RetryLater as later:
            # Nothing is lost: the next start goes on from what was saved last.
            _LOG.warning("stopped_behind", reason=str(later), next="what is left is done at the next start")

    def _settle(self) -> None:
        """Store all that stands on the bus; nobody else may step the stores meanwhile."""
        for stage in self.stores:
            while stage.behind():
                stage.hurry()
                stage.step()

    def close(self) -> None:
        """Let go of files; after :meth:`stop`, when the last questions were answered."""
        if self.broker is not None and self.options.stop_broker:
            self.broker.stop()
        self.store.close()
        self.bus.close()
        self.folder.close()
        gc.unfreeze()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything on raw is stored; False when that takes longer."""
        self._hurry.set()
        deadline = time.monotonic() + timeout_s  # not the clock: it may be set back, or stand
        while time.monotonic() < deadline:
            with self.workers[0].between:
                # Between steps: within one, frames are read already that were not sent on yet.
                read = self.process.next_offset
                done = read >= self.bus.end(RAW, 0) and not any(stage.behind() for stage in self.stores)
            if done and self.store.progress(PROCESSED, 0).origin >= read - 1:
                return True
            for stage in self.stores:
                stage.hurry()
            threading.Event().wait(0.02)
        return False

    # ----------------------------------------------------------------------------------------------- inside loops

    def _step_stores(self) -> bool:
        busy = [stage.step() for stage in self.stores]
        self._housekeep()
        return any(busy)

    def _await(self, stream: str, seen: int, seconds: float) -> None:
        self.bus.wait(stream, [seen], seconds)

    def _await_stores(self, seconds: float) -> None:
        """Sleep until a commit is due. Frames are looked at a few times a commit, not one by one: waking is dear."""
        due = [d for stage in self.stores if (d := stage.due_in_s()) is not None]
        self._hurry.wait(min([seconds, self.settings.store.commit_ms / 4000, *due]))

    def _await_ticks(self, seconds: float) -> None:
        """Sleep: derive has work at ticks only, and looks at what came in between then."""
        self._hurry.wait(min(seconds, self.settings.figures.tick_s / 4))

    def _step_tick(self) -> bool:
        if not self._ticking.is_set():
            self.tick()  # first: a broker that cannot be started must not stop the clock of figures and silence
            self._mend_broker()
        return False

    def _mend_broker(self) -> None:
        """Start the embedded broker again when it has died; the gateway reconnects by itself."""
        if self.broker is not None and not self.broker.running():
            _LOG.warning("broker_ended", kind=self.broker.kind, next="it is started again")
            self.broker = start_broker(self.settings.mqtt, self.settings.data)

    def _await_tick(self) -> None:
        self._ticking.wait(self.settings.figures.tick_s)

    def tick(self) -> None:
        """Write the clock into raw, with what the gateway hears."""
        hearing = self.gateway.hearing() if self.gateway is not None else {}
        now = self.clock.now_us()
        self._append([tick_row(now, hearing)], now)

    def _housekeep(self) -> None:
        """Once an hour: expire by age. Runs in the store's thread, which alone writes to the store."""
        now = self.clock.now_us()
        if 0 <= now - self._kept_us < HOUR:
            return
        self._kept_us = now
        self.store.expire(now - self.settings.store.keep_days * DAY)
        # What is trimmed is lost: it must be committed by the store, and in what every reader has saved.
        counted = self.ledger.save()
        applied = self.store.progress(PROCESSED, 0)
        done = min(applied.origin, self.process.saved_offset, counted[0])
        self._trim(RAW, done, now - self.settings.bus.raw_keep_h * HOUR)
        for stage in self.stores:
            done = self.store.progress(stage.stream, 0).next_offset
            if stage.stream == PROCESSED:
                done = min(done, self.derive.saved_offset)
            taken = self.followers.taken(stage.stream)
            if taken is not None and 0 <= now - self.started_us < HOUR:
                # What aged while nothing ran is not the sinks' fault: they get an hour to catch up. After that age
                # alone decides, or a sink that refuses would fill the disk.
                done = min(done, taken)
            self._trim(stage.stream, done, now - self.settings.bus.derived_keep_h * HOUR)

    def _trim(self, stream: str, done: int, before_us: int) -> None:
        """Forget frames that are done with and older than ``before_us``."""
        at = first = self.bus.start(stream, 0)
        while at < done and (found := self.bus.read(stream, 0, at, 64)):
            young = [r.offset for r in found if r.offset >= done or decode_header(r.data)["clock"] >= before_us]
            at = young[0] if young else found[-1].offset + 1
            if young:
                break
        if at > first:
            self.bus.trim(stream, 0, at)

    # -------------------------------------------------------------------------------------------- commands to raw

    def configure(self) -> None:
        """Tell raw which catalogue, decoders and limits hold from here on."""
        args = {
            "catalogue": self.catalogue.version,
            "routes": {route.name: route.decoder for route in self.settings.routes},
            **self.settings.process.model_dump(),
        }
        self.command(CONFIGURE, "system", args)

    def command(self, name: str, who: str, args: dict[str, Any]) -> int:
        """Write a command into raw; return the offset of its frame once it is durable."""
        now = self.clock.now_us()
        return self._append([command_row(now, name, who, args)], now)

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
                raise NotFound(f"{partition}:{at} is not in quarantine ({len(missing)} of {len(asked)} are not)")
        for i in range(0, len(wanted), _REDRIVE_BATCH):
            part = wanted[i : i + _REDRIVE_BATCH]
            rows = self.store.raw_rows(part)
            now = self.clock.now_us()
            args = {"count": len(part), "reason": reason, "shift_s": shift_s}
            driven = redrive_rows(rows, [at for _, at in part], round(shift_s * SECOND))
            self._append([command_row(now, "redrive", who, args), driven], now)
        return len(wanted)

    def reload(self) -> str:
        """Read the catalogue again and use it from the next raw row on; return its version.

        Raises:
            ConfigError: it is wrong; the old one stays in use.
        """
        catalogue = load_catalogue(self.settings.catalogue)
        self.folder.archive(catalogue)
        self.catalogue = catalogue
        self._routes = RouteTable(
            self.settings.routes, frozenset(n.id for n in catalogue.networks.values() if n.private)
        )
        if self.gateway is not None:
            self._core.configure(self._routes, catalogue.version, self._station_of)
        self.configure()
        return catalogue.version

    def _append(self, batches: Sequence[pa.RecordBatch], now: int) -> int:
        frame = raw_frame(batches, gateway="", catalogue=self.catalogue.version, clock_us=now)
        return self.bus.append(RAW, 0, [frame]).result()[0]

    def _station_of(self, network: str, device: str) -> str | None:
        entry = self.catalogue.devices.get((network, device))
        return None if entry is None else entry.station.id

    # --------------------------------------------------------------------------------------------------- questions

    def raw_row(self, position: int) -> dict[str, Any]:
        """Return one raw row as it stands on the bus.

        Raises:
            NotFound: raw does not hold it any more.
        """
        offset, row = position >> 16, position & 0xFFFF
        for record in self.bus.read(RAW, 0, offset, 1):
            if record.offset == offset:
                out: dict[str, Any] = decode(record.data).sections["rows"].slice(row, 1).to_pylist()[0]
                return out
        raise NotFound(f"raw row {position} is older than what raw still holds ({self.settings.bus.raw_keep_h} h)")

    def audit(self) -> dict[str, Any]:
        """Recount everything; see :func:`qingtu.ledger.audit`. Processing and storing wait meanwhile."""
        with self.workers[0].between, self.workers[1].between:
            self._settle()
            report = self.ledger.report()
            return {"ledger": report, **audit(self.bus, self.store, report)}

    def problems(self) -> list[dict[str, str]]:
        """Return what is wrong now, each with key, zh and en; empty when all is well."""
        out = [
            {
                "key": worker.name,
                "zh": f"{worker.name} 受阻: {worker.problem}",
                "en": f"{worker.name}: {worker.problem}",
            }
            for worker in (*self.workers, self._ticker, *self.followers.workers)
            if worker.problem
        ]
        out.extend(self.followers.problems())
        if self.gateway is not None:
            out.extend(self.gateway.status()["problems"])
        return out
