"""What is made of figures (indices and classes): pure functions that derive calls when figures were evaluated.

An entry of :data:`processors.aggregates.DERIVED` is::

    evaluate(catalogue, station_id, what, start_us, get) -> list of rows

It is called once for each station and period that has figures of level ``what`` evaluated at a tick, also when they did
not change. ``get(property, channel, what, start_us)`` returns a figure of that station as it stands then, or None; it
may ask for any level and period. A row is a dict with ``what``, ``key`` (station, property, channel), ``start`` (µs
UTC), ``value`` (NaN: none), ``count``, ``expected``, ``valid``, ``reason`` ("" when valid) and ``inputs`` (plain data;
what is published beside the value stands under ``stats``: a change there is a correction too). Rows go out in the same
frame, with the tick's revision. The function must depend on nothing but its arguments. What is made of
several stations: :class:`processors.aggregates.areas.OfAreas`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import orjson

from qingtu.contracts import FigureQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from processors.aggregates.evaluate import Row
    from processors.aggregates.parts import Made
    from processors.aggregates.plan import Key, Plan
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store


class Derived(Protocol):
    """See the module's first lines."""

    def __call__(
        self,
        catalogue: Catalogue,
        station_id: str,
        what: str,
        start_us: int,
        get: Callable[[str, str, str, int], Row | None],
        /,
    ) -> list[Row]:
        """Return the rows of one station and period."""
        ...


@runtime_checkable
class Reaching(Protocol):
    """An entry whose rows of a period also depend on figures of periods before, such as a moving mean."""

    def again(
        self,
        catalogue: Catalogue,
        station_id: str,
        what: str,
        start_us: int,
        get: Callable[[str, str, str, int], Row | None],
        /,
    ) -> list[tuple[str, int]]:
        """Return (level, start) of the other periods for which the entry must be called too."""
        ...


class Hooks:
    """Calls what is made of figures at one tick.

    Args:
        store: has all figures that were made before this frame.
        plan: under the catalogue of the tick.
        at: position of the tick.
        made: figures of this frame.
    """

    def __init__(self, store: Store, plan: Plan, at: int, made: Made) -> None:
        self._store = store
        self._plan = plan
        self._at = at
        self._made = made
        self._fetched: dict[tuple[str, int], dict[Key, Row]] = {}
        self._keys: list[Key] = []

    def rows(self, derived: Sequence[Derived], figures: Sequence[Row]) -> list[Row]:
        """Return what the functions make of figures of one level."""
        periods = sorted({(row["key"][0], row["what"], row["start"]) for row in figures})
        stations = {station for station, _, _ in periods}
        self._keys = [s[:3] for s in self._plan.catalogue.series if s.station in stations]
        out: list[Row] = []
        for evaluate in derived:
            for station, what, start in self._all_of(evaluate, periods):
                out += evaluate(self._plan.catalogue, station, what, start, self._getter(station))
        return out

    def _all_of(self, evaluate: Derived, periods: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
        """Return the periods and those that their figures reach, each once: a backlog reaches the same ones often."""
        if not isinstance(evaluate, Reaching):
            return list(periods)
        reached = set(periods)
        for station, what, start in periods:
            more = evaluate.again(self._plan.catalogue, station, what, start, self._getter(station))
            reached |= {(station, *at) for at in more}
        return sorted(reached)

    def _getter(self, station: str) -> Callable[[str, str, str, int], Row | None]:
        return lambda prop, channel, what, start_us: self._get((station, prop, channel), what, start_us)

    def _get(self, key: Key, what: str, start_us: int) -> Row | None:
        found = self._made.get(what, {}).get((key, start_us))
        if found is not None:
            return found
        if (what, start_us) not in self._fetched:
            self._fetched[what, start_us] = self._fetch(what, start_us)
        return self._fetched[what, start_us].get(key)

    def _fetch(self, what: str, start_us: int) -> dict[Key, Row]:
        """Return the figures of one period, of all stations at once."""
        return fetched(self._store, self._keys, what, start_us, self._at)


def fetched(store: Store, keys: Sequence[Key], what: str, start_us: int, before: int) -> dict[Key, Row]:
    """Return figures of one period as the store had them before a position.

    Args:
        store: has them all.
        keys: series.
        what: level.
        start_us: of the period, µs UTC.
        before: position.
    """
    table = store.figures_of(FigureQuery(keys, start_us, start_us + 1, what=what, before=before)).to_pylist()
    return {keys[row["series"]]: _row(row, keys[row["series"]]) for row in table}


def _row(found: dict[str, Any], key: Key) -> Row:
    row = {name: found[name] for name in ("what", "start", "count", "expected", "valid", "reason")}
    value = float("nan") if found["value"] is None else found["value"]
    return {**row, "key": key, "value": value, "inputs": orjson.loads(found["inputs"])}
