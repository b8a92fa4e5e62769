"""Our paho client: paho keeps CONNECT, SUBSCRIBE, ping, TLS and DISCONNECT; PUBLISH packets come out raw.

Both receive paths end in ``inbox``, so the gateway above them is the same:

* plain: paho reads and frames every packet, ``_handle_publish`` is ours: no object per message, MQTT 5
  properties stay verbatim, and a packet that is too large is streamed through instead of collected.
* fast: paho gets a :class:`~ingest.fastpath.PeelingSocket` through ``_create_socket``.

These hooks are private to paho 2.2; tests/gateway/test_mqtt_client.py says so when a new paho moves them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from ingest.fastpath import READ_BYTES, PeelingSocket, linger
from ingest.peeler import (
    CONTROL_LIMIT,
    LargePublish,
    Peeler,
    ProtocolError,
    Publish,
    longest_packet,
    parse_publish,
    pubacks,
)
from qingtu.errors import QingtuError, StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.settings import MqttSettings

CONNECT_TIMEOUT_S: Final = 5.0
_PLAIN_PACKETS: Final = 500
_PLAIN_READ: Final = 65_536


class ConnectionLostError(QingtuError):
    """The connection to the broker ended; the message says why."""


class GatewayClient(Client):
    """One connection's client; a new one is made for each, so nothing of an old connection lingers.

    Args:
        settings: how to connect.
        max_payload: the largest payload that any route takes.

    Attributes:
        inbox: PUBLISH packets received, in order; the gateway empties it.
    """

    def __init__(self, settings: MqttSettings, max_payload: int) -> None:
        version5 = settings.version == "5"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if version5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if version5 else False,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.inbox: list[Publish] = []
        self._version5 = version5
        self._fast = settings.receive == "fast"
        self._max_payload = max_payload
        self._max_length = longest_packet(max_payload)
        self._peeling: PeelingSocket | None = None
        self._large: LargePublish | None = None
        self.connect_timeout = CONNECT_TIMEOUT_S
        if settings.username is not None:
            self.username_pw_set(settings.username, _password(settings))
        if settings.tls:
            self.tls_set(
                ca_certs=_text(settings.ca_file),
                certfile=_text(settings.cert_file),
                keyfile=_text(settings.key_file),
            )

    # -------------------------------------------------------------------------------- what the gateway calls

    def read_some(self) -> bool:
        """Read a bounded amount into ``inbox``.

        Returns:
            True when more may be waiting.

        Raises:
            ConnectionLostError: the stream ended. What came before it is in ``inbox``.
            ProtocolError: the stream is broken. What came before it is in ``inbox``.
        """
        if self._peeling is None:
            return self._read_plain()
        try:
            more = self._peeling.pump()
        finally:
            self.inbox += self._peeling.inbox
            self._peeling.inbox.clear()
        while self._peeling.has_rest:
            self._check(self.loop_read())
            if self._sock is None:
                raise ConnectionLostError("the broker ended the connection")
        return more

    def write_some(self) -> None:
        """Write what waits, as far as the kernel takes it.

        Raises:
            ConnectionLostError: the connection ended.
        """
        if self.want_write():
            self._check(self.loop_write())
        if self._peeling is not None:
            self._peeling.push()

    @property
    def wants_write(self) -> bool:
        """Whether something waits to be written."""
        return self.want_write() or (self._peeling is not None and self._peeling.wants_write)

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        """Send PUBACKs in this order."""
        if self._peeling is not None:
            self._peeling.queue(pubacks(packet_ids))
            self._peeling.push()
            return
        for packet_id in packet_ids:
            self.ack(packet_id, 1)

    def pending(self) -> bool:
        """Return whether bytes wait that a poll of the file descriptor does not show (TLS)."""
        sock: Any = self._sock
        return sock is not None and hasattr(sock, "pending") and sock.pending() > 0

    def drop(self) -> None:
        """Close the socket without an MQTT packet, as after a broken stream."""
        self._sock_close()

    # --------------------------------------------------------------------------------------- hooks into paho

    def _create_socket(self) -> Any:
        sock: Any = super()._create_socket()
        if not self._fast:
            return sock
        self._peeling = PeelingSocket(sock, Peeler(version5=self._version5, max_payload=self._max_payload))
        return self._peeling

    def _sock_close(self) -> None:
        sock: Any = self._sock
        if sock is not None and self._peeling is None:  # else closing the socket does it
            with suppress(OSError):  # the broker is gone: it sends again what was not acknowledged
                linger(sock)
        super()._sock_close()

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        self.inbox.append(parse_publish(packet["command"], bytes(packet["packet"]), version5=self._version5))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        return super()._sock_recv(min(bufsize, _PLAIN_READ))

    def _packet_read(self) -> MQTTErrorCode:
        """Read as paho does, but never collect a packet that is larger than any route allows."""
        packet = self._in_packet
        if self._large is None and packet["have_remaining"] and packet["to_process"] > 0:
            publish = packet["command"] & 0xF0 == 0x30
            if not publish and packet["remaining_length"] > CONTROL_LIMIT:
                raise ProtocolError(f"packet type {packet['command'] >> 4} is too large")
            if publish and packet["remaining_length"] > self._max_length:
                self._large = LargePublish(packet["command"], packet["remaining_length"], version5=self._version5)
        if self._large is None:
            return super()._packet_read()
        return self._stream_large(self._large)

    def _stream_large(self, large: LargePublish) -> MQTTErrorCode:
        packet = self._in_packet
        large.feed(bytes(packet["packet"]))
        packet["packet"] = bytearray()
        left = READ_BYTES
        while packet["to_process"] > 0 and left > 0:
            try:
                data = self._sock_recv(packet["to_process"])
            except BlockingIOError:
                return MQTTErrorCode.MQTT_ERR_AGAIN
            except OSError:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            if not data:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            left -= len(data)
            packet["to_process"] -= len(data)
            large.feed(data)
        if large.done:
            self.inbox.append(large.publish())
            self._large = None
            packet["packet"] = bytearray()
            packet["command"] = packet["have_remaining"] = packet["remaining_length"] = 0
            packet["to_process"] = packet["pos"] = 0
            packet["remaining_count"], packet["remaining_mult"] = [], 1
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    # ------------------------------------------------------------------------------------------------ helpers

    def _read_plain(self) -> bool:
        """Let paho read packet by packet until it would block: it returns the same either way, so ask."""
        for _ in range(_PLAIN_PACKETS):
            before = self._in_packet["to_process"], len(self.inbox), self._in_packet["command"]
            self._check(self.loop_read())
            if self._sock is None:
                raise ConnectionLostError("the broker ended the connection")
            if (self._in_packet["to_process"], len(self.inbox), self._in_packet["command"]) == before:
                return False
        return True

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionLostError(f"paho: {code.name}")


def _password(settings: MqttSettings) -> str | None:
    if settings.password_file is None:
        return None
    try:
        return settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise StartError(
            f"mqtt.password_file {settings.password_file} cannot be read ({error.strerror}): "
            "give the path of a file with the password / 无法读取密码文件, 请检查路径与权限"
        ) from error


def _text(path: Any) -> str | None:
    return None if path is None else str(path)
