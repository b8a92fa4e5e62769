"""Read a catalogue folder: every block alone, with all problems, each with file and line.

What needs several blocks is checked in :mod:`qingtu.catalogue_checks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from qingtu.catalogue_limits import Attenuated, Climate, FlatLine, Gap, LimitSpec, Neighbour, Pair, Spike
from qingtu.catalogue_model import Defaults, Device, FieldSpec, Network, Station, Window
from qingtu.catalogue_partial import has, rescued
from qingtu.catalogue_relations import CalmWind, Density, Location, NitrogenOxides, ParticleSizes, Relations, Together
from qingtu.catalogue_rules import RULE, RULE_MODELS, AnyRule, BaseRule, Schedule, ThresholdRule, Where
from qingtu.catalogue_words import nearest
from qingtu.errors import Problem
from qingtu.wrong_values import choices, sentence
from qingtu.yaml_lines import Key, SourceFile, written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

T = TypeVar("T")
_TOP = ("networks", "stations", "rules", "defaults", "demonstration")
_NOT_KEYS = {*RULE_MODELS, "[key]"}  # pydantic's marks for a union's branch and for a mapping's key
_NESTED: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
    (Station, "devices"): Device,
    (Station, "limits"): LimitSpec,
    (Station, "maintenance"): Window,
    (Device, "fields"): FieldSpec,
    (LimitSpec, "rate_per_h"): Pair,
    (LimitSpec, "spike"): Spike,
    (LimitSpec, "flat_line"): FlatLine,
    (LimitSpec, "gap"): Gap,
    (LimitSpec, "attenuated"): Attenuated,
    (LimitSpec, "climatology"): Climate,
    (LimitSpec, "neighbour"): Neighbour,
    (Defaults, "limits"): LimitSpec,
    (Defaults, "relations"): Relations,
    (Station, "relations"): Relations,
    (Relations, "nitrogen_oxides"): NitrogenOxides,
    (Relations, "particle_sizes"): ParticleSizes,
    (Relations, "calm_wind"): CalmWind,
    (Relations, "density"): Density,
    (Relations, "location"): Location,
    (Relations, "multi_variate"): Together,
    **{(model, "where"): Where for model in RULE_MODELS.values()},
    **{(model, "schedule"): Schedule for model in RULE_MODELS.values()},
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

    def clash(
        self, below: Sequence[Key], message: str, value: object, other: Block[T], other_below: Sequence[Key]
    ) -> Problem:
        """Make a problem of two places that do not go together.

        Where one text (an anchor) is used at both, its line says nothing: the line is that of the nearest block
        around it that is written twice.
        """
        path, first = (*self.path, *below), (*other.path, *other_below)
        at = path
        if self.file is other.file:
            while at and self.file.spot(at) == self.file.spot(first[: len(at)]):
                at = at[:-1]
        return self.file.problem(path, message, value, at=at or path)

    def place(self, below: Sequence[Key] = ()) -> str:
        """Return ``file:line`` of something inside the block."""
        return f"{self.file.name}:{self.file.line((*self.path, *below))}"


@dataclass(slots=True)
class Blocks:
    """All blocks of a folder, and what is wrong with them.

    Attributes:
        networks, stations, rules, defaults: the right ones, and what is right in the others
            (:mod:`qingtu.catalogue_partial`).
        demonstration: any file says so.
        problems: of each block and file alone, each text once however often it is used.
        partly_read: sections of which more may stand in what cannot be read.
        doubtful: (domain, property) whose default limits have a fault; None: any may have.
    """

    networks: list[Block[Network]] = field(default_factory=list)
    stations: list[Block[Station]] = field(default_factory=list)
    rules: list[Block[AnyRule]] = field(default_factory=list)
    defaults: list[Block[Defaults]] = field(default_factory=list)
    demonstration: bool = False
    problems: list[Problem] = field(default_factory=list)
    partly_read: set[str] = field(default_factory=set)
    doubtful: set[tuple[str, str] | None] = field(default_factory=set)
    _told: set[tuple[object, ...]] = field(default_factory=set)

    def tell(self, file: SourceFile, path: Sequence[Key], message: str, value: object = None) -> None:
        """Add a problem, unless the same text was told already where it is used as well, or as no YAML value."""
        if path and file.told(path):
            return
        told = (file.name, *file.spot(path), str(path[-1]) if path else "", message, str(value))
        if told not in self._told:
            self._told.add(told)
            self.problems.append(file.problem(path, message, value))


_STATION: TypeAdapter[Station] = TypeAdapter(Station)
_NETWORK: TypeAdapter[Network] = TypeAdapter(Network)
_DEFAULTS: TypeAdapter[Defaults] = TypeAdapter(Defaults)


def read_blocks(folder: Path) -> Blocks:
    """Read every ``*.yaml`` under ``folder`` in sorted order; problems are collected, not raised."""
    blocks = Blocks()
    paths = sorted(folder.rglob("*.yaml"))
    _refuse_other_names(folder, blocks)
    if not paths and not blocks.problems:
        text = (
            "目录中没有 *.yaml 文件 / folder has no *.yaml file" if folder.is_dir()
            else "不是文件夹 / is not a folder" if folder.exists() else "没有此文件夹 / there is no such folder"
        )  # fmt: skip
        blocks.problems.append(Problem(str(folder), 0, "catalogue", "", text))
    for path in paths:
        _read_file(SourceFile(path), blocks)
    return blocks


def _refuse_other_names(folder: Path, blocks: Blocks) -> None:
    """Files that were meant to be read, and by their name are not: their stations would be missing in silence."""
    for path in sorted(folder.rglob("*.*")):
        if path.suffix != ".yaml" and path.suffix.lower() in (".yml", ".yaml") and path.is_file():
            text = "须以 .yaml 结尾, 否则不读 / is not read: rename it to"
            blocks.problems.append(Problem(str(path), 0, "file", path.name, f"{text} {path.with_suffix('.yaml').name}"))
            blocks.partly_read |= set(_TOP)


def read_one(path: Path) -> Blocks:
    """Read a single file; problems are collected, not raised."""
    blocks = Blocks()
    _read_file(SourceFile(path), blocks)
    return blocks


def _read_file(file: SourceFile, blocks: Blocks) -> None:
    blocks.problems += file.problems
    if file.data is None:
        blocks.partly_read |= set(_TOP) if file.problems else set()
        return
    if not isinstance(file.data, dict):
        blocks.partly_read |= set(_TOP)
        blocks.tell(file, (), f"须为键值表 / must be a mapping with some of {', '.join(_TOP)}")
        return
    for key in file.data:
        if key not in _TOP:
            blocks.partly_read |= set(_TOP)  # it may be one of them, misspelt
            hint = nearest(str(key), _TOP)
            blocks.tell(file, (str(key),), f"没有此键 / unknown key{hint}; allowed: {', '.join(_TOP)}")
    _read_list(file, "networks", _NETWORK, Network, blocks.networks, blocks)
    _read_list(file, "stations", _STATION, Station, blocks.stations, blocks)
    _read_list(file, "rules", RULE, None, blocks.rules, blocks)
    if "defaults" in file.data:
        _read_block(file, ("defaults",), file.data["defaults"], _DEFAULTS, Defaults, blocks.defaults, blocks)
    mark = file.data.get("demonstration", False)
    if not isinstance(mark, bool):
        blocks.tell(file, ("demonstration",), "须为 true 或 false / must be true or false", mark)
    blocks.demonstration |= mark is True


def _read_list(
    file: SourceFile, section: str, adapter: TypeAdapter[T], model: type[BaseModel] | None, into: list[Block[T]],
    blocks: Blocks,
) -> None:  # fmt: skip
    items = file.data.get(section)
    if items is None:
        return
    if not isinstance(items, list):
        blocks.partly_read.add(section)
        blocks.tell(file, (section,), "须为列表 / must be a list", items)
        return
    for position, item in enumerate(items):
        _read_block(file, (section, position), item, adapter, model, into, blocks)


def _read_block(
    file: SourceFile, path: tuple[Key, ...], item: object, adapter: TypeAdapter[T], model: type[BaseModel] | None,
    into: list[Block[T]], blocks: Blocks,
) -> None:  # fmt: skip
    try:
        right = adapter.validate_python(item)
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        into.append(Block(right, file, path))
        return
    if model is None:
        kind = item.get("kind") if isinstance(item, dict) else None
        model = RULE_MODELS.get(str(kind), ThresholdRule)
    for detail in details:
        _tell(file, path, model, detail, blocks)
    if isinstance(item, dict):
        found = rescued(model, item)
        into.append(Block(found, file, path))
        if isinstance(found, BaseRule) and has(found, "kind", *found.WHOLE) and (at := found.fault()):
            # pydantic looks at a rule as a whole only when nothing in it is wrong
            _tell_whole(file, path, item, at, blocks)
    else:
        blocks.partly_read.add(str(path[0]))
    if model is Defaults:
        blocks.doubtful |= {_limit_of(detail["loc"]) for detail in details if detail["loc"][:1] in (("limits",), ())}


def _tell_whole(
    file: SourceFile, path: tuple[Key, ...], item: dict[Any, Any], fault: tuple[str, str], blocks: Blocks
) -> None:
    """Tell what is wrong between the keys of a block: at one of them, or at the block, whose value says nothing."""
    at, message = fault
    blocks.tell(file, (*path, at) if at else path, message, written(item.get(at)) if at else None)


def _limit_of(loc: tuple[int | str, ...]) -> tuple[str, str] | None:
    """Return the (domain, property) whose default limit is wrong; None when it cannot be told which one is meant."""
    return None if "[key]" in loc or len(loc) < 3 else (str(loc[1]), str(loc[2]))


def _tell(
    file: SourceFile, path: tuple[Key, ...], model: type[BaseModel], detail: ErrorDetails, blocks: Blocks
) -> None:
    loc = [key if type(key) is int else str(key) for key in detail["loc"] if key not in _NOT_KEYS]
    value = detail["input"]
    if isinstance(value, dict) and "at" in (context := detail.get("ctx", {})):
        _tell_whole(file, (*path, *loc), value, (context["at"], sentence(detail)), blocks)
        return
    if "[key]" in detail["loc"]:
        loc[-1] = str(value)  # pydantic writes the key False, YAML's reading of a bare `no`, as position 0
    for key in loc[:-1]:
        model = _NESTED.get((model, str(key)), model)
    kind, message = detail["type"], sentence(detail)
    if kind == "extra_forbidden":
        allowed = tuple(model.model_fields)
        message = f"没有此键 / unknown key{nearest(str(loc[-1]), allowed)}; allowed: {', '.join(allowed)}"
    elif kind == "missing":
        value = None
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        loc, value = [*loc, "kind"], value.get("kind") if isinstance(value, dict) else None
    elif kind == "literal_error" and isinstance(value, str):
        message += nearest(str(value), choices(detail))
    elif kind == "string_type" and isinstance(value, bool):
        message = "YAML 读作真假值, 请加引号 / is read by YAML as true or false; write it in quotes"
    elif kind in ("float_parsing", "int_parsing") and value in ("true", "false"):
        message += "; YAML reads yes, no, on and off as true and false"
    blocks.tell(file, (*path, *loc), message, written(value))
