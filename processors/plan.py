"""The catalogue as arrays: what the ordered pass looks things up in, without a Python object per reading.

Numbers are dense and local to this process: device number, layout (devices whose payload fields have the same
names share one), entry (one field of one device), series, station. Frames carry names, never these numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from ingest.decoders.native import BOOLEAN_UNIT
from processors.deduplicate import sender
from qingtu.clock import MINUTE, SECOND
from qingtu.partitions import partition_of
from qingtu.properties import load_properties
from qingtu.units import Affine, UnknownUnit, conversion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue, FieldMap

UNKNOWN: Final = -1
_DELAY_FLOOR: Final = 10 * MINUTE


class Names:
    """Names from which some are taken again and again.

    Arrow's own kernels for it find their memory cold in a frame of a few messages, and then take most of its time.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode() for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._length = np.array([len(name) for name in encoded], np.int64)
        self._start = np.cumsum(self._length) - self._length

    def take(self, some: NDArray[np.int64]) -> pa.StringArray:
        """Return the names with these numbers (n,)."""
        length = self._length.take(some)
        end = np.cumsum(length)
        offsets = np.zeros(len(some) + 1, np.int32)
        offsets[1:] = end
        at = np.repeat(self._start.take(some) - (end - length), length)
        at += np.arange(len(at))
        buffers = pa.py_buffer(offsets), pa.py_buffer(self._bytes.take(at))
        return pa.StringArray.from_buffers(len(some), *buffers)


class Plan:
    """Look-up tables of one catalogue version.

    Attributes:
        catalogue: what this was made from.
        device: (network, device) → device number.
        device_of: network → device → the same.
        device_station: int64 (devices,), station number.
        device_layout: int64 (devices,).
        device_base: int64 (devices,), first entry of the device.
        device_sender: as :func:`processors.deduplicate.sender` writes each device.
        slot: int32 (layouts, known names), place of a field among the device's entries, or UNKNOWN.
        name_code: payload field name → column of ``slot``.
        entry_series: int64 (entries,); numpy looks up places of 64 bits in half the time.
        entry_scale, entry_offset: float64 (entries,), number as sent → canonical unit.
        entry_sentinels: int32 (entries,), index into ``sentinel_sets``.
        entry_inherited: bool (entries,), those sentinels are the defaults'.
        entry_plausible: float64 (entries, 2), the dictionary's range of the property, canonical unit.
        sentinel_sets: distinct arrays of numbers that mean "no value".
        delay_us: int64 (series,), received later than this after its time means late.
        stations: names, to be taken by number.
        properties, channels: Arrow string arrays of names.
        series_station, series_property, series_channel: int32 (series,), indices into those.
        station_zone: index into ``zones`` of each station.
        partition: the one that this is for.
        mine: stations that live in that partition; of the others nothing is ever heard here.
        lives_here: bool (stations,), the same; None: readings of all stations are taken here.
    """

    def __init__(
        self, catalogue: Catalogue, partition: int = 0, partitions: int = 1, *, everywhere: bool = False
    ) -> None:
        self.catalogue = catalogue
        self.version = catalogue.version
        self.partition = partition
        series = catalogue.series
        self.station_names = list(catalogue.stations)
        self.station_number = {name: i for i, name in enumerate(self.station_names)}
        self.mine = frozenset(s for s in self.station_names if partition_of(s, partitions) == partition)
        self.property_names = sorted({s.property for s in series})
        self.channel_names = sorted({s.channel for s in series} | {"main"})
        properties = {name: i for i, name in enumerate(self.property_names)}
        channels = {name: i for i, name in enumerate(self.channel_names)}
        self.stations = Names(self.station_names)
        self.properties = pa.array(self.property_names, pa.string())
        self.channels = pa.array(self.channel_names, pa.string())
        here = np.array([s in self.mine for s in self.station_names], np.bool_)
        self.lives_here = None if everywhere or here.all() else here
        self.series_station = np.array([self.station_number[s.station] for s in series], np.int32)
        self.series_property = np.array([properties[s.property] for s in series], np.int32)
        self.series_channel = np.array([channels[s.channel] for s in series], np.int32)
        intervals = np.array([s.interval_s for s in series], np.float64)
        self.delay_us = np.maximum(3 * intervals * SECOND, _DELAY_FLOOR).astype(np.int64)
        self._devices(catalogue)
        self._units: dict[tuple[int, str], Affine | None] = {}

    def _devices(self, catalogue: Catalogue) -> None:
        self.device = {key: i for i, key in enumerate(catalogue.devices)}
        self.device_of: dict[str, dict[str, int]] = {}
        for (network, device), number in self.device.items():
            self.device_of.setdefault(network, {})[device] = number
        entries = list(catalogue.devices.values())
        self.device_names = [device for _, device in catalogue.devices]
        self.device_sender = [sender(network, device) for network, device in catalogue.devices]
        self.device_station = np.array([self.station_number[e.station.id] for e in entries], np.int64)
        self.device_route = [e.route for e in entries]
        zones = sorted({e.timezone for e in entries})
        self.zones = [ZoneInfo(zone) for zone in zones]
        self.device_zone = np.array([zones.index(e.timezone) for e in entries], np.int32)
        layouts: dict[tuple[str, ...], int] = {}
        self.name_code: dict[str, int] = {}
        layout_of, base = [], []
        fields: list[FieldMap] = []
        for entry in entries:
            names = tuple(entry.fields)
            layout_of.append(layouts.setdefault(names, len(layouts)))
            base.append(len(fields))
            fields.extend(entry.fields.values())
            for name in names:
                self.name_code.setdefault(name, len(self.name_code))
        self.device_layout = np.array(layout_of, np.int64)
        self.device_base = np.array(base, np.int64)
        # One more column, always UNKNOWN, stands for names that no device has.
        self.slot = np.full((max(len(layouts), 1), len(self.name_code) + 1), UNKNOWN, np.int32)
        for names, layout in layouts.items():
            self.slot[layout, [self.name_code[name] for name in names]] = np.arange(len(names))
        self._entries(catalogue, fields)

    def _entries(self, catalogue: Catalogue, fields: Sequence[FieldMap]) -> None:
        dictionary = load_properties()
        self.entry_series = np.array([f.series_index for f in fields], np.int64)
        self.field_scale = np.array([f.scale for f in fields], np.float64)
        self.field_offset = np.array([f.offset for f in fields], np.float64)
        known: dict[tuple[str, str], Affine] = {}
        affine = []
        sets: dict[tuple[float, ...], int] = {}
        sentinels = []
        for f in fields:
            key = (catalogue.series[f.series_index].property, f.unit)
            if key not in known:
                known[key] = conversion(dictionary[key[0]], key[1])
            affine.append(known[key])
            sentinels.append(sets.setdefault(tuple(f.sentinels), len(sets)))
        scale = np.array([a.scale for a in affine], np.float64)
        self.entry_scale = self.field_scale * scale
        self.entry_offset = self.field_offset * scale + np.array([a.offset for a in affine], np.float64)
        self.entry_sentinels = np.array(sentinels, np.int32)
        self.entry_inherited = np.array([f.inherited for f in fields], np.bool_)
        plausible = [dictionary[catalogue.series[f.series_index].property].plausible for f in fields]
        self.entry_plausible = np.array(plausible, np.float64).reshape(-1, 2)
        self.sentinel_sets = [np.array(s, np.float64) for s in sets]

    def known_names(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the columns of ``slot`` for payload field names; the last column for unknown ones."""
        unknown = self.slot.shape[1] - 1
        return np.array([self.name_code.get(name, unknown) for name in names], np.int64)

    def unit(self, entry: int, unit: str) -> Affine | None:
        """Return the conversion of a number that a device sent with ``unit``, or None when it is refused."""
        prop = self.property_names[self.series_property[self.entry_series[entry]]]
        key = (entry, unit)
        if key not in self._units:
            if len(self._units) > 100_000:  # units are text from outside: never let them fill memory
                self._units.clear()
            self._units[key] = self._unit(prop, entry, unit)
        return self._units[key]

    def _unit(self, prop: str, entry: int, unit: str) -> Affine | None:
        spec = load_properties()[prop]
        if unit == BOOLEAN_UNIT:
            return Affine(1.0, 0.0) if spec.unit == "1" and spec.plausible == (0, 1) else None
        try:
            to = conversion(spec, unit)
        except UnknownUnit:
            return None
        return Affine(float(self.field_scale[entry] * to.scale), float(self.field_offset[entry] * to.scale + to.offset))


def remap(old: Plan, new: Plan) -> NDArray[np.int64]:
    """Return for each series of ``new`` its number in ``old``, or UNKNOWN; shape (series of new,)."""
    index: Mapping[tuple[str, str, str], int] = {
        (s.station, s.property, s.channel): i for i, s in enumerate(old.catalogue.series)
    }
    return np.array([index.get((s.station, s.property, s.channel), UNKNOWN) for s in new.catalogue.series], np.int64)


def carry(array: NDArray[Any], source: NDArray[np.int64], empty: NDArray[Any]) -> NDArray[Any]:
    """Take state rows along to new numbers.

    Args:
        array: shape (old, …).
        source: shape (new,), old number of each or UNKNOWN.
        empty: shape (new, …), what a row without a past starts as; changed and returned.
    """
    kept = source >= 0
    empty[kept] = array[source[kept]]
    return empty
