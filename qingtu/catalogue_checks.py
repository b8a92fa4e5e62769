"""What needs several catalogue blocks: duplicate ids, unknown names, one source per series (一数一源), limits.

Blocks that have a fault of their own take part with what is right in them; only what follows from the fault itself is
left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qingtu import expressions
from qingtu.catalogue_limits import LimitSpec, contradiction
from qingtu.catalogue_model import Content, Defaults
from qingtu.catalogue_partial import has, whole
from qingtu.catalogue_reach import placing, reach_problems
from qingtu.catalogue_rules import ExpressionRule, Where
from qingtu.catalogue_situations import situation_problems
from qingtu.catalogue_words import nearest
from qingtu.errors import ConfigError
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qingtu.catalogue_files import Block, Blocks
    from qingtu.catalogue_model import Device, FieldSpec, Station
    from qingtu.catalogue_relations import Relations
    from qingtu.errors import Problem
    from qingtu.yaml_lines import Key


_PLACED: Final = ("id", *sorted(Where.model_fields.keys() - {"station"}))
"""What a rule's `where` looks at."""
NO_DISTRICT: Final = "没有站点在此区 / no station lies in this district, six digits of GB/T 2260"
"""Six wrong digits look like six right ones: a district counts when a station lies in it."""


def problems_of(blocks: Blocks) -> list[Problem]:
    """Return everything that is wrong with a folder, of each block alone and between them, by file and line."""
    problems = [*blocks.problems, *_duplicates(blocks), *_unknown_names(blocks), *_sources(blocks)]
    problems += [*_expressions(blocks), *_of_nobody(blocks), *reach_problems(blocks)]
    defaults = _merged_defaults(blocks.defaults, problems)
    return sorted([*problems, *_contradictions(blocks, defaults)], key=lambda one: (one.file, one.line))


def content_of(blocks: Blocks) -> Content:
    """Merge checked blocks into one catalogue.

    Raises:
        ConfigError: anything is wrong; carries every problem.
    """
    if problems := problems_of(blocks):
        raise ConfigError(problems)
    return Content(
        networks=tuple(block.item for block in blocks.networks),
        stations=tuple(block.item for block in blocks.stations),
        rules=tuple(block.item for block in blocks.rules),
        defaults=_merged_defaults(blocks.defaults, []),
        demonstration=blocks.demonstration,
    )


def merged_limits(layers: Iterable[LimitSpec | None]) -> LimitSpec:
    """Lay limits over each other; a later layer replaces what it names."""
    values: dict[str, Any] = {}
    for layer in layers:
        if layer is not None:
            values |= {name: value for name, value in layer if value is not None}
    return LimitSpec.model_construct(**values)


def _duplicates(blocks: Blocks) -> list[Problem]:
    problems: list[Problem] = []
    lists: tuple[list[Block[Any]], ...] = (blocks.networks, blocks.stations, blocks.rules)
    for listed in lists:
        first: dict[str, Block[Any]] = {}
        for block in listed:
            if not has(block.item, "id"):
                continue
            other = first.setdefault(block.item.id, block)
            if other is not block:
                text = f"编号已用 / id is taken; first at {other.place(('id',))}"
                problems.append(block.clash(("id",), text, block.item.id, other, ("id",)))
    devices: dict[tuple[str, str], tuple[Block[Station], int]] = {}
    for station in blocks.stations:
        for position, device in enumerate(station.item.devices):
            network = network_of(station.item, device)
            if network is None or not has(device, "id"):
                continue
            owner, at = devices.setdefault((network, device.id), (station, position))
            if (owner, at) != (station, position):
                text = f"设备已在网中 / device is already in network {network}, at {owner.place(('devices', at))}"
                path: tuple[Key, ...] = ("devices", position, "id")
                problems.append(station.clash(path, text, device.id, owner, ("devices", at, "id")))
    return problems


def network_of(station: Station, device: Device) -> str | None:
    """Return the network of a device; None when a fault hides it."""
    if not has(device, "network"):
        return None
    return device.network or (station.network if has(station, "network") else None)


def ids_of(listed: Iterable[Block[Any]], complete: bool) -> tuple[set[str], bool]:
    """Return the ids that are right, and whether those are all."""
    items = [block.item for block in listed]
    known = {item.id for item in items if has(item, "id")}
    return known, complete and all(has(item, "id") for item in items)


def districts_of(blocks: Blocks) -> tuple[set[str], bool]:
    """Return the districts in which stations lie, and whether those are all."""
    placed = [block.item for block in blocks.stations if has(block.item, "district")]
    found = {station.district for station in placed if station.district is not None}
    return found, "stations" not in blocks.partly_read and len(placed) == len(blocks.stations)


def _unknown_names(blocks: Blocks) -> list[Problem]:
    problems: list[Problem] = []
    networks, all_networks = ids_of(blocks.networks, "networks" not in blocks.partly_read)
    stations, all_stations = ids_of(blocks.stations, "stations" not in blocks.partly_read)
    for station in blocks.stations if all_networks else ():
        named: list[tuple[tuple[Key, ...], str | None]] = [(("network",), getattr(station.item, "network", None))]
        named += [
            (("devices", i, "network"), getattr(device, "network", None))
            for i, device in enumerate(station.item.devices)
        ]
        text = f"known: {', '.join(sorted(networks))}"
        problems += [
            station.problem(path, f"没有此网 / is not a network{nearest(name, networks)}; {text}", name)
            for path, name in named
            if name is not None and name not in networks
        ]
    for rule in blocks.rules:
        for what, text, allowed, complete in (
            ("network", "没有此网 / is not a network", networks, all_networks),
            ("station", "没有此站 / is not a station", stations, all_stations),
            ("district", NO_DISTRICT, *districts_of(blocks)),
        ):
            problems += [
                rule.problem(("where", what), f"{text}{nearest(name, allowed)}", name)
                for name in getattr(rule.item.where, what, None) or ()
                if complete and name not in allowed
            ]
    all_rules = ids_of(blocks.rules, "rules" not in blocks.partly_read)
    return [*problems, *situation_problems(blocks, (stations, all_stations), all_rules)]


def _of_nobody(blocks: Blocks) -> list[Problem]:
    """Rules for a district that has stations, but none of the kind, network or class that the rule also wants.

    A rule that names no district may wait for its first station: its other words are of closed lists.
    """
    districts, complete = districts_of(blocks)
    if not complete or not all(has(station.item, *_PLACED) for station in blocks.stations):
        return []
    return [
        rule.problem(("where",), "没有站点全部符合 / no station fits all of this: the rule would never raise an alert")
        for rule in blocks.rules
        if placing(rule)
        and (wanted := rule.item.where.district) is not None
        and districts.issuperset(wanted)
        and not any(rule.item.where.covers(station.item) for station in blocks.stations)
    ]


def _expressions(blocks: Blocks) -> list[Problem]:
    """Types of expressions, with what each station that they are for says of itself."""
    problems: list[Problem] = []
    for rule in blocks.rules:
        if not isinstance(rule.item, ExpressionRule) or not has(rule.item, "when") or not placing(rule):
            continue
        if rule.item.fault():
            continue
        text, found = rule.item.when, expressions.compiled(rule.item.when)
        covered = [
            s.item for s in blocks.stations if has(s.item, "attributes", *_PLACED) and rule.item.where.covers(s.item)
        ]
        facts = [f for station in covered if (f := expressions.facts_of(found, station)) is not None]
        faults = {said for one in facts if (said := expressions.fault(text, found, one))}
        if covered and not facts and "stations" not in blocks.partly_read:
            wanted = ", ".join(f"attribute_{name}" for name in found.attributes)
            faults = {f"没有站点具备 / no station that it is for has all of {wanted}"}
        problems += [rule.problem(("when",), said, text) for said in sorted(faults)]
    return problems


def _sources(blocks: Blocks) -> list[Problem]:
    """一数一源: a series has one source; two fields or devices that claim it are named together."""
    problems: list[Problem] = []
    told: set[tuple[object, ...]] = set()  # devices that several stations take from one anchor
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
                spots = [station.file.spot((*station.path, "devices", at)) for at in (owner, position)]
                # of a device in the short form, key and aliases are one claim
                words = (name if name in device.fields else "", other if other in first.fields else "")
                if (claim := (station.file.name, *spots, spec.property, spec.channel, *words)) not in told:
                    told.add(claim)
                    problems.append(_two_sources(station, (owner, first, other), (position, device, name), spec))
    return problems


def _two_sources(
    station: Block[Station], first: tuple[int, Device, str], second: tuple[int, Device, str], spec: FieldSpec
) -> Problem:
    def path(claim: tuple[int, Device, str]) -> tuple[Key, ...]:
        position, device, name = claim
        return ("devices", position, *(("fields", name) if name in device.fields else ("properties",)))

    text = (
        f"来源重复, 一数一源 / two sources for {spec.property} ({spec.channel}) of station {_id(station.item)}: "
        f"device {_id(first[1])} field {first[2]!r} at {station.place(path(first))} and device {_id(second[1])} "
        f"field {second[2]!r} at {station.place(path(second))}; drop one, or give it another channel such as 'backup'"
    )
    return station.clash(path(second), text, second[2], station, path(first))


def _id(item: Station | Device) -> str:
    return item.id if has(item, "id") else "?"


def _merged_defaults(found: list[Block[Defaults]], problems: list[Problem]) -> Defaults:
    limits: dict[Any, dict[str, LimitSpec]] = {}
    owners: dict[tuple[str, ...], Block[Defaults]] = {}
    relations: dict[Any, Relations] = {}
    sentinels = None
    for block in found:
        named: list[tuple[str, ...]] = [("limits", d, p) for d, rows in block.item.limits.items() for p in rows]
        named += [("relations", domain) for domain in getattr(block.item, "relations", {})]
        relations |= getattr(block.item, "relations", {})
        if getattr(block.item, "sentinels", None) is not None:
            named.append(("sentinels",))
            sentinels = block.item.sentinels
        for path in named:
            other = owners.setdefault(path, block)
            if other is not block:
                text = f"已另有设置 / is already set at {other.place(path)}"
                problems.append(block.clash(path, text, None, other, path))
        for domain, rows in block.item.limits.items():
            limits.setdefault(domain, {}).update(rows)
    return Defaults.model_construct(
        limits=limits, relations=relations, sentinels=sentinels
    )  # each part was validated in its block


def _contradictions(blocks: Blocks, defaults: Defaults) -> list[Problem]:
    """Suspect bounds outside the fail bounds would never be seen: say so at the block that makes it so."""
    everywhere = defaults.limits.get("all", {})
    found: list[tuple[Block[Any], tuple[Key, ...], tuple[LimitSpec | None, ...]]] = []
    for block in blocks.defaults:
        for domain, rows in block.item.limits.items():
            for key, spec in rows.items():
                base = None if domain == "all" else everywhere.get(key)
                if whole(spec) and (base is None or _sure(blocks, "all", key)):
                    found.append((block, ("limits", domain, key), (base, spec)))
    for station in blocks.stations:
        area = station.item.domain if has(station.item, "domain") else None
        own = defaults.limits.get(area, {}) if area else {}
        found += [
            (station, ("limits", key), (everywhere.get(key), own.get(key), spec))
            for key, spec in station.item.limits.items()
            if area and whole(spec) and _sure(blocks, "all", key) and _sure(blocks, area, key)
        ]
    dictionary = load_properties()
    told: dict[tuple[object, ...], Problem] = {}
    for place, path, layers in found:
        prop = dictionary[str(path[-1])]
        text = contradiction(merged_limits(layers), prop.plausible, prop.agg)
        if text:
            problem = place.problem(path, text)
            told.setdefault((*place.file.spot((*place.path, *path)), problem.file, text), problem)
    return list(told.values())


def _sure(blocks: Blocks, domain: str, key: str) -> bool:
    return None not in blocks.doubtful and (domain, key) not in blocks.doubtful
