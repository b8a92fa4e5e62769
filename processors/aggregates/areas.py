"""Figures of areas (districts, cities): made in partition 0, of what all partitions have made.

Every partition that makes a figure which counts in an area says which periods of which areas it touched, and how far it
is itself: the position of its tick, and the offset of the frame that caused the figures. Partition 0 says so to itself;
the others tell it through raw, so raw alone says what is evaluated when. Touched areas are evaluated at a tick, of the
stations' figures as of those positions, once the store has them: a restart or a replay gives the same. The first time
an area waits one grace longer than its stations, so that all of them have been made. Why: docs/decisions/0020-areas.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from ingest.raw import command_row, raw_frame
from processors.aggregates.hooks import fetched
from qingtu.clock import DAY, HOUR
from qingtu.errors import RetryLater
from qingtu.partitions import partition_of
from qingtu.records import FIGURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from processors.aggregates.evaluate import Row
    from processors.aggregates.parts import Made
    from processors.aggregates.plan import Key
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store

AREAS: Final = "areas"
"""Name of the command that tells partition 0, and of the field in the header of ``processed`` that passes it on."""
_WHO: Final = "system"
_LENGTH: Final = {"10min": HOUR // 6, "hour": HOUR, "day": DAY}
"""How long a period lasts, as far as waiting for its end goes; an hour more or less at a change of the clock."""
AreaPeriod = tuple[str, str, int]
"""Area, level of figures that it is made of, start in µs UTC."""


@runtime_checkable
class OfAreas(Protocol):
    """An entry of DERIVED that is made of the figures of several stations, too; see processors/aggregates/hooks.py."""

    def touched_areas(self, catalogue: Catalogue, rows: Iterable[Row]) -> set[AreaPeriod]:
        """Return the periods of areas in which some of these figures count."""
        ...

    def members(self, catalogue: Catalogue, area: str) -> tuple[str, ...]:
        """Return the stations whose figures may be asked for."""
        ...

    def of_area(
        self,
        catalogue: Catalogue,
        area: str,
        what: str,
        start_us: int,
        get: Callable[[str, str, str, str, int], Row | None],
        /,
    ) -> list[Row]:
        """Return the rows of one area and period; ``get(station, property, channel, what, start_us)``."""
        ...


class Told(NamedTuple):
    """What a partition says about itself.

    Attributes:
        at: position of the tick at which it made figures.
        offset: of the frame of ``processed`` that made it do so: the origin of its figures.
    """

    partition: int
    at: int
    offset: int
    periods: Sequence[AreaPeriod]


def told(some: Told, clock_us: int, catalogue: str) -> bytes:
    """Encode as a raw frame of one command row, for partition 0.

    Args:
        some: at least one period.
        clock_us: of the tick, µs UTC.
        catalogue: version in force at it.
    """
    args = {**some._asdict(), "periods": sorted(map(list, some.periods))}
    return raw_frame([command_row(clock_us, AREAS, _WHO, args)], gateway="", catalogue=catalogue, clock_us=clock_us)


def read(args: Mapping[str, Any]) -> Told:
    """Read what :func:`told` wrote."""
    return Told(args["partition"], args["at"], args["offset"], [(area, what, at) for area, what, at in args["periods"]])


class Areas:
    """Which areas were touched, and how far each partition is.

    Args:
        store: has the stations' figures.
        partitions: how many there are.
        grace_us: how much longer than its stations an area waits.
    """

    def __init__(self, store: Store, partitions: int, grace_us: int) -> None:
        self._store = store
        self._partitions = partitions
        self._grace_us = grace_us
        self._touched: set[AreaPeriod] = set()
        self._far: dict[int, tuple[int, int]] = {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what :meth:`saved` returned; {}: nothing was touched."""
        self._touched = {(area, what, at) for area, what, at in saved.get("touched", ())}
        self._far = {partition: (at, offset) for partition, at, offset in saved.get("far", ())}

    def saved(self) -> dict[str, Any]:
        """Return all memory as plain data."""
        far = [[partition, *place] for partition, place in sorted(self._far.items())]
        return {"touched": sorted(map(list, self._touched)), "far": far}

    def touch(self, periods: Iterable[AreaPeriod]) -> None:
        """Touch areas by figures of partition 0."""
        self._touched |= set(periods)

    def hear(self, some: Told) -> None:
        """Learn what another partition says. It may say it again after a kill: then it is known already."""
        if some.at > self._far.get(some.partition, (-1, -1))[0]:
            self._far[some.partition] = some.at, some.offset
            self._touched |= set(some.periods)

    def due(self, clock_us: int) -> list[AreaPeriod]:
        """Return what is to be evaluated at a tick, in order."""
        return sorted(
            one for one in self._touched if one[2] + _LENGTH.get(one[1], DAY) + 2 * self._grace_us <= clock_us
        )

    def rows(self, entry: OfAreas, catalogue: Catalogue, due: Sequence[AreaPeriod], at: int, made: Made) -> list[Row]:
        """Evaluate.

        Args:
            entry: of DERIVED.
            catalogue: in force at the tick.
            due: periods.
            at: position of the tick, in partition 0.
            made: figures of partition 0 that the store has not got yet.

        Raises:
            RetryLater: the store has not yet what another partition has made.
        """
        stations = sorted({station for area, _, _ in due for station in entry.members(catalogue, area)})
        # Figures of this partition's own tick stand in `made`.
        before = {p: far + 1 if p else far for p, far in self.heard(at).items()}
        figures = _Figures(self._store, before, made, self._by_partition(catalogue, stations))
        out: list[Row] = []
        for area, what, start in due:
            # An area that the catalogue in force does not have any more has no members.
            if entry.members(catalogue, area):
                out += entry.of_area(catalogue, area, what, start, figures.get)
        return out

    def done(self, due: Iterable[AreaPeriod]) -> None:
        """Forget what was evaluated."""
        self._touched -= set(due)

    def heard(self, at: int) -> dict[int, int]:
        """Return for each partition that was heard the position up to which its rows count.

        Args:
            at: position of the tick, in partition 0.

        Raises:
            RetryLater: the store has not yet what another partition has made.
        """
        for partition, (_, offset) in self._far.items():
            if self._store.progress(FIGURES, partition).origin < offset:
                raise RetryLater(
                    "等待另一分区的指标入库 / derive waits for the store to take another partition's figures",
                    retry_after_s=0.1,
                )
        return {0: at, **{partition: far for partition, (far, _) in self._far.items()}}

    def _by_partition(self, catalogue: Catalogue, stations: Sequence[str]) -> dict[int, list[Key]]:
        wanted = set(stations)
        out: dict[int, list[Key]] = {}
        for series in catalogue.series:
            if series.station in wanted:
                out.setdefault(partition_of(series.station, self._partitions), []).append(series[:3])
        return out


class _Figures:
    """Figures of stations of all partitions, as of a position in each; asked for once a period and partition."""

    def __init__(self, store: Store, before: Mapping[int, int], made: Made, keys: Mapping[int, list[Key]]) -> None:
        self._store, self._before, self._made, self._keys = store, before, made, keys
        self._found: dict[tuple[str, int], dict[Key, Row]] = {}

    def get(self, station: str, prop: str, channel: str, what: str, start_us: int) -> Row | None:
        """Return one figure; see :class:`OfAreas`."""
        key = (station, prop, channel)
        own = self._made.get(what, {}).get((key, start_us))
        if own is not None:
            return own
        if (what, start_us) not in self._found:
            self._found[what, start_us] = self._fetch(what, start_us)
        return self._found[what, start_us].get(key)

    def _fetch(self, what: str, start_us: int) -> dict[Key, Row]:
        found: dict[Key, Row] = {}
        for partition, before in self._before.items():
            if keys := self._keys.get(partition):
                found |= fetched(self._store, keys, what, start_us, before)
        return found
