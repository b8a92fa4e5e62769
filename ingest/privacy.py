"""Redactors: pure functions that pseudonymise a payload before anything of it is stored.

A private route names a redactor. What a redactor cannot parse is never stored: the gateway keeps only its length
and a keyed hash (reason ``unparsable_private``). The same key and identifier give the same pseudonym on every
route and day, so that "the same card again" can still be seen; without the key nobody can go back, not even by
trying all plates. Free text (a person's name inside a remark) is out of reach: private devices must not send it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any, Final

from ingest.private_keys import holds_value, kind_of, label_of, may_stay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PSEUDONYM_HEX: Final = 20


class Unparsable(ValueError):  # noqa: N818 - says what the payload is
    """The redactor cannot read the payload, so it cannot know what is private in it."""


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Return ``p-`` and the first 20 hex digits of HMAC-SHA256(key, kind NUL value)."""
    code = hmac.new(key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return "p-" + code.hexdigest()[:_PSEUDONYM_HEX]


def keyed_digest(key: bytes, sha256: bytes) -> bytes:
    """Return HMAC-SHA256(key, "payload" NUL SHA-256 of the payload): 32 bytes.

    Over the hash and not over the payload, so that a payload too large to hold can be streamed. Keyed, because
    a bare hash of a short payload can be undone by trying.
    """
    return hmac.new(key, b"payload\0" + sha256, hashlib.sha256).digest()


def redact_native(payload: bytes, key: bytes) -> bytes:
    """Pseudonymise native JSON.

    The value of every key that names an identifier (:mod:`ingest.private_keys`), at any depth, becomes a pseudonym;
    null, true, false and "" stay. Of a list or object under such a key each text and number becomes one, and so does
    each key that could be an identifier itself. The same holds for the value of an object whose label names an
    identifier: ``{"key": "card_no", "value": 6222}``. A payload without any comes back unchanged, byte for byte.

    Raises:
        Unparsable: not JSON, nested too deeply, or with a key given twice (readers differ in which one counts).
    """
    found = False

    def take(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        out = dict(pairs)
        if len(out) < len(pairs):
            raise Unparsable("a key given twice")
        found = found or any(map(kind_of, out)) or label_of(pairs) is not None
        return out

    try:
        document = json.loads(payload, object_pairs_hook=take)
        if not found:
            return payload
        redacted = _redacted(document, None, key)
        # Where all that was found is null or "", nothing changes: a repetition must have the same bytes.
        return payload if redacted == document else _bytes(redacted)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeError are ValueErrors
        raise Unparsable(type(error).__name__) from None  # the message could quote the payload


REDACTORS: Final[Mapping[str, Callable[[bytes, bytes], bytes]]] = {"native": redact_native}
"""Redactors by name. Each is pure: (payload, key) → payload without identifiers, or Unparsable."""


def _redacted(value: Any, kind: str | None, key: bytes) -> Any:
    """Return a JSON value without identifiers; with a kind, each text and number of it is one of that kind."""
    if isinstance(value, dict):
        return _redacted_object(value, kind, key)
    if isinstance(value, list):
        return [_redacted(item, kind, key) for item in value]
    if kind is None or value is None or value == "" or isinstance(value, bool):
        return value
    return pseudonym(key, kind, _text(value))


def _redacted_object(value: dict[str, Any], kind: str | None, key: bytes) -> dict[str, Any]:
    out = {}
    label, labelled = label_of(value.items()) or ("", None)
    for name, inner in value.items():
        own = kind_of(name) or (labelled if name != label and holds_value(name) else None) or kind
        shown = name if kind is None or may_stay(name) else pseudonym(key, kind, name)
        out[shown] = _redacted(inner, own, key)
    return out


def _text(value: str | float) -> str:
    """Write a value so that 123 and "123" are the same identifier."""
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _bytes(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
