"""One MQTT session over its many connections: CONNECT, subscriptions, the drained marker, and how it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingest.claim import Claim
from ingest.mqtt_client import ConnectionLostError, GatewayClient
from ingest.peeler import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paho.mqtt.client import Client, ConnectFlags

    from ingest.core import GatewayCore
    from ingest.peeler import Publish
    from ingest.problems import Problems
    from qingtu.clock import Clock
    from qingtu.settings import MqttSettings

_LOG = structlog.get_logger("qingtu.mqtt")
STABLE_S: Final = 5.0
"""A connection that lived so long starts the back-off anew."""
_MARKER_S: Final = 2.0
_MARKER_CUTS: Final = 2
"""mosquitto 2.0 with max_queued_messages 0 ends the connection of a client whose PUBLISH it denies: when that
happened so often within _MARKER_S of the marker, no marker is sent until the gateway is started anew."""


class MqttSession:
    """Makes a client for each connection and answers its callbacks, all in the network thread.

    Args:
        settings: how to connect.
        address: (host, port).
        core: is told of connections.
        clock: numbers connections.
        problems: where refusals show.

    Attributes:
        accepted: the broker took us and the connection lives.
        since_us: when it did, µs UTC.
        session_present: it had kept our session.
        opened_s: monotonic s of the last attempt.
        away_since_us: when the last connection ended, at first when this was made, µs UTC; None while connected.
        claim: whether the session is ours, or another process's with the same client id.
    """

    def __init__(
        self,
        settings: MqttSettings,
        address: tuple[str, int],
        core: GatewayCore,
        clock: Clock,
        problems: Problems,
    ) -> None:
        self._settings = settings
        self._address = address
        self._core = core
        self._clock = clock
        self._problems = problems
        self._filters: list[tuple[str, int]] = []
        self._said = ""
        self._marker_s = 0.0
        self._marker_cuts = 0
        self._claim_mid: int | None = None
        self._may_claim = False
        self.claim = Claim()
        self.away_since_us: int | None = clock.now_us()
        self.accepted = False
        self.since_us = 0
        self.session_present = False
        self.opened_s = 0.0

    def open(self) -> GatewayClient:
        """Connect and send CONNECT.

        Raises:
            OSError: nobody there, or TLS refused.
        """
        self._said = ""
        self._marker_s = 0.0
        self.accepted = False
        self.opened_s = time.monotonic()
        sizes = [r.max_payload_bytes for r in self._core.routes.routes]
        client = GatewayClient(self._settings, max(sizes, default=0))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        host, port = self._address
        if self._settings.version == "5":
            wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho
            wanted.SessionExpiryInterval = self._settings.session_expiry_h * 3600
            wanted.ReceiveMaximum = 65_535
            client.connect(host, port, self._settings.keepalive_s, clean_start=False, properties=wanted)
        else:
            client.connect(host, port, self._settings.keepalive_s)
        return client

    def close(self, client: GatewayClient, reason: int | None = None) -> None:
        """Say DISCONNECT if the broker still listens, and close. The session stays at the broker.

        Args:
            client: of this connection.
            reason: MQTT 5 reason code, None for a normal end.
        """
        coded = None
        if reason is not None and self._settings.version == "5":
            coded = ReasonCode(PacketTypes.DISCONNECT, identifier=reason)
        try:
            client.disconnect(reasoncode=coded)
            deadline = time.monotonic() + 1.0
            while client.wants_write and client.socket() is not None and time.monotonic() < deadline:
                client.write_some()
                time.sleep(0.001)
        except (ConnectionLostError, OSError) as error:
            _LOG.debug("no goodbye: the broker is gone", error=str(error))
        finally:
            client.drop()
            self._end()

    def lost(self, client: GatewayClient | None, error: Exception) -> tuple[str, bool]:
        """Note that the connection ended by itself.

        Returns:
            why, and whether it had been stable.
        """
        why = str(error) or repr(error)
        if self._said and self._said not in why:
            why = f"{self._said} ({why})"
        stable = self.accepted and time.monotonic() - self.opened_s > STABLE_S
        if self.accepted and self._marker_s and not self._core.drained:
            self._marker_cuts += time.monotonic() - self._marker_s < _MARKER_S
        if client is not None and isinstance(error, ProtocolError) and self.accepted:
            self.close(client, error.reason)
        elif client is not None:
            client.drop()
        self._end()
        if self.claim.pause_s:
            self._stood_back()
        return why, stable

    def _end(self) -> None:
        if self.accepted:
            self.away_since_us = self._clock.now_us()
        self.accepted = False
        self.claim.lost()
        self._core.disconnected()

    def _on_connect(self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, __: Any) -> None:
        if reason.is_failure:
            self._said = f"the broker refused the connection: {reason}"
            return
        self.since_us = max(self.since_us + 1, self._clock.now_us())
        self.session_present = flags.session_present
        self._core.connected(self.since_us, flags.session_present)
        self.accepted = True
        self.away_since_us = None
        self.claim.connected(time.monotonic())
        self._claim_mid, self._may_claim = None, False
        self._problems.over("broker", "fault", "subscribe", "takeover")
        filters = self._filters = self._core.subscriptions()
        if self._settings.version == "5":  # retained messages once per subscription, not at every reconnect
            once, always = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB, SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
            marker = self._core.marker()[0]  # the last claim of the session is wanted each time
            client.subscribe(
                [(f, SubscribeOptions(qos=q, retainHandling=always if f == marker else once)) for f, q in filters]
            )
        else:
            client.subscribe(filters)
        _LOG.info("connected", address=self._address, session_present=flags.session_present)

    def _on_subscribe(self, client: Client, _: Any, __: int, reasons: list[ReasonCode], ___: Any) -> None:
        wanted = self._filters
        refused = [f for (f, _qos), reason in zip(wanted, reasons, strict=True) if reason.is_failure]
        weaker = [f for (f, qos), r in zip(wanted, reasons, strict=True) if not r.is_failure and r.value < qos]
        if refused:
            self._core.subscriptions_refused(refused)
        topic, payload = self._core.marker()
        bad = [f for f in (*refused, *weaker) if f != topic]
        if bad:
            names = ", ".join(bad)
            _LOG.error("the broker refuses subscriptions or grants QoS 0", filters=names)
            self._problems.show(
                "subscribe",
                f"代理拒绝订阅或只给 QoS 0: {names}, 请检查代理的访问控制",
                f"the broker refuses, or grants only QoS 0 for: {names}; look at its access control",
            )
        if topic in refused or self._marker_cuts >= _MARKER_CUTS:
            self._core.marker_refused()
        else:
            self._may_claim = True
            self.keep(client)  # before the marker: what comes back before it decides
            client.publish(topic, payload, qos=1)
            self._marker_s = time.monotonic()

    def keep(self, client: Client) -> None:
        """Claim the session when that is due; call it every few seconds while connected."""
        if self._may_claim and self.claim.due(time.monotonic()):
            self._claim_mid = client.publish(self._core.marker()[0], self.claim.payload, qos=1, retain=True).mid
            self.claim.published()

    def look(self, publishes: Sequence[Publish]) -> None:
        """Find out from what came whether another process holds the session.

        Raises:
            ConnectionLostError: it does; ``claim.pause_s`` says how long to stay away.
        """
        topic, marker = self._core.marker()
        if not self.claim.look(publishes, topic.encode(), marker):
            self.claim.undecided &= not self._core.drained  # a marker that never came decides nothing
            return
        raise ConnectionLostError("another process with our client id took the session")

    def _stood_back(self) -> None:
        name, minutes = self._settings.client_id, self.claim.pause_s / 60
        _LOG.warning("another process holds our session", client_id=name, back_in_min=round(minutes))
        self._problems.over("broker")
        self._problems.show(
            "takeover",
            f"另一进程以相同 client_id {name} 接管了会话; 本网关让出, 约 {minutes:.0f} 分钟后再试. "
            "若非有意, 请停止其一或改 mqtt.client_id",
            f"another process took the session with the same client id {name}; this one stands back for about "
            f"{minutes:.0f} min. If that is not meant, stop one of them or change mqtt.client_id",
        )

    def _on_publish(self, _: Client, __: Any, mid: int, reason: ReasonCode, ____: Any) -> None:
        if not reason.is_failure:
            if self._settings.version == "5":  # granted: what ends the connection now is not the marker
                self._marker_s = 0.0
            if mid == self._claim_mid:
                self.claim.accepted()
        else:
            self._may_claim = False
            self._marker_cuts = _MARKER_CUTS
            self._core.marker_refused()

    def _on_disconnect(self, _: Client, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        self._said = self._said or str(reason)
