"""Alerts on more than one station: routes that are not heard, networks that fall silent, and what they replace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.process import Process
from qingtu.clock import SECOND
from qingtu.partitions import partition_of
from qingtu.records import ALERTS, decode
from tests.process.support import (
    Result,
    catalogue,
    command,
    configure,
    drive,
    frame_of,
    reading,
    station,
    tick,
)
from tests.process.test_alert_kinds import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qingtu.catalogue import Catalogue

QUIET = {"id": "quiet", "kind": "silence", "zh": "静", "en": "Quiet", "after_intervals": 5}
DEAD = yaml.safe_load(EXAMPLES["network"][0])
LINK = yaml.safe_load(EXAMPLES["link"][0])


def city(names: str, *rules: dict[str, Any], **more: Any) -> Catalogue:
    """Stations of one letter each, with a device of the small letter that sends every minute."""
    blocks = [station(name, [{"id": name.lower(), "properties": ["pm25"]}], **more) for name in names]
    return catalogue(blocks, rules or [DEAD, QUIET])


def minutes(cat: Catalogue, heard: Iterable[str], *extra: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one minute after the other: a reading of each station that is named, and a tick half a minute later."""
    rows = [configure(-60, cat.version), *extra]
    for minute, names in enumerate(heard):
        rows += [reading(name.lower(), minute * 60 + i, pm25=minute % 7) for i, name in enumerate(names)]
        rows.append(tick(minute * 60 + 30))
    return sorted(rows, key=lambda row: row["received_at"])


def told(result: Result) -> list[tuple[int, str, str, str]]:
    """Minute, state, rule, and who it is about, of each transition."""
    return [
        (r["time"] // SECOND // 60, r["state"], r["rule"], r["station"] or " ".join(evidence(r).get("stations", [])))
        for r in result.alerts
    ]


def evidence(row: dict[str, Any]) -> dict[str, Any]:
    """What a transition tells beside its columns."""
    found: dict[str, Any] = orjson.loads(row["evidence"])
    return found


def cells(kind: str) -> list[list[str]]:
    """The lines of the table on the page."""
    return [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in EXAMPLES[kind][1].splitlines()[2:]]


# ------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_the_example_of_networks_is_right(every: int) -> None:
    """Opened, replaced, ended, and those that are still silent raise their own: as the page says, however it is cut."""
    heard: list[str] = []
    wanted: list[tuple[int, str, str, str]] = []
    for line in cells("network"):
        first, _, last = line[0].partition("–")
        heard += [line[1].replace(" ", "")] * (int(last or first) - int(first) + 1)
        for said in filter(None, line[2].split(", ") if len(line) > 2 else []):
            match = re.fullmatch(r"(\w+) ([\w-]+): (.+)", said)
            assert match
            wanted.append((int(first), match[1], match[2], match[3]))
    cat = city("ABCDE")
    rows = minutes(cat, heard)
    cuts = list(range(1, len(rows), every))
    assert told(drive(rows, [cat], cuts, cuts[::5])) == wanted
    assert len(wanted) == 6


def test_evidence_names_network_stations_and_since() -> None:
    """Who is silent, of how many, since when; at the end also who still is."""
    cat = city("ABCDE")
    opened, resolved = drive(minutes(cat, ["ABCDE"] * 3 + ["E"] * 5 + ["ABE"] * 2), [cat]).alerts
    seen = evidence(opened)
    assert (seen["network"], seen["stations"], seen["of"]) == ("n", ["A", "B", "C", "D"], 5)
    assert seen["since_us"] % 1_000_000_000 == (1_795_392_000_000_000 + 123 * SECOND) % 1_000_000_000  # D, third minute
    assert evidence(resolved)["silent"] == ["C", "D"]
    assert (opened["level"], resolved["level"], opened["alert"]) == (2, 0, resolved["alert"])


def test_too_few_and_too_small_a_share_raise_their_own() -> None:
    """Two of two are fewer than three; three of five are less than the share."""
    assert {r[2:] for r in told(drive(minutes(city("AB"), ["AB"] * 3 + [""] * 15), [city("AB")]))} == {
        ("quiet", "A"), ("quiet", "B"),
    }  # fmt: skip
    cat = city("ABCDE")
    result = told(drive(minutes(cat, ["ABCDE"] * 3 + ["DE"] * 10), [cat]))
    assert [r[2:] for r in result] == [("quiet", "A"), ("quiet", "B"), ("quiet", "C")]


def test_a_single_station_does_not_wait() -> None:
    """The others were heard since: there is nothing to wait for. With and without the rule it is the same."""
    heard = ["ABCDE"] * 3 + ["ABCD"] * 10
    with_, without = city("ABCDE"), city("ABCDE", QUIET)
    assert told(drive(minutes(with_, heard), [with_])) == told(drive(minutes(without, heard), [without]))


def test_silence_waits_one_grace_while_the_network_may_be_dead() -> None:
    """Slow stations are not overdue yet: the fast one waits, and opens after the grace when nothing else comes."""
    slow = [station(x, [{"id": x.lower(), "properties": ["pm25"], "interval_s": 3600}]) for x in "BCDE"]
    fast = station("A", [{"id": "a", "properties": ["pm25"], "interval_s": 60}])
    cat = catalogue([fast, *slow], [DEAD, QUIET])
    rows = minutes(cat, ["ABCDE", *[""] * 20])
    assert told(drive(rows, [cat])) == [(10, "open", "quiet", "A")]  # 5 intervals would be minute 5


def test_an_open_silence_alert_is_replaced() -> None:
    """It is resolved and says by which alert, and is not opened again while that stands."""
    slow = [station(x, [{"id": x.lower(), "properties": ["pm25"], "interval_s": 300}]) for x in "BCDE"]
    fast = station("A", [{"id": "a", "properties": ["pm25"], "interval_s": 60}])
    cat = catalogue([fast, *slow], [DEAD | {"grace_s": 60}, QUIET])
    result = drive(minutes(cat, ["ABCDE", *[""] * 50]), [cat])
    assert told(result) == [
        (6, "open", "quiet", "A"), (15, "open", "network-dead", "A B C D E"), (15, "resolved", "quiet", "A"),
    ]  # fmt: skip
    assert evidence(result.alerts[2])["why"] == f"network dead: {result.alerts[1]['alert']}"


def test_those_that_died_before_are_no_part_of_it() -> None:
    """A station that has been dead for an hour keeps its own alert; the others are counted without it."""
    cat = city("ABCDE")
    result = told(drive(minutes(cat, ["ABCDE"] * 3 + ["BCDE"] * 60 + [""] * 10), [cat]))
    assert result == [(7, "open", "quiet", "A"), (65, "open", "network-dead", "B C D E")]


def test_stations_that_die_one_after_the_other_are_no_dead_network() -> None:
    """Each has its own alert: nothing failed that they share."""
    cat = city("ABCDE")
    heard = [names for names in ("ABCDE", "BCDE", "CDE", "DE", "E", "") for _ in range(10)]
    assert {r[2] for r in told(drive(minutes(cat, heard), [cat]))} == {"quiet"}


def test_who_is_found_silent_later_is_added() -> None:
    """A station that sends seldom is named when it is overdue; the alert keeps its id, state and level."""
    slow = station("Z", [{"id": "z", "properties": ["pm25"], "interval_s": 600}])
    fast = [station(x, [{"id": x.lower(), "properties": ["pm25"]}]) for x in "ABCDE"]
    cat = catalogue([*fast, slow], [DEAD, QUIET])
    heard = ["ABCDEZ", *[""] * 60]
    first = drive(minutes(cat, heard), [cat]).alerts[0]
    ack = command(600, "acknowledge", "Li", alert=first["alert"], note="on my way")
    result = drive(minutes(cat, heard, ack), [cat])
    assert told(result)[0] == (3, "open", "network-dead", "A B C D E")
    assert [(r["state"], r["level"], r["alert"], r["who"]) for r in result.alerts[1:]] == [
        ("acknowledged", 2, first["alert"], "Li"), ("acknowledged", 2, first["alert"], ""),
    ]  # fmt: skip
    assert evidence(result.alerts[2])["stations"] == ["A", "B", "C", "D", "E", "Z"]


def test_maintenance_and_deaf_routes_are_not_counted() -> None:
    """A station under maintenance is neither dead nor alive; while the route is not heard nothing is judged."""
    cat = city("ABCDE")
    work = command(0, "maintenance", "Li", station="E", until_us=1_795_392_000_000_000 + 3600 * SECOND)
    result = told(drive(minutes(cat, ["ABCDE"] * 3 + ["D"] * 9, work), [cat]))
    assert {r[2:] for r in result} == {("quiet", "A"), ("quiet", "B"), ("quiet", "C")}  # three of four are not 0.8
    deaf = [row | {"payload": b'{"hearing":{}}'} if row["kind"] == 1 else row for row in minutes(cat, [""] * 30)]
    assert drive(deaf, [cat]).alerts == []


def test_it_stands_over_our_own_restart() -> None:
    """Hearing anew after a reconnection does not make a dead network alive."""
    cat = city("ABCDE")
    rows = minutes(cat, ["ABCDE"] * 3 + [""] * 20)
    late = [tick(60 * m + 30, {"native": 60 * 12}) if row["kind"] == 1 and m > 12 else row
            for row in rows for m in [(row["received_at"] - 1_795_392_000_000_000) // SECOND // 60]]  # fmt: skip
    assert [r[:3] for r in told(drive(late, [cat], range(1, len(late)), [15, 20]))] == [(5, "open", "network-dead")]


def test_a_changed_catalogue_keeps_or_closes_it() -> None:
    """By rule and network: another share changes nothing of what stands; without the rule it is resolved."""
    first, other, without = city("ABCDE"), city("EDCBA", DEAD | {"share": 0.7}, QUIET), city("ABCDE", QUIET)
    rows = minutes(first, ["ABCDE"] * 3 + ["E"] * 8)
    kept = [*rows, configure(700, other.version), tick(720), reading("a", 730, pm25=1), tick(740),
            configure(750, without.version), tick(1000)]  # fmt: skip
    result = drive(kept, [first, other, without], range(1, len(kept)), [len(kept) - 4])
    assert told(result)[:1] == [(5, "open", "network-dead", "A B C D")]
    assert told(result)[1][1:3] == ("resolved", "network-dead")
    assert evidence(result.alerts[1])["silent"] == ["D", "C", "B"]
    gone = [*rows, configure(700, without.version), tick(720)]
    result = drive(gone, [first, without], range(1, len(gone)))
    assert evidence(result.alerts[1]) == {"why": "catalogue changed"}
    assert [r[2:] for r in told(result)[2:]] == [("quiet", name) for name in "ABCD"]


@given(st.lists(st.sets(st.sampled_from("ABCDE")), min_size=1, max_size=6), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_any_story_cut_anywhere_is_the_same(story: Sequence[set[str]], length: int, data: st.DataObject) -> None:
    """However frames are cut and where the process restarts; and in the end each is told once."""
    cat = city("ABCDE")
    rows = minutes(cat, ["".join(sorted(names)) for names in story for _ in range(length)] + [""] * 25)
    cuts = data.draw(st.lists(st.integers(1, len(rows) - 1), max_size=6))
    restores = data.draw(st.lists(st.sampled_from(cuts), max_size=3)) if cuts else []
    whole = drive(rows, [cat])
    assert drive(rows, [cat], cuts, restores).comparable() == whole.comparable()
    heard = {name: max((r["received_at"] for r in rows if r["device"] == name.lower()), default=0) for name in "ABCDE"}
    standing: dict[str, dict[str, Any]] = {row["alert"]: row for row in whole.alerts}
    stands = [row for row in standing.values() if row["state"] != "resolved"]
    own = [row["station"] for row in stands if row["station"]]
    grouped = [
        name
        for row in stands
        if not row["station"]
        for name in evidence(row)["stations"]
        if heard[name] <= evidence(row)["since_us"] or not heard[name]
    ]
    assert sorted(own + grouped) == list("ABCDE")


def test_each_partition_names_its_own_stations() -> None:
    """No station is named twice, none by a partition that never hears it, and the alerts are different ones."""
    names = "ABCDEFGHIJKLMNOP"
    cat = city(names, DEAD)
    told_, idents = [], set()
    for partition in range(2):
        process = Process({cat.version: cat}.__getitem__, partition, 2)
        process.restore(None)
        rows = [configure(0, cat.version), tick(10, {"native": 0}), tick(5000, {"native": 0})]
        [row] = decode(process.apply(decode(frame_of(rows)), 0)[ALERTS]).sections["alerts"].to_pylist()
        mine = evidence(row)["stations"]
        assert {partition_of(name, 2) for name in mine} == {partition}
        told_ += mine
        idents.add(row["alert"])
    assert sorted(told_) == list(names)
    assert len(idents) == 2


# ---------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("every", [1, 1000])
def test_the_example_of_links_is_right(every: int) -> None:
    """One alert a route, on ticks; the stations of a route that is not heard are not called silent."""
    cat = catalogue(None, [LINK, DEAD, QUIET | {"after_intervals": 1}])
    rows, wanted = [configure(0, cat.version)], []
    for minute, routes, *then in cells("link"):
        rows.append(tick(int(minute) * 60, dict.fromkeys(routes.split(), int(minute) * 60)))
        wanted += [(int(minute), *said.split()) for said in then if said]
    cuts = list(range(1, len(rows), every))
    result = drive(rows, [cat], cuts, cuts)
    found = [(r["time"] // SECOND // 60, r["state"], evidence(r)["route"]) for r in result.alerts]
    assert found == wanted
    assert {(r["rule"], r["station"]) for r in result.alerts} == {("link-down", "")}
    assert evidence(result.alerts[0])["stations"] == ["A", "B", "C"]


def test_a_gap_without_ticks_is_no_time_without_a_link() -> None:
    """The program was off for a day; it must first miss the route for as long as the rule says."""
    cat = catalogue(None, [LINK])
    rows = [configure(0, cat.version), tick(0), tick(86400, {}), tick(86519, {}), tick(86521, {})]
    assert [r["time"] // SECOND for r in drive(rows, [cat], range(1, 5), [2, 3]).alerts] == [86521, 86521]


def test_ticks_of_several_gateways_are_no_outage() -> None:
    """Each names the routes that it hears itself; a route that any of them hears is heard."""
    cat = catalogue(None, [LINK])
    ticks = [tick(5 * i, {("native", "other")[i % 2]: 0}) for i in range(100)]
    assert drive([configure(0, cat.version), *ticks], [cat]).alerts == []


def test_links_can_be_acknowledged_and_commented() -> None:
    """By their id, in the name of the person; the other route's alert is another one."""
    cat = catalogue(None, [LINK])
    rows = [configure(0, cat.version), tick(0, {}), tick(130, {})]
    first, second = drive(rows, [cat]).alerts
    assert first["alert"] != second["alert"]
    rows.append(command(140, "acknowledge", "Li", alert=first["alert"]))
    rows += [command(150, "comment", "Li", alert=first["alert"], note="switch"), tick(160)]
    mine = [r for r in drive(rows, [cat], range(1, 6), [3]).alerts if r["alert"] == first["alert"]]
    assert [(r["state"], r["who"], r["note"]) for r in mine] == [
        ("open", "", ""), ("acknowledged", "Li", ""), ("comment", "Li", "switch"), ("resolved", "", ""),
    ]  # fmt: skip
