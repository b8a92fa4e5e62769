"""``qingtu rules try`` as a command: a table for people, JSON for programs, a wrong file told with its line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from qingtu.commands.rules import rules_app
from qingtu.errors import ConfigError
from tests.process.support import reading
from tests.test_replay import Scene

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

EVER = "40000d"  # whatever the year in which the test runs


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """One alert of rule `dust` on station A."""
    made = Scene(tmp_path / "scene")
    made.live([reading("a", 600 * n, dust=value) for n, value in enumerate((10, 80, 80, 10, 10))])
    return made


def run(scene: Scene, levels: str, *words: str) -> Result:
    """Try another `dust` on the scene's folders."""
    file = scene.folder / "changed.yaml"
    rule = f"{{id: dust, kind: threshold, zh: 尘, en: D, property: pm25, levels: {levels}}}"
    file.write_text(f"rules: [{rule}]\n", encoding="utf-8")
    folders = ["--data", str(scene.settings.data), "--catalogue", str(scene.settings.catalogue)]
    return CliRunner().invoke(rules_app, ["try", str(file), "--since", EVER, *folders, *words], env={"COLUMNS": "300"})


def test_table_and_sum(scene: Scene) -> None:
    """Each alert that vanishes is a row; the last line has the sums."""
    done = run(scene, "{blue: 100}")
    assert done.exit_code == 0, done.output
    assert "消失 vanishes" in done.output
    assert "新增 appear 0 · 消失 vanish 1 · 变化 move 0 · 不变 same 0" in done.output


def test_json(scene: Scene) -> None:
    """The same as data, on standard output alone."""
    done = run(scene, "{blue: 50, yellow: 75}", "--json")
    found = json.loads(done.stdout)
    assert [(pair["now"]["level"], pair["then"]["level"]) for pair in found["move"]] == [(1, 2)]
    assert (found["appear"], found["vanish"], found["same"]) == ([], [], 0)


def test_a_wrong_rule_is_told(scene: Scene) -> None:
    """Nothing is run; the problem names file and line."""
    done = run(scene, "{purple: 1}")
    assert isinstance(done.exception, ConfigError)
    assert [p.line for p in done.exception.problems] == [1]
