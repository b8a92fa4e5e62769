"""The worked examples of docs/aggregates.md, and that page, table and dictionary agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from processors.aggregates import KINDS
from processors.aggregates.rules import READINGS, load_rules
from qingtu.clock import DAY, HOUR, SECOND
from qingtu.properties import load_properties
from tests.aggregates.support import feed, figures, one_station, opened, said, tick_at

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = (Path(__file__).parents[2] / "docs/aggregates.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml example\n(.*?)```", PAGE, re.DOTALL)]
START = 1_795_276_800_000_000  # 2026-11-22T00:00+08:00, an hour that is full


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example["property"]))
def test_example(tmp_path: Path, example: Mapping[str, Any]) -> None:
    """One hour of the values gives the figure that the page shows."""
    prop, every_s = example["property"], example["every_s"]
    speed = load_rules().speed_of.get(prop)
    made = one_station("Asia/Shanghai", every_s, [prop] + ([speed] if speed else []))
    rows = []
    for i, value in enumerate(example["values"]):
        values = {prop: value} | ({speed: example["speeds"][i]} if speed else {})
        rows.append(said(START + i * every_s * SECOND, values))
    pipeline = opened(tmp_path, made, START)
    feed(pipeline, [*rows, tick_at(START + DAY // 2)])
    row = figures(pipeline)["hour", prop, START]
    wanted = example["hour"]
    assert {name: row[name] for name in ("count", "expected", "valid", "reason")} == {
        name: wanted[name] for name in ("count", "expected", "valid", "reason")
    }
    assert row["value"] == pytest.approx(wanted["value"], abs=1e-3)
    if "stats" in wanted:
        assert row["inputs"]["stats"] == pytest.approx(wanted["stats"], abs=1e-3)
    pipeline.close()


def test_every_kind_has_an_example_and_every_kind_of_the_dictionary_is_known() -> None:
    """A kind that is added gets a section with an example that runs."""
    assert {load_properties()[example["property"]].agg for example in EXAMPLES} == set(KINDS)
    assert set(KINDS) <= set(re.findall(r"^### (.+)$", PAGE, re.MULTILINE))
    assert {prop.agg for prop in load_properties()} == {*KINDS, "none"}


def test_what_the_rules_name_is_there() -> None:
    """Properties of the dictionary, levels below their own, and a validity rule for all."""
    rules, known = load_rules(), load_properties()
    names = [level.name for level in rules.levels]
    for i, level in enumerate(rules.levels):
        assert level.below == READINGS or names.index(level.below) < i
        assert all(key in known for key in level.properties)
        assert all(rules.needed(prop.key, level.name, 4) > 0 for prop in known)
        assert f"`{level.name}`" in PAGE
    for direction, speed in rules.speed_of.items():
        assert (known[direction].agg, known[speed].domain) == ("circular", known[direction].domain)
    assert all(known[key].agg == "energy" for key in rules.day_night)
    assert HOUR <= rules.lookback_us <= DAY
    assert rules.needed("pm25", "month", 28, february=True) == 25
