"""Read this first: the contracts between Qingtu's parts. It suffices to write a plug-in.

Data move forward: transports make *raw* frames, `process` turns them into *processed*, *alerts* and
*rejected* frames, sinks apply frames to stores, derive makes *figures*. A *frame* is one bus record
(:mod:`qingtu.records`). Whoever implements one of these may count on exactly what is written here. The one way back
is a command row on raw: what a person orders, and figures that an alert rule watches (:class:`OnFigures`).

The delivery rule that everything obeys: **one input frame gives at most one output frame per output stream,
which carries the input's (partition, offset) as its origin; wall time emits nothing.** After a crash a stage
re-runs frames and emits the same ones again; consumers skip origins that are not newer than their last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np

from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue, Series
    from qingtu.clock import Clock
    from qingtu.records import Frame
    from qingtu.settings import Settings

_PASS: Final = np.uint8(Flag.PASS)
_MISSING: Final = np.uint8(Flag.MISSING)


# ---------------------------------------------------------------------------------------------------- bus


class Record(NamedTuple):
    """A frame at its place on the bus."""

    offset: int
    data: bytes


class Ticket(Protocol):
    """The promise of an append. It is kept when the frames are durable."""

    def done(self) -> bool:
        """Return whether the append has ended, well or not. A bus within this process may write; none waits."""
        ...

    def result(self, timeout_s: float | None = None) -> list[int]:
        """Wait, then return the offsets, in the order of the frames.

        Raises:
            RetryLater: nothing was written; the same frames may be appended again.
            TimeoutError: not decided within ``timeout_s``; ask again, do not append again.
        """
        ...


class Bus(Protocol):
    """Durable, ordered, partitioned streams of frames, and the state of their readers.

    Two implementations: SQLite in one process, Kafka across machines. Both pass tests/suites/bus.py.
    Any thread may call. Offsets grow within (stream, partition); they need not be dense.
    """

    @property
    def partitions(self) -> int:
        """How many partitions each stream is cut into; fixed at setup."""
        ...

    def assigned(self, group: str, stream: str) -> frozenset[int]:
        """Return the partitions that this process works on for ``group``; may change between calls."""
        ...

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:
        """Append frames, all or none. Frames of one call keep their order; calls of one thread too."""
        ...

    def read(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return frames with offset ≥ ``start`` in order; empty when there is none. Never blocks for more."""
        ...

    def end(self, stream: str, partition: int) -> int:
        """Return the offset that the next frame will at least have; 0 for an empty stream."""
        ...

    def start(self, stream: str, partition: int) -> int:
        """Return the oldest offset that is still held (``end`` when none is)."""
        ...

    def wait(self, stream: str, seen_end: Sequence[int], timeout_s: float) -> None:
        """Return when any partition's ``end`` differs from ``seen_end``, or after the timeout."""
        ...

    def load_state(self, group: str, partition: int) -> SavedState | None:
        """Return the newest complete state, or None when there never was one."""
        ...

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Save atomically: parts that ``delta`` does not name stay as they are."""
        ...

    def trim(self, stream: str, partition: int, before: int) -> None:
        """Forget frames with offset < ``before``."""
        ...

    def close(self) -> None:
        """Let go of files and connections; what was acknowledged stays."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A bus that depends on servers, and can say how it fares with them."""

    def status(self) -> dict[str, Any]:
        """Return what there is to know without asking the servers; ``problem`` is "" when all is well."""
        ...


@runtime_checkable
class Prefetching(Protocol):
    """A bus that depends on servers, and reads ahead of its readers."""

    def at_hand(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Return of ``Bus.read`` what is here already, so that nobody waits for a server; what is not, is fetched."""
        ...


@dataclass(frozen=True, slots=True)
class SavedState:
    """State of one group in one partition.

    Attributes:
        next_offset: of the input stream; frames below it are part of the state.
        parts: named byte strings, as they were put.
    """

    next_offset: int
    parts: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class StateDelta:
    """What changed in a state since it was last saved. Large parts are written once and never again.

    Attributes:
        next_offset: see :class:`SavedState`.
        put: parts to write.
        drop: parts to forget.
    """

    next_offset: int
    put: Mapping[str, bytes]
    drop: Sequence[str] = ()


# --------------------------------------------------------------------------------------------------- stage


class Stage(Protocol):
    """Something that the composition root steps. Has no thread, does not sleep, reads no wall clock."""

    name: str

    def step(self) -> bool:
        """Do one bounded piece of work.

        Returns:
            True when something was done; False when there was nothing to do.

        Raises:
            RetryLater: a store or bus refuses; nothing is lost; step again after the pause it names.
        """
        ...


Outputs = dict[str | tuple[str, int], bytes]
"""At most one encoded frame for each stream; for (stream, partition) when it goes into another partition of it."""


class Operator(Protocol):
    """The inside of a bus-to-bus stage, for one partition. :class:`qingtu.stage.StageLoop` drives it.

    Called in this order: ``restore`` once, then ``apply`` for each input frame in offset order, now and then
    ``snapshot``. After an exception in ``apply`` the loop calls ``restore`` with the last saved parts and
    re-runs; so an operator needs no care for half-done work. Never called by two threads at once.

    Attributes:
        group: name under which state is saved.
        source: the input stream.
    """

    group: str
    source: str

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up saved state; None means an empty one. Must forget everything it knew before."""
        ...

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Process one frame and return what it gives; see :data:`Outputs`.

        Args:
            frame: the decoded input frame.
            offset: its offset, from which positions are made.
            only: when given, shape (rows,): rows outside are guilty of crashing this stage; they must be
                rejected as ``internal_error`` without being looked into.
        """
        ...

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Return (parts to put, parts to drop) since the last snapshot or restore."""
        ...


@runtime_checkable
class Joining(Protocol):
    """An operator for which several small frames are cheaper at once than one by one."""

    def joins(self, frame: Frame) -> int:
        """Return how many rows a frame counts for, if it may be applied together with its neighbours just now; else 0.

        About a thousand rows are applied together at most.

        Args:
            frame: the next one, or one behind others that may; none of these is applied yet.
        """
        ...

    def apply_joined(self, frames: Sequence[tuple[int, Frame]]) -> list[Outputs]:
        """Do what ``Operator.apply`` does for each frame in turn, and return what each gives.

        How frames are joined depends on when they were read, and after a crash they are joined in another way: the
        rows that each gives must be the same in the same order, and the state must mean the same.

        Args:
            frames: (offset, frame) in order, each of which ``joins``; they need not follow each other without a gap.
        """
        ...


# ------------------------------------------------------------------------------------------------- decoder


@dataclass(slots=True)
class Decoded:
    """What a decoder makes of n payloads: readings in columns, events, and refusals.

    Attributes:
        names: distinct field names of this call, as the device wrote them.
        units: distinct unit texts of this call; ``units[0]`` is "" (none given).
        row: int32 (m,), which payload (0..n-1) each reading came from; never decreasing.
        name: int32 (m,), index into ``names``.
        unit: int32 (m,), index into ``units``.
        value: float64 (m,); NaN where the device says that it has no value.
        time_us: int64 (m,), claimed time, µs UTC; ``NO_TIME`` when none was claimed; for zone-less
            times the local time taken as if it were UTC, with ``local`` set.
        local: bool (m,), time still needs the station's zone.
        own_identity: bool (n,), the payload has a time or counter of its own (so equal bytes are a repetition).
        events: (row, kind, level, time_us or NO_TIME, attributes, local) of each event; ``local`` as above.
        refused: (row, reason code, detail, readings refused); a row may have several. ``readings`` of 0 with
            reason in ``WHOLE`` means that the payload could not be read at all.
        mark: uint8 (m,), what the device says of each reading, by :func:`qingtu.marks.mark_number`; 0: nothing. None:
            nothing of any.
    """

    names: list[str]
    units: list[str]
    row: NDArray[np.int32]
    name: NDArray[np.int32]
    unit: NDArray[np.int32]
    value: NDArray[np.float64]
    time_us: NDArray[np.int64]
    local: NDArray[np.bool_]
    own_identity: NDArray[np.bool_]
    events: list[tuple[int, str, int, int, dict[str, Any], bool]] = field(default_factory=list)
    refused: list[tuple[int, str, str, int]] = field(default_factory=list)
    mark: NDArray[np.uint8] | None = None


NO_TIME = -(1 << 63)
"""Marks "no time was claimed" in int64 time columns."""


class Decoder(Protocol):
    """Payloads in, readings out. Pure: no catalogue, no clock, no state between calls.

    `process` calls it once per frame and route with all payloads of that route. It must not raise: what cannot
    be read is a row of ``refused``. One bad payload never changes what another gives. The order of readings is
    that of the payloads, and within one payload that of the text.
    """

    def __call__(self, payloads: Sequence[bytes], devices: Sequence[str | None]) -> Decoded:
        """Decode.

        Args:
            payloads: n byte strings, verbatim, untrusted, never longer than the route's limit.
            devices: n device ids as the route found them in the topic; a payload that names another is refused. None:
                there is no topic (a payload is tried), and whatever device it names is taken.
        """
        ...


# ----------------------------------------------------------------------------------------- quality and rules


@dataclass(frozen=True)  # no slots: what several checks ask for is worked out once and kept
class CheckInput:
    """Readings of one pass, sorted by series and, within a series, by arrival.

    *Fresh* readings are newer than all before them in their series and not delayed. They form the chain that a
    check with memory looks at and remembers; the others leave its memory alone and get 2 from it.

    Attributes:
        series: int64 (m,), dense series number.
        time_us: int64 (m,).
        value: float64 (m,), NaN when missing.
        chain: int64 (f,), rows of the fresh readings, in order.
        before: int64 (f,), row of the fresh reading before, in the same series; -1: it is in memory, if anywhere.
        last: bool (f,), the last fresh reading of its series in this pass.
        mark: uint8 (m,), number of what the device says of the reading (:mod:`qingtu.marks`), 0 for nothing; None when
            it says nothing of any.
    """

    series: NDArray[np.int64]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    chain: NDArray[np.int64]
    before: NDArray[np.int64]
    last: NDArray[np.bool_]
    mark: NDArray[np.uint8] | None = None

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which have no value, bool (m,)."""
        return np.isnan(self.value)

    @cached_property
    def passed(self) -> NDArray[np.uint8]:
        """Flags of a check that finds nothing wrong, uint8 (m,): 1, and 9 without value. To return, not to change."""
        return np.where(self.missing, _MISSING, _PASS)

    @cached_property
    def whole(self) -> bool:
        """Whether all readings are fresh."""
        return len(self.chain) == len(self.series)

    @cached_property
    def once(self) -> bool:
        """Whether no series has two fresh readings: what is before each is in memory."""
        return bool(self.last.all())

    @cached_property
    def fresh(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Series, times and values of the chain, shape (f,) each."""
        if self.whole:
            return self.series, self.time_us, self.value
        return self.series[self.chain], self.time_us[self.chain], self.value[self.chain]

    def flags(self, own: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return flags, uint8 (m,), for a check that gives ``own`` (f,) to the fresh readings: 2 to the others."""
        out: NDArray[np.uint8] = own.copy() if self.whole else np.full(len(self.series), Flag.NOT_EVALUATED, np.uint8)
        if not self.whole:
            out[self.chain] = own
        out[self.missing] = _MISSING
        return out


@dataclass(frozen=True, slots=True)
class Verdict:
    """A check's late verdicts about fresh readings before; only 3 and 4 are told, 1 changes nothing.

    Attributes:
        at: int64 (k,), index into ``chain`` of the reading that decided; judged is the fresh reading before it.
        flag: uint8 (k,), 3 or 4.
    """

    at: NDArray[np.int64]
    flag: NDArray[np.uint8]


class Memory(Protocol):
    """What a check remembers of each series between passes; :mod:`processors.quality.memory` has two ready ones."""

    def take(self, old: Any, source: NDArray[np.int64]) -> None:
        """Go on from the memory under another catalogue; ``source`` is each series' old number or -1."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything as named arrays."""
        ...

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned, for the same catalogue."""
        ...


class Check(Protocol):
    """One quality check of single series: arrays in, flags out; memory in arrays by series.

    The result may not depend on where batches were cut: tests split the same series at random.
    """

    @property
    def key(self) -> str:
        """Name in CHECKS, docs and settings."""
        ...

    @property
    def bit(self) -> int:
        """Its bit in ``tests``; never reused."""
        ...

    def prepare(self, series: Sequence[Series]) -> Any:
        """Turn the catalogue's limits of all series into arrays, once per catalogue version.

        Returns:
            what the check is called with; None when no series has a limit of this check: it is then not called at
            all, costs nothing, and says 2 of every reading.
        """
        ...

    def memory(self, limits: Any) -> Memory | None:
        """Return an empty memory for what ``prepare`` returned; None for a check without memory."""
        ...

    def __call__(self, data: CheckInput, limits: Any, memory: Any) -> tuple[NDArray[np.uint8] | None, Verdict | None]:
        """Check.

        Args:
            data: the readings.
            limits: what ``prepare`` returned.
            memory: changed in place; None when the check has none.

        Returns:
            flags, shape (m,) uint8, of 1 pass, 2 not evaluated, 3 suspect, 4 fail, 9 missing; None: 2 of all. A check
            that needs the next reading answers 2 now and may return verdicts about the readings before.
        """
        ...


@dataclass(frozen=True, slots=True)
class Related:
    """Series that a check looks at together.

    Attributes:
        series: int32 (groups, roles), the series that has each role; all of a group are of one station.
        limits: float64 (groups, k), whatever the check wants to know of each group.
    """

    series: NDArray[np.int32]
    limits: NDArray[np.float64]

    @classmethod
    def of(cls, groups: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Related | None:
        """Build it from (series in the order of roles, limits) of each group; None without any."""
        if not groups:
            return None
        series, limits = zip(*groups, strict=True)
        return cls(np.array(series, np.int32), np.array(limits, np.float64).reshape(len(groups), -1))


class MessageCheck(Protocol):
    """One check of several properties: what readings of one message say of each other.

    It sees readings of one raw row and one time together, and only those: the result cannot depend on where batches
    were cut, and there is nothing to remember. Late and re-driven readings are looked at like all others.
    """

    @property
    def key(self) -> str:
        """Name in MESSAGE_CHECKS, docs and settings."""
        ...

    @property
    def bit(self) -> int:
        """Its bit in ``tests``; never reused, and none of a :class:`Check`."""
        ...

    def prepare(self, catalogue: Catalogue) -> Related | None:
        """Find the series that belong together, once per catalogue version.

        Returns:
            the groups; None when no station has a limit of this check: it then costs nothing.
        """
        ...

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Check g samples of groups.

        Args:
            values: float64 (roles, g), canonical unit; NaN where the message does not say it, or says that it is
                missing.
            group: int64 (g,), which group of ``prepare`` each is.
            limits: as ``prepare`` returned them; ``limits[group]`` are those of each.

        Returns:
            flags, shape (roles, g) uint8, of 1, 2, 3 and 4, for each reading; what is said of one that is not there
            is not looked at.
        """
        ...


class Transition(NamedTuple):
    """One step in the life of an alert. Units are those of ``ALERT_ROWS``."""

    alert: str
    rule: str
    station: str
    property: str
    channel: str
    level: int
    state: str
    time_us: int
    opened_us: int
    value: float
    limit: float
    revision: int
    known_us: int
    evidence: dict[str, Any]
    who: str = ""
    note: str = ""


class RuleKind(Protocol):
    """One kind of station rule, with the state of all its alerts, for one catalogue.

    Called by the ordered pass in the order of the raw rows. What it returns may not depend on how rows were cut
    into passes. It never sees duplicates, refused readings or messages whose clock was wrong.
    """

    def adopt(self, plan: Any, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; open alerts of what is gone are closed.

        Args:
            plan: a :class:`processors.plan.Plan`.
            source: each new series' old number or -1; None on a start without a past.
            at_us: when, µs UTC.
            revision: position of the raw row that said so.
        """
        ...

    def on_readings(self, batch: Any) -> list[Transition]:
        """Look at a pass of judged readings (:class:`processors.alerts.Batch`)."""
        ...

    def on_heard(
        self, station: NDArray[np.int64], received_us: NDArray[np.int64], revision: NDArray[np.int64]
    ) -> list[Transition]:
        """Learn that messages came in: station numbers, times of receipt and positions, shape (n,) each."""
        ...

    def on_clock(
        self,
        device: NDArray[np.int32],
        wrong: NDArray[np.bool_],
        at_us: NDArray[np.int64],
        revision: NDArray[np.int64],
    ) -> list[Transition]:
        """Learn of devices that began or ceased to claim impossible times, shape (n,) each, in order of messages."""
        ...

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Learn the time, and for each route that is heard without backlog since when.

        Args:
            clock_us: now, µs UTC.
            hearing: route → since when, µs UTC.
            held: bool (stations,), which are under maintenance: no alert opens there. None: none is.
            revision: position of the tick.
        """
        ...

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Carry out ``acknowledge`` or ``comment``; None when this kind has no such open alert."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all memory as named arrays."""
        ...

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned, for the same catalogue."""
        ...


@runtime_checkable
class GoesBy(Protocol):
    """A rule kind that goes by what another has decided on the same tick; that one stands before it in the table."""

    def go_by(self, kinds: Mapping[str, RuleKind]) -> None:
        """Learn which kinds there are; called once, before anything else."""
        ...


@runtime_checkable
class OnFigures(Protocol):
    """A rule kind that looks at figures as well."""

    def on_figures(self, facts: Sequence[Any], held: Sequence[bool], at_us: int, revision: int) -> list[Transition]:
        """Learn figures that derive published and a rule watches; each is told at least once.

        Args:
            facts: a sequence of :class:`processors.alerts.facts.Fact`, in the order in which they were made.
            held: for each, whether maintenance of its station keeps it from opening or raising an alert.
            at_us: clock of the tick at which they were made, µs UTC.
            revision: position of the raw row that tells them.
        """
        ...


@runtime_checkable
class OnTransitions(Protocol):
    """A rule kind that looks at what the others say."""

    def on_transitions(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Learn transitions of other rules; what it returns is shown to no kind.

        It is called in the first partition alone, after each run of messages, tick or command that made any, so what it
        returns may depend on their order, never on how they were cut into calls. Transitions of other partitions come
        with the raw row that tells them; each once.

        Args:
            transitions: in order of their revisions; of another partition with revision and time of the telling row.
        """
        ...


@runtime_checkable
class OnSystem(Protocol):
    """A rule kind that looks at what the service says of itself."""

    def on_system(self, source: str, facts: Mapping[str, float], at_us: int, revision: int) -> list[Transition]:
        """Learn facts of one source; each is told at least once, and holds until it is told otherwise.

        Args:
            source: who tells: a gateway by its client id, or ``store``.
            facts: name → value.
            at_us: when it was found, µs UTC.
            revision: position of the raw row that tells it.
        """
        ...


# ----------------------------------------------------------------------------------------- store and sinks


class Progress(NamedTuple):
    """How far a store is in one partition of a stream.

    Attributes:
        next_offset: of the stream, where to read on.
        origin: offset of the newest raw (or processed, for figures) frame whose effects are committed; -1: none.
    """

    next_offset: int
    origin: int


class Store(Protocol):
    """The primary store. Two implementations: DuckDB, InfluxDB; both pass tests/suites/store.py.

    Writing is for one thread; reading for any. Keys are (station, property, channel, time): applying the same row
    again changes nothing.
    """

    def progress(self, stream: str, partition: int) -> Progress:
        """Return how far committed effects reach."""
        ...

    def apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Applied:
        """Apply frames in order and commit rows, origins and ledger as one.

        Frames whose origin is not newer than the last are skipped: they were emitted again after a crash.

        Args:
            stream: processed, figures, alerts or rejected.
            partition: of the stream.
            frames: in order.
            next_offset: of the stream, behind the last frame.

        Raises:
            RetryLater: the store is down, busy or full; nothing was applied.
        """
        ...

    def readings(self, query: ReadingQuery) -> pa.Table:  # columns series, time, value, flag, tests, revision, known_at
        """Return readings of series in a time range, in order of series and time, perhaps as of a revision."""
        ...

    def figures_of(self, query: FigureQuery) -> pa.Table:
        """Return figures of many series, in order of series, start and what, perhaps as they were published once.

        Returns:
            columns series (int32, index into ``query.series``), what, start, value (null: none), count, expected,
            valid, reason, inputs, revision, known_at; times in µs UTC as int64.
        """
        ...

    def close(self) -> None:
        """Commit nothing more and let go of files and connections."""
        ...


class Part(NamedTuple):
    """What waits of one stream and is applied with others; see ``Store.apply``."""

    stream: str
    partition: int
    frames: Sequence[Frame]
    next_offset: int


@runtime_checkable
class Together(Protocol):
    """A store for which one large transaction is cheaper than several small ones."""

    def apply_together(self, parts: Sequence[Part]) -> None:
        """Do what ``Store.apply`` does for each part in turn, and commit all of it as one.

        Args:
            parts: of different streams of one partition.

        Raises:
            RetryLater: as ``Store.apply``; nothing of any part was applied.
        """
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What one ``Store.apply`` did; counts of rows."""

    frames: int = 0
    readings: int = 0
    revised: int = 0
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class ReadingQuery:
    """A range of readings.

    Attributes:
        series: (station, property, channel) of each series wanted.
        start_us: first time, inclusive.
        end_us: last time, exclusive.
        as_of: by partition no matter: revisions above this position are taken back; None for now.
        known_by_us: revisions known after this time are taken back; None for now.
        limit: rows at most, newest are kept; None for all.
    """

    series: Sequence[tuple[str, str, str]]
    start_us: int
    end_us: int
    as_of: int | None = None
    known_by_us: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class FigureQuery:
    """A range of figures.

    Attributes:
        series: (station, property, channel) of each series wanted.
        start_us: first start of a period, inclusive.
        end_us: last start, exclusive.
        what: only this statistic; None for all.
        before: what was made at this position or later is taken back; None for now.
        known_by_us: what was published after this time is taken back; None for now.
    """

    series: Sequence[tuple[str, str, str]]
    start_us: int
    end_us: int
    what: str | None = None
    before: int | None = None
    known_by_us: int | None = None


class Sink(Protocol):
    """Follows one stream into something outside. Lag shows; it never holds the pipeline up."""

    name: str
    stream: str

    def write(self, frames: Sequence[Frame]) -> None:
        """Take frames in order, at least once.

        Raises:
            RetryLater: call again with the same frames after the pause it names.
        """
        ...


@dataclass(frozen=True, slots=True)
class SinkPlace:
    """What a sink is made with.

    Attributes:
        folder: its own, ``data/NAME``; made by the sink when it needs it.
        settings: checked.
        bus: for a sink that has to know more than its stream tells, such as the time.
        clock: for pauses, never for what is written.
        catalogues: returns the archived catalogue of a version; raises NotFound.
    """

    folder: Path
    settings: Settings
    bus: Bus
    clock: Clock
    catalogues: Callable[[str], Catalogue]


@runtime_checkable
class Working(Protocol):
    """A :class:`Sink` with work of its own beside ``write``: one for all partitions, with a thread for each work.

    ``write`` is called by one thread for each partition, so it takes care of itself.

    Attributes:
        wait_s: a frame waits at most this long for more to come.
    """

    wait_s: float

    def works(self, behind: Callable[[], int]) -> Mapping[str, Callable[[], bool]]:
        """Return name → step of each work, as :meth:`Stage.step`; called once, before any of them.

        Args:
            behind: returns how many frames of its stream were not yet given to ``write``.
        """
        ...

    def problems(self) -> list[dict[str, str]]:
        """Return what is wrong now beyond works that cannot go on, each with key, zh and en."""
        ...

    def close(self) -> None:
        """Let go of files; called when all works have ended."""
        ...
