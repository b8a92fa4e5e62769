"""The composition root: all stages of the embedded system in one process. The only place with threads."""

from __future__ import annotations

import threading
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
from qingtu.errors import NotFound, RetryLater
from qingtu.folder import DataFolder
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
        self.folder = DataFolder(settings.data)
        try:
            self.key = self.folder.secret(settings.secret_file)
            self.tokens = self.folder.tokens(settings.web.tokens_file)
            self.folder.archive(self.catalogue)
            self.bus = SqliteBus(settings.data / "bus", free_floor_bytes=settings.bus.free_floor_mb * _MIB)
            self.store = DuckStore(settings.data / "qingtu.duckdb", settings.store.memory_limit, settings.store.threads)
        except BaseException:
            self.folder.close()
            raise
        self.ledger = Ledger(self.bus, self.store)
        self.broker: Broker | None = None
        self.gateway: MqttGateway | None = None
        self.started_us = self.clock.now_us()
        self._build()

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
            Worker("derive", self.derive.step, lambda s: self._await(PROCESSED, self.derive.next_offset, s)),
        ]
        self._ticking = threading.Event()
        self._ticker = threading.Thread(target=self._tick_loop, name="ticks", daemon=True)

    # -------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        """Start broker, gateway, stages and ticks."""
        self.configure()
        for worker in self.workers:
            worker.start()
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
        if self._ticker.is_alive():
            self._ticker.join(5)
        if self.gateway is not None:
            self.gateway.stop(timeout_s=10)
        self.drain(timeout_s)
        for worker in self.workers:
            worker.stop()
        self.process.save()
        self.derive.save()
        for stage in self.stores:
            stage.commit()
        self.ledger.save()

    def close(self) -> None:
        """Let go of files; after :meth:`stop`, when the last questions were answered."""
        if self.broker is not None and self.options.stop_broker:
            self.broker.stop()
        self.store.close()
        self.bus.close()
        self.folder.close()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything on raw is stored; False when that takes longer."""
        deadline = self.clock.now_us() + int(timeout_s * SECOND)
        while self.clock.now_us() < deadline:
            if self.process.next_offset >= self.bus.end(RAW, 0) and not any(stage.behind() for stage in self.stores):
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
        due = [d for stage in self.stores if (d := stage.due_in_s()) is not None]
        self.bus.wait(PROCESSED, [self.stores[0].next_offset], min([seconds, *due]))

    def _tick_loop(self) -> None:
        every = self.settings.figures.tick_s
        while not self._ticking.wait(every):
            try:
                self.tick()
            except RetryLater as later:
                _LOG.warning("tick_waits", reason=str(later))

    def tick(self) -> None:
        """Write the clock into raw, with what the gateway hears."""
        hearing = self.gateway.hearing() if self.gateway is not None else {}
        now = self.clock.now_us()
        self._append([tick_row(now, hearing)], now)

    def _housekeep(self) -> None:
        """Once an hour: expire by age. Runs in the store's thread, which alone writes to the store."""
        now = self.clock.now_us()
        if now - getattr(self, "_kept_us", 0) < HOUR:
            return
        self._kept_us = now
        self.store.expire(now - self.settings.store.keep_days * DAY)
        applied = self.store.progress(PROCESSED, 0)
        self._trim(RAW, applied.origin, now - self.settings.bus.raw_keep_h * HOUR)
        for stage in self.stores:
            done = min(stage.next_offset, self.derive.saved_offset) if stage.stream == PROCESSED else stage.next_offset
            self._trim(stage.stream, done, now - self.settings.bus.derived_keep_h * HOUR)

    def _trim(self, stream: str, done: int, before_us: int) -> None:
        """Forget frames that are done with and older than ``before_us``."""
        at = first = self.bus.start(stream, 0)
        limit = min(done, self.process.saved_offset) if stream == RAW else done
        while at < limit:
            found = self.bus.read(stream, 0, at, 64)
            old = [r.offset for r in found if decode_header(r.data)["clock"] < before_us and r.offset < limit]
            if not old:
                break
            at = old[-1] + 1
            if len(old) < len(found):
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
        """Recount everything; see :func:`qingtu.ledger.audit`."""
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
            for worker in self.workers
            if worker.problem
        ]
        if self.gateway is not None:
            out.extend(self.gateway.status()["problems"])
        return out
