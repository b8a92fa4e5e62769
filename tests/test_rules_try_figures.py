"""``qingtu rules try`` of rules on figures and indices: those that nobody watched then are made anew."""

from __future__ import annotations

import os
import random
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

from processors.alerts.facts import FACTS, Fact, read
from qingtu.clock import HOUR, SECOND
from qingtu.partitions import partition_of
from qingtu.records import RAW, Kind, decode
from qingtu.replay_raw import locate
from qingtu.rules_figures import Needed, figures_told
from qingtu.rules_try import try_on
from qingtu.settings import load_settings
from tests.aggregates.city import City
from tests.process.support import T0, catalogue, configure, reading, station, tick
from tests.test_rules_try_neighbours import CityRaw

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from qingtu.catalogue import Catalogue
    from qingtu.rules_try import Alert
    from qingtu.settings import Settings

HOUR_S: Final = 3600
DAY_TOO: Final = 25
"""So many hours from T0, midnight of the stations, hold one whole day."""
STATIONS: Final = "ABD"
BLOCKS: Final = [
    station(s, [{"id": s.lower(), "properties": ["pm25", "o3"]}], interval_s=600, timezone="UTC", **more)
    for s, more in (("A", {}), ("B", {"attributes": {"aqi_edition": "2012"}}), ("D", {}))
]
RULES: Final[list[dict[str, Any]]] = [
    {"id": rule, "kind": "figure", "zh": "规", "en": "R", "hysteresis": 2, "what": what, "property": prop,
     "levels": levels}
    for rule, what, prop, levels in (
        ("hours", "hour", "pm25", {"blue": 100, "yellow": 130}),
        ("moving", "8h", "o3", {"blue": 95}),
        ("days", "day", "pm25", {"blue": 80}),
        ("aqi", "hour_index", "aqi", {"blue": 120, "orange": 170}),
        ("us", "hour_index", "aqi_us", {"blue": 175}),
        ("aqi-day", "day_index", "aqi", {"blue": 90}),
    )
]  # fmt: skip
"""Each with alerts in :func:`past`."""


def settings_for(folder: Path) -> Settings:
    """Where the trial may put its file; the grace of :class:`City`."""
    environ = {"QINGTU_DATA": str(folder), "QINGTU_FIGURES__GRACE_S": "60"}
    return load_settings(Path(os.devnull), environ=environ)


def with_rules(rules: Sequence[Mapping[str, Any]]) -> Catalogue:
    """The three stations under some rules."""
    return catalogue(BLOCKS, rules)


def hour_of(hour: int, name: str, level: float, minutes: Iterable[int], late_s: float = 0) -> list[dict[str, Any]]:
    """Readings of one station; O3 is half as much again less."""
    times = [hour * HOUR_S + 60 * minute for minute in minutes]
    return [reading(name.lower(), at, late_s or at, pm25=level, o3=0.9 * level + 5) for at in times]


def past(seed: int, hours: int) -> list[list[dict[str, Any]]]:
    """Hours of three stations, and a tick behind each.

    In hour 2, A comes above the levels until one low reading comes two hours late; B's hour 3 comes late as a whole.
    """
    rng = random.Random(seed)
    parts = []
    for hour in range(hours):
        rows: list[dict[str, Any]] = []
        for name in STATIONS:
            level = {("A", 1): 50.0, ("A", 3): 110.0}.get((name, hour), rng.uniform(40, 160))
            if (name, hour) == ("A", 2):
                rows += hour_of(2, "A", 102.0, range(0, 50, 10))
            elif (name, hour) != ("B", 3):
                rows += hour_of(hour, name, level, range(0, 60, 10))
        if hour == 4:
            rows += hour_of(2, "A", 10.0, [50], 4 * HOUR_S + 1800)
        if hour == 5:
            rows += hour_of(3, "B", 150.0, range(0, 60, 10), 5 * HOUR_S + 1800)
        parts += [rows, [tick((hour + 1) * HOUR_S + 61)]]
    return parts


def lived(folder: Path, cat: Catalogue, partitions: int, parts: Sequence[Sequence[Mapping[str, Any]]]) -> City:
    """Return a city in which these rows, half an hour a frame, went all the way, everything keeping up."""
    city = City(folder, cat, partitions)
    for rows in ([configure(-1, cat.version)], *parts):
        ordered = sorted(rows, key=lambda row: row["received_at"])
        for _, some in groupby(ordered, lambda row: row["received_at"] // (HOUR // 2)):
            city.feed(list(some))
        city.run()
    return city


def told(alerts: Sequence[Alert]) -> list[tuple[Any, ...]]:
    """Rule, station, opening, end, highest level and last state of alerts."""
    return sorted(
        (a.rule, a.station, a.opened_us - T0, a.ended_us and a.ended_us - T0, a.level, a.state) for a in alerts
    )


def raised(city: City) -> list[tuple[Any, ...]]:
    """The alerts of a city as :func:`told` has them."""
    with city.store.cursor() as db:
        rows = db.execute(
            "SELECT alert, rule, station, state, level, epoch_us(time), epoch_us(opened_at) FROM alerts ORDER BY seq"
        ).fetchall()
    found: dict[str, tuple[Any, ...]] = {}
    for alert, rule, where, state, level, time_us, opened_us in rows:
        ended = time_us - T0 if state in {"resolved", "withdrawn"} else None
        top = max(level, found[alert][4] if alert in found else 0)
        found[alert] = (rule, where, opened_us - T0, ended, top, state)
    return sorted(found.values(), key=lambda row: (*row[:3], row[3] or 0))


def facts_in(batch: pa.RecordBatch) -> list[Fact]:
    """Return the facts among raw rows."""
    payloads, kinds = batch.column("payload").to_pylist(), batch.column("kind").to_pylist()
    bodies = [orjson.loads(text) for text, kind in zip(payloads, kinds, strict=True) if kind == Kind.COMMAND]
    return [fact for body in bodies if body["name"] == FACTS for fact in read(body["args"])]


def facts_of(city: City) -> list[Fact]:
    """Return what derive told on raw of a city."""
    records = [record for p in range(city.partitions) for record in city.bus.read(RAW, p, 0, 100_000)]
    return sorted({fact for record in records for fact in facts_in(decode(record.data).sections["rows"])}, key=repr)


@pytest.mark.parametrize(("partitions", "hours"), [(1, DAY_TOO), (2, 9)])
def test_a_trial_finds_what_rules_on_figures_would_have_raised(tmp_path: Path, partitions: int, hours: int) -> None:
    """Two cities with the same past, one with the rules: what appears in the other was raised in this one.

    With hours, moving and whole days, hourly and daily indices; late readings withdraw alerts in both.
    """
    assert {partition_of(s, 2) for s in STATIONS} == {0, 1}
    rules = [rule for rule in RULES if hours == DAY_TOO or not rule["what"].startswith("day")]
    without, having = with_rules([]), with_rules(rules)
    parts, settings = past(partitions, hours), settings_for(tmp_path)
    one, two = (lived(tmp_path / name, cat, partitions, parts) for name, cat in (("1", having), ("2", without)))
    live = raised(one)
    assert {rule for rule, *_ in live} == {rule["id"] for rule in rules}
    assert {("hours", "withdrawn"), ("hours", "resolved")} <= {(rule, state) for rule, *_, state in live}
    assert raised(two) == []
    found = try_on(CityRaw(two), settings, without, having, T0 - HOUR)
    assert told(found.appear) == live
    assert (found.vanish, found.move, found.same) == ([], [], 0)
    one.close()
    two.close()


def test_rules_that_were_in_force_change_nothing(tmp_path: Path) -> None:
    """What raw tells and the trial makes counts once; without the rules, what they raised vanishes."""
    rules = [rule for rule in RULES if not rule["what"].startswith("day")]
    without, having = with_rules([]), with_rules(rules)
    city, settings = lived(tmp_path, having, 1, past(1, 9)), settings_for(tmp_path)
    live = raised(city)
    assert ("hours", "withdrawn") in {(rule, state) for rule, *_, state in live}
    nothing = try_on(CityRaw(city), settings, having, having, T0 - HOUR)
    assert (nothing.appear, nothing.vanish, nothing.move, nothing.same) == ([], [], [], len(live))
    gone = try_on(CityRaw(city), settings, having, without, T0 - HOUR)
    assert told(gone.vanish) == live
    city.close()


def test_a_trial_tells_what_derive_told(tmp_path: Path) -> None:
    """To the last bit, value and revision: so the rules know what raw tells as well, and nothing else is told."""
    having = with_rules(RULES)
    city = lived(tmp_path, having, 2, past(2, 9))
    raw = CityRaw(city)
    spans = locate(raw, T0 - HOUR, None, 0)
    made = figures_told(settings_for(tmp_path), raw, spans, Needed(having), lambda _: None)
    assert sorted({fact for p in made for _, rows in made[p] for fact in facts_in(rows)}, key=repr) == facts_of(city)
    for p, some in made.items():
        assert {partition_of(fact.station, 2) for _, rows in some for fact in facts_in(rows)} == {p}
    city.close()


def test_what_begins_before_raw_tells_nothing(tmp_path: Path) -> None:
    """An hour of which raw holds the end alone, a moving mean and an index that look at it; all behind it is told."""
    having = with_rules([rule for rule in RULES if rule["id"] in {"hours", "moving", "aqi", "us"}])
    city = lived(tmp_path, having, 1, past(3, 15))
    whole = CityRaw(city)
    cut = next(
        record.offset
        for record in city.bus.read(RAW, 0, 0, 100_000)
        if decode(record.data).clock_us >= T0 + HOUR + 1800 * SECOND
    )
    settings = settings_for(tmp_path)
    found = {}
    for name, raw in (("whole", whole), ("cut", CityRaw(city, cut))):
        spans = locate(raw, T0 - HOUR, None, 0)
        made = figures_told(settings, raw, spans, Needed(having), lambda _: None)
        found[name] = {fact for _, rows in made[0] for fact in facts_in(rows)}
    assert found["whole"] == set(facts_of(city))
    first = T0 + 2 * HOUR
    # The index looks at its hour, in B (edition 2012) at 24 hours; NowCast of the US at twelve.
    back = {("8h", "o3"): 0, ("hour", "pm25"): 0, ("hour_index", "aqi"): 0, ("hour_index", "aqi_us"): 11 * HOUR}
    for figure, hours in back.items():
        some = {name: {fact for fact in facts if fact[1:3] == figure} for name, facts in found.items()}
        some["whole"] = {fact for fact in some["whole"] if (fact.station, fact.property) != ("B", "aqi")}
        assert some["cut"] == {fact for fact in some["whole"] if fact.start_us - hours >= first}, figure
        assert some["cut"]
    assert found["cut"] < found["whole"]
    city.close()
