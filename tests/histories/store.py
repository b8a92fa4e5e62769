"""The primary store as a model: plain dictionaries that say what a store must hold, and nothing clever.

It fulfils what stages, ledger and derive need of :class:`qingtu.contracts.Store` and passes tests/suites/store.py.
The books are the real ones (:mod:`qingtu.store.books`); rows and their versions are worked out one by one.
:func:`fresh` is where frames that came before are left out: a store shared by two writers needs nothing else.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from qingtu.contracts import Applied, FigureQuery, Progress, ReadingQuery, Store
from qingtu.errors import QingtuError
from qingtu.records import (
    ALERTS,
    FIGURES,
    OVERRIDDEN,
    PROCESSED,
    RAW_ROWS,
    VERDICTS,
    Cause,
    Frame,
    Outcome,
    codes_of,
    times_of,
)  # fmt: skip
from qingtu.store import books

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

Key = tuple[str, str, str]
_NAMES: Final = ("value", "flag", "tests", "revision")
_SCHEMA: Final = pa.schema(
    [
        ("series", pa.int32()), ("time", pa.int64()), ("value", pa.float64()), ("flag", pa.uint8()),
        ("tests", pa.uint32()), ("revision", pa.int64()), ("known_at", pa.int64()),
    ]
)  # fmt: skip

_FIGURES: Final = pa.schema(
    [
        ("series", pa.int32()), ("what", pa.string()), ("start", pa.int64()), ("value", pa.float64()),
        ("count", pa.int64()), ("expected", pa.int64()), ("valid", pa.bool_()), ("reason", pa.string()),
        ("inputs", pa.string()), ("revision", pa.int64()), ("known_at", pa.int64()),
    ]
)  # fmt: skip


class Version(NamedTuple):
    """One value that a key has had; ``value`` is None when it is missing."""

    value: float | None
    flag: int
    tests: int
    revision: int
    known: int


class FullStore(Store, Protocol):
    """A primary store with all that a history asks of it; the real DuckDB store is one too."""

    def ledger(self) -> tuple[dict[books.Key, dict[str, int]], dict[int, int]]:
        """Return the books, and by partition the raw offset up to which they count."""
        ...

    def count(self, table: str) -> int:
        """Return the number of rows."""
        ...

    def expired(self) -> int:
        """Return how many readings were deleted because of their age."""
        ...

    def in_quarantine(self, reason: str | None = None) -> list[tuple[int, int]]:
        """Return (partition, position) of the messages in quarantine."""
        ...

    def raw_rows(self, ids: Sequence[tuple[int, int]]) -> pa.RecordBatch:
        """Return their raw rows."""
        ...


def fresh(frames: Sequence[Frame], origin: int) -> list[Frame]:
    """Return the frames that were not applied before: whose origin is newer than ``origin`` and than all before."""
    out = []
    for frame in frames:
        if frame.origin is None:
            raise QingtuError("a frame has no origin")
        if frame.origin[1] > origin:
            out.append(frame)
            origin = frame.origin[1]
    return out


class ModelStore:
    """See :class:`FullStore`. Nothing in here fails half-way: failures are injected around it.

    Attributes:
        chains: (series, time µs) → versions, oldest first; the last one is current.
        events, alerts, rejected: rows in the order of arrival, rejected with the partition in front.
        figures: (what, station, property, channel, start) → row.
        figure_chains: the same → all rows that it has had, oldest first.
        figure_corrections: (key, old row, new row), each of value, count, valid and revision.
    """

    def __init__(self) -> None:
        self.chains: dict[tuple[Key, int], list[Version]] = {}
        self.events: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.alerts: list[dict[str, Any]] = []
        self.rejected: list[tuple[int, dict[str, Any]]] = []
        self.figures: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.figure_chains: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        self.figure_corrections: list[tuple[Any, ...]] = []
        self.quarantined: dict[tuple[int, int], books.BookEntry] = {}
        self._raw: dict[tuple[int, int], pa.RecordBatch] = {}
        self._times: dict[Key, set[int]] = defaultdict(set)
        self._books: dict[books.Key, NDArray[np.int64]] = {}
        self._progress: dict[tuple[str, int], Progress] = {}

    # ------------------------------------------------------------------------------------------------ writing

    def progress(self, stream: str, partition: int) -> Progress:
        """Return how far committed effects reach."""
        return self._progress.get((stream, partition), Progress(0, -1))

    def apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Applied:
        """Apply frames as one; see the contract."""
        before = self.progress(stream, partition)
        new = fresh(frames, before.origin)
        counts = [0, 0, 0]
        if stream == PROCESSED:
            counts = self._processed(partition, new)
        else:
            take = {ALERTS: self._alerts, FIGURES: self._figures}.get(stream)
            for frame in new:
                if take is None:
                    self._rejected(partition, frame)
                else:
                    take(frame)
        last = max((f.origin[1] for f in new if f.origin), default=before.origin)
        self._progress[stream, partition] = Progress(next_offset, max(before.origin, last))
        return Applied(len(new), *counts)

    def _processed(self, partition: int, frames: Sequence[Frame]) -> list[int]:
        changes = books.Changes()
        counts = [0, 0, 0]
        keyed = [(frame, books.count_manifest(frame, partition, changes)) for frame in frames]
        driven = [self._readings(frame, keys, changes, counts) for frame, keys in keyed]
        for (frame, keys), by_row in zip(keyed, driven, strict=True):
            if keys is not None and keys.redriven:
                entries = {at: e for at, e in {**self.quarantined, **changes.quarantined}.items() if at[0] == partition}
                books.move(frame, partition, entries, by_row, changes)
        for frame in frames:
            for row in _rows(frame.get("events")):
                self.events.setdefault((row["station"], row["kind"], row["time"], row["attributes"]), row)
        for key, amount in changes.counts.items():
            self._books[key] = self._books.get(key, np.zeros(len(books.COLUMNS), np.int64)) + amount
        self.quarantined |= changes.quarantined
        return counts

    def _readings(
        self, frame: Frame, keys: books.ManifestKeys | None, changes: books.Changes, counts: list[int]
    ) -> dict[int, list[int]]:
        """Apply the readings of a frame; return raw row → new, revised, unchanged of those driven again."""
        driven: dict[int, list[int]] = {}
        # Within a frame as revisions count; stable, so a verdict stays behind the value of its own message.
        for row in sorted(_reading_rows(frame), key=lambda r: r[2].revision):
            key, time, version, cause = row
            state = self._put(key, time, version, cause)
            counts[state] += 1
            if keys is None:
                continue
            at = version.revision & 0xFFFF
            book = keys.keys[keys.of_row[at]]
            if cause == Cause.READING:
                changes.add(book, ("r_stored", "r_revised", "r_repeated")[state], 1)
            elif cause == Cause.QUALITY_DECIDED and state == 1:
                changes.add(book, "reflagged", 1)
            elif cause == Cause.REDRIVE:
                driven.setdefault(at, [0, 0, 0])[state] += 1
        return driven

    def _put(self, key: Key, time: int, new: Version, cause: int) -> int:
        """Apply one row; return 0 when it is new, 1 when it replaced one, 2 when it changed nothing."""
        chain = self.chains.get((key, time))
        verdict = cause in VERDICTS
        if chain is None:
            if verdict:
                return 2
            self.chains[key, time] = [new]
            self._times[key].add(time)
            return 0
        old = chain[-1]
        judged = old.value == new.value and old.revision <= new.revision
        said = old.value == new.value and old.tests & OVERRIDDEN and not new.tests & OVERRIDDEN
        if not (judged if verdict else old.revision < new.revision and not said) or old[:3] == new[:3]:
            return 2
        chain.append(new)
        return 1

    def _alerts(self, frame: Frame) -> None:
        self.alerts.extend(_rows(frame.get("alerts")))

    def _rejected(self, partition: int, frame: Frame) -> None:
        batch = frame.sections["rejected"]
        first = len(batch.schema) - len(RAW_ROWS)
        raw = pa.RecordBatch.from_arrays(batch.columns[first:], schema=RAW_ROWS)
        for i, row in enumerate(_rows(batch.select(range(first)))):
            self.rejected.append((partition, row))
            self._raw[partition, row["position"]] = raw.slice(i, 1)

    def _figures(self, frame: Frame) -> None:
        for row in sorted(_rows(frame.get("figures")), key=lambda r: r["revision"]):
            key = tuple(row[name] for name in ("what", "station", "property", "channel", "start"))
            chain = self.figure_chains[key]
            if chain and _published(chain[-1]) == _published(row):
                continue
            if chain:
                old, new = (
                    [side[name] for name in ("value", "count", "valid", "revision")] for side in (chain[-1], row)
                )
                self.figure_corrections.append((key, *old, *new))
            chain.append(row)
            self.figures[key] = row

    # ------------------------------------------------------------------------------------------------ reading

    def ledger(self) -> tuple[dict[books.Key, dict[str, int]], dict[int, int]]:
        """Return outcomes by (network, hour), and by partition the raw offset up to which they count."""
        counts = {key: dict(zip(books.COLUMNS, row.tolist(), strict=True)) for key, row in self._books.items()}
        return counts, {p: at.origin for (stream, p), at in self._progress.items() if stream == PROCESSED}

    def readings(self, query: ReadingQuery) -> pa.Table:
        """Return readings in order of series and time; see :class:`qingtu.store.queries.Queries`."""
        out: list[tuple[int, int, Version]] = []
        for place, key in enumerate(query.series):
            for time in self._times.get(key, ()):
                if query.start_us <= time < query.end_us:
                    seen = [
                        v
                        for v in self.chains[key, time]
                        if (query.as_of is None or v.revision <= query.as_of)
                        and (query.known_by_us is None or v.known <= query.known_by_us)
                    ]
                    if seen:
                        out.append((place, time, seen[-1]))
        if query.limit is not None:
            out = sorted(out, key=lambda row: -row[1])[: query.limit]
        out.sort(key=lambda row: row[:2])
        columns = list(zip(*((place, time, *version) for place, time, version in out), strict=True))
        return pa.table(list(map(list, columns)) or [[] for _ in _SCHEMA], schema=_SCHEMA)

    def figures_of(self, query: FigureQuery) -> pa.Table:
        """Return figures in order of series, start and what; see :class:`qingtu.contracts.Store`."""
        out = []
        for (what, *key, start), chain in self.figure_chains.items():
            place = {one: i for i, one in enumerate(query.series)}.get((key[0], key[1], key[2]))
            if place is None or not query.start_us <= start < query.end_us or query.what not in (None, what):
                continue
            seen = [
                row
                for row in chain
                if (query.before is None or row["revision"] < query.before)
                and (query.known_by_us is None or row["known_at"] <= query.known_by_us)
            ]
            if seen:
                out.append({**seen[-1], "series": place})
        out.sort(key=lambda row: (row["series"], row["start"], row["what"]))
        return pa.Table.from_pylist(out, _FIGURES)

    def latest(self) -> dict[Key, tuple[int, Version]]:
        """Return the newest reading of every series: time and version."""
        return {key: (at := max(times), self.chains[key, at][-1]) for key, times in self._times.items()}

    def count(self, table: str) -> int:
        """Return the number of rows of readings."""
        assert table == "readings"
        return len(self.chains)

    def expired(self) -> int:
        """Return 0: nothing expires here."""
        return 0

    def rejected_expired(self) -> int:
        """Return 0: nothing expires here."""
        return 0

    def quarantine_expired(self) -> list[dict[str, Any]]:
        """Return nothing: nothing expires here."""
        return []

    def in_quarantine(self, reason: str | None = None) -> list[tuple[int, int]]:
        """Return (partition, position) of every message that is in quarantine now and whose raw row is known."""
        assert reason is None
        return sorted(at for at, e in self.quarantined.items() if e.outcome == Outcome.QUARANTINED and at in self._raw)

    def raw_rows(self, ids: Sequence[tuple[int, int]]) -> pa.RecordBatch:
        """Return the raw rows of rejected messages, in the order of ``ids``."""
        table = pa.Table.from_batches([self._raw[at] for at in ids], RAW_ROWS)
        return table.unify_dictionaries().combine_chunks().to_batches()[0]

    def close(self) -> None:
        """Nothing to let go of."""


def _reading_rows(frame: Frame) -> list[tuple[Key, int, Version, int]]:
    batch = frame.get("readings")
    if batch is None:
        return []
    parts = [codes_of(batch.column(name)) for name in ("station", "property", "channel")]
    keys = zip(*([names[c] for c in codes.tolist()] for codes, names in parts), strict=True)
    value, flag, tests, revision = (batch.column(name).to_pylist() for name in _NAMES)
    known = times_of(batch.column("known_at")).tolist()
    versions = map(Version, [None if math.isnan(v) else v for v in value], flag, tests, revision, known)
    times, causes = times_of(batch.column("time")).tolist(), batch.column("cause").to_pylist()
    return list(zip(keys, times, versions, causes, strict=True))


def _published(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("value", "count", "expected", "valid", "reason")
    return (*(row[name] for name in names), json.loads(row["inputs"]).get("stats"))


def _rows(batch: pa.RecordBatch | None) -> list[dict[str, Any]]:
    """Return rows as dictionaries; times are µs, NaN is None."""
    if batch is None:
        return []
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            columns[name] = times_of(column).tolist()
        elif pa.types.is_floating(column.type):
            columns[name] = [None if v is None or math.isnan(v) else v for v in column.to_pylist()]
        else:
            columns[name] = column.to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


if TYPE_CHECKING:
    _check: Callable[[ModelStore], FullStore] = lambda store: store  # noqa: E731 - mypy proves the contract
