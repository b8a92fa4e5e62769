"""Units: understand how people spell them, and convert exactly within one quantity; refuse the rest.

What may be converted stands in ``units.yaml``; code here only looks up and divides. Nothing is guessed: a spelling
that is not listed, or a unit of another quantity, is refused with the list of what would be accepted.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import yaml

from qingtu.errors import QingtuError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.properties import Property

# Molar volume of an ideal gas in L/mol at the reference state of GB 3095-2026: 298.15 K and 1013.25 hPa.
# R = 8.31446261815324 J/(mol K) is exact in the SI since 2019.
MOLAR_VOLUME_L_MOL = Fraction("8.31446261815324") * Fraction("298.15") / Fraction("101.325")

_LONGEST = 40  # no unit is longer; a payload may send a book where its unit should stand
_MASS, _MOLE, _AMOUNT = "mass_concentration", "mole_fraction", "amount_concentration"


class UnknownUnit(QingtuError):  # noqa: N818 - reads as what it reports
    """A unit that is not known for the property; the message lists the units that are."""


class Affine(NamedTuple):
    """``value * scale + offset`` turns a value in the given unit into the property's canonical unit."""

    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class _Linear:
    """Exact form of :class:`Affine` towards the base of a quantity."""

    scale: Fraction
    offset: Fraction


@dataclass(frozen=True, slots=True)
class _Tables:
    quantities: Mapping[str, Mapping[str, _Linear]]
    canonical_quantity: Mapping[str, str]
    spellings: Mapping[str, str]
    known: frozenset[str]


def canonical_unit(text: str) -> str | None:
    """Return the UCUM unit that ``text`` spells, or None when it spells none that is known.

    Letter case counts, because it does in the SI: ``mPa`` is not ``MPa``.

    >>> canonical_unit("μg/m³"), canonical_unit("℃"), canonical_unit("毫克/升"), canonical_unit("furlong")
    ('ug/m3', 'Cel', 'mg/L', None)
    """
    tables = _tables()
    if text in tables.known:
        return text
    if len(text) > _LONGEST:
        return None
    folded = _fold(text)
    return folded if folded in tables.known else tables.spellings.get(folded)


def accepted_units(
    unit: str, *, gas_molar_mass: float | None = None, solute_molar_mass: float | None = None
) -> tuple[str, ...]:
    """List the UCUM units that can be converted into ``unit``, itself first.

    Args:
        unit: canonical UCUM unit of a property.
        gas_molar_mass: g/mol, when mole fraction and mass concentration may be exchanged.
        solute_molar_mass: g/mol, when amount and mass concentration may be exchanged.

    Raises:
        UnknownUnit: ``unit`` belongs to no quantity.
    """
    forms = _forms(unit, gas_molar_mass, solute_molar_mass)
    return (unit, *(u for u in forms if u != unit))


def conversion(prop: Property, from_unit: str) -> Affine:
    """Return how a value given in ``from_unit`` becomes the canonical unit of ``prop``.

    Gas mole fractions and mass concentrations are exchanged at 298.15 K and 1013.25 hPa (GB 3095-2026).

    Args:
        prop: the observed property.
        from_unit: any spelling that :func:`canonical_unit` understands.

    Raises:
        UnknownUnit: the spelling is not known, or the unit measures something else.
    """
    unit = canonical_unit(from_unit)
    if unit is None or unit not in prop.accepted_units:
        accepted = ", ".join(prop.accepted_units)
        raise UnknownUnit(f"unit {from_unit[:40]!r} is not known for {prop.key}; accepted: {accepted}")
    return _affine(prop.unit, unit, prop.gas_molar_mass, prop.solute_molar_mass)


@cache
def _affine(to_unit: str, from_unit: str, gas: float | None, solute: float | None) -> Affine:
    forms = _forms(to_unit, gas, solute)
    source, target = forms[from_unit], forms[to_unit]
    scale = source.scale / target.scale
    offset = (source.offset - target.offset) / target.scale
    return Affine(float(scale), float(offset))


@cache
def _forms(unit: str, gas: float | None, solute: float | None) -> dict[str, _Linear]:
    """All units that convert into ``unit``, each with its way to one common base."""
    tables = _tables()
    quantity = tables.canonical_quantity.get(unit)
    if quantity is None:
        raise UnknownUnit(f"unit {unit!r} belongs to no quantity of units.yaml")
    forms = dict(tables.quantities[quantity])
    # Bases: g/m3, mol/mol and mol/L. One mol/mol is 1000/V mol/m3, hence M*1000/V g/m3; one mol/L is M*1000 g/m3.
    exchanges: list[tuple[str, Fraction]] = []
    if gas is not None:
        exchanges.append((_MOLE, Fraction(str(gas)) * 1000 / MOLAR_VOLUME_L_MOL))
    if solute is not None:
        exchanges.append((_AMOUNT, Fraction(str(solute)) * 1000))
    for other, mass_per_other in exchanges:
        if quantity == _MASS:
            forms |= _scaled(tables.quantities[other], mass_per_other)
        elif quantity == other:
            forms |= _scaled(tables.quantities[_MASS], 1 / mass_per_other)
    return forms


def _scaled(units: Mapping[str, _Linear], factor: Fraction) -> dict[str, _Linear]:
    return {unit: _Linear(form.scale * factor, form.offset) for unit, form in units.items()}


def _fold(text: str) -> str:
    """Reduce the many ways to type one unit (superscripts, two mu letters, full width, blanks, dots) to one."""
    folded = unicodedata.normalize("NFKC", text)
    folded = folded.replace("μ", "u").replace("−", "-").replace("⋅", ".").replace("·", ".").replace("・", ".")
    words = folded.replace("**", "").replace("^", "").split()
    # "mg m-3" means a product; "deg C" and "W / m2" are words and signs that only stand apart
    joined = ".".join(words) if len(words) > 1 and words[-1][-1:].isdigit() and "-" in words[-1] else "".join(words)
    return joined.replace("*", ".") if joined[:3] != "10*" else joined


@cache
def _tables() -> _Tables:
    """Read units.yaml once; a fault in it is a fault of the program, so it raises as it comes."""
    text = files("qingtu").joinpath("units.yaml").read_text(encoding="utf-8")
    raw = yaml.load(text, Loader=yaml.CSafeLoader)
    quantities = {
        quantity: {str(unit): _linear(entry) for unit, entry in units.items()}
        for quantity, units in raw["quantities"].items()
    }
    canonical = {unit: quantity for quantity, units in quantities.items() for unit in units}
    canonical |= raw["canonical_quantity"]
    spellings: dict[str, str] = {}
    for unit, names in raw["spellings"].items():
        for name in (unit, *names):
            other = spellings.setdefault(_fold(str(name)), unit)
            if other != unit:
                raise ValueError(f"units.yaml: {name!r} spells both {other!r} and {unit!r}")
    return _Tables(quantities, canonical, spellings, frozenset(canonical))


def _linear(entry: object) -> _Linear:
    scale, offset = entry if isinstance(entry, list) else (entry, 0)
    return _Linear(_fraction(scale), _fraction(offset))


def _fraction(value: object) -> Fraction:
    """``1/3.6`` and ``1e-3`` are exact; Fraction alone reads only whole numbers on both sides of a slash."""
    top, _, bottom = str(value).partition("/")
    return Fraction(top) / Fraction(bottom or 1)
