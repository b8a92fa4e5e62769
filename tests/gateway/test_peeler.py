"""The peeler is shown every byte stream: how it is cut makes no difference, memory is bounded."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.peeler import KEPT_BYTES, Large, Peeler, ProtocolError, longest_packet, parse_publish, pubacks

LIMIT = 50  # longest payload in these tests


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def packet(head: int, topic: bytes, packet_id: int, properties: bytes | None, payload: bytes) -> bytes:
    """Write a PUBLISH, independently of the code under test; properties None writes MQTT 3.1.1."""
    body = len(topic).to_bytes(2, "big") + topic
    body += packet_id.to_bytes(2, "big") if head & 6 else b""
    body += b"" if properties is None else varint(len(properties)) + properties
    return bytes([head]) + varint(len(body) + len(payload)) + body + payload


def written(publish: Any, *, version5: bool) -> bytes:
    """Write one drawn PUBLISH."""
    head, topic, packet_id, properties, payload = publish
    return packet(head, topic, packet_id, (properties or b"") if version5 else None, payload)


publishes = st.builds(
    lambda head, topic, packet_id, properties, payload: (
        head, topic, packet_id if head & 2 else 0, properties or None, payload,
    ),
    st.sampled_from([0x30, 0x31, 0x32, 0x33, 0x3A, 0x3B]),
    st.binary(min_size=1, max_size=200),
    st.integers(1, 65_535),
    st.binary(max_size=300),
    st.one_of(st.binary(max_size=300), st.just(b"z" * 200_000)),
)  # fmt: skip
others = st.sampled_from([b"\xd0\x00", b"\x40\x02\x00\x07", b"\x90\x04\x00\x01\x00\x01", b"\xe0\x00"])
cuts = st.lists(st.integers(0, 3000), max_size=30)


def run(data: bytes, at: list[int], *, version5: bool = True) -> tuple[list[Any], bytes, int | None]:
    """Feed ``data`` cut at these places; return (publishes, rest, reason code of the error)."""
    peeler = Peeler(version5=version5, max_payload=LIMIT)
    found: list[Any] = []
    rest = b""
    places = sorted({0, len(data), *(i for i in at if i < len(data))})
    bound = longest_packet(LIMIT) + max((b - a for a, b in pairwise(places)), default=0)
    for start, end in pairwise(places):
        got, other = peeler.feed(data[start:end])
        found += got
        rest += other
        assert peeler.held_bytes <= bound
    return found, rest, peeler.error.reason if peeler.error else None


def expected(publish: tuple[int, bytes, int, bytes | None, bytes], *, version5: bool) -> Any:
    head, topic, packet_id, properties, payload = publish
    properties = properties if version5 else None
    length = len(packet(head, topic, packet_id, (properties or b"") if version5 else None, payload))
    length -= 1 + len(varint(length - 5 if length > 16_386 else length - 3))
    if length > longest_packet(LIMIT):
        body = 2 + len(topic) + (2 if packet_id else 0) + len(payload)
        body += len(varint(len(properties or b"")) + (properties or b"")) if version5 else 0
        digest = hashlib.sha256(payload).digest()
        return head, topic, packet_id, properties, Large(payload[:KEPT_BYTES], len(payload), digest, body)
    return head, topic, packet_id, properties, payload


@given(st.lists(st.one_of(publishes, others), max_size=8), cuts, st.booleans())
def test_what_was_written_comes_out_however_it_is_cut(parts: list[Any], at: list[int], version5: bool) -> None:
    """Every PUBLISH comes out once, in order; all else goes to paho, byte for byte."""
    data = b"".join(p if isinstance(p, bytes) else written(p, version5=version5) for p in parts)
    found, rest, error = run(data, at, version5=version5)
    assert error is None
    assert found == [expected(p, version5=version5) for p in parts if not isinstance(p, bytes)]
    assert rest == b"".join(p for p in parts if isinstance(p, bytes))


@given(st.lists(publishes, max_size=3), st.binary(max_size=400), cuts, st.booleans())
def test_any_bytes_give_the_same_however_they_are_cut(
    before: list[Any], noise: bytes, at: list[int], version5: bool
) -> None:
    """Noise after good packets: the good ones come out, and noise means the same in one piece and in many."""
    data = b"".join(written(p, version5=version5) for p in before) + noise
    whole = run(data, [], version5=version5)
    assert run(data, at, version5=version5) == whole
    assert run(data, list(range(max(0, len(data) - 500), len(data))), version5=version5) == whole
    assert whole[0][: len(before)] == [expected(p, version5=version5) for p in before]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x32\xff\xff\xff\xff\x01", 0x81),  # remaining length of five bytes
        (b"\x32\x01\x00", 0x81),  # no room for a topic
        (b"\x32\x05\x00\x09x\x00\x01", 0x81),  # topic longer than the packet
        (b"\x32\x05\x00\x01x\x00\x00", 0x82),  # packet identifier 0
        (b"\x30\x03\x00\x00\x00", 0x81),  # no topic, and no alias was announced
        (b"\x36\x06\x00\x01x\x00\x01\x00", 0x81),  # quality of service 3
        (b"\x34\x06\x00\x01x\x00\x01\x00", 0x9B),  # quality of service 2
        (b"\x34\xff\xff\xff\x7f", 0x9B),  # the same, 256 MB long
        (b"\x30\x04\x00\x01x\x85", 0x81),  # property length cut short
        (b"\x30\x05\x00\x01x\x09y", 0x81),  # properties longer than the packet
        (b"\x90\xff\xff\xff\x7f", 0x82),  # a SUBACK of 256 MB
        (b"\x00\x00", 0x82),  # packet type 0
        (b"\x32\xff\xff\xff\x7f\x00\x00", None),  # 256 MB, topic not known yet
        (b"\x32\xff\xff\xff\x7f\x00\x00\x00\x01\x00", 0x82),  # 256 MB without a topic
    ],
)
def test_broken_packets_have_a_reason(data: bytes, reason: int | None) -> None:
    """Each kind of damage is told from the others."""
    assert run(data, [])[2] == reason
    assert run(data, list(range(len(data))))[2] == reason


def test_256_mb_of_claimed_properties_are_not_kept() -> None:
    """A legal packet may hold hundreds of megabytes of user properties: 64 KiB are kept, the rest goes by."""
    properties = 30_000_000
    body = b"\x00\x01x\x00\x07" + varint(properties)
    peeler = Peeler(version5=True, max_payload=LIMIT)
    peeler.feed(b"\x32" + varint(len(body) + properties + 3) + body)
    most = 0
    for _ in range(properties // 100_000):
        peeler.feed(b"p" * 100_000)
        most = max(most, peeler.held_bytes)
    found, _ = peeler.feed(b"end")
    assert peeler.error is None
    assert most <= 3 * KEPT_BYTES
    head, topic, packet_id, kept, payload = found[0]
    assert (head, topic, packet_id, len(kept or b"")) == (0x32, b"x", 7, KEPT_BYTES)
    assert isinstance(payload, Large)
    assert (payload.kept, payload.size) == (b"end", 3)


def test_a_single_packet_framed_by_paho() -> None:
    """What paho framed is read the same way; damage is an error."""
    assert parse_publish(0x32, b"\x00\x01x\x00\x05\x00hi", version5=True) == (0x32, b"x", 5, None, b"hi")
    assert parse_publish(0x31, b"\x00\x01x" + b"h" * 70_000, version5=False) == (0x31, b"x", 0, None, b"h" * 70_000)
    with pytest.raises(ProtocolError):
        parse_publish(0x32, b"\x00\x09x", version5=True)


@given(st.lists(st.integers(1, 65_535), max_size=50))
def test_acknowledgements_are_four_bytes_each(ids: list[int]) -> None:
    """PUBACK: 0x40, 2, packet id (MQTT 3.1.1, 3.4; in MQTT 5 reason code 0 may be left out)."""
    data = pubacks(ids)
    assert [int.from_bytes(data[i + 2 : i + 4], "big") for i in range(0, len(data), 4)] == ids
    assert all(data[i : i + 2] == b"\x40\x02" for i in range(0, len(data), 4))
