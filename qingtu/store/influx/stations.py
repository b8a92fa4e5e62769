"""Stations as points: what can change in the catalogue, for the variables and joins of dashboards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qingtu.store.influx.lines import fields, nanoseconds, tags

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue
    from qingtu.catalogue_model import Station


def station_lines(catalogue: Catalogue, at_us: int) -> list[str]:
    """Write one point a station.

    Args:
        catalogue: in use from then on.
        at_us: when, µs UTC.
    """
    return [_line(station, catalogue.version, at_us) for station in catalogue.stations.values()]


def _line(station: Station, version: str, at_us: int) -> str:
    lon, lat = station.position
    body = fields(
        name_zh=station.zh, name_en=station.en, domain=station.domain, kind=station.kind, network=station.network,
        district=station.district or "", street=station.street or "", community=station.community or "",
        **{"class": station.water_class or station.noise_class or ""},
        catalogue=version, lat=float(lat), lon=float(lon),
    )  # fmt: skip
    return f"station{tags(station=station.id)} {body} {nanoseconds(at_us)}"
