"""Neighbour test: does a station read what the stations around it read?

QARTOD calls this test *neighbor* and leaves the method to the operator. Ours: the mean of a series over one period (the
finest that its figures have: ten minutes or an hour) is compared with the median of the means of the nearest stations
of its network. It needs many stations, which lie in several partitions, so derive of partition 0 makes it, of what all
partitions have; who touches what is told as with areas. What is judged is what the *other* checks left good, so a
verdict never changes what it was made of. The verdict itself goes through raw to the station's partition, where the
ordered pass revises the flags. Why: docs/decisions/0021-neighbours.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from processors.relations.location import distance_m
from qingtu.clock import SECOND
from qingtu.contracts import ReadingQuery
from qingtu.partitions import partition_of
from qingtu.properties import load_properties
from qingtu.records import NEIGHBOUR, OVERRIDDEN, RECEIPT_TIME, Flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from processors.aggregates.areas import AreaPeriod
    from processors.aggregates.evaluate import Due, Row
    from processors.aggregates.plan import Key, Plan
    from processors.aggregates.rules import Level
    from qingtu.catalogue import Catalogue
    from qingtu.catalogue_limits import Neighbour
    from qingtu.contracts import Store
    from qingtu.store.names import SeriesNames

APART: Final = "neighbour"
"""``what`` of the difference between a station and those around it."""
NEAREST: Final = 8
"""So many stations at most are a station's neighbours: the nearest within its radius."""
AT_ONCE: Final = 2000
"""Periods that are judged at one tick at most; the others wait for the next."""
AGAIN_US: Final = 60 * SECOND
"""A verdict that was told is looked for in the store after so long."""
_ROWS: Final = 100_000
"""Of one question about, when series report every :data:`_EVERY_US`."""
_EVERY_US: Final = 60 * SECOND
_BIT: Final = np.uint32(NEIGHBOUR)
_SAID: Final = np.uint32(OVERRIDDEN)
_CHECKS: Final = ~np.uint32(RECEIPT_TIME)


class Group(NamedTuple):
    """Series of one property and channel in one network, compared with each other; n of them.

    Attributes:
        level: number of the level whose periods are compared.
        what: name of that level.
        length_us: of a period.
        keys: shape (n,).
        near: int64 (n, k), places of the neighbours, nearest first; -1: none.
        suspect, share: float64 (n,), how far the mean may be from the median: canonical unit, and part of the median.
        minimum: int64 (n,), neighbours that must have a mean.
    """

    level: int
    what: str
    length_us: int
    keys: tuple[Key, ...]
    near: NDArray[np.int64]
    suspect: NDArray[np.float64]
    share: NDArray[np.float64]
    minimum: NDArray[np.int64]


class Judged(NamedTuple):
    """What comes of judging periods.

    Attributes:
        told: by partition what must be told it, one for each series and period whose readings do not say what the
            verdict says.
        done: periods that need not be looked at again.
        differences: how far each mean is from the median, as figures that rules of kind ``figure`` can watch: what is
            :data:`APART`; they are not stored.
    """

    told: dict[int, list[dict[str, Any]]]
    done: list[AreaPeriod]
    differences: list[Row]


_LENGTH: Final = {"10min": 600 * SECOND, "hour": 3600 * SECOND}


class Neighbours:
    """Groups of one catalogue, and which verdicts are on their way.

    Args:
        store: has the readings of all partitions.
        partitions: how many there are.
    """

    def __init__(self, store: Store, partitions: int) -> None:
        self._store = store
        self._partitions = partitions
        self._again: dict[AreaPeriod, int] = {}
        self._catalogue: Catalogue | None = None
        self._groups: dict[str, Group] = {}
        self._of: dict[Key, str] = {}

    def restore(self, saved: Sequence[Sequence[Any]]) -> None:
        """Take up what :meth:`saved` returned."""
        self._again = {(name, what, start): at for name, what, start, at in saved}

    def saved(self) -> list[list[Any]]:
        """Return all memory as plain data."""
        return [[*period, at] for period, at in sorted(self._again.items())]

    def touched(self, due: Due, plan: Plan, names: SeriesNames) -> set[AreaPeriod]:
        """Return the periods of groups that belong to evaluated windows of one level."""
        self._use(plan)
        out: set[AreaPeriod] = set()
        for window, series in due if self._groups else ():
            found = {self._of.get(names.keys[number]) for number in series.tolist()} - {None}
            groups = [(name, self._groups[name]) for name in found if name is not None]
            out |= {(name, group.what, window.start) for name, group in groups if group.level == window.level}
        return out

    def mine(self, due: Iterable[AreaPeriod], plan: Plan, clock_us: int) -> tuple[list[AreaPeriod], list[AreaPeriod]]:
        """Split what is due.

        Returns:
            periods of groups that can be judged now; those that are neither waiting nor of a group any more, nor areas.
        """
        self._use(plan)
        groups = [period for period in due if is_group(period)]
        known = [p for p in groups if p[0] in self._groups and self._groups[p[0]].what == p[1]]
        gone = sorted(set(groups) - set(known))
        for period in gone:
            self._again.pop(period, None)
        return [p for p in known if self._again.get(p, clock_us) <= clock_us][:AT_ONCE], gone

    def judge(self, periods: Sequence[AreaPeriod], positions: Mapping[int, int], clock_us: int) -> Judged:
        """Judge periods.

        Args:
            periods: of groups.
            positions: of each partition that was heard, up to which its readings count.
            clock_us: of the tick.

        Returns:
            what comes of it. Periods whose verdict the store does not show yet are looked at again after
            :data:`AGAIN_US`.
        """
        out = Judged({}, [], [])
        by_group: dict[str, list[int]] = {}
        for name, _, start in sorted(periods):
            by_group.setdefault(name, []).append(start)
        waiting: set[AreaPeriod] = set()
        for name, starts in by_group.items():
            group = self._groups[name]
            for some in _together(group, starts):
                for start, partition, args in self._judge(group, some, positions, out.differences):
                    out.told.setdefault(partition, []).append(args)
                    waiting.add((name, group.what, start))
        for period in periods:
            if period in waiting:
                self._again[period] = clock_us + AGAIN_US
            else:
                self._again.pop(period, None)
                out.done.append(period)
        return out

    def _judge(
        self, group: Group, starts: Sequence[int], positions: Mapping[int, int], differences: list[Row]
    ) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Judge k periods of one group; give start, partition and arguments of what must be told."""
        n, k = len(group.keys), len(starts)
        rows = _Readings.of(self._store, group, starts, positions, self._partitions)
        mean = rows.means(k * n).reshape(k, n)
        around = np.where(group.near >= 0, mean[:, group.near], np.nan)
        there = (~np.isnan(around)).sum(axis=2)
        enough = (there >= group.minimum) & ~np.isnan(mean)
        median = np.full((k, n), np.nan)
        if enough.any():
            median[enough] = np.nanmedian(around[enough], axis=1)
        limit = np.maximum(group.suspect, group.share * np.abs(median))
        apart = np.abs(mean - median)
        bad = enough & (apart > limit)
        # Also where nothing is good any more: a rule must learn that what it opened an alert for does not hold.
        for p, i in (divmod(place, n) for place in np.unique(rows.place).tolist()):
            row = {"what": APART, "key": group.keys[i], "start": starts[p], "value": apart[p, i]}
            differences.append({**row, "valid": bool(enough[p, i]), "revision": positions[0]})
        for place in rows.to_tell(bad.ravel()).tolist():
            p, i = divmod(place, n)
            key = group.keys[i]
            partition = partition_of(key[0], self._partitions)
            near = [group.keys[j][0] for j in group.near[i].tolist() if j >= 0 and not np.isnan(mean[p, j])]
            args = {
                "station": key[0], "property": key[1], "channel": key[2], "start_us": starts[p],
                "end_us": starts[p] + group.length_us, "at": positions[partition], "bad": bool(bad[p, i]),
                "mean": _known(mean[p, i]), "median": _known(median[p, i]), "limit": _known(limit[p, i]), "near": near,
                "readings": rows.revised(place, bad=bool(bad[p, i])),
            }  # fmt: skip
            yield starts[p], partition, args

    def _use(self, plan: Plan) -> None:
        if self._catalogue is not plan.catalogue:
            self._catalogue = plan.catalogue
            self._groups = groups_of(plan.catalogue, plan.rules.levels)
            self._of = {key: name for name, group in self._groups.items() for key in group.keys}


class _Readings(NamedTuple):
    """Readings of one group in k periods; shape (m,) each.

    Attributes:
        place: int64, number of the period times n, and of the series in its group.
        good: bool, what the other checks left good.
        marked: bool, has the bit of this test.
    """

    place: NDArray[np.int64]
    time: NDArray[np.int64]
    value: NDArray[np.float64]
    flag: NDArray[np.uint8]
    tests: NDArray[np.uint32]
    good: NDArray[np.bool_]
    marked: NDArray[np.bool_]

    @classmethod
    def of(
        cls, store: Store, group: Group, starts: Sequence[int], positions: Mapping[int, int], partitions: int
    ) -> _Readings:
        """Ask for them, of each partition as of its position: a position says nothing of another partition."""
        keys, end = group.keys, starts[-1] + group.length_us
        home = np.array([partition_of(key[0], partitions) for key in keys])
        parts = []
        for partition, at in sorted(positions.items()):
            mine = np.flatnonzero(home == partition)
            if len(mine):
                query = ReadingQuery([keys[i] for i in mine.tolist()], starts[0], end, as_of=at)
                parts.append(_columns(store.readings(query), mine))
        whole = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else _columns(None, home)
        period = np.searchsorted(np.array(starts), whole[1], side="right") - 1
        inside = whole[1] < np.array(starts)[period] + group.length_us
        place, time, value, flag, tests = (column[inside] for column in whole)
        marked = (tests & _BIT) > 0
        # Its own bit alone made it suspect: without it, it is good.
        own = marked & (tests & _CHECKS == _BIT)
        good = np.isfinite(value) & ((flag <= Flag.NOT_EVALUATED) | own)
        return cls(period[inside] * len(keys) + place, time, value, flag, tests, good, marked)

    def means(self, n: int) -> NDArray[np.float64]:
        """Return the mean of what is good at each place, shape (n,); NaN where nothing is."""
        count = np.bincount(self.place[self.good], minlength=n)
        total = np.bincount(self.place[self.good], weights=self.value[self.good], minlength=n)
        out: NDArray[np.float64] = np.divide(total, count, out=np.full(n, np.nan), where=count > 0)
        return out

    def to_tell(self, bad: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the places some of whose readings do not say what the verdict says."""
        out: NDArray[np.int64] = np.unique(self.place[self._other(bad[self.place])])
        return out

    def revised(self, place: int, *, bad: bool) -> list[list[Any]]:
        """Return [time µs, value, flag, tests] of the readings of a place that get another flag."""
        which = np.flatnonzero((self.place == place) & self._other(np.full(len(self.place), bad)))
        tests = self.tests[which] | _BIT if bad else self.tests[which] & ~_BIT
        # What other checks say stays; the test itself says pass when it takes its word back.
        flag = np.full(len(which), Flag.SUSPECT) if bad else np.where(tests & _CHECKS == 0, Flag.PASS, self.flag[which])
        columns = (self.time[which], self.value[which], flag, tests)
        return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def _other(self, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say which readings do not say what the verdict says; what a person said stands."""
        theirs = (self.tests & _SAID) > 0
        return ~theirs & np.where(bad, self.good & ~self.marked, self.marked)


def groups_of(catalogue: Catalogue, levels: Sequence[Level]) -> dict[str, Group]:
    """Return the groups of a catalogue by name; one without anybody who has neighbours is left out."""
    found: dict[tuple[str, str, str], list[tuple[Key, Neighbour, float]]] = {}
    for series in catalogue.series:
        if series.limits.neighbour is not None:
            name = (series.network, series.property, series.channel)
            found.setdefault(name, []).append((series[:3], series.limits.neighbour, series.interval_s))
    out: dict[str, Group] = {}
    for (network, prop, channel), members in sorted(found.items()):
        slowest = max(interval for _, _, interval in members)
        shared = [
            (number, level.name)
            for number, level in enumerate(levels)
            if level.name in _LENGTH and level.covers(load_properties()[prop], slowest)
        ]
        near = _near(catalogue, members)
        if shared and (near >= 0).any():
            number, what = shared[0]
            out[f"{network}/{prop}/{channel}"] = Group(
                number, what, _LENGTH[what], tuple(key for key, _, _ in members), near,
                np.array([one.suspect or np.inf for _, one, _ in members]),
                np.array([one.share for _, one, _ in members]),
                np.array([one.minimum for _, one, _ in members], np.int64),
            )  # fmt: skip
    return out


def _together(group: Group, starts: Sequence[int]) -> Iterator[list[int]]:
    """Cut sorted periods into those that are asked for together: neighbours, and not too many rows."""
    most = max(1, _ROWS * _EVERY_US // (len(group.keys) * group.length_us))
    chunk: list[int] = []
    for start in starts:
        if chunk and (len(chunk) >= most or start > chunk[-1] + 2 * group.length_us):
            yield chunk
            chunk = []
        chunk.append(start)
    if chunk:
        yield chunk


def is_group(period: AreaPeriod) -> bool:
    """Say whether a period is one of a group; codes of areas have no slash."""
    return "/" in period[0]


def _near(catalogue: Catalogue, members: Sequence[tuple[Key, Neighbour, float]]) -> NDArray[np.int64]:
    lon, lat = np.array([catalogue.stations[key[0]].position for key, _, _ in members]).T
    out = np.full((len(members), NEAREST), -1, np.int64)
    for i, (_, limits, _) in enumerate(members):
        away = distance_m(lon, lat, np.full(len(lon), lon[i]), np.full(len(lat), lat[i]))
        away[i] = np.inf
        # Of equal distances the first in the catalogue: the same everywhere.
        near = np.argsort(away, kind="stable")[:NEAREST]
        near = near[away[near] <= 1000 * limits.radius_km]
        out[i, : len(near)] = near
    return out


def _columns(table: pa.Table | None, of: NDArray[np.int64]) -> list[NDArray[Any]]:
    if table is None:
        kinds = (np.int64, np.int64, np.float64, np.uint8, np.uint32)
        return [np.zeros(0, kind) for kind in kinds]
    return [
        of[np.asarray(table.column("series"))], np.asarray(table.column("time")), table.column("value").to_numpy(),
        np.asarray(table.column("flag")), np.asarray(table.column("tests")),
    ]  # fmt: skip


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


__all__ = ["Group", "Neighbours", "groups_of", "is_group"]
