"""Promote of what was driven again in another partition than that of its station, in both stores."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from qingtu.app import Options, Service
from qingtu.clock import HOUR, SECOND, ManualClock
from qingtu.contracts import ReadingQuery
from qingtu.explain import explain
from tests.process.support import T0, reading, tick
from tests.services.kafka_support import installation
from tests.services.replay_support import HOME, MORE, Town, influx_environ, told
from tests.services.test_influx_promote import KEYS, agreed, everything
from tests.test_replay import NOW

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.native.influx import InfluxServer
    from deploy.native.kafka import KafkaServer

pytestmark = pytest.mark.services
_NAMES = itertools.count()


@pytest.fixture(params=["duckdb", "influx"])
def town(request: pytest.FixtureRequest, kafka: KafkaServer, tmp_path: Path) -> Town:
    """One on Kafka with two partitions, with either store."""
    more = {}
    if request.param == "influx":
        server: InfluxServer = request.getfixturevalue("influx")
        more = influx_environ(server, tmp_path / "token", f"driven{os.getpid()}x{next(_NAMES)}")
    return Town(tmp_path / "town", installation(kafka, 2), more)


def values(town: Town) -> list[tuple[str, int, float | None, int]]:
    """Station, time, value and flag of each reading."""
    with town.open() as it:
        found = it.store.readings(ReadingQuery(KEYS, T0 - HOUR, NOW))
    return [(KEYS[row["series"]][0], row["time"], row["value"], row["flag"]) for row in found.to_pylist()]


def test_a_device_that_is_lost_again(town: Town) -> None:
    """Driven again in a partition that is further than that of the station: withdrawn, and brought back.

    Then the row of the promote that can come behind such a reading is the one in the partition of its message.
    """
    town.live([reading("x", 600 + i, pm25=20 + i) for i in range(3)] + [reading("y", 700, pm25=9), tick(9000)])
    town.write(more=MORE)
    assert town.redrive(NOW - SECOND) == 4
    ends, good = town.ends(), values(town)
    assert (HOME["B2"], HOME["X1"]) == (0, 1)
    assert ends[1] > ends[0] + 1, "what was driven again is behind all that the station's partition holds"
    assert [row[0] for row in good] == ["B2", "B2", "B2", "X1"]
    town.write()
    made = town.replay("lost")
    out = town.promote(made)
    assert out["readings"] == {"new": 0, "changed": 0, "withdrawn": 4}
    assert out["messages"] == {"left": 0, "entered": 4, "stay": 0}
    assert values(town) == [(station, time, None, 9) for station, time, _, _ in good]
    assert told(town.diff(made))["empty"]
    agreed(town)
    before = everything(town)["before"]
    assert [(row["value"], row["flag"]) for row in before] == [(value, flag) for _, _, value, flag in good]
    town.write(more=MORE)
    back = town.promote(town.replay("back"))
    assert back["readings"] == {"new": 0, "changed": 4, "withdrawn": 0}
    assert back["messages"]["left"] == 4
    assert values(town) == good
    assert town.promote(town.replay("same"))["empty"]
    agreed(town)
    service = Service(town.settings, Options(stages=frozenset({"store", "web"}), gateway=False), clock=ManualClock(NOW))
    try:
        steps = {step["step"]: step["data"] for step in explain(service, "B2", "pm25", good[0][1])["steps"]}
    finally:
        service.close()
    assert steps["replay"]["generation"] == "back"
    assert (steps["raw"]["device"], steps["convert"]["agrees"]) == ("x", True)
