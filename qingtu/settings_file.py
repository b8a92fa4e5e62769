"""Reads ``qingtu.toml`` and ``QINGTU_*``: every problem with its place, and what is right besides.

One wrong key hides nothing: it is set aside, and what does not depend on it is checked all the same.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from qingtu.errors import Problem
from qingtu.settings import NO_SETTINGS, ROUTE_NAME, Settings
from qingtu.settings_lists import inside, model_at, set_aside, table_of
from qingtu.settings_together import contradictions
from qingtu.wrong_values import sentence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

    from qingtu.settings_together import Contradiction

Key = tuple[str, ...]


@dataclass(slots=True)
class Reading:
    """What was read.

    Attributes:
        settings: what is right; a key that is broken or cannot be read has its default.
        problems: what is wrong.
        broken: keys (or whole sections) of which nothing is known; ``()`` when the file cannot be read.
        file: as it was given.
        text: of the file.
        given: what variables and the command line set.
        data: what stands in the file, under what ``given`` puts over it.
    """

    settings: Settings = field(default_factory=Settings)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Key] = field(default_factory=set)
    file: str = ""
    text: str = ""
    given: dict[Key, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def knows(self, *where: str) -> bool:
        """Return whether the value of a key, or of everything in a section, is what the user meant."""
        if where in self.given and where not in self.broken:
            return True
        return not any(one == where[: len(one)] or where == one[: len(where)] for one in self.broken)

    def at(self, where: Key, value: str, message: str) -> Problem:
        """Make a problem of a key: it stands in a variable, at a line of the file, or nowhere, as a default."""
        if where in self.given:
            return Problem("environment", 0, "QINGTU_" + "__".join(where).upper(), value, message)
        return Problem(self.file, _line_of(self.text, where), self.called(where), value, message)

    def stands(self, where: Key) -> bool:
        """Return whether a key was set by anybody: what was not is a default, and has no line."""
        inner: Any = self.data
        for part in where:
            if isinstance(inner, dict) and part in inner:
                inner = inner[part]
            elif isinstance(inner, list) and part.isdigit() and int(part) < len(inner):
                inner = inner[int(part)]
            else:
                return False
        return True

    def called(self, where: Key) -> str:
        """Write a key as people read it: a route by its name, or by its number from 1 when the name does not tell it.

        >>> Reading().called(("routes", "1", "topic")), Reading().called(("routes", "7"))
        ('routes.native.topic', 'routes.8')
        """
        table = table_of(where)
        if not table or len(where) == len(table):
            return ".".join(where)
        routes = inside(self.data, table)
        if routes is None:
            routes = [item.model_dump() for item in attrgetter(".".join(table))(self.settings)]
        names = (
            [one.get("name") if isinstance(one, dict) else None for one in routes] if isinstance(routes, list) else []
        )
        number = int(where[len(table)])
        name = names[number] if number < len(names) and names.count(names[number]) == 1 else None
        known = isinstance(name, str) and re.fullmatch(ROUTE_NAME, name)
        return ".".join((*table, str(name) if known else str(number + 1), *where[len(table) + 1 :]))


def read_settings(file: Path | None = None, *, environ: dict[str, str] | None = None) -> Reading:
    """Read settings; problems are collected, not raised.

    Args:
        file: a TOML file; None takes ``qingtu.toml`` of the working folder when there is one.
        environ: variables to read instead of the process's own.
    """
    path = file or Path("qingtu.toml")
    reading = Reading(file=str(path))
    data = _parsed(path, reading) if file is not None or path.exists() else {}
    reading.given = _environment(dict(os.environ) if environ is None else environ, reading.problems)
    for keys, value in reading.given.items():
        _put(data, keys, value)
    reading.data = data
    reading.settings = _validated(data, reading)
    reading.problems += [
        _placed(one, reading)
        for one in contradictions(reading.settings)
        if reading.knows(*one.where) and all(reading.knows(*key) for key in one.needs)
    ]
    reading.problems = in_order(reading.problems, reading.file)
    return reading


def in_order(problems: Iterable[Problem], file: str) -> list[Problem]:
    """Sort as an editor shows them: the settings file, variables, then other files, each by line."""
    rank = {file: 0, "environment": 1}
    return sorted(problems, key=lambda one: (rank.get(one.file, 2), one.file, one.line))


def _placed(one: Contradiction, reading: Reading) -> Problem:
    """Tell a contradiction where a person wrote one of its keys, not at a default that stands nowhere."""
    written = next((key for key in (one.where, *one.needs) if reading.stands(key)), one.where)
    if written == one.where:
        return reading.at(one.where, one.value, one.message)
    value = attrgetter(".".join(written))(reading.settings)
    message = f"{'.'.join(one.where)} = {one.value} (默认 default) {one.message}"
    return reading.at(written, str(value), message)


def _parsed(path: Path, reading: Reading) -> dict[str, Any]:
    line, key, value = 0, "file", str(path)
    try:
        reading.text = path.read_text(encoding="utf-8")
        return tomllib.loads(reading.text)
    except OSError as error:
        message = f"无法读取 / cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        message = f"无法读取 / cannot be read: is not UTF-8 at byte {error.start}"
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line, key, value, message = int(found[1]) if found else 0, "syntax", "", f"不是 TOML / not TOML: {error}"
    reading.problems.append(Problem(str(path), line, key, value, message))
    reading.broken.add(())
    return {}


def _validated(data: dict[str, Any], reading: Reading) -> Settings:
    """Validate what there is; what is wrong is told, set aside, and the rest is validated again."""
    told = False
    while True:
        try:
            return Settings.model_validate(data, context={"apart": True})
        except ValidationError as error:
            details = error.errors(include_url=False)
        reading.problems += [] if told else [_problem(detail, reading) for detail in details]
        told, data = True, copy.deepcopy(data)
        for detail in details:
            where = tuple(str(part) for part in detail["loc"])
            reading.broken.add(where)
            set_aside(data, where)


def _environment(environ: dict[str, str], problems: list[Problem]) -> dict[Key, str]:
    out: dict[Key, str] = {}
    for name, value in sorted(environ.items()):
        if not name.startswith("QINGTU_") or name in NO_SETTINGS:
            continue
        keys = tuple(name.removeprefix("QINGTU_").lower().split("__"))
        if keys[0] in Settings.model_fields:
            out[keys] = value
            continue
        near = _meant(name)
        hint = f"; 是否指 / did you mean {near}?" if near else ""
        allowed = ", ".join(f"QINGTU_{key.upper()}" for key in Settings.model_fields)
        message = f"没有此设置 / no such setting{hint} (allowed: {allowed})"
        problems.append(Problem("environment", 0, name, repr(value)[:80], message))
    return out


def _meant(name: str) -> str | None:
    """Return the variable that a wrong one was meant to be: one ``_`` for two, or a slip in a word.

    >>> _meant("QINGTU_MQTT_PORT"), _meant("QINGTU_MQTT_HOTS"), _meant("QINGTU_WHATEVER")
    ('QINGTU_MQTT__PORT', 'QINGTU_MQTT__HOST', None)
    """
    known: dict[str, str] = {}
    for section, spec in Settings.model_fields.items():
        kind = spec.annotation
        below = list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
        known |= {"_".join(keys): "__".join(keys) for keys in ((section,), *((section, key) for key in below))}
    word = re.sub("_+", "_", name.removeprefix("QINGTU_").lower())
    near = difflib.get_close_matches(word, list(known), 1, cutoff=0.75)
    return f"QINGTU_{known[near[0]].upper()}" if near else None


def _put(data: dict[str, Any], keys: Key, value: str) -> None:
    """Set a value. Where the file has something else than a table in its way, the model will say so."""
    for key in keys[:-1]:
        inner: Any = data.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        data = inner
    data[keys[-1]] = value


def _problem(detail: ErrorDetails, reading: Reading) -> Problem:
    where = tuple(str(part) for part in detail["loc"])
    message = sentence(detail)
    if detail["type"] == "extra_forbidden":
        allowed = sorted(_allowed(where[:-1]))
        near = difflib.get_close_matches(where[-1], allowed, 1)
        hint = f"; 是否指 / did you mean {near[0]}?" if near else ""
        message = f"没有此设置 / no such setting{hint} (allowed: {', '.join(allowed)})"
    elif detail["type"] in ("model_type", "model_attributes_type"):
        message = f"须为一节 / must be a table with {', '.join(sorted(_allowed(where)))}"
    elif detail["type"] != "value_error":
        message = f"{message} ({_describe(where)})"
    return reading.at(where, "" if detail["type"] == "missing" else repr(detail["input"])[:80], message)


def _allowed(where: Key) -> list[str]:
    model = model_at(where)
    return list(model.model_fields) if model else []


def _describe(where: Key) -> str:
    """Say what a setting is for, with both its bounds: the error knows only the one that was passed."""
    model = model_at(where[:-1])
    spec = model.model_fields.get(where[-1]) if model else None
    if spec is None:
        return "see docs/settings.md"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{sign} {getattr(m, name)}" for m in spec.metadata for name, sign in signs.items() if hasattr(m, name)]
    default = [] if spec.is_required() else [f"default {spec.default!r}"]
    return "; ".join([*default, *([" and ".join(bounds)] if bounds else []), spec.description or ""])


def _line_of(text: str, where: Key) -> int:
    """Find the line of a key: tomllib keeps no positions, and settings files are small and flat."""
    table: list[str] = []
    count: dict[str, int] = {}
    best = 0
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            name = found[1]
            table = [*name.split("."), str(count.setdefault(name, 0))]
            count[name] += 1
        elif found := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = found[1].split(".")
        elif found := re.match(r"\s*([\w.-]+)\s*=", line):
            here = (*table, *found[1].split("."))
            if here == where[: len(here)]:
                return number
            continue
        if tuple(table) == where[: len(table)] or (not best and where == tuple(table[: len(where)])):
            best = number  # of a list as a whole: its first table
    return best
