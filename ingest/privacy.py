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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KINDS: Final[Mapping[str, str]] = {
    key: kind
    for kind, keys in {
        "card": ("card", "cardno", "cardid", "cardnumber", "iccard", "卡号"),
        "plate": ("plate", "plateno", "platenumber", "licenseplate", "carno", "车牌", "车牌号"),
        "id_card": ("idcard", "idcardno", "idno", "idnumber", "identityno", "身份证", "身份证号"),
        "phone": ("phone", "phoneno", "phonenumber", "mobile", "tel", "telephone", "电话", "手机", "手机号"),
        "name": ("name", "realname", "fullname", "personname", "ownername", "visitorname", "姓名"),
        "face": ("face", "faceid", "facetoken", "人脸"),
        "person": ("person", "personid", "userid", "ownerid", "residentid", "visitorid", "工号"),
        "email": ("email", "mail"),
    }.items()
    for key in keys
}
"""Folded key (lower case, letters and digits only) → kind of identifier. Spellings of one kind share pseudonyms."""

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

    The value of every key in :data:`KINDS`, at any depth, becomes a pseudonym; null and "" stay. An object or
    list under such a key becomes one pseudonym of its whole text. A payload without such keys comes back
    unchanged, byte for byte.

    Raises:
        Unparsable: not JSON, nested too deeply, or with a key given twice (readers differ in which one counts).
    """
    found = False

    def take(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        out: dict[str, Any] = {}
        for name, value in pairs:
            if name in out:
                raise Unparsable(f"key given twice: {len(name)} characters")
            kind = KINDS.get(_fold(name))
            if kind is None or value is None or value == "":
                out[name] = value
            else:
                found = True
                out[name] = pseudonym(key, kind, _text(value))
        return out

    try:
        document = json.loads(payload, object_pairs_hook=take)
        if not found:
            return payload
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeError are ValueErrors
        raise Unparsable(type(error).__name__) from None  # the message could quote the payload


REDACTORS: Final[Mapping[str, Callable[[bytes, bytes], bytes]]] = {"native": redact_native}
"""Redactors by name. Each is pure: (payload, key) → payload without identifiers, or Unparsable."""


def _fold(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _text(value: Any) -> str:
    """Write a value so that 123 and "123" are the same identifier."""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
