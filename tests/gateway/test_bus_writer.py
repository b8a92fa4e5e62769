"""The way from core to bus: only what was refused is appended again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ingest.bus_writer import LONGEST_PAUSE_S, BusWriter
from ingest.core import GatewayCore
from ingest.routes import RouteTable
from qingtu.bus.sqlite import SqliteBus
from qingtu.errors import RetryLater
from qingtu.records import RAW, decode_header
from qingtu.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qingtu.contracts import Ticket

NOW = 1_795_000_000_000_000


class HalfBus(SqliteBus):
    """The real bus, refusing some partitions: at the call, or later through the ticket, as the contract allows."""

    refuse: frozenset[int] = frozenset()
    late = False

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:  # type: ignore[override]
        if partition in self.refuse:
            if self.late:
                return _Refused()
            raise RetryLater("full", retry_after_s=1.0)
        return super().append(stream, partition, frames)


class _Refused:
    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> list[int]:
        raise RetryLater(f"full {timeout_s}"[:4], retry_after_s=1.0)


class Counts:
    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        key = name + "".join(labels.values())
        self.of[key] = self.of.get(key, 0) + amount


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[HalfBus]:
    bus = HalfBus(tmp_path, partitions=4)
    yield bus
    bus.close()


def make(bus: HalfBus, meter: Any = None) -> tuple[GatewayCore, BusWriter]:
    settings = Settings()
    core = GatewayCore(RouteTable(settings.routes), settings.mqtt, gateway="g", partitions=4, key=b"k")
    core.connected(1, session_present=False)
    for i in range(40):
        core.receive_many([(0x32, b"qt/air/d%d/up" % i, i + 1, None, b"x")], NOW)
    return core, BusWriter(core, bus, meter)


def wait(writer: BusWriter, now_s: float) -> list[int]:
    """Step until the bus has decided; its writer is a thread."""
    ids = writer.step(NOW + 10**6, now_s)
    while writer.busy:
        ids += writer.step(NOW + 10**6, now_s)
    return ids


def counted(bus: HalfBus) -> int:
    return sum(n for p in range(4) for r in bus.read(RAW, p, 0) for _, _, n in decode_header(r.data)["counts"])


@pytest.mark.parametrize("late", [False, True])
def test_only_the_refused_partition_comes_again(bus: HalfBus, late: bool) -> None:
    """Two of four partitions refuse: nothing is acknowledged, and afterwards no message stands twice."""
    bus.refuse, bus.late = frozenset({1, 3}), late
    core, writer = make(bus)
    assert wait(writer, 100.0) == []
    assert writer.refusal == "full"
    assert 0 < counted(bus) < 40
    assert writer.step(NOW + 10**6, writer.retry_at - 0.001) == []
    assert not writer.busy
    bus.refuse = frozenset()
    assert wait(writer, writer.retry_at) == list(range(1, 41))
    assert counted(bus) == 40
    assert not writer.refusal
    assert core.rows == 0


def test_pauses_grow_to_a_bound(bus: HalfBus) -> None:
    """1 s, 2 s, 4 s … 10 s, each with jitter."""
    bus.refuse = frozenset(range(4))
    _, writer = make(bus)
    now, pauses = 100.0, []
    for _ in range(8):
        wait(writer, now)
        pauses.append(writer.retry_at - now)
        now = writer.retry_at
    assert 0.7 <= pauses[0] <= 1.3
    assert 1.4 <= pauses[1] <= 2.6
    assert all(0.7 * LONGEST_PAUSE_S <= p <= 1.3 * LONGEST_PAUSE_S for p in pauses[4:])


@pytest.mark.parametrize("at", [0, 2])
def test_a_fault_while_appending_loses_nothing(bus: HalfBus, at: int) -> None:
    """One append of four raises what nobody expected: it is raised on, the others count, the rest comes again."""
    core, writer = make(bus)
    real, calls = bus.append, iter(range(100))

    def append(stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:
        if next(calls) == at:
            raise KeyError("fault")
        return real(stream, partition, frames)

    bus.append = append  # type: ignore[method-assign]
    with pytest.raises(KeyError, match="fault"):
        wait(writer, 0.0)
    assert 0 < counted(bus) < 40
    assert core.rows == 40
    assert wait(writer, writer.retry_at) == list(range(1, 41))
    assert counted(bus) == 40


def test_a_fault_of_the_bus_leaves_the_flush_to_be_given_again(bus: HalfBus) -> None:
    """Whatever else a ticket raises is passed on; nothing is lost or acknowledged."""

    class Broken(_Refused):
        def result(self, timeout_s: float | None = None) -> list[int]:
            raise OSError(f"fault {timeout_s}")

    core, writer = make(bus)
    real, bus.append = bus.append, lambda *_: Broken()  # type: ignore[method-assign]
    with pytest.raises(OSError, match="fault"):
        writer.step(NOW + 10**6, 0.0)
    bus.append = real  # type: ignore[method-assign]
    assert core.rows == 40
    assert wait(writer, writer.retry_at) == list(range(1, 41))
    assert counted(bus) == 40


def test_what_it_counts(bus: HalfBus) -> None:
    """Messages, refusals by reason, flushes."""
    meter = Counts()
    core, writer = make(bus, meter)
    core.receive_many([(0x32, b"qt/air/d1/up", 41, None, b"")], NOW)
    wait(writer, 0.0)
    assert meter.of["gateway_messages_total"] == 41
    assert meter.of["gateway_refused_totalempty_payload"] == 1
    assert meter.of["gateway_flushes_total"] == 1
