"""Hour values of every series: the first figure, and the pattern of all that derive makes.

A figure is a function of the store. Readings only *touch* windows; at a tick that lies a grace behind a window's
end, and once the store has applied everything up to that tick, the touched windows are evaluated as of the tick's
position. So a restart, or a store that is further already, gives the same figure. A window that is touched again
later (late, revised, re-driven) is evaluated again, and a changed figure is a correction. Frames that `process`
emits again after a crash are told by their origin and skipped: their ticks would take figures back to what was
known then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa

from processors.aggregates import KINDS
from qingtu import records
from qingtu.clock import HOUR, SECOND
from qingtu.contracts import ReadingQuery
from qingtu.errors import RetryLater
from qingtu.properties import load_properties
from qingtu.records import FIGURES, PROCESSED, Flag, Frame, times_of
from qingtu.state import pack, unpack
from qingtu.store.names import SeriesNames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store

GROUP: Final = "derive"
WHAT: Final = "hour"
VALID_SHARE: Final = 0.75
"""Share of the expected readings that an hour needs: 45 of 60 minutes, GB 3095-2026 table 4."""
_MAIN: Final = "main"
_WINDOWS: Final = 50_000
"""Windows that are evaluated at one tick at most; the others wait for the next."""


class Hours:
    """Operator over ``processed`` that makes hour figures. See :class:`qingtu.contracts.Operator`.

    Args:
        store: read for the readings of a window.
        catalogues: returns the archived catalogue of a version.
        grace_s: a window is evaluated so long after its end.
        partition: the one that this is for.
    """

    group = GROUP
    source = PROCESSED

    def __init__(self, store: Store, catalogues: Callable[[str], Catalogue], grace_s: int, partition: int = 0) -> None:
        self._store = store
        self._catalogues = catalogues
        self._grace_us = grace_s * SECOND
        self._partition = partition
        self.restore(None)

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up the touched windows."""
        self._names = SeriesNames()
        self._touched: set[tuple[int, int]] = set()
        self._newest_hour = np.zeros(0, np.int64)
        self._catalogue: Catalogue | None = None
        self._origin = -1
        if parts:
            arrays, values = unpack(parts[_MAIN])
            self._origin = values["origin"]
            self._names = SeriesNames([(i, *key) for i, key in enumerate(values["keys"])])
            self._touched = set(map(tuple, arrays["touched"].tolist()))

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Return the touched windows, the names of their series, and the origin of the newest frame."""
        wanted = sorted(self._touched)
        used = sorted({series for series, _ in wanted})
        place = {series: i for i, series in enumerate(used)}
        rows = np.array([(place[s], hour) for s, hour in wanted], np.int64).reshape(-1, 2)
        values = {"keys": [self._names.keys[s] for s in used], "origin": self._origin}
        return {_MAIN: pack({"touched": rows}, values)}, []

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> dict[str, bytes]:
        """Touch windows; at a tick, evaluate those that are due."""
        del only
        ticks = frame.header["ticks"]
        origin = frame.origin
        assert origin is not None
        if origin[1] <= self._origin:
            return {}
        if ticks and self._store.progress(PROCESSED, self._partition).origin < origin[1]:
            raise RetryLater("derive waits for the store", retry_after_s=0.1)
        before = set(self._touched) if ticks else self._touched
        try:
            rows = self._follow(frame, ticks)
        except RetryLater:
            # The store refuses half-way: the whole frame is done again, from what was touched before it.
            self._touched = before
            self._newest_hour[:] = -1
            raise
        self._origin = origin[1]
        if not rows:
            return {}
        clock_us, _, catalogue = ticks[-1]
        header = {"stream": FIGURES, "clock": clock_us, "catalogue": catalogue, "origin": [self._partition, offset]}
        return {FIGURES: records.encode(header, {"figures": _batch(rows)})}

    def _follow(self, frame: Frame, ticks: Sequence[tuple[int, int, str]]) -> list[dict[str, Any]]:
        """Touch and evaluate in the order of raw rows, so that it makes no difference how frames were cut."""
        batch = frame.get("readings")
        revision = np.zeros(0, np.int64) if batch is None else np.asarray(batch.column("revision"))
        rows = []
        done = -1
        for clock_us, at, version in ticks:
            # What stands behind the tick in its frame is not part of what is evaluated at it.
            if batch is not None:
                self._touch(batch.filter(pa.array((revision > done) & (revision <= at))))
            rows += self._evaluate_due(clock_us, at, version)
            done = at
        if batch is not None:
            self._touch(batch.filter(pa.array(revision > done)) if ticks else batch)
        return rows

    def _evaluate_due(self, clock_us: int, at: int, version: str) -> list[dict[str, Any]]:
        """Evaluate the touched windows that a tick at position ``at`` makes due; they are touched no more."""
        due = sorted(w for w in self._touched if (w[1] + 1) * HOUR + self._grace_us <= clock_us)[:_WINDOWS]
        if not due:
            return []
        catalogue = self._use(version)
        rows = [
            row for hour in sorted({h for _, h in due}) for row in self._evaluate(due, hour, at, clock_us, catalogue)
        ]
        self._touched.difference_update(due)
        self._newest_hour[:] = -1
        return rows

    def _use(self, version: str) -> Catalogue:
        if self._catalogue is None or self._catalogue.version != version:
            self._catalogue = self._catalogues(version)
        return self._catalogue

    def _touch(self, batch: pa.RecordBatch) -> None:
        series = self._names.numbers(batch)
        hours = times_of(batch.column("time")) // HOUR
        if len(self._names) > len(self._newest_hour):
            more = np.full(2 * len(self._names) - len(self._newest_hour), -1, np.int64)
            self._newest_hour = np.concatenate([self._newest_hour, more])
        # Nearly all readings fall into the hour that their series touched last.
        new = np.flatnonzero(hours != self._newest_hour[series])
        if len(new):
            self._touched.update(zip(series[new].tolist(), hours[new].tolist(), strict=True))
            self._newest_hour[series[new]] = hours[new]

    def _evaluate(
        self, due: Sequence[tuple[int, int]], hour: int, at: int, clock_us: int, catalogue: Catalogue
    ) -> list[dict[str, Any]]:
        """Evaluate all due windows of one hour with one query, as of the tick's position."""
        keys = [self._names.keys[series] for series, h in due if h == hour]
        table = self._store.readings(ReadingQuery(keys, hour * HOUR, (hour + 1) * HOUR, as_of=at))
        which = np.asarray(table.column("series"))
        value = table.column("value").to_numpy()
        flag = np.asarray(table.column("flag"))
        revision = np.asarray(table.column("revision"))
        edges = np.searchsorted(which, np.arange(len(keys) + 1))
        out = []
        for i, (station, prop, channel) in enumerate(keys):
            part = slice(int(edges[i]), int(edges[i + 1]))
            number = catalogue.series_index(station, prop, channel)
            spec = load_properties().get(prop)
            if number is None or spec is None or spec.agg not in KINDS:
                continue
            good = value[part][(flag[part] <= Flag.NOT_EVALUATED) & ~np.isnan(value[part])]
            expected = max(1, round(3600 / catalogue.series[number].interval_s))
            valid = len(good) >= VALID_SHARE * expected
            newest = int(revision[part].max()) if part.stop > part.start else None
            out.append(
                {
                    "key": (station, prop, channel),
                    "start": hour * HOUR,
                    "value": KINDS[spec.agg](good) if len(good) else float("nan"),
                    "count": len(good),
                    "expected": expected,
                    "valid": valid,
                    "reason": "" if valid else "too_few" if len(good) else "none_good",
                    "inputs": {"kind": spec.agg, "readings": part.stop - part.start, "newest_revision": newest},
                    "revision": at,
                    "known": clock_us,
                }
            )
        return out


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    def names(values: list[str]) -> Any:
        return pa.array(values, pa.string()).dictionary_encode()

    return records.batch(
        records.FIGURE_ROWS,
        {
            "what": records.same_name(WHAT, len(rows)),
            "station": names([r["key"][0] for r in rows]),
            "property": names([r["key"][1] for r in rows]),
            "channel": names([r["key"][2] for r in rows]),
            "start": records.times(np.array([r["start"] for r in rows], np.int64)),
            "value": np.array([r["value"] for r in rows], np.float64),
            "count": np.array([r["count"] for r in rows], np.int32),
            "expected": np.array([r["expected"] for r in rows], np.int32),
            "valid": np.array([r["valid"] for r in rows], np.bool_),
            "reason": names([r["reason"] for r in rows]),
            "inputs": [orjson.dumps(r["inputs"]).decode() for r in rows],
            "revision": np.array([r["revision"] for r in rows], np.int64),
            "known_at": records.times(np.array([r["known"] for r in rows], np.int64)),
        },
    )
