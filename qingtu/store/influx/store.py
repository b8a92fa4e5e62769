"""InfluxDB as the primary store: idempotent rows first, then origin, books and progress are saved on the bus.

One thread plans, others write what is planned, of several partitions at once; any thread reads. Without a bus the store
only reads: for processes that do not apply. What is kept where is in docs/influxdb.md, why in
docs/decisions/0010-influxdb.md. Reading is in :mod:`qingtu.store.influx.queries`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from qingtu.clock import DAY
from qingtu.contracts import Applied, Progress
from qingtu.errors import QingtuError, RetryLater
from qingtu.grouped import NEVER
from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED, Frame, position
from qingtu.store import books
from qingtu.store.fresh import fresh
from qingtu.store.influx.bookkeeping import COUNTED, Bookkeeper, entry_lines
from qingtu.store.influx.client import InfluxClient, Refused
from qingtu.store.influx.errands import Errands
from qingtu.store.influx.events import EventPlan, EventWriter
from qingtu.store.influx.figures import FigureWriter
from qingtu.store.influx.lines import Lines
from qingtu.store.influx.quarantine import guilty_messages, purge, refused_lines
from qingtu.store.influx.queries import InfluxQueries
from qingtu.store.influx.refusals import isolate, requests
from qingtu.store.influx.rows import (
    alert_line,
    columns_of,
    ledger_lines,
    progress_line,
    rejected_line,
)
from qingtu.store.influx.state import GROUPS, StreamState, delta, restore
from qingtu.store.influx.stations import station_lines
from qingtu.store.influx.writing import Plan, ReadingWriter
from qingtu.store.merging import NEW
from qingtu.store.names import SeriesNames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Bus
    from qingtu.settings import InfluxSettings

_TOO_OLD: Final = "outside retention policy"
_FOLLOW_S: Final = 1.0
"""What tells others how far a partition is stored is written at most so often; a request for each commit is dear."""
At = tuple[str, int]
"""(stream, partition)."""


Carry = Callable[[], tuple[StreamState, Applied]]
"""Writes what is planned, and returns the state behind it and what was done; runs beside the thread that plans."""


@dataclass(slots=True)
class _Commit:
    """A commit that is planned, and being carried out.

    Attributes:
        at: which stream and partition.
        after: the state behind it.
        applied: what it did.
        unsaved: all is written, but the bus does not take the state.
        settled: it is known here what became of it.
        done: when it is written and saved.
    """

    at: At
    after: StreamState
    applied: Applied = Applied()  # noqa: RUF009 - immutable
    unsaved: bool = False
    settled: bool = False
    done: Future[None] = field(default_factory=Future)


class InfluxStore(InfluxQueries):
    """See :class:`qingtu.contracts.Store`.

    Args:
        settings: server, organisation and buckets.
        token: that may read and, with a bus, write the buckets.
        bus: keeps the state, and has the raw rows of messages that the server refuses; None: this store only reads.

    Raises:
        RetryLater: a state cannot be read from the bus now.
        VersionError: a newer program saved the state.
    """

    def __init__(self, settings: InfluxSettings, token: str, bus: Bus | None = None) -> None:
        super().__init__(InfluxClient(settings, token), settings)
        self._bus = bus
        self._log = structlog.get_logger("store")
        self._lock = threading.Lock()
        self._names = SeriesNames()
        self._readings = ReadingWriter(self._client, settings.bucket, self._names, settings.batch_lines)
        self._events = EventWriter(self._client, settings.bucket)
        self._figures = FigureWriter(self._client, settings)
        self._bookkeeper = Bookkeeper(self._client, settings.daily)
        self._states: dict[At, StreamState] = {}
        self._saved: dict[At, StreamState] = {}
        self._errands = Errands()
        self._under_way: dict[At, _Commit] = {}
        self._behind: set[At] = set()
        self._followed_s: dict[At, float] = {}
        self._to_purge: dict[int, int] = {}
        self._given: dict[books.Key, tuple[list[NDArray[np.int64]], dict[str, int]]] = {}
        self._plan_by: dict[str, Callable[[int, Sequence[Frame], StreamState], Carry]] = {
            PROCESSED: self._processed,
            ALERTS: self._alerts,
            REJECTED: self._rejected,
            FIGURES: self._plan_figures,
        }
        if bus is not None:
            for stream, group in GROUPS.items():
                for partition in sorted(bus.assigned(group, stream)):
                    self._take_first(stream, partition)

    def check(self) -> None:
        """Ask each bucket something, to say at the start what would not heal by itself.

        Raises:
            StartError: the token or a bucket is wrong; the message says what to do.
            RetryLater: the server does not answer now.
        """
        s = self._settings
        self._client.check([s.bucket, s.hourly, s.daily])

    # ------------------------------------------------------------------------------------------- what is saved

    def take(self, stream: str, partition: int) -> Progress:
        """Take a partition over from whoever applied it before: read its state from the bus.

        What is assigned when the store is opened is taken then. Later this is for the writing thread.

        Raises:
            RetryLater: the partition is not ours, or the bus does not answer.
            VersionError: a newer program saved it.
        """
        if self._bus is None:
            raise QingtuError("a store without a bus only reads")
        saved = self._bus.load_state(GROUPS[stream], partition)
        state = restore(saved)
        if stream == PROCESSED:
            self._readings.raise_floor(state.high)
            self._to_purge[partition] = state.rejected_from
        with self._lock:
            self._states[stream, partition] = self._saved[stream, partition] = state
        if saved is not None:
            self._behind.add((stream, partition))
        return state.progress

    def _take_first(self, stream: str, partition: int) -> None:
        self.take(stream, partition)
        try:
            self._follow_up(stream, partition)
        except RetryLater as later:
            self._log.warning("store_follows_later", reason=str(later), next="written before the next commit")

    def release(self, stream: str, partition: int) -> None:
        """Forget a partition that another process takes over."""
        with self._lock:
            self._states.pop((stream, partition), None)
        self._behind.discard((stream, partition))
        self._followed_s.pop((stream, partition), None)

    def _held(self, stream: str, partition: int) -> StreamState | None:
        with self._lock:
            return self._states.get((stream, partition))

    def progress(self, stream: str, partition: int) -> Progress:
        """Return how far committed effects reach; of what another process applies, as it wrote last."""
        state = self._held(stream, partition)
        return self._told_progress(stream, partition) if state is None else state.progress

    def ledger(self) -> tuple[dict[books.Key, dict[str, int]], dict[int, int]]:
        """Return outcomes by (network, hour), and by partition the raw offset up to which they count.

        A book that did not change is the same object as before, so that the caller need not look at it again.
        """
        own = {p: state for (stream, p), state in self._own_states().items() if stream == PROCESSED}
        rows: dict[books.Key, list[NDArray[np.int64]]] = {}
        origins = {p: state.progress.origin for p, state in own.items() if state.progress != Progress(0, -1)}
        if self._bus is None or len(own) < self._bus.partitions:
            others, told = self._told_ledger(frozenset(own))
            origins |= others
            for key, row in told:
                rows.setdefault(key, []).append(row)
        for state in own.values():
            for hour, networks in state.books.items():
                for network, row in networks.items():
                    rows.setdefault((network, hour), []).append(row)
        given = {key: self._book(key, parts) for key, parts in rows.items()}
        self._given = given
        return {key: book for key, (_, book) in given.items()}, origins

    def _book(self, key: books.Key, parts: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], dict[str, int]]:
        """Return the sum of a book's parts, the same object as the last time when no part has changed."""
        before = self._given.get(key)
        if before is not None and len(before[0]) == len(parts):
            same = (a is b or np.array_equal(a, b) for a, b in zip(before[0], parts, strict=True))
            if all(same):
                return before
        summed: NDArray[np.int64] = np.sum(parts, axis=0)
        return parts, dict(zip(books.COLUMNS, summed.tolist(), strict=True))

    def _own_states(self) -> dict[At, StreamState]:
        with self._lock:
            return self._states.copy()

    # ------------------------------------------------------------------------------------------------ applying

    def apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Applied:
        """Apply frames, then save; see the contract.

        Raises:
            RetryLater: see there; the same frames may be applied again, by this process or another.
            QingtuError: the server refuses rows of Qingtu's own books: somebody must mend the bucket.
        """
        self.begin(stream, partition, frames, next_offset)
        return self._settle(self._under_way[stream, partition])

    def begin(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Callable[[], object]:
        """Plan what frames do, and begin to write and to save; see the contract.

        Raises:
            RetryLater: see there, also when the commit before did not come through.
        """
        if self._bus is None:
            raise QingtuError("a store without a bus only reads")
        at = (stream, partition)
        if at in self._under_way:
            self._settle(self._under_way[at])
        state = self._held(stream, partition)
        if state is None:
            self.take(stream, partition)
            state = self._states[at]
        self._follow_up(stream, partition)
        new, origin = fresh(stream, frames, state.progress.origin)
        # The commit before has perhaps not been told yet: it is told with this one.
        untold = state.hours if at in self._behind else ()
        after = replace(state, progress=Progress(next_offset, origin), pending=(), hours=untold)
        commit = _Commit(at, after)
        carry = self._plan_by[stream](partition, new, after) if new else lambda: (after, Applied())
        commit.done = self._errands.give(partial(self._carry_out, commit, carry, untold))
        self._under_way[at] = commit
        return partial(self._settle, commit)

    def _carry_out(self, commit: _Commit, carry: Carry, untold: Sequence[int]) -> None:
        """Write, then save; in a thread beside."""
        assert self._bus is not None
        after, commit.applied = carry()
        commit.after = replace(after, hours=sorted({*untold, *after.hours}))
        stream, partition = commit.at
        try:
            self._bus.save_state(GROUPS[stream], partition, delta(self._saved[commit.at], commit.after))
        except RetryLater:
            commit.unsaved = True
            raise

    def _settle(self, commit: _Commit) -> Applied:
        """Wait until a commit is saved: only then it counts.

        Raises:
            RetryLater: it is not; the same frames must be applied again.
            QingtuError: the server refuses rows of Qingtu's own books.
        """
        first, commit.settled, at = not commit.settled, True, commit.at
        if first:
            self._under_way.pop(at, None)
        try:
            commit.done.result()
        except RetryLater:
            if first and commit.unsaved:
                # Perhaps the partition went to another process: what is in memory is not trusted any more.
                self.release(*at)
            raise
        if first:
            with self._lock:
                self._states[at] = self._saved[at] = commit.after
            self._behind.add(at)
            # When this fails all is saved, and the same frames come again: they are skipped, and this is tried again.
            self._follow_up(*at)
        return commit.applied

    def _stands(self) -> None:
        """Wait until what is being written stands, for who asks the server what does."""
        wait([commit.done for commit in self._under_way.values()])

    def catch_up(self, *, now: bool = False) -> None:
        """Tell others what they were not told yet, once that is due, or ``now``. For the writing thread.

        Raises:
            RetryLater: the server does not answer now; it is told later.
        """
        for stream, partition in sorted(self._behind):
            self._follow_up(stream, partition, now=now)

    def _follow_up(self, stream: str, partition: int, *, now: bool = False) -> None:
        """Write what tells others about the newest commits, and their lines of the quarantine's book, when it is due.

        People wait for the quarantine's book: its lines follow at once.
        """
        at = (stream, partition)
        if at not in self._behind:
            return
        state, began = self._states[at], time.monotonic()
        if not (now or state.pending) and began - self._followed_s.get(at, -_FOLLOW_S) < _FOLLOW_S:
            return
        lines = [
            *state.pending,
            *ledger_lines(state.books, state.hours, partition),
            progress_line(stream, partition, state),
        ]
        self._own(self._settings.daily, Lines.of(lines))
        if stream == PROCESSED:
            self._purge(partition)
        self._behind.discard(at)
        self._followed_s[at] = began

    def _own(self, bucket: str, lines: Lines) -> None:
        """Write lines of our own books: all must be taken.

        Raises:
            QingtuError: the server refuses some: nothing that belongs to them is saved.
        """
        for first, last in requests(lines, self._settings.batch_lines):
            try:
                self._client.write(bucket, lines.part(first, last))
            except Refused as refused:
                guilty = isolate(lines.take(np.arange(first, last)), self._to(bucket))
                # A correction that is too old for the bucket is of a reading that is too old as well.
                left = {at: w for at, w in guilty.items() if _TOO_OLD not in w}
                if left:
                    at, words = next(iter(left.items()))
                    raise QingtuError(
                        f"InfluxDB 拒收青图自身的记录 / bucket {bucket} does not take {len(left)} of Qingtu's own "
                        f"rows, such as {lines.line(first + at)[:80]!r}: {words}; if others write into this bucket "
                        "under the same names, give Qingtu one of its own (influx.bucket)"
                    ) from refused

    def _to(self, bucket: str) -> Callable[[bytes], None]:
        return lambda text: self._client.write(bucket, text)

    # ----------------------------------------------------------------------------------------- one stream each

    def _processed(self, partition: int, frames: Sequence[Frame], state: StreamState) -> Carry:
        origin = frames[0].origin
        assert origin is not None
        # The row that says a promote is the first of its frame: what has its position came before this frame.
        base = max(position(origin[1], 0), state.promoted + 1)
        plan = self._readings.plan(frames, base, self._stands)
        events = self._events.plan(frames, state.high_event, self._stands)
        return partial(self._write_processed, partition, frames, state, plan, events)

    def _write_processed(
        self, partition: int, frames: Sequence[Frame], state: StreamState, plan: Plan, events: EventPlan
    ) -> tuple[StreamState, Applied]:
        assert self._bus is not None
        self._readings.write(plan, lambda lines: self._own(self._settings.bucket, lines))
        guilty = guilty_messages(plan, self._names.keys, self._write_events(events))
        rejected: list[str] = []
        for number in sorted({frame for frame, _ in guilty}):
            mine = {row: one for (frame, row), one in guilty.items() if frame == number}
            rejected += refused_lines(self._bus, partition, frames[number], mine, state.refused_seq + len(rejected))
        if rejected:
            words = next(iter(guilty.values())).words
            self._log.warning("rows_refused", messages=len(rejected), words=words, next="they are in quarantine")
        self._own(self._settings.daily, Lines.of(rejected))
        changes, placed = self._bookkeeper.count(partition, frames, plan, guilty, state.rejected_from)
        days = np.unique(plan.rows.time[plan.counts(NEW)] // DAY, return_counts=True)
        pending, seq = entry_lines(partition, frames, changes, placed, state.seq)
        after = replace(
            state.counted(changes.counts, dict(zip(*(column.tolist() for column in days), strict=True))),
            seq=seq,
            refused_seq=state.refused_seq + len(rejected),
            high=max(state.high, int(plan.rows.time.max(initial=state.high))),
            high_event=max(state.high_event, events.newest),
            pending=pending,
        )
        counts = {name: int(plan.counts(code).sum()) for code, name in COUNTED.items()}
        return after, Applied(len(frames), counts["r_stored"], counts["r_revised"], counts["r_repeated"])

    def _write_events(self, plan: EventPlan) -> dict[tuple[int, int], str]:
        """Write events; return (index of frame, raw row) → words of those that the server refused."""
        if not len(plan.lines):
            return {}
        write = self._to(self._settings.bucket)
        try:
            write(plan.lines.part(0, len(plan.lines)))
        except Refused:
            guilty = isolate(plan.lines, write)
            return {(plan.frame[at], plan.row[at]): words for at, words in guilty.items()}
        return {}

    def _alerts(self, partition: int, frames: Sequence[Frame], state: StreamState) -> Carry:
        return partial(self._numbered, "alerts", alert_line, partition, frames, state)

    def _rejected(self, partition: int, frames: Sequence[Frame], state: StreamState) -> Carry:
        return partial(self._numbered, "rejected", rejected_line, partition, frames, state)

    def _numbered(
        self, section: str, line: Callable[[Any, int, int], str], partition: int, frames: Sequence[Frame],
        state: StreamState,
    ) -> tuple[StreamState, Applied]:  # fmt: skip
        seq, lines = state.seq, []
        for frame in frames:
            columns = columns_of(frame.sections[section])
            for row in zip(*columns.values(), strict=True):
                lines.append(line(dict(zip(columns, row, strict=True)), partition, seq))
                seq += 1
        self._own(self._settings.daily, Lines.of(lines))
        return replace(state, seq=seq), Applied(len(frames))

    def _plan_figures(self, partition: int, frames: Sequence[Frame], state: StreamState) -> Carry:
        del partition
        return partial(self._write_figures, frames, state)

    def _write_figures(self, frames: Sequence[Frame], state: StreamState) -> tuple[StreamState, Applied]:
        for bucket, lines in self._figures.lines(frames).items():
            self._own(bucket, Lines.of(lines))
        return state, Applied(len(frames))

    # ------------------------------------------------------------------------------------------------ the rest

    def _kept_from(self) -> int:
        return (
            max((state.kept_from for state in self._applied()), default=NEVER)
            if self._all_own()
            else super()._kept_from()
        )

    def expired(self) -> int:
        """Return how many readings were deleted because of their age, ever."""
        return sum(state.expired for state in self._applied()) if self._all_own() else super().expired()

    def _rejected_from(self) -> int:
        if not self._all_own():
            return super()._rejected_from()
        return max((state.rejected_from for state in self._applied()), default=NEVER)

    def _gone(self) -> list[Mapping[tuple[str, str], tuple[int, int]]]:
        return [state.gone for state in self._applied()] if self._all_own() else super()._gone()

    def _applied(self) -> list[StreamState]:
        with self._lock:
            return [state for (stream, _), state in self._states.items() if stream == PROCESSED]

    def _all_own(self) -> bool:
        return self._bus is not None and len(self._applied()) == self._bus.partitions

    def describe(self, catalogue: Catalogue, at_us: int) -> None:
        """Write the stations of a catalogue that is in use from now on, for dashboards. For the writing thread.

        Raises:
            RetryLater: the server does not answer now; nothing depends on it.
        """
        self._own(self._settings.bucket, Lines.of(station_lines(catalogue, at_us)))

    def close(self) -> None:
        """Let go of connections; what is not saved yet is applied again."""
        self._errands.close()
        super().close()

    def expire(self, before_us: int, rejected_before_us: int | None = None) -> int:
        """Take what is old out of the dataset, by whole days; return how many readings.

        The server deletes readings, corrections and events by its retention, messages of the quarantine are deleted
        once this is saved, with the next commit. The books stay as they are. For the writing thread, as :meth:`apply`.

        Args:
            before_us: readings, events and corrections of phenomena before this time.
            rejected_before_us: messages of the quarantine received before this time; None: all are kept.

        Raises:
            RetryLater: the server does not answer; nothing was expired.
        """
        for commit in list(self._under_way.values()):
            self._settle(commit)
        day = before_us // DAY
        at = NEVER if rejected_before_us is None else rejected_before_us // DAY * DAY
        states = {p: state for (stream, p), state in self._own_states().items() if stream == PROCESSED}
        older = [p for p, state in states.items() if at > state.rejected_from]
        gone = self._leaving(at, {p: states[p].rejected_from for p in older}) if older else {}
        expired = 0
        with self._lock:
            for partition, state in states.items():
                after, count = state.aged(day * DAY, day)
                expired += count
                if partition in older:
                    after = after.forgot(at, gone.get(partition, {}))
                    self._to_purge[partition] = at
                self._states[PROCESSED, partition] = after
        return expired

    def _purge(self, partition: int) -> None:
        """Delete messages of the quarantine whose expiry is saved."""
        state = self._saved[PROCESSED, partition]
        before = self._to_purge.get(partition, NEVER)
        if before == NEVER or state.rejected_from < before:
            return
        purge(self._client, self._settings, partition, before)
        del self._to_purge[partition]
