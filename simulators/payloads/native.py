"""Native JSON as devices write it: one meaning, several dialects that a decoder must all understand.

``docs/formats/native.md`` describes the format; which dialect a device speaks is fixed by its key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from qingtu.clock import SECOND
from qingtu.units import conversion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qingtu.properties import Property

TimeForm = Literal["offset", "offset_basic", "utc", "local", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"]
_CHINA = timezone(timedelta(hours=8))


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a device writes native JSON.

    Attributes:
        time: ``offset`` 2026-11-23T08:00:00+08:00, ``offset_basic`` +0800, ``utc`` Z, ``local`` without a zone, or
            an epoch number.
        units: readings are ``{"value": …, "unit": …}``, often in another unit than the canonical one.
        strings: numbers are written as text.
        array: the object stands in an array of one.
        names_itself: the payload repeats the device's id.
    """

    time: TimeForm = "offset"
    units: bool = False
    strings: bool = False
    array: bool = False
    names_itself: bool = False


DIALECTS: tuple[Dialect, ...] = (
    Dialect(),
    Dialect(time="offset_basic"),
    Dialect(time="utc", names_itself=True),
    Dialect(time="epoch_ms"),
    Dialect(time="epoch_ms", units=True),
    Dialect(time="epoch_s", strings=True),
    Dialect(time="local"),
    Dialect(time="epoch_us", array=True),
    Dialect(time="offset", units=True),
    Dialect(time="epoch_ns"),
)

# What other instruments use for the same quantity: canonical unit → other units, as they are written on devices.
_OTHER_UNITS: dict[str, tuple[str, ...]] = {
    "Cel": ("℃", "°F", "K"),
    "hPa": ("kPa", "Pa"),
    "m/s": ("km/h", "kn"),
    "ug/m3": ("µg/m³", "mg/m³", "ppb"),
    "mg/m3": ("mg/m³", "μg/m3", "ppm"),
    "mg/L": ("毫克/升", "ug/L"),
    "ug/L": ("mg/l",),
    "m": ("cm",),
    "m3/s": ("L/s",),
    "L/s": ("m3/h",),
    "uS/cm": ("mS/cm",),
    "mS/cm": ("S/m",),
    "nGy/h": ("µGy/h",),
    "MPa": ("kPa", "bar"),
    "kW": ("W",),
    "kW.h": ("kWh",),
    "dB": ("dB(A)",),
    "%": ("%",),
}


class Form(NamedTuple):
    """How one reading is written: ``number = (canonical - offset) / scale``, rounded to ``decimals``.

    Attributes:
        scale: canonical units per unit of the written number.
        offset: canonical value of a written 0.
        decimals: kept in the written number: enough that reading it gives the canonical value back.
        unit: text beside the number, "" for none.
    """

    scale: float
    offset: float
    decimals: int
    unit: str = ""

    def write(self, value: float) -> float | int:
        """Return the number that stands in the payload."""
        if self.scale == 1.0 and self.offset == 0.0:
            return int(value) if self.decimals == 0 else value
        number = round((value - self.offset) / self.scale, self.decimals)
        return int(number) if self.decimals == 0 else number


def form(prop: Property, unit: str, *, scale: float = 1.0, offset: float = 0.0, text: str = "") -> Form:
    """Return how to write a property.

    Args:
        prop: the observed property.
        unit: of ``number * scale + offset``; any spelling that is known.
        scale: of the catalogue's field.
        offset: of the catalogue's field, in ``unit``.
        text: unit to write beside the number, "" for none.

    Raises:
        UnknownUnit: the unit does not measure this property.
    """
    to_canonical = conversion(prop, unit)
    whole_scale = to_canonical.scale * scale
    whole_offset = to_canonical.scale * offset + to_canonical.offset
    finer = 0 if (whole_scale, whole_offset) == (1.0, 0.0) else math.ceil(math.log10(abs(whole_scale))) + 2
    return Form(whole_scale, whole_offset, max(0, prop.precision + finer), text)


def other_unit(prop: Property, choice: int) -> str:
    """Return another spelling or unit for a property, accepted by it; its own unit when there is none."""
    words = []
    for text in _OTHER_UNITS.get(prop.unit, ()):
        if "pp" in text and prop.gas_molar_mass is None:
            continue  # only gases have a mole fraction
        words.append(text)
    return words[choice % len(words)] if words else prop.unit


def write_time(time_us: int, how: TimeForm) -> str | int | float:
    """Return a time as a device writes it.

    >>> write_time(1_795_392_000_000_000, "offset"), write_time(1_795_392_000_000_000, "epoch_s")
    ('2026-11-23T08:00:00+08:00', 1795392000)
    """
    if how.startswith("epoch"):
        return _epoch(time_us, how)
    zone = UTC if how == "utc" else _CHINA
    moment = datetime.fromtimestamp(time_us // SECOND, tz=zone).replace(microsecond=time_us % SECOND, tzinfo=None)
    text = moment.isoformat()
    return text + {"offset": "+08:00", "offset_basic": "+0800", "utc": "Z", "local": ""}[how]


def _epoch(time_us: int, how: TimeForm) -> int | float:
    if how == "epoch_ns":
        return time_us * 1000
    if how == "epoch_us":
        return time_us
    divisor = SECOND if how == "epoch_s" else 1000
    whole, rest = divmod(time_us, divisor)
    return time_us / divisor if rest else whole


def encode(
    readings: Iterable[tuple[str, float | int, str]],
    time_us: int,
    seq: int,
    dialect: Dialect,
    *,
    device: str = "",
    events: Sequence[tuple[str, int, int, dict[str, Any]]] = (),
) -> bytes:
    """Write one message.

    Args:
        readings: (field name, number as written, unit text or "").
        time_us: claimed time, µs UTC.
        seq: the device's counter.
        dialect: how to write it.
        device: the device's id, written when the dialect names it.
        events: (kind, level, time µs UTC, attributes).
    """
    body: dict[str, Any] = {"time": write_time(time_us, dialect.time)}
    if dialect.names_itself:
        body["device"] = device
    if dialect.units:
        body["readings"] = {n: {"value": v, "unit": u} if u else v for n, v, u in readings}
    elif dialect.strings:
        body["readings"] = {n: str(v) for n, v, _ in readings}
    else:
        body["readings"] = {n: v for n, v, _ in readings}
    if events:
        # the format wants a zone on an event's time
        how: TimeForm = "offset" if dialect.time == "local" else dialect.time
        body["events"] = [
            {"kind": kind, "level": level, "time": write_time(when, how), "attributes": attributes}
            for kind, level, when, attributes in events
        ]
    body["seq"] = seq
    return orjson.dumps([body] if dialect.array else body)
