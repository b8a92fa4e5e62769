"""Station alerts through the whole pass: what opens, changes, closes and never opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from processors.alerts.batch import alert_id
from processors.process import Process
from qingtu.clock import SECOND
from qingtu.partitions import partition_of
from qingtu.records import ALERTS, decode
from tests.process.support import (
    CAT,
    T0,
    Result,
    catalogue,
    command,
    configure,
    drive,
    frame_of,
    message,
    reading,
    station,
    tick,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.catalogue import Catalogue

DUST = ("dust", "A", "pm25", "main")


def one_rule(**rule: Any) -> Catalogue:
    """A catalogue of station A with one threshold rule on pm25 and a spike test far above steps."""
    base = {"id": "r", "kind": "threshold", "zh": "规", "en": "R", "property": "pm25"}
    limits = {"pm25": {"suspect": [0, 500], "spike": {"suspect": 300}}}
    return catalogue([station("A", [{"id": "a", "properties": ["pm25"]}], limits=limits)], [base | rule])


def series(cat: Catalogue, values: Sequence[float | None], every_s: int = 60) -> Result:
    """Drive one reading after the other, each in a frame of its own."""
    rows = [configure(0, cat.version), *(reading("a", i * every_s, pm25=v) for i, v in enumerate(values))]
    return drive(rows, [cat], range(1, len(rows)))


def story(result: Result, rule: str = "r") -> list[tuple[str, int, float]]:
    """State, level and time in seconds of each transition."""
    return [(row["state"], row["level"], row["time"] / SECOND) for row in result.alerts if row["rule"] == rule]


# ---------------------------------------------------------------------------------------------------- threshold


def test_opens_rises_falls_and_resolves_with_hysteresis() -> None:
    """A level is reached when met exactly; it falls only when the value is the hysteresis below it."""
    cat = one_rule(levels={"blue": 75, "orange": 150, "red": 250}, hysteresis=5)
    result = series(cat, [74, 75, 71, 70.1, 150, 145.5, 145, 144.9, 251, 80, 70, 69.9])
    assert story(result) == [
        ("open", 1, 60), ("open", 3, 240), ("open", 1, 420), ("open", 4, 480), ("open", 1, 540), ("resolved", 0, 660),
    ]  # fmt: skip
    assert {row["alert"] for row in result.alerts} == {alert_id("r", "A", "pm25", "main", T0 + 60 * SECOND)}
    assert [row["limit"] for row in result.alerts] == [75, 150, 75, 250, 75, 75]
    assert {row["opened_at"] for row in result.alerts} == {60 * SECOND}


def test_direction_below() -> None:
    """Below mirrors above: levels fall, hysteresis is on the upper side."""
    cat = one_rule(direction="below", levels={"blue": 20, "red": 10}, hysteresis=2)
    result = series(cat, [21, 20, 10, 11.9, 12.1, 22, 22.1])
    assert story(result) == [("open", 1, 60), ("open", 4, 120), ("open", 1, 240), ("resolved", 0, 360)]
    assert result.alerts[-1]["limit"] == 20


def test_hold_opens_with_what_was_held_all_the_while() -> None:
    """The value must stay beyond the level in event time; one reading on the good side begins anew."""
    cat = one_rule(levels={"yellow": 100, "red": 200}, hold_s=120)
    assert story(series(cat, [110, 210, 90, 110, 220, 120])) == [("open", 2, 300)]
    assert story(series(cat, [210, 220, 230])) == [("open", 4, 120)]
    assert story(series(cat, [110, 90] * 6)) == []


def test_rising_needs_the_hold_too() -> None:
    """An open alert rises only after the higher level was held."""
    cat = one_rule(levels={"yellow": 100, "red": 200}, hold_s=120)
    values = [110, 110, 110, 210, 110, 210, 210, 210]
    assert story(series(cat, values)) == [("open", 2, 120), ("open", 4, 420)]


def test_a_higher_level_is_held_on_its_own() -> None:
    """A level that was met later rises when its own hold has passed, not one hold after the alert opened."""
    cat = one_rule(levels={"yellow": 100, "red": 200}, hold_s=120)
    assert story(series(cat, [110, 210, 210, 210])) == [("open", 2, 120), ("open", 4, 180)]


def test_levels_that_the_rule_lacks_are_passed_over() -> None:
    """From red the alert falls to the next level that there is."""
    cat = one_rule(levels={"blue": 50, "red": 200})
    assert story(series(cat, [210, 199, 49])) == [("open", 4, 0), ("open", 1, 60), ("resolved", 0, 120)]


def test_withdrawn_when_the_opening_reading_becomes_a_spike() -> None:
    """The next reading shows that the opening one was a spike: withdrawn, not resolved, with what struck it."""
    cat = one_rule(levels={"blue": 300})
    result = series(cat, [10, 10, 450, 10, 10])
    assert story(result) == [("open", 1, 120), ("withdrawn", 0, 180)]
    opened, withdrawn = result.alerts
    assert opened["alert"] == withdrawn["alert"]
    assert result.flags("A", "pm25")[120] == 3


def test_hold_that_began_with_a_spike_does_not_count() -> None:
    """A spike cannot start the time that a level is held."""
    cat = one_rule(levels={"blue": 300}, hold_s=60)
    assert story(series(cat, [10, 480, 10, 310, 310])) == [("open", 1, 240)]


def test_flags_3_4_and_9_never_count() -> None:
    """Suspect, failed and missing readings open nothing and close nothing."""
    cat = one_rule(levels={"blue": 75})
    assert story(series(cat, [600])) == []
    assert story(series(cat, [1200])) == []
    assert story(series(cat, [80, -1, None, 600, 80])) == [("open", 1, 0)]


@pytest.mark.parametrize(
    "row",
    [
        reading("a", 60, 70, pm25=100),  # an older reading than the newest
        reading("a", 120, 130, pm25=100),  # as old as the newest
        reading("a", 180, 180 + 3600, pm25=100),  # delayed
        reading("a", 1e6, 180, pm25=100),  # clock wrong
        reading("a", 180, 180, pm25=100) | {"redrive_of": 0, "shift_us": 0},  # driven again
        message("a", {"readings": {"pm25": 100}}, 180, flags=9),  # retained, without a time
        reading("nobody", 180, pm25=100),
    ],
    ids=["late", "equal time", "delayed", "clock wrong", "driven again", "retained", "unknown"],
)
def test_never_opens_from(row: dict[str, Any]) -> None:
    """Readings that are not fresh raise nothing; the next fresh one does."""
    cat = one_rule(levels={"blue": 75})
    before = [configure(0, cat.version), reading("a", 0, pm25=10), reading("a", 120, pm25=10)]
    assert drive([*before, row], [cat]).alerts == []
    after = drive([*before, row, reading("a", 4000, pm25=100)], [cat])
    assert story(after) == [("open", 1, 4000)]


def test_a_duplicate_changes_no_alert() -> None:
    """The same bytes again neither open, close nor reopen."""
    cat = one_rule(levels={"blue": 75})
    high, low = reading("a", 0, pm25=100), reading("a", 60, pm25=10)
    rows = [configure(0, cat.version), high, low, high, low, high]
    result = drive(rows, [cat], range(1, 6))
    assert story(result) == [("open", 1, 0), ("resolved", 0, 60)]
    assert [row["outcome"] for row in result.manifest] == [1, 1, 2, 2, 2]


# ------------------------------------------------------------------------------------------------------ silence


def quiet(*rows: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Station, state and time of each silence transition, cut row by row."""
    result = drive([configure(0, CAT.version), *rows], [CAT], range(1, len(rows) + 1))
    return [(r["station"], r["state"], r["time"] / SECOND) for r in result.alerts if r["rule"] == "quiet"]


def test_silence_opens_after_the_limit_and_is_resolved_when_heard() -> None:
    """Ten minutes without a message of A; any message resolves, at the time of its receipt."""
    rows = [reading(d, 0, pm25=1, dust=0.001, o3=1) for d in ("a", "b", "c")]
    alive = [reading(d, 590, pm25=1, dust=0.001) for d in ("b", "c")]
    assert quiet(*rows, *alive, tick(600), tick(601), tick(602), message("a", b"broken", 700)) == [
        ("A", "open", 601), ("A", "resolved", 700),
    ]  # fmt: skip


@pytest.mark.parametrize("partitions", [1, 2, 3])
def test_each_partition_watches_its_own_stations(partitions: int) -> None:
    """Of the others it never hears anything, which says nothing about them: each silence is told once."""
    told = []
    for partition in range(partitions):
        process = Process({CAT.version: CAT}.__getitem__, partition, partitions)
        process.restore(None)
        rows = [configure(0, CAT.version), tick(5000, {"native": 0, "other": 0})]
        alerts = process.apply(decode(frame_of(rows)), 0).get(ALERTS)
        if alerts is not None:
            names = decode(alerts).sections["alerts"].column("station").to_pylist()
            assert {partition_of(name, partitions) for name in names} == {partition}
            told += names
    assert sorted(told) == ["A", "B", "C"]


def test_our_own_restart_raises_nothing() -> None:
    """Counted from hearing_since: a gateway that was away begins anew."""
    row = reading("a", 0, pm25=1)
    assert quiet(row, tick(5000, {"native": 4900, "other": 4900})) == []
    assert {s for s, _, _ in quiet(row, tick(5501, {"native": 4900, "other": 4900}))} == {"A", "B", "C"}


def test_a_route_that_is_not_heard_is_not_judged() -> None:
    """Stations whose route is missing in the tick stay as they are; C needs both of its routes."""
    assert quiet(tick(5000, {})) == []
    assert [s for s, _, _ in quiet(tick(5000, {"native": 0}))] == ["A", "B"]
    assert [s for s, _, _ in quiet(tick(5000, {"native": 0, "other": 4900}))] == ["A", "B"]


def test_a_station_never_heard_is_silent_too() -> None:
    """From hearing_since on."""
    assert quiet(tick(599, {"native": 0, "other": 0}), tick(601, {"native": 0, "other": 0}))[0] == ("A", "open", 601)


def test_retained_and_driven_again_messages_do_not_show_life() -> None:
    """The broker sends what it retained whenever we subscribe; the station may be dead for long."""
    retained = reading("a", 0, 700, pm25=1) | {"flags": 9}
    again = reading("a", 0, 700, pm25=1) | {"redrive_of": 0, "shift_us": 0}
    states = [state for s, state, _ in quiet(tick(650), retained, again, tick(701)) if s == "A"]
    assert states == ["open"]


def test_silence_can_come_again() -> None:
    """A second silence is another alert."""
    result = drive([configure(0, CAT.version), tick(700), message("a", b"x", 800), tick(1000), tick(1401)], [CAT])
    mine = [(r["state"], r["alert"]) for r in result.alerts if (r["rule"], r["station"]) == ("quiet", "A")]
    assert [state for state, _ in mine] == ["open", "resolved", "open"]
    assert mine[0][1] == mine[1][1] != mine[2][1]


# ----------------------------------------------------------------------------------------- commands, catalogues


def test_acknowledge_and_comment_name_the_person() -> None:
    """They reach the alert of any kind by its id; a comment changes no state; rising asks for attention again."""
    ident = alert_id(*DUST, T0)
    rows = [
        configure(0, CAT.version), reading("a", 0, pm25=80), command(10, "acknowledge", "Li", alert=ident, note="seen"),
        command(20, "comment", "Wang", alert=ident, note="dust storm"), reading("a", 60, pm25=160),
        command(70, "acknowledge", "Li", alert=ident), reading("a", 120, pm25=80), reading("a", 180, pm25=10),
    ]  # fmt: skip
    result = drive(rows, [CAT], range(1, 8), [3, 5])
    mine = [(r["state"], r["level"], r["who"], r["note"]) for r in result.alerts if r["alert"] == ident]
    assert mine == [
        ("open", 1, "", ""), ("acknowledged", 1, "Li", "seen"), ("comment", 1, "Wang", "dust storm"),
        ("open", 3, "", ""), ("acknowledged", 3, "Li", ""), ("acknowledged", 1, "", ""), ("resolved", 0, "", ""),
    ]  # fmt: skip


def test_silence_can_be_acknowledged() -> None:
    """Its id has no property; acknowledging does not resolve."""
    ident = alert_id("quiet", "A", "", "", T0 + 700 * SECOND)
    rows = [
        configure(0, CAT.version),
        tick(700),
        command(710, "acknowledge", "Li", alert=ident),
        message("a", b"", 720),
    ]
    mine = [(r["state"], r["level"], r["who"]) for r in drive(rows, [CAT]).alerts if r["alert"] == ident]
    assert mine == [("open", 3, ""), ("acknowledged", 3, "Li"), ("resolved", 0, "")]


def test_a_command_for_no_open_alert_is_rejected() -> None:
    """Unknown and resolved alerts, and unknown commands, end in quarantine with the whole row."""
    ident = alert_id(*DUST, T0)
    rows = [
        configure(0, CAT.version), reading("a", 0, pm25=80), reading("a", 60, pm25=10),
        command(70, "acknowledge", "Li", alert=ident), command(80, "dance", "Li"),
    ]  # fmt: skip
    result = drive(rows, [CAT])
    assert [(r["position"], r["reason"]) for r in result.rejected] == [(3, "unknown_alert"), (4, "unknown_command")]
    assert result.rejected[0]["payload"] == rows[3]["payload"]


def test_catalogue_change_closes_what_is_gone_and_keeps_the_rest() -> None:
    """Without rule or station an open alert is resolved and says why; the others go on under the new limits."""
    other = catalogue(
        [station("C", [{"id": "c", "properties": ["pm25"]}]), station("A", [{"id": "a", "properties": ["pm25"]}])],
        rules=[
            {"id": "dust", "kind": "threshold", "zh": "尘", "en": "Dust", "property": "pm25", "levels": {"red": 70}}
        ],
    )
    rows = [
        configure(0, CAT.version), tick(700), reading("a", 800, pm25=80), reading("b", 800, dust=0.08),
        configure(810, other.version), reading("a", 860, pm25=79), reading("a", 920, pm25=60),
    ]  # fmt: skip
    result = drive(rows, [CAT, other], range(1, 7), [5, 6])
    closed = [(r["rule"], r["station"]) for r in result.alerts if r["evidence"] == '{"why":"catalogue changed"}']
    assert sorted(closed) == [("dust", "B"), ("quiet", "C")]
    assert {r["time"] for r in result.alerts if "catalogue" in r["evidence"]} == {810 * SECOND}
    mine = [
        (r["state"], r["level"], r["time"] / SECOND) for r in result.alerts if (r["rule"], r["station"]) == DUST[:2]
    ]
    assert mine == [("open", 1, 800), ("open", 4, 860), ("resolved", 0, 920)]


def test_other_limits_without_another_catalogue_keep_alerts() -> None:
    """Configuring only limits or routes leaves every alert alone."""
    rows = [configure(0, CAT.version), reading("a", 0, pm25=80), configure(10, CAT.version, ahead_limit_s=5)]
    assert drive([*rows, reading("a", 60, pm25=80)], [CAT]).states("dust") == [("open", 1)]


def test_ids_depend_on_the_opening_reading_alone() -> None:
    """The same reading gives the same id in every run; other rule, station, channel or time another."""
    base = alert_id("r", "A", "pm25", "main", 1)
    assert base == alert_id("r", "A", "pm25", "main", 1) == "0e1e0148f7df28e1"
    others = {
        alert_id("r", "A", "pm25", "main", 2),
        alert_id("r", "A", "pm25", "b", 1),
        alert_id("rA", "", "pm25", "main", 1),
    }
    assert len({base, *others}) == 4
