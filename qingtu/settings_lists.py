"""Lists of tables in the settings (``[[routes]]``, ``[[notify.channels]]``): where they stand, of what they are."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from qingtu.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

Key = tuple[str, ...]
_STAND_INS: Final[Mapping[Key, Mapping[str, Any]]] = {
    ("routes",): {"name": "broken-{n}", "topic": "{{device}}/broken-{n}"},
    ("notify", "channels"): {"name": "broken-{n}", "url_file": "broken-{n}"},
    ("notify", "routes"): {"channels": ["broken"]},
}
"""What takes the place of what a table must have, while that is wrong."""


def table_of(where: Key) -> Key:
    """Return the list of tables that a key stands in, or ``()``.

    >>> table_of(("notify", "routes", "0", "levels")), table_of(("web", "port"))
    (('notify', 'routes'), ())
    """
    return next((table for table in _STAND_INS if where[: len(table)] == table), ())


def table_model(spec: Any) -> type[BaseModel] | None:
    """Return the model of a section, or of each table of a list; None for a plain value."""
    found = typing.get_args(spec)[0] if typing.get_origin(spec) is tuple else spec
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def model_at(where: Key) -> type[BaseModel] | None:
    """Return the model of the section or table that a key names, None when it names a plain value."""
    model: type[BaseModel] = Settings
    for part in where:
        if part.isdigit():
            continue
        spec = model.model_fields.get(part)
        inner = table_model(spec.annotation) if spec is not None else None
        if inner is None:
            return None
        model = inner
    return model


def inside(data: Any, where: Key) -> Any:
    """Return what stands at a key of plain data, None when nothing does."""
    for part in where:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def set_aside(data: dict[str, Any], where: Key) -> None:
    """Take a wrong value out, or put one that is right in the place of what must be there."""
    table = table_of(where)
    if not table or len(where) <= len(table):
        inner: Any = data.get(where[0]) if len(where) > 1 else None
        if isinstance(inner, dict):
            inner.pop(where[1], None)
        else:
            data.pop(where[0], None)
        return
    rows, (n, *rest) = inside(data, table), where[len(table) :]
    number = int(n)
    if not isinstance(rows, list) or number >= len(rows):
        return
    whole = {key: _filled(value, number) for key, value in _STAND_INS[table].items()}
    if not rest or not isinstance(rows[number], dict):
        rows[number] = whole
    elif rest[0] in whole:
        rows[number][rest[0]] = whole[rest[0]]
    else:
        rows[number].pop(rest[0], None)


def _filled(value: Any, number: int) -> Any:
    return value.format(n=number) if isinstance(value, str) else value
