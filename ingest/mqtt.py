"""The MQTT gateway: one network thread between a broker, the core and the bus.

The thread alone touches the socket (SSL objects are not thread-safe) and does everything in turns: read, flush,
ask whether a flush is durable, acknowledge. Of the bus it waits for its own commit alone, and only where the bus is in
this process: while the disk syncs, TCP holds what comes. Whatever goes wrong ends at one place,
:meth:`MqttGateway._run`: it is shown in ``status``, the connection is rebuilt, the session kept, nothing
acknowledged that is not durable. What becomes of each kind of message is the core's: docs/gateway.md.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import structlog

from ingest.bus_writer import BusWriter
from ingest.mqtt_client import CONNECT_TIMEOUT_S, ConnectionLostError, GatewayClient
from ingest.mqtt_session import MqttSession
from ingest.peeler import ProtocolError
from ingest.problems import Problems
from qingtu.errors import QingtuError

if TYPE_CHECKING:
    from ingest.bus_writer import Meter
    from ingest.core import GatewayCore
    from ingest.peeler import Publish
    from qingtu.clock import Clock
    from qingtu.contracts import Bus
    from qingtu.settings import Settings

_LOG = structlog.get_logger("qingtu.mqtt")
_BACKOFF_S: Final = (0.2, 10.0)
_CONNACK_S: Final = 10.0
_FAULT_S: Final = 0.1
"""After a fault, so that one that comes at once again does not spin."""
_BUSY_READ: Final = 4
"""A read that brings so many messages doubles the pause before the next one, up to ``flush_ms``.

A wake-up costs 60-100 µs of system time and cold caches, 0.4 ms in all, whatever it brings: at 2,000 messages/s
that is 36 µs a message with a pause of 5 ms and 16 with 20 ms.
"""
_ONCE_BYTES: Final = 48 * 1024
"""A read that brings less leaves room in the socket's buffer, so one read a flush is enough."""
_TICKET_POLL_S: Final = 0.005
_ROUND_S: Final = 1.0
_MIB: Final = 1024 * 1024


class MqttGateway:
    """Reads from one broker into the bus.

    Args:
        settings: ``mqtt``, ``data`` and ``bus.free_floor_mb`` are used.
        core: with the same routes and limits.
        bus: takes the frames.
        clock: gives times of receipt.
        metrics: counts, or None.
        address: (host, port) of an embedded broker; None takes ``settings.mqtt``.
    """

    def __init__(
        self,
        settings: Settings,
        core: GatewayCore,
        bus: Bus,
        clock: Clock,
        metrics: Meter | None = None,
        *,
        address: tuple[str, int] | None = None,
    ) -> None:
        self._settings = settings
        self._mqtt = settings.mqtt
        self._core = core
        self._writer = BusWriter(core, bus, metrics)
        self._clock = clock
        self._address = address or (settings.mqtt.host or "127.0.0.1", settings.mqtt.port)
        self._client: GatewayClient | None = None
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        self._connect_at = self._read_at = self._space_at = self._paused_at = 0.0
        self._attempts = 0
        self._gap_s = 0.0
        self._flush_now = False
        self._space_low = False
        self._problems = Problems()
        self._session = MqttSession(settings.mqtt, self._address, core, clock, self._problems)

    # ---------------------------------------------------------------------------------------------- lifecycle

    def start(self) -> None:
        """Start the network thread; it connects, and reconnects, by itself."""
        self._problems.show("broker", "正在连接代理", "connecting to the broker")
        self._thread = threading.Thread(target=self._run, name="mqtt-gateway", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Make what was received durable, acknowledge it, disconnect without ending the session.

        What the bus does not take in time stays unacknowledged: the broker sends it again. Safe to call twice.
        """
        if self._stop_at is not None:
            return
        self._stop_at = time.monotonic() + timeout_s
        os.write(self._wake_w, b"x")
        if self._thread is not None:
            self._thread.join(timeout_s + CONNECT_TIMEOUT_S)
            if self._thread.is_alive():
                return  # it still uses the pipe; it ends with its current call
        os.close(self._wake_r)
        os.close(self._wake_w)

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to know; any thread may call.

        ``problems`` is empty exactly when messages are being taken: a list of ``{"key", "zh", "en"}``.
        """
        return {
            "connected": self._session.accepted,
            "since_us": self._session.since_us if self._session.accepted else None,
            "away_since_us": self._session.away_since_us,
            "session_present": self._session.session_present,
            "address": f"{self._address[0]}:{self._address[1]}",
            "buffered_rows": self._core.rows,
            "buffered_bytes": self._core.size,
            "taken": self._core.taken,
            "taken_bytes": self._core.taken_bytes,
            "refused": dict(self._core.refused),
            "receive": self._mqtt.receive,
            "problems": self._problems.listed(),
        }

    def hearing(self) -> dict[str, int]:
        """Return route → µs UTC since when it hears all that is sent; routes that do not hear are absent."""
        heard = {r.name: self._core.hearing_since(r.name) for r in self._core.routes.routes}
        return {name: since for name, since in heard.items() if since is not None}

    # ----------------------------------------------------------------------------------------------- the loop

    def _run(self) -> None:
        while self._stop_at is None:
            try:
                self._turn()
            except (ConnectionLostError, ProtocolError, OSError) as error:
                self._lost(error)
            except Exception as error:  # noqa: BLE001 - the one place; a thread that dies silently helps nobody
                # Without local variables, which a pretty traceback would print: they hold payloads.
                _LOG.error("internal fault; the connection is rebuilt", traceback=traceback.format_exc())
                self._problems.show(
                    "fault", f"网关内部错误, 正在重建连接: {error!r}", f"internal fault, rebuilding: {error!r}"
                )
                self._lost(error)
        try:
            self._finish()
        except (QingtuError, ProtocolError, OSError) as error:
            _LOG.warning("gateway did not end cleanly; the broker sends the rest again", error=str(error))

    def _turn(self) -> None:
        self._guard()
        client = self._client
        now = time.monotonic()
        if client is None:
            if self._may_connect and now >= self._connect_at:
                self._read_at = 0.0
                self._client = self._session.open()
            else:
                self._sleep(self._until(_ROUND_S))
        else:
            if self._must_leave():
                self._leave()
                return
            self._exchange(client, now)
        if self._core.poll(self._clock.now_us()):
            _LOG.warning("the broker gives no drained marker; the backlog counts as drained after a pause")
        self._to_bus()

    def _exchange(self, client: GatewayClient, now: float) -> None:
        """Wait for the socket, read into the core, write."""
        if now < self._read_at:
            # Not reading yet; but what became durable meanwhile is acknowledged, and the next flush begins.
            self._sleep(min(self._read_at - now, _TICKET_POLL_S if self._writer.busy else _ROUND_S))
            if time.monotonic() < self._read_at:
                client.write_some()
                return
        reading = not self._hold_back(time.monotonic())
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        sock = client.socket()
        if sock is None:
            raise ConnectionLostError("the connection ended")
        events = (select.POLLIN if reading else 0) | (select.POLLOUT if client.wants_write else 0)
        if events:  # registered for nothing, a closed peer would wake us without end
            poll.register(sock.fileno(), events)
        waiting = reading and client.pending()
        ready = dict(poll.poll(0 if waiting else max(0.0, self._until(_ROUND_S)) * 1000))
        if self._wake_r in ready:
            self._drain_wake()
        if reading and (waiting or ready.get(sock.fileno(), 0) & ~select.POLLOUT):
            self._read(client)
        self._session.keep(client)
        client.write_some()
        client.loop_misc()
        if not self._session.accepted and time.monotonic() - self._session.opened_s > _CONNACK_S:
            raise ConnectionLostError(f"no CONNACK within {_CONNACK_S:.0f} s")

    def _read(self, client: GatewayClient) -> None:
        more = False
        held = self._core.size
        publishes: list[Publish] = []
        try:
            more = client.read_some()
        finally:
            publishes, client.inbox = client.inbox, []
            if publishes:
                self._core.receive_many(publishes, self._clock.now_us())
        if self._session.claim.undecided:
            self._session.look(publishes)
        if more:
            self._read_at = 0.0
            return
        idle_s = self._mqtt.flush_idle_ms / 1000
        busy = len(publishes) >= _BUSY_READ
        # Under load one wake-up a flush reads all that came since the last and flushes it at once. Where that would
        # fill the socket's buffer, and so slow the broker down, it is read more often and flushed by age.
        once = self._core.size - held < _ONCE_BYTES
        longest_s = max(idle_s, self._mqtt.flush_ms / (1000 if once else 2500))
        self._gap_s = min(2 * self._gap_s, longest_s) if busy else idle_s
        self._flush_now = busy and once and self._gap_s >= longest_s
        self._read_at = time.monotonic() + self._gap_s

    def _hold_back(self, now: float) -> bool:
        """Return whether reading waits for the bus: TCP then holds the broker back, which costs nothing.

        While the bus works on a flush and much has come already, but not so long that PINGRESP would be missed;
        and always at the bound.
        """
        core, limits = self._core, self._mqtt
        soft_rows = min(4 * limits.flush_rows, limits.buffer_rows // 2)
        soft_size = min(4 * limits.flush_bytes, limits.buffer_bytes // 2)
        much = self._writer.busy and (core.rows >= soft_rows or core.size >= soft_size)
        if not (core.overfull or much):
            self._paused_at = 0.0
            return False
        self._paused_at = self._paused_at or now
        return core.overfull or now - self._paused_at < limits.keepalive_s / 2

    def _must_leave(self) -> bool:
        """Return whether to disconnect: no space, or at the bound with a bus that does not move.

        At the bound with a bus that works, a pause in reading is enough; leaving would have the broker send
        everything again, and reach the bound again.
        """
        stuck = self._writer.refusal is not None or (
            self._paused_at > 0 and time.monotonic() - self._paused_at > self._mqtt.keepalive_s / 2
        )
        return self._space_low or (self._core.overfull and stuck)

    def _until(self, longest_s: float) -> float:
        """Return seconds until the loop has something to do besides the socket."""
        now = time.monotonic()
        if self._writer.busy:
            longest_s = min(longest_s, _TICKET_POLL_S)
        elif (wait_us := self._core.wait_us(self._clock.now_us())) is not None:
            longest_s = min(longest_s, max(wait_us / 1e6, self._writer.retry_at - now))
        if self._client is None and self._may_connect:
            longest_s = min(longest_s, self._connect_at - now)
        return max(0.0, longest_s)

    def _to_bus(self, *, force: bool = False) -> None:
        """Bring a flush forward, acknowledge what became durable, show a refusal."""
        force |= self._flush_now and not self._writer.busy
        self._flush_now = self._flush_now and not force
        ids = self._writer.step(self._clock.now_us(), time.monotonic(), force=force)
        if ids and self._client is not None and self._session.accepted:
            self._client.acknowledge(ids)
        refusal = self._writer.refusal
        if refusal is None:
            self._problems.over("bus")
            return
        if "bus" not in self._problems:
            _LOG.warning("the bus refuses; messages stay unacknowledged", error=refusal)
        self._problems.show(
            "bus",
            f"总线暂不能写入 (消息未确认, 不会丢失): {refusal}",
            f"the bus refuses writes (messages stay unacknowledged, none is lost): {refusal}",
        )

    # --------------------------------------------------------------------------------------------- connection

    @property
    def _may_connect(self) -> bool:
        return not (self._core.overfull or self._space_low)

    def _guard(self) -> None:
        """Look at the free space once a second; below the floor no messages are taken."""
        now = time.monotonic()
        if now >= self._space_at:
            self._space_at = now + _ROUND_S
            free, floor = shutil.disk_usage(self._settings.data).free, self._settings.bus.free_floor_mb * _MIB
            low = free < (floor + floor // 10 if self._space_low else floor)
            if low != self._space_low:
                self._space_low = low
                _LOG.warning("free space below the floor" if low else "free space again", free_mb=free // _MIB)
            if low:
                mb = self._settings.bus.free_floor_mb
                self._problems.show(
                    "space",
                    f"磁盘剩余空间低于 {mb} MB, 暂停接收, 释放后自动恢复",
                    f"less than {mb} MB free: taking no messages, resuming by itself",
                )
            else:
                self._problems.over("space")
        if self._core.overfull and self._client is None:
            self._problems.show(
                "overfull",
                "缓冲已满, 已断开代理 (会话保留), 总线恢复后自动重连",
                "buffer full: disconnected from the broker, session kept, back when the bus takes writes",
            )
        elif not self._core.overfull:
            self._problems.over("overfull")

    def _lost(self, error: Exception) -> None:
        """Forget the connection and come back after a pause with jitter."""
        client, self._client = self._client, None
        lived = self._session.accepted
        why, stable = self._session.lost(client, error)
        if lived or not self._attempts:
            _LOG.warning("no connection to the broker", address=self._address, why=why)
        self._attempts = 1 if stable else self._attempts + 1
        low, high = _BACKOFF_S
        pause = self._session.claim.pause_s or min(high, low * 2 ** min(self._attempts - 1, 8))
        self._connect_at = time.monotonic() + pause * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        if self._session.claim.pause_s:
            return  # the session has said why, and that nobody reconnects now
        host, port = self._address
        self._problems.show(
            "broker",
            f"与代理 {host}:{port} 的连接中断, 自动重连中: {why}",
            f"no connection to the broker at {host}:{port}, reconnecting: {why}",
        )

    def _leave(self) -> None:
        """Disconnect on purpose; the session stays."""
        client, self._client = self._client, None
        if client is not None:
            self._session.close(client)
        self._attempts = 0
        self._connect_at = 0.0

    # --------------------------------------------------------------------------------------------------- ends

    def _finish(self) -> None:
        """Flush what was received, acknowledge, disconnect."""
        assert self._stop_at is not None
        while (self._core.rows or self._writer.busy) and time.monotonic() < self._stop_at:
            self._to_bus(force=True)
            if self._client is not None:
                self._client.write_some()
            time.sleep(0.001)
        self._leave()

    def _sleep(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            self._drain_wake()

    def _drain_wake(self) -> None:
        os.read(self._wake_r, 4096)
