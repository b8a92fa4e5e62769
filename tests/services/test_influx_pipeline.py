"""The whole pass on InfluxDB beside the same on DuckDB: every answer is the same, and the ledger's audit agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from processors.aggregates import DERIVED
from qingtu.clock import DAY
from qingtu.contracts import ReadingQuery
from tests.process.support import CAT, T0, catalogue, command, configure, message, reading, station, tick
from tests.services.influx_support import Bench
from tests.store.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.native.influx import InfluxServer
    from qingtu.bus.sqlite import SqliteBus

pytestmark = pytest.mark.services
SERIES = [(s, p, "main") for s in "ABC" for p in ("pm25", "air_temperature", "o3", "aqi", "aqi_us")]

LATER = catalogue(
    [station("A", [{"id": "a", "properties": ["pm25", "air_temperature"]}, {"id": "zz", "properties": ["o3"]}])]
)


class InfluxPipeline(Pipeline):
    """The pipeline with InfluxDB in place of DuckDB."""

    def __init__(self, bench: Bench, folder: Path, catalogues: list[Any]) -> None:
        self._bench = bench
        super().__init__(folder, catalogues, derived=DERIVED)

    def _files(self) -> tuple[SqliteBus, Any]:
        store = self._bench.open()
        return self._bench.bus, store

    def close(self) -> None:
        """Close the store; the bench has the bus."""
        self._bench.close()


@pytest.fixture
def both(influx: InfluxServer, tmp_path: Path) -> Iterator[tuple[Pipeline, InfluxPipeline]]:
    """One pipeline on each store."""
    catalogues = [CAT, LATER]
    bench = Bench(influx, tmp_path / "bus")
    one = Pipeline(tmp_path / "duck", catalogues, derived=DERIVED)
    other = InfluxPipeline(bench, tmp_path / "influx", catalogues)
    yield one, other
    one.close()
    other.close()


def answers(pipeline: Any) -> dict[str, Any]:
    """Ask everything that there is to ask."""
    store = pipeline.store
    alerts = sorted(store.alerts(active=False), key=repr)  # the order of equal ones is open
    quarantine = store.quarantine()
    readings = [
        store.readings(ReadingQuery(SERIES, T0 - DAY, T0 + DAY, as_of=at)).to_pylist() for at in (None, 5 << 16)
    ]
    return {
        "readings": readings,
        "each": [store.reading(SERIES[row["series"]], row["time"]) for row in readings[0]],
        "latest": sorted(map(repr, store.latest().to_pylist())),
        "figures": [store.figures(s, p, T0 - DAY, T0 + DAY, channel=c) for s, p, c in SERIES],
        "corrected": sorted(map(without, store.figure_corrections())),
        "alerts": alerts,
        "transitions": [store.alert(alert["alert"]) for alert in alerts],
        "caused": [store.alerts_of("A", "pm25", n << 16) for n in range(20)],
        "quarantine": quarantine,
        "counts": store.quarantine_counts(),
        "inside": store.in_quarantine(),
        "raw": store.raw_rows(store.in_quarantine()).to_pylist(),
        "events": sorted(map(repr, store.events(T0 - DAY, T0 + DAY))),
        "expired": (store.quarantine_expired(), store.rejected_expired(), store.expired()),
        "tables": [store.count(t) for t in ("readings", "corrections", "events", "alerts", "rejected", "figures")],
        "report": {k: v for k, v in pipeline.report().items() if k != "raw_end"},
    }


def without(answer: Any) -> str:
    """Write an answer so that NaN equals NaN and numbers of series, which are local to a store, do not count."""
    if isinstance(answer, dict):
        return (
            "{" + ", ".join(f"{k}: {without(v)}" for k, v in sorted(answer.items()) if k not in ("series", "seq")) + "}"
        )
    if isinstance(answer, list):
        return "[" + ", ".join(map(without, answer)) + "]"
    return repr(answer)


def test_both_stores_give_the_same_answers(both: tuple[Pipeline, InfluxPipeline]) -> None:
    """Alerts that open, are acknowledged and end; spikes; late, revised and refused readings; events; driven again."""
    for pipeline in both:
        pipeline.feed(configure(0, CAT.version))
        for minute in range(0, 130, 2):
            value = 90 if 20 <= minute < 40 else 420 if minute == 60 else 30 + minute % 7
            pipeline.feed(
                reading("a", minute * 60, pm25=value, air_temperature=10 + minute % 5),
                reading("c", minute * 60, pm25=12.5),
                reading("b", minute * 60, dust=0.02),
                message("x", b"\xff", minute * 60) if minute % 10 == 0 else reading("b", minute * 60, nothing=1),
            )
            pipeline.feed(tick(minute * 60 + 30))
        pipeline.feed(reading("a", 600, 8000, pm25=77.0), reading("a", 601, 8000, pm25=None), message("a", {}, 8000))
        pipeline.feed(
            reading("zz", 8100, o3=1.0), reading("a", 99999, 8100, pm25=1), reading("a", 60, 8100, air_temperature=3)
        )
        pipeline.run()
        alert = pipeline.store.alerts(active=False)[0]["alert"]
        pipeline.feed(command(8150, "comment", "Li", alert=alert, note="seen"))
        pipeline.run()
        pipeline.save()
        pipeline.kill()
        pipeline.feed(tick(4 * 3600))
        pipeline.run()
        pipeline.feed(configure(8160, LATER.version))
        pipeline.redrive(at_s=8200)
        pipeline.feed(tick(5 * 3600))
        pipeline.run()
    duck, influx = (answers(pipeline) for pipeline in both)
    for name, answer in duck.items():
        assert without(influx[name]) == without(answer), name
    assert len(duck["alerts"]) > 1
    assert len(duck["figures"][0]) == 3
    assert duck["report"]["balanced"]
    assert orjson.loads(orjson.dumps(both[1].audit()))["agrees"], both[1].audit()
    indices = both[0].store.figures("C", "aqi_us", T0 - DAY, T0 + DAY)
    assert indices
    bench = both[1]._bench
    where = "\"station\" = 'C' AND \"period\" = 'hour'"
    told = bench.client.query(
        bench.settings.hourly, f'SELECT "aqi_us_count", "aqi_us_valid" FROM "index" WHERE {where}'
    )
    points = [line.split(",")[-2:] for line in told.decode().splitlines()[1:] if line]
    assert points == [[str(row["count"]), str(int(row["valid"]))] for row in indices]
