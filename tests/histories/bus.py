"""A bus in memory that many simulated processes share, with the failures of a real one.

:class:`SimBus` is the server: what it holds is durable. Each simulated process has a :class:`BusClient` on it, which
fulfils :class:`qingtu.contracts.Bus` (it passes tests/suites/bus.py) and dies with its process. State is kept as
docs/decisions say of the Kafka bus: a snapshot belongs to the epoch of its writer and is made of that writer's own
parts alone; whoever loads gets the complete snapshot with the highest offset, at equal offsets that of the newest
epoch. So a process that was thought dead may go on writing without harm.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from qingtu.contracts import Record, SavedState, StateDelta
from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qingtu.contracts import Bus


class Crash(BaseException):
    """The simulated process died here. Not an ``Exception``, so that no code under test survives it."""


class Trouble(Protocol):
    """Decides what goes wrong; see :class:`tests.histories.faults.Faults`."""

    def refuses(self, what: str, stream: str) -> str | None:
        """Say why the bus refuses an ``append``, ``read`` or ``state``; None when it does not."""
        ...

    def gap(self) -> int:
        """Return by how much the next offset is greater than it need be."""
        ...


class Calm:
    """Nothing goes wrong."""

    def refuses(self, what: str, stream: str) -> str | None:
        """Refuse nothing."""
        del what, stream
        return None

    def gap(self) -> int:
        """Leave no gap."""
        return 0


@dataclass(slots=True)
class Stream:
    """The frames of one partition: those from ``held`` on can be read, all stay for the judge."""

    offsets: list[int] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    held: int = 0
    end: int = 0


class SimTicket:
    """See :class:`qingtu.contracts.Ticket`."""

    def __init__(self, bus: SimBus, owner: BusClient, stream: str, partition: int, frames: Sequence[bytes]) -> None:
        self._bus = bus
        self.owner = owner
        self.stream, self.partition, self.frames = stream, partition, list(frames)
        self.offsets: list[int] | None = None
        self.refusal: str | None = None

    def done(self) -> bool:
        """Return whether the bus has decided."""
        return self.offsets is not None or self.refusal is not None

    def result(self, timeout_s: float | None = None) -> list[int]:
        """Return the offsets; whoever waits makes the bus decide."""
        if not self.done():
            if timeout_s == 0:
                raise TimeoutError("the bus has not decided yet")
            self._bus.decide()
        if self.offsets is None:
            raise RetryLater(self.refusal or "refused")
        return self.offsets


class SimBus:
    """The durable side.

    Args:
        partitions: of every stream.
        trouble: what goes wrong.
        slow: appends wait until :meth:`decide`, or until somebody waits for one.

    Attributes:
        streams: by (stream, partition).
        on_durable: called with (stream, partition, offset, frame) when a frame has become durable.
        assignment: (group, partition) → the client that may work on it; absent: all may.
    """

    def __init__(self, partitions: int = 1, trouble: Trouble | None = None, *, slow: bool = False) -> None:
        self.partitions = partitions
        self.trouble: Trouble = trouble or Calm()
        self.streams: dict[tuple[str, int], Stream] = {}
        self.on_durable: Callable[[str, int, int, bytes], None] | None = None
        self.assignment: dict[int, str] = {}
        self.news = threading.Condition(threading.RLock())
        self._slow = slow
        self._pending: list[SimTicket] = []
        self._states: dict[tuple[str, int], dict[int, SavedState]] = {}
        self._epoch = 0

    def client(self, name: str = "") -> BusClient:
        """Let a process on the bus; it writes state under an epoch of its own."""
        self._epoch += 1
        return BusClient(self, name, self._epoch)

    def of(self, stream: str, partition: int) -> Stream:
        """Return one partition of a stream."""
        return self.streams.setdefault((stream, partition), Stream())

    def put(self, ticket: SimTicket) -> None:
        """Take an append; it is decided at once unless the bus is slow."""
        with self.news:
            self._pending.append(ticket)
            if not self._slow:
                self.decide()

    def orphan(self, client: BusClient, *, lost: bool) -> None:
        """A process died: what it had sent arrives all the same, or none of it does."""
        if lost:
            self._pending = [ticket for ticket in self._pending if ticket.owner is not client]

    def decide(self) -> None:
        """Make each append that waits durable, or refuse it whole."""
        with self.news:
            pending, self._pending = self._pending, []
            refused: dict[tuple[str, int], str | None] = {}
            for ticket in pending:
                # What was appended later must not overtake what was refused.
                at = (ticket.stream, ticket.partition)
                ticket.refusal = refused.get(at) or self.trouble.refuses("append", ticket.stream)
                refused[at] = ticket.refusal
                if ticket.refusal is None:
                    ticket.offsets = self._keep(ticket)
            self.news.notify_all()

    def _keep(self, ticket: SimTicket) -> list[int]:
        into, out = self.of(ticket.stream, ticket.partition), []
        for frame in ticket.frames:
            offset = into.end + self.trouble.gap()
            into.offsets.append(offset)
            into.frames.append(frame)
            into.end = offset + 1
            out.append(offset)
            if self.on_durable is not None:
                self.on_durable(ticket.stream, ticket.partition, offset, frame)
        return out

    def best(self, group: str, partition: int) -> SavedState | None:
        """Return the complete snapshot with the highest offset, of the newest epoch among equals."""
        found = self._states.get((group, partition))
        if not found:
            return None
        return found[max(found, key=lambda epoch: (found[epoch].next_offset, epoch))]

    def save(self, group: str, partition: int, epoch: int, state: SavedState) -> None:
        """Keep a writer's snapshot; what can never be the best again goes."""
        states = self._states.setdefault((group, partition), {})
        states[epoch] = state
        best = self.best(group, partition)
        for old in [e for e, s in states.items() if s is not best and e != epoch]:
            del states[old]


class BusClient:
    """One process's view of the bus. See :class:`qingtu.contracts.Bus`.

    Attributes:
        dead: the process is gone; nothing it still calls has an effect.
        crash_in: so many half operations from now the process dies: before one, or right after one. None: never.
    """

    def __init__(self, bus: SimBus, name: str, epoch: int) -> None:
        self._bus = bus
        self._epoch = epoch
        self._own: dict[tuple[str, int], dict[str, bytes]] = {}
        self._fetched: dict[tuple[str, int], int] = {}
        self.name = name
        self.dead = False
        self.crash_in: int | None = None

    @property
    def partitions(self) -> int:
        """How many partitions each stream has."""
        return self._bus.partitions

    def point(self) -> None:
        """Die here, if this is where the history wants it."""
        if self.dead:
            raise Crash(self.name)
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.dead = True
                raise Crash(self.name)

    def assigned(self, group: str, stream: str) -> frozenset[int]:
        """Return the partitions that the bus gave to this process."""
        del group, stream
        given = self._bus.assignment
        return frozenset(p for p in range(self.partitions) if given.get(p, self.name) == self.name)

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> SimTicket:
        """Append frames, all or none."""
        self.point()
        ticket = SimTicket(self._bus, self, stream, partition, frames)
        self._bus.put(ticket)
        self.point()
        return ticket

    def read(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return frames from ``start`` on.

        Raises:
            RetryLater: the bus is away.
        """
        self._refused("read", stream)
        with self._bus.news:
            held = self._bus.of(stream, partition)
            first = bisect_left(held.offsets, max(start, held.held))
            some = slice(first, first + max_frames)
            found = [Record(*pair) for pair in zip(held.offsets[some], held.frames[some], strict=True)]
        if found:
            self._fetched[stream, partition] = max(found[-1].offset, self._fetched.get((stream, partition), 0))
        return found

    def at_hand(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return of the same what this process has read before, also while the bus is away."""
        with self._bus.news:
            held, last = self._bus.of(stream, partition), self._fetched.get((stream, partition), -1)
            first = bisect_left(held.offsets, max(start, held.held))
            some = slice(first, first + max_frames)
            pairs = zip(held.offsets[some], held.frames[some], strict=True)
            return [Record(*pair) for pair in pairs if pair[0] <= last]

    def end(self, stream: str, partition: int) -> int:
        """Return the offset that the next frame will at least have."""
        return self._bus.of(stream, partition).end

    def start(self, stream: str, partition: int) -> int:
        """Return the oldest offset still held."""
        with self._bus.news:
            held = self._bus.of(stream, partition)
            first = bisect_left(held.offsets, held.held)
            return held.offsets[first] if first < len(held.offsets) else held.end

    def wait(self, stream: str, seen_end: Sequence[int], timeout_s: float) -> None:
        """Sleep until something was appended. No history calls it: time in a history is simulated."""
        with self._bus.news:
            self._bus.news.wait_for(
                lambda: any(self.end(stream, p) != seen_end[p] for p in range(self.partitions)), timeout_s
            )

    def load_state(self, group: str, partition: int) -> SavedState | None:
        """Return the best snapshot; what is saved from here on builds on it."""
        self._refused("read", group)
        with self._bus.news:
            found = self._bus.best(group, partition)
        self._own[group, partition] = dict(found.parts) if found else {}
        return found

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Save a snapshot under this process's epoch: its own parts, changed by ``delta``."""
        self.point()
        self._refused("state", group)
        with self._bus.news:
            if (group, partition) not in self._own:
                found = self._bus.best(group, partition)
                self._own[group, partition] = dict(found.parts) if found else {}
            own = self._own[group, partition]
            for name in delta.drop:
                own.pop(name, None)
            own.update(delta.put)
            self._bus.save(group, partition, self._epoch, SavedState(delta.next_offset, dict(own)))
        self.point()

    def trim(self, stream: str, partition: int, before: int) -> None:
        """Let frames below ``before`` be read no more."""
        with self._bus.news:
            held = self._bus.of(stream, partition)
            held.held = max(held.held, min(before, held.end))

    def close(self) -> None:
        """Nothing to let go of."""

    def _refused(self, what: str, stream: str) -> None:
        if self.dead:
            raise Crash(self.name)
        reason = self._bus.trouble.refuses(what, stream)
        if reason is not None:
            raise RetryLater(reason)


if TYPE_CHECKING:
    _check: Callable[[BusClient], Bus] = lambda client: client  # noqa: E731 - mypy proves the contract
