"""What a question names and nobody knows: a misspelt station must not look like one that is silent.

Each function is for the miss, when an answer would be empty: what has an answer is known by it, so that a question that
is answered pays nothing. A station that has left the catalogue is known as long as the store holds anything of it.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from processors.aggregates import statistics
from processors.indices import INDICES
from processors.indices.contract import MAIN
from processors.indices.run import area_members
from qingtu.properties import load_properties
from web.guard import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from web.context import Context

_SHOWN: Final = 64
_FOREVER: Final = (-62_135_596_800_000_000, 253_402_300_799_000_000)
"""The years 1 to 9999, µs UTC."""
Key = tuple[str, str, str]
"""(station, property, channel)."""


def refusal(status: int, code: str, what: tuple[str, str], name: str, near: Sequence[str]) -> ApiError:
    """Return the error about a name that nobody knows.

    Args:
        status: 404 or 422.
        code: for programs.
        what: kind of thing that it should be, in Chinese and English.
        name: as it was asked for.
        near: what may have been meant.
    """
    zh, en = meant(near)
    said = name[:_SHOWN]
    return ApiError(status, code, f"没有{what[0]} {said!r}{zh}", f"there is no {what[1]} {said!r}{en}")


def meant(near: Sequence[str]) -> tuple[str, str]:
    """Return what is added to a message, in Chinese and English, about what may have been meant.

    >>> meant(["pm25", "pm10"])[1], meant([])[1]
    ("; did you mean 'pm25' or 'pm10'?", '')
    """
    if not near:
        return "", ""
    names = [repr(one) for one in near]
    return f", 是否指 {' / '.join(names)}", f"; did you mean {' or '.join(names)}?"


def close(name: str, allowed: Iterable[str]) -> list[str]:
    """Return up to three of some names that are close to one that is wrong.

    >>> close("pm2_5", ["pm10", "pm25", "o3"])
    ['pm25']
    """
    return difflib.get_close_matches(name[:_SHOWN], sorted(set(allowed)), 3, cutoff=0.6)


def check_station(context: Context, station: str, *, areas: bool = False) -> None:
    """Refuse a station that neither catalogue nor store knows.

    Args:
        context: service and live view.
        station: its id.
        areas: districts and cities count as well, as they do for figures.

    Raises:
        ApiError: 404.
    """
    catalogue = context.service.catalogue
    places = (*catalogue.stations, *area_members(catalogue)) if areas else tuple(catalogue.stations)
    if station in places or context.live.knows(station) or context.service.store.knows(station):
        return
    raise refusal(404, "unknown_station", ("站点", "station"), station, close(station, places))


def check_property(key: str) -> None:
    """Refuse what is neither an observed property nor an index.

    Raises:
        ApiError: 422.
    """
    dictionary = load_properties()
    if key in dictionary or key in INDICES:
        return
    alias = dictionary.resolve(key)  # a wrong name of the right thing need not look like it
    near = [alias.key] if alias else close(key, [*dictionary.keys(), *INDICES])
    raise refusal(422, "unknown_property", ("观测量", "observed property"), key, near)


def check_statistic(what: str) -> None:
    """Refuse what no figure is called.

    Raises:
        ApiError: 422.
    """
    if what not in statistics():
        raise refusal(422, "unknown_statistic", ("统计量", "statistic"), what, close(what, statistics()))


def check_series(context: Context, key: Key) -> None:
    """Refuse a series of readings of which neither catalogue nor store knows.

    Raises:
        ApiError: 404 unknown_station or unknown_series, 422 unknown_property.
    """
    catalogue = context.service.catalogue
    if catalogue.series_index(*key) is not None or context.live.series(key) is not None:
        return
    check_property(key[1])
    check_station(context, key[0])
    raise _no_series(context, key)


def check_figures(context: Context, key: Key) -> None:
    """Refuse a series of figures of which neither catalogue nor store knows; areas and indices have figures, too.

    Raises:
        ApiError: as :func:`check_series`.
    """
    catalogue = context.service.catalogue
    index, station = INDICES.get(key[1]), catalogue.stations.get(key[0])
    if index is not None and key[2] == MAIN:
        if station is not None and station.domain in index.domains:
            return
        if index.of_area is not None and key[0] in area_members(catalogue):
            return
    if catalogue.series_index(*key) is not None or context.live.series(key) is not None:
        return
    if context.service.store.figures(key[0], key[1], *_FOREVER, channel=key[2]):  # readings go earlier than figures
        return
    check_property(key[1])
    check_station(context, key[0], areas=True)
    raise _no_series(context, key)


def _no_series(context: Context, key: Key) -> ApiError:
    """Return the error about a series; what is meant are other channels of it, else properties with a close name."""
    own = [s for s in context.service.catalogue.series if s.station == key[0]]
    near = [s for s in own if s.property == key[1]][:3]
    properties = close(key[1], (s.property for s in own))
    near = near or [s for s in own if s.property in properties][:3]
    names = [f"{s.station} / {s.property} / {s.channel}" for s in near]
    return refusal(404, "unknown_series", ("序列", "series"), " / ".join(key), names)
