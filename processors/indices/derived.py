"""What derive makes of figures: the indices of a station and period, and those that a changed figure changes later on.

An hour also counts in moving means of the hours behind it. Whether these were made already is asked of their hour
figures, so no clock is needed: an hour without figures has no index yet, and will see the change when it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from processors.indices import INDICES
from processors.indices.contract import MAIN
from processors.indices.run import WHATS, area_members, areas_of, evaluate, evaluate_area, measured, touched

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from processors.indices.contract import Get
    from processors.indices.run import AreaGet
    from qingtu.catalogue import Catalogue

_LEVELS: Final = {of: level for level, of in WHATS.items()}
_ALWAYS: Final = 1 << 62
"""Later than every period: whether one was made is asked of its figures."""


class Indices:
    """The indices as derive calls them; see :mod:`processors.aggregates.hooks`."""

    def __call__(
        self, catalogue: Catalogue, station_id: str, what: str, start_us: int, get: Get, /
    ) -> list[dict[str, Any]]:
        """Return the index figures of one station and period."""
        return evaluate(catalogue, station_id, what, start_us, get)

    def again(
        self, catalogue: Catalogue, station_id: str, what: str, start_us: int, get: Get, /
    ) -> list[tuple[str, int]]:
        """Return (level, start) of the later periods whose indices are there and count these figures in.

        Args:
            catalogue: the version that holds.
            station_id: in the catalogue.
            what: level of the figures that were evaluated.
            start_us: start of their period, µs UTC.
            get: see :data:`processors.indices.contract.Get`; asked for series of the catalogue only.
        """
        later = [
            (level, start)
            for level, start in touched(catalogue, station_id, what, start_us, _ALWAYS)
            if level == what and start > start_us
        ]
        if not later:
            return []
        props = sorted(measured(catalogue, station_id))
        return [at for at in later if any(get(prop, MAIN, *at) is not None for prop in props)]

    def touched_areas(self, catalogue: Catalogue, rows: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, int]]:
        """Return (area, level, start) of the areas in which the stations of some index figures count."""
        out = set()
        for row in rows:
            station, index, _ = row["key"]
            if row["what"] in _LEVELS and INDICES[index].of_area is not None:
                out |= {(area, _LEVELS[row["what"]], row["start"]) for area in areas_of(catalogue, station)}
        return out

    def members(self, catalogue: Catalogue, area: str) -> tuple[str, ...]:
        """Return the stations of an area that have an index of areas; none for an area without stations."""
        return area_members(catalogue).get(area, ())

    def of_area(
        self, catalogue: Catalogue, area: str, what: str, start_us: int, get: AreaGet, /
    ) -> list[dict[str, Any]]:
        """Return the index figures of an area and period."""
        return evaluate_area(catalogue, area, what, start_us, get)


indices: Final = Indices()
