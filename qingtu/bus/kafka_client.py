"""What all of Qingtu's Kafka clients share: how they log in, how their log is kept quiet, which errors mean what.

kafka-python ships no types, so this is the one module whose callers hold ``Any``.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from kafka.errors import (  # type: ignore[import-untyped]
    AuthorizationError,
    KafkaError,
    SaslAuthenticationFailedError,
)
from kafka.net.compat import KafkaNetClient  # type: ignore[import-untyped]

from qingtu.errors import StartError
from qingtu.records import STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from qingtu.settings import KafkaSettings

STATE: Final = "state"
"""Name of the stream of saved states; not one of :data:`qingtu.records.STREAMS`."""
MAX_FRAME_BYTES: Final = 96_000_000
"""The largest frame. A server takes requests of 104,857,600 bytes (its ``socket.request.max.bytes``); the rest is for
the request around it."""
OPEN_TIMEOUT_MS: Final = 15_000
_REPEAT_S: Final = 60.0


def topic(settings: KafkaSettings, stream: str) -> str:
    """Return the topic of a stream."""
    return f"{settings.prefix}.{stream}"


def topics(settings: KafkaSettings) -> list[str]:
    """Return all topics of an installation, the state's last."""
    return [topic(settings, stream) for stream in (*STREAMS, STATE)]


def options(settings: KafkaSettings, name: str) -> dict[str, Any]:
    """Return what every client is opened with.

    Args:
        settings: servers and log-in.
        name: of the client, for the servers' logs.

    Raises:
        StartError: the password file cannot be read.
    """
    _quiet()
    out: dict[str, Any] = {
        "bootstrap_servers": list(settings.servers),
        "client_id": f"{settings.prefix}-{name}",
        "bootstrap_timeout_ms": OPEN_TIMEOUT_MS,
        # An outage ends when the server is back, not half a minute later.
        "reconnect_backoff_max_ms": 1000,
        "receive_message_max_bytes": 2 * MAX_FRAME_BYTES,
        "security_protocol": _PROTOCOLS[settings.tls, settings.username is not None],
    }
    if settings.tls and settings.ca_file is not None:
        out["ssl_cafile"] = str(settings.ca_file)
    if settings.username is not None:
        out |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": settings.username}
        out["sasl_plain_password"] = _password(settings)
    return out


_PROTOCOLS: Final = {
    (False, False): "PLAINTEXT",
    (False, True): "SASL_PLAINTEXT",
    (True, False): "SSL",
    (True, True): "SASL_SSL",
}


def _password(settings: KafkaSettings) -> str:
    if settings.password_file is None:
        raise StartError("缺少 kafka.password_file / kafka.username is set, but kafka.password_file is not")
    try:
        return settings.password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(
            f"无法读取 Kafka 密码文件 / kafka.password_file {settings.password_file} cannot be read: {error}"
        ) from error


def opened(kind: Callable[..., Any], **config: Any) -> Any:
    """Open a client. One that cannot be opened leaves nothing behind.

    kafka-python 3.0 starts a thread before it looks for the servers, and forgets it when they do not answer: in an
    outage each attempt would leave one.

    Raises:
        KafkaError: the servers do not answer, or refuse.
    """
    made: list[Any] = []

    def connections(**more: Any) -> Any:
        made.append(KafkaNetClient(**more))
        return made[-1]

    try:
        return kind(**config, kafka_client=connections)
    except BaseException:
        for one in made:
            one.close()
        raise


def cannot_reach(settings: KafkaSettings, error: Exception) -> StartError:
    """Turn a failure to open into one line with the way out."""
    servers = ", ".join(settings.servers)
    if isinstance(error, (SaslAuthenticationFailedError, AuthorizationError)):
        return StartError(
            f"Kafka 拒绝登录 / Kafka at {servers} refuses the log-in: {told(error)}; check kafka.username, "
            "kafka.password_file and the rights of that user"
        )
    return StartError(
        f"无法连接 Kafka / Kafka at {servers} cannot be reached: {told(error)}; start it, or set kafka.servers"
    )


def told(error: BaseException) -> str:
    """Return an error of kafka-python in words; its ``str`` repeats numbers and class names."""
    words = str(error.args[0]) if error.args and error.args[0] else ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _quiet() -> None:
    """Keep kafka-python's log readable.

    It writes a line at ERROR for every refused connection and one at WARN for every retry, ten a second in an outage,
    though nothing is lost. What is lost we say ourselves. A line of one kind is passed on once a minute, at WARN.
    """
    logger = logging.getLogger("kafka")
    if not any(isinstance(found, _Rarely) for found in logger.handlers):
        logger.addHandler(_Rarely())
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        # It warns when a step of its loop took 0.1 s, as on any busy machine.
        logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)


class _Rarely(logging.Handler):
    """Passes a line on to structlog when none like it was passed on lately."""

    _NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        kind = f"{record.name} {self._NUMBERS.sub('0', record.getMessage())[:80]}"
        now = time.monotonic()
        if now - self._told.get(kind, -_REPEAT_S) < _REPEAT_S:
            return
        if len(self._told) > 200:
            self._told.clear()
        self._told[kind] = now
        structlog.get_logger("kafka").warning(
            "client", said=record.getMessage()[:300], next="it tries again; what is lost is said by the bus"
        )


__all__ = ["MAX_FRAME_BYTES", "STATE", "KafkaError", "cannot_reach", "opened", "options", "told", "topic", "topics"]
