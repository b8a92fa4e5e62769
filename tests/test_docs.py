"""The documentation is complete, current, and its links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from ingest.decoders import DECODERS
from processors.alerts import RULES
from processors.bits import BITS
from processors.indices import INDICES
from qingtu.cli import app
from qingtu.commands import reference
from qingtu.settings import Settings
from qingtu.settings_notify import ChannelSettings, NotifyRouteSettings
from simulators import SIMULATORS
from simulators.faults import FAULTS
from web.words import REASONS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_TABLES = (
    "ingest/decoders",
    "processors/quality",
    "processors/relations",
    "processors/alerts",
    "processors/aggregates",
    "processors/indices",
    "sinks",
    "simulators",
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["docs/settings.md", "docs/cli.md", "qingtu.toml", "docs/quarantine-and-ledger.md"])
def test_generated_pages_are_current(name: str) -> None:
    """They follow from the code: python -m qingtu.commands.reference writes them."""
    assert _text(name) == reference.pages(ROOT)[name]


def test_sample_settings_are_the_defaults() -> None:
    """As it stands the sample changes nothing; uncommented, it has every setting with its default or an example."""
    text = _text("qingtu.toml")
    assert Settings.model_validate(tomllib.loads(text)) == Settings()
    found = _uncommented(text)
    routes = found.pop("routes")
    assert routes[:-1] == [route.model_dump(exclude_defaults=True) for route in Settings().routes]
    assert set(routes[-1]) == set(type(Settings().routes[0]).model_fields)
    (channel,), (told,) = found["notify"].pop("channels"), found["notify"].pop("routes")
    assert ChannelSettings.model_validate(channel).model_fields_set == set(ChannelSettings.model_fields)
    assert NotifyRouteSettings.model_validate(told).model_fields_set == set(NotifyRouteSettings.model_fields)
    whole = Settings.model_validate({**found, "routes": routes}).model_dump(exclude={"routes"})
    default = Settings().model_dump(exclude={"routes": True, "notify": {"channels", "routes"}})
    assert _keys(found) == _keys(default)
    examples = {key for key in _keys(default) if _at(default, key) is None}
    assert {key for key in _keys(default) if _at(whole, key) != _at(default, key)} == examples


def _uncommented(text: str) -> dict[str, Any]:
    return tomllib.loads(re.sub(r"^# (?=\[\[|[a-z_]+ = )", "", text, flags=re.MULTILINE))


def _keys(data: dict[str, Any], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for key, value in data.items():
        keys |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return keys


def _at(data: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        data = data[part]
    return data


def test_every_setting_says_what_it_is_for() -> None:
    """A field without a description is not finished."""
    silent = [f"{prefix}{name}" for prefix, model, _ in reference.sections() for name, spec in reference.fields(model)
              if not spec.description]  # fmt: skip
    assert silent == []


def test_every_command_and_option_has_help_in_both_languages() -> None:
    """English first, Chinese behind it."""
    chinese = re.compile(r"[\u4e00-\u9fff]")
    for path, command in reference.commands(typer.main.get_command(app)):
        texts = {path: command.help or ""}
        for parameter in command.params:
            if parameter.name != "help":
                texts[f"{path} {parameter.name}"] = getattr(parameter, "help", None) or ""
        for where, text in texts.items():
            assert re.search(r"[A-Za-z]{2}", text), where
            assert chinese.search(text), where


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/quality.md", BITS),
        ("docs/alerts.md", RULES),
        ("docs/indices.md", INDICES),
        ("docs/simulators.md", SIMULATORS),
        ("docs/simulators.md", FAULTS),
        ("docs/quarantine-and-ledger.md", REASONS),
        ("docs/operations.md", ["secret", "tokens", "service.json", "catalogues/", "broker/"]),
        ("README.md", ["make demo", "make test", "mermaid", "docs/screenshot.png"]),
    ],
)
def test_every_plug_in_is_described(page: str, names: Any) -> None:
    """What stands in a table of plug-ins stands on its page."""
    text = _text(page)
    assert [name for name in names if name not in text] == []


def test_every_format_has_its_page_and_cases() -> None:
    """docs/formats/NAME.md and tests/cases/NAME/."""
    for name in DECODERS:
        assert (ROOT / "docs" / "formats" / f"{name}.md").is_file(), name
        assert any((ROOT / "tests" / "cases" / name).iterdir()), name


def test_contributing_names_every_table_of_plug_ins() -> None:
    """Whoever adds one finds the table that it needs a line in."""
    text = _text("CONTRIBUTING.md")
    missing = [package for package in _TABLES if f"`{package}/__init__.py`" not in text]
    assert missing == []
    assert all((ROOT / package / "__init__.py").is_file() for package in _TABLES)


def test_make_help_lists_every_target() -> None:
    """A target for people has a help text."""
    makefile = _text("Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    for target in set(phony[1].split()) - {"environment", "dev-environment"}:
        assert re.search(rf"^{target}:.* ## .+", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """Every link to a file of ours leads to one; anchors name a heading."""
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            marks = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
            assert anchor in marks, f"{page.name}: {target}"
