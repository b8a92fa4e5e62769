"""Redaction of native JSON: identifiers leave, all else stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.privacy import KINDS, REDACTORS, Unparsable, keyed_digest, pseudonym, redact_native

KEY = b"secret"
IDENTIFIER = "鲁B-62220011"


def test_pseudonyms_are_stable_and_keyed() -> None:
    """The value of a known case; another key, kind or value gives another one."""
    base = pseudonym(KEY, "card", "6222")
    assert base == "p-536edb6706dc417ada55"  # openssl dgst -sha256 -hmac secret
    assert (
        len({base, pseudonym(b"x", "card", "6222"), pseudonym(KEY, "plate", "6222"), pseudonym(KEY, "card", "6223")})
        == 4
    )


@pytest.mark.parametrize("name", ["card", "card_no", "cardNo", "CARD-NO", "Card No", "卡号"])
def test_spellings_of_a_key_give_the_same_pseudonym(name: str) -> None:
    """The same card under differently spelled keys is the same person; 6222 and "6222" too."""
    for value in (6222, "6222", " 6222 "):
        out = json.loads(redact_native(json.dumps({"events": [{"attributes": {name: value}}]}).encode(), KEY))
        assert out == {"events": [{"attributes": {name: pseudonym(KEY, "card", "6222")}}]}


def test_what_has_no_identifier_is_unchanged_byte_for_byte() -> None:
    """Spacing, number spelling and NaN survive, so a repetition still has the same bytes."""
    payload = b'{ "readings": {"pm2_5": 1.50, "x": NaN}, "time": "2026-11-22T00:00:00Z",\n"card": null, "name": ""}'
    assert redact_native(payload, KEY) == payload


def test_whole_objects_under_a_private_key_go() -> None:
    """Nothing inside survives, not even keys; their order does not matter."""
    one = redact_native(b'{"person": {"a": "6222", "b": [1]}}', KEY)
    two = redact_native(b'{"person": {"b": [1], "a": "6222"}}', KEY)
    assert one == two
    assert b"6222" not in one


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":1,"a":2}',
        b"[" * 100_000,
        b'{"card":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800","card":1}',
    ],
)
def test_what_cannot_be_read_is_said_to_be_so(payload: bytes) -> None:
    """Broken, ambiguous, too deep, too long or unwritable: Unparsable, and the message quotes nothing."""
    with pytest.raises(Unparsable) as caught:
        redact_native(payload, KEY)
    assert "9999" not in str(caught.value)


plain: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "readings"]), plain), st.sampled_from(sorted(KINDS)), st.integers(0, 3)
)
def test_no_identifier_survives_at_any_depth(around: dict[str, Any], key: str, depth: int) -> None:
    """Under every listed key, however deep: the original is gone, its neighbours stay."""
    document: Any = {**around, key: IDENTIFIER}
    for _ in range(depth):
        document = {"events": [{"attributes": document}]}
    out = (
        redact_native(json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass"), KEY)
        if _writable(document)
        else b""
    )
    assert IDENTIFIER.encode() not in out
    if out:
        inner = json.loads(out)
        for _ in range(depth):
            inner = inner["events"][0]["attributes"]
        expected = json.loads(redact_native(json.dumps(around, ensure_ascii=False).encode(), KEY))
        assert {k: v for k, v in inner.items() if k != key} == expected


def _writable(document: Any) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def test_keyed_digest_needs_the_key() -> None:
    """Without the key nobody can try all plates against it."""
    assert keyed_digest(KEY, b"h" * 32) != keyed_digest(b"other", b"h" * 32)
    assert len(keyed_digest(KEY, b"h" * 32)) == 32


def test_every_redactor_is_pure() -> None:
    """The same input gives the same output."""
    for redact in REDACTORS.values():
        assert redact(b'{"card":"1"}', KEY) == redact(b'{"card":"1"}', KEY)
