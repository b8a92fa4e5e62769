"""An operator's word about a reading, in the pass: a revision, an event, and what it does to alerts and verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from qingtu.clock import SECOND
from qingtu.records import OVERRIDDEN, Cause
from tests.process.support import CAT, T0, catalogue, command, configure, drive, reading, station

SPIKY = catalogue(
    [station("A", [{"id": "a", "properties": ["pm25"]}], limits={"pm25": {"spike": {"suspect": 60, "fail": 120}}})], []
)
SPIKE = 1 << 4


def word(at_s: float, time_s: float, flag: int, value: float | None, tests: int = 0, **changes: Any) -> dict[str, Any]:
    """Make the command about a reading of A."""
    args = {
        "station": "A", "property": "pm25", "channel": "main", "time_us": T0 + round(time_s * SECOND), "value": value,
        "tests": tests, "flag": flag, "reason": "checked on site",
    }  # fmt: skip
    return command(at_s, "override", "Li", **args | changes)


def test_it_is_a_revision_and_an_event() -> None:
    """The value stays, the bits of checks stay, one of its own is added; the event keeps name and reason."""
    rows = [configure(0, CAT.version), reading("a", 0, pm25=700), word(60, 0, 1, 700.0, tests=3)]
    result = drive(rows, [CAT])
    last = result.readings[-1]
    assert (last["value"], last["flag"], last["tests"]) == (700.0, 1, 3 | OVERRIDDEN)
    assert (last["cause"], last["revision"], last["known_at"], last["late"]) == (Cause.OVERRIDE, 2, 60 * SECOND, True)
    [event] = result.events
    assert (event["station"], event["kind"], event["time"]) == ("A", "override", 0)
    assert '"reason":"checked on site"' in event["attributes"]
    assert '"who":"Li"' in event["attributes"]


def test_a_reading_that_fails_now_withdraws_its_alert() -> None:
    """As a late verdict of a check does; a word that lets it pass leaves the alert alone."""
    rows = [configure(0, CAT.version), reading("a", 0, pm25=90), word(30, 0, 1, 90.0)]
    assert drive(rows, [CAT]).states("dust") == [("open", 1)]
    rows.append(word(60, 0, 4, 90.0))
    result = drive(rows, [CAT])
    assert result.states("dust") == [("open", 1), ("withdrawn", 0)]
    assert result.alerts[-1]["revision"] == 3


@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 4, 5]])
def test_a_verdict_that_comes_later_does_not_undo_it(cuts: list[int]) -> None:
    """The next reading shows a spike: its bit is added, the person's flag stands."""
    rows = [
        configure(0, SPIKY.version), reading("a", 0, pm25=10), reading("a", 60, pm25=190), word(90, 60, 1, 190.0),
        reading("a", 120, pm25=10), reading("a", 180, pm25=10),
    ]  # fmt: skip
    result = drive(rows, [SPIKY], cuts, cuts[2:])
    mine = [r for r in result.readings if r["time"] == 60 * SECOND]
    assert [(r["cause"], r["flag"], r["tests"]) for r in mine] == [
        (Cause.READING, 1, 0), (Cause.OVERRIDE, 1, OVERRIDDEN), (Cause.QUALITY_DECIDED, 1, OVERRIDDEN | SPIKE),
    ]  # fmt: skip


def test_a_word_about_another_reading_leaves_verdicts_alone() -> None:
    """It is the newest reading whose flag the next verdict goes on from, and only that."""
    rows = [
        configure(0, SPIKY.version), reading("a", 0, pm25=10), reading("a", 60, pm25=190), word(90, 0, 1, 10.0),
        word(91, 60, 1, 12.0), reading("a", 120, pm25=10),
    ]  # fmt: skip
    mine = [r for r in drive(rows, [SPIKY]).readings if r["time"] == 60 * SECOND]
    assert (mine[-1]["cause"], mine[-1]["flag"], mine[-1]["tests"]) == (Cause.QUALITY_DECIDED, 4, SPIKE)


def test_a_series_that_nobody_has_is_refused() -> None:
    """The command is in quarantine with its reason; nothing else happens."""
    result = drive([configure(0, CAT.version), word(60, 0, 4, 1.0, station="Z")], [CAT])
    assert [(r["stage"], r["reason"]) for r in result.rejected] == [("process", "unknown_property")]
    assert result.readings == result.events == []


def test_a_missing_value_can_be_told_good() -> None:
    """None stands for a missing value."""
    result = drive([configure(0, CAT.version), reading("a", 0, pm25=None), word(60, 0, 2, None, tests=8)], [CAT])
    assert (result.readings[-1]["value"], result.readings[-1]["flag"]) == (None, 2)
