"""What is right in a catalogue block that has a fault: so that one wrong word hides nothing else.

The result is for comparing blocks with each other, never for use: a catalogue with any problem is refused.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from qingtu.catalogue_limits import LimitSpec
from qingtu.catalogue_model import Defaults, Device, FieldSpec, Station
from qingtu.catalogue_rules import RULE_MODELS, Where
from qingtu.catalogue_words import PropertyKey, without_truth_values

if TYPE_CHECKING:
    from collections.abc import Callable

_LOST: Final = object()
_PROPERTY: Final[TypeAdapter[str]] = TypeAdapter(PropertyKey)


def rescued(model: type[BaseModel], raw: dict[Any, Any]) -> Any:
    """Return a ``model`` of the fields that are right in themselves; the others are absent: ask :func:`has`."""
    raw = without_truth_values(model, raw)
    values: dict[str, Any] = {}
    lost = []
    for name, spec in model.model_fields.items():
        if name in raw:
            value = _field(model, name, raw[name])
            if value is _LOST:
                lost.append(name)
            else:
                values[name] = value
        elif spec.is_required():
            lost.append(name)
    item = model.model_construct(**values)
    for name in lost:
        item.__dict__.pop(name, None)  # where model_construct has put the default of what is wrong
    return item


def has(item: BaseModel, *names: str) -> bool:
    """Return whether fields are right, or absent with a default."""
    return all(name in item.__dict__ for name in names)


def whole(spec: LimitSpec) -> bool:
    """Return whether nothing of a limit is lost."""
    return has(spec, *LimitSpec.model_fields)


def _field(model: type[BaseModel], name: str, raw: object) -> Any:
    try:
        return _adapter(model, name).validate_python(raw)
    except ValidationError:
        rescue = _INSIDE.get((model, name))
        return _LOST if rescue is None else rescue(raw)


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    annotation = model.model_fields[name].rebuild_annotation()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return TypeAdapter(annotation)  # it has the configuration itself
    return TypeAdapter(annotation, config=model.model_config)


def _devices(raw: object) -> tuple[Device, ...]:
    """Keep every position: problems name them."""
    listed = raw if isinstance(raw, list) else []
    return tuple(rescued(Device, one if isinstance(one, dict) else {}) for one in listed)


def _fields(raw: object) -> dict[str, FieldSpec]:
    found = {}
    for name, one in (raw if isinstance(raw, dict) else {}).items():
        spec = rescued(FieldSpec, {"property": one} if isinstance(one, str) else one if isinstance(one, dict) else {})
        if has(spec, "property", "channel"):
            found[str(name)] = spec
    return found


def _properties(raw: object) -> tuple[str, ...]:
    return tuple(one for one in (raw if isinstance(raw, list) else []) if _is_property(one))


def _limits(raw: object) -> dict[str, LimitSpec]:
    rows = raw if isinstance(raw, dict) else {}
    return {key: rescued(LimitSpec, one if isinstance(one, dict) else {}) for key, one in rows.items() if
            _is_property(key)}  # fmt: skip


def _default_limits(raw: object) -> dict[Any, dict[str, LimitSpec]]:
    return {domain: _limits(rows) for domain, rows in (raw if isinstance(raw, dict) else {}).items()}


def _where(raw: object) -> Where:
    found: Where = rescued(Where, raw if isinstance(raw, dict) else {})
    return found


def _is_property(key: object) -> bool:
    try:
        _PROPERTY.validate_python(key)
    except ValidationError:
        return False
    return True


_INSIDE: Final[dict[tuple[type[BaseModel], str], Callable[[object], Any]]] = {
    (Station, "devices"): _devices,
    (Station, "limits"): _limits,
    (Device, "fields"): _fields,
    (Device, "properties"): _properties,
    (Defaults, "limits"): _default_limits,
    **{(model, "where"): _where for model in RULE_MODELS.values()},
}
"""Fields of several parts, of which the right ones are kept."""
