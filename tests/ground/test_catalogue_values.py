"""Values that YAML or Python would take, or stumble over, and a catalogue refuses with their place."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from qingtu.catalogue import load_catalogue
from qingtu.catalogue_model import Content
from qingtu.catalogue_words import leaves
from qingtu.errors import Problem
from tests.ground import support

STATION = """\
networks: [{id: n, zh: 网, en: Net}]
stations:
  - id: A
    zh: 甲
    en: A
    network: n
    domain: air
    kind: air
    position: [120.3, 36.1]
    devices: [{id: a, properties: [pm25]}]
"""
LINE = 1 + STATION.count("\n")


def problems(folder: Path, text: str) -> list[Problem]:
    """Return what is wrong with a catalogue of this file; each is told in both languages."""
    found = support.problems(folder, text)
    assert [str(p) for p in found if not re.search(r"[\u4e00-\u9fff].* / .*[a-z]", p.message)] == []
    return found


@pytest.mark.parametrize(
    ("written", "key", "value", "says"),
    [
        ("street: 2026-13-45", "street", "2026-13-45", "a date or time, and there is no such"),
        ("maintenance: [{start: 2026-02-30T08:00:00+08:00, end: '2026-03-01T00:00:00Z'}]", "maintenance[0].start",
         "2026-02-30T08:00:00+08:00", "a date or time, and there is no such"),
        ("datum: 2026-01-01T00:00:00+99:00", "datum", "2026-01-01T00:00:00+99:00", "a date or time"),
        ("interval_s: 0x_", "interval_s", "0x_", "as a number, and is none: correct it, or write it in quotes"),
        ("datum: !!int abc", "datum", "abc", "as a number, and is none"),
        ("datum: !!float ''", "datum", "", "as a number, and is none"),
        ("datum: !!bool maybe", "datum", "maybe", "does not fit its YAML tag"),
        ("datum: !!timestamp soon", "datum", "soon", "a date or time, and there is no such"),
        ("datum: !own x", "datum", "x", "does not fit its YAML tag"),
        ("datum: =", "datum", "=", "write it in quotes"),
        ("datum: !!binary /w==", "datum", r"b'\xff'", "must be UTF-8 text"),
        ("attributes: {serial: 99999999999999999999999}", "attributes.serial", "99999999999999999999999",
         "from -9223372036854775808 to 18446744073709551615: write it in quotes if it is an identifier"),
        ("attributes: {serial: -9223372036854775809}", "attributes.serial", "-9223372036854775809", "whole numbers"),
        (f"interval_s: {'1' * 5000}", "interval_s", "1" * 79 + "…", "as a number, and is none"),
        (f"interval_s: 0x{'f' * 5000}", "interval_s", "0x" + "f" * 77 + "…", "whole numbers must be from"),
        ("limits: &a {pm25: *a}", "limits.pm25", "", "an anchor that stands inside itself"),
        ("devices: &d [*d]", "devices[0]", "", "an anchor that stands inside itself"),
    ],
)  # fmt: skip
def test_what_has_no_value_is_told_with_its_place(
    tmp_path: Path, written: str, key: str, value: str, says: str
) -> None:
    """Never an exception of the YAML library, and once: what the model would say of the text is left out."""
    text = STATION.replace("    devices: [{id: a, properties: [pm25]}]\n", "") if written[:3] == "dev" else STATION
    [problem] = problems(tmp_path, f"{text}    {written}\n")
    assert (problem.file, problem.line) == (str(tmp_path / "c.yaml"), 1 + text.count("\n"))
    assert (problem.key, problem.value) == (f"stations[0].{key}", value)
    assert says in problem.message


def test_a_key_without_a_value_is_told(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, f"{STATION}    attributes: {{0x_: 3}}\n")
    assert (problem.line, problem.key, problem.value) == (LINE, "stations[0].attributes.0x_", "0x_")


def test_what_has_no_value_hides_nothing(tmp_path: Path) -> None:
    """The other faults of its block, its file and between blocks stand beside it; an anchor's text is told once."""
    text = STATION.replace("network: n", "network: m").replace("zh: 甲", "zh: &z 2026-13-45")
    rules = "rules: [{id: r, zh: *z, en: R, kind: silence, after_s: 0b_}, {id: r, zh: 规, en: R, kind: silenc}]\n"
    found = problems(tmp_path, f"{text}    noise_class: 9\n{rules}")
    assert [(p.line, p.key) for p in found] == [
        (4, "stations[0].zh"), (6, "stations[0].network"), (LINE, "stations[0].noise_class"),
        (LINE + 1, "rules[0].after_s"), (LINE + 1, "rules[1].kind"), (LINE + 1, "rules[1].id"),
    ]  # fmt: skip


@pytest.mark.parametrize("deep", [65, 3_000, 100_000])
def test_a_file_that_nests_without_end_is_told(tmp_path: Path, deep: int) -> None:
    """PyYAML calls itself for each level: it raises RecursionError at some thousands, and beyond kills the process."""
    [problem] = problems(tmp_path, f"{STATION}    attributes: {'[' * deep}{']' * deep}\n")
    assert (problem.line, problem.key) == (LINE, "file")
    assert "nests deeper than 64 levels" in problem.message


def test_the_largest_whole_numbers_are_right(tmp_path: Path) -> None:
    """They are what the archive can hold, and are read again as they were."""
    (tmp_path / "c.yaml").write_text(f"{STATION}    attributes: {{a: {2**64 - 1}, b: {-(2**63)}}}\n", encoding="utf-8")
    found = load_catalogue(tmp_path)
    again = type(found).from_json(found.to_json())
    assert again.stations["A"].attributes == {"a": 2**64 - 1, "b": -(2**63)}
    assert again.version == found.version


def _numbers(model: type[BaseModel], around: tuple[type[BaseModel], ...] = ()) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield every field of a catalogue block, and of the blocks in it, that holds numbers."""
    for name, spec in model.model_fields.items():
        parts = list(leaves(spec.annotation))
        if float in parts or int in parts:
            yield model, name
        for leaf in parts:
            if isinstance(leaf, type) and issubclass(leaf, BaseModel) and leaf not in around:
                yield from _numbers(leaf, (*around, leaf))


def _filled(annotation: object, number: object) -> Any:
    """Return the number in the shape that a field wants: alone, in a list, in a mapping."""
    args = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _filled(args[0], number)
    if get_origin(annotation) is tuple:
        return [_filled(arg, number) for arg in args if arg is not ...]
    if get_origin(annotation) is dict:
        key = next((one for one in leaves(args[0]) if isinstance(one, str)), "x")
        return {key: _filled(args[1], number)}
    return next((_filled(arg, number) for arg in args if arg is not type(None)), number)


_NUMBERS = sorted({(model, name) for model, name in _numbers(Content)}, key=str)
_ENDLESS = [
    (model, name, number)
    for model, name in _NUMBERS
    for number in (math.nan, math.inf, -math.inf, "nan", "1e999")
    if isinstance(number, float) or name != "attributes"  # where text is right
]


@pytest.mark.parametrize(("model", "name", "number"), _ENDLESS, ids=str)
def test_no_number_of_a_catalogue_is_without_end(model: type[BaseModel], name: str, number: object) -> None:
    """JSON has no such number: the archive of the version would hold null there and could never be read again."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate({name: _filled(model.model_fields[name].annotation, number)})
    assert name in {detail["loc"][0] for detail in caught.value.errors()}


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("attributes: {height_m: %s}", "attributes.height_m"),
        ("interval_s: %s", "interval_s"),
        ("relations: {particle_sizes: {floor: %s}}", "relations.particle_sizes.floor"),
        ("limits: {pm25: {spike: {suspect: %s}}}", "limits.pm25.spike.suspect"),
    ],
)
def test_a_number_without_end_is_told_with_its_place(tmp_path: Path, written: str, key: str, number: str) -> None:
    [problem] = problems(tmp_path, f"{STATION}    {written % number}\n")
    assert (problem.line, problem.key, problem.value) == (LINE, f"stations[0].{key}", number.replace(".", ""))
    assert "must be a finite number" in problem.message


_TRUE = sorted({(model, name) for model, name in _numbers(Content) if name != "attributes"}, key=str)


@pytest.mark.parametrize(("model", "name"), _TRUE, ids=str)
@pytest.mark.parametrize("flag", [True, False])
def test_a_truth_value_is_no_number(model: type[BaseModel], name: str, flag: bool) -> None:
    """Pydantic takes true for 1, so that `yes` would be an interval of one second."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate({name: _filled(model.model_fields[name].annotation, flag)})
    said = {detail["type"] for detail in caught.value.errors() if detail["loc"][0] == name}
    assert said & {"float_parsing", "int_parsing", "bad_position"}, caught.value.errors()


@pytest.mark.parametrize(
    ("written", "key", "value", "says"),
    [
        ("interval_s: yes", "interval_s", "true", "must be a number; YAML reads yes, no, on and off as true"),
        ("day_hours: [off, 22]", "day_hours[0]", "false", "must be a whole number; YAML reads yes, no, on"),
        ("limits: {pm25: {range: [no, 5]}}", "limits.pm25.range[0]", "false", "must be a number; YAML reads"),
        ("limits: {pm25: {climatology: [{months: yes, suspect: [1, 2]}]}}", "limits.pm25.climatology[0].months",
         "true", "must be a list"),
    ],
)  # fmt: skip
def test_a_truth_value_for_a_number_is_told(tmp_path: Path, written: str, key: str, value: str, says: str) -> None:
    [problem] = problems(tmp_path, f"{STATION}    {written}\n")
    assert (problem.line, problem.key, problem.value) == (LINE, f"stations[0].{key}", value)
    assert says in problem.message


def test_truth_values_of_levels_and_positions_are_told_each(tmp_path: Path) -> None:
    rules = "rules: [{id: r, zh: 规, en: R, kind: threshold, property: pm25, levels: {blue: on, red: off}}]\n"
    found = problems(tmp_path, STATION.replace("[120.3, 36.1]", "[true, false]") + rules)
    assert [(p.line, p.key, p.value) for p in found] == [
        (9, "stations[0].position", "[true, false]"),
        (LINE, "rules[0].levels.blue", "true"), (LINE, "rules[0].levels.red", "false"),
    ]  # fmt: skip


def test_attributes_may_be_truth_values(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"{STATION}    attributes: {{shore: yes, floors: 1}}\n", encoding="utf-8")
    assert load_catalogue(tmp_path).stations["A"].attributes == {"shore": True, "floors": 1}


def test_the_number_of_a_class_is_its_word(tmp_path: Path) -> None:
    """`2` and `"2"` are one catalogue: nothing else could be meant, and both stand in the standards."""
    found = []
    for mark in ("", '"'):
        word, noise = f"{mark}3{mark}", f"{mark}2{mark}"
        rule = f"kind: silence, after_s: 60, where: {{water_class: {word}, noise_class: [{noise}, 4a]}}"
        text = (
            f"{STATION}    water_class: {word}\n    noise_class: {noise}\nrules: [{{id: r, zh: 规, en: R, {rule}}}]\n"
        )
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        found.append(load_catalogue(tmp_path))
    bare, quoted = found
    assert (bare.stations["A"].water_class, bare.stations["A"].noise_class) == ("3", "2")
    assert [rule.id for rule in bare.rules_for("A")] == ["r"]
    assert bare.version == quoted.version


@pytest.mark.parametrize("value", ["7", "true", "2.0"])
def test_what_is_no_class_is_told(tmp_path: Path, value: str) -> None:
    [problem] = problems(tmp_path, f"{STATION}    noise_class: {value}\n")
    assert (problem.line, problem.key, problem.value) == (LINE, "stations[0].noise_class", value)
    assert "must be one of 0, 1, 2, 3, 4a, 4b" in problem.message


def test_a_key_that_is_no_text_is_told(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, f"{STATION}    ~: 1\n")
    assert (problem.line, problem.key) == (3, "stations[0].None")
    assert problem.message == "键须为文本, 加引号 / keys must be text: put it in quotes"
