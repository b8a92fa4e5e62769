"""Alerts on figures: told to the pass through raw, at least once, decided once."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from processors.alerts.facts import FACTS, Fact, Watched, read, told
from qingtu.clock import HOUR, SECOND
from qingtu.records import decode
from tests.process.support import T0, Result, catalogue, command, configure, drive, station

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.catalogue import Catalogue


def iso(at_s: float) -> str:
    """A time, seconds after :data:`T0`, as the catalogue writes it."""
    return datetime.fromtimestamp(T0 / SECOND + at_s, UTC).isoformat()


def one_rule(maintenance: Sequence[dict[str, str]] = (), **rule: Any) -> Catalogue:
    """A catalogue of station A with one rule on hours of pm25."""
    base = {"id": "r", "kind": "figure", "zh": "规", "en": "R", "what": "hour", "property": "pm25"}
    devices = [{"id": "a", "properties": ["pm25"]}]
    return catalogue([station("A", devices, maintenance=list(maintenance))], [base | rule])


def fact(hour: int, value: float | None, revision: int, *, valid: bool = True) -> Fact:
    """An hour of station A."""
    return Fact("A", "hour", "pm25", "main", T0 + hour * HOUR, value, valid, revision)


def tell(cat: Catalogue, groups: Sequence[Sequence[Fact]], restores: Sequence[int] = ()) -> Result:
    """Tell each group of facts with a command row in a frame of its own."""
    rows = [configure(0, cat.version)]
    rows += [command((i + 1) * 60, FACTS, "system", figures=[list(f) for f in group]) for i, group in enumerate(groups)]
    return drive(rows, [cat], range(1, len(rows)), restores)


def story(result: Result) -> list[tuple[str, int, float]]:
    """State, level and hour of each transition."""
    return [(row["state"], row["level"], row["time"] / HOUR) for row in result.alerts]


def test_opens_rises_falls_and_resolves() -> None:
    """Like a threshold: met exactly, hysteresis, one id all the way."""
    cat = one_rule(levels={"blue": 75, "red": 150}, hysteresis=5)
    values = [74, 75, 71, 150, 146, 144, 69]
    result = tell(cat, [[fact(h, v, 10 + h)] for h, v in enumerate(values)])
    assert story(result) == [("open", 1, 1), ("open", 4, 3), ("open", 1, 5), ("resolved", 0, 6)]
    assert len({row["alert"] for row in result.alerts}) == 1
    assert [row["value"] for row in result.alerts] == [75, 150, 144, 69]
    assert [row["limit"] for row in result.alerts] == [75, 150, 75, 75]
    assert [row["known_at"] / SECOND for row in result.alerts] == [120, 240, 360, 420]


def test_below() -> None:
    """Below mirrors above."""
    cat = one_rule(direction="below", levels={"blue": 5, "red": 2}, hysteresis=1)
    assert story(tell(cat, [[fact(h, v, h)] for h, v in enumerate([6, 5, 2, 5.5, 6.1])])) == [
        ("open", 1, 1), ("open", 4, 2), ("open", 1, 3), ("resolved", 0, 4),
    ]  # fmt: skip


def test_what_does_not_hold_counts_for_nothing() -> None:
    """An hour of too few readings, or of none, neither raises nor ends an alert."""
    cat = one_rule(levels={"blue": 75})
    groups = [[fact(0, 90, 1, valid=False)], [fact(1, 90, 2)], [fact(2, 10, 3, valid=False)], [fact(3, None, 4)]]
    assert story(tell(cat, groups)) == [("open", 1, 1)]


def test_withdrawn_when_the_opening_figure_is_corrected() -> None:
    """The correction takes back what had opened it; a correction that is still beyond the level does not."""
    cat = one_rule(levels={"blue": 75})
    result = tell(cat, [[fact(0, 90, 1)], [fact(0, 80, 2)], [fact(0, 60, 3)]])
    assert story(result) == [("open", 1, 0), ("withdrawn", 0, 0)]
    assert "corrected" in result.alerts[1]["evidence"]
    invalid = tell(cat, [[fact(0, 90, 1)], [fact(0, 90, 2, valid=False)]])
    assert story(invalid) == [("open", 1, 0), ("withdrawn", 0, 0)]


def test_a_correction_of_the_past_opens_nothing() -> None:
    """Late data change published figures; an hour that is over raises no alert afterwards."""
    cat = one_rule(levels={"blue": 75})
    assert story(tell(cat, [[fact(0, 10, 1), fact(1, 10, 1)], [fact(0, 200, 2)]])) == []


def test_told_again_changes_nothing() -> None:
    """Derive that was killed tells figures again, also those that were corrected since; restarts in between too."""
    cat = one_rule(levels={"blue": 75, "red": 150}, hysteresis=5)
    rng = random.Random(7)
    facts = [[fact(h, rng.uniform(50, 170), 2 * h)] for h in range(30)]
    facts += [[fact(h, rng.uniform(50, 170), 100 + h)] for h in (29, 3, 28)]
    once = tell(cat, facts)
    again: list[list[Fact]] = []
    for i, group in enumerate(facts):
        again.append(group)
        if i % 4 == 3:
            again += facts[max(0, i - 5) : i + 1]
    twice = tell(cat, again, restores=range(1, len(again), 3))

    def decided(result: Result) -> list[tuple[str, str, int, float]]:
        return [(row["alert"], row["state"], row["level"], row["value"]) for row in result.alerts]

    assert decided(once)
    assert decided(twice) == decided(once)


@pytest.mark.parametrize(
    ("from_s", "until_s", "told_s", "story_of_it"),
    [
        (600, 3000, 3660, []),  # forty minutes of the hour
        (600, 1200, 3660, [("open", 4, 0)]),  # ten: the figure holds
        (3630, 7200, 3660, []),  # now
        (3000, 3650, 3660, [("open", 4, 0)]),  # the last minutes, over by now
    ],
)
def test_a_figure_of_maintenance_opens_nothing(
    from_s: float, until_s: float, told_s: float, story_of_it: list[tuple[str, int, float]]
) -> None:
    """A figure is held when its station is under maintenance as it is told, or was for more than a quarter of it."""
    windows = [{"start": iso(from_s), "end": iso(until_s)}, {"start": iso(from_s), "end": iso(until_s)}]
    cat = one_rule(levels={"blue": 75, "red": 85}, maintenance=windows)
    rows = [configure(0, cat.version), command(told_s, FACTS, "system", figures=[list(fact(0, 90, 1))])]
    assert story(drive(rows, [cat], [1])) == story_of_it


def test_maintenance_lets_figures_fall_and_be_corrected() -> None:
    """What stands does not rise, but falls, ends and is withdrawn."""
    cat = one_rule(levels={"blue": 75, "red": 150}, maintenance=[{"start": iso(90), "end": iso(90_000)}])
    assert story(tell(cat, [[fact(0, 80, 1)], [fact(1, 160, 2)], [fact(2, 60, 3)], [fact(3, 90, 4)]])) == [
        ("open", 1, 0), ("resolved", 0, 2),
    ]  # fmt: skip
    assert story(tell(cat, [[fact(0, 80, 1)], [fact(0, 60, 2)]])) == [("open", 1, 0), ("withdrawn", 0, 0)]


def test_acknowledge_and_a_rule_that_goes() -> None:
    """Commands of persons reach these alerts as all others; a rule that leaves the catalogue resolves its alert."""
    cat = one_rule(levels={"blue": 75})
    without = catalogue([station("A", [{"id": "a", "properties": ["pm25"]}])], [])
    opened = tell(cat, [[fact(0, 90, 1)]]).alerts[0]["alert"]
    rows = [
        configure(0, cat.version), command(60, FACTS, "system", figures=[list(fact(0, 90, 1))]),
        command(70, "acknowledge", "li", alert=opened, note="seen"), configure(80, without.version),
    ]  # fmt: skip
    result = drive(rows, [cat, without], range(1, 4))
    assert [(r["state"], r["who"]) for r in result.alerts] == [("open", ""), ("acknowledged", "li"), ("resolved", "")]
    assert not result.rejected


def test_only_what_a_rule_watches_is_told() -> None:
    """Derive tells no more than is looked at, and raw gives back what was told."""
    cat = one_rule(levels={"blue": 75})
    row = {"what": "hour", "key": ("A", "pm25", "main"), "start": T0, "value": 80.0, "valid": True, "revision": 5}
    others = [row | {"what": "day"}, row | {"key": ("A", "pm10", "main")}, row | {"key": ("B", "pm25", "main")}]
    found = Watched(cat).among([*others, row, row | {"value": float("nan"), "valid": False}])
    assert found == [
        Fact("A", "hour", "pm25", "main", T0, 80.0, True, 5),
        Fact("A", "hour", "pm25", "main", T0, None, False, 5),
    ]
    rows = decode(told(found, T0 + HOUR, cat.version)).sections["rows"].to_pylist()
    assert read(orjson.loads(rows[0]["payload"])["args"]) == found
