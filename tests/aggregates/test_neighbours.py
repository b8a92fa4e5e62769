"""The neighbour test: whose readings are revised, in one or several partitions, also when stages are killed."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

from processors.bits import named
from qingtu.clock import HOUR, SECOND
from qingtu.contracts import ReadingQuery
from qingtu.explain import neighbours
from qingtu.partitions import partition_of
from qingtu.records import NEIGHBOUR, OVERRIDDEN, RAW, Cause, position
from tests.aggregates.city import City
from tests.process.support import T0, catalogue, command, configure, drive, reading, station, tick

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S: Final = 3600
STATIONS: Final = "ABCDEFG"
SUSPECT, SHARE, MINIMUM = 40.0, 0.5, 3
LIMITS: Final = {"pm25": {"neighbour": {"suspect": SUSPECT, "share": SHARE, "radius_km": 10, "minimum": MINIMUM}}}
PLACES: Final = {s: [120.3 + 0.01 * i + 0.001 * i * i, 36.1] for i, s in enumerate(STATIONS)} | {"G": [121.3, 36.1]}
"""A kilometre or two from each other; G is far away from all."""
BLOCKS: Final[list[dict[str, Any]]] = [
    {
        "ident": s, "devices": [{"id": s.lower(), "properties": ["pm25"]}], "interval_s": 600, "position": PLACES[s],
        "limits": LIMITS,
    }
    for s in STATIONS
]  # fmt: skip
CATALOGUE: Final = catalogue([station(**block) for block in BLOCKS], [])
Marks = dict[tuple[str, int], set[tuple[float, int, int]]]


def hour_of(hour: int, received_s: float | None = None, **levels: float) -> list[dict[str, Any]]:
    """Six readings in an hour of each station that has a level."""
    return [
        reading(s.lower(), at, received_s=at if received_s is None else received_s, pm25=level + i)
        for i in range(6)
        for at in [hour * HOUR_S + 600 * i]
        for s, level in levels.items()
    ]


def ticks(hour: int) -> list[dict[str, Any]]:
    """Ticks a minute apart, behind the end of an hour."""
    return [tick((hour + 1) * HOUR_S + 60 * i + 1) for i in range(6)]


def usual(hour: int, **other: float) -> list[dict[str, Any]]:
    """An hour in which all stations read about the same, but for those that are named."""
    return hour_of(hour, **{s: 20.0 + 2 * i for i, s in enumerate(STATIONS)} | other)


class Neighbourhood(City):
    """A city of which flags are looked at."""

    def live(self, *parts: list[dict[str, Any]]) -> None:
        """Feed rows, everything keeping up after each part."""
        for rows in parts:
            self.feed(rows)
            self.run()

    def hours(self, *hours: list[dict[str, Any]], version: str = CATALOGUE.version) -> None:
        """Feed hours from the first one on, and the ticks behind each."""
        self.live([configure(-1, version)])
        for n, rows in enumerate(hours):
            self.live(rows, *([one] for one in ticks(n)))

    def marks(self) -> Marks:
        """Return (station, hour) → value, flag and tests of its readings."""
        keys = [(s, "pm25", "main") for s in STATIONS]
        out: Marks = {}
        for row in self.store.readings(ReadingQuery(keys, T0, T0 + 100 * HOUR)).to_pylist():
            place = (STATIONS[row["series"]], (row["time"] - T0) // HOUR)
            out.setdefault(place, set()).add((row["value"], row["flag"], row["tests"]))
        return out

    def suspects(self) -> set[tuple[str, int]]:
        """Return station and hour of the readings that have the bit; all readings of an hour have it, or none."""
        out = set()
        for place, rows in self.marks().items():
            bits = {tests & NEIGHBOUR for _, _, tests in rows}
            assert len(bits) == 1, (place, rows)
            if bits == {NEIGHBOUR}:
                assert {flag for _, flag, _ in rows} == {3}
                out.add(place)
        return out

    def hour_figure(self, station_id: str, hour: int) -> tuple[Any, ...]:
        """Return value, validity and reason of an hour of a station."""
        with self.store.cursor() as db:
            found = db.execute(
                "SELECT value, valid, reason FROM figures WHERE what = 'hour' AND station = ? AND epoch_us(start) = ?",
                [station_id, T0 + hour * HOUR],
            ).fetchone()
        assert found is not None
        return tuple(found)


def test_a_station_that_stands_apart_is_suspect(tmp_path: Path) -> None:
    """Its readings of that hour alone; its hour has no figure any more, which is a correction; an event says why."""
    city = Neighbourhood(tmp_path, CATALOGUE, 1)
    city.hours(usual(0), usual(1, E=90.0), usual(2), [])
    assert city.suspects() == {("E", 1)}
    assert city.hour_figure("E", 1)[1:] == (False, "none_good")
    assert city.hour_figure("D", 1)[1]
    (corrected,) = city.store.figure_corrections(0, 100, station="E", prop="pm25", what="hour")
    assert (corrected["old_valid"], corrected["new_valid"], corrected["start"]) == (True, False, T0 + HOUR)
    (event,) = [row for row in city.store.events(T0, T0 + 5 * HOUR) if row["kind"] == "neighbour"]
    told = orjson.loads(event["attributes"])
    assert (event["station"], event["time"], told["bad"], told["end_us"]) == ("E", T0 + HOUR, True, T0 + 2 * HOUR)
    assert told["mean"] == pytest.approx(92.5)
    assert told["median"] == pytest.approx(statistics.median([20, 22, 24, 26, 30]) + 2.5)
    assert told["limit"] == SUSPECT
    assert told["near"] == ["D", "F", "C", "B", "A"], "nearest first; G is too far away"
    assert named(NEIGHBOUR) == ["neighbour"]
    assert city.commands("neighbours") == 1, "said once: it is seen to stand"
    reading_us = T0 + HOUR + 600 * SECOND
    found = city.store.reading(("E", "pm25", "main"), reading_us)
    assert found is not None
    (explained,) = neighbours(city.store, ("E", "pm25", "main"), found)
    assert "92.5 / 26.5" in explained["en"]
    assert "周边" in explained["zh"]
    assert explained["data"]["rows"][0]["near"] == told["near"]
    before = city.store.reading(("E", "pm25", "main"), reading_us - HOUR)
    assert before is not None
    assert neighbours(city.store, ("E", "pm25", "main"), before) == []
    city.close()


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_rule_may_watch_how_far_a_station_is_from_those_around(tmp_path: Path, partitions: int) -> None:
    """Kind figure, what neighbour: told for each hour, so the alert ends with the first hour that fits again."""
    rule = {
        "id": "apart", "kind": "figure", "zh": "离群", "en": "Apart", "what": "neighbour", "property": "pm25",
        "levels": {"yellow": 60},
    }  # fmt: skip
    own = catalogue([station(**block) for block in BLOCKS], [rule])
    city = Neighbourhood(tmp_path, own, partitions)
    city.hours(usual(0), usual(1, E=90.0), usual(2, E=95.0), usual(3), [], version=own.version)
    with city.store.cursor() as db:
        found = db.execute("SELECT station, state, value FROM alerts ORDER BY known_at").fetchall()
    assert [row[:2] for row in found] == [("E", "open"), ("E", "resolved")]
    assert found[0][2] == pytest.approx(66)
    city.close()


def test_an_alert_on_a_station_apart_ends_when_nothing_of_its_hour_holds(tmp_path: Path) -> None:
    """A person fails all readings of the hour that opened it."""
    rule = {
        "id": "apart", "kind": "figure", "zh": "离群", "en": "Apart", "what": "neighbour", "property": "pm25",
        "levels": {"yellow": 60},
    }  # fmt: skip
    own = catalogue([station(**block) for block in BLOCKS], [rule])
    city = Neighbourhood(tmp_path, own, 1)
    city.hours(usual(0), usual(1, E=90.0), version=own.version)
    for i in range(6):
        word = {
            "station": "E", "property": "pm25", "channel": "main", "time_us": T0 + HOUR + 600 * i * SECOND,
            "value": 90.0 + i, "tests": NEIGHBOUR, "flag": 4, "reason": "broken",
        }  # fmt: skip
        city.live([command(2 * HOUR_S + 400, "override", "Li", **word)])
    city.live(*([one] for one in ticks(2)))
    with city.store.cursor() as db:
        found = db.execute("SELECT station, state FROM alerts ORDER BY known_at").fetchall()
    assert found == [("E", "open"), ("E", "withdrawn")]
    city.close()


def test_who_has_too_few_neighbours_is_not_judged(tmp_path: Path) -> None:
    """G is alone; with two neighbours left that have a mean, E is not judged either."""
    city = Neighbourhood(tmp_path, CATALOGUE, 1)
    city.hours(usual(0, G=400.0), hour_of(1, A=20.0, B=22.0, E=90.0), [])
    assert city.suspects() == set()
    city.close()


def test_a_verdict_is_taken_back_when_the_neighbours_come_late(tmp_path: Path) -> None:
    """An episode whose other stations send hours later: nobody stands apart, and the figure holds again."""
    city = Neighbourhood(tmp_path, CATALOGUE, 2)
    early = {"A": 20.0, "B": 22.0, "C": 24.0, "E": 90.0}
    city.hours(usual(0), hour_of(1, **early), usual(2))
    assert city.suspects() == {("E", 1)}
    late = hour_of(1, 3 * HOUR_S, D=88.0, F=91.0)
    city.live(late, hour_of(1, 3 * HOUR_S, A=95.0, B=97.0), *([one] for one in ticks(3)))
    assert city.suspects() == {("C", 1)}, "now C is the one that stands apart"
    assert {(flag, tests) for _, flag, tests in city.marks()["E", 1]} == {(1, 0)}
    assert city.hour_figure("E", 1)[1]
    city.close()


@pytest.mark.parametrize("seed", range(8))
def test_several_partitions_and_kills_end_in_the_same(tmp_path: Path, seed: int) -> None:
    """Whatever stage is ahead, behind or killed; the readings end with the same flags."""
    rng = random.Random(seed)
    assert {partition_of(s, 2) for s in STATIONS[:6]} == {0, 1}
    apart = [{rng.choice(STATIONS): rng.choice([90.0, 150.0])} for _ in range(4)]
    parts = [[configure(-1, CATALOGUE.version)]]
    for hour, other in enumerate(apart):
        rows = usual(hour, **other)
        missing = rng.choice(STATIONS).lower()
        parts.append([row for row in rows if row["device"] != missing])
        parts += [[one] for one in ticks(hour)]
        behind = (hour + 1) * HOUR_S + 400
        parts.append([{**row, "received_at": T0 + behind * SECOND} for row in rows if row["device"] == missing])
        parts += [[tick(behind + 60 * i + 1)] for i in range(5)]
    wanted = Neighbourhood(tmp_path / "plain", CATALOGUE, 1)
    wanted.live(*parts)
    city = Neighbourhood(tmp_path / "killed", CATALOGUE, 2)
    for rows in parts:
        city.feed(rows)
        city.disturb(rng)
    city.run()
    # What was told behind the last tick waits for the next ones.
    for i in range(6):
        city.live([tick(6 * HOUR_S + 90 * i)])
        wanted.live([tick(6 * HOUR_S + 90 * i)])
    city.kill()
    city.run()
    assert wanted.suspects() <= {(s, hour) for hour, other in enumerate(apart) for s in other}
    assert city.marks() == wanted.marks()
    before = city.commands("neighbours")
    for i in range(4):
        city.live([tick(7 * HOUR_S + 90 * i)])
    assert city.commands("neighbours") == before, "nothing is said any more"
    city.close()
    wanted.close()


def test_any_readings_are_judged_as_a_plain_program_judges_them(tmp_path: Path) -> None:
    """Forty hours of random levels and holes, against loops over lists."""
    rng = random.Random(5)
    city = Neighbourhood(tmp_path, CATALOGUE, 1)
    hours = []
    for _ in range(40):
        base = rng.choice([10.0, 60.0, 200.0])
        levels = {s: base + rng.uniform(-10, 10) for s in STATIONS if rng.random() < 0.8}
        for s in rng.sample(sorted(levels), min(len(levels), rng.randrange(3))):
            levels[s] = max(0.0, base * rng.uniform(0.2, 2.5))
        hours.append(levels)
    city.hours(*(hour_of(n, **levels) for n, levels in enumerate(hours)), [])
    wanted = set()
    for n, levels in enumerate(hours):
        for s in set(levels) - {"G"}:
            around = [levels[o] + 2.5 for o in levels if o not in {s, "G"}]
            if len(around) < MINIMUM:
                continue
            median = statistics.median(around)
            if abs(levels[s] + 2.5 - median) > max(SUSPECT, SHARE * median):
                wanted.add((s, n))
    assert city.suspects() == wanted
    assert len(wanted) > 10
    city.close()


def said(at_s: float, seen: int, *readings: list[Any], station_id: str = "A") -> dict[str, Any]:
    """Make the command of derive about readings of a station, as of a position."""
    args = {
        "station": station_id, "property": "pm25", "channel": "main", "start_us": T0, "end_us": T0 + HOUR, "at": seen,
        "bad": True, "mean": 90.0, "median": 20.0, "limit": 40.0, "near": ["B", "C", "D"], "readings": list(readings),
    }  # fmt: skip
    return command(at_s, "neighbours", "system", verdicts=[args])


SPIKY: Final = catalogue(
    [station("A", [{"id": "a", "properties": ["pm25"]}], limits={"pm25": {"spike": {"suspect": 60, "fail": 120}}})], []
)
SPIKE: Final = 1 << 4


@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 4, 5]])
def test_a_verdict_of_another_check_keeps_the_bit(cuts: list[int]) -> None:
    """The next reading shows a spike: its bit is added to that of the neighbours."""
    rows = [
        configure(0, SPIKY.version), reading("a", 0, pm25=10), reading("a", 60, pm25=190),
        said(90, 2, [T0 + 60 * SECOND, 190.0, 3, NEIGHBOUR]), reading("a", 120, pm25=10),
    ]  # fmt: skip
    mine = [r for r in drive(rows, [SPIKY], cuts, cuts[2:]).readings if r["time"] == 60 * SECOND]
    assert [(r["cause"], r["flag"], r["tests"]) for r in mine] == [
        (Cause.READING, 1, 0), (Cause.NEIGHBOUR, 3, NEIGHBOUR), (Cause.QUALITY_DECIDED, 4, NEIGHBOUR | SPIKE),
    ]  # fmt: skip


@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 4, 5]])
def test_what_was_said_meanwhile_is_not_undone(cuts: list[int]) -> None:
    """A person set the flag behind what derive saw: its word does not count, and does when it has seen the person's."""
    word = {
        "station": "A", "property": "pm25", "channel": "main", "time_us": T0, "value": 90.0, "tests": 0, "flag": 1,
        "reason": "checked on site",
    }  # fmt: skip
    rows = [configure(0, SPIKY.version), reading("a", 0, pm25=90), command(60, "override", "Li", **word)]
    read, set_by_li = (position(row, 0) if cuts else row for row in (1, 2))
    early = drive([*rows, said(90, read, [T0, 90.0, 3, NEIGHBOUR])], [SPIKY], cuts, cuts[1:])
    assert (early.readings[-1]["cause"], early.readings[-1]["tests"]) == (Cause.OVERRIDE, OVERRIDDEN)
    assert [event["kind"] for event in early.events] == ["override"]
    seen = drive([*rows, said(90, set_by_li, [T0, 90.0, 1, NEIGHBOUR | OVERRIDDEN])], [SPIKY], cuts, cuts[1:])
    assert (seen.readings[-1]["cause"], seen.readings[-1]["flag"]) == (Cause.NEIGHBOUR, 1)


def test_what_was_said_before_a_promote_does_not_count_after_it() -> None:
    """A promote changes flags in the store, which derive has not seen yet when it speaks of an earlier position."""
    promoted = configure(60, SPIKY.version, promoted="g")
    rows = [configure(0, SPIKY.version), reading("a", 0, pm25=90), promoted]
    early = drive([*rows, said(90, 1, [T0, 90.0, 3, NEIGHBOUR])], [SPIKY])
    assert [r["cause"] for r in early.readings] == [Cause.READING]
    seen = drive([*rows, said(90, 2, [T0, 90.0, 3, NEIGHBOUR])], [SPIKY])
    assert [r["cause"] for r in seen.readings] == [Cause.READING, Cause.NEIGHBOUR]


def test_it_is_said_again_after_a_kill_and_counts_once() -> None:
    """Derive appends to raw at least once."""
    once = said(90, 1, [T0, 90.0, 3, NEIGHBOUR])
    rows = [configure(0, SPIKY.version), reading("a", 0, pm25=90), once, once]
    result = drive(rows, [SPIKY])
    assert [r["cause"] for r in result.readings] == [Cause.READING, Cause.NEIGHBOUR]
    assert len(result.events) == 1


def test_a_station_that_left_the_catalogue_is_passed_over() -> None:
    """Nobody waits for the word any more."""
    rows = [configure(0, SPIKY.version), said(90, 1, [T0, 90.0, 3, NEIGHBOUR], station_id="Z")]
    result = drive(rows, [SPIKY])
    assert (result.readings, result.events, result.rejected) == ([], [], [])


def test_an_alert_of_a_reading_that_stands_apart_is_withdrawn() -> None:
    """As with any other verdict that comes late."""
    limits = [{"id": "dust", "kind": "threshold", "zh": "尘", "en": "Dust", "property": "pm25", "levels": {"red": 80}}]
    own = catalogue([station("A", [{"id": "a", "properties": ["pm25"]}])], limits)
    rows = [configure(0, own.version), reading("a", 0, pm25=90), said(90, 1, [T0, 90.0, 3, NEIGHBOUR])]
    assert drive(rows, [own]).states("dust") == [("open", 4), ("withdrawn", 0)]


def test_old_raw_is_passed_as_it_was_told(tmp_path: Path) -> None:
    """What derive said stands on raw: a frame alone, without derive, gives the same revision again."""
    city = Neighbourhood(tmp_path, CATALOGUE, 1)
    city.hours(usual(0, E=90.0), [])
    frames = [record.data for record in city.bus.read(RAW, 0, 0, 10_000)]
    again = Neighbourhood(tmp_path / "again", CATALOGUE, 1)
    for frame in frames:
        again.bus.append(RAW, 0, [frame]).result()
    for name in [one for one in again.stages if not one.startswith("derive")] * 2:
        while again.step(name):
            pass
    assert again.marks() == city.marks()
    assert city.suspects() == {("E", 0)}
    city.close()
    again.close()
