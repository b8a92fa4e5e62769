"""The observed-property dictionary: what Qingtu can measure, in which unit, and how it is named elsewhere.

The rows live in ``properties.yaml`` beside this file; ``docs/properties.md`` is made from them
(``python -m qingtu.properties > docs/properties.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from qingtu.units import MOLAR_VOLUME_L_MOL, accepted_units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Aggregation = Literal["mean", "sum", "max", "last", "none", "circular", "energy", "rms", "counter"]
_Name = TypeVar("_Name", str, tuple[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One observed property.

    Attributes:
        key: its name in frames, store, API and catalogue.
        zh: Chinese name.
        en: English name.
        domain: air, weather, water, ocean, noise, soil, radiation, source, community or device.
        unit: canonical UCUM unit, in which values are kept.
        accepted_units: UCUM units that convert into ``unit``, itself first.
        plausible: smallest and largest plausible value in ``unit``, inclusive; engineering values, unconfirmed.
        precision: decimals to show.
        agg: how values combine over time.
        cf: CF standard name (table v93), or None.
        hj212: HJ 212-2017 factor code, or None.
        hj212_st: system types (ST) under which that code means this property.
        hj212_unit: unit that HJ 212 prescribes for the code, or None.
        hj212_factor: a value in ``hj212_unit`` times this is a value in ``unit``.
        aliases: other names in payloads, matched exactly.
        gas_molar_mass: g/mol where a gas converts between mole fraction and mass concentration.
        solute_molar_mass: g/mol where a dissolved substance may be given in mol/L.
    """

    key: str
    zh: str
    en: str
    domain: str
    unit: str
    accepted_units: tuple[str, ...]
    plausible: tuple[float, float]
    precision: int
    agg: Aggregation
    cf: str | None = None
    hj212: str | None = None
    hj212_st: tuple[str, ...] = ()
    hj212_unit: str | None = None
    hj212_factor: float | None = None
    aliases: tuple[str, ...] = ()
    gas_molar_mass: float | None = None
    solute_molar_mass: float | None = None

    @property
    def ug_m3_per_ppb(self) -> float | None:
        """µg/m³ that one ppb of this gas makes at 298.15 K and 1013.25 hPa, or None."""
        return None if self.gas_molar_mass is None else self.gas_molar_mass / float(MOLAR_VOLUME_L_MOL)


class PropertyDictionary:
    """All observed properties, in the order of the file.

    Args:
        rows: the properties.
        source: where names, codes and units come from.
        confidence: what of it is confirmed and what is not.

    Raises:
        ValueError: two properties claim one key or alias, or one (ST, HJ 212 code).
    """

    def __init__(self, rows: Iterable[Property], *, source: str, confidence: str) -> None:
        self.source = source
        self.confidence = confidence
        self._by_key: dict[str, Property] = {}
        self._by_name: dict[str, Property] = {}
        self._by_hj212: dict[tuple[str, str], Property] = {}
        for prop in rows:
            self._by_key[prop.key] = prop
            for name in (prop.key, *prop.aliases):
                _claim(self._by_name, name, prop)
            for system_type in prop.hj212_st:
                _claim(self._by_hj212, (system_type, str(prop.hj212)), prop)

    def get(self, key: str) -> Property | None:
        """Return the property with this key, or None."""
        return self._by_key.get(key)

    def resolve(self, name: str) -> Property | None:
        """Return the property with this key or alias (exact, letter case counts), or None."""
        return self._by_name.get(name)

    def by_hj212(self, system_type: str, code: str) -> Property | None:
        """Return what an HJ 212 factor code means under a system type (ST), or None."""
        return self._by_hj212.get((system_type, code))

    def __getitem__(self, key: str) -> Property:
        return self._by_key[key]

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Property]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def keys(self) -> tuple[str, ...]:
        """Return all keys in the order of the file."""
        return tuple(self._by_key)


def _claim(table: dict[_Name, Property], name: _Name, prop: Property) -> None:
    other = table.setdefault(name, prop)
    if other is not prop:
        raise ValueError(f"properties.yaml: {name!r} means both {other.key} and {prop.key}")


@cache
def load_properties() -> PropertyDictionary:
    """Return the dictionary that ships with Qingtu; read once per process."""
    text = files("qingtu").joinpath("properties.yaml").read_text(encoding="utf-8")
    raw = yaml.load(text, Loader=yaml.CSafeLoader)
    rows = (_property(row) for row in raw["properties"])
    return PropertyDictionary(rows, source=raw["_meta"]["source"], confidence=raw["_meta"]["confidence"])


def _property(row: dict[str, Any]) -> Property:
    low, high = row.pop("plausible")
    gas, solute = row.get("gas_molar_mass"), row.get("solute_molar_mass")
    return Property(
        plausible=(float(low), float(high)),
        accepted_units=accepted_units(row["unit"], gas_molar_mass=gas, solute_molar_mass=solute),
        hj212_st=tuple(row.pop("hj212_st", ())),
        aliases=tuple(row.pop("aliases", ())),
        **row,
    )


def markdown_table(dictionary: PropertyDictionary) -> str:
    """Write the dictionary as the page ``docs/properties.md``."""
    lines = [
        "# Observed properties",
        "",
        "Made from `qingtu/properties.yaml` by `python -m qingtu.properties > docs/properties.md`; do not edit.",
        "",
        f"Sources: {dictionary.source}.",
        "",
        f"Confidence: {dictionary.confidence}.",
    ]
    domain = None
    for prop in dictionary:
        if prop.domain != domain:
            domain = prop.domain
            lines += ["", f"## {domain}", "", _HEADER, "|" + " --- |" * (_HEADER.count("|") - 1)]
        lines.append(_markdown_row(prop))
    return "\n".join(lines) + "\n"


_HEADER = "| key | 中文 | English | unit | also accepted | plausible | agg | CF | HJ 212 | aliases |"


def _markdown_row(prop: Property) -> str:
    low, high = prop.plausible
    code = f"{prop.hj212} (ST {', '.join(prop.hj212_st)}; {prop.hj212_unit})" if prop.hj212 else ""
    cells = (
        f"`{prop.key}`",
        prop.zh,
        prop.en,
        f"`{prop.unit}`",
        " ".join(f"`{unit}`" for unit in prop.accepted_units[1:]),
        f"{low:g} … {high:.10g}",
        prop.agg,
        prop.cf or "",
        code,
        " ".join(f"`{alias}`" for alias in prop.aliases),
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown_table(load_properties()))
