"""What may stand in a catalogue file: networks, stations, devices, limits, defaults; rules: qingtu/catalogue_rules.py.

Each model checks what can be seen in its own block; what needs several blocks (duplicates, one source per series) is
checked in :mod:`qingtu.catalogue_checks`. ``docs/catalogue.md`` explains every key with examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping  # noqa: TC003 - pydantic reads annotations at run time
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from qingtu.catalogue_limits import LimitSpec  # noqa: TC001 - pydantic reads annotations at run time
from qingtu.catalogue_relations import Relations  # noqa: TC001 - the same
from qingtu.catalogue_rules import Rule  # noqa: TC001 - pydantic reads annotations at run time
from qingtu.catalogue_words import (
    Channel,
    DeviceId,
    Domain,
    Id,
    Kind,
    NoiseClass,
    Number,
    Position,
    PropertyKey,
    Seconds,
    Strict,
    Text,
    Timezone,
    WaterClass,
    as_list,
    refusal,
)
from qingtu.properties import load_properties
from qingtu.units import UnknownUnit, conversion


def _two_hours(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] == value[1]:
        raise refusal("bad_day_hours", "昼间与夜间起始时相同 / day and night must begin at different hours")
    return value


Hour = Annotated[int, Field(ge=0, le=23)]


def _simple(value: Any) -> Any:
    if not isinstance(value, str | bool | int | float):
        raise refusal("bad_attribute", "须为文本、数字或 true/false / must be text, a number, or true or false")
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number: the archive would lose it
        raise refusal("bad_attribute", "须为有限数值 / must be a finite number")
    return value


Simple = Annotated[str | bool | int | float, BeforeValidator(_simple)]
"""What is wrong with it is said once, not once for each type."""
DayHours = Annotated[tuple[Hour, Hour], AfterValidator(_two_hours)]
"""Local hours at which day and night begin, for noise."""


class Network(Strict):
    """A fleet of devices that speak one format over one route.

    ``day_hours`` are the local hours at which day and night begin, for noise levels (6 and 22 unless told).
    ``route`` names a route of the settings; ``private`` marks data about people's homes: the page shows it only to
    those who may see it, and its route must name a redaction.
    """

    id: Id
    zh: Text
    en: Text
    route: str = "native"
    interval_s: Seconds = 300.0
    timezone: Timezone = "Asia/Shanghai"
    day_hours: DayHours | None = None
    private: bool = False


class FieldSpec(Strict):
    """What one field of a payload means.

    ``number * scale + offset`` is a value in ``unit`` (the property's canonical unit when none is given). A unit
    inside the payload takes the place of ``unit``. ``sentinels`` are compared with the number as it was sent.
    ``depth_m`` is how deep below the surface the sensor of this channel hangs.
    """

    property: PropertyKey
    unit: str | None = None
    channel: Channel = "main"
    depth_m: Annotated[float, Field(ge=0, le=12_000)] | None = None
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
                raise refusal("unknown_unit", f"单位不适用 / {error}") from None
        return unit

    @field_validator("scale")
    @classmethod
    def _scale_inverts(cls, scale: float) -> float:
        if scale == 0:
            raise refusal("bad_scale", "不得为 0 / must not be 0")
        return scale


def _as_field(value: Any) -> Any:
    return {"property": value} if isinstance(value, str) else value


class Device(Strict):
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
            raise refusal("empty_device", "须有 fields 或 properties / needs `fields` or `properties`")
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


class Window(Strict):
    """A time with beginning and end, with an offset from UTC: ``2026-11-23T08:00:00+08:00``."""

    start: AwareDatetime
    end: AwareDatetime

    @model_validator(mode="after")
    def _forward(self) -> Window:
        if self.end <= self.start:
            raise refusal("bad_window", "须晚于 start / must be later than start", "end")
        return self

    @property
    def start_us(self) -> int:
        """Beginning, µs UTC."""
        return round(self.start.timestamp() * 1_000_000)

    @property
    def end_us(self) -> int:
        """End, exclusive, µs UTC."""
        return round(self.end.timestamp() * 1_000_000)


class Station(Strict):
    """A place with sensors. ``downstream_of`` names the stations whose water, or discharge, reaches it next."""

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
    downstream_of: Annotated[tuple[Id, ...], BeforeValidator(as_list)] = ()
    datum: str | None = None
    timezone: Timezone | None = None
    day_hours: DayHours | None = None
    water_class: WaterClass | None = None
    noise_class: NoiseClass | None = None
    interval_s: Seconds | None = None
    devices: tuple[Device, ...] = ()
    maintenance: tuple[Window, ...] = ()
    limits: dict[PropertyKey, LimitSpec] = Field(default_factory=dict)
    relations: Relations | None = None
    attributes: dict[str, Simple] = Field(default_factory=dict)


class Defaults(Strict):
    """What stations inherit: limits and relations by station domain (``all`` first), and sentinels of all fields."""

    limits: dict[Literal[Domain, "all"], dict[PropertyKey, LimitSpec]] = Field(default_factory=dict)
    relations: dict[Literal[Domain, "all"], Relations] = Field(default_factory=dict)
    sentinels: tuple[Number, ...] | None = None


class Content(Strict):
    """A whole catalogue, merged from its files, in a form that is hashed, archived and read again."""

    networks: tuple[Network, ...] = ()
    stations: tuple[Station, ...] = ()
    rules: tuple[Rule, ...] = ()
    defaults: Defaults = Defaults()
    demonstration: bool = False
