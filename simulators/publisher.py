"""MQTT with QoS 1 for simulated devices: a bounded window, and nothing forgotten when the connection breaks."""

from __future__ import annotations

import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from qingtu.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from paho.mqtt.reasoncodes import ReasonCode

    from simulators.run import SimulateOptions

_CONNECT_S = 10.0
_NO_SUBSCRIBERS, _FIRST_FAILURE = 0x10, 0x80
_SESSION_S = 3600


class Publisher:
    """MQTT with QoS 1 and a bounded number of messages under way, over paho.

    Args:
        options: host, port, window, credentials.

    Attributes:
        acknowledged: PUBACKs received.
        refused: of these, with a reason code of failure.
        unheard: of these, for topics that nobody subscribes to.
        resent: messages that were under way when a connection broke, so that the broker may have them twice.
        connections: made so far.
        under_way: messages without PUBACK now.
    """

    def __init__(self, options: SimulateOptions) -> None:
        self._options = options
        self._window = options.window
        self.under_way = 0
        self._quiet_since = time.monotonic()
        # paho's callbacks come on its own thread: every counter below is changed under this lock
        self._changed = threading.Condition()
        self._answer: str | None = None
        self.acknowledged = self.refused = self.unheard = self.resent = self.connections = 0
        protocol = mqtt.MQTTv5 if options.version == "5" else mqtt.MQTTv311
        session = None if options.version == "5" else False  # in MQTT 5 it is asked for at connecting
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=options.client_id, protocol=protocol, clean_session=session
        )
        client.on_connect, client.on_publish = self._on_connect, self._on_publish
        client.max_inflight_messages_set(0)  # the window is kept here; paho would search its queue at each PUBACK
        client.max_queued_messages_set(0)
        client.reconnect_delay_set(1, 5)
        if options.username is not None:
            client.username_pw_set(options.username, options.password)
        if options.tls:
            client.tls_set(
                ca_certs=_text(options.ca_file),
                certfile=_text(options.cert_file),
                keyfile=_text(options.key_file),
                cert_reqs=ssl.CERT_REQUIRED,
            )
        self._client = client

    def connect(self) -> None:
        """Connect and wait for the broker's answer.

        Raises:
            StartError: no broker there, or it refuses.
        """
        where = f"{self._options.host}:{self._options.port}"
        try:
            if self._options.version == "5":
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = _SESSION_S
                self._client.connect(
                    self._options.host, self._options.port, keepalive=30, clean_start=False, properties=properties
                )
            else:
                self._client.connect(self._options.host, self._options.port, keepalive=30)
        except OSError as error:
            raise StartError(
                f"没有 MQTT 代理应答 / no broker answers at {where} ({error}); start it, or give --host and --port"
            ) from error
        self._client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None, _CONNECT_S)
            answer = self._answer
        if answer != "Success":
            self.close()
            said = answer or "no answer"
            raise StartError(f"MQTT 代理拒绝 / the broker at {where} refuses: {said}; check user, password and TLS")

    def publish(self, topic: str, payload: bytes, stop: threading.Event) -> bool:
        """Publish, waiting for room in the window.

        Returns:
            False, with nothing sent, when stopped meanwhile, or when a run that is to end by itself met a broker that
            acknowledged nothing for ``patience_s``: else it would wait for ever.
        """
        ends = self._options.for_s is not None or not self._options.live
        with self._changed:
            while self.under_way >= self._window or stop.is_set():
                if stop.is_set() or (ends and self._patience_s() <= 0):
                    return False
                self._changed.wait(0.2)
            if self.under_way == 0:
                self._quiet_since = time.monotonic()
            self.under_way += 1
        # without a connection paho keeps it and sends it after the next CONNACK
        self._client.publish(topic, payload, qos=1)
        return True

    def drain(self) -> int:
        """Wait until every message has its PUBACK, or none came for ``patience_s``; return how many lack theirs."""
        with self._changed:
            while self.under_way and (left_s := self._patience_s()) > 0:
                self._changed.wait(left_s)
            return self.under_way

    def close(self) -> None:
        """Disconnect and end paho's thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def _patience_s(self) -> float:
        """Return for how many seconds more to wait for a broker that owes PUBACKs and sends none."""
        return self._quiet_since + self._options.patience_s - time.monotonic()

    def _on_connect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._changed:
            self._answer = str(reason)
            if not reason.is_failure:
                limit = getattr(properties, "ReceiveMaximum", None)
                self._window = min(self._options.window, limit or self._options.window)
                self.connections += 1
                if self.connections > 1:
                    self.resent += self.under_way
            self._changed.notify_all()

    def _on_publish(
        self, _client: mqtt.Client, _data: Any, _mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        with self._changed:
            self.acknowledged += 1
            self.unheard += reason.value == _NO_SUBSCRIBERS
            self.refused += reason.value >= _FIRST_FAILURE
            self.under_way -= 1
            self._quiet_since = time.monotonic()
            self._changed.notify()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
