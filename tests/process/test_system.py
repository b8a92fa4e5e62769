"""Rules on what the service says of itself: the example on the page, hold, sources, restarts; what is told."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from processors.alerts.system import SYSTEM, UNITS
from qingtu.catalogue_rules import RULE
from qingtu.catalogue_words import LEVELS
from qingtu.facts import Bounds
from tests.process.support import catalogue, command, configure, drive, station, tick
from tests.process.test_alert_kinds import EXAMPLES, story

RULE_OF = {"id": "r", "kind": "system", "zh": "规", "en": "R"}


def ruled(*rules: dict[str, Any]) -> Any:
    """One station, and rules that have nothing to do with it."""
    return catalogue([station("A", [{"id": "a", "properties": ["pm25"]}])], [{**RULE_OF, **rule} for rule in rules])


def says(minute: float, source: str = "gateway", **facts: float) -> dict[str, Any]:
    """What a source tells."""
    return command(minute * 60, SYSTEM, "system", source=source, facts=facts)


def test_the_example_on_the_page_is_right() -> None:
    """Each line of the table is told; what opens, rises, falls and ends is as the table says."""
    text, table = EXAMPLES["system"]
    rule = yaml.safe_load(text)
    lines = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()[2:]]
    cells = [line if len(line) == 3 else [*line, ""] for line in lines]
    cat = ruled(rule)
    rows = [configure(0, cat.version), *(says(float(minute), outage_used=float(value)) for minute, value, _ in cells)]
    wanted = [
        (state, 0 if state == "resolved" else LEVELS.index(level) + 1, float(minute))
        for minute, _, then in cells if then
        for state, _, level in [then.partition(" ")]
    ]  # fmt: skip
    assert len(wanted) == 4
    assert story(drive(rows, [cat]), rule["id"]) == wanted


HELD = ruled({"fact": "ledger_off", "levels": {"red": 1}, "hold_s": 60}, {"id": "s", "fact": "store_behind",
              "levels": {"yellow": 60}})  # fmt: skip
HISTORY = [
    configure(0, HELD.version),
    says(1, "store", ledger_off=3, store_behind=10),
    tick(90),
    says(1.75, "store", ledger_off=0),
    tick(125),
    says(3, "store", ledger_off=2),
    tick(210),
    tick(241),
    says(5, "other", store_behind=61),
    says(6, "store", store_behind=70),
    says(7, "other", store_behind=5),
    says(8, "store", ledger_off=0, store_behind=0),
    tick(500),
]


def test_a_fact_must_hold_and_each_source_has_its_alert() -> None:
    """Three messages off for less than a minute are none; the store and another source stand beside each other."""
    result = drive(HISTORY, [HELD])
    assert story(result) == [("open", 4, 241 / 60), ("resolved", 0, 8)]
    assert story(result, "s") == [("open", 2, 5), ("open", 2, 6), ("resolved", 0, 7), ("resolved", 0, 8)]
    assert {(row["station"], row["property"], row["channel"]) for row in result.alerts} == {
        ("", "ledger_off", "store"), ("", "store_behind", "store"), ("", "store_behind", "other"),
    }  # fmt: skip
    assert all(f'"unit":"{UNITS[row["property"]]}"' in row["evidence"] for row in result.alerts)


def test_restarts_cuts_and_repetition_change_nothing() -> None:
    """Cut and restored at every row, and everything told twice."""
    whole = drive(HISTORY, [HELD]).comparable()
    cuts = range(1, len(HISTORY))
    assert drive(HISTORY, [HELD], cuts, cuts).comparable() == whole
    twice = [HISTORY[0], *(row for one in HISTORY[1:] for row in (one, one))]
    assert [one[:2] for one in story(drive(twice, [HELD]))] == [one[:2] for one in story(drive(HISTORY, [HELD]))]


@given(st.lists(st.floats(0, 200), min_size=1, max_size=20), st.floats(0, 30))
def test_what_is_not_told_would_have_changed_nothing(values: list[float], hysteresis: float) -> None:
    """A value in the band of the one before leads to no transition: so telling crossings alone is enough."""
    cat = ruled({"fact": "outage_used", "levels": {"orange": 50, "red": 80}, "hysteresis": hysteresis})
    bounds, told, last = Bounds(cat), [], None
    for minute, value in enumerate(values):
        if bounds.band("outage_used", value) != last:
            told.append(says(minute, outage_used=value))
            last = bounds.band("outage_used", value)
    every = [says(minute, outage_used=value) for minute, value in enumerate(values)]
    first = [configure(0, cat.version)]
    assert story(drive([*first, *told], [cat])) == story(drive([*first, *every], [cat]))
    assert not bounds.watch("ledger_off")


@pytest.mark.parametrize(
    "more", [{"where": {"domain": "air"}}, {"schedule": {"start": "08:00", "end": "20:00"}}, {"fact": "weather"}]
)
def test_what_belongs_to_stations_is_refused(more: dict[str, Any]) -> None:
    """The system is at no station and in no zone."""
    with pytest.raises(ValidationError):
        RULE.validate_python({**RULE_OF, "fact": "ledger_off", "levels": {"red": 1}, **more})
