"""Limits between properties of one message: what one reading says of another, as a catalogue writes it.

``docs/quality.md`` says what each check does with them; those of one property stand in
:mod:`qingtu.catalogue_limits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from qingtu.catalogue_words import Number, Positive, PropertyKey, Range, Strict, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable


def _box(value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    west, south, east, north = value
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise refusal("bad_box", "须为 [西, 南, 东, 北] / must be [west, south, east, north] in degrees, rising")
    return value


Box = Annotated[tuple[Number, Number, Number, Number], AfterValidator(_box)]


class NitrogenOxides(Strict):
    """How far NO (as NO2) + NO2 may be from NOx: ``share`` of the larger, and ``floor`` µg/m³ beside."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    floor: Annotated[float, Field(ge=0)] = 10.0


class ParticleSizes(Strict):
    """By how many µg/m³ fine particles may exceed coarser ones, which hold them."""

    floor: Annotated[float, Field(ge=0)] = 10.0


class CalmWind(Strict):
    """Wind speed in m/s below which a vane stands where it last was."""

    below: Positive


class Density(Strict):
    """By how many kg/m³ water may be denser than what lies below it."""

    suspect: Positive | None = None
    fail: Positive | None = None


class Location(Strict):
    """Where a station that reports its position may be.

    ``box`` is [west, south, east, north] in degrees, WGS84; on its border is outside, which fails. ``suspect_m`` and
    ``fail_m`` are distances from the position that the catalogue gives.
    """

    box: Box | None = None
    suspect_m: Positive | None = None
    fail_m: Positive | None = None


class Together(Strict):
    """While ``when`` lies in its range (bounds inclusive), ``expect`` must lie in its own, or it is suspect."""

    when: PropertyKey
    within: Range
    expect: PropertyKey
    range: Range


class Relations(Strict):
    """Limits between the properties of a station; what is absent is inherited or not tested."""

    nitrogen_oxides: NitrogenOxides | None = None
    particle_sizes: ParticleSizes | None = None
    calm_wind: CalmWind | None = None
    density: Density | None = None
    location: Location | None = None
    multi_variate: tuple[Together, ...] | None = None


def merged_relations(layers: Iterable[Relations | None]) -> Relations:
    """Lay relations over each other; a later layer replaces what it names."""
    values = {name: value for layer in layers if layer for name, value in layer if value is not None}
    return Relations.model_construct(**values)
