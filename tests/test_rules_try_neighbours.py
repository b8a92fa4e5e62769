"""``qingtu rules try`` of rules on stations that stand apart: what was not stored of their neighbours is found anew."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from qingtu.catalogue import load_catalogue
from qingtu.clock import HOUR, SECOND
from qingtu.records import RAW
from qingtu.replay_diff import LIVE
from qingtu.replay_pass import config_of
from qingtu.rules_try import changed_catalogue, try_on, try_rules
from qingtu.settings import load_settings
from qingtu.store.duckdb import DuckStore
from tests.aggregates.test_neighbours import BLOCKS, STATIONS, Neighbourhood, hour_of, ticks, usual
from tests.process.support import T0, catalogue, command, configure, frame_of, reading, station, tick
from tests.test_replay import Scene

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Record
    from qingtu.rules_try import Alert, Tried
    from tests.aggregates.city import City

HOUR_S: Final = 3600
RULE: Final[dict[str, Any]] = {
    "id": "apart", "kind": "figure", "zh": "离群", "en": "Apart", "what": "neighbour", "property": "pm25",
    "levels": {"yellow": 60}, "hysteresis": 5,
}  # fmt: skip
MILD: Final = 55.0
"""Of A in hour 0, 29 above the others: less than quality control would call suspect."""


def hours() -> list[list[dict[str, Any]]]:
    """A is a little high in hour 0, E stands apart in hours 1 and 2."""
    return [usual(0, A=MILD), usual(1, E=90.0), usual(2, E=95.0), usual(3), []]


class Town(Scene):
    """A data folder whose stations have neighbours, with the history of :func:`hours`."""

    def __init__(self, folder: Path, rules: Sequence[Mapping[str, Any]]) -> None:
        self._rules = list(rules)
        super().__init__(folder)

    def write(self, unit: str = "ug/m3", more: str = "") -> None:
        """Write the catalogue."""
        del unit, more
        net = {"id": "n", "zh": "网", "en": "Net", "interval_s": 600}
        content = {"networks": [net], "stations": [station(**block) for block in BLOCKS], "rules": self._rules}
        (self.folder / "stations" / "all.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")

    def fill(self) -> None:
        """Let the hours go all the way, derive keeping up at each tick."""
        service = self.service()
        try:
            parts = [[command(-1, "configure", **config_of(service.settings, service.catalogue))]]
            for number, rows in enumerate(hours()):
                parts += [rows, *([one] for one in ticks(number))]
            for rows in parts:
                if rows:
                    service.bus.append(RAW, 0, [frame_of([row]) for row in rows]).result()
                self.run(service)
        finally:
            service.close()

    def tried(self, rule: Mapping[str, Any]) -> Tried:
        """Try one rule over all of raw."""
        file = self.folder / "changed.yaml"
        file.write_text(yaml.safe_dump({"rules": [dict(rule)]}, allow_unicode=True), encoding="utf-8")
        folder = self.settings.catalogue
        return try_rules(self.settings, load_catalogue(folder), changed_catalogue(folder, file, whole=False), T0 - HOUR)

    def alerts(self) -> list[tuple[Any, ...]]:
        """What was raised live."""
        store = DuckStore(self.settings.data / LIVE)
        try:
            with store.cursor() as db:
                found: list[tuple[Any, ...]] = db.execute(
                    "SELECT station, state, epoch_us(time) FROM alerts ORDER BY seq"
                ).fetchall()
                return found
        finally:
            store.close()


def told(alerts: Sequence[Alert]) -> list[tuple[Any, ...]]:
    """Station, hours of opening and end, level and last state of alerts."""
    return sorted(
        (a.station, (a.opened_us - T0) // HOUR, a.ended_us and (a.ended_us - T0) // HOUR, a.level, a.state)
        for a in alerts
    )


def test_a_rule_that_raised_alerts_is_tried_with_other_levels(tmp_path: Path) -> None:
    """Unchanged it changes nothing; a lower level adds what quality control let pass, a higher one takes away."""
    town = Town(tmp_path, [RULE])
    town.fill()
    assert town.alerts() == [("E", "open", T0 + HOUR), ("E", "resolved", T0 + 3 * HOUR)]
    files = {path.name for path in town.settings.data.iterdir()}
    same = town.tried(RULE)
    assert (same.appear, same.vanish, same.move, same.same) == ([], [], [], 1)
    lower = town.tried({**RULE, "levels": {"blue": 25, "yellow": 60}})
    assert told(lower.appear) == [("A", 0, 1, 1, "resolved")]
    assert (lower.vanish, lower.move, lower.same) == ([], [], 1)
    higher = town.tried({**RULE, "levels": {"yellow": 75}})
    assert told(higher.vanish) == [("E", 1, 3, 2, "resolved")]
    assert (higher.appear, higher.move, higher.same) == ([], [], 0)
    assert {path.name for path in town.settings.data.iterdir()} == files, "nothing is left behind"


def test_a_rule_that_nobody_had_is_tried(tmp_path: Path) -> None:
    """Derive told nothing of the differences then: raw does not have them."""
    town = Town(tmp_path, [])
    town.fill()
    assert town.alerts() == []
    found = town.tried(RULE)
    assert told(found.appear) == [("E", 1, 3, 2, "resolved")]
    assert (found.vanish, found.move, found.same) == ([], [], 0)


class CityRaw:
    """Raw of a city, whatever its number of partitions, from an offset on. See :class:`qingtu.replay_raw.RawSource`."""

    def __init__(self, city: City, oldest: int = 0) -> None:
        self.partitions = city.partitions
        self._bus, self._oldest = city.bus, oldest

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return what is held."""
        return self._oldest, self._bus.end(RAW, partition)

    def read(self, partition: int, start: int, max_frames: int) -> list[Record]:
        """Read on."""
        return self._bus.read(RAW, partition, start, max_frames)

    def size(self, partition: int, first: int, end: int) -> int:
        """Nobody asks."""
        del partition, first, end
        return 0

    def close(self) -> None:
        """The city closes its bus."""


def with_rules(*rules: Mapping[str, Any]) -> Catalogue:
    """The neighbourhood under some rules."""
    return catalogue([station(**block) for block in BLOCKS], rules)


def random_hours(seed: int) -> list[list[dict[str, Any]]]:
    """Hours in which stations stand apart, lack readings, or send an hour later.

    In the second one E and C stand apart until D and F come late.
    """
    rng, late = random.Random(seed), [(1, "D", 90.0), (1, "F", 90.0)]
    out = [usual(0), hour_of(1, A=20.0, B=22.0, C=64.0, E=90.0)]
    for hour in range(2, 6):
        levels = {s: 20.0 + rng.uniform(0, 10) for s in STATIONS}
        levels |= {s: levels[s] + rng.uniform(20, 120) for s in rng.sample(STATIONS, rng.choice([0, 1, 1, 2]))}
        away = {s for s in STATIONS if rng.random() < 0.2}
        rows = hour_of(hour, **{s: level for s, level in levels.items() if s not in away})
        for of, s, level in late:
            rows += hour_of(of, received_s=hour * HOUR_S + 1800, **{s: level})
        late = [(hour, s, levels[s]) for s in sorted(away) if rng.random() < 0.7]
        out.append(rows)
    return out


@pytest.mark.parametrize(("partitions", "seed"), [(1, 0), (2, 1), (2, 2)])
def test_a_trial_finds_what_the_rule_would_have_raised(tmp_path: Path, partitions: int, seed: int) -> None:
    """Two cities with the same past, one with the rule: what appears in the other is what was raised in this one.

    Neighbours that come late take verdicts back and withdraw alerts, in both.
    """
    rule = {**RULE, "levels": {"blue": 30, "yellow": 60}}
    without, having = with_rules(), with_rules(rule)
    past = random_hours(seed)
    one, two = (Neighbourhood(tmp_path / name, cat, partitions) for name, cat in (("1", having), ("2", without)))
    for city, cat in ((one, having), (two, without)):
        city.live([configure(-1, cat.version)])
        for number, rows in enumerate(past):
            city.live(rows, *([t] for t in ticks(number)))
        city.live(*([tick(len(past) * HOUR_S + 600 + 60 * i)] for i in range(5)))
    environ = {"QINGTU_DATA": str(tmp_path), "QINGTU_FIGURES__GRACE_S": "60"}
    settings = load_settings(Path(os.devnull), environ=environ)
    nothing = try_on(CityRaw(one), settings, having, having, T0 - HOUR)
    assert (nothing.appear, nothing.vanish, nothing.move) == ([], [], [])
    gone = try_on(CityRaw(one), settings, having, without, T0 - HOUR)
    new = try_on(CityRaw(two), settings, without, having, T0 - HOUR)
    assert told(new.appear) == told(gone.vanish) == raised(one)
    assert raised(two) == []
    assert "withdrawn" in {state for *_, state in raised(one)}
    one.close()
    two.close()


def test_an_hour_of_which_raw_holds_the_end_alone_is_not_compared(tmp_path: Path) -> None:
    """E was beside itself in the last minutes; what raw lacks would have made a mean that is near enough."""
    city = Neighbourhood(tmp_path, with_rules(), 1)
    rows = usual(0, E=20.0) + [r for at in (50.0, 55.0) for r in [reading("e", at * 60, pm25=200)]]
    rows.sort(key=lambda row: row["received_at"])
    city.live([configure(-1, with_rules().version)], *([row] for row in rows), *([t] for t in ticks(0)))
    city.live(usual(1), *([t] for t in ticks(1)))
    settings = load_settings(Path(os.devnull), environ={"QINGTU_DATA": str(tmp_path)})
    cut = next(n for n, row in enumerate(rows, 1) if row["received_at"] >= T0 + 2700 * SECOND)
    whole, part = (
        try_on(CityRaw(city, oldest), settings, with_rules(), with_rules(RULE), T0 - HOUR) for oldest in (0, cut)
    )
    assert (whole.appear, part.appear) == ([], [])
    assert try_on(CityRaw(city), settings, with_rules(), with_rules({**RULE, "levels": {"blue": 30}}), T0).appear
    city.close()


def raised(city: Neighbourhood) -> list[tuple[Any, ...]]:
    """The alerts of a city as :func:`told` has them."""
    with city.store.cursor() as db:
        rows = db.execute(
            "SELECT alert, station, state, level, epoch_us(time), epoch_us(opened_at) FROM alerts ORDER BY seq"
        ).fetchall()
    found: dict[str, tuple[Any, ...]] = {}
    for alert, where, state, level, time_us, opened_us in rows:
        ended = (time_us - T0) // HOUR if state in {"resolved", "withdrawn"} else None
        top = max(level, found[alert][3] if alert in found else 0)
        found[alert] = (where, (opened_us - T0) // HOUR, ended, top, state)
    return sorted(found.values())
