"""Planted bugs, to prove that histories find what they are there for. Each patches one behaviour at a seam.

``run.py --mutants`` looks for the first seed that finds each; docs/histories.md has the list and what came out.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import ingest.raw
import processors.elsewhere
import processors.neighbour
import processors.passes
import processors.process
import processors.quality.run
import qingtu.ledger
from ingest.bus_writer import BusWriter
from ingest.core import Flush, GatewayCore
from processors.aggregates import neighbours
from processors.alerts.silence import Silence
from processors.deduplicate import InFlight, Segments
from processors.output import Output
from processors.passes import Pass
from processors.plan import Plan
from qingtu.clock import HOUR
from qingtu.contracts import SavedState, StateDelta
from qingtu.ledger import Ledger
from qingtu.records import Kind, Outcome, codes_of, times_of
from qingtu.stage import StageLoop
from qingtu.store import books
from sinks.follow import Follower
from sinks.primary import StoreStage
from tests.histories import store as model
from tests.histories.bus import BusClient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.contracts import Outputs
    from qingtu.records import Frame


_OUTCOMES: Final = ("stored", "duplicate", "quarantined", "ignored")


@contextmanager
def swapped(owner: Any, name: str, new: Any) -> Iterator[None]:
    """Let ``owner.name`` be something else for a while."""
    old = owner.__dict__[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug.

    Attributes:
        what: it does, in words.
        patches: makes (owner, name, replacement) anew for each seed.
        kinds: of faults that it is looked for with; None: those of each seed.
    """

    what: str
    patches: Callable[[], list[tuple[Any, str, Any]]]
    kinds: tuple[str, ...] | None = None

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Let the bug be there for a while."""
        with ExitStack() as stack:
            for owner, name, new in self.patches():
                stack.enter_context(swapped(owner, name, new))
            yield


# ----------------------------------------------------------------------------------------------------- gateway


def _puback_early() -> list[tuple[Any, str, Any]]:
    def step(self: Any, now_us: int, now_s: float, *, force: bool = False) -> list[int]:
        if not (force or self._core.flush_due(now_us)):
            return []
        self._begin(now_us, now_s)
        flush, self._flush = self._flush, None
        return [] if flush is None else self._core.flushed(flush)

    return [(BusWriter, "step", step)]


def _stale_puback() -> list[tuple[Any, str, Any]]:
    flushed = GatewayCore.flushed

    def all_of_them(self: GatewayCore, flush: Flush) -> list[int]:
        flushed(self, flush)
        return [i for _, ids in flush.acks for i in ids]

    return [(GatewayCore, "flushed", all_of_them)]


def _torn_as_whole() -> list[tuple[Any, str, Any]]:
    settle = BusWriter._settle

    def torn(self: Any, flush: Flush, now_s: float) -> list[int]:
        if any(ticket.offsets is not None for ticket in self._tickets.values()):
            self._flush = None
            return self._core.flushed(flush)  # type: ignore[no-any-return]
        return settle(self, flush, now_s)

    return [(BusWriter, "_settle", torn)]


def _torn_twice() -> list[tuple[Any, str, Any]]:
    failed = GatewayCore.failed

    def forgetful(self: GatewayCore, flush: Flush, kept: Collection[int] = ()) -> None:
        del kept
        failed(self, flush)

    return [(GatewayCore, "failed", forgetful)]


def _drained_early() -> list[tuple[Any, str, Any]]:
    return [(GatewayCore, "drained", property(lambda self: self._current is not None))]


# ----------------------------------------------------------------------------------------------------- process


def _dup_alone() -> list[tuple[Any, str, Any]]:
    decide = InFlight.decide

    def hasty(self: InFlight, rows: Any, qos: Any, dup: Any, *rest: Any) -> NDArray[np.bool_]:
        again = decide(self, rows, qos, dup, *rest)
        again[rows] = dup[rows] & qos[rows]
        return again

    return [(InFlight, "decide", hasty)]


def _equal_bytes() -> list[tuple[Any, str, Any]]:
    duplicates = Pass._duplicates

    def strict(self: Pass, messages: Any, device: Any, own: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return duplicates(self, messages, device, np.ones_like(own))

    return [(Pass, "_duplicates", strict)]


def _horizon_lost() -> list[tuple[Any, str, Any]]:
    restore = Segments.restore

    def empty(self: Segments, parts: Mapping[str, bytes], now_us: int) -> None:
        del parts
        restore(self, {}, now_us)

    return [(Segments, "restore", empty)]


def _late_moves() -> list[tuple[Any, str, Any]]:
    def follow(series: NDArray[Any], time_us: NDArray[np.int64], newest: NDArray[np.int64]) -> NDArray[np.int64]:
        before = np.empty(len(series), np.int64)
        for i, s in enumerate(series.tolist()):
            before[i], newest[s] = newest[s], time_us[i]
        return before

    return [(processors.quality.run, "advance", follow)]


def _by_arrival() -> list[tuple[Any, str, Any]]:
    run = Pass.run
    arrived = [0]

    def counted(self: Pass, messages: Any, *rest: Any) -> None:
        arrived[0] = max(arrived[0] + 1, int(messages.at[0]) >> 16)
        messages.at = arrived[0] << 16 | messages.row
        run(self, messages, *rest)

    return [(Pass, "run", counted)]


def _redrive_fresh() -> list[tuple[Any, str, Any]]:
    return [(processors.passes, "_FAR", 0)]


def _deaf_silence() -> list[tuple[Any, str, Any]]:
    on_tick = Silence.on_tick

    def impatient(self: Silence, clock_us: int, hearing: Mapping[str, int], *rest: Any) -> Any:
        del hearing
        return on_tick(self, clock_us, {"native": 0, "other": 0}, *rest)

    return [(Silence, "on_tick", impatient)]


def _silence_of_others() -> list[tuple[Any, str, Any]]:
    init = Plan.__init__

    def all_mine(self: Plan, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self.mine = frozenset(self.station_names)

    return [(Plan, "__init__", all_mine)]


def _rerun_new() -> list[tuple[Any, str, Any]]:
    frames = Output.frames
    last: dict[int, int] = {}

    def numbered(self: Output, header: Mapping[str, Any], rows: pa.RecordBatch, offset: int) -> Outputs:
        partition = header["origin"][0]
        last[partition] = max(offset, last.get(partition, -1) + 1)
        return frames(self, {**header, "origin": [partition, last[partition]]}, rows, offset)

    return [(Output, "frames", numbered)]


# ------------------------------------------------------------------------------------------------ state and store


def _offset_alone() -> list[tuple[Any, str, Any]]:
    def save(self: Any) -> None:
        self._send()
        put, drop = self._operator.snapshot()
        if self._bus.load_state(self._operator.group, self._partition) is not None:
            put, drop = {}, []
        self._bus.save_state(self._operator.group, self._partition, StateDelta(self.next_offset, put, drop))
        self.saved_offset, self._saved_clock = self.next_offset, self.clock_us

    return [(StageLoop, "save", save)]


def _state_alone() -> list[tuple[Any, str, Any]]:
    def save(self: Any) -> None:
        self._send()
        put, drop = self._operator.snapshot()
        self._bus.save_state(self._operator.group, self._partition, StateDelta(self.saved_offset, put, drop))
        self.saved_offset, self._saved_clock = self.next_offset, self.clock_us

    return [(StageLoop, "save", save)]


def _refused_save() -> list[tuple[Any, str, Any]]:
    def save(self: Any) -> None:
        self._send()
        put, drop = self._operator.snapshot()
        self._bus.save_state(self._operator.group, self._partition, StateDelta(self.next_offset, put, drop))
        self.saved_offset, self._saved_clock = self.next_offset, self.clock_us

    return [(StageLoop, "save", save)]


def _zombie_wins() -> list[tuple[Any, str, Any]]:
    def save_state(self: Any, group: str, partition: int, delta: StateDelta) -> None:
        self.point()
        found = self._bus.best(group, partition)
        parts = dict(found.parts) if found else {}
        for name in delta.drop:
            parts.pop(name, None)
        parts.update(delta.put)
        self._bus._states[group, partition] = {0: SavedState(delta.next_offset, parts)}
        self.point()

    return [(BusClient, "save_state", save_state)]


def _origin_unchecked() -> list[tuple[Any, str, Any]]:
    def all_of_them(frames: Sequence[Frame], origin: int) -> list[Frame]:
        del origin
        return list(frames)

    return [(model, "fresh", all_of_them)]


def _batch_dropped() -> list[tuple[Any, str, Any]]:
    def commit(self: Any, along: Sequence[Any] = ()) -> None:
        del along
        waiting, self._waiting, self._count = self._waiting, [], 0
        if waiting:
            self._store.apply(self.stream, self.partition, waiting, self.next_offset)

    return [(StoreStage, "commit", commit)]


def _told_after() -> list[tuple[Any, str, Any]]:
    def step(self: Any) -> bool:
        if not self._due():
            return False
        batch = self._take()
        self._save(batch)
        self._since_us = None
        if batch.frames:
            self.sink.write(batch.frames)
        return True

    return [(Follower, "step", step)]


def _redriven_received() -> list[tuple[Any, str, Any]]:
    def counts(batch: pa.RecordBatch) -> list[list[Any]]:
        mine = np.asarray(batch.column("kind")) == Kind.MESSAGE
        codes, names = codes_of(batch.column("network"))
        hours = times_of(batch.column("received_at")) // HOUR
        return [[names[c], h * HOUR, 1] for c, h in zip(codes[mine].tolist(), hours[mine].tolist(), strict=True)]

    return [(ingest.raw, "_counts_of", counts)]


def _taken_anywhere() -> list[tuple[Any, str, Any]]:
    def none(self: Pass, device: NDArray[np.int64]) -> NDArray[np.bool_]:
        del self
        return np.zeros(len(device), np.bool_)

    return [(Pass, "_strangers", none)]


def _not_told_home() -> list[tuple[Any, str, Any]]:
    to_tell = processors.elsewhere.to_tell

    def silent(output: Output, *rest: Any) -> Any:
        output.away.clear()
        return to_tell(output, *rest)

    return [(processors.elsewhere, "to_tell", silent)]


def _by_subtraction() -> list[tuple[Any, str, Any]]:
    row, columns = qingtu.ledger._row, dict(books._OUTCOME_COLUMN)

    def subtracted(key: Any, received: int, book: Mapping[str, int], flying: int) -> dict[str, Any]:
        del flying
        return row(key, received, book, received - sum(book[name] for name in _OUTCOMES))

    # In a store that counts rightly the difference is what is in flight; so here one forgets the duplicates.
    del columns[Outcome.DUPLICATE]
    return [(qingtu.ledger, "_row", subtracted), (books, "_OUTCOME_COLUMN", columns)]


def _old_session() -> list[tuple[Any, str, Any]]:
    def remember(self: InFlight, gateway: str) -> None:
        del self, gateway

    return [(InFlight, "forget", remember)]


def _by_number() -> list[tuple[Any, str, Any]]:
    decide = InFlight.decide

    def ordered(self: InFlight, rows: Any, qos: Any, dup: Any, ids: Any, connection: Any, *rest: Any) -> Any:
        newest = getattr(self, "newest", 0)
        again = decide(self, rows, qos, dup, ids, connection, *rest)
        again &= connection >= newest  # what came on a smaller number than one before is no redelivery
        self.newest = max(newest, int(connection.max(initial=0)))  # type: ignore[attr-defined]
        return again

    return [(InFlight, "decide", ordered)]


def _trimmed_by_age() -> list[tuple[Any, str, Any]]:
    return [(Ledger, "trimmed", lambda self: set())]  # noqa: ARG005 - as the method


def _word_undone() -> list[tuple[Any, str, Any]]:
    hear = processors.neighbour.hear

    def whatever(plan: Any, quality: Any, kinds: Any, verdicts: list[dict[str, Any]], *rest: Any) -> None:
        hear(plan, quality, kinds, [{**one, "at": 1 << 62} for one in verdicts], *rest)

    return [(processors.process, "hear", whatever)]


def _judged_without() -> list[tuple[Any, str, Any]]:
    of = neighbours._Readings.of

    def without(cls: Any, *given: Any) -> Any:
        del cls
        found = of(*given)
        return found._replace(good=found.good & ~found.marked)

    return [(neighbours._Readings, "of", classmethod(without))]


def _said_once() -> list[tuple[Any, str, Any]]:
    judge = neighbours.Neighbours.judge

    def once(self: Any, periods: Any, positions: Any, clock_us: int) -> Any:
        found = judge(self, periods, positions, clock_us)
        self._again.clear()
        return found._replace(done=list(periods))

    return [(neighbours.Neighbours, "judge", once)]


MUTANTS: Final[Mapping[str, Mutant]] = {
    "puback-before-durable": Mutant("PUBACKs go out when a flush is sent, not when it is durable", _puback_early),
    "stale-puback": Mutant("PUBACKs of an older connection are sent on the new one", _stale_puback),
    "torn-flush-as-whole": Mutant("a flush of which one partition is durable counts as durable", _torn_as_whole),
    "torn-flush-twice": Mutant("what is durable of a torn flush is appended again", _torn_twice),
    "drained-at-connect": Mutant(
        "a route hears since it is connected, whatever the broker still holds", _drained_early
    ),
    "dup-is-duplicate": Mutant("DUP alone makes a payload without time a duplicate", _dup_alone),
    "equal-bytes": Mutant("equal bytes without a time of their own are taken for duplicates", _equal_bytes),
    "horizon-lost": Mutant("hashes are not taken up again after a crash", _horizon_lost),
    "late-moves-latest": Mutant("a late reading moves the newest time of its series back", _late_moves),
    "revision-by-arrival": Mutant("revisions count what arrives, not where a row stands in raw", _by_arrival),
    "redrive-is-fresh": Mutant("what is driven again counts as fresh: it moves memory, raises alerts", _redrive_fresh),
    "own-outage-is-silence": Mutant("hearing_since is ignored: our own outage raises silence", _deaf_silence),
    "silence-of-others": Mutant("each partition calls the stations of the others silent", _silence_of_others),
    "rerun-looks-new": Mutant("frames of a crashed stage are emitted again under new origins", _rerun_new),
    "offset-without-state": Mutant("the offset is saved, the state that belongs to it is not", _offset_alone),
    "state-without-offset": Mutant("state is saved under the offset of the save before it", _state_alone),
    "old-session": Mutant(
        "identifiers of a session that the broker forgot are remembered",
        _old_session,
        ("disconnects", "broker_forgets"),
    ),
    "connections-in-order": Mutant("a redelivery counts only on a connection with a greater number", _by_number),
    "trimmed-as-held": Mutant("the audit takes hours of which frames were trimmed for whole", _trimmed_by_age),
    "refused-save-lost": Mutant("what the bus refused to save of a state is not in the next save", _refused_save),
    "zombie-wins": Mutant("whoever saves last wins, and parts of two writers are mixed", _zombie_wins),
    "origin-unchecked": Mutant("the store applies frames that it has", _origin_unchecked),
    "refusal-drops-batch": Mutant("frames that the store refused are let go", _batch_dropped),
    "position-before-write": Mutant("a follower saves its position before its sink took the frames", _told_after),
    "redriven-received-again": Mutant("a message that is driven again counts as received again", _redriven_received),
    "taken-anywhere": Mutant("a partition takes readings of stations that live in others", _taken_anywhere),
    "not-told-home": Mutant("a partition does not hear what became of its messages elsewhere", _not_told_home),
    "word-undone": Mutant("a verdict on neighbours counts whatever was said since derive looked", _word_undone),
    "judged-without-itself": Mutant("what neighbours made suspect is not compared any more", _judged_without),
    "verdict-said-once": Mutant("derive does not look whether its verdict came to stand", _said_once),
    "ledger-by-subtraction": Mutant("in flight = received - outcomes, while duplicates go unbooked", _by_subtraction),
}
