"""Read a catalogue folder and say everything that is wrong with it, at once, with file and line.

Two layers: each block alone (pydantic, :mod:`qingtu.catalogue_model`), then what needs several blocks: duplicate ids,
unknown networks, one source per series (一数一源), limits that contradict what they inherit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from qingtu.catalogue_model import (
    RULE,
    Content,
    Defaults,
    Device,
    FieldSpec,
    LimitSpec,
    Network,
    Pair,
    SilenceRule,
    Station,
    ThresholdRule,
    Where,
    nearest,
)
from qingtu.errors import ConfigError, Problem
from qingtu.properties import load_properties
from qingtu.yaml_lines import Key, SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

T = TypeVar("T")
_TOP = ("networks", "stations", "rules", "defaults", "demonstration")
_NOT_KEYS = {"threshold", "silence", "[key]"}  # pydantic's marks for a union's branch and for a mapping's key
_NESTED: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
    (Station, "devices"): Device,
    (Station, "limits"): LimitSpec,
    (Device, "fields"): FieldSpec,
    (LimitSpec, "rate_per_h"): Pair,
    (LimitSpec, "spike"): Pair,
    (Defaults, "limits"): LimitSpec,
    (ThresholdRule, "where"): Where,
    (SilenceRule, "where"): Where,
}


@dataclass(frozen=True, slots=True)
class Block(Generic[T]):
    """A checked block and where it stands."""

    item: T
    file: SourceFile
    path: tuple[Key, ...]

    def problem(self, below: Sequence[Key], message: str, value: object = None) -> Problem:
        """Make a problem of something inside the block."""
        return self.file.problem((*self.path, *below), message, value)

    def place(self, below: Sequence[Key] = ()) -> str:
        """Return ``file:line`` of something inside the block."""
        return f"{self.file.name}:{self.file.line((*self.path, *below))}"


@dataclass(slots=True)
class Blocks:
    """All blocks of a folder that are right in themselves, and the problems of those that are not."""

    networks: list[Block[Network]] = field(default_factory=list)
    stations: list[Block[Station]] = field(default_factory=list)
    rules: list[Block[ThresholdRule | SilenceRule]] = field(default_factory=list)
    defaults: list[Block[Defaults]] = field(default_factory=list)
    demonstration: bool = False
    problems: list[Problem] = field(default_factory=list)
    wrong_networks: set[str] = field(default_factory=set)


_STATION: TypeAdapter[Station] = TypeAdapter(Station)
_NETWORK: TypeAdapter[Network] = TypeAdapter(Network)
_DEFAULTS: TypeAdapter[Defaults] = TypeAdapter(Defaults)


def read_blocks(folder: Path) -> Blocks:
    """Read every ``*.yaml`` under ``folder`` in sorted order; problems are collected, not raised."""
    blocks = Blocks()
    paths = sorted(folder.rglob("*.yaml"))
    if not paths:
        blocks.problems.append(Problem(str(folder), 0, "catalogue", "", "folder has no *.yaml file"))
    for path in paths:
        _read_file(SourceFile(path), blocks)
    return blocks


def content_of(blocks: Blocks) -> Content:
    """Merge checked blocks into one catalogue.

    Raises:
        ConfigError: anything is wrong; carries every problem.
    """
    problems = [*blocks.problems, *_duplicates(blocks), *_unknown_names(blocks), *_sources(blocks)]
    defaults = _merged_defaults(blocks.defaults, problems)
    problems += _contradictions(blocks, defaults)
    if problems:
        raise ConfigError(problems)
    return Content(
        networks=tuple(block.item for block in blocks.networks),
        stations=tuple(block.item for block in blocks.stations),
        rules=tuple(block.item for block in blocks.rules),
        defaults=defaults,
        demonstration=blocks.demonstration,
    )


def merged_limits(layers: Iterable[LimitSpec | None]) -> LimitSpec:
    """Lay limits over each other; a later layer replaces what it names."""
    values: dict[str, Any] = {}
    for layer in layers:
        if layer is not None:
            values |= {name: value for name, value in layer if value is not None}
    return LimitSpec.model_construct(**values)


def _read_file(file: SourceFile, blocks: Blocks) -> None:
    blocks.problems += file.problems
    if file.data is None:
        return
    if not isinstance(file.data, dict):
        blocks.problems.append(file.problem((), f"must be a mapping with some of {', '.join(_TOP)}"))
        return
    for key in file.data:
        if key not in _TOP:
            hint = nearest(str(key), _TOP)
            blocks.problems.append(file.problem((str(key),), f"unknown key{hint}; allowed: {', '.join(_TOP)}"))
    _read_list(file, "networks", _NETWORK, Network, blocks.networks, blocks)
    _read_list(file, "stations", _STATION, Station, blocks.stations, blocks)
    _read_list(file, "rules", RULE, None, blocks.rules, blocks)
    if "defaults" in file.data:
        _read_block(file, ("defaults",), file.data["defaults"], _DEFAULTS, Defaults, blocks.defaults, blocks)
    mark = file.data.get("demonstration", False)
    if not isinstance(mark, bool):
        blocks.problems.append(file.problem(("demonstration",), "must be true or false", mark))
    blocks.demonstration |= mark is True


def _read_list(
    file: SourceFile, section: str, adapter: TypeAdapter[T], model: type[BaseModel] | None, into: list[Block[T]],
    blocks: Blocks,
) -> None:  # fmt: skip
    items = file.data.get(section)
    if items is None:
        return
    if not isinstance(items, list):
        blocks.problems.append(file.problem((section,), "must be a list", items))
        return
    for position, item in enumerate(items):
        _read_block(file, (section, position), item, adapter, model, into, blocks)


def _read_block(
    file: SourceFile, path: tuple[Key, ...], item: object, adapter: TypeAdapter[T], model: type[BaseModel] | None,
    into: list[Block[T]], blocks: Blocks,
) -> None:  # fmt: skip
    try:
        into.append(Block(adapter.validate_python(item), file, path))
    except ValidationError as error:
        if path[0] == "networks" and isinstance(item, dict):
            blocks.wrong_networks.add(str(item.get("id")))  # so that its stations are not blamed as well
        if model is None:
            kind = item.get("kind") if isinstance(item, dict) else None
            model = SilenceRule if kind == "silence" else ThresholdRule
        blocks.problems += [_problem(file, path, model, detail) for detail in error.errors(include_url=False)]


def _problem(file: SourceFile, path: tuple[Key, ...], model: type[BaseModel], detail: ErrorDetails) -> Problem:
    loc = [key if type(key) is int else str(key) for key in detail["loc"] if key not in _NOT_KEYS]
    value = detail["input"]
    if "[key]" in detail["loc"]:
        loc[-1] = str(value)  # pydantic writes the key False, YAML's reading of a bare `no`, as position 0
    for key in loc[:-1]:
        model = _NESTED.get((model, str(key)), model)
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        allowed = tuple(model.model_fields)
        message = f"unknown key{nearest(str(loc[-1]), allowed)}; allowed: {', '.join(allowed)}"
    elif kind == "missing":
        message, value = "is missing", None
    elif kind == "literal_error":
        words = str(detail.get("ctx", {}).get("expected", "")).replace(" or ", ", ").replace("'", "").split(", ")
        message = f"must be one of {', '.join(words)}{nearest(str(value), words)}"
    elif kind == "string_type" and isinstance(value, bool):
        message = "is read by YAML as true or false; write it in quotes"
    return file.problem((*path, *loc), message, value)


def _duplicates(blocks: Blocks) -> list[Problem]:
    problems: list[Problem] = []
    lists: tuple[list[Block[Any]], ...] = (blocks.networks, blocks.stations, blocks.rules)
    for listed in lists:
        first: dict[str, Block[Any]] = {}
        for block in listed:
            other = first.setdefault(block.item.id, block)
            if other is not block:
                text = f"id is taken; first at {other.place(('id',))}"
                problems.append(block.problem(("id",), text, block.item.id))
    devices: dict[tuple[str, str], tuple[Block[Station], int]] = {}
    for station in blocks.stations:
        for position, device in enumerate(station.item.devices):
            key = (device.network or station.item.network, device.id)
            owner, at = devices.setdefault(key, (station, position))
            if (owner, at) != (station, position):
                text = f"device is already in network {key[0]}, at {owner.place(('devices', at))}"
                problems.append(station.problem(("devices", position, "id"), text, device.id))
    return problems


def _unknown_names(blocks: Blocks) -> list[Problem]:
    problems: list[Problem] = []
    known = {block.item.id for block in blocks.networks} | blocks.wrong_networks
    stations = {block.item.id for block in blocks.stations}
    for station in blocks.stations:
        named: list[tuple[tuple[Key, ...], str | None]] = [(("network",), station.item.network)]
        named += [(("devices", i, "network"), device.network) for i, device in enumerate(station.item.devices)]
        problems += [
            station.problem(path, f"is not a network{nearest(name, known)}; known: {', '.join(sorted(known))}", name)
            for path, name in named
            if name is not None and name not in known
        ]
    for rule in blocks.rules:
        for what, names, allowed in (
            ("network", rule.item.where.network, known),
            ("station", rule.item.where.station, stations),
        ):
            problems += [
                rule.problem(("where", what), f"is not a {what}{nearest(name, allowed)}", name)
                for name in names or ()
                if name not in allowed and not (what == "station" and blocks.problems)
            ]
    return problems


def _sources(blocks: Blocks) -> list[Problem]:
    """一数一源: a series has one source; two fields or devices that claim it are named together."""
    problems: list[Problem] = []
    aliases = {prop.key: prop.aliases for prop in load_properties()}
    for station in blocks.stations:
        claimed: dict[tuple[str, str], tuple[int, str]] = {}
        for position, device in enumerate(station.item.devices):
            for name, spec in device.mapping(aliases).items():
                owner, other = claimed.setdefault((spec.property, spec.channel), (position, name))
                short = name not in device.fields and other not in device.fields
                if (owner, other) == (position, name) or (owner == position and short):
                    continue  # key and aliases of the short form are spellings of one field
                first = station.item.devices[owner]
                problems.append(_two_sources(station, (owner, first, other), (position, device, name), spec))
    return problems


def _two_sources(
    station: Block[Station], first: tuple[int, Device, str], second: tuple[int, Device, str], spec: FieldSpec
) -> Problem:
    def path(claim: tuple[int, Device, str]) -> tuple[Key, ...]:
        position, device, name = claim
        return ("devices", position, *(("fields", name) if name in device.fields else ("properties",)))

    text = (
        f"two sources for {spec.property} ({spec.channel}) of station {station.item.id} (一数一源): "
        f"device {first[1].id} field {first[2]!r} at {station.place(path(first))} and device {second[1].id} "
        f"field {second[2]!r} at {station.place(path(second))}; drop one, or give it another channel such as 'backup'"
    )
    return station.problem(path(second), text, second[2])


def _merged_defaults(found: list[Block[Defaults]], problems: list[Problem]) -> Defaults:
    limits: dict[Any, dict[str, LimitSpec]] = {}
    owners: dict[tuple[str, ...], Block[Defaults]] = {}
    sentinels = None
    for block in found:
        named: list[tuple[str, ...]] = [("limits", d, p) for d, rows in block.item.limits.items() for p in rows]
        if block.item.sentinels is not None:
            named.append(("sentinels",))
            sentinels = block.item.sentinels
        for path in named:
            other = owners.setdefault(path, block)
            if other is not block:
                problems.append(block.problem(path, f"is already set at {other.place(path)}"))
        for domain, rows in block.item.limits.items():
            limits.setdefault(domain, {}).update(rows)
    return Defaults(limits=limits, sentinels=sentinels)


def _contradictions(blocks: Blocks, defaults: Defaults) -> list[Problem]:
    """Suspect bounds outside the fail bounds would never be seen: say so at the block that makes it so."""
    problems: list[Problem] = []
    dictionary = load_properties()
    everywhere = defaults.limits.get("all", {})
    for block in blocks.defaults:
        for domain, rows in block.item.limits.items():
            for key, spec in rows.items():
                base = None if domain == "all" else everywhere.get(key)
                text = _contradiction(dictionary[key].plausible, merged_limits((base, spec)))
                if text:
                    problems.append(block.problem(("limits", domain, key), text))
    for station in blocks.stations:
        own = defaults.limits.get(station.item.domain, {})
        for key, spec in station.item.limits.items():
            merged = merged_limits((everywhere.get(key), own.get(key), spec))
            text = _contradiction(dictionary[key].plausible, merged)
            if text:
                problems.append(station.problem(("limits", key), text))
    return problems


def _contradiction(plausible: tuple[float, float], merged: LimitSpec) -> str | None:
    low, high = merged.range or plausible
    if merged.suspect and not (low <= merged.suspect[0] and merged.suspect[1] <= high):
        return f"suspect {list(merged.suspect)} must lie inside range {[low, high]} (own, inherited or plausible)"
    for name, pair in (("rate_per_h", merged.rate_per_h), ("spike", merged.spike)):
        if pair and pair.suspect is not None and pair.fail is not None and pair.suspect > pair.fail:
            return f"{name}: suspect must not be above fail"
    return None
