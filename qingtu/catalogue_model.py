"""What may stand in a catalogue file: networks, stations, devices, limits, rules, defaults.

Each model checks what can be seen in its own block; what needs several blocks (duplicates, one source per series) is
checked in :mod:`qingtu.catalogue`. ``docs/catalogue.md`` explains every key with examples.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping  # noqa: TC003 - pydantic reads annotations at run time
from functools import cache
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qingtu.properties import load_properties
from qingtu.units import UnknownUnit, conversion

Domain = Literal["air", "weather", "water", "ocean", "noise", "soil", "radiation", "source", "community"]
Kind = Literal[
    "air", "weather", "river", "reservoir", "sea_water", "tide_gauge", "buoy", "beach", "ranch", "noise",
    "radiation", "soil", "source", "construction", "park", "community",
]  # fmt: skip
WaterClass = Literal["I", "II", "III", "IV", "V", "1", "2", "3", "4"]
NoiseClass = Literal["0", "1", "2", "3", "4a", "4b"]
Level = Literal["blue", "yellow", "orange", "red"]
LEVELS: tuple[Level, ...] = ("blue", "yellow", "orange", "red")


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed word, or an empty string.

    >>> nearest("pm2_5", ["pm25", "pm10"])
    " (did you mean 'pm25'?)"
    """
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _refuse(kind: str, message: str) -> PydanticCustomError:
    # the message is data here: braces of what the user wrote must not be read as a template
    return PydanticCustomError(kind, "{text}", {"text": message})


def _known_property(key: str) -> str:
    dictionary = load_properties()
    if key not in dictionary:
        resolved = dictionary.resolve(key)
        hint = f" (did you mean {resolved.key!r}?)" if resolved else nearest(key, dictionary.keys())
        raise _refuse("unknown_property", f"is not an observed property{hint}; all are listed in docs/properties.md")
    return key


def _known_timezone(name: str) -> str:
    if not _timezone_exists(name):
        raise _refuse("unknown_timezone", "is not an IANA time zone, such as 'Asia/Shanghai'")
    return name


@cache
def _timezone_exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found is a KeyError; an odd path or a folder is one of the others
        return False
    return True


def _as_position(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        lon, lat = value
        if not (-180 <= lon <= 180 and -90 <= lat <= 90):
            swapped = "; longitude and latitude look swapped" if -90 <= lon <= 90 and -180 <= lat <= 180 else ""
            raise _refuse("bad_position", f"is not [longitude, latitude] in WGS84 degrees{swapped}")
        return value
    raise _refuse("bad_position", "is not [longitude, latitude] in WGS84 degrees, such as [120.38, 36.07]")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise _refuse("bad_range", "must be [smallest, largest]")
    return value


Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
DeviceId = Annotated[str, Field(pattern=r"^[^\s/+#$][^\s/+#]{0,127}$")]  # it stands in an MQTT topic
Channel = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=31 * 86400)]
PropertyKey = Annotated[str, AfterValidator(_known_property)]
Timezone = Annotated[str, AfterValidator(_known_timezone)]
Position = Annotated[tuple[float, float], BeforeValidator(_as_position)]
Range = Annotated[tuple[Number, Number], AfterValidator(_rising)]
Words = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Strict):
    """A fleet of devices that speak one format over one route.

    ``route`` names a route of the settings; ``private`` marks data about people's homes: the page shows it only to
    those who may see it, and its route must name a redaction.
    """

    id: Id
    zh: Text
    en: Text
    route: str = "native"
    interval_s: Seconds = 300.0
    timezone: Timezone = "Asia/Shanghai"
    private: bool = False


class FieldSpec(_Strict):
    """What one field of a payload means.

    ``number * scale + offset`` is a value in ``unit`` (the property's canonical unit when none is given). A unit
    inside the payload takes the place of ``unit``. ``sentinels`` are compared with the number as it was sent.
    """

    property: PropertyKey
    unit: str | None = None
    channel: Channel = "main"
    sentinels: tuple[Number, ...] | None = None
    scale: Number = 1.0
    offset: Number = 0.0

    @field_validator("unit")
    @classmethod
    def _unit_fits(cls, unit: str | None, info: ValidationInfo) -> str | None:
        if unit is not None and "property" in info.data:  # an unknown property is its own problem
            try:
                conversion(load_properties()[info.data["property"]], unit)
            except UnknownUnit as error:
                raise _refuse("unknown_unit", str(error)) from None
        return unit

    @field_validator("scale")
    @classmethod
    def _scale_inverts(cls, scale: float) -> float:
        if scale == 0:
            raise _refuse("bad_scale", "must not be 0")
        return scale


def _as_field(value: Any) -> Any:
    return {"property": value} if isinstance(value, str) else value


class Device(_Strict):
    """One sender of messages. ``fields`` maps payload names; ``properties`` is the short form by key and alias."""

    id: DeviceId
    network: Id | None = None
    route: str | None = None
    interval_s: Seconds | None = None
    fields: dict[Text, Annotated[FieldSpec, BeforeValidator(_as_field)]] = Field(default_factory=dict)
    properties: tuple[PropertyKey, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Device:
        if not self.fields and not self.properties:
            raise _refuse("empty_device", "needs `fields` or `properties`")
        return self

    def mapping(self, aliases: Mapping[str, Iterable[str]]) -> dict[str, FieldSpec]:
        """Return what each payload field of this device means.

        A property that ``fields`` already maps on channel main is left out of the short form.

        Args:
            aliases: other payload names of each property.
        """
        explicit = {spec.property for spec in self.fields.values() if spec.channel == "main"}
        mapped: dict[str, FieldSpec] = {}
        for key in self.properties:
            if key not in explicit:
                mapped |= dict.fromkeys((key, *aliases.get(key, ())), _plain(key))
        return mapped | self.fields


@cache
def _plain(key: str) -> FieldSpec:
    return FieldSpec(property=key)


class Pair(_Strict):
    """Two thresholds, in the property's canonical unit (per hour for a rate); absent = not tested."""

    suspect: Annotated[float, Field(gt=0)] | None = None
    fail: Annotated[float, Field(gt=0)] | None = None


class LimitSpec(_Strict):
    """Quality limits of one property, canonical unit, bounds inclusive; what is absent is inherited."""

    range: Range | None = None
    suspect: Range | None = None
    rate_per_h: Pair | None = None
    spike: Pair | None = None


class Station(_Strict):
    """A place with sensors."""

    id: Id
    zh: Text
    en: Text
    network: Id
    domain: Domain
    kind: Kind
    position: Position
    district: Annotated[str, Field(pattern=r"^\d{6}$")] | None = None
    street: str | None = None
    community: str | None = None
    datum: str | None = None
    timezone: Timezone | None = None
    water_class: WaterClass | None = None
    noise_class: NoiseClass | None = None
    interval_s: Seconds | None = None
    devices: tuple[Device, ...] = ()
    limits: dict[PropertyKey, LimitSpec] = Field(default_factory=dict)
    attributes: dict[str, str | bool | int | float] = Field(default_factory=dict)


class Where(_Strict):
    """Which stations a rule is for: every key that is given must hold one of its words; none = all stations."""

    domain: Annotated[tuple[Domain, ...], BeforeValidator(_as_list)] | None = None
    kind: Annotated[tuple[Kind, ...], BeforeValidator(_as_list)] | None = None
    network: Words | None = None
    district: Words | None = None
    station: Words | None = None
    water_class: Annotated[tuple[WaterClass, ...], BeforeValidator(_as_list)] | None = None
    noise_class: Annotated[tuple[NoiseClass, ...], BeforeValidator(_as_list)] | None = None

    def covers(self, station: Station) -> bool:
        """Say whether the rule is for this station."""
        wanted = {
            "domain": self.domain, "kind": self.kind, "network": self.network, "district": self.district,
            "station": self.station, "water_class": self.water_class, "noise_class": self.noise_class,
        }  # fmt: skip
        own = {
            **{name: getattr(station, name) for name in wanted if name != "station"},
            "station": station.id,
        }
        return all(words is None or own[name] in words for name, words in wanted.items())


class ThresholdRule(_Strict):
    """An alert while a value is beyond a level.

    ``levels`` are in the property's canonical unit and reached when met exactly. The level falls again only when the
    value is ``hysteresis`` on the good side of it; it opens after it has held for ``hold_s`` seconds of event time.
    """

    id: Id
    kind: Literal["threshold"]
    zh: Text
    en: Text
    property: PropertyKey
    channel: Channel = "main"
    direction: Literal["above", "below"] = "above"
    levels: dict[Level, Number] = Field(min_length=1)
    hysteresis: Annotated[float, Field(ge=0)] = 0.0
    hold_s: Annotated[float, Field(ge=0, le=7 * 86400)] = 0.0
    where: Where = Where()

    @model_validator(mode="after")
    def _levels_rise(self) -> ThresholdRule:
        values = [self.levels[level] for level in LEVELS if level in self.levels]
        if values != sorted(set(values), reverse=self.direction == "below"):
            order = "rise" if self.direction == "above" else "fall"
            raise _refuse("bad_levels", f"levels must {order} from blue to red when the direction is {self.direction}")
        return self


class SilenceRule(_Strict):
    """An alert when nothing was heard of a station for so many of its intervals, or so many seconds."""

    id: Id
    kind: Literal["silence"]
    zh: Text
    en: Text
    after_intervals: Annotated[float, Field(gt=0)] | None = None
    after_s: Seconds | None = None
    level: Level = "yellow"
    where: Where = Where()

    @model_validator(mode="after")
    def _one_limit(self) -> SilenceRule:
        if (self.after_intervals is None) == (self.after_s is None):
            raise _refuse("bad_silence", "needs exactly one of after_intervals and after_s")
        return self


Rule = Annotated[ThresholdRule | SilenceRule, Field(discriminator="kind")]
RULE: TypeAdapter[ThresholdRule | SilenceRule] = TypeAdapter(Rule)


class Defaults(_Strict):
    """What stations inherit: limits by station domain (``all`` first), and sentinels of all fields."""

    limits: dict[Literal[Domain, "all"], dict[PropertyKey, LimitSpec]] = Field(default_factory=dict)
    sentinels: tuple[Number, ...] | None = None


class Content(_Strict):
    """A whole catalogue, merged from its files, in a form that is hashed, archived and read again."""

    networks: tuple[Network, ...] = ()
    stations: tuple[Station, ...] = ()
    rules: tuple[Rule, ...] = ()
    defaults: Defaults = Defaults()
    demonstration: bool = False
