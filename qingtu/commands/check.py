"""``qingtu check``: settings and catalogue, all problems at once, without network."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

import typer

from ingest.decoders import DECODERS
from ingest.routes import RouteTable
from qingtu.catalogue import load_catalogue
from qingtu.commands.options import Catalogue, Data, SettingsFile, settings_of
from qingtu.commands.output import out
from qingtu.errors import ConfigError, Problem
from qingtu.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from qingtu.catalogue import Catalogue as Loaded

_FILES: Final = (
    "secret_file", "web.tokens_file", "mqtt.password_file", "mqtt.ca_file", "mqtt.cert_file", "mqtt.key_file",
)  # fmt: skip


def together(settings: Settings, catalogue: Loaded) -> list[Problem]:
    """Return what is wrong between settings and catalogue: routes, decoders, redaction."""
    routes = {route.name: route for route in settings.routes}
    problems = [
        Problem("settings", 0, f"routes.{name}.decoder", route.decoder, f"no such format (allowed: {_list(DECODERS)})")
        for name, route in routes.items()
        if route.decoder not in DECODERS
    ]
    used = {(entry.network, entry.route): entry.device.id for entry in catalogue.devices.values()}
    used |= {(network.id, network.route): "" for network in catalogue.networks.values()}
    for (network, name), device in sorted(used.items()):
        key = f"networks.{network}.route" if not device else f"networks.{network}.devices.{device}.route"
        route = routes.get(name)
        if route is None:
            problems.append(
                Problem(str(settings.catalogue), 0, key, name, f"the settings have no such route ({_list(routes)})")
            )
        elif catalogue.networks[network].private and route.redact is None:
            text = "a private network needs a route that redacts: set redact in its [[routes]]"
            problems.append(Problem("settings", 0, f"routes.{name}.redact", "", f"{text} (network {network})"))
    return problems


def checked(settings: Settings) -> Loaded:
    """Load the catalogue and check it together with the settings.

    Raises:
        ConfigError: with all problems.
    """
    problems: list[Problem] = []
    catalogue = None
    try:
        catalogue = load_catalogue(settings.catalogue)
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        RouteTable(settings.routes)
    except ConfigError as error:
        problems.extend(error.problems)
    for name in _FILES:
        problems.extend(_absent(settings, name))
    if catalogue is not None:
        problems.extend(together(settings, catalogue))
    if problems or catalogue is None:
        raise ConfigError(problems)
    return catalogue


def check(file: SettingsFile = None, data: Data = None, catalogue: Catalogue = None) -> None:
    """Check settings and catalogue / 检查设置与目录.

    Without network; prints every problem with file, line, key, value and what is allowed. Exit code 1 when there is
    one.
    """
    problems: list[Problem] = []
    settings = None
    try:
        settings = settings_of(file, data, catalogue)
        found = checked(settings)
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        # wrong settings must not hide what is wrong in the catalogue
        if settings is None:
            problems.extend(_catalogue_alone(catalogue))
        for problem in problems:
            out().print(str(problem), soft_wrap=True)
        out().print(f"{len(problems)} 个问题 / problems")
        raise typer.Exit(1)
    private = sum(network.private for network in found.networks.values())
    out().print(
        f"没有问题 / no problems: catalogue {found.version}, {len(found.networks)} networks ({private} private), "
        f"{len(found.stations)} stations, {len(found.devices)} devices, {len(found.series)} series, "
        f"{len(found.rules)} rules" + (" · 演示目录 demonstration" if found.demonstration else ""),
        soft_wrap=True,
    )


def _catalogue_alone(folder: Path | None) -> list[Problem]:
    try:
        load_catalogue(folder or Settings().catalogue)
    except ConfigError as error:
        return list(error.problems)
    return []


def _absent(settings: Settings, name: str) -> list[Problem]:
    path: Path | None = attrgetter(name)(settings)
    if path is None or path.is_file():
        return []
    return [Problem("settings", 0, name, str(path), "no such file")]


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
