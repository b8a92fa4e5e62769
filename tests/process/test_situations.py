"""Situations: the example on the page, what begins, joins and ends them, and what they may not depend on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from processors.process import Process
from qingtu.bus.sqlite import SqliteBus
from qingtu.catalogue_words import LEVELS
from qingtu.clock import SECOND, ManualClock
from qingtu.orders import Orders
from qingtu.partitions import partition_of
from qingtu.records import ALERTS, RAW, decode
from tests.process.support import T0, Result, catalogue, command, configure, drive, frame_of, reading, station, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qingtu.catalogue import Catalogue

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## situation\n")[1].split("\n## ")[0]
DUST: dict[str, Any] = {
    "id": "dust",
    "kind": "threshold",
    "zh": "尘",
    "en": "Dust",
    "property": "pm25",
    "levels": {"blue": 75, "orange": 150},
}
BASE: dict[str, Any] = {
    "id": "s", "kind": "situation", "zh": "情", "en": "S", "rules": "dust", "place": "network", "within_s": 600,
    "clear_s": 300,
}  # fmt: skip
NAMES = "ABCDE"


def city(
    *rules: dict[str, Any], places: Callable[[str], dict[str, Any]] = lambda _: {}, names: str = NAMES
) -> Catalogue:
    """Stations with pm25 of a device each, a spike check, the rule dust and these situations."""
    limits = {"pm25": {"spike": {"suspect": 300}}}
    stations = [
        station(name, [{"id": name.lower(), "properties": ["pm25"]}], limits=limits, **places(name)) for name in names
    ]
    return catalogue(stations, [DUST, *(BASE | rule for rule in rules)])


def minutes(cat: Catalogue, *points: tuple[float, str, float], ticks_to: float = 0) -> list[dict[str, Any]]:
    """Make rows of (minute, station, pm25), and a tick behind each minute."""
    rows = [reading(name.lower(), minute * 60, pm25=value) for minute, name, value in points]
    rows += [tick(minute * 60 + 1) for minute in range(round(max([ticks_to, *(p[0] for p in points)])) + 1)]
    return [configure(-1, cat.version), *sorted(rows, key=lambda row: row["received_at"])]


def run(cat: Catalogue, *points: tuple[float, str, float], ticks_to: float = 0) -> Result:
    """Drive them in one frame."""
    return drive(minutes(cat, *points, ticks_to=ticks_to), [cat])


def story(result: Result, rule: str = "s") -> list[tuple[str, str, int, int]]:
    """Station, state, level and minute of each transition of a rule."""
    return [
        (row["station"], row["state"], row["level"], row["time"] // (60 * SECOND))
        for row in result.alerts
        if row["rule"] == rule
    ]


def evidence(row: dict[str, Any]) -> dict[str, Any]:
    """Evidence of a transition."""
    return orjson.loads(row["evidence"])  # type: ignore[no-any-return]


def of(result: Result, rule: str = "s") -> list[dict[str, Any]]:
    """Transitions of a rule."""
    return [row for row in result.alerts if row["rule"] == rule]


# ------------------------------------------------------------------------------------------------------ the page


def test_the_example_on_the_page_is_right() -> None:
    """Rule and table of its section: what each reading makes of alerts and incident."""
    rule = yaml.safe_load(SECTION.split("```yaml\n")[1].split("```")[0])
    table = SECTION.split("| minute |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table]
    cells = [[*line, *[""] * (5 - len(line))] for line in cells]
    cat = city(rule)
    result = run(cat, *((float(m), name, float(v)) for m, name, v, _, _ in cells))

    def told(column: int) -> list[tuple[str, int, int]]:
        out = []
        for line in cells:
            state, _, level = line[column].partition(" ")
            if state:
                out.append((state, LEVELS.index(level) + 1 if level else 0, int(line[0])))
        return out

    for name, column in (("dust", 3), ("s", 4)):
        assert [(state, level, minute) for _, state, level, minute in story(result, name)] == told(column)
    assert {row["station"] for row in of(result)} == {"C"}
    assert re.search(r"`left_out`", SECTION)


# ---------------------------------------------------------------------------------------------- begin, join, end


def test_evidence_is_the_timeline_of_what_led_to_it() -> None:
    """Stations, alerts and every step in order of time, also what came before there was a situation."""
    result = run(city({}), (0, "A", 80), (1, "A", 160), (3, "B", 90), (5, "C", 90), (6, "A", 10))
    [opened, joined, ended] = of(result)
    assert (opened["value"], opened["limit"], opened["property"]) == (2, 2, "")
    assert evidence(opened)["began_us"] == T0
    assert [(s["station"], s["state"], s["level"], s["value"]) for s in evidence(opened)["timeline"]] == [
        ("A", "open", 1, 80), ("A", "open", 3, 160), ("B", "open", 1, 90),
    ]  # fmt: skip
    assert evidence(joined)["stations"] == ["A", "B", "C"]
    assert evidence(joined)["alerts"] == list(dict.fromkeys(row["alert"] for row in of(result, "dust")))
    assert (ended["state"], ended["level"], evidence(ended)["standing"]) == ("open", 1, 2)
    assert [s["time_us"] for s in evidence(ended)["timeline"]] == [T0 + m * 60 * SECOND for m in (0, 1, 3, 5, 6)]


def test_a_long_timeline_keeps_its_beginning_and_its_end() -> None:
    """What is left out in the middle is counted."""
    points: list[tuple[float, str, float]] = [(0, "A", 80), (1, "B", 80)]
    points += [(2 + i, "A", 160 if i % 2 == 0 else 149) for i in range(60)]
    line = evidence(of(run(city({}), *points))[-1])
    assert (len(line["timeline"]), line["left_out"]) == (48, 14)
    assert [s["time_us"] for s in line["timeline"][:2]] == [T0, T0 + 60 * SECOND]
    assert line["timeline"][-1]["time_us"] == T0 + 61 * 60 * SECOND


def test_it_stands_until_nothing_stood_for_clear_s() -> None:
    """An alert that comes back in between begins the calm anew; what comes afterwards is another incident."""
    result = run(
        city({}), (0, "A", 80), (1, "B", 80), (2, "A", 1), (2, "B", 1), (6, "A", 80), (8, "A", 1), (20, "A", 80),
        (21, "B", 80),
    )  # fmt: skip
    assert [(state, minute) for _, state, _, minute in story(result) if state != "comment"] == [
        ("open", 1), ("resolved", 13), ("open", 21),
    ]  # fmt: skip
    assert len({row["alert"] for row in of(result)}) == 2


def test_withdrawn_when_what_opened_it_was_a_spike() -> None:
    """Two alerts, of which one is taken back, never were a situation; the other is free for the next one."""
    result = run(city({}), (0, "A", 80), (1, "B", 10), (2, "B", 500), (3, "B", 10), (4, "C", 80))
    assert story(result, "dust")[1:3] == [("B", "open", 3, 2), ("B", "withdrawn", 0, 3)]
    assert story(result) == [("A", "open", 3, 2), ("A", "withdrawn", 0, 3), ("A", "open", 1, 4)]
    assert evidence(of(result)[2])["stations"] == ["A", "C"]


def test_it_stays_when_the_others_are_one_without_what_was_withdrawn() -> None:
    """Three stations where two suffice: the spike leaves it, also where its station was in it before."""
    result = run(city({}), (0, "A", 80), (1, "C", 80), (2, "B", 10), (3, "B", 500), (4, "B", 10))
    assert [state for _, state, _, _ in story(result)] == ["open", "open", "open"]
    assert evidence(of(result)[-1])["stations"] == ["A", "C"]
    again = run(city({}), (0, "A", 80), (1, "B", 80), (2, "B", 10), (4, "B", 500), (5, "B", 10))
    assert [state for _, state, _, _ in story(again)] == ["open", "comment", "open", "open"]
    assert evidence(of(again)[-1])["stations"] == ["A", "B"]


def test_a_fixed_level_is_kept() -> None:
    """Whatever its alerts rise to."""
    result = run(city({"level": "yellow"}), (0, "A", 160), (1, "B", 160), (2, "B", 80))
    assert [(state, level) for _, state, level, _ in story(result)] == [("open", 2), ("comment", 2)]


def test_acknowledged_until_it_rises() -> None:
    """Commands reach it as all alerts; what joins at no higher level leaves the acknowledgement."""
    cat = city({})
    first = drive(minutes(cat, (0, "A", 80), (1, "B", 80)), [cat])
    ident = of(first)[0]["alert"]
    rows = minutes(cat, (0, "A", 80), (1, "B", 80), (3, "C", 80), (4, "C", 160), (5, "C", 80))
    at = next(i for i, row in enumerate(rows) if row["received_at"] > T0 + 150 * SECOND)
    rows.insert(at, command(150, "acknowledge", "Li", alert=ident, note="seen"))
    rows.append(command(400, "comment", "Li", alert=ident, note="wind is coming"))
    result = drive(rows, [cat])
    assert [(row["state"], row["level"], row["who"]) for row in of(result)] == [
        ("open", 1, ""), ("acknowledged", 1, "Li"), ("comment", 1, ""), ("open", 3, ""), ("open", 1, ""),
        ("comment", 1, "Li"),
    ]  # fmt: skip
    assert not result.rejected


# --------------------------------------------------------------------------------------------------------- places


def test_of_one_district_only() -> None:
    """A station without a district is of none."""
    places = {"A": {"district": "370202"}, "B": {"district": "370203"}, "D": {"district": "370202"}}
    cat = city({"place": "district"}, places=lambda name: places.get(name, {}))
    points = [(float(m), name, 80.0) for m, name in enumerate("ABCED")]
    assert [row[:2] for row in story(run(cat, *points))] == [("A", "open")]
    assert evidence(of(run(cat, *points))[0])["stations"] == ["A", "D"]


def test_within_a_radius_of_the_first() -> None:
    """The first station is the middle: what is near to another one alone is not of the place."""
    east = {name: 120.3 + 0.05 * i for i, name in enumerate(NAMES)}  # 4.5 km apart
    cat = city({"place": "radius", "radius_km": 5}, places=lambda name: {"position": [east[name], 36.1]})
    result = run(cat, (0, "A", 80), (1, "C", 80), (2, "B", 80), (3, "D", 80), (4, "E", 80))
    opened = [row for row in of(result) if row["state"] == "open"]
    assert [(row["station"], evidence(row)["stations"]) for row in opened] == [("A", ["A", "B"]), ("C", ["C", "D"])]


RIVER = {"B": ["A"], "C": ["B"], "D": ["E", "C"]}
"""A above B above C above D; E above D, too."""


def river(**rule: Any) -> Catalogue:
    """The river, with a second rule on what is measured downstream."""
    below = DUST | {"id": "below", "levels": {"yellow": 100}, "where": {"station": ["B", "C", "D"]}}
    source = DUST | {"where": {"station": ["A", "E"]}}
    base = city(places=lambda name: {"downstream_of": RIVER.get(name, [])})
    flow = BASE | {"place": "downstream", "then": "below", "within_s": 3600} | rule
    return catalogue([s.model_dump(exclude_none=True) for s in base.stations.values()], [source, below, flow])


def test_downstream_needs_both_and_the_order() -> None:
    """A source, then a section below it, however many lie in between; nothing above a source, nothing too early."""
    assert story(run(river(), (0, "A", 80), (9, "C", 120))) == [("A", "open", 2, 9)]
    assert story(run(river(), (0, "A", 80), (9, "E", 80))) == []
    assert story(run(river(), (0, "E", 80), (9, "C", 120))) == []
    assert story(run(river(), (0, "B", 120), (9, "C", 120))) == []
    assert story(run(river(), (0, "C", 120), (9, "A", 80))) == []
    assert story(run(river(early_s=540), (0, "C", 120), (9, "A", 80))) == [("A", "open", 2, 9)]
    assert story(run(river(), (0, "A", 80), (61, "C", 120))) == []


def test_downstream_counts_a_source_that_has_ended() -> None:
    """Water takes its time: when the section has it, the outlet may be right again."""
    result = run(river(), (0, "A", 80), (5, "A", 10), (30, "B", 120), (40, "C", 120))
    assert story(result) == [("A", "open", 2, 30), ("A", "comment", 2, 40)]
    assert [(s["station"], s["state"]) for s in evidence(of(result)[1])["timeline"]] == [
        ("A", "open"), ("A", "resolved"), ("B", "open"), ("C", "open"),
    ]  # fmt: skip


def test_downstream_names_every_source_above_what_it_reached() -> None:
    """Whichever began it: the one that came earlier is named as well."""
    result = run(river(), (0, "E", 80), (1, "A", 80), (9, "B", 120), (10, "D", 120))
    assert [row["station"] for row in of(result)] == ["A", "A"]
    assert evidence(of(result)[0])["stations"] == ["A", "B"]
    later = run(river(), (0, "E", 80), (1, "A", 80), (10, "D", 120))
    assert evidence(of(later)[0])["stations"] == ["E", "A", "D"]


def test_only_alerts_of_its_rules_properties_and_stations() -> None:
    """By property it takes every rule on it; a situation is made of no situation."""
    other = DUST | {"id": "other", "levels": {"red": 200}}
    base = city().stations.values()
    rules: list[dict[str, Any]] = [
        DUST, other, BASE | {"id": "both", "rules": None, "properties": "pm25", "where": {"station": ["A", "B"]}},
        BASE | {"id": "one", "rules": "other"}, BASE | {"id": "none", "rules": None, "properties": "o3"},
    ]  # fmt: skip
    cat = catalogue([s.model_dump(exclude_none=True) for s in base], rules)
    result = run(cat, (0, "A", 210), (1, "C", 210), (2, "B", 80))
    assert {row["rule"] for row in result.alerts} == {"dust", "other", "both", "one"}
    assert evidence(of(result, "both")[0])["stations"] == ["A", "B"]
    assert len(evidence(of(result, "both")[0])["alerts"]) == 3
    assert evidence(of(result, "one")[0])["stations"] == ["A", "C"]


# ------------------------------------------------------------------------------------------- catalogues, partitions


def test_a_changed_catalogue() -> None:
    """It goes on by rule; with its rule or first station gone it is resolved; alerts that count no more leave it."""
    usual, renamed, less = city({}), city({"id": "t"}), city({"where": {"station": ["A", "C"]}})
    points = [(0.0, "A", 80.0), (1.0, "B", 80.0)]
    for after, told in (
        (renamed, [("open", 1), ("resolved", 0)]), (city({}, names="BCD"), [("open", 1), ("resolved", 0)]),
        (city({"en": "New"}), [("open", 1)]), (less, [("open", 1)]),
    ):  # fmt: skip
        rows = [*minutes(usual, *points), configure(90, after.version)]
        result = drive(rows, [usual, after], range(1, len(rows)), range(1, len(rows), 2))
        assert [(state, level) for _, state, level, _ in story(result)] == told
    rows = [*minutes(usual, *points), configure(90, less.version), reading("a", 120, pm25=1), tick(300), tick(421)]
    result = drive(rows, [usual, less])
    assert [(row["state"], evidence(row)["standing"]) for row in of(result)] == [
        ("open", 2), ("comment", 0), ("resolved", 0),
    ]  # fmt: skip


class Partitions:
    """Processes of several partitions, each over its own raw; what is told goes behind the raw of the first.

    With ``again`` what was told last is told again with each, as a process does that was killed.
    """

    def __init__(self, cat: Catalogue, count: int, *, again: bool = False) -> None:
        self._cat, self._count, self._again = cat, count, again
        self._processes = [self._new(p) for p in range(count)]
        self._offsets = [0] * count
        self._saved: list[dict[str, bytes]] = [{} for _ in range(count)]
        self.alerts: list[dict[str, Any]] = []
        self.told: list[bytes] = []

    def _new(self, partition: int) -> Process:
        process = Process({self._cat.version: self._cat}.__getitem__, partition, self._count, tell=True)
        process.restore(None)
        return process

    def feed(self, row: dict[str, Any]) -> None:
        """Apply a row where it belongs: a message in its station's partition, all else everywhere."""
        device = row["device"]
        mine = [partition_of(device.upper(), self._count)] if device else range(self._count)
        for partition in mine:
            self._apply(partition, frame_of([row]))

    def _apply(self, partition: int, frame: bytes) -> None:
        outputs = self._processes[partition].apply(decode(frame), self._offsets[partition])
        self._offsets[partition] += 1
        if ALERTS in outputs:
            for row in decode(outputs[ALERTS]).sections["alerts"].to_pylist():
                self.alerts.append({"partition": partition, **row})
        if (RAW, 0) in outputs:
            assert partition
            self.told.append(outputs[RAW, 0])
            for told in [outputs[RAW, 0], *(self.told[-5:] if self._again else ())]:
                self._apply(0, told)

    def restart(self) -> None:
        """Save every process and take its state up in a new one."""
        for partition, process in enumerate(self._processes):
            put, drop = process.snapshot()
            saved = self._saved[partition]
            saved |= put
            for name in drop:
                saved.pop(name, None)
            self._processes[partition] = self._new(partition)
            self._processes[partition].restore(saved)


def incidents(alerts: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What is told of situations, but for when and where it was known."""
    out = []
    for row in alerts:
        if row["rule"] == "s":
            seen = evidence(row)
            line = [tuple(step.values()) for step in seen.pop("timeline")]
            out.append((row["alert"], row["station"], row["state"], row["level"], row["value"], repr(seen), line))
    return out


POINTS = [
    (0.0, "A", 80.0), (1.0, "D", 80.0), (2.0, "B", 160.0), (3.0, "D", 10.0), (4.0, "C", 80.0), (5.0, "E", 160.0),
    (6.0, "A", 10.0), (7.0, "B", 10.0), (8.0, "C", 10.0), (9.0, "E", 10.0), (20.0, "D", 80.0), (22.0, "A", 160.0),
    (23.0, "B", 10.0), (24.0, "B", 500.0), (25.0, "B", 10.0), (26.0, "A", 10.0), (27.0, "D", 10.0),
]  # fmt: skip


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_partitions_raise_the_same_incidents_as_one(count: int, again: bool) -> None:
    """Same ids, steps and timelines; told once or again, restarted at every row or never; decided in the first."""
    cat = city({"stations": 3})
    rows = minutes(cat, *POINTS, ticks_to=40)
    alone = Partitions(cat, 1)
    several, restarted = (Partitions(cat, count, again=again) for _ in range(2))
    for row in rows:
        for one in (alone, several, restarted):
            one.feed(row)
        restarted.restart()
    assert alone.told == []
    assert len(several.told) > 5
    found = incidents(alone.alerts)
    assert {"open", "comment", "resolved"} <= {row[2] for row in found}
    assert len({row[0] for row in found}) == 2
    assert incidents(several.alerts) == incidents(restarted.alerts) == found
    assert {row["partition"] for row in several.alerts if row["rule"] == "s"} == {0}


def test_nothing_is_told_that_no_situation_looks_at() -> None:
    """Without a situation rule, and over raw that is fixed, there is no row more."""
    for cat in (city(), city({"rules": "dust", "where": {"station": "D"}})):
        both = Partitions(cat, 2)
        for row in minutes(cat, *POINTS):
            both.feed(row)
        assert both.told == []
        assert any(row["station"] == "A" for row in both.alerts)
    fixed = Process({CAT_OF_TWO.version: CAT_OF_TWO}.__getitem__, 1, 2)
    fixed.restore(None)
    rows = [row for row in minutes(CAT_OF_TWO, *POINTS) if row["device"] in {"", "a", "b", "c"}]
    outputs = fixed.apply(decode(frame_of(rows)), 0)
    assert ALERTS in outputs
    assert (RAW, 0) not in outputs


CAT_OF_TWO = city({})


@pytest.mark.parametrize("every", [1, 3, 7])
def test_cut_and_restarted_anywhere(every: int) -> None:
    """The same transitions, row by row as in one frame."""
    cat = city({"stations": 3}, {"id": "t", "place": "radius", "radius_km": 1, "level": "red"})
    rows = minutes(cat, *POINTS, ticks_to=40)
    whole = drive(rows, [cat])
    cuts = list(range(1, len(rows), every))
    assert drive(rows, [cat], cuts, cuts[::2]).comparable() == whole.comparable()
    assert {"open", "comment", "resolved"} <= {row["state"] for row in of(whole)}


def test_commands_about_situations_go_into_the_first_partition(tmp_path: Path) -> None:
    """There they are decided, wherever the station that began them lives."""
    bus = SqliteBus(tmp_path, partitions=4, free_floor_bytes=0)
    try:
        orders = Orders(bus, ManualClock(T0), "v")
        orders.command("acknowledge", "Li", {"alert": "x"}, None)
        orders.command("acknowledge", "Li", {"alert": "y"}, "A")
        assert partition_of("A", 4) != 0
        assert [bus.end(RAW, p) for p in range(4)] == [1 if p in (0, partition_of("A", 4)) else 0 for p in range(4)]
    finally:
        bus.close()
