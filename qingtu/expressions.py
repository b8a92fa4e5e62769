"""Expressions in alert rules: CEL, checked when the catalogue is read, so that nothing can go wrong when they run.

Only what cannot fail at run time is allowed: comparison, arithmetic on doubles, logic, ``in`` a list of constants and
tests of text. The Rust implementation has no type checker, and ``&&`` and ``||`` hide errors of what they do not reach;
so each part between them is evaluated on its own with values of the right types (:func:`fault`).
Does not decide what the names stand for: ``processors/alerts/expression.py`` does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qingtu.catalogue_words import nearest
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cel.cel import Program

    from qingtu.catalogue_model import Station

FACTS: Final = ("id", "kind", "domain", "network", "district", "water_class", "noise_class")
"""Of a station: ``station_<fact>``, text, "" where it has none."""
_STATION, _ATTRIBUTE, _AGE, _FLAG = "station_", "attribute_", "_age", "_flag"
_ALLOWED: Final = {
    "_&&_", "_||_", "!_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_+_", "_-_", "_*_", "_/_", "-_", "@in",
    "size", "startsWith", "endsWith", "contains", "matches",
}  # fmt: skip
_TOKEN: Final = re.compile(r"""r?"(?:\\.|[^"\\])*"|r?'(?:\\.|[^'\\])*'|&&|\|\||==|!=|[(\[{]|[)\]}]|\w+|.""", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"


class Expression(NamedTuple):
    """A compiled expression and the names in it.

    Attributes:
        program: gives True or False.
        values, ages, flags: property keys whose value, age or flag it names; sorted.
        facts: of the station, without prefix.
        attributes: of the station, without prefix.
    """

    program: Program
    values: tuple[str, ...]
    ages: tuple[str, ...]
    flags: tuple[str, ...]
    facts: tuple[str, ...]
    attributes: tuple[str, ...]

    @property
    def properties(self) -> tuple[str, ...]:
        """Keys of all properties that it names."""
        return tuple(sorted({*self.values, *self.ages, *self.flags}))


class ExpressionError(ValueError):
    """An expression cannot be used; the text says why, "中文 / English"."""


def compiled(text: str) -> Expression:
    """Compile an expression and sort its names.

    Raises:
        ExpressionError: it is no CEL, or names or calls what there is not.
    """
    program = _program(text)
    if refused := sorted(set(program.functions()) - _ALLOWED):
        words = ", ".join(name.strip("_") for name in refused)
        raise ExpressionError(f"不可用 / {words} cannot be used here; allowed are comparison, + - * /, && || !, in")
    found: dict[str, list[str]] = {kind: [] for kind in ("values", "ages", "flags", "facts", "attributes")}
    for name in program.variables():
        kind, word = _sort(name)
        found[kind].append(word)
    if not found["values"] and not found["ages"] and not found["flags"]:
        raise ExpressionError("须含观测量 / names no reading, so nothing would ever evaluate it")
    return Expression(program, **{kind: tuple(sorted(words)) for kind, words in found.items()})


def _program(text: str) -> Program:
    import cel  # noqa: PLC0415 - brings its command line along, 0.3 s that only expressions should cost

    try:
        return cel.compile(text)
    except ValueError as error:
        line = next((s for s in str(error).splitlines() if "ERROR" in s), str(error))
        raise ExpressionError(
            f"不是 CEL 表达式 / is not a CEL expression: {line.partition('ERROR: ')[2][:160]}"
        ) from error


def _sort(name: str) -> tuple[str, str]:
    dictionary = load_properties()
    if name in dictionary:
        return "values", name
    for suffix, kind in ((_AGE, "ages"), (_FLAG, "flags")):
        if name.endswith(suffix) and name.removesuffix(suffix) in dictionary:
            return kind, name.removesuffix(suffix)
    if name.startswith(_STATION) and name.removeprefix(_STATION) in FACTS:
        return "facts", name.removeprefix(_STATION)
    if name.startswith(_ATTRIBUTE):
        return "attributes", name.removeprefix(_ATTRIBUTE)
    known = [*dictionary.keys(), *(f"{_STATION}{fact}" for fact in FACTS)]
    raise ExpressionError(
        f"没有此名 / {name[:60]!r} is not known{nearest(name, known)}; known are property keys, KEY_age, KEY_flag, "
        f"attribute_NAME, {', '.join(known[-len(FACTS) :])}"
    )


def facts_of(expression: Expression, station: Station) -> dict[str, Any] | None:
    """Return what an expression is told of a station, by full name; None when it lacks an attribute.

    Numbers are doubles: an attribute of 5 compares like one of 5.0.
    """
    out: dict[str, Any] = {f"{_STATION}{fact}": getattr(station, fact) or "" for fact in expression.facts}
    for name in expression.attributes:
        value = station.attributes.get(name)
        if value is None:
            return None
        out[f"{_ATTRIBUTE}{name}"] = float(value) if type(value) is int else value
    return out


def fault(text: str, expression: Expression, facts: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the types in an expression, "中文 / English"; None when nothing is.

    Args:
        text: of the expression.
        expression: compiled from it.
        facts: of a station that it is for.
    """
    readings = {
        **dict.fromkeys(expression.values, 1.0),
        **{f"{key}{_AGE}": 1.0 for key in expression.ages},
        **{f"{key}{_FLAG}": 1.0 for key in expression.flags},
    }
    values = {**readings, **facts}
    for part in _conditions(text):
        try:
            result = _program(part).execute(values)
            sides = [_program(side).execute(values) for side in _split(part, {"==", "!="})]
        except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
            said = str(error).partition(". CEL")[0][:160]
            return f"类型不符 / {part.strip()[:80]!r}: {said}; numbers are written with a point, 2.0"
        if not isinstance(result, bool):
            return f"须为条件 / {part.strip()[:80]!r} is neither true nor false"
        if len({_type(side) for side in sides}) > 1:
            return f"类型不符 / {part.strip()[:80]!r} compares what is never equal"
    return None


def _type(value: object) -> type:
    return float if type(value) is int else type(value)


def _conditions(text: str) -> Iterator[str]:
    """Yield each part that is true or false, also those inside brackets, so that nothing hides behind && and ||."""
    parts = _split(text, {"&&", "||"})
    for part in parts:
        inner = part.strip()
        while inner.startswith("!"):
            inner = inner[1:].strip()
        if inner.startswith("(") and len(_split(inner, set(_CLOSE))) == 2 and inner.endswith(")"):
            yield from _conditions(inner[1:-1])
        else:
            yield part


def _split(text: str, marks: set[str]) -> list[str]:
    """Cut a text at marks that stand outside all brackets; a bracket that closes to the outside stands outside."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth -= token in _CLOSE
        if token in marks and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
        depth += token in _OPEN
    return parts
