"""``qingtu replay`` as a command: generation, diff, promote, list, drop; for people and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from qingtu.app import Options
from qingtu.commands.host import Host
from qingtu.commands.replay import replay
from qingtu.errors import NotFound, StartError
from tests.process.support import tick
from tests.test_replay import Scene, hours, merged

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

FROM, TO = "2026-11-23T00:00:00Z", "2026-11-23T04:00:00Z"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A history of a device whose unit is wrong in the catalogue, and the catalogue mended."""
    made = Scene(tmp_path / "scene")
    made.live(merged(hours("a", "dust", 12), [tick(30_000)]))
    made.write(unit="mg/m3")
    return made


def run(scene: Scene, *words: str) -> Result:
    """Run the command on the scene's folders."""
    app = typer.Typer()
    app.command()(replay)
    environ = {"QINGTU_BUS__FREE_FLOOR_MB": "1", "COLUMNS": "300"}
    places = ["--data", str(scene.folder / "data"), "--catalogue", str(scene.folder / "stations")]
    return CliRunner().invoke(app, [*words, *places], env=environ)


def answer(scene: Scene, *words: str) -> Any:
    """Run it with --json; it must succeed."""
    done = run(scene, *words, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_the_way_of_an_operator(scene: Scene) -> None:
    """Make, look, publish, look again."""
    made = answer(scene, "fix", "--from", FROM, "--to", TO, "--diff")
    assert made["generation"]["name"] == "fix"
    assert made["generation"]["messages"] == 12
    assert made["diff"]["readings"] == {"new": 0, "changed": 12, "withdrawn": 0}
    assert len(made["diff"]["changes"]) == 12
    assert len(answer(scene, "--diff", "--limit", "3")["diff"]["changes"]) == 3
    done = answer(scene, "--promote")
    assert done["promoted"]["readings"] == made["diff"]["readings"]
    assert done["promoted"]["ledger"]["balanced"]
    assert answer(scene, "--diff")["diff"]["empty"]
    again = answer(scene, "--promote")["promoted"]
    assert (again["empty"], again["swapped"]) == (True, False)
    listed = answer(scene, "--list")
    assert [(g["name"], g["promoted_us"] is not None) for g in listed] == [("fix", True)]


def test_for_people(scene: Scene) -> None:
    """Tables and sentences in both languages."""
    shown = run(scene, "fix", "--from", FROM, "--diff", "--promote").stdout
    for words in ("回放 generation fix", "改变 changed", "已发布 / promoted: fix", "/fix/before.duckdb"):
        assert words in shown
    again = run(scene, "--promote").stdout
    assert "现用数据不变 / not swapped, the live store stays as it is: fix" in again
    assert "promoted:" not in again
    assert "没有差异 / nothing changes" in run(scene, "--diff").stdout
    assert "fix" in run(scene, "--list").stdout
    assert "dropped: fix" in run(scene, "fix", "--drop").stdout
    assert isinstance(run(scene, "fix", "--drop").exception, NotFound)


@pytest.mark.parametrize(
    "words",
    [(), ("--to", TO), ("--drop",), ("--from", "yesterday"), ("--list", "--diff"), ("g", "--drop", "--promote")],
)
def test_wrong_options_are_refused(scene: Scene, words: tuple[str, ...]) -> None:
    """With the options that are missing."""
    done = run(scene, *words)
    assert done.exit_code == 2
    assert not (scene.folder / "data" / "generations").exists()


def test_while_the_service_runs(scene: Scene) -> None:
    """A generation and its diff are had, from a back-up that is deleted again; a promote is refused."""
    before = scene.values()
    with Host(scene.settings.model_copy(update={"web": scene.settings.web.model_copy(update={"port": 0})}),
              Options(gateway=False)):  # fmt: skip
        made = answer(scene, "fix", "--from", FROM, "--to", TO, "--diff")
        assert made["diff"]["readings"]["changed"] == 12
        assert list((scene.folder / "data" / "backups").iterdir()) == []
        refused = run(scene, "--promote")
        assert isinstance(refused.exception, StartError)
    assert scene.values() == before
