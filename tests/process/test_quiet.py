"""Mutes mark alerts, maintenance keeps them from opening; both are commands on raw with a person and an end."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from qingtu.clock import SECOND
from tests.process.support import CAT, T0, catalogue, command, configure, drive, reading, station, tick


def ask(at_s: float, name: str, until_s: float, **args: Any) -> dict[str, Any]:
    """A command of Li that ends at ``until_s``."""
    return command(at_s, name, "Li", until_us=T0 + round(until_s * SECOND), note="why", **args)


def muted(rows: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    """Rule, state and who muted it, of each transition; cut row by row, restarted twice."""
    result = drive(rows, [DISTRICTS], range(1, len(rows)), [3, 5])
    found = [(r["rule"], r["state"], orjson.loads(r["evidence"]).get("muted")) for r in result.alerts]
    return [(rule, state, None if mark is None else mark["who"]) for rule, state, mark in found]


RULES = [
    {"id": rule, "kind": "threshold", "zh": "尘", "en": "D", "property": "pm25", "levels": {"blue": limit}}
    for rule, limit in (("dust", 50), ("more", 80))
]
DISTRICTS = catalogue([station("A", [{"id": "a", "properties": ["pm25"]}], district="370202")], RULES)
START = configure(0, DISTRICTS.version)


@pytest.mark.parametrize(
    ("scope", "who"),
    [
        ({"station": "A"}, ["Li", "Li"]),
        ({"district": "370202"}, ["Li", "Li"]),
        ({"rule": "dust"}, ["Li", None]),
        ({"rule": "dust", "district": "370202", "station": "A"}, ["Li", None]),
        ({"rule": "dust", "district": "370203"}, [None, None]),
        ({"rule": "other"}, [None, None]),
    ],
)
def test_a_mute_marks_what_fits_it_and_hides_nothing(scope: dict[str, str], who: list[str | None]) -> None:
    """All words that are given must fit; the alert opens all the same; after the end it is not marked."""
    rows = [START, ask(10, "mute", 100, **scope), reading("a", 60, pm25=90), tick(70), reading("a", 120, pm25=10)]
    opened = [("dust", "open", who[0]), ("more", "open", who[1])]
    assert muted(rows) == [*opened, ("dust", "resolved", None), ("more", "resolved", None)]


def test_a_mute_of_now_ends_the_one_before() -> None:
    """The same scope again replaces it; another scope stays."""
    rows = [
        START, ask(10, "mute", 1000, rule="dust"), ask(11, "mute", 1000, rule="more"), ask(20, "mute", 20, rule="dust"),
        reading("a", 60, pm25=90),
    ]  # fmt: skip
    assert muted(rows) == [("dust", "open", None), ("more", "open", "Li")]


def test_maintenance_holds_alerts_back_and_lets_them_end() -> None:
    """Nothing opens or rises with readings of that time; falling and resolving go on; after it alerts open again."""
    values = {60: 60, 120: 90, 180: 40, 240: 90, 300: 90}
    rows = [START, *(reading("a", at, pm25=value) for at, value in values.items())]
    rows.insert(2, ask(100, "maintenance", 300, station="A"))
    result = drive(rows, [DISTRICTS], range(1, 7), [4])
    assert [(r["rule"], r["state"], r["time"] / SECOND) for r in result.alerts] == [
        ("dust", "open", 60), ("dust", "resolved", 180), ("dust", "open", 300), ("more", "open", 300),
    ]  # fmt: skip


def test_maintenance_of_the_catalogue_holds_silence_and_clock_alerts() -> None:
    """No tick in it opens them; the first after it does, when the cause is still there."""
    window = {"start": "2026-11-23T08:10:00+08:00", "end": "2026-11-23T08:30:00+08:00"}
    rules = [
        {"id": "quiet", "kind": "silence", "zh": "静", "en": "Q", "after_s": 300},
        {"id": "clock", "kind": "clock_wrong", "zh": "钟", "en": "C", "after_s": 300},
    ]
    cat = catalogue([station("A", [{"id": "a", "properties": ["pm25"]}], maintenance=[window])], rules)
    rows = [configure(0, cat.version), reading("a", 90_000, 590, pm25=1), tick(1000), tick(1799), tick(1800)]
    result = drive(rows, [cat], range(1, 5))
    assert [(r["rule"], r["state"], r["time"] / SECOND) for r in result.alerts] == [
        ("clock", "open", 1800), ("quiet", "open", 1800),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        command(10, "mute", "Li", rule="dust"),
        command(10, "mute", "Li", until_us="tomorrow", rule="dust"),
        ask(10, "mute", 100),
        ask(10, "mute", 400 * 86400, rule="dust"),
        ask(10, "mute", 100, station="nowhere"),
        ask(10, "maintenance", 100),
    ],
)
def test_a_command_without_end_or_object_is_rejected(row: dict[str, Any]) -> None:
    """It ends in quarantine with its reason, and switches nothing off."""
    result = drive([configure(0, CAT.version), row, reading("a", 60, pm25=90)], [CAT])
    assert [(r["position"], r["reason"]) for r in result.rejected] == [(1, "bad_command")]
    assert [(r["rule"], "muted" in r["evidence"]) for r in result.alerts] == [("dust", False)]
