"""``qingtu rules try``: what changed rules would have done with stored raw; the live store stays as it is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from qingtu.catalogue import load_catalogue
from qingtu.errors import ConfigError, NotFound
from qingtu.rules_try import changed_catalogue, try_rules
from tests.process.support import T0, reading
from tests.test_replay import Scene

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.rules_try import Tried

VALUES = (10, 80, 80, 10, 10, 60, 60, 10, 10, 100, 200, 300, 300)
"""Of A, every ten minutes: under `dust` (75, 250) an alert from 10 to 30 min, and one from 90 min on."""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A folder with the history of A under the rule `dust`."""
    made = Scene(tmp_path)
    made.live([reading("a", 600 * n, dust=value) for n, value in enumerate(VALUES)])
    return made


def tried(scene: Scene, rules: str, *, whole: bool = False) -> Tried:
    """Try rules over all of raw."""
    file = scene.folder / "changed.yaml"
    file.write_text(f"rules:\n{rules}", encoding="utf-8")
    folder = scene.settings.catalogue
    then = changed_catalogue(folder, file, whole=whole)
    return try_rules(scene.settings, load_catalogue(folder), then, T0 - 10**9)


def dust(levels: str, ident: str = "dust", more: str = "") -> str:
    """One threshold rule."""
    base = "kind: threshold, zh: 尘, en: D, property: pm25, hysteresis: 5"
    return f"  - {{id: {ident}, {base}, levels: {levels}{more}}}\n"


def test_the_same_rules_change_nothing_and_touch_nothing(scene: Scene) -> None:
    """All alerts stay as they are; no file of the data folder is another one afterwards."""
    files = sorted(p for p in scene.settings.data.rglob("*") if p.is_file() and p.suffix in {".db", ".duckdb"})
    before = [hashlib.sha256(p.read_bytes()).digest() for p in files]
    found = tried(scene, dust("{blue: 75, red: 250}"))
    assert (found.appear, found.vanish, found.move, found.same) == ([], [], [], 2)
    assert [hashlib.sha256(p.read_bytes()).digest() for p in files] == before


def test_what_appears_vanishes_and_moves_is_told(scene: Scene) -> None:
    """A lower limit adds an alert; a higher one takes one away and lowers the level of the other; a hold moves it."""
    lower = tried(scene, dust("{blue: 55, red: 250}"))
    assert [((a.opened_us - T0) // 60_000_000, a.level) for a in lower.appear] == [(50, 1)]
    assert (lower.vanish, lower.move, lower.same) == ([], [], 2)
    higher = tried(scene, dust("{blue: 100}"))
    assert [(a.opened_us - T0) // 60_000_000 for a in higher.vanish] == [10]
    assert [(was.level, now.level, was.id == now.id) for was, now in higher.move] == [(4, 1, True)]
    held = tried(scene, dust("{blue: 75, red: 250}", more=", hold_s: 600"))
    moved = [((was.opened_us - T0) // 60_000_000, (now.opened_us - T0) // 60_000_000) for was, now in held.move]
    assert moved == [(10, 20), (90, 100)]
    assert (held.appear, held.vanish) == ([], [])


def test_rules_that_the_file_lacks_stay_unless_it_has_all(scene: Scene) -> None:
    """A file with one new rule adds it; with --all the others are gone."""
    added = tried(scene, dust("{blue: 290}", ident="storm"))
    assert ([a.rule for a in added.appear], added.vanish, added.same) == (["storm"], [], 2)
    only = tried(scene, dust("{blue: 290}", ident="storm"), whole=True)
    assert ([a.rule for a in only.appear], [a.rule for a in only.vanish]) == (["storm"], ["dust", "dust"])


def test_a_wrong_file_is_told_with_its_line(scene: Scene) -> None:
    """Like a catalogue; and a span that raw does not hold is refused."""
    with pytest.raises(ConfigError) as caught:
        tried(scene, dust("{blue: 100, red: 50}"))
    [problem] = caught.value.problems
    assert (problem.file, problem.line) == (str(scene.folder / "changed.yaml"), 2)
    now = load_catalogue(scene.settings.catalogue)
    with pytest.raises(NotFound):
        try_rules(scene.settings, now, now, T0 + 10**12)
