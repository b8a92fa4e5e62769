"""Writes the pages that follow from the code: ``docs/settings.md``, ``docs/cli.md`` and the sample ``qingtu.toml``.

``python -m qingtu.commands.reference`` writes them; a test fails when they are not current.
"""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import typer
from annotated_types import Ge, Gt, Le, MinLen
from pydantic_core import PydanticUndefined

from qingtu.settings import Settings
from qingtu.settings_lists import table_model, table_of
from web.words import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import click
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

_EXAMPLES: Final[Mapping[str, str | int]] = {
    "secret_file": "/etc/qingtu/secret",
    "mqtt.host": "192.0.2.10",
    "mqtt.username": "qingtu",
    "mqtt.password_file": "/etc/qingtu/mqtt-password",
    "mqtt.queue_messages": 1000000,
    "mqtt.queue_bytes": 1073741824,
    "mqtt.ca_file": "/etc/qingtu/ca.pem",
    "mqtt.cert_file": "/etc/qingtu/client.pem",
    "mqtt.key_file": "/etc/qingtu/client.key",
    "kafka.member": "city-1",
    "kafka.username": "qingtu",
    "kafka.password_file": "/etc/qingtu/kafka-password",
    "kafka.ca_file": "/etc/qingtu/ca.pem",
    "influx.token_file": "/etc/qingtu/influx-token",
    "grafana.token_file": "/etc/qingtu/grafana-token",
    "grafana.influx_url": "http://influxdb:8086",
    "grafana.influx_token_file": "/etc/qingtu/influx-read-token",
    "web.tokens_file": "/etc/qingtu/tokens",
    "routes.network": "qd-community",
    "routes.redact": "native",
    "notify.channels.secret_file": "/etc/qingtu/notify-duty-secret",
    "notify.channels.language": "zh",
    "notify.channels.quiet_from": "22:00",
    "notify.channels.quiet_to": "07:00",
}
"""Values for the sample of what is not set by default."""
_IN_LISTS: Final[Mapping[str, str | tuple[str, ...]]] = {
    "routes.name": "other",
    "routes.topic": "field/{device}/{_*}",
    "notify.channels.name": "duty",
    "notify.channels.url_file": "/etc/qingtu/notify-duty-url",
    "notify.routes.channels": ("duty",),
}
"""The same of what every table of a list must have."""
_BETWEEN: Final = (
    "- `process.dedup_horizon_h` must exceed `mqtt.session_expiry_h`: the broker may send again what is that old.",
    "- `store.keep_days` must exceed `process.backfill_limit_d`: what is taken in would be expired at once.",
    "- Names of routes differ. Every network's `route` (stations/networks.yaml) is one of them; that of a private",
    "  network names `redact`.",
    "- `kafka.min_in_sync` is at most `kafka.replication`; `kafka.username` needs `kafka.password_file`;",
    '  `mqtt.cert_file` and `mqtt.key_file` go together; `store.kind = "influx"` needs `influx.token_file`.',
    "- `sinks` names `notify` exactly when there are `[[notify.channels]]`, which need `[[notify.routes]]`; names of",
    "  channels differ, and routes name channels that exist; `quiet_from` and `quiet_to` go together and differ.",
    "- Files that are named must exist. `qingtu check` looks at all of them, `qingtu run` at those that are used.",
    "",
    "One wrong key hides nothing: what does not depend on it is compared all the same, in the catalogue too.",
)


def sections() -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield (prefix, model, what it is for) of every section, the top level first."""
    yield "", Settings, "Everything else stands in sections."
    yield from _below(Settings, "")


def _below(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel], str]]:
    for name, spec in model.model_fields.items():
        if (inner := table_model(spec.annotation)) is not None:
            yield f"{prefix}{name}.", inner, inspect.getdoc(inner) or ""
            yield from _below(inner, f"{prefix}{name}.")


def fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the settings of a section that are not sections themselves."""
    for name, spec in model.model_fields.items():
        if table_model(spec.annotation) is None:
            yield name, spec


def _listed(prefix: str) -> bool:
    """Return whether a section is one table of a list."""
    where = tuple(prefix.split(".")[:-1])
    return bool(where) and table_of(where) == where


def settings_page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Made from `qingtu/settings.py` by `python -m qingtu.commands.reference`; do not edit.",
        "",
        "Read from `qingtu.toml` in the working folder (or `--settings FILE`), then from variables: `QINGTU_DATA`,",
        "`QINGTU_MQTT__PORT` (two underscores between levels). `qingtu check` finds everything that is wrong at once,",
        "with file, line, key, value and what is allowed, and needs no network. `qingtu.toml` in the repository is a",
        "sample with every setting. Secrets stand in files of their own, never in the settings.",
    ]
    for prefix, model, about in sections():
        name = prefix.rstrip(".")
        title = (f"`[[{name}]]`" if _listed(prefix) else f"`[{name}]`") if name else "Top level"
        lines += ["", f"## {title}", "", about, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{prefix}{name}` | {_kind(spec)} | {_default(spec)} | {_cell(spec.description or '')} |"
            for name, spec in fields(model)
        ]
        if prefix == "routes.":
            first = "the first that matches a topic wins, and one that is never reached is an error"
            lines += ["", f"Without any `[[routes]]` these hold; {first}:", "", "```toml"]
            lines += [*_routes(), "```"]
    lines += ["", "## Between them", "", *_BETWEEN]
    return "\n".join(lines) + "\n"


def sample() -> str:
    """Return qingtu.toml: every setting, commented out, with its default or an example."""
    lines = [
        "# Sample with every setting (docs/settings.md). What is commented out holds its default; 'not set' shows an",
        "# example. 设置样例: 注释掉的为默认值, 标有 not set 的为示例.",
    ]
    for prefix, model, about in sections():
        if prefix == "routes.":
            lines += ["", f"# {about}", "# The first that matches a topic wins. Naming any replaces these:"]
            lines += [f"# {line}".rstrip() for line in _routes()]
            lines += ["#", "# [[routes]]                                      # with all that a route can have"]
        elif _listed(prefix):
            lines += ["", f"# {about}", f"# [[{prefix.rstrip('.')}]]  # none by default"]
        elif prefix:
            lines += ["", f"# {about}", f"[{prefix.rstrip('.')}]"]
        else:
            lines.append("")
        for name, spec in fields(model):
            unset = spec.default in (None, PydanticUndefined)
            example = _IN_LISTS.get(f"{prefix}{name}")
            value = example or (_EXAMPLES[f"{prefix}{name}"] if unset else spec.default)
            note = ("not set: " if unset and example is None else "") + (spec.description or "")
            lines.append(f"# {name} = {_toml(value):<{max(1, 44 - len(name))}}  # {note}".rstrip())
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Return docs/cli.md: what --help says, for every command."""
    from qingtu import cli  # noqa: PLC0415 - which imports this module's neighbours

    lines = ["# Commands", "", "Made from the help texts by `python -m qingtu.commands.reference`; do not edit."]
    lines += ["", "While a service runs on the data folder, commands ask it; otherwise they open the files.", ""]
    about = inspect.getdoc(cli) or ""
    lines += [about.partition("Exit codes:")[1] + about.partition("Exit codes:")[2]]
    for path, command in commands(typer.main.get_command(cli.app)):
        context = command.make_context(path, [], resilient_parsing=True, terminal_width=100, color=False)
        help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        lines += ["", f"## `{path}`", "", "```text", help_text, "```"]
    return "\n".join(lines) + "\n"


def commands(root: Any, path: str = "qingtu") -> Iterator[tuple[str, click.Command]]:
    """Yield (words, command) of every command below ``root``, groups too."""
    yield path, root
    for name, command in getattr(root, "commands", {}).items():
        yield from commands(command, f"{path} {name}")


def write(root: Path) -> None:
    """Write the three files into a checkout."""
    for name, text in pages(root).items():
        (root / name).write_text(text, encoding="utf-8")


def pages(root: Path) -> dict[str, str]:
    """Return path in the repository → content; of a page that people write, only the marked part is made here."""
    made = {"docs/settings.md": settings_page(), "docs/cli.md": cli_page(), "qingtu.toml": sample()}
    begin, end = "<!-- reasons: made by python -m qingtu.commands.reference -->\n", "<!-- end of reasons -->\n"
    name = "docs/quarantine-and-ledger.md"
    head, _, rest = (root / name).read_text(encoding="utf-8").partition(begin)
    made[name] = head + begin + reasons() + end + rest.partition(end)[2]
    return made


def reasons() -> str:
    """Return the table of reason codes."""
    rows = [
        f"| `{code}` | {zh} · {en} | {_cell(advice_zh)} · {_cell(advice_en)} |"
        for code, (zh, en, advice_zh, advice_en) in REASONS.items()
    ]
    return "\n".join(["| code | 原因 reason | 处置 what to do |", "| --- | --- | --- |", *rows]) + "\n"


def _routes() -> list[str]:
    lines = []
    for route in Settings.model_fields["routes"].default:
        lines += ["[[routes]]", *(f"{k} = {_toml(v)}" for k, v in route.model_dump(exclude_defaults=True).items()), ""]
    return lines[:-1]


def _kind(spec: FieldInfo) -> str:
    words = _type(spec.annotation)
    for rule in spec.metadata:
        for kind, sign, attribute in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le")):
            if isinstance(rule, kind):
                words += f", {sign} {getattr(rule, attribute)}"
        if isinstance(rule, MinLen):
            words += ", not empty"
        if pattern := getattr(rule, "pattern", None):
            words += f", `{_cell(pattern)}`"
    return words


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " or ".join(f"`{_toml(value)}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in typing.get_args(annotation) if part is not types.NoneType)
    if typing.get_origin(annotation) is tuple:
        return f"list of {_type(typing.get_args(annotation)[0])}s"
    return {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}[annotation]


def _default(spec: FieldInfo) -> str:
    if spec.default is PydanticUndefined:
        return "required"
    return "not set" if spec.default is None else f"`{_toml(spec.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    write(Path(__file__).resolve().parent.parent.parent)
