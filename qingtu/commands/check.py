"""``qingtu check``: settings and catalogue, all problems at once, without network."""

from __future__ import annotations

from importlib.util import find_spec
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, get_args

import typer

from ingest.decoders import DECODERS
from ingest.routes import RouteTable
from qingtu.catalogue import Catalogue as Loaded
from qingtu.catalogue_checks import NO_DISTRICT, content_of, districts_of, ids_of, network_of, problems_of
from qingtu.catalogue_files import read_blocks
from qingtu.catalogue_partial import has
from qingtu.catalogue_words import Domain, nearest
from qingtu.commands.options import Catalogue, Data, SettingsFile, reading_of
from qingtu.commands.output import out
from qingtu.errors import ConfigError, Problem
from qingtu.settings_file import Reading, in_order
from qingtu.settings_notify import NO_APPRISE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from qingtu.catalogue_files import Block, Blocks
    from qingtu.catalogue_model import Network
    from qingtu.settings import RouteSettings, Settings
    from qingtu.yaml_lines import Key

_FILES: Final = (
    "secret_file", "web.tokens_file", "mqtt.password_file", "mqtt.ca_file", "mqtt.cert_file", "mqtt.key_file",
)  # fmt: skip
_KAFKA_FILES: Final = ("kafka.password_file", "kafka.ca_file")
_INFLUX_FILES: Final = ("influx.token_file",)
_LISTED: Final = 20
"""So many allowed words are listed; a city has hundreds of stations."""
_GRAFANA_FILES: Final = ("grafana.token_file", "grafana.influx_token_file")


def together(reading: Reading, blocks: Blocks) -> list[Problem]:
    """Return what is wrong between settings and catalogue: routes, decoders, redaction.

    What follows from a key that is broken itself is left out.
    """
    routes = {route.name: (number, route) for number, route in enumerate(reading.settings.routes)}
    problems = [
        reading.at(("routes", str(number), "decoder"), route.decoder, _no_format())
        for number, route in enumerate(reading.settings.routes)
        if route.decoder not in DECODERS and reading.knows("routes", str(number), "decoder")
    ]
    named = all(reading.knows("routes", str(number), "name") for number, _ in routes.values())
    networks = {block.item.id: block for block in blocks.networks if has(block.item, "id")}
    for block, path, network, name in _used(blocks):
        if name not in routes:
            if named and reading.knows("routes"):
                text = f"设置中没有此路由 / the settings have no such route ({_list(routes)})"
                problems.append(block.problem(path, text, name))
            continue
        if (other := _another(routes[name], reading)) not in (None, network):
            text = f"此路由不送此网 / brings messages of network {other} alone, never of {network}"
            problems.append(block.problem(path, f"{text}: its topic is {routes[name][1].topic}", name))
        if network in networks and _open(networks[network], routes[name], reading):
            number, _ = routes[name]
            text = "私密网须经脱敏路由 / a private network needs a route that redacts: set redact in its [[routes]]"
            place = networks[network].place(("private",))
            problems.append(reading.at(("routes", str(number), "redact"), "", f"{text} (network {network}, {place})"))
    return list(dict.fromkeys(problems))


def checked(settings: Settings) -> Loaded:
    """Load the catalogue and check it together with the settings that are used.

    Raises:
        ConfigError: with all problems.
    """
    reading = Reading(settings=settings, file="settings")
    files = [*_FILES, *(_KAFKA_FILES if settings.bus.kind == "kafka" else ())]
    files += _INFLUX_FILES if settings.store.kind == "influx" else ()
    blocks = read_blocks(settings.catalogue)
    if problems := _all(reading, blocks, files):
        raise ConfigError(problems)
    return Loaded(content_of(blocks))


def check(file: SettingsFile = None, data: Data = None, catalogue: Catalogue = None) -> None:
    """Check settings and catalogue / 检查设置与目录.

    Without network; prints every problem with file, line, key, value and what is allowed. Exit code 1 when there is
    one.
    """
    reading = reading_of(file, data, catalogue)
    # Which folder is meant is not known when the setting itself, or the file, cannot be read.
    blocks = read_blocks(reading.settings.catalogue) if reading.knows("catalogue") else None
    problems = _all(reading, blocks, (*_FILES, *_KAFKA_FILES, *_INFLUX_FILES, *_GRAFANA_FILES))
    if problems or blocks is None:
        for problem in problems:
            out().print(str(problem), soft_wrap=True)
        out().print(f"{len(problems)} 个问题 / problems")
        raise typer.Exit(1)
    found = Loaded(content_of(blocks))
    private = sum(network.private for network in found.networks.values())
    out().print(
        f"没有问题 / no problems: catalogue {found.version}, {len(found.networks)} networks ({private} private), "
        f"{len(found.stations)} stations, {len(found.devices)} devices, {len(found.series)} series, "
        f"{len(found.rules)} rules" + (" · 演示目录 demonstration" if found.demonstration else ""),
        soft_wrap=True,
    )


def _all(reading: Reading, blocks: Blocks | None, files: Iterable[str]) -> list[Problem]:
    problems = list(reading.problems)
    if all(reading.knows("routes", str(number), "topic") for number in range(len(reading.settings.routes))):
        try:
            RouteTable(reading.settings.routes)
        except ConfigError as error:
            problems += [reading.at(_where(p.key), p.value, p.message) for p in error.problems]
    for name in files:
        path: Path | None = attrgetter(name)(reading.settings)
        if path is not None and not path.is_file():
            problems.append(reading.at(tuple(name.split(".")), str(path), "没有此文件 / no such file"))
    problems += _channels(reading)
    if blocks is not None:
        problems += [*problems_of(blocks), *together(reading, blocks), *_told(reading, blocks)]
    return in_order(problems, reading.file)


def _channels(reading: Reading) -> Iterator[Problem]:
    """Yield what a channel of notifications lacks on this machine."""
    for number, channel in enumerate(reading.settings.notify.channels):
        where = ("notify", "channels", str(number))
        for key in ("url_file", "secret_file"):
            path = getattr(channel, key)
            if path is not None and reading.knows(*where, key) and not path.is_file():
                yield reading.at((*where, key), str(path), "没有此文件 / no such file")
        if channel.kind == "apprise" and reading.knows(*where, "kind") and find_spec("apprise") is None:
            yield reading.at((*where, "kind"), repr(channel.kind), NO_APPRISE)


def _told(reading: Reading, blocks: Blocks) -> Iterator[Problem]:
    """Yield what routes of notifications name and the catalogue has not: such a route fits no alert, nobody is told.

    A district must have a station: six wrong digits look like six right ones. A domain is of a closed list, where no
    wrong word passes, so it may be named before its first station is there.
    """
    named = _names(blocks)
    for number, route in enumerate(reading.settings.notify.routes):
        for key, (zh, en, allowed, complete) in named.items():
            where = ("notify", "routes", str(number), key)
            if not complete or not reading.knows(*where):
                continue
            some = _list(allowed) if len(allowed) <= _LISTED else f"the {len(allowed)} of the catalogue"
            for name in getattr(route, key):
                if name not in allowed:
                    text = f"{zh} / {en}{nearest(name, allowed)} (allowed: {some or '-'})"
                    yield reading.at(where, repr(name), text)


def _names(blocks: Blocks) -> dict[str, tuple[str, str, set[str], bool]]:
    """Return by key of a route: what a wrong name is told, the right names, and whether those are all."""
    known = {
        key: ids_of(getattr(blocks, key), key not in blocks.partly_read) for key in ("networks", "stations", "rules")
    }
    nowhere_zh, _, nowhere_en = NO_DISTRICT.partition(" / ")
    return {
        "domains": ("没有此领域", "is not a domain", set(get_args(Domain)), True),
        "networks": ("没有此网", "is not a network", *known["networks"]),
        "districts": (nowhere_zh, nowhere_en, *districts_of(blocks)),
        "stations": ("没有此站", "is not a station", *known["stations"]),
        "rules": ("没有此规则", "is not a rule", *known["rules"]),
    }


def _used(blocks: Blocks) -> Iterator[tuple[Block[Any], tuple[Key, ...], str, str]]:
    """Yield (block, path in it, network, route) wherever the catalogue says by which route something comes."""
    own: dict[str, str] = {}
    for block in blocks.networks:
        if has(block.item, "id", "route"):
            own[block.item.id] = block.item.route
            yield block, ("route",), block.item.id, block.item.route
    for station in blocks.stations:
        for position, device in enumerate(station.item.devices):
            network = network_of(station.item, device)
            if network is not None and has(device, "route") and device.route is not None:
                yield station, ("devices", position, "route"), network, device.route


def _another(found: tuple[int, RouteSettings], reading: Reading) -> str | None:
    """Return the one network whose messages a route brings, None when its topics say of which they are."""
    number, route = found
    known = all(reading.knows("routes", str(number), key) for key in ("topic", "network"))
    return route.network if known and "{network}" not in route.topic.split("/") else None


def _open(network: Block[Network], found: tuple[int, RouteSettings], reading: Reading) -> bool:
    """Return whether a network is private and comes by a route that redacts nothing."""
    number, route = found
    private = has(network.item, "private") and network.item.private
    return private and route.redact is None and reading.knows("routes", str(number), "redact")


def _where(key: str) -> tuple[str, ...]:
    """Return the path of a setting of a route, which :class:`RouteTable` counts from 1.

    >>> _where("routes.1.topic")
    ('routes', '0', 'topic')
    """
    section, number, name = key.split(".")
    return section, str(int(number) - 1), name


def _no_format() -> str:
    return f"没有此格式 / no such format (allowed: {_list(DECODERS)})"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
