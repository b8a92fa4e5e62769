"""Duplicates: nothing is counted twice, and nothing that is new is taken for old."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.raw import SESSION
from processors.deduplicate import HASH, InFlight, Segments, _inside, _sorted, fingerprints, sender
from qingtu.clock import HOUR
from qingtu.records import Outcome
from qingtu.state import unpack
from tests.process.support import CAT, T0, command, configure, drive, message, reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORED, DUPLICATE, QUARANTINED = (int(o) for o in (Outcome.STORED, Outcome.DUPLICATE, Outcome.QUARANTINED))


def outcomes(*rows: dict[str, Any], **limits: Any) -> list[int]:
    """Outcome of each message, the same for all cuttings that are tried."""
    rows = (configure(0, CAT.version, **limits), *rows)
    found = [
        [row["outcome"] for row in drive(rows, [CAT], cuts, restores).manifest]
        for cuts, restores in (([], []), (range(1, len(rows)), range(1, len(rows))))
    ]
    assert found[0] == found[1]
    return found[0]


# ----------------------------------------------------------------------------- payloads with a time or counter


def test_same_bytes_with_an_own_time_are_a_duplicate() -> None:
    """However they come: same or other connection, with or without DUP, QoS 0 or 1."""
    row = reading("a", 0, pm25=1)
    changes: list[dict[str, Any]] = [
        {}, {"flags": 5}, {"flags": 0}, {"connection": 9}, {"packet_id": 77}, {"gateway": "h"},
    ]  # fmt: skip
    again = [row | {"received_at": T0 + n} | change for n, change in enumerate(changes)]
    assert outcomes(row, *again) == [STORED] + [DUPLICATE] * 6


def test_a_counter_is_an_identity() -> None:
    """Equal bytes with a seq are a repetition; another seq is another reading."""
    first, second = ({"seq": n, "readings": {"pm25": 1}} for n in (1, 2))
    rows = [message("a", body, n) for n, body in enumerate((first, second, first, second))]
    assert outcomes(*rows) == [STORED, STORED, DUPLICATE, DUPLICATE]


def test_other_sender_or_other_bytes_are_new() -> None:
    """The same bytes of another device are its own reading; so are the same values in other bytes."""
    body = b'{"time": 1795392000, "readings": {"pm25": 1}}'
    assert outcomes(message("a", body), message("c", body), message("a", body + b" ")) == [STORED] * 3


def test_senders_cannot_be_confused() -> None:
    """Lengths stand in front: no two senders and payloads give the same bytes."""
    assert sender("n", "ab") != sender("na", "b")
    assert sender("n", "1:a") + b"x" != sender("n", "1") + b":ax"


def test_what_was_refused_is_a_duplicate_too_and_not_rejected_again() -> None:
    """A repeated message of an unknown device stands in quarantine once."""
    row = reading("nobody", 0, pm25=1)
    result = drive([configure(0, CAT.version), row, row], [CAT])
    assert [r["outcome"] for r in result.manifest] == [QUARANTINED, DUPLICATE]
    assert len(result.rejected) == 1


def test_driven_again_skips_the_test() -> None:
    """An operator who drives a row again means it."""
    row = reading("a", 0, pm25=1)
    again = row | {"redrive_of": 5, "shift_us": 0}
    assert outcomes(row, again, again) == [STORED, STORED, STORED]


def test_a_message_kept_as_its_digest_is_compared_by_it() -> None:
    """What is not kept whole (private, unparsable) is known by its digest; DUP alone decides."""
    row = message("a", b"", flags=1, refused="unparsable_private", digest=b"1" * 32, packet_id=4, connection=1)
    other = row | {"digest": b"2" * 32, "flags": 5, "connection": 2}
    assert outcomes(row, row | {"flags": 5, "connection": 2}, other) == [QUARANTINED, DUPLICATE, QUARANTINED]


@pytest.mark.parametrize(("hours", "again"), [(1.9, DUPLICATE), (4, STORED)])
def test_horizon_is_in_time_of_receipt(hours: float, again: int) -> None:
    """Equal bytes after the horizon are new; within it they are not, whatever came in between."""
    row = message("a", {"time": T0 // 1000, "readings": {"pm25": 1}}, 0)
    between = [reading("c", h * 3600, pm25=h) for h in (0.5, 1, 1.5)]
    late = row | {"received_at": T0 + round(hours * HOUR)}
    assert outcomes(row, *between, late, dedup_horizon_h=2)[-1] == again


# ------------------------------------------------------------------------------ payloads without time or counter


def timeless(**columns: Any) -> dict[str, Any]:
    """A message whose bytes say nothing of when."""
    return message("a", {"readings": {"pm25": 7}}, **{"packet_id": 5, "connection": 1, **columns})


def test_equal_bytes_without_identity_are_new_readings() -> None:
    """A sensor that measures the same twice has measured twice."""
    assert outcomes(timeless(), timeless(packet_id=6), timeless(packet_id=5)) == [STORED] * 3


@pytest.mark.parametrize(
    ("again", "outcome"),
    [
        ({"flags": 5, "connection": 2}, DUPLICATE),
        ({"flags": 5, "connection": 0}, DUPLICATE),  # numbers are times, and our clock was set back between the two
        ({"flags": 1, "connection": 2}, STORED),  # not marked
        ({"flags": 5, "connection": 1}, STORED),  # the same connection: brokers redeliver only on another
        ({"flags": 5, "connection": 2, "packet_id": 6}, STORED),  # another message
        ({"flags": 5, "connection": 2, "gateway": "h"}, STORED),  # another session
        ({"flags": 4, "connection": 2}, STORED),  # QoS 0 is never sent again
        ({"flags": 5, "connection": 2, "device": "c"}, STORED),
    ],
)
def test_redelivery_needs_dup_packet_and_an_earlier_connection(again: dict[str, Any], outcome: int) -> None:
    """All of it together says that these are bytes which we had made durable."""
    assert outcomes(timeless(), timeless() | again) == [STORED, outcome]


def test_a_redelivery_may_come_several_times() -> None:
    """Each reconnection sends what is not acknowledged again."""
    rows = [timeless(), *(timeless(flags=5, connection=n) for n in (2, 3, 4))]
    assert outcomes(*rows) == [STORED] + [DUPLICATE] * 3


def test_a_used_again_packet_identifier_is_another_message() -> None:
    """After the identifier went to another message, the old one is no longer in flight."""
    other = message("a", {"readings": {"pm25": 8}}, packet_id=5, connection=1)
    assert outcomes(timeless(), other, timeless(flags=5, connection=2)) == [STORED] * 3


def test_sessions_of_two_gateways_do_not_disturb_each_other() -> None:
    """Packet identifiers of one gateway's session say nothing of the other's."""
    other = message("c", {"readings": {"pm25": 8}}, packet_id=5, connection=1, gateway="h")
    again = timeless(flags=5, connection=2)
    assert outcomes(timeless(), other, again, other | {"flags": 5, "connection": 3}) == [
        STORED, STORED, DUPLICATE, DUPLICATE,
    ]  # fmt: skip


def test_a_packet_identifier_is_forgotten_before_the_broker_uses_it_again() -> None:
    """60,000 messages later, DUP with equal bytes is a new message that we have not seen."""
    known = InFlight()
    mine = np.zeros(1, HASH)
    gateway = (np.zeros(1, np.int32), ["g"])

    def take(dup: bool, connection: int) -> bool:
        again = known.decide(
            np.arange(1), np.ones(1, np.bool_), np.array([dup]), np.array([5], np.int32), np.array([connection]),
            gateway, mine,
        )  # fmt: skip
        return bool(again[0])

    def others(n: int) -> None:
        none = np.zeros(0, np.int64)
        flags = np.zeros(n, np.bool_)
        known.decide(
            none, ~flags, flags, np.zeros(n, np.int32), np.zeros(n, np.int64),
            (np.zeros(n, np.int32), ["g"]), np.zeros(n, HASH),
        )  # fmt: skip

    take(dup=False, connection=1)
    others(59_998)
    assert take(dup=True, connection=2)
    others(1)
    part = known.snapshot()
    assert len(part) < 1000, "what decides nothing any more is not saved"
    known.restore(part)
    assert not take(dup=True, connection=3)


# ----------------------------------------------------------------------------------------------------- segments


def hashes(*pairs: tuple[int, int]) -> NDArray[np.void]:
    """Make hashes of (hi, lo)."""
    return np.array(list(pairs), HASH)


def decide(segments: Segments, found: NDArray[np.void], hours: float | list[float]) -> list[bool]:
    """Let segments decide, with times of receipt in hours."""
    received = np.broadcast_to(np.array(hours, np.float64) * HOUR, len(found)).astype(np.int64)
    answers: list[bool] = segments.decide(found, received).tolist()
    return answers


def test_equal_upper_halves_are_told_apart() -> None:
    """Hashes that agree in 64 bits are different messages; all of their lower halves are looked at."""
    segments = Segments(10 * HOUR, 1000)
    clash = hashes(*((7, lo) for lo in range(5)), (8, 0), (6, 9))
    assert decide(segments, clash, 1) == [False] * 7
    assert decide(segments, clash, 1) == [True] * 7
    assert decide(segments, hashes((7, 5), (7, 4), (8, 1), (2**64 - 1, 2**64 - 1)), 1) == [False, True, False, False]


def test_search_among_equal_upper_halves() -> None:
    """Wherever the right one stands among its like, it is found; one that is not there is not."""
    piece = _sorted(hashes((1, 1), (7, 3), (7, 1), (7, 2), (9, 1)))
    wanted = _sorted(hashes((7, 2), (7, 1), (7, 3), (7, 4), (10, 1)))
    assert dict(zip(wanted["lo"].tolist(), _inside(piece, wanted).tolist(), strict=True))[4] is False
    assert _inside(piece, wanted).tolist() == [lo in {1, 2, 3} and hi == 7 for hi, lo in wanted.tolist()]


def test_the_cap_shortens_the_horizon_by_whole_hours() -> None:
    """A new message that finds no room makes the oldest hour go; the newest hour always stays."""
    segments = Segments(100 * HOUR, 4)
    assert decide(segments, hashes((1, 0), (2, 0)), 1) == [False, False]
    assert decide(segments, hashes((3, 0), (4, 0)), 2) == [False, False]
    assert segments.oldest_us() == HOUR
    assert decide(segments, hashes((5, 0)), 3) == [False]
    assert (segments.oldest_us(), len(segments)) == (2 * HOUR, 3)
    assert decide(segments, hashes((1, 0), (3, 0)), 3) == [False, True]
    assert decide(segments, hashes(*((n, 1) for n in range(9))), 3) == [False] * 9
    assert decide(segments, hashes((8, 1), (0, 1)), 3) == [True, True]
    assert segments.oldest_us() == 3 * HOUR


def test_time_that_runs_backwards_is_taken_as_standing() -> None:
    """A clock that is set back neither revives what is beyond the horizon nor forgets what is within."""
    segments = Segments(2 * HOUR, 1000)
    assert decide(segments, hashes((1, 0)), 10) == [False]
    assert decide(segments, hashes((2, 0)), 13) == [False]
    assert decide(segments, hashes((1, 0), (2, 0)), [10, 5]) == [False, True]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_segments_are_what_a_plain_set_would_be(data: st.DataObject) -> None:
    """Against a dictionary that goes message by message: cutting, restoring, expiry and cap give the same."""
    horizon, maximum = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([3, 8, 1000]))
    piece = data.draw(st.sampled_from([1, 3, 1000]))
    steps = data.draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 0.3, 1, 2.5]), st.integers(0, 12)), max_size=60))
    hours = np.cumsum([step for step, _ in steps]) if steps else np.zeros(0)
    keys = hashes(*((key // 3, key % 3) for _, key in steps)) if steps else np.zeros(0, HASH)
    expected, known, order = [], dict[tuple[int, int], int](), list[int]()
    for hour, key in zip(hours, map(tuple, keys.tolist()), strict=True):
        now = int(hour)
        known = {k: h for k, h in known.items() if h >= now - horizon}
        while key not in known and len(known) >= maximum and min(known.values()) < now:
            known = {k: h for k, h in known.items() if h > min(known.values())}
        expected.append(key in known)
        known.setdefault(key, now)
        order.append(now)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(steps)), max_size=6)))
    segments, found = Segments(horizon * HOUR, maximum, piece), list[bool]()
    saved: dict[str, bytes] = {}
    for start, stop in zip([0, *cuts], [*cuts, len(steps)], strict=True):
        found += decide(segments, keys[start:stop], hours[start:stop].tolist())
        put, drop = segments.snapshot()
        assert not set(put) & set(drop)
        saved = {name: part for name, part in (saved | put).items() if name not in drop}
        if data.draw(st.booleans()):
            now_us, segments = segments.now_us, Segments(horizon * HOUR, maximum, piece)
            segments.restore(saved, now_us)
        assert len(segments) == len(known) or stop < len(steps)
    assert found == expected


def test_many_hashes_in_many_frames_are_all_known() -> None:
    """Pieces merge and the filter grows without losing one; hours that are over become few pieces."""
    segments = Segments(100 * HOUR, 10**7)
    rng = np.random.default_rng(1)
    whole = np.frombuffer(rng.bytes(16 * 150_000), HASH)
    for n, part in enumerate(np.array_split(whole, 300)):
        assert not segments.decide(part, np.full(len(part), n * HOUR // 60)).any()
    assert segments.decide(whole, np.full(len(whole), 5 * HOUR)).all()
    fresh = np.frombuffer(rng.bytes(16 * 10_000), HASH)
    assert not segments.decide(fresh, np.full(len(fresh), 6 * HOUR)).any()
    put, drop = segments.snapshot()
    pieces = [name.split("/")[1] for name in put]
    assert not drop
    assert {hour: pieces.count(hour) for hour in ("0", "1", "2", "3")} == {"0": 1, "1": 1, "2": 1, "3": 1}


def test_the_pieces_of_a_busy_hour_stay_small_and_few() -> None:
    """What one merge touches, and one part of the state holds, does not grow with the hour; each hash is known."""
    segments = Segments(100 * HOUR, 10**7, piece=1000)
    whole = np.frombuffer(np.random.default_rng(1).bytes(16 * 20_000), HASH)
    saved: dict[str, bytes] = {}
    for hour, part in zip([1] * 200 + [2], [*np.array_split(whole[:-100], 200), whole[-100:]], strict=True):
        assert not segments.decide(part, np.full(len(part), hour * HOUR)).any()
        put, drop = segments.snapshot()
        saved = {name: data for name, data in (saved | put).items() if name not in drop}
    sizes = [len(unpack(data)[0]["hashes"]) for data in saved.values()]
    assert sum(sizes) == len(whole)
    assert max(sizes) <= 1000
    assert len(sizes) <= 2 * len(whole) // 1000
    assert segments.decide(whole, np.full(len(whole), 3 * HOUR)).all()


def test_a_fingerprint_is_of_sender_and_payload() -> None:
    """128 bits that stay the same in every version: saved state depends on them."""
    found = fingerprints([sender("n", "a")], [b"payload"])
    assert found.dtype == HASH
    assert found.tobytes().hex() == "f53412988c564fadb0701751bb2d8472"


@pytest.mark.parametrize(("gateway", "outcome"), [("g", STORED), ("h", DUPLICATE)])
def test_identifiers_of_a_new_session_say_nothing_about_the_old_one(gateway: str, outcome: int) -> None:
    """The broker forgot the session: what comes again under an old identifier is another message. Gateways differ."""
    told = command(0, SESSION, connection=2) | {"gateway": gateway}
    first = timeless(gateway="g")
    assert outcomes(first, told, timeless(gateway="g", flags=5, connection=3)) == [STORED, outcome]
