"""The MQTT gateway: one network thread between a broker, the core and the bus.

The thread alone touches the socket (SSL objects are not thread-safe) and does everything in turns: read, flush,
ask whether a flush is durable, acknowledge. It never waits for the bus. Whatever goes wrong ends at one place,
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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingest.fastpath import ProtocolError
from ingest.mqtt_client import ConnectionLostError, GatewayClient
from qingtu.errors import QingtuError, RetryLater
from qingtu.records import RAW

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags

    from ingest.core import Flush, GatewayCore
    from qingtu.clock import Clock
    from qingtu.contracts import Bus, Ticket
    from qingtu.settings import Settings

_LOG = structlog.get_logger("qingtu.mqtt")
_BACKOFF_S: Final = (0.2, 10.0)
_CONNACK_S: Final = 10.0
_STABLE_S: Final = 5.0
"""A connection that lived so long starts the back-off anew."""
_TICKET_POLL_S: Final = 0.002
_ROUND_S: Final = 1.0
_MIB: Final = 1024 * 1024


class Meter(Protocol):
    """Where counts go; :mod:`qingtu.metrics` has one."""

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        ...


@dataclass(slots=True)
class _Pending:
    """A flush on its way: one ticket a partition."""

    flush: Flush
    tickets: dict[int, Ticket]
    began_s: float


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
        self._bus = bus
        self._clock = clock
        self._metrics = metrics
        self._address = address or (settings.mqtt.host or "127.0.0.1", settings.mqtt.port)
        self._client: GatewayClient | None = None
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._pending: _Pending | None = None
        self._retry_at = self._connect_at = self._read_at = self._space_at = self._paused_at = 0.0
        self._refusals = self._attempts = 0
        self._opened_s = 0.0
        self._space_low = False
        self._connection = self._since_us = 0
        self._accepted = False
        self._session_present = False
        self._ended = ""
        self._problems: dict[str, tuple[str, str]] = {}
        self._reported: tuple[int, dict[str, int]] = (0, {})

    # ---------------------------------------------------------------------------------------------- lifecycle

    def start(self) -> None:
        """Start the network thread; it connects, and reconnects, by itself."""
        self._thread = threading.Thread(target=self._run, name="mqtt-gateway", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Make what was received durable, acknowledge it, disconnect without ending the session.

        What the bus does not take in time stays unacknowledged: the broker sends it again.
        """
        self._stop_at = time.monotonic() + timeout_s
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout_s + 2)
            if self._thread.is_alive():
                return  # it still uses the pipe; it ends with its current call
        os.close(self._wake_r)
        os.close(self._wake_w)

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to know; any thread may call.

        ``problems`` is empty exactly when messages are being taken: a list of ``{"key", "zh", "en"}``.
        """
        return {
            "connected": self._accepted,
            "since_us": self._since_us if self._accepted else None,
            "session_present": self._session_present,
            "address": f"{self._address[0]}:{self._address[1]}",
            "buffered_rows": self._core.rows,
            "buffered_bytes": self._core.size,
            "taken": self._core.taken,
            "refused": dict(self._core.refused),
            "receive": self._mqtt.receive,
            "problems": [{"key": k, "zh": zh, "en": en} for k, (zh, en) in self._problems.copy().items()],
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
                _LOG.exception("gateway turn failed; the connection is rebuilt")
                self._problem(
                    "fault", f"网关内部错误, 正在重建连接: {error!r}", f"internal fault, rebuilding: {error!r}"
                )
                self._lost(error)
        try:
            self._finish()
        except (QingtuError, ProtocolError, OSError) as error:
            _LOG.warning("gateway did not end cleanly; the broker sends the rest again", error=str(error))

    def _turn(self) -> None:
        self._settle()
        self._guard()
        client = self._client
        now = time.monotonic()
        if client is None:
            if self._may_connect and now >= self._connect_at:
                self._connect()
            else:
                self._sleep(self._until(_ROUND_S))
        else:
            if not self._may_connect:
                self._leave(client)
                return
            self._exchange(client, now)
        if self._core.poll(self._clock.now_us()):
            _LOG.warning("the broker gives no drained marker; the backlog counts as drained after a pause")
        self._flush()

    def _exchange(self, client: GatewayClient, now: float) -> None:
        """Wait for the socket, read into the core, write."""
        if now < self._read_at:  # coalesce: at 2,000 messages/s this makes 200 wake-ups a second of 2,000
            self._sleep(self._read_at - now)
        reading = not self._hold_back(time.monotonic())
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        events = (select.POLLIN if reading else 0) | (select.POLLOUT if client.wants_write else 0)
        sock = client.socket()
        if sock is None:
            raise ConnectionLostError(self._ended or "the connection ended")
        poll.register(sock.fileno(), events)
        waiting = reading and client.pending()
        ready = dict(poll.poll(0 if waiting else max(0.0, self._until(_ROUND_S)) * 1000))
        if self._wake_r in ready:
            self._drain_wake()
        if reading and (waiting or ready.get(sock.fileno(), 0) & ~select.POLLOUT):
            self._read(client)
        client.write_some()
        client.loop_misc()
        if not self._accepted and time.monotonic() - self._opened_s > _CONNACK_S:
            raise ConnectionLostError(f"no CONNACK within {_CONNACK_S:.0f} s")

    def _read(self, client: GatewayClient) -> None:
        more = False
        try:
            more = client.read_some()
        finally:
            publishes, client.inbox = client.inbox, []
            if publishes:
                self._core.receive_many(publishes, self._clock.now_us())
        self._read_at = 0.0 if more else time.monotonic() + self._mqtt.flush_idle_ms / 1000

    def _hold_back(self, now: float) -> bool:
        """Return whether reading waits for the bus: TCP then holds the broker back, which costs nothing.

        Only while the bus works on a flush, and not so long that PINGRESP would be missed; then, and when the
        bus refuses, the bound decides.
        """
        core, limits = self._core, self._mqtt
        soft_rows = min(4 * limits.flush_rows, limits.buffer_rows // 2)
        soft_size = min(4 * limits.flush_bytes, limits.buffer_bytes // 2)
        if self._pending is None or self._refusals or (core.rows < soft_rows and core.size < soft_size):
            self._paused_at = 0.0
            return False
        self._paused_at = self._paused_at or now
        return now - self._paused_at < limits.keepalive_s / 2

    def _until(self, longest_s: float) -> float:
        """Return seconds until the loop has something to do besides the socket."""
        now = time.monotonic()
        if self._pending is not None:
            longest_s = min(longest_s, _TICKET_POLL_S)
        elif (wait_us := self._core.wait_us(self._clock.now_us())) is not None:
            longest_s = min(longest_s, max(wait_us / 1e6, self._retry_at - now))
        if self._client is None and self._may_connect:
            longest_s = min(longest_s, self._connect_at - now)
        return max(0.0, longest_s)

    # ------------------------------------------------------------------------------------------------ the bus

    def _flush(self) -> None:
        if self._pending is not None or time.monotonic() < self._retry_at:
            return
        now_us = self._clock.now_us()
        if self._core.flush_due(now_us) or self._stop_at is not None:
            flush = self._core.take(now_us)
            if flush is None:
                return
            pending = self._pending = _Pending(flush, {}, time.monotonic())
            try:
                for partition, frame in flush.frames.items():
                    pending.tickets[partition] = self._bus.append(RAW, partition, [frame])
            except RetryLater as error:
                self._refused(error)
        self._settle()

    def _settle(self) -> None:
        """Ask whether the flush is durable; acknowledge it, or have it retried."""
        pending = self._pending
        if pending is None or not all(ticket.done() for ticket in pending.tickets.values()):
            return
        kept: list[int] = []
        refusal: RetryLater | None = None
        self._pending = None
        try:
            for partition in list(pending.tickets):
                try:
                    pending.tickets[partition].result(0)
                    kept.append(partition)
                except RetryLater as error:
                    refusal = error
        except BaseException:
            self._core.failed(pending.flush, kept)
            raise
        if refusal is not None:
            self._pending = pending
            self._refused(refusal, kept)
            return
        self._refusals = 0
        self._retry_at = 0.0
        self._problems.pop("bus", None)
        ids = self._core.flushed(pending.flush)
        if ids and self._client is not None and self._accepted:
            self._client.acknowledge(ids)
        self._report(time.monotonic() - pending.began_s)

    def _refused(self, error: RetryLater, kept: list[int] | None = None) -> None:
        """The bus takes nothing now: the same frames again, after a pause that grows."""
        pending, self._pending = self._pending, None
        assert pending is not None
        if kept is None:  # refused while appending: what was appended before must be waited for
            kept = []
            for partition, ticket in pending.tickets.items():
                try:
                    ticket.result()
                    kept.append(partition)
                except RetryLater:
                    continue
        self._core.failed(pending.flush, kept)
        self._refusals += 1
        pause = min(10.0, error.retry_after_s * 2 ** min(self._refusals - 1, 6))
        self._retry_at = time.monotonic() + pause * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        if "bus" not in self._problems:
            _LOG.warning("the bus refuses; messages stay unacknowledged", error=str(error))
        self._problem(
            "bus",
            f"总线暂不能写入 (消息未确认, 不会丢失): {error}",
            f"the bus refuses writes (messages stay unacknowledged, none is lost): {error}",
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
                self._problem(
                    "space",
                    f"磁盘剩余空间低于 {mb} MB, 暂停接收, 释放后自动恢复",
                    f"less than {mb} MB free: taking no messages, resuming by itself",
                )
            else:
                self._problems.pop("space", None)
        if self._core.overfull:
            self._problem(
                "overfull",
                "缓冲已满, 已断开代理 (会话保留), 总线恢复后自动重连",
                "buffer full: disconnected from the broker, session kept, back when the bus takes writes",
            )
        else:
            self._problems.pop("overfull", None)

    def _connect(self) -> None:
        self._ended = ""
        self._accepted = False
        sizes = [r.max_payload_bytes for r in self._core.routes.routes]
        client = self._client = GatewayClient(self._mqtt, max(sizes, default=0))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        self._opened_s = time.monotonic()
        self._read_at = 0.0
        host, port = self._address
        if self._mqtt.version == "5":
            wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho
            wanted.SessionExpiryInterval = self._mqtt.session_expiry_h * 3600
            wanted.ReceiveMaximum = 65_535
            client.connect(host, port, self._mqtt.keepalive_s, clean_start=False, properties=wanted)
        else:
            client.connect(host, port, self._mqtt.keepalive_s)

    def _on_connect(self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, __: Any) -> None:
        if reason.is_failure:
            self._ended = f"the broker refused the connection: {reason}"
            return
        self._connection = max(self._connection + 1, self._clock.now_us())
        self._since_us = self._connection
        self._session_present = flags.session_present
        self._core.connected(self._connection, flags.session_present)
        self._accepted = True
        for key in ("broker", "fault", "subscribe"):
            self._problems.pop(key, None)
        filters = self._core.subscriptions()
        if self._mqtt.version == "5":  # retained messages once per subscription, not at every reconnect
            once = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
            client.subscribe([(f, SubscribeOptions(qos=q, retainHandling=once)) for f, q in filters])
        else:
            client.subscribe(filters)
        _LOG.info("connected", address=self._address, session_present=flags.session_present)

    def _on_subscribe(self, client: Client, _: Any, __: int, reasons: list[ReasonCode], ___: Any) -> None:
        wanted = self._core.subscriptions()
        refused = [f for (f, _qos), reason in zip(wanted, reasons, strict=True) if reason.is_failure]
        weaker = [f for (f, qos), r in zip(wanted, reasons, strict=True) if not r.is_failure and r.value < qos]
        if refused:
            self._core.subscriptions_refused(refused)
        topic, payload = self._core.marker()
        bad = [f for f in (*refused, *weaker) if f != topic]
        if bad:
            names = ", ".join(bad)
            _LOG.error("the broker refuses subscriptions or grants QoS 0", filters=names)
            self._problem(
                "subscribe",
                f"代理拒绝订阅或只给 QoS 0: {names}, 请检查代理的访问控制",
                f"the broker refuses, or grants only QoS 0 for: {names}; look at its access control",
            )
        if topic not in refused:
            client.publish(topic, payload, qos=1)

    def _on_publish(self, _: Client, __: Any, ___: int, reason: ReasonCode, ____: Any) -> None:
        if reason.is_failure:
            self._core.marker_refused()

    def _on_disconnect(self, _: Client, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        self._ended = self._ended or str(reason)

    def _lost(self, error: Exception) -> None:
        """Forget the connection and come back after a pause with jitter."""
        client, self._client = self._client, None
        why = str(error) or repr(error)
        if self._ended and self._ended not in why:
            why = f"{self._ended} ({why})"
        if client is not None:
            if isinstance(error, ProtocolError) and self._accepted:
                self._say_goodbye(client, error.reason)
            client.drop()
        stable = self._accepted and time.monotonic() - self._opened_s > _STABLE_S
        if self._accepted or not self._attempts:
            _LOG.warning("no connection to the broker", address=self._address, why=why)
        self._accepted = False
        self._core.disconnected()
        self._attempts = 1 if stable else self._attempts + 1
        low, high = _BACKOFF_S
        pause = min(high, low * 2 ** min(self._attempts - 1, 8))
        self._connect_at = time.monotonic() + pause * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        host, port = self._address
        self._problem(
            "broker",
            f"与代理 {host}:{port} 的连接中断, 自动重连中: {why}",
            f"no connection to the broker at {host}:{port}, reconnecting: {why}",
        )

    def _leave(self, client: GatewayClient | None) -> None:
        """Disconnect on purpose; the session stays."""
        self._client = None
        if client is not None:
            self._say_goodbye(client, None)
            client.drop()
        self._accepted = False
        self._core.disconnected()
        self._attempts = 0
        self._connect_at = 0.0

    def _say_goodbye(self, client: GatewayClient, reason: int | None) -> None:
        coded = None
        if reason is not None and self._mqtt.version == "5":
            coded = ReasonCode(PacketTypes.DISCONNECT, identifier=reason)
        client.disconnect(reasoncode=coded)
        deadline = time.monotonic() + 1.0
        while client.wants_write and client.socket() is not None and time.monotonic() < deadline:
            client.write_some()
            time.sleep(0.001)

    # --------------------------------------------------------------------------------------------------- ends

    def _finish(self) -> None:
        """Flush what was received, acknowledge, disconnect."""
        assert self._stop_at is not None
        while (self._core.rows or self._pending is not None) and time.monotonic() < self._stop_at:
            self._flush()
            self._settle()
            if self._client is not None:
                self._client.write_some()
            time.sleep(0.001)
        self._leave(self._client)

    def _sleep(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            self._drain_wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_w, b"x")
        except BlockingIOError:
            return  # it is awake already

    def _drain_wake(self) -> None:
        os.read(self._wake_r, 4096)

    def _problem(self, key: str, zh: str, en: str) -> None:
        self._problems[key] = (zh, en)

    def _report(self, seconds: float) -> None:
        if self._metrics is None:
            return
        taken, refused = self._reported
        self._metrics.count("gateway_messages_total", self._core.taken - taken)
        for reason, n in self._core.refused.items():
            if n > refused.get(reason, 0):
                self._metrics.count("gateway_refused_total", n - refused.get(reason, 0), reason=reason)
        self._metrics.count("gateway_flushes_total")
        self._metrics.count("gateway_flush_seconds_total", seconds)
        self._reported = (self._core.taken, dict(self._core.refused))
