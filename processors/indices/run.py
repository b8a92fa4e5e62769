"""The glue between derive and the indices: figures of a station and period in, figure rows out.

Derive calls :func:`evaluate` after it has made or remade figures of a station and period, and :func:`evaluate_area` for
districts and the city; :func:`touched` tells which periods a changed figure asks to be evaluated again.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from math import isinf
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from processors.indices import INDICES
from processors.indices.contract import MAIN, Exceeding, Index, Input, Period, Result
from qingtu.clock import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from processors.indices.contract import Get
    from qingtu.catalogue import Catalogue

    AreaGet = Callable[[str, str, str, str, int], Mapping[str, Any] | None]

_EXACT: Final = 1 << 53
OUT_OF_RANGE: Final = "out_of_range"
"""Reason of a result that is too large for a number."""
WHATS: Final[Mapping[str, str]] = {"hour": "hour_index", "day": "day_index", "month": "month_index"}
"""``what`` of an index's figure by the level that it was made of."""


def evaluate(catalogue: Catalogue, station_id: str, what: str, start_us: int, get: Get) -> list[dict[str, Any]]:
    """Return the index figures of a station and period, those of which nothing is known too.

    Args:
        catalogue: the version that holds.
        station_id: in the catalogue.
        what: level of the figures that were made: hour, day, month; levels without indices give nothing.
        start_us: start of the period, µs UTC.
        get: see :data:`processors.indices.contract.Get`; asked for this station on channel main only.

    Returns:
        rows with ``what``, ``key`` (station, index key, ``main``), ``start``, ``value`` (NaN when there is none),
        ``count`` (good inputs), ``expected`` (inputs), ``valid``, ``reason`` and ``inputs`` (a plain dict).
    """
    period = _period(catalogue, station_id, what, start_us, get)
    made = ((index, index.evaluate(period)) for index in _indices(period.station.domain, what))
    return [_row(index, station_id, what, start_us, result) for index, result in made if result is not None]


def evaluate_area(catalogue: Catalogue, area: str, what: str, start_us: int, get: AreaGet) -> list[dict[str, Any]]:
    """Return the index figures of a district or city by its stations; the row's station is the area.

    Args:
        catalogue: the version that holds.
        area: one of :func:`area_members`.
        what: level of the figures that were made.
        start_us: start of the period, µs UTC.
        get: ``get(station, property, channel, what, start_us)``, else as for :func:`evaluate`.
    """
    rows = []
    members = area_members(catalogue)[area]
    for index in INDICES.values():
        if index.of_area is None or what not in index.periods:
            continue
        periods = [
            _period(catalogue, station, what, start_us, _bound(get, station))
            for station in members
            if catalogue.stations[station].domain in index.domains
        ]
        result = index.of_area(periods)
        if result is not None:
            rows.append(_row(index, area, what, start_us, result))
    return rows


def areas_of(catalogue: Catalogue, station_id: str) -> tuple[str, ...]:
    """Return the areas that a station lies in: its district's code, and its city as four digits and ``00``."""
    district = catalogue.stations[station_id].district
    return () if district is None else (district, f"{district[:4]}00")


@lru_cache(maxsize=8)
def area_members(catalogue: Catalogue) -> Mapping[str, tuple[str, ...]]:
    """Return by area the stations in it that have an index of areas; a catalogue never changes."""
    domains = {domain for index in INDICES.values() if index.of_area is not None for domain in index.domains}
    found: dict[str, list[str]] = {}
    for station in catalogue.stations.values():
        if station.domain in domains:
            for area in areas_of(catalogue, station.id):
                found.setdefault(area, []).append(station.id)
    return {area: tuple(found[area]) for area in sorted(found)}


def inputs_of(catalogue: Catalogue, place: str, key: str, what: str, start_us: int) -> set[tuple[str, str, str, int]]:
    """Return (station, property, level, start) of the figures that an index looks at, all on channel main.

    Args:
        catalogue: the version that holds.
        place: a station or an area.
        key: of the index.
        what: of its figure, such as ``hour_index``.
        start_us: of its period, µs UTC.
    """
    asked: set[tuple[str, str, str, int]] = set()

    def get(station: str, prop: str, channel: str, level: str, start: int) -> None:
        del channel
        asked.add((station, prop, level, start))

    index = INDICES.get(key)
    level = next((level for level, of in WHATS.items() if of == what), None)
    if index is None or level is None:
        return asked
    stations = [place] if place in catalogue.stations else area_members(catalogue).get(place, ())
    periods = [_period(catalogue, station, level, start_us, _bound(get, station)) for station in stations]
    if place in catalogue.stations:
        index.evaluate(periods[0])
    elif periods and index.of_area is not None:
        index.of_area([period for period in periods if period.station.domain in index.domains])
    return asked


def touched(catalogue: Catalogue, station_id: str, what: str, start_us: int, until_us: int) -> list[tuple[str, int]]:
    """Return (level, start) of the periods whose indices a changed figure of a station can change.

    An hour also counts in the hours behind it (moving means) and in its day; levels without indices count nowhere.

    Args:
        catalogue: the version that holds.
        station_id: in the catalogue.
        what: level of the figure that changed.
        start_us: its start, µs UTC.
        until_us: what ends after this is not due yet and left out, µs UTC.
    """
    period = _period(catalogue, station_id, what, start_us, lambda *_: None)
    domain = period.station.domain
    if what != "hour":
        return [(what, start_us)] if _indices(domain, what) else []
    out = []
    if hourly := _indices(domain, "hour"):
        reach = max(index.reach_h for index in hourly)
        out += [("hour", start_us + i * HOUR) for i in range(reach + 1) if start_us + (i + 1) * HOUR <= until_us]
    hours = period.day_hours()
    if _indices(domain, "day") and hours[-1] + HOUR <= until_us:
        out.append(("day", hours[0]))
    return out


def measured(catalogue: Catalogue, station_id: str) -> frozenset[str]:
    """Return the properties that a station measures on channel main."""
    return _measured(catalogue)[station_id]


@lru_cache(maxsize=256)
def _indices(domain: str, what: str) -> tuple[Index, ...]:
    return tuple(index for index in INDICES.values() if domain in index.domains and what in index.periods)


def _bound(get: AreaGet, station: str) -> Get:
    return lambda prop, channel, what, start_us: get(station, prop, channel, what, start_us)


def _period(catalogue: Catalogue, station_id: str, what: str, start_us: int, get: Get) -> Period:
    station = catalogue.stations[station_id]
    zone = ZoneInfo(station.timezone or catalogue.networks[station.network].timezone)
    return Period(station, _measured(catalogue)[station_id], what, start_us, zone, get)


@lru_cache(maxsize=8)
def _measured(catalogue: Catalogue) -> Mapping[str, frozenset[str]]:
    """Return by station what it measures on channel main; a catalogue never changes."""
    found: dict[str, set[str]] = {station: set() for station in catalogue.stations}
    for series in catalogue.series:
        if series.channel == MAIN:
            found[series.station].add(series.property)
    return {station: frozenset(props) for station, props in found.items()}


def _row(index: Index, station: str, what: str, start_us: int, result: Result) -> dict[str, Any]:
    good = sum(each.good is not None for each in result.inputs)
    value = float("nan") if result.value is None else float(result.value)
    # An absurd figure can make an index that no float64 holds.
    absurd = isinf(value)
    return {
        "what": WHATS[what],
        "key": (station, index.key, MAIN),
        "start": start_us,
        "value": float("nan") if absurd else value,
        "count": good,
        "expected": len(result.inputs),
        "valid": result.valid and not absurd,
        "reason": OUT_OF_RANGE if absurd else result.reason,
        "inputs": plain(result),
    }


def plain(result: Result) -> dict[str, Any]:
    """Return all but value, validity and reason of a result as plain data for JSON; what is empty is left out.

    Under ``stats`` stands, in short, what is published beside the value: a change there is a correction too.
    """
    level = result.level
    named: dict[str, Any] = {}
    if level is not None:
        named = {
            "level": level.number, "zh": level.zh, "en": level.en, "colour": level.colour,
            "colour_official": level.official, "advice_zh": level.advice_zh, "advice_en": level.advice_en,
        }  # fmt: skip
    told = {
        **({} if level is None else {"level": level.number, "zh": level.zh, "en": level.en}),
        "primary": ",".join(result.primary),
        "exceeding": ",".join(each.name for each in result.exceeding),
    }
    made = {
        "stats": {key: value for key, value in told.items() if value != ""},
        **named,
        "primary": list(result.primary),
        "exceeding": [_exceeding(each) for each in result.exceeding],
        "standard": result.standard,
        "edition": result.edition,
        "confidence": result.confidence,
        "details": _numbers(dict(result.details)),
        "of": [_input(each) for each in result.inputs],
    }
    return {key: value for key, value in made.items() if value not in ("", [], {})}


def _exceeding(each: Exceeding) -> dict[str, Any]:
    out = {"property": each.name, "value": float(each.value), "limit": float(each.limit)}
    return out if each.multiple is None else {**out, "multiple": float(each.multiple)}


def _input(each: Input) -> dict[str, Any]:
    value = None if each.value is None else float(each.value)
    out = {"name": each.name, "what": each.what, "value": value, "valid": each.valid}
    return {**out, "reason": each.reason} if each.reason else out


def _numbers(value: Any) -> Any:
    """Return plain data with floats for decimals, and for integers of absurd figures, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(each) for each in value]
    too_large = isinstance(value, int) and abs(value) > _EXACT
    return float(value) if too_large or isinstance(value, Decimal) else value
