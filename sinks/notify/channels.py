"""The two ways out: our own signed webhook, and every service that apprise knows. Addresses and keys are never shown.

A channel sends one message and returns, or raises RetryLater with a reason that names no secret. It keeps nothing,
retries nothing, and waits no longer than its time limit for each answer.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from qingtu.clock import SECOND
from qingtu.errors import RetryLater, StartError
from qingtu.settings_notify import NO_APPRISE
from sinks.notify.templates import as_html, clean

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.clock import Clock
    from qingtu.settings_notify import ChannelSettings, Language
    from sinks.notify.messages import Message

SIGNATURE: Final = "Qingtu-Signature"
DELIVERY: Final = "Qingtu-Delivery"


class Channel(Protocol):
    """One place where messages go."""

    def send(self, message: Message) -> None:
        """Send, and return when the other side has taken it.

        Raises:
            RetryLater: it has not, or it is not known whether it has.
        """
        ...


def open_channel(settings: ChannelSettings, language: Language, clock: Clock) -> Channel:
    """Make a channel.

    Raises:
        StartError: a file cannot be read, the address is none, or apprise is not installed.
    """
    language = settings.language or language
    address = _secret(settings.url_file, f"notify.channels.{settings.name}.url_file")
    if settings.kind == "apprise":
        return Apprise(settings, address, language)
    key = None
    if settings.secret_file is not None:
        key = _secret(settings.secret_file, f"notify.channels.{settings.name}.secret_file").encode()
    return Webhook(settings, address, key, language, clock)


def signature(key: bytes, at_s: int, body: bytes) -> str:
    """Return the value of the header ``Qingtu-Signature``: HMAC-SHA-256 (RFC 2104) over ``TIME.BODY``.

    >>> signature(b"key", 0, b"{}")[:20]
    't=0,v1=1a5ce0a97ba4b'
    """
    digest = hmac.new(key, b"%d." % at_s + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


class Webhook:
    """Posts JSON (docs/notify.md has the body); any answer of 2xx means taken. Redirects are refused."""

    def __init__(
        self, settings: ChannelSettings, url: str, key: bytes | None, language: Language, clock: Clock
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StartError(
                f"地址无效 / the file notify.channels.{settings.name}.url_file must hold an http:// or https:// address"
            )
        self._url, self._key, self._clock = url, key, clock
        self._language, self._timeout_s = language, settings.timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._secrets = secrets_of(url)

    def send(self, message: Message) -> None:
        """See :class:`Channel`."""
        body = orjson.dumps(body_of(message, self._language))
        headers = {"Content-Type": "application/json", "User-Agent": "qingtu", DELIVERY: message.id}
        if self._key is not None:
            headers[SIGNATURE] = signature(self._key, self._clock.now_us() // SECOND, body)
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - checked above
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                return
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise RetryLater(scrubbed(reason, self._secrets))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed message goes where its address says, not where an answer points."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: urllib then raises the 3xx as an error."""


def body_of(message: Message, language: str) -> dict[str, Any]:
    """Return the JSON body of a webhook."""
    return {
        "version": 1,
        "id": message.id,
        "kind": message.kind,
        "channel": message.channel,
        "made_ms": message.made_us // 1000,
        "level": message.level,
        "count": message.count,
        "title": message.title(language),
        "text": message.text(language),
        "alerts": message.alerts,
    }


class Apprise:
    """Sends through apprise: HTML where a service takes it (mail), plain text elsewhere."""

    def __init__(self, settings: ChannelSettings, url: str, language: Language) -> None:
        try:
            import apprise  # noqa: PLC0415 - an extra: loaded only where a channel needs it
        except ImportError as error:
            raise StartError(f"notify.channels.{settings.name}: {NO_APPRISE}") from error
        asset = apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY, secure_logging=True)
        service = apprise.Apprise.instantiate(url, asset=asset)
        if service is None or getattr(service, "optional", False):
            raise StartError(
                f"地址无效 / the file notify.channels.{settings.name}.url_file must hold an address that apprise "
                "knows, such as mailtos://USER:PASSWORD@HOST?to=NAME@HOST, without optional=yes"
            )
        self._all = apprise.Apprise(asset=asset)
        self._all.add(service)
        formats: Any = service.notify_format  # one, or several with the usual one first
        self._html = apprise.NotifyFormat.HTML in (formats if isinstance(formats, tuple) else (formats,))[:1]
        self._language = language
        self._secrets = secrets_of(url)

    def send(self, message: Message) -> None:
        """See :class:`Channel`."""
        text = message.text(self._language)
        result = self._all.notify(
            as_html(text) if self._html else text,
            title=message.title(self._language),
            body_format="html" if self._html else "text",
            interpret_escapes=False,
        )
        if not result:
            said = [entry.message for entry in result.logs()]
            raise RetryLater(scrubbed("; ".join(said[-2:]) or "apprise: not sent", self._secrets))


def secrets_of(url: str) -> list[str]:
    """Return the parts of an address that may be secret: all but scheme, host and port; the longest first.

    >>> secrets_of("https://u:passw0rd@h.cn/send?key=abc-123")
    ['/send?key=abc-123', 'u:passw0rd', 'passw0rd', 'abc-123', 'send', 'key']
    """
    scheme, _, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    host = re.split(r"[/?#]", place, maxsplit=1)[0] if at or scheme in ("http", "https") else ""
    behind = place[len(host) :]
    parts = {login, behind, *re.split(r"[/?#&=:@,;]", f"{login}/{behind}")}
    parts |= {urllib.parse.unquote(part) for part in parts}
    return sorted((part for part in parts if len(part) >= 3), key=lambda part: (-len(part), part))


def scrubbed(text: str, secrets: list[str]) -> str:
    """Take secrets out of what a library says, and make one clean line of it.

    >>> scrubbed("no route to /send?key=abc", ["/send?key=abc"])
    'no route to ***'
    """
    for secret in secrets:
        text = text.replace(secret, "***")
    return clean(text)


def _secret(path: Path, name: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{name} {path} 无法读取 / cannot be read: {getattr(error, 'strerror', error)}") from error
    if not text or len(text.split()) > 1:
        raise StartError(f"{name} {path} 须只有一行 / must hold one line without spaces")
    return text
