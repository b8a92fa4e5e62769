"""Indices in the whole way: raw rows in, indices in the store, the same in the end whenever the readings came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from processors.aggregates import DERIVED
from tests.process.support import catalogue, configure, reading, station, tick
from tests.store.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR_S = 3600
CATALOGUE = catalogue([station("A", [{"id": "a", "properties": ["pm25"]}], interval_s=600)], [])


@pytest.fixture
def pipelines(tmp_path: Path) -> Iterator[list[Pipeline]]:
    """Two pipelines that were configured."""
    made = []
    for name in ("in_time", "late"):
        (tmp_path / name).mkdir()
        made.append(Pipeline(tmp_path / name, [CATALOGUE], derived=DERIVED))
        made[-1].feed(configure(0, CATALOGUE.version))
    yield made
    for one in made:
        one.close()


def feed_hour(pipeline: Pipeline, hour: int, value: float, received_s: float | None = None) -> None:
    """Feed six readings of an hour."""
    for i in range(6):
        at = hour * HOUR_S + 600 * i
        pipeline.feed(reading("a", at, received_s=at if received_s is None else received_s, pm25=value + i))


def indices(pipeline: Pipeline, what: str = "hour_index") -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return by index and start what stands in the store, but for positions."""
    with pipeline.store.cursor() as db:
        rows = db.execute(
            "SELECT property, epoch_us(start), value, count, expected, valid, reason, inputs FROM figures "
            "WHERE what = ? ORDER BY ALL", [what],
        ).fetchall()  # fmt: skip
    return {(row[0], row[1]): (*row[2:7], orjson.loads(row[7])) for row in rows}


def test_a_late_hour_ends_in_the_same_indices(pipelines: list[Pipeline]) -> None:
    """Hour 2 comes six hours late, in a frame of its own: the NowCasts behind it are made again, and corrected."""
    in_time, late = pipelines
    values = [20, 30, 200, 60, 40, 30, 20]
    for pipeline, missing in ((in_time, ()), (late, (2,))):
        for hour, value in enumerate(values):
            if hour not in missing:
                feed_hour(pipeline, hour, value)
            pipeline.feed(tick((hour + 1) * HOUR_S + 61))
            pipeline.run()
    before = indices(late)
    feed_hour(late, 2, values[2], received_s=7 * HOUR_S + 120)
    late.feed(tick(7 * HOUR_S + 300))
    late.run()
    assert indices(late) == indices(in_time)
    assert {key for key, _ in indices(late)} == {"aqi", "aqi_us"}
    changed = {
        start for (key, start), row in indices(late).items() if key == "aqi_us" and before.get((key, start)) != row
    }
    assert len(changed) == 5, "the late hour and the four behind it"
    with late.store.cursor() as db:
        (corrected,) = db.execute("SELECT count(*) FROM figure_corrections WHERE what = 'hour_index'").fetchone() or (
            0,
        )
    assert corrected >= 4


def test_a_day_of_air_has_its_index(tmp_path: Path) -> None:
    """Figures of six pollutants become the AQI of a local day, with the 8 h mean of ozone made of hours."""
    values = {"pm25": 30.0, "pm10": 60.0, "so2": 9.0, "no2": 31.0, "co": 0.6}
    block = station("A", [{"id": "a", "properties": [*values, "o3"]}], interval_s=HOUR_S)
    cat = catalogue([block], [])
    pipeline = Pipeline(tmp_path, [cat], derived=DERIVED)
    pipeline.feed(configure(0, cat.version))
    midnight = 16  # T0 is 8:00 in China
    for hour in range(24):
        ozone = 170.0 if 11 <= hour < 19 else 40.0
        pipeline.feed(reading("a", (midnight + hour) * HOUR_S, **values, o3=ozone))
    pipeline.feed(tick((midnight + 24) * HOUR_S + 61))
    pipeline.run()
    made = {key: row for (key, _), row in indices(pipeline, "day_index").items()}
    value, count, expected, valid, reason, inputs = made["aqi"]
    assert (value, count, expected, valid, reason) == (110.0, 6, 6, True, "")
    assert inputs["stats"] == {"level": 3, "zh": "轻度污染", "en": "Lightly polluted", "primary": "o3"}
    assert made["aqi_us"][3]
    assert len(indices(pipeline)) == 2 * 24
    pipeline.close()
