"""The catalogue: which stations and devices exist, what their fields mean, and the limits and rules that apply.

It is read from a folder of YAML files, checked as a whole, and then never changes: a changed folder gives a new
catalogue with another version. Every version used is archived as JSON and can be read again exactly.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from qingtu.catalogue_build import Builder, DeviceEntry, FieldMap, Series
from qingtu.catalogue_checks import content_of
from qingtu.catalogue_files import read_blocks
from qingtu.catalogue_limits import Limits
from qingtu.catalogue_model import Content, Device, Network, Station
from qingtu.catalogue_relations import Relations, merged_relations
from qingtu.errors import ConfigError, Problem
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from qingtu.catalogue_rules import AnyRule

__all__ = [
    "Catalogue",
    "DeviceEntry",
    "FieldMap",
    "Limits",
    "Series",
    "load_catalogue",
    "synthetic_catalogue",
]

_ARCHIVE_FORMAT = 1


class Catalogue:
    """A checked catalogue with everything looked up; made by :func:`load_catalogue` or :meth:`from_json`.

    Attributes:
        version: 12 hex digits of the SHA-256 over the canonical content.
        networks: by id.
        stations: by id, in the order of the files.
        devices: by (network id, device id).
        series: dense and in a fixed order: by station as listed, then property key, then channel.
        rules: in the order of the files.
        demonstration: True when the stations are made up.
    """

    def __init__(self, content: Content, archived: dict[str, Any] | None = None) -> None:
        """Build the look-up tables.

        Args:
            content: checked blocks.
            archived: the canonical form this was read from, so that a newer program keeps its version.
        """
        self._canonical = archived if archived is not None else _canonical(content)
        self.version = _version(self._canonical)
        self.networks: dict[str, Network] = {network.id: network for network in content.networks}
        self.stations: dict[str, Station] = {station.id: station for station in content.stations}
        self.rules: tuple[AnyRule, ...] = content.rules
        self.demonstration = content.demonstration
        inherited = content.defaults.relations
        self._relations = {
            station.id: merged_relations((inherited.get("all"), inherited.get(station.domain), station.relations))
            for station in content.stations
        }
        builder = Builder(content, self.networks, self._canonical["dictionary"])
        self.series: list[Series] = builder.series
        self.devices: dict[tuple[str, str], DeviceEntry] = builder.devices
        self._index = builder.index

    def series_index(self, station: str, prop: str, channel: str = "main") -> int | None:
        """Return the position of a series in :attr:`series`, or None."""
        return self._index.get((station, prop, channel))

    def relations_of(self, station: str) -> Relations:
        """Return what holds between the properties of a station: its own, over its domain's, over all stations'."""
        return self._relations[station]

    def fields_of(self, device: DeviceEntry | tuple[str, str]) -> Mapping[str, FieldMap]:
        """Return payload field name → meaning of a device, given as entry or (network id, device id).

        Raises:
            KeyError: the catalogue has no such device.
        """
        return (device if isinstance(device, DeviceEntry) else self.devices[device]).fields

    def rules_for(self, station: str) -> tuple[AnyRule, ...]:
        """Return the rules that apply to a station."""
        return tuple(rule for rule in self.rules if rule.where.covers(self.stations[station]))

    def to_json(self) -> str:
        """Write everything that :meth:`from_json` needs, with the version."""
        archive = {"format": _ARCHIVE_FORMAT, "version": self.version, "content": self._canonical}
        return orjson.dumps(archive).decode()

    @classmethod
    def from_json(cls, text: str) -> Catalogue:
        """Read what :meth:`to_json` wrote; the version stays the same.

        Raises:
            ConfigError: the text is not an archived catalogue, was changed, or names properties or units that this
                program does not have.
        """
        try:
            archive = orjson.loads(text)
            canonical = archive["content"]
            blocks = {key: value for key, value in canonical.items() if key != "dictionary"}
            content = Content.model_validate(blocks)
            units = {key: row["unit"] for key, row in canonical["dictionary"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise _archive_error(f"is not a catalogue that this program can read: {error}") from error
        if archive.get("format") != _ARCHIVE_FORMAT or archive.get("version") != _version(canonical):
            raise _archive_error("has another format or was changed after it was written")
        changed = [key for key, unit in units.items() if load_properties()[key].unit != unit]
        if changed:
            raise _archive_error(f"was written with other canonical units of {', '.join(changed)}")
        return cls(content, canonical)


def load_catalogue(folder: Path) -> Catalogue:
    """Read and check every ``*.yaml`` under ``folder``, in sorted order.

    Raises:
        ConfigError: anything is wrong; carries every problem with file and line.
    """
    return Catalogue(content_of(read_blocks(folder)))


def synthetic_catalogue(n_stations: int, properties: Sequence[str] = ("pm25", "pm10", "so2")) -> Catalogue:
    """Make a catalogue of like air stations, for benches and tests.

    Args:
        n_stations: how many; device and station ids are ``s0000``, ``s0001`` … in network ``bench``.
        properties: keys that every station measures, named by key in payloads.
    """
    network = Network(id="bench", zh="基准", en="Bench", interval_s=60)
    stations = []
    for number in range(n_stations):
        name = f"s{number:04d}"
        device = Device(id=name, properties=tuple(properties))
        position = (120.0 + number % 100 / 200, 36.0 + number // 100 % 100 / 200)
        stations.append(
            Station(
                id=name, zh=f"站{number}", en=f"Station {number}", network="bench", domain="air", kind="air",
                position=position, devices=(device,),
            )
        )  # fmt: skip
    return Catalogue(Content(networks=(network,), stations=tuple(stations)))


def _canonical(content: Content) -> dict[str, Any]:
    """Everything that decides what the catalogue means, including the dictionary's part in it, as plain data."""
    used = {key for station in content.stations for key in station.limits}
    for station in content.stations:
        for device in station.devices:
            used |= {*device.properties, *(spec.property for spec in device.fields.values())}
    dictionary = load_properties()
    rows = {
        prop.key: {"unit": prop.unit, "plausible": prop.plausible, "aliases": prop.aliases}
        for prop in (dictionary[key] for key in sorted(used))
    }
    plain: dict[str, Any] = content.model_dump(mode="json", exclude_none=True)
    return orjson.loads(orjson.dumps({**plain, "dictionary": rows}))  # type: ignore[no-any-return]


def _version(canonical: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def _archive_error(message: str) -> ConfigError:
    return ConfigError([Problem("archived catalogue", 0, "content", "", message)])
