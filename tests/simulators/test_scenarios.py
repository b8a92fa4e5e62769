"""Stories with a known end: the shipped rules raise what they must at the right hours, and nothing else.

Flags and figures that come of a story are held against its truth as well; every comparison is shown to fail on a truth
that is wrong.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.catalogue_model import Content
from qingtu.clock import HOUR, MINUTE
from qingtu.settings import Settings
from simulators import scenarios
from simulators.rehearsal import rehearse, start_of
from simulators.scenarios import SCENARIOS, Effect, ExpectedFigure, ExpectedFlag, Scenario, Staged, Story
from simulators.world import World
from tests.cli.conftest import inside

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


@cache
def demonstration() -> Catalogue:
    """The catalogue that ships."""
    return load_catalogue(ROOT / "stations")


def changed(rule: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Catalogue:
    """The same with other rules: what the function returns for each, None leaves it out."""
    content = json.loads(demonstration().to_json())["content"]
    del content["dictionary"]
    content["rules"] = [new for old in content["rules"] if (new := rule(old)) is not None]
    return Catalogue(Content.model_validate(content))


def told_otherwise(key: str, **change: Any) -> Scenario:
    """A scenario with another truth: some fields of its story are replaced."""
    scenario = SCENARIOS[key]

    def tell(catalogue: Catalogue) -> Story:
        return replace(scenario.tell(catalogue), **change)

    return replace(scenario, tell=tell)


@pytest.mark.parametrize("key", sorted(SCENARIOS))
def test_what_must_comes_of_a_story_and_nothing_else(key: str) -> None:
    """With the shipped catalogue no alert is missed or false, no reading is flagged, and figures are right."""
    found = rehearse(SCENARIOS[key], demonstration(), Settings(), seed=1)
    assert found.missed == []
    assert found.false == []
    assert found.flags_missed == []
    assert found.flags_false == []
    assert [one for one in found.figures if one.verdict != "expected"] == []
    assert found.right
    assert found.readings > 300


def test_only_alerts_that_a_story_names_are_expected() -> None:
    """Every rule that speaks of a fire is named; one that is not is false, though its place and time fit."""
    story = SCENARIOS["community-fire"].tell(demonstration())
    kept = tuple(one for one in story.expected if one.rule != "community-fire")
    found = rehearse(told_otherwise("community-fire", expected=kept), demonstration(), Settings())
    assert found.missed == []
    assert [(one.rule, one.station) for one in found.false] == [("community-fire", story.stations[0])]
    assert not found.right


def test_an_alert_outside_its_hours_is_false_and_missed() -> None:
    """The right rule at the right station does not excuse the wrong time."""
    story = SCENARIOS["radiation-dry"].tell(demonstration())
    later = tuple(replace(one, from_h=one.from_h + 3, to_h=one.to_h + 3) for one in story.expected)
    found = rehearse(told_otherwise("radiation-dry", expected=later), demonstration(), Settings())
    assert {one.rule for one in found.missed} == {one.rule for one in found.false} == {one.rule for one in later}


def test_a_figure_that_is_not_as_it_must_be_is_told() -> None:
    """Outside its bounds or of another class it is wrong; absent, or not valid, it is missed; unwanted, it is wrong."""
    watch = SCENARIOS["green-tide"].tell(demonstration()).stations[0]
    figure = ExpectedFigure(watch, "green_tide_warning", "hour_index", 12.0)
    area = replace(figure, property="green_tide_distribution", what="hour")
    truth = (
        figure, replace(figure, level=3), replace(figure, low=2.0, high=2.0), replace(figure, high=1.0),
        replace(area, low=2500.0, high=2800.0), replace(area, low=2800.0), replace(figure, holds=False),
        replace(figure, at_h=60.0), replace(figure, at_h=60.0, holds=False),
    )  # fmt: skip
    found = rehearse(told_otherwise("green-tide", figures=truth), demonstration(), Settings())
    assert [one.verdict for one in found.figures] == [
        "expected", "wrong", "expected", "wrong", "expected", "wrong", "wrong", "missed", "expected",
    ]  # fmt: skip
    assert [(one.value, one.level, one.reason) for one in found.figures[::7]] == [(2.0, 2, ""), (None, None, "absent")]
    assert not found.right


def test_thresholds_of_a_station_change_the_level_of_its_figures() -> None:
    """A catalogue with other numbers raises nothing, and both its alert and its index are told."""
    content = json.loads(demonstration().to_json())["content"]
    del content["dictionary"]
    for block in content["stations"]:
        if "red_tide_kind" in block["attributes"]:
            block["attributes"] |= {"red_tide_blue_km2": 50}
    found = rehearse(SCENARIOS["red-tide"], Catalogue(Content.model_validate(content)), Settings())
    assert [one.rule for one in found.missed] == ["red-tide"]
    assert found.false == []
    assert {one.wanted.property for one in found.figures if one.verdict == "wrong"} == {"red_tide_warning"}


def test_a_flag_that_is_not_expected_is_false_and_one_that_is_must_come() -> None:
    """A rate that a sensor cannot have is found; a story that does not say so is not right, and the other way round."""
    station = SCENARIOS["radiation-dry"].tell(demonstration()).stations[0]
    leap = Effect(station, "gamma_dose_rate", 190.0, 4.0, rise_h=0.0, hold_h=1 / 12, fall_h=0.0, added=True)
    wanted = ExpectedFlag(station, "gamma_dose_rate", "spike", 3.9, 4.2)
    silent = told_otherwise("radiation-dry", effects=(leap,), expected=(), figures=())
    found = rehearse(silent, demonstration(), Settings())
    assert {(one.station, one.property, one.check) for one in found.flags_false} == {
        (station, "gamma_dose_rate", "spike")
    }
    assert not found.right
    said = told_otherwise("radiation-dry", effects=(leap,), expected=(), figures=(), flags=(wanted,))
    assert rehearse(said, demonstration(), Settings()).right
    calm = told_otherwise("radiation-dry", effects=(), expected=(), figures=(), flags=(wanted,))
    found = rehearse(calm, demonstration(), Settings())
    assert found.flags_missed == [wanted]
    assert not found.right


def test_another_seed_tells_the_same_story() -> None:
    """What must come hangs on the story, not on the noise under it."""
    for seed in (2, 3):
        assert rehearse(SCENARIOS["community-fire"], demonstration(), Settings(), seed=seed).right


def test_same_seed_same_judgement() -> None:
    """A rehearsal is a pure function."""
    one, two = (rehearse(SCENARIOS["radiation-dry"], demonstration(), Settings(), seed=4) for _ in range(2))
    assert one == two


def test_a_rule_that_is_gone_is_missed() -> None:
    """The judge sees what is not raised."""
    without = changed(lambda rule: None if rule["id"] == "radiation-gamma" else rule)
    found = rehearse(SCENARIOS["radiation-dry"], without, Settings())
    assert [(one.rule, one.level) for one in found.missed] == [("radiation-gamma", 2)]
    assert not found.right


def test_a_level_that_is_too_high_or_too_late_is_missed() -> None:
    """It must be reached in time, and as high as the story goes."""
    dear = changed(lambda r: r | {"levels": {"yellow": 400}} if r["id"] == "radiation-gamma" else r)
    assert rehearse(SCENARIOS["radiation-dry"], dear, Settings()).missed
    slow = changed(lambda r: r | {"hold_s": 7200.0} if r["id"] == "radiation-gamma" else r)
    assert rehearse(SCENARIOS["radiation-dry"], slow, Settings()).missed


def test_a_level_higher_or_lower_than_the_story_goes_is_missed() -> None:
    """A level that is too low on paper hides a rule that exaggerates; only a story that says so may leave it open."""
    keen = changed(lambda r: r | {"levels": {"yellow": 150, "orange": 200}} if r["id"] == "radiation-gamma" else r)
    found = rehearse(SCENARIOS["radiation-dry"], keen, Settings())
    assert [(one.rule, one.level) for one in found.missed] == [("radiation-gamma", 2)]
    assert [one.level for one in found.raised if one.rule == "radiation-gamma"] == [3]
    assert (found.false, found.right) == ([], False)
    story = SCENARIOS["radiation-dry"].tell(demonstration())
    for level in (1, 3):
        other = tuple(replace(one, level=level) if one.rule == "radiation-gamma" else one for one in story.expected)
        told = told_otherwise("radiation-dry", expected=other)
        assert not rehearse(told, demonstration(), Settings()).right, level


def test_noise_is_as_loud_as_the_zone_of_the_homes_makes_it() -> None:
    """74 dB at the homes are orange in zone 2, yellow in zone 3: the story says what the rules must say of each."""
    expected = []
    for zone in ("1", "2", "3", "4a"):
        content = json.loads(demonstration().to_json())["content"]
        del content["dictionary"]
        for block in content["stations"]:
            if block.get("noise_class"):
                block["noise_class"] = zone
        story = SCENARIOS["night-noise"].tell(Catalogue(Content.model_validate(content)))
        expected += [(one.rule, one.level) for one in story.expected if one.rule.startswith("noise-")]
    assert expected == [("noise-1", 4), ("noise-2", 3), ("noise-3", 2), ("noise-4", 1)]


def test_a_rule_that_calls_for_rain_is_false() -> None:
    """A limit just above the background alarms when it rains."""
    keen = changed(lambda r: r | {"levels": {"yellow": 85}, "hysteresis": 1} if r["id"] == "radiation-gamma" else r)
    found = rehearse(SCENARIOS["radiation-rain"], keen, Settings())
    assert {one.rule for one in found.false} == {"radiation-gamma"}


def test_an_effect_reaches_its_target_and_goes_away() -> None:
    """Before and after it the values are those of the undisturbed city, in between those of the story."""
    effect = Effect("S", "p", 50.0, from_h=2, rise_h=1, hold_h=2, fall_h=1)
    staged = Staged(Story(8.0, ("S",), (effect,)), 0, seed=1)
    times = np.arange(0, 8 * HOUR, MINUTE)
    plain = np.full(len(times), 10.0)
    values = staged.values("S", "p", times, plain)
    assert (values[times < 2 * HOUR] == 10).all()
    assert (values[times > 6 * HOUR] == 10).all()
    held = values[(times >= 3 * HOUR) & (times <= 5 * HOUR)]
    assert np.abs(held - 50).max() < 50 * 0.04
    assert len(np.unique(held)) > 60  # a sensor that still moves
    assert np.abs(np.diff(values)).max() < 3
    assert staged.values("S", "other", times, plain) is plain


def test_a_story_cut_anywhere_is_the_same() -> None:
    """The messages of a range are those of its parts."""
    scenario = SCENARIOS["gateway-failure"]
    start = start_of(scenario)
    staged = Staged(scenario.tell(demonstration()), start, 1)
    whole = [m.payload for m in World(demonstration(), 1, staged=staged).messages(start, staged.end_us)]
    cut = start + 3 * HOUR + 17 * MINUTE
    world = World(demonstration(), 1, staged=staged)
    assert whole == [m.payload for a, b in ((start, cut), (cut, staged.end_us)) for m in world.messages(a, b)]
    quiet = [m for m in world.messages(start + 3 * HOUR, start + 4 * HOUR) if "noise" in m.topic]
    assert quiet == []


def test_every_scenario_stands_on_the_page_and_in_a_file() -> None:
    """Table, docs and command agree."""
    page = (ROOT / "docs" / "simulators.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)) >= set(SCENARIOS)
    assert {one.tell.__module__.rpartition(".")[2] for one in SCENARIOS.values()} == {
        path.stem for path in Path(scenarios.__file__).parent.glob("*.py")
    } - {"__init__", "scenario"}


def test_a_catalogue_that_cannot_tell_it_says_so(tmp_path: Path) -> None:
    """Which stations are missing; the exit code is that of what there is not."""
    (tmp_path / "one.yaml").write_text(
        "networks: [{id: n, zh: 网, en: N}]\nstations:\n  - {id: S, zh: 站, en: S, network: n, domain: air, kind: air, "
        "position: [120.3, 36.1], devices: [{id: s, properties: [pm25]}]}\n",
        encoding="utf-8",
    )
    ran = inside("scenario", "radiation-dry", "--catalogue", tmp_path)
    assert ran.code == 4
    assert "radiation with gamma_dose_rate, rainfall" in ran.err


def test_the_command_shows_the_judgement() -> None:
    """A table for people, JSON for programs, exit code 0 when all is right."""
    ran = inside("scenario", "radiation-dry")
    assert ran.code == 0
    assert "符合 as it must be" in ran.out
    assert "radiation-gamma" in ran.out
    assert "hour_index gamma_excess" in ran.out
    told = json.loads(inside("scenario", "radiation-dry", "--json").out)["radiation-dry"]
    assert [(one["wanted"]["property"], one["verdict"]) for one in told["figures"]] == [("gamma_excess", "expected")]
    assert inside("scenario", "nope").code == 4
    assert "pm25-episode" in inside("scenario").out
