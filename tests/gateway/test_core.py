"""The core's promise under any order of events, and what it says about each kind of message."""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.core import MARKER_GIVE_UP_US, MARKER_IDLE_US, MARKER_WAIT_US, Flush, GatewayCore
from ingest.peeler import Large
from ingest.raw import SESSION
from ingest.routes import RouteTable
from qingtu.clock import HOUR
from qingtu.records import Kind, MessageFlag, decode
from qingtu.settings import MqttSettings, RouteSettings

KEY = b"k" * 32
NOW = 1_795_000_000_000_000
UP = b"qt/air/d1/up"


def make(
    *, private: frozenset[str] = frozenset(), routes: Any = None, partitions: int = 1, **limits: Any
) -> GatewayCore:
    routes = routes or (RouteSettings(name="native", topic="qt/{network}/{device}/up", max_payload_bytes=1000),)
    return GatewayCore(
        RouteTable(routes, private), MqttSettings(**limits), gateway="g", partitions=partitions, key=KEY, catalogue="c7"
    )


def receive(
    core: GatewayCore, payload: bytes, packet_id: int = 1, *, topic: bytes = UP, now_us: int = NOW, **flags: Any
) -> None:
    given_flags = {"qos": 1 if packet_id else 0, "dup": False, "retain": False, "properties": None, **flags}
    core.receive(topic, payload, packet_id=packet_id, now_us=now_us, **given_flags)


def rows_of(flush: Flush | None) -> list[dict[str, Any]]:
    assert flush is not None
    return [row for frame in flush.frames.values() for row in decode(frame).sections["rows"].to_pylist()]


def only_row(core: GatewayCore) -> dict[str, Any]:
    (row,) = rows_of(core.take(NOW))
    return row


# ------------------------------------------------------------------------------------------------ the promise

steps = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.integers(1, 6)),
        st.sampled_from([("connect", 0), ("cut", 0), ("take", 0), ("kept", 0), ("fail", 0), ("partly", 0)]),
    ),
    max_size=60,
)


@given(steps, st.integers(1, 3))
@settings(deadline=None)
def test_nothing_is_acknowledged_before_it_is_durable(  # noqa: C901 - one simulation
    events: list[tuple[str, int]], partitions: int
) -> None:
    """Any order of messages, cuts and refusals: acknowledged = durable, of this connection, in order received."""
    core = make(partitions=partitions, flush_rows=4, flush_idle_ms=0)
    durable: dict[int, list[int]] = defaultdict(list)  # partition → message numbers, as a bus would hold them
    received: list[tuple[int, int, int]] = []  # (connection, packet id, message number)
    acked: dict[int, list[int]] = defaultdict(list)
    connection = number = packet_id = 0
    up = False
    out: Flush | None = None

    def keep(flush: Flush, some: bool) -> list[int]:
        kept = [p for i, p in enumerate(flush.frames) if not some or i == 0]
        for p in kept:
            durable[p] += [int(r["payload"]) for r in decode(flush.frames[p]).sections["rows"].to_pylist()]
        return kept

    for event, count in [*events, *[("take", 0), ("kept", 0)] * 120]:
        if event == "connect" or (event == "receive" and not up):
            connection, packet_id, up = connection + 1, 0, True
            core.connected(connection, session_present=True)
        if event == "receive":
            for _ in range(count):
                number, packet_id = number + 1, packet_id + 1
                received.append((connection, packet_id, number))
                receive(core, b"%d" % number, packet_id, topic=b"qt/air/d%d/up" % (number % 5))
        elif event == "cut":
            up = False
            core.disconnected()
        elif event == "take" and out is None:
            out = core.take(NOW)
        elif event == "fail" and out is not None:
            core.failed(out)
            out = None
        elif event == "partly" and out is not None:
            core.failed(out, keep(out, some=True))
            out = None
        elif event == "kept" and out is not None:
            keep(out, some=False)
            ids = core.flushed(out)
            assert up or not ids
            acked[connection] += ids
            out = None
            safe = {n for numbers in durable.values() for n in numbers}
            assert {n for c, i, n in received if c == connection and i in acked[c]} <= safe
    kept_numbers = [n for numbers in durable.values() for n in numbers]
    assert sorted(kept_numbers) == [n for _, _, n in received]  # each once, none lost
    assert all(numbers == sorted(numbers) for numbers in durable.values())
    for c, ids in acked.items():
        sent = [i for connection_, i, _ in received if connection_ == c]
        assert ids == [i for i in sent if i in set(ids)]
    if up:
        assert acked[connection][-1:] == [i for c, i, _ in received if c == connection][-1:]
    assert (core.rows, core.size) == (0, 0)


def test_a_failed_flush_comes_again_unchanged() -> None:
    """The same bytes; what one partition kept already is left out."""
    core = make(partitions=4)
    core.connected(5, session_present=False)
    for i in range(40):
        receive(core, b"x", i + 1, topic=b"qt/air/d%d/up" % i)
    first = core.take(NOW)
    assert first is not None
    assert len(first.frames) == 4
    assert core.take(NOW) is None
    core.failed(first, kept=[0, 2])
    again = core.take(NOW)
    assert again is not None
    assert again.frames == {p: first.frames[p] for p in (1, 3)}
    assert core.flushed(again) == list(range(1, 41))


def test_a_new_session_is_told_to_every_partition_before_its_messages() -> None:
    """And behind what an older session brought; without any message too, since identifiers begin anew in any case."""
    core = make(partitions=3)
    core.connected(NOW, session_present=True)
    receive(core, b"old", 1)
    core.connected(NOW + 7, session_present=False)
    receive(core, b"new", 1, now_us=NOW + 8)
    told = []
    while (flush := core.take(NOW + 9)) is not None:
        told.append({p: decode(frame).sections["rows"].to_pylist() for p, frame in flush.frames.items()})
        core.flushed(flush)
    before, after = told
    assert [row["payload"] for rows in before.values() for row in rows] == [b"old"]
    assert sorted(after) == [0, 1, 2]
    for rows in after.values():
        assert (rows[0]["kind"], rows[0]["gateway"]) == (Kind.COMMAND, "g")
        assert orjson.loads(rows[0]["payload"]) == {"name": SESSION, "who": "system", "args": {"connection": NOW + 7}}
    assert [row["payload"] for rows in after.values() for row in rows[1:]] == [b"new"]


def test_a_new_session_without_messages_is_flushed_by_age() -> None:
    """Nothing waits for it, but it must not wait for ever."""
    core = make(flush_ms=100, flush_idle_ms=20)
    core.connected(NOW, session_present=False)
    assert core.wait_us(NOW) == 20_000
    assert core.flush_due(NOW + 20_000)
    flush = core.take(NOW + 20_000)
    assert flush is not None
    assert core.flushed(flush) == []
    assert core.wait_us(NOW + 30_000) is None


def test_the_bound_is_latched_until_half_is_flushed() -> None:
    """Overfull stays until flushes made room, so that the transport does not come and go."""
    core = make(buffer_rows=10, flush_rows=4)
    core.connected(1, session_present=False)
    for i in range(10):
        receive(core, b"x", i + 1)
    assert core.overfull
    seen = []
    while flush := core.take(NOW):
        core.flushed(flush)
        seen.append((core.rows, core.overfull))
    assert seen == [(6, True), (2, False), (0, False)]


def test_bytes_are_bounded_too() -> None:
    """Few but large messages reach the bound."""
    core = make(buffer_bytes=1024)
    for i in range(2):
        assert not core.overfull
        receive(core, b"x" * 600, i + 1)
    assert core.overfull


@pytest.mark.parametrize("part", ["properties", "topic"])
def test_bytes_beside_the_payload_count(part: str) -> None:
    """Properties and topics can be many times as long as a payload: the bound holds for what is kept."""
    core = make(buffer_bytes=1_000_000, flush_bytes=100_000)
    topic = b"qt/air/" + b"d" * (60_000 if part == "topic" else 1) + b"/up"
    properties = b"p" * 60_000 if part == "properties" else None
    for i in range(17):
        assert not core.overfull
        core.receive_many([(0x32, topic, i + 1, properties, b"{}")], NOW)
    assert core.overfull
    flush = core.take(NOW)
    assert flush is not None
    assert (flush.rows, rows_of(flush)[0]["refused"]) == (2, ""), "an ordinary message, flushed by size"
    while flush is not None:
        core.flushed(flush)
        flush = core.take(NOW)
    assert (core.rows, core.size, core.overfull) == (0, 0, False)


def test_long_topics_are_not_remembered() -> None:
    """Each may be 64 KiB: 65,536 of them would be 4 GB, twice."""
    core = make()
    for i in range(100):
        core.receive_many([(0x30, b"qt/air/%d" % i + b"d" * 1000 + b"/up", 0, None, b"x")], NOW)
    flush = core.take(NOW)
    assert flush is not None
    assert {len(r["device"]) for r in rows_of(flush)} == {1001, 1002}
    assert (len(core._sources.known), len(core.routes._cache)) == (0, 0)


def test_properties_beyond_64_kib_are_too_large() -> None:
    """Also where the packet as a whole is not too large to be held; they are cut, the payload stands whole."""
    core = make()
    core.receive_many(
        [(0x32, b"qt/air/d/up", 1, b"p" * 65_536, b"1"), (0x32, b"qt/air/d/up", 2, b"p" * 65_537, b"2")], NOW
    )
    flush = core.take(NOW)
    assert flush is not None
    fine, large = rows_of(flush)
    assert (fine["refused"], len(fine["properties"])) == ("", 65_536)
    assert (large["refused"], len(large["properties"]), large["payload"]) == ("too_large", 65_536, b"2")
    assert large["flags"] & MessageFlag.TRUNCATED
    assert large["digest"] == hashlib.sha256(b"2").digest()


def test_when_a_flush_is_due() -> None:
    """By age, when idle, by size; not while one is out; at once when the clock was set back."""
    core = make(flush_ms=100, flush_idle_ms=5, flush_rows=3)
    assert core.wait_us(NOW) is None
    receive(core, b"a", 1)
    assert core.wait_us(NOW) == 5000
    receive(core, b"b", 2, now_us=NOW + 99_000)
    assert core.wait_us(NOW + 99_000) == 1000
    assert core.flush_due(NOW + 100_000)
    assert core.flush_due(NOW - 1)
    receive(core, b"c", 3, now_us=NOW + 99_000)
    assert core.flush_due(NOW + 99_000)
    assert core.take(NOW) is not None
    assert core.wait_us(NOW) is None


# --------------------------------------------------------------------------------------------- kinds of message


def test_a_message_as_it_stands_in_raw() -> None:
    """Every column of an ordinary row, and the header that the ledger counts from."""
    core = make()
    core.connected(77, session_present=True)
    receive(core, b"{}", 9, dup=True, retain=True, properties=b"\x01\x00")
    flush = core.take(NOW)
    assert flush is not None
    frame = decode(flush.frames[0])
    row = frame.sections["rows"].to_pylist()[0]
    assert row.pop("received_at").timestamp() * 1_000_000 == NOW
    assert row == {
        "kind": Kind.MESSAGE, "gateway": "g", "network": "air", "route": "native", "device": "d1",
        "topic": "qt/air/d1/up", "payload": b"{}", "size": 2,
        "flags": 1 | MessageFlag.DUP | MessageFlag.RETAIN, "packet_id": 9, "connection": 77,
        "properties": b"\x01\x00", "refused": "", "digest": None, "redrive_of": None, "shift_us": None,
    }  # fmt: skip
    assert (frame.clock_us, frame.header["catalogue"]) == (NOW, "c7")
    assert frame.header["counts"] == [["air", NOW // HOUR * HOUR, 1]]


@pytest.mark.parametrize(
    ("topic", "payload", "reason", "stored"),
    [
        (UP, b"", "empty_payload", "qt/air/d1/up"),
        (UP, b"x" * 1001, "too_large", "qt/air/d1/up"),
        (b"qt/air//up", b"x", "no_route", "qt/air//up"),
        (b"elsewhere", b"", "no_route", "elsewhere"),
        (b"qt/\xff\xfe/d1/up", b"x", "topic_not_utf8", "qt/\\xff\\xfe/d1/up"),
        (b"qt/air/\xed\xa0\x80/up", b"x", "topic_not_utf8", "qt/air/\\xed\\xa0\\x80/up"),
        (b"$SYS/broker/uptime", b"1 s", "sys_topic", "$SYS/broker/uptime"),
    ],
)
def test_refused_messages_are_kept_and_acknowledged(topic: bytes, payload: bytes, reason: str, stored: str) -> None:
    """Each special case: one row with its reason code and its bytes, one acknowledgement."""
    core = make()
    core.connected(1, session_present=True)
    receive(core, payload, 3, topic=topic)
    flush = core.take(NOW)
    (row,) = rows_of(flush)
    assert (row["refused"], row["topic"], row["payload"], row["size"]) == (reason, stored, payload, len(payload))
    assert flush is not None
    assert core.flushed(flush) == [3]
    assert core.refused[reason] == 1


def test_too_large_keeps_64_kib_length_and_hash() -> None:
    """As the design's section 3 says, also for a payload that was only streamed through."""
    payload = bytes(range(256)) * 400
    large = Large(payload[:65_536], len(payload), hashlib.sha256(payload).digest(), 10**6)
    for given_payload in (payload, large):
        core = make()
        core.receive_many([(0x32, UP, 1, None, given_payload)], NOW)
        row = only_row(core)
        assert (row["refused"], row["size"], row["payload"]) == ("too_large", len(payload), payload[:65_536])
        assert row["digest"] == hashlib.sha256(payload).digest()
        assert row["flags"] & MessageFlag.TRUNCATED


def test_large_payload_below_the_limit_is_whole() -> None:
    """A route that allows much gets all of it."""
    core = make(routes=(RouteSettings(name="n", topic="{network}/{device}", max_payload_bytes=200_000),))
    receive(core, b"x" * 200_000, topic=b"air/d1")
    row = only_row(core)
    assert (len(row["payload"]), row["refused"], row["digest"]) == (200_000, "", None)


def test_private_payloads_are_pseudonymised() -> None:
    """A private network on an ordinary native route: identifiers never reach a frame; properties neither."""
    core = make(private=frozenset({"community"}))
    receive(core, b'{"events":[{"attributes":{"card":"6222"}}]}', topic=b"qt/community/d/up", properties=b"\x26name")
    row = only_row(core)
    code = hmac.new(KEY, b"card\x006222", hashlib.sha256).hexdigest()[:20]
    assert row["payload"] == b'{"events":[{"attributes":{"card":"p-%s"}}]}' % code.encode()
    assert row["flags"] & MessageFlag.PSEUDONYMISED
    assert (row["properties"], row["refused"], row["size"]) == (None, "", 43)


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        (b"qt/community/d/up", b"card 6222", "unparsable_private"),
        (b"qt/community/d/up", b'{"card":"6222"}' + b" " * 1000, "too_large"),
        (b"qt/community//up", b"card 6222", "no_route"),
        (b"\xff/community/up", b"card 6222", "topic_not_utf8"),
    ],
)
def test_private_refusals_keep_length_and_keyed_hash_only(topic: bytes, payload: bytes, reason: str) -> None:
    """What nobody could redact is not stored, whatever the reason."""
    core = make(private=frozenset({"community"}))
    receive(core, payload, topic=topic)
    row = only_row(core)
    assert (row["refused"], row["payload"], row["size"]) == (reason, b"", len(payload))
    inner = hashlib.sha256(payload).digest()
    assert row["digest"] == hmac.new(KEY, b"payload\0" + inner, hashlib.sha256).digest()


def test_private_network_without_a_redactor_for_its_format_fails_closed() -> None:
    """A format that nobody can redact is not stored on a private network."""
    core = make(
        private=frozenset({"community"}),
        routes=(RouteSettings(name="n", topic="x/{network}/{device}", decoder="other"),),
    )
    receive(core, b"6222", topic=b"x/community/d")
    row = only_row(core)
    assert (row["refused"], row["payload"]) == ("unparsable_private", b"")


def test_a_private_topic_carries_no_identifier() -> None:
    """Levels that the route does not name may hold a plate: they become pseudonyms; the device id stays."""
    core = make(routes=(RouteSettings(name="p", topic="park/{device}/{_}/up", network="park", redact="native"),))
    receive(core, b"{}", topic="park/gate1/鲁B12345/up".encode())
    row = only_row(core)
    assert row["device"] == "gate1"
    first, device, plate, last = row["topic"].split("/")
    assert (first, device, last) == ("park", "gate1", "up")
    assert plate.startswith("p-")
    assert len(plate) == 22


def test_a_station_lives_in_one_partition() -> None:
    """Two devices of one station go together; without a station the device decides."""
    routes = (RouteSettings(name="native", topic="qt/{network}/{device}/up"),)
    stations = {"a": "s1", "b": "s1"}
    core = make(partitions=16)
    core.configure(RouteTable(routes), "c8", lambda _, device: stations.get(device))
    where = {}
    for device in ("a", "b", "c", "d"):
        receive(core, b"x", topic=f"qt/air/{device}/up".encode())
        flush = core.take(NOW)
        assert flush is not None
        (where[device],) = flush.frames
        assert decode(flush.frames[where[device]]).header["catalogue"] == "c8"
        core.flushed(flush)
    assert where["a"] == where["b"]
    assert len(set(where.values())) > 1


# ---------------------------------------------------------------------------------------------------- hearing


def test_hearing_begins_when_the_backlog_is_durable() -> None:
    """The marker that comes back says so, once its flush is kept; it never stands in raw."""
    core = make()
    core.connected(NOW, session_present=True)
    topic, payload = core.marker()
    receive(core, b"backlog", 1)
    receive(core, payload, 2, topic=topic.encode())
    assert core.hearing_since("native") is None
    flush = core.take(NOW)
    assert [r["payload"] for r in rows_of(flush)] == [b"backlog"]
    assert flush is not None
    assert core.flushed(flush) == [1, 2]
    assert core.hearing_since("native") == NOW
    assert core.hearing_since("nobody") is None
    core.disconnected()
    assert core.hearing_since("native") is None


def test_a_marker_of_an_earlier_connection_says_nothing() -> None:
    """It waited in the session's queue: acknowledged, dropped, not believed."""
    core = make()
    core.connected(NOW, session_present=True)
    topic, old = core.marker()
    core.connected(NOW + 1, session_present=True)
    receive(core, old, 5, topic=topic.encode())
    flush = core.take(NOW)
    assert flush is not None
    assert flush.frames == {}
    assert core.flushed(flush) == [5]
    assert core.hearing_since("native") is None


def test_the_marker_is_nobody_elses_even_when_a_route_would_match() -> None:
    """A route that takes everything does not get the marker."""
    core = make(routes=(RouteSettings(name="all", topic="{network}/{device}/{_*}"),))
    core.connected(NOW, session_present=True)
    topic, payload = core.marker()
    receive(core, payload, 1, topic=topic.encode())
    flush = core.take(NOW)
    assert flush is not None
    assert flush.frames == {}


def test_a_refused_filter_is_deaf() -> None:
    """A route whose subscription the broker refused hears nothing; the others do."""
    core = make(
        routes=(
            RouteSettings(name="a", topic="a/{device}", network="n"),
            RouteSettings(name="b", topic="b/{device}", network="n"),
        )
    )
    core.connected(NOW, session_present=False)
    core.subscriptions_refused(["a/+"])
    topic, payload = core.marker()
    receive(core, payload, 1, topic=topic.encode())
    flush = core.take(NOW)
    assert flush is not None
    core.flushed(flush)
    assert (core.hearing_since("a"), core.hearing_since("b")) == (None, NOW)


def test_without_a_marker_a_pause_will_do() -> None:
    """Refused: after 2 s without a message. Swallowed: that is noticed after 10 s. Never idle: after 5 min."""
    refused = make()
    refused.connected(NOW, session_present=False)
    assert not refused.poll(NOW + MARKER_IDLE_US)
    refused.marker_refused()
    assert not refused.poll(NOW + MARKER_IDLE_US - 1)
    assert refused.poll(NOW + MARKER_IDLE_US)
    assert not refused.poll(NOW + MARKER_IDLE_US)
    assert refused.hearing_since("native") == NOW
    swallowed = make()
    swallowed.connected(NOW, session_present=False)
    assert not swallowed.poll(NOW + MARKER_WAIT_US - 1)
    assert swallowed.poll(NOW + MARKER_WAIT_US)
    busy = make()
    busy.connected(NOW, session_present=False)
    busy.subscriptions_refused([topic for topic, _ in busy.subscriptions()])
    for second in range(1, 301):
        receive(busy, b"x", now_us=NOW + second * 1_000_000)
        flush = busy.take(NOW)
        assert flush is not None
        busy.flushed(flush)
        assert busy.poll(NOW + second * 1_000_000) == (second * 1_000_000 >= MARKER_GIVE_UP_US)


def test_invented_topics_do_not_grow_memory() -> None:
    """The memory of topics is bounded; rows stay right when it starts anew."""
    core = make()
    for i in range(140):
        core.receive_many([(0x30, b"qt/air/d%d/up" % (i * 500 + k), 0, None, b"x") for k in range(500)], NOW)
        while flush := core.take(NOW):
            assert all(r["network"] == "air" for r in rows_of(flush)[:1])
            core.flushed(flush)
    assert len(core._sources.known) <= 65_536


def test_a_marker_that_became_durable_too_late_says_nothing() -> None:
    """It came back on the earlier connection; what the broker queued since then is not known to be here."""
    core = make()
    core.connected(NOW, session_present=False)
    topic, payload = core.marker()
    receive(core, payload, 1, topic=topic.encode())
    flush = core.take(NOW)
    assert flush is not None
    core.connected(NOW + 1, session_present=True)
    assert core.flushed(flush) == []
    assert core.hearing_since("native") is None
