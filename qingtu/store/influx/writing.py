"""How readings are written: what is newer than its series without looking, the rest after reading what stands there.

A plan says what a batch of frames does: making it only reads. Then it is written, corrections first, and what the
server does not take is told apart. Plans are made by one thread; each may be written in a thread of its own, while the
next is made. What is planned is looked at as if it stood: who asks what stands, waits until all that was planned before
is written. So what is new to a plan is new, and the same frames may be planned and written again at any time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qingtu.grouped import NEVER, advance
from qingtu.records import is_verdict, times_of
from qingtu.store.influx.corrections import Corrections, correction_lines
from qingtu.store.influx.existing import before
from qingtu.store.influx.lines import Explicit, Lines, ReadingText, plain
from qingtu.store.influx.refusals import deliver, isolate
from qingtu.store.merging import NEW, NONE, REVISED, UNCHANGED, Versions, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from qingtu.records import Frame
    from qingtu.store.influx.client import InfluxClient
    from qingtu.store.names import SeriesNames


@dataclass(frozen=True, slots=True)
class Rows:
    """Readings of several frames, shape (m,) each, in order.

    Attributes:
        frame: int32, index of the frame.
        series: int32, number of the series.
        time: int64, µs UTC.
        versions: what the frames say.
    """

    frame: NDArray[np.int32]
    series: NDArray[np.int32]
    time: NDArray[np.int64]
    versions: Versions

    def take(self, which: NDArray[Any]) -> Rows:
        """Return some of them: a mask or places."""
        return Rows(self.frame[which], self.series[which], self.time[which], self.versions.take(which))


@dataclass(frozen=True, slots=True)
class Written:
    """Readings as they stand in lines, shape (w,) but for ``first``.

    Attributes:
        source: int64, the row of the batch that each comes from.
        first: int64 (lines,), the first reading of each line.
        shared: bool (lines,), see :meth:`ReadingText.text`.
        explicit: see there.
        lines: the text.
    """

    source: NDArray[np.int64]
    first: NDArray[np.int64]
    shared: NDArray[np.bool_]
    explicit: Explicit
    lines: Lines


@dataclass(slots=True)
class Plan:
    """What a batch of m readings does.

    Attributes:
        rows: the readings.
        state: uint8 (m,), NEW, REVISED or UNCHANGED.
        group: int64 (m,), rows of one number are of one key that is merged; -1: a key that comes once and is new.
        corrections: lines that say what is replaced.
        written: what is written.
        refused: row → the server's words; known once it is written.
    """

    rows: Rows
    state: NDArray[np.uint8]
    group: NDArray[np.int64]
    corrections: Lines
    written: Written
    refused: dict[int, str] = field(default_factory=dict)

    def counts(self, state: int) -> NDArray[np.bool_]:
        """Say which rows (m,) came to this state and were not refused."""
        out: NDArray[np.bool_] = self.state == state
        if self.refused:
            out[list(self.refused)] = False
        return out


class ReadingWriter:
    """Writes the readings of one process into one bucket.

    Args:
        client: the server.
        bucket: for readings and corrections.
        names: numbers of series.
        batch_lines: of one request.
    """

    def __init__(self, client: InfluxClient, bucket: str, names: SeriesNames, batch_lines: int) -> None:
        self._client = client
        self._bucket = bucket
        self._names = names
        self._batch = batch_lines
        self._text = ReadingText(names)
        self._texts = threading.Lock()
        self._floor = NEVER
        self._newest: NDArray[np.int64] = np.zeros(0, np.int64)
        self._line_newest: NDArray[np.int64] = np.zeros(0, np.int64)

    def raise_floor(self, time_us: int) -> None:
        """Say that series may hold readings up to this time that this process does not know of."""
        self._floor = max(self._floor, time_us)
        np.maximum(self._newest, self._floor, out=self._newest)
        np.maximum(self._line_newest, self._floor, out=self._line_newest)

    def plan(self, frames: Sequence[Frame], base: int, stands: Callable[[], None]) -> Plan:
        """Work out what the frames do.

        Args:
            frames: in order.
            base: positions from here on belong to these frames or later ones.
            stands: returns when all that was planned before is written, or failed.

        Raises:
            RetryLater: what is stored cannot be read now.
        """
        rows = self._rows(frames)
        self._grow()
        fast = _newer(rows, self._newest)
        state = np.full(len(rows.time), NEW, np.uint8)
        group = np.full(len(rows.time), -1, np.int64)
        merged, corrections = None, Lines.of(())
        if not fast.all():
            stands()
            which = _with_equal_keys(rows, fast)
            merged = self._merge(rows.take(which), fast[which], base)
            state[which], group[which] = merged.state, merged.group
            corrections = correction_lines(self._names.keys, merged.corrections)
            fast[which] = False
            merged.source = which[merged.source]
        written = self._written(rows, np.flatnonzero(fast), merged)
        return Plan(rows, state, group, corrections, written)

    def _rows(self, frames: Sequence[Frame]) -> Rows:
        parts = [_frame_rows(number, frame, self._names) for number, frame in enumerate(frames)]
        self._names.saved()
        if len(parts) == 1:
            return parts[0]
        versions = Versions(*(np.concatenate([getattr(p.versions, n) for p in parts]) for n in Versions.__slots__))
        frame, series, time = (np.concatenate([getattr(p, n) for p in parts]) for n in ("frame", "series", "time"))
        return Rows(frame, series, time, versions)

    def _grow(self) -> None:
        """Make room for new series and lines among the newest times."""
        with self._texts:
            self._text.grow()
        self._newest = _longer(self._newest, len(self._names), self._floor)
        self._line_newest = _longer(self._line_newest, self._text.lines, self._floor)

    def _merge(self, rows: Rows, fast: NDArray[np.bool_], base: int) -> _Merged:
        """Merge rows, sorted by key and order of effect, into what is stored."""
        starts = np.ones(len(rows.time), np.bool_)
        starts[1:] = (rows.series[1:] != rows.series[:-1]) | (rows.time[1:] != rows.time[:-1])
        group = np.cumsum(starts) - 1
        keys = int(group[-1]) + 1
        # What is newer than its series is not stored: there is nothing to ask for.
        asked = np.setdiff1d(np.arange(keys), group[fast])
        heads = np.flatnonzero(starts)[asked]
        stood = before(self._client, self._bucket, self._names, rows.series[heads], rows.time[heads], base)
        place = asked[stood.place]
        first = np.full(keys, NONE, np.int64)
        held = int(stood.present.sum())
        first[place[stood.present]] = np.arange(held)
        versions = rows.versions.behind(stood.versions.take(stood.present))
        merged = merge(group, first, versions)
        # A commit that was cut off may have left something under keys that are not asked for: all is said of them.
        found, void = np.ones(keys, np.bool_), np.ones(keys, np.bool_)
        found[asked], void[asked] = False, False
        steps = np.zeros(keys, np.int64)
        found[place], void[place], steps[place] = True, stood.void, stood.steps
        revised = merged.state == REVISED
        earlier = np.cumsum(revised) - revised
        step = (steps[group] + earlier - earlier[starts][group])[revised]
        corrections = Corrections(
            rows.series[revised], rows.time[revised], step,
            versions.take(merged.replaced[revised]), rows.versions.take(revised),
        )  # fmt: skip
        changed = np.flatnonzero((merged.now != first) & (merged.now != NONE))
        source = merged.now[changed] - held
        steps += np.bincount(group[revised], minlength=keys)
        told = np.where(found | (steps > 0), steps, -1)[changed]
        missing = np.isnan(rows.versions.value[source])
        withdrawn = np.where(missing & found[changed], 1, np.where(void[changed], 0, -1)).astype(np.int8)
        return _Merged(merged.state, group, corrections, source, told, withdrawn)

    def _written(self, rows: Rows, fast: NDArray[np.int64], merged: _Merged | None) -> Written:
        """Put readings into lines: a point that is new says its revision once, all others beside each reading."""
        line, time = self._text.line_of[rows.series[fast]], rows.time[fast]
        if ((line[1:] < line[:-1]) | ((line[1:] == line[:-1]) & (time[1:] < time[:-1]))).any():
            order = np.lexsort((time, line))
            fast, line, time = fast[order], line[order], time[order]
        starts = np.ones(len(fast), np.bool_)
        starts[1:] = (line[1:] != line[:-1]) | (time[1:] != time[:-1])
        first = np.flatnonzero(starts)
        shared = time[first] > self._line_newest[line[first]]
        np.maximum.at(self._line_newest, line[first], time[first])
        point = np.cumsum(starts) - 1
        some = rows.versions.take(fast)
        same = shared[point] & (some.revision == some.revision[first][point])
        same &= some.known_us == some.known_us[first][point]
        explicit, source = plain(some, same), fast
        if merged is not None:
            extra = np.arange(len(fast), len(fast) + len(merged.source))
            source, first = np.concatenate([fast, merged.source]), np.concatenate([first, extra])
            shared = np.concatenate([shared, np.zeros(len(extra), np.bool_)])
            explicit = Explicit(
                np.concatenate([explicit.at, extra]),
                np.concatenate([explicit.revision, np.ones(len(extra), np.bool_)]),
                np.concatenate([explicit.steps, merged.steps]),
                np.concatenate([explicit.void, merged.void]),
            )
        return Written(source, first, shared, explicit, self._text_of(rows.take(source), first, shared, explicit))

    def _text_of(self, rows: Rows, first: NDArray[np.int64], shared: NDArray[np.bool_], explicit: Explicit) -> Lines:
        starts = np.zeros(len(rows.time), np.bool_)
        starts[first] = True
        with self._texts:
            return self._text.text(rows.series, rows.time, rows.versions, starts, shared, explicit)

    # ----------------------------------------------------------------------------------------------------- writing

    def write(self, plan: Plan, own: Callable[[Lines], None]) -> None:
        """Write corrections, then readings; what the server does not take stands in ``plan.refused`` afterwards.

        Args:
            plan: of :meth:`plan`.
            own: writes lines that must not be refused.

        Raises:
            RetryLater: not all is written; plan and write again.
        """
        plan.refused.clear()
        own(plan.corrections)
        edges = np.append(plan.written.first, len(plan.written.source))
        for first, last in deliver(plan.written.lines, self._send, self._batch):
            self._sift(plan, np.arange(edges[first], edges[last]))

    def _send(self, text: bytes) -> None:
        self._client.write(self._bucket, text)

    def _sift(self, plan: Plan, which: NDArray[np.int64]) -> None:
        """Write some readings again, one a line, so that only those are refused which the server means."""
        steps, void = np.full(len(plan.written.source), -1, np.int64), np.full(len(plan.written.source), -1, np.int8)
        steps[plan.written.explicit.at] = plan.written.explicit.steps
        void[plan.written.explicit.at] = plan.written.explicit.void
        all_ = np.arange(len(which))
        explicit = Explicit(all_, np.ones(len(which), np.bool_), steps[which], void[which])
        source = plan.written.source[which]
        lines = self._text_of(plan.rows.take(source), all_, np.zeros(len(which), np.bool_), explicit)
        for at, words in isolate(lines, self._send).items():
            row = int(source[at])
            same = np.flatnonzero(plan.group == plan.group[row]) if plan.group[row] >= 0 else np.array([row])
            plan.refused.update(dict.fromkeys(same[plan.state[same] != UNCHANGED].tolist(), words))


@dataclass(slots=True)
class _Merged:
    """What merging k rows gave: state and group are (k,), the rest is of what is written."""

    state: NDArray[np.uint8]
    group: NDArray[np.int64]
    corrections: Corrections
    source: NDArray[np.int64]
    steps: NDArray[np.int64]
    void: NDArray[np.int8]


def _longer(times: NDArray[np.int64], count: int, floor: int) -> NDArray[np.int64]:
    """Return times with those of more series behind them, of which only an upper bound is known."""
    if len(times) == count:
        return times
    return np.concatenate([times, np.full(count - len(times), floor, np.int64)])


def _frame_rows(number: int, frame: Frame, names: SeriesNames) -> Rows:
    batch = frame.get("readings")
    if batch is None:
        nothing = Versions(*(np.zeros(0, kind) for kind in ("f8", "u1", "u4", "i8", "i8", "u1")))
        return Rows(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), nothing)
    value, flag, tests, revision, cause = (
        np.asarray(batch.column(name)) for name in ("value", "flag", "tests", "revision", "cause")
    )
    versions = Versions(value, flag, tests, revision, times_of(batch.column("known_at")), cause)
    series = names.numbers(batch)
    return Rows(np.full(len(series), number, np.int32), series, times_of(batch.column("time")), versions)


def _newer(rows: Rows, newest: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which rows are newer than all before them in their series, and move ``newest``."""
    order = np.flatnonzero(~is_verdict(rows.versions.cause))
    if (rows.series[order][1:] < rows.series[order][:-1]).any():
        order = order[np.argsort(rows.series[order], kind="stable")]
    series, time = rows.series[order], rows.time[order]
    out = np.zeros(len(rows.series), np.bool_)
    if len(order):
        out[order] = time > advance(series, time, newest)
    return out


def _with_equal_keys(rows: Rows, fast: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rows that are not newer than their series and those of the same keys, by key and order of effect."""
    slow = np.flatnonzero(~fast)
    touched = np.zeros(int(rows.series.max()) + 1, np.bool_)
    touched[rows.series[slow]] = True
    near = np.flatnonzero(fast & touched[rows.series])
    both = np.concatenate([slow, near])
    times, when = np.unique(rows.time[both], return_inverse=True)
    code = rows.series[both].astype(np.int64) * len(times) + when
    which = np.sort(both[np.isin(code, code[: len(slow)])])
    # lexsort is stable: a verdict stays behind the value of the same message that it is about.
    return which[np.lexsort((rows.versions.revision[which], rows.time[which], rows.series[which]))]
