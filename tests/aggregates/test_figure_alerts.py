"""From readings to an alert on their hours: through derive, raw and the pass, also when stages are killed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from qingtu.clock import HOUR
from qingtu.records import RAW, Kind, decode
from tests.process.support import T0, catalogue, configure, reading, station, tick
from tests.store.pipeline import Pipeline

if TYPE_CHECKING:
    from pathlib import Path

HOURS = [40, 90, 95, 160, 100, 60, 50, 130, 20]
CATALOGUE = catalogue(
    [station("A", [{"id": "a", "properties": ["pm25"]}], interval_s=600)],
    [
        {
            "id": "hours", "kind": "figure", "zh": "小时", "en": "Hours", "what": "hour", "property": "pm25",
            "levels": {"yellow": 80, "red": 150}, "hysteresis": 10,
        }
    ],
)  # fmt: skip


def history() -> list[dict[str, Any]]:
    """Hours of readings every ten minutes, a tick behind each; the reading that corrects the first bad hour is last."""
    rows: list[dict[str, Any]] = [configure(-1, CATALOGUE.version)]
    for hour, level in enumerate(HOURS):
        rows += [reading("a", hour * 3600 + i * 600, pm25=level + i % 3) for i in range(6)]
        rows.append(tick((hour + 1) * 3600 + 90))
    return rows


def run(folder: Path, rng: random.Random | None = None) -> tuple[list[tuple[Any, ...]], int]:
    """Run it, killed at random when there is a generator; return the transitions and how often figures were told."""
    pipeline = Pipeline(folder, [CATALOGUE], tell=True)
    rows = history()
    while rows:
        some = rng.randrange(2, 10) if rng else 7
        pipeline.feed_each(rows[:some])
        rows = rows[some:]
        for _ in range(rng.randrange(4) if rng else 0):
            act = rng.choice(["process", "store", "derive", "kill", "save"]) if rng else ""
            if act == "kill":
                pipeline.kill()
            elif act == "save":
                pipeline.process.save()
            else:
                for _ in range(30):
                    pipeline.step(act)
        if rng is None:
            pipeline.run()
    pipeline.run()
    if rng is not None:
        pipeline.kill()
        pipeline.run()
    found = [
        (one["state"], one["level"], (one["time"] - T0) / HOUR, one["value"])
        for alert in pipeline.store.alerts(active=False)
        for one in pipeline.store.alert(alert["alert"])
    ]
    told = sum(
        Kind.COMMAND in decode(record.data).sections["rows"].column("kind").to_pylist()
        for record in pipeline.bus.read(RAW, 0, 0, 10_000)
    )
    pipeline.close()
    return sorted(found, key=lambda one: (one[2], one[1])), told


def test_hours_raise_and_end_an_alert(tmp_path: Path) -> None:
    """Opened by the second hour, raised by the fourth, over in the sixth; opened again by the eighth."""
    found, told = run(tmp_path)
    assert [one[:3] for one in found] == [
        ("open", 2, 1.0), ("open", 4, 3.0), ("open", 2, 4.0), ("resolved", 0, 5.0),
        ("open", 2, 7.0), ("resolved", 0, 8.0),
    ]  # fmt: skip
    assert [one[3] for one in found] == [91, 161, 101, 61, 131, 21]
    assert told > len(HOURS)  # configure, and each hour


@pytest.mark.parametrize("seed", range(4))
def test_kills_change_nothing(tmp_path: Path, seed: int) -> None:
    """Derive tells again what it had told; every alert stands once."""
    undisturbed, _ = run(tmp_path / "plain")
    found, _ = run(tmp_path / "killed", random.Random(seed))
    assert found == undisturbed
