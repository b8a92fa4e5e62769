"""The suite that every bus must pass. A test module subclasses it and gives a factory.

::

    class TestSqliteBus(BusSuite):
        @pytest.fixture
        def open_bus(self, tmp_path): ...   # a function that opens the same bus again and again

``open_bus(partitions=…)`` opens the bus; what was opened before is closed by the test. The fixture closes what is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qingtu.contracts import Bus, StateDelta
from qingtu.records import ALERTS, PROCESSED, RAW

OpenBus = Callable[..., Bus]


def frames(*texts: str) -> list[bytes]:
    """Frames are bytes to a bus."""
    return [text.encode() for text in texts]


def data(bus: Bus, stream: str = RAW, partition: int = 0, start: int = 0, limit: int = 10_000) -> list[bytes]:
    """Everything that can be read from an offset on."""
    return [record.data for record in bus.read(stream, partition, start, limit)]


class BusSuite:
    """What :class:`qingtu.contracts.Bus` promises."""

    @pytest.fixture
    def open_bus(self) -> OpenBus:
        """Return a function that opens the bus under test; overridden by each implementation."""
        raise NotImplementedError

    def test_an_empty_bus(self, open_bus: OpenBus) -> None:
        """No frame, no state; ends and starts at 0."""
        bus = open_bus()
        assert (data(bus), bus.start(RAW, 0), bus.end(RAW, 0)) == ([], 0, 0)
        assert bus.load_state("g", 0) is None
        assert bus.assigned("g", RAW) == frozenset(range(bus.partitions))

    def test_what_was_acknowledged_is_there_after_opening_again(self, open_bus: OpenBus) -> None:
        """Frames and offsets of every stream and partition survive, and go on."""
        bus = open_bus(partitions=2)
        for stream in (RAW, PROCESSED):
            for partition in (0, 1):
                bus.append(stream, partition, frames(f"{stream}{partition}", "b")).result()
        ends = [bus.end(stream, partition) for stream in (RAW, PROCESSED) for partition in (0, 1)]
        bus.close()
        bus = open_bus(partitions=2)
        assert [bus.end(stream, partition) for stream in (RAW, PROCESSED) for partition in (0, 1)] == ends
        for stream in (RAW, PROCESSED):
            for partition in (0, 1):
                (offset,) = bus.append(stream, partition, frames("c")).result()
                assert data(bus, stream, partition) == frames(f"{stream}{partition}", "b", "c")
                assert bus.end(stream, partition) == offset + 1

    def test_offsets_grow_and_name_their_frames(self, open_bus: OpenBus) -> None:
        """The ticket gives the offsets in the order of the frames; reading from one begins with it."""
        bus = open_bus()
        first = bus.append(RAW, 0, frames("a", "b", "c")).result()
        second = bus.append(RAW, 0, frames("d")).result()
        offsets = first + second
        assert offsets == sorted(set(offsets))
        assert len(offsets) == 4
        for offset, text in zip(offsets, "abcd", strict=True):
            assert bus.read(RAW, 0, offset, 1)[0] == (offset, text.encode())
        assert [record.offset for record in bus.read(RAW, 0, 0, 10)] == offsets
        assert bus.read(RAW, 0, offsets[-1] + 1) == []

    def test_read_gives_no_more_than_asked(self, open_bus: OpenBus) -> None:
        """From an offset on, in order."""
        bus = open_bus()
        offsets = bus.append(RAW, 0, frames(*"abcdef")).result()
        assert data(bus, start=offsets[2], limit=3) == frames("c", "d", "e")

    def test_frames_of_any_bytes_and_size(self, open_bus: OpenBus) -> None:
        """Zeros, nothing, and megabytes."""
        bus = open_bus()
        sent = [b"", b"\0\0", bytes(range(256)) * 4096, b"\xff" * 3_000_000]
        bus.append(RAW, 0, sent).result()
        bus.close()
        assert data(open_bus()) == sent

    def test_an_append_of_nothing(self, open_bus: OpenBus) -> None:
        """Is kept at once, with no offsets."""
        bus = open_bus()
        assert bus.append(RAW, 0, []).result(10) == []
        assert bus.end(RAW, 0) == 0

    def test_streams_and_partitions_do_not_mix(self, open_bus: OpenBus) -> None:
        """Each has its own offsets."""
        bus = open_bus(partitions=3)
        for stream in (RAW, PROCESSED, ALERTS):
            for partition in range(3):
                bus.append(stream, partition, frames(f"{stream}{partition}")).result()
        for stream in (RAW, PROCESSED, ALERTS):
            assert [data(bus, stream, p) for p in range(3)] == [frames(f"{stream}{p}") for p in range(3)]

    def test_many_threads_append_and_each_keeps_its_order(self, open_bus: OpenBus) -> None:
        """Nothing is lost or doubled; calls of one thread stand in order, frames of one call together."""
        bus = open_bus()
        problems: list[BaseException] = []

        def work(name: int) -> None:
            try:
                tickets = [bus.append(RAW, 0, frames(f"{name}:{n}:0", f"{name}:{n}:1")) for n in range(40)]
                offsets = [ticket.result(60) for ticket in tickets]
                assert all(len(found) == 2 for found in offsets)
                assert offsets == sorted(offsets)
                assert all(ticket.done() for ticket in tickets)
            except BaseException as problem:  # noqa: BLE001 - told by the main thread
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        found = [tuple(map(int, frame.split(b":"))) for frame in data(bus)]
        assert len(found) == len(set(found)) == 8 * 40 * 2
        for name in range(8):
            assert [f[1:] for f in found if f[0] == name] == [(n, k) for n in range(40) for k in range(2)]
        assert all(found[i][:2] == found[i + 1][:2] for i in range(0, len(found), 2))

    def test_tail_and_disk_give_the_same(self, open_bus: OpenBus) -> None:
        """What was just written and what is read after opening again agree from every offset."""
        bus = open_bus()
        offsets = bus.append(RAW, 0, frames(*map(str, range(30)))).result()
        fresh = [bus.read(RAW, 0, offset, 7) for offset in offsets]
        bus.close()
        bus = open_bus()
        assert [bus.read(RAW, 0, offset, 7) for offset in offsets] == fresh
        more = bus.append(RAW, 0, frames("30")).result()
        assert [f.decode() for f in data(bus)] == [str(n) for n in range(31)]
        assert data(bus, start=more[0]) == [b"30"]

    def test_trim_forgets_the_oldest(self, open_bus: OpenBus) -> None:
        """Start moves, the rest stays readable and the end known, also after opening again."""
        bus = open_bus()
        offsets = bus.append(RAW, 0, frames(*"abcde")).result()
        bus.trim(RAW, 0, offsets[3])
        assert bus.start(RAW, 0) == offsets[3]
        assert data(bus) == frames("d", "e")
        bus.trim(RAW, 0, offsets[1])  # behind: nothing comes back
        assert bus.start(RAW, 0) == offsets[3]
        bus.close()
        bus = open_bus()
        assert (bus.start(RAW, 0), data(bus)) == (offsets[3], frames("d", "e"))

    def test_trimming_everything_keeps_the_end(self, open_bus: OpenBus) -> None:
        """Offsets are never used again, whatever was trimmed."""
        bus = open_bus()
        offsets = bus.append(RAW, 0, frames(*"abc")).result()
        bus.trim(RAW, 0, offsets[-1] + 100)
        bus.close()
        bus = open_bus()
        assert bus.append(RAW, 0, frames("d")).result()[0] > offsets[-1]
        assert data(bus)[-1] == b"d"

    def test_state_is_what_was_saved_last(self, open_bus: OpenBus) -> None:
        """Parts not named stay, dropped ones go, others are written over; groups and partitions are apart."""
        bus = open_bus(partitions=2)
        bus.save_state("g", 0, StateDelta(5, {"a": b"1", "b": b"2"}))
        bus.save_state("g", 1, StateDelta(7, {"a": b"other"}))
        bus.save_state("h", 0, StateDelta(8, {}))
        bus.save_state("g", 0, StateDelta(6, {"b": b"3", "c": b""}, ["a", "never"]))
        for _ in range(2):
            found = bus.load_state("g", 0)
            assert found is not None
            assert (found.next_offset, dict(found.parts)) == (6, {"b": b"3", "c": b""})
            other = bus.load_state("g", 1)
            assert other is not None
            assert (other.next_offset, dict(other.parts)) == (7, {"a": b"other"})
            empty = bus.load_state("h", 0)
            assert empty is not None
            assert (empty.next_offset, dict(empty.parts)) == (8, {})
            bus.close()
            bus = open_bus(partitions=2)

    def test_large_parts(self, open_bus: OpenBus) -> None:
        """Larger than a record of most brokers."""
        bus = open_bus()
        large = bytes(range(256)) * 20_000
        bus.save_state("g", 0, StateDelta(1, {"large": large}))
        bus.close()
        found = open_bus().load_state("g", 0)
        assert found is not None
        assert found.parts["large"] == large

    def test_state_is_never_half_of_two(self, open_bus: OpenBus) -> None:
        """Whoever loads while others save gets an offset and parts that belong together."""
        bus = open_bus()
        bus.save_state("g", 0, StateDelta(0, {"a": b"0", "b": b"0"}))
        stop = threading.Event()
        torn: list[object] = []

        def look() -> None:
            while not stop.is_set():
                found = bus.load_state("g", 0)
                if found is None or {bytes(part) for part in found.parts.values()} != {b"%d" % found.next_offset}:
                    torn.append(found)

        thread = threading.Thread(target=look)
        thread.start()
        for n in range(1, 60):
            bus.save_state("g", 0, StateDelta(n, {"a": b"%d" % n, "b": b"%d" % n}))
        stop.set()
        thread.join()
        assert torn == []

    def test_wait_returns_when_something_comes(self, open_bus: OpenBus) -> None:
        """In any partition; at once when it came before the call."""
        bus = open_bus(partitions=2)
        woken = threading.Event()

        def sleep() -> None:
            bus.wait(RAW, [0, 0], 600)
            woken.set()

        thread = threading.Thread(target=sleep)
        thread.start()
        bus.append(RAW, 1, frames("a")).result()
        thread.join()
        assert woken.is_set()
        bus.wait(RAW, [0, 0], 600)  # differs already
        bus.wait(RAW, [bus.end(RAW, 0), bus.end(RAW, 1)], 0.01)  # the timeout ends it

    def test_a_ticket_can_be_asked_again(self, open_bus: OpenBus) -> None:
        """The answer stays."""
        ticket = open_bus().append(RAW, 0, frames("a"))
        assert ticket.result() == ticket.result(0)
        assert ticket.done()

    @given(st.lists(st.tuples(st.sampled_from(["append", "trim", "open"]), st.integers(0, 6)), max_size=15))
    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    def test_any_history_reads_as_a_list_would(self, open_bus: OpenBus, steps: Sequence[tuple[str, int]]) -> None:
        """Appending, trimming and opening again in any order: frames from ``start`` to ``end`` are the list's."""
        bus = open_bus()
        base = bus.end(RAW, 0)
        kept: list[tuple[int, bytes]] = [(r.offset, r.data) for r in bus.read(RAW, 0, 0, 10_000)]
        for number, (what, n) in enumerate(steps):
            if what == "append":
                sent = [b"%d/%d" % (number, k) for k in range(n)]
                kept += zip(bus.append(RAW, 0, sent).result(), sent, strict=True)
            elif what == "trim" and kept:
                before = kept[min(n, len(kept) - 1)][0]
                bus.trim(RAW, 0, before)
                kept = [record for record in kept if record[0] >= before]
            else:
                bus.close()
                bus = open_bus()
            found = [(r.offset, r.data) for r in bus.read(RAW, 0, bus.start(RAW, 0), 10_000)]
            assert found == kept
            assert bus.end(RAW, 0) == max([base, *(offset + 1 for offset, _ in kept)])
        bus.close()
