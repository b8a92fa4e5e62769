"""Read this first: the contracts between Qingtu's parts. It suffices to write a plug-in.

Data move forward only: transports make *raw* frames, `process` turns them into *processed*, *alerts* and
*rejected* frames, sinks apply frames to stores, derive makes *figures*. A *frame* is one bus record
(:mod:`qingtu.records`). Whoever implements one of these may count on exactly what is written here.

The delivery rule that everything obeys: **one input frame gives at most one output frame per output stream,
which carries the input's (partition, offset) as its origin; wall time emits nothing.** After a crash a stage
re-runs frames and emits the same ones again; consumers skip origins that are not newer than their last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.catalogue import Series
    from qingtu.records import Frame


# ---------------------------------------------------------------------------------------------------- bus


class Record(NamedTuple):
    """A frame at its place on the bus."""

    offset: int
    data: bytes


class Ticket(Protocol):
    """The promise of an append. It is kept when the frames are durable."""

    def done(self) -> bool:
        """Return whether the append has ended, well or not. Never blocks."""
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

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> dict[str, bytes]:
        """Process one frame and return at most one encoded frame per output stream.

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
        events: (row, kind, level, time_us or NO_TIME, attributes) of each event.
        refused: (row, reason code, detail, readings refused); a row may have several. ``readings`` of 0 with
            reason in ``WHOLE`` means that the payload could not be read at all.
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
    events: list[tuple[int, str, int, int, dict[str, Any]]] = field(default_factory=list)
    refused: list[tuple[int, str, str, int]] = field(default_factory=list)


NO_TIME = -(1 << 63)
"""Marks "no time was claimed" in int64 time columns."""


class Decoder(Protocol):
    """Payloads in, readings out. Pure: no catalogue, no clock, no state between calls.

    `process` calls it once per frame and route with all payloads of that route. It must not raise: what cannot
    be read is a row of ``refused``. One bad payload never changes what another gives. The order of readings is
    that of the payloads, and within one payload that of the text.
    """

    def __call__(self, payloads: Sequence[bytes], devices: Sequence[str]) -> Decoded:
        """Decode.

        Args:
            payloads: n byte strings, verbatim, untrusted, never longer than the route's limit.
            devices: n device ids as the route found them in the topic; a payload that names another is refused.
        """
        ...


# ----------------------------------------------------------------------------------------- quality and rules


@dataclass(frozen=True, slots=True)
class CheckInput:
    """Readings of one pass, sorted by series and, within a series, by arrival.

    *Fresh* readings are newer than all before them in their series and not delayed. They form the chain that a
    check with memory looks at and remembers; the others leave its memory alone and get 2 from it.

    Attributes:
        series: int32 (m,), dense series number.
        time_us: int64 (m,).
        value: float64 (m,), NaN when missing.
        chain: int64 (f,), rows of the fresh readings, in order.
        before: int64 (f,), row of the fresh reading before, in the same series; -1: it is in memory, if anywhere.
        last: bool (f,), the last fresh reading of its series in this pass.
    """

    series: NDArray[np.int32]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    chain: NDArray[np.int64]
    before: NDArray[np.int64]
    last: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A check's late verdicts about fresh readings before; only 3 and 4 are told, 1 changes nothing.

    Attributes:
        at: int64 (k,), index into ``chain`` of the reading that decided; judged is the fresh reading before it.
        flag: uint8 (k,), 3 or 4.
    """

    at: NDArray[np.int64]
    flag: NDArray[np.uint8]


class Check(Protocol):
    """One quality check: arrays in, flags out; memory in arrays by series.

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

    @property
    def memory(self) -> np.ndarray[Any, Any] | None:
        """One row of memory as it starts, shape (1,), structured; None for a check without memory."""
        ...

    def prepare(self, series: Sequence[Series]) -> Any:
        """Turn the catalogue's limits of all series into arrays, once per catalogue version."""
        ...

    def __call__(
        self, data: CheckInput, limits: Any, memory: NDArray[Any] | None
    ) -> tuple[NDArray[np.uint8], Verdict | None]:
        """Check.

        Args:
            data: the readings.
            limits: what ``prepare`` returned.
            memory: shape (series,), changed in place; None when the check has none.

        Returns:
            flags, shape (m,) uint8, of 1 pass, 2 not evaluated, 3 suspect, 4 fail, 9 missing; a check that
            needs the next reading answers 2 now and may return verdicts about the readings before.
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
        self, station: NDArray[np.int32], received_us: NDArray[np.int64], revision: NDArray[np.int64]
    ) -> list[Transition]:
        """Learn that messages came in: station numbers, times of receipt and positions, shape (n,) each."""
        ...

    def on_tick(self, clock_us: int, hearing: Mapping[str, int], revision: int) -> list[Transition]:
        """Learn the time, and for each route that is heard without backlog since when."""
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

    def close(self) -> None:
        """Commit nothing more and let go of files and connections."""
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
