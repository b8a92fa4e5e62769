"""From checked blocks to what the ordered pass looks up: series, limits, devices and the meaning of their fields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from qingtu.catalogue_checks import merged_limits
from qingtu.catalogue_limits import Limits
from qingtu.properties import load_properties
from qingtu.units import canonical_unit, conversion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.catalogue_model import Content, Device, FieldSpec, Network, Station


class Series(NamedTuple):
    """One (station, property, channel) and what the ordered pass needs to know of it.

    Attributes:
        station: station id.
        property: property key.
        channel: ``main`` unless the catalogue says otherwise.
        network: network of the device that is its source.
        domain: domain of the property (not of the station): the measurement it is stored under.
        interval_s: declared interval between readings, seconds.
        timezone: IANA zone in which zone-less times are read.
        limits: quality limits.
        unit: canonical UCUM unit.
        depth_m: of the sensor below the surface; NaN when the catalogue does not say.
    """

    station: str
    property: str
    channel: str
    network: str
    domain: str
    interval_s: float
    timezone: str
    limits: Limits
    unit: str
    depth_m: float = math.nan


class FieldMap(NamedTuple):
    """What one payload field of one device means.

    A number that equals a sentinel is missing. Otherwise ``number * scale + offset`` is a value in ``unit``, or in
    the unit that the payload names itself, to be converted with :func:`qingtu.units.conversion`.

    Attributes:
        series_index: position in :attr:`Catalogue.series`.
        unit: canonical UCUM spelling of the field's declared unit.
        scale: dimensionless.
        offset: in ``unit``.
        sentinels: numbers, as sent, that mean "missing".
        inherited: those are the defaults', judged in the declared unit; in another one they may be a real value.
    """

    series_index: int
    unit: str
    scale: float
    offset: float
    sentinels: tuple[float, ...]
    inherited: bool


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """A device, its station, and what it inherits.

    Attributes:
        device: the block of the catalogue.
        station: the station it stands at.
        network: its network's id.
        route: name of the route that its messages take.
        timezone: IANA zone of its zone-less times.
        interval_s: declared interval, seconds.
        fields: payload field name → meaning.
    """

    device: Device
    station: Station
    network: str
    route: str
    timezone: str
    interval_s: float
    fields: Mapping[str, FieldMap]


class Builder:
    """Turns checked blocks into series and devices.

    Args:
        content: checked blocks.
        networks: by id.
        dictionary: per used property key its ``plausible`` range and ``aliases``, as the catalogue was made with.

    Attributes:
        series: see :class:`qingtu.catalogue.Catalogue`.
        index: (station, property, channel) → position in ``series``.
        devices: by (network id, device id).
    """

    def __init__(self, content: Content, networks: Mapping[str, Network], dictionary: Mapping[str, Any]) -> None:
        self._content = content
        self._networks = networks
        self._dictionary = dictionary
        self._aliases = {key: tuple(row["aliases"]) for key, row in dictionary.items()}
        self._sentinels_by_kind: dict[tuple[str, str | None, float, float], tuple[float, ...]] = {}
        self._default_limits: dict[tuple[str, str], Limits] = {}
        self.series: list[Series] = []
        self.index: dict[tuple[str, str, str], int] = {}
        self.devices: dict[tuple[str, str], DeviceEntry] = {}
        for station in content.stations:
            self._add_station(station)

    def _add_station(self, station: Station) -> None:
        mappings = [(device, device.mapping(self._aliases)) for device in station.devices]
        sources = {
            (spec.property, spec.channel): (device, spec.depth_m)
            for device, mapping in mappings
            for spec in mapping.values()
        }
        for key, channel in sorted(sources):
            self.index[station.id, key, channel] = len(self.series)
            self.series.append(self._series(station, key, channel, *sources[key, channel]))
        for device, mapping in mappings:
            network = self._networks[device.network or station.network]
            entry = DeviceEntry(
                device=device,
                station=station,
                network=network.id,
                route=device.route or network.route,
                timezone=station.timezone or network.timezone,
                interval_s=device.interval_s or station.interval_s or network.interval_s,
                fields={name: self._field(station.id, spec) for name, spec in mapping.items()},
            )
            self.devices[network.id, device.id] = entry

    def _series(self, station: Station, key: str, channel: str, device: Device, depth_m: float | None) -> Series:
        network = self._networks[device.network or station.network]
        prop = load_properties()[key]
        return Series(
            station=station.id,
            property=key,
            channel=channel,
            network=network.id,
            domain=prop.domain,
            interval_s=device.interval_s or station.interval_s or network.interval_s,
            timezone=station.timezone or network.timezone,
            limits=self._limits(station, key),
            unit=prop.unit,
            depth_m=math.nan if depth_m is None else depth_m,
        )

    def _limits(self, station: Station, key: str) -> Limits:
        own = station.limits.get(key)
        cached = self._default_limits.get((station.domain, key)) if own is None else None
        if cached is not None:
            return cached
        by_domain = self._content.defaults.limits
        merged = merged_limits((by_domain.get("all", {}).get(key), by_domain.get(station.domain, {}).get(key), own))
        limits = Limits.of(merged, self._dictionary[key]["plausible"])
        if own is None:
            self._default_limits[station.domain, key] = limits
        return limits

    def _field(self, station: str, spec: FieldSpec) -> FieldMap:
        unit = load_properties()[spec.property].unit
        declared = unit if spec.unit is None else canonical_unit(spec.unit) or unit
        index = self.index[station, spec.property, spec.channel]
        return FieldMap(index, declared, spec.scale, spec.offset, self._sentinels_of(spec), spec.sentinels is None)

    def _sentinels_of(self, spec: FieldSpec) -> tuple[float, ...]:
        """Own sentinels as they are; inherited ones only where they cannot be a real value (9999 m of visibility)."""
        if spec.sentinels is not None:
            return spec.sentinels
        key = (spec.property, spec.unit, spec.scale, spec.offset)
        found = self._sentinels_by_kind.get(key)
        if found is None:
            prop = load_properties()[spec.property]
            to_canonical = conversion(prop, spec.unit or prop.unit)
            low, high = self._dictionary[spec.property]["plausible"]
            found = tuple(
                number
                for number in self._content.defaults.sentinels or ()
                if not low <= (number * spec.scale + spec.offset) * to_canonical.scale + to_canonical.offset <= high
            )
            self._sentinels_by_kind[key] = found
        return found
