"""Figures of districts and the city, of stations in one or several partitions, also when stages are killed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

from qingtu.causes import told
from qingtu.clock import HOUR
from qingtu.partitions import partition_of
from tests.aggregates.city import City
from tests.process.support import T0, catalogue, configure, reading, station, tick

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S: Final = 3600
STATIONS: Final = "ABCDEF"
DISTRICTS: Final = dict(zip(STATIONS, ["370202", "370203"] * 3, strict=True))
LEVEL: Final = dict(zip(STATIONS, [0, 3, 12, 60, 48, 75], strict=True))
PROPERTIES: Final = ("pm25", "pm10")
CATALOGUE: Final = catalogue(
    [
        station(s, [{"id": s.lower(), "properties": list(PROPERTIES)}], interval_s=600, district=DISTRICTS[s])
        for s in STATIONS
    ],
    [],
)


class Areas(City):
    """A city of which the figures of areas are looked at."""

    def figures(self) -> dict[tuple[str, str, str, float], tuple[Any, ...]]:
        """Return (what, area, index, hour after T0) → all that is published of areas."""
        with self.store.cursor() as db:
            rows = db.execute(
                "SELECT what, station, property, epoch_us(start), value, count, expected, valid, reason, inputs "
                "FROM figures WHERE station LIKE '3702%'"
            ).fetchall()
        return {(*row[:3], (row[3] - T0) / HOUR): (*row[4:9], orjson.loads(row[9])) for row in rows}

    def corrections(self) -> int:
        """Count the corrections of figures of areas."""
        with self.store.cursor() as db:
            found = db.execute("SELECT count(*) FROM figure_corrections WHERE station LIKE '3702%'").fetchone()
        assert found is not None
        return int(found[0])


def hour_of(hour: int, stations: str = STATIONS, received_s: float | None = None) -> list[dict[str, Any]]:
    """Six readings of each station in an hour; each hour and station has its own level."""
    rows = []
    for i in range(6):
        at = hour * HOUR_S + 600 * i
        for s in stations:
            level = 20.0 + 15 * hour + LEVEL[s]
            rows.append(
                reading(
                    s.lower(),
                    at,
                    received_s=at if received_s is None else received_s,
                    pm25=level + i,
                    pm10=2 * level + i,
                )
            )
    return rows


def ticks(hour: int) -> list[dict[str, Any]]:
    """Ticks a minute apart, behind the end of an hour."""
    return [tick((hour + 1) * HOUR_S + 60 * i + 1) for i in range(5)]


def history() -> list[list[dict[str, Any]]]:
    """Five hours; D's second hour comes after the fourth."""
    parts: list[list[dict[str, Any]]] = [[configure(-1, CATALOGUE.version)]]
    for hour in range(5):
        parts.append(hour_of(hour, STATIONS.replace("D", "") if hour == 1 else STATIONS))
        if hour == 3:
            parts.append(hour_of(1, "D", received_s=4 * HOUR_S - 60))
        parts += [[one] for one in ticks(hour)]
    return parts


def undisturbed(folder: Path, partitions: int) -> Areas:
    """Feed it all, everything keeping up."""
    city = Areas(folder, CATALOGUE, partitions)
    for rows in history():
        city.feed(rows)
        city.run()
    return city


def test_stations_lie_in_both_partitions() -> None:
    """Else the tests below would say nothing; the same holds within each district."""
    places = {(partition_of(s, 2), DISTRICTS[s]) for s in STATIONS}
    assert len(places) == 4


def test_one_partition_gives_districts_and_the_city(tmp_path: Path) -> None:
    """Each hour has its index for two districts and the city, made once; the late hour corrects what it counts in."""
    city = undisturbed(tmp_path, 1)
    found = city.figures()
    assert {(what, area, index) for what, area, index, _ in found} == {
        ("hour_index", area, index) for area in ("370200", "370202", "370203") for index in ("aqi", "aqi_us")
    }
    assert {hour for *_, hour in found} == {0, 1, 2, 3, 4}
    mean = {s: 20.0 + LEVEL[s] + 2.5 for s in STATIONS}
    of = {each["name"]: each["value"] for each in found["hour_index", "370203", "aqi", 0][5]["of"]}
    assert of["pm25_1h"] == pytest.approx(sum(mean[s] for s in "BDF") / 3)
    late = {each["name"]: each["value"] for each in found["hour_index", "370203", "aqi", 1][5]["of"]}
    assert late["pm25_1h"] == pytest.approx(15 + sum(mean[s] for s in "BDF") / 3), "with D, which came late"
    assert city.corrections() > 0
    with city.store.cursor() as db:
        corrected = db.execute(
            "SELECT DISTINCT station FROM figure_corrections WHERE station LIKE '3702%' AND property = 'aqi'"
        ).fetchall()
    assert {area for (area,) in corrected} == {"370200", "370203"}, "370202 has nothing of D"
    city.close()


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_correction_names_the_messages_that_caused_it(tmp_path: Path, partitions: int) -> None:
    """Of a station and of an area: the six late readings of D, of each property that the index looks at."""
    city = undisturbed(tmp_path, partitions)
    for place in ("D", "370203", "370200"):
        rows = [
            told(row, city.store, CATALOGUE)
            for row in city.store.figure_corrections(0, 100, station=place, prop="aqi", what="hour_index")
            if row["start"] == T0 + HOUR
        ]
        if place == "D":
            assert not rows, "its own hour was made for the first time"
            continue
        (one,) = rows
        assert one["causes"] == 6
        assert {(cause["station"], (cause["time"] - T0) / HOUR // 1) for cause in one["because"]} == {("D", 1)}
    city.close()


def test_two_partitions_give_the_same_as_one(tmp_path: Path) -> None:
    """What stands in the end depends on the stations only; and nothing was published before all had been made."""
    one, two = undisturbed(tmp_path / "one", 1), undisturbed(tmp_path / "two", 2)
    assert two.figures() == one.figures()
    assert two.corrections() == one.corrections()
    assert two.commands("areas"), "partition 1 tells partition 0"
    one.close()
    two.close()


@pytest.mark.parametrize("seed", range(6))
def test_kills_and_stages_that_run_ahead_change_nothing(tmp_path: Path, seed: int) -> None:
    """Whatever stage is ahead, behind or killed, the areas end in the same figures."""
    rng = random.Random(seed)
    wanted = undisturbed(tmp_path / "plain", 2)
    city = Areas(tmp_path / "killed", CATALOGUE, 2)
    for rows in history():
        city.feed(rows)
        city.disturb(rng)
    city.run()
    # What was told after the last tick of partition 0 waits for the next one.
    city.feed([tick(6 * HOUR_S)])
    city.kill()
    city.run()
    assert city.figures() == wanted.figures()
    city.close()
    wanted.close()
