"""docs/indices.md: its worked examples are true; table, folder, data files and page agree."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from processors.indices import INDICES
from processors.indices.run import evaluate
from processors.indices.tables import CONFIDENCE, table
from qingtu.catalogue_model import Station
from qingtu.clock import HOUR
from tests.indices.support import Figures, at, catalogue, station

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/indices.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml example\n(.*?)```", PAGE, re.DOTALL)]
HELPERS = {"__init__", "contract", "numbers", "tables", "run", "derived", "air", "water", "soil", "harmonics"}
DATA = sorted(path.stem for path in (ROOT / "processors/indices/data").glob("*.yaml"))


def rows_of(example: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Evaluate an example's station."""
    start = at(example.get("start", "2026-11-23"))
    figures = Figures()
    measures = set()
    for prop, value in example.get("figures", {}).items():
        measures.add(prop)
        figures.put(prop, example["what"], start, value)
    for level, props in example.get("before", {}).items():
        for prop, values in props.items():
            measures.add(prop)
            figures.hours(prop, start - (len(values) - 1) * HOUR, values, what=level)
    for level, props in example.get("within", {}).items():
        for prop, values in props.items():
            measures.add(prop)
            figures.hours(prop, start, values, what=level)
    block = station(measures=sorted(measures), **example.get("station", {}))
    return {row["key"][1]: row for row in evaluate(catalogue(block), "A", example["what"], start, figures.get())}


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["index"] for example in EXAMPLES])
def test_worked_examples_of_the_page_are_true(example: dict[str, Any]) -> None:
    """Each ``yaml example`` block gives what it shows."""
    row = rows_of(example)[example["index"]]
    for key, expected in example["gives"].items():
        found = row[key] if key in row else row["inputs"].get(key)
        if isinstance(expected, float):
            assert math.isclose(found, expected, abs_tol=5e-4), key
        else:
            assert found == expected or (expected == "none" and math.isnan(found)), key


def test_every_index_has_a_section_with_an_example() -> None:
    """No index without a worked example, no example or section without an index."""
    heads = set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE))
    assert heads == set(INDICES)
    assert {example["index"] for example in EXAMPLES} == set(INDICES)
    for key, index in INDICES.items():
        section = re.search(rf"^## {key}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
        assert section
        assert key == index.key
        assert index.zh in section[1]
        assert [name for name in index.attributes if f"`{name}`" not in section[1]] == []


def test_every_file_of_the_folder_is_in_the_table() -> None:
    """One file a standard; the rest are the helpers that the test names."""
    files = {path.stem for path in (ROOT / "processors/indices").glob("*.py")} - HELPERS
    assert files == {
        getattr(index.evaluate, "func", index.evaluate).__module__.rpartition(".")[2] for index in INDICES.values()
    }


def test_domains_exist() -> None:
    """An index for a domain that no station can have would never be evaluated."""
    allowed = set(Station.model_json_schema()["properties"]["domain"]["enum"])
    assert all(index.domains <= allowed for index in INDICES.values())


@pytest.mark.parametrize("name", DATA)
def test_every_data_file_says_where_its_numbers_are_from(name: str) -> None:
    """Each block with a confidence has a source, and the word is one of three; each file has one at least."""
    seen = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            assert ("confidence" in value) <= ("source" in value), value
            if "confidence" in value:
                seen.append(value["confidence"])
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(table(name))
    assert seen
    assert set(seen) <= set(CONFIDENCE)
    assert f"`{name}.yaml`" in PAGE
