"""Who may do what at the broker, from the catalogue and the routes.

A device may write its own topic and read its commands, a bridge may write for the devices of its route, a gateway may
read what it subscribes to and use its own marker, a commander may write commands. Nothing else is allowed, to
anybody. No pattern lines with ``%u``: each account has lines of its own, so what a name contains decides nothing.

Names come from catalogue files that others write. What could end a line or a field, or mean something else in one,
is refused, never escaped: mosquitto's files know no escapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

from ingest.routes import RouteTable, filter_of, overlaps
from qingtu.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from qingtu.catalogue import Catalogue, DeviceEntry
    from qingtu.settings import RouteSettings, Settings

Access = Literal["read", "write", "readwrite"]
Kind = Literal["gateway", "bridge", "commander", "device"]

COMMANDS: Final = "qt/{network}/{device}/down"
"""The topic on which a device is told something, beside ``qt/{network}/{device}/up`` on which it tells."""
GATEWAY: Final = "qingtu-gateway"
"""The gateway's account when the settings name none."""

_PART: Final = re.compile(r"\{([^{}]*)\}")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029:%+#\ud800-\udfff]")
"""Ends a line or a field of mosquitto's files, or is a wildcard or substitution there."""


@dataclass(frozen=True, slots=True)
class Account:
    """One log-in at the broker.

    Attributes:
        user: ``NETWORK/DEVICE``, ``bridge-ROUTE``, or the name of a gateway or commander. Only devices have a slash,
            which neither networks nor device ids can hold, so no two names fall together.
        kind: what it is.
        grants: (access, topic filter) in the order of the file.
    """

    user: str
    kind: Kind
    grants: tuple[tuple[Access, str], ...]


def accounts(
    catalogue: Catalogue,
    settings: Settings,
    others: Sequence[Settings] = (),
    *,
    bridges: Collection[str] = (),
    commanders: Collection[str] = (),
    commands: str = COMMANDS,
) -> list[Account]:
    """Return every account: gateways, bridges, commanders, then devices in the catalogue's order.

    Args:
        catalogue: with the devices.
        settings: of the first gateway.
        others: of further gateways at the same broker; no topic may reach two of them.
        bridges: names of routes whose devices do not log in themselves: one account writes for all of them.
        commanders: accounts that may write every device's commands, and nothing else.
        commands: topic with ``{network}`` and ``{device}`` that a device may read.

    Raises:
        ConfigError: with everything that cannot be granted.
    """
    every = [settings, *others]
    problems: list[Problem] = []
    tables = [RouteTable(one.routes) for one in every]
    routes = _routes(every, problems)
    problems += _apart(every, tables)
    problems += _commands_wrong(commands, tables)
    problems += [
        Problem("command line", 0, "--bridge", name, f"no such route (allowed: {', '.join(sorted(routes))})")
        for name in sorted(set(bridges) - set(routes))
    ]
    problems += _commanders_wrong(commanders, [account_of(one) for one in every])
    if problems:
        raise ConfigError(problems)
    out = [_gateway(one, table) for one, table in zip(every, tables, strict=True)]
    entries = list(catalogue.devices.values())
    out += [_bridge(routes[name], entries, commands) for name in sorted(bridges)]
    out += [Account(name, "commander", (("write", filter_of(commands)),)) for name in sorted(set(commanders))]
    where = str(settings.catalogue)
    for entry in entries:
        wrong = list(_device_wrong(entry, routes, tables))
        problems += [
            Problem(where, 0, f"networks.{entry.network}.devices.{entry.device.id[:40]!r}", value[:80], text)
            for value, text in wrong
        ]
        if not wrong and entry.route not in bridges:
            out.append(_device(entry, routes[entry.route], commands))
    if problems:
        raise ConfigError(problems)
    return out


def acl_text(made: Iterable[Account]) -> str:
    """Write mosquitto's access control file."""
    lines = ["# Written by `qingtu broker-config`: change the catalogue or the settings and run it again.", ""]
    for account in made:
        lines += [f"user {account.user}", *(f"topic {access} {name}" for access, name in account.grants), ""]
    return "\n".join(lines)


def account_of(settings: Settings) -> str:
    """Return the name with which a gateway logs in."""
    return settings.mqtt.username or GATEWAY


# -------------------------------------------------------------------------------------------------------- grants


def _gateway(settings: Settings, table: RouteTable) -> Account:
    marker = f"qingtu/marker/{quote(settings.mqtt.client_id, safe='')}"
    grants: list[tuple[Access, str]] = [("read", name) for name, _ in table.subscriptions()]
    return Account(account_of(settings), "gateway", (*grants, ("readwrite", marker)))


def _bridge(route: RouteSettings, entries: Iterable[DeviceEntry], commands: str) -> Account:
    networks = sorted({entry.network for entry in entries if entry.route == route.name})
    reads: list[tuple[Access, str]] = [("read", _filled(commands, network, "+")) for network in networks]
    return Account(f"bridge-{route.name}", "bridge", (("write", filter_of(route.topic)), *reads))


def _device(entry: DeviceEntry, route: RouteSettings, commands: str) -> Account:
    network, device = entry.network, entry.device.id
    return Account(
        f"{network}/{device}",
        "device",
        (("write", _filled(route.topic, network, device)), ("read", _filled(commands, network, device))),
    )


def _filled(topic: str, network: str, device: str) -> str:
    """Return the filter of all topics that a route's topic gives for one device.

    >>> _filled("f/{network}/{_}/{device}/{_*}", "n", "d")
    'f/n/+/d/#'
    """
    known = {"network": network, "device": device, "_": "+", "_*": "#"}
    return _PART.sub(lambda part: known[part[1]], topic)


# -------------------------------------------------------------------------------------------------------- checks


def _routes(every: Sequence[Settings], problems: list[Problem]) -> dict[str, RouteSettings]:
    """Return name → route of all gateways; each gateway's account and client id must be its own."""
    routes: dict[str, RouteSettings] = {}
    accounts_seen: set[str] = set()
    clients_seen: set[str] = set()
    for one in every:
        user, client = account_of(one), one.mqtt.client_id
        if not _ACCOUNT.fullmatch(user):
            problems.append(Problem("settings", 0, "mqtt.username", repr(user)[:80], "letters, digits, _ . - only"))
        if user.startswith("bridge-"):
            problems.append(Problem("settings", 0, "mqtt.username", user, "bridge-… are the accounts of bridges"))
        if user in accounts_seen:
            text = "another gateway has this account: the broker ties the session to it, so they must differ"
            problems.append(Problem("settings", 0, "mqtt.username", user, text))
        if client in clients_seen:
            text = "another gateway has this client id: they would take the session from each other"
            problems.append(Problem("settings", 0, "mqtt.client_id", repr(client)[:80], text))
        accounts_seen.add(user)
        clients_seen.add(client)
        for route in one.routes:
            if routes.setdefault(route.name, route) != route:
                text = "another gateway has another route of this name: names must differ"
                problems.append(Problem("settings", 0, f"routes.{route.name}.name", route.name, text))
            if bad := _UNSAFE.search(_PART.sub("", route.topic)):
                text = f"the access control file cannot hold a topic with {bad[0]!r}"
                problems.append(Problem("settings", 0, f"routes.{route.name}.topic", repr(route.topic)[:80], text))
    return routes


def _apart(every: Sequence[Settings], tables: Sequence[RouteTable]) -> Iterable[Problem]:
    """Find topics that would reach two gateways: such a message would be stored twice."""
    for i, table in enumerate(tables):
        for before in range(i):
            for (one, _), (other, _) in (
                (a, b) for a in table.subscriptions() for b in tables[before].subscriptions()
            ):  # fmt: skip
                if overlaps(one, other):
                    yield Problem(
                        "settings", 0, "routes.topic", one,
                        f"shares topics with {other} of gateway {every[before].mqtt.client_id!r}: each message must "
                        "reach one gateway only; give every network or format to one of them",
                    )  # fmt: skip


def _commands_wrong(commands: str, tables: Sequence[RouteTable]) -> Iterable[Problem]:
    levels = commands.split("/")
    parts = [level for level in levels if "{" in level or "}" in level]
    if sorted(parts) != ["{device}", "{network}"] or _UNSAFE.search(commands) or levels[0].startswith("$"):
        text = "must hold {network} and {device}, each as a whole level and once, such as " + COMMANDS
        yield Problem("command line", 0, "--commands", repr(commands)[:80], text)
        return
    for table in tables:
        for name, _ in table.subscriptions():
            if overlaps(name, filter_of(commands)):
                text = f"shares topics with the route {name}: the gateway would take commands for readings"
                yield Problem("command line", 0, "--commands", commands, text)


def _commanders_wrong(names: Collection[str], gateways: Collection[str]) -> Iterable[Problem]:
    for name in names:
        if not _ACCOUNT.fullmatch(name) or name.startswith("bridge-") or name in gateways:
            text = "letters, digits, _ . - only, and not the name of a gateway or bridge"
            yield Problem("command line", 0, "--commander", repr(name)[:80], text)


def _device_wrong(
    entry: DeviceEntry, routes: dict[str, RouteSettings], tables: Sequence[RouteTable]
) -> Iterable[tuple[str, str]]:
    """Yield (value, message) of what keeps a device from having an account."""
    network, device = entry.network, entry.device.id
    route = routes.get(entry.route)
    if route is None:
        yield entry.route, f"the settings have no such route ({', '.join(sorted(routes))})"
        return
    if bad := _UNSAFE.search(device):
        text = f"mosquitto's files cannot hold the sign {bad[0]!r} of this device id; give the device another id"
        yield repr(device), text
        return
    own = _filled(route.topic, network, device)
    for table in tables:
        if all(known.name != route.name for known in table.routes):
            continue
        if "+" not in own and "#" not in own:
            found = table.match(own)
            if found is None or (found.network, found.device) != (network, device):
                taken = "nobody" if found is None else f"{found.network}/{found.device}"
                yield own, f"route {route.name} takes this topic as one of {taken}, not of {network}/{device}"
            continue
        for before in table.routes:
            if before.name == route.name:
                break
            if overlaps(filter_of(before.topic), own) and not _same_sender(before, own, network, device):
                text = f"could write topics that route {before.name} ({before.topic}) takes as another device's"
                yield own, text


def _same_sender(route: RouteSettings, own: str, network: str, device: str) -> bool:
    """Say whether every topic of the grant ``own`` that a route takes, it takes as this device's."""
    known = {"{network}": network, "{device}": device}
    levels = own.split("/")
    named = [(i, known[part]) for i, part in enumerate(route.topic.split("/")) if part in known]
    fixed = all(i < len(levels) and levels[i] == name for i, name in named)
    return fixed and ("{network}" in route.topic or route.network == network)
