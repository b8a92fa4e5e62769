"""Every query of every dashboard, asked of a real InfluxDB that the pipeline filled: each must give data.

The city of the simulators, with faults, goes through process, derive and the InfluxDB store, stepped by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from processors.aggregates.derive import Derive
from processors.process import Process
from qingtu.catalogue import load_catalogue
from qingtu.clock import HOUR, SECOND, ManualClock
from qingtu.errors import RetryLater
from qingtu.grafana.__main__ import ROOT
from qingtu.grafana.dashboards import DASHBOARDS, build
from qingtu.grafana.names import DAILY, HOURLY, READINGS
from qingtu.grafana.queries import hourly, open_alerts, over_time
from qingtu.grafana.scope import Scope
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, REJECTED
from qingtu.stage import StageLoop
from qingtu.store.influx.lines import fields, tags
from simulators.faults import FaultPlan, parse_faults
from simulators.world import World
from sinks.primary import StoreStage
from tests.grafana.influxql import InfluxQL, fill_in, options, queries
from tests.process.support import T0, configure, frame_of, message, tick
from tests.services.influx_support import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.native.influx import InfluxServer
    from qingtu.bus.sqlite import SqliteBus
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Stage
    from qingtu.store.influx import InfluxStore

pytestmark = pytest.mark.services

SEED = 3
# spikes and bad payloads for flags, corrections and quarantine; dead gateways for silence
FAULTS = "spike=0.02,garbage=0.01,gateway_dead=0.6"
SPAN_US = 3 * HOUR
ALARMED = "QD-AQ-002"
"""Silent for a moment at the beginning; when all of its network is silent later on, one alert tells it."""
TICK_US = 30 * SECOND
ROUTES = {"native": "native", "community": "native"}
TIMES = {"start": "2026-11-23T00:00:00Z", "end": "2026-11-23T03:05:00Z", "interval": "5m"}
"""The shown time: T0 and what follows."""


def city(catalogue: Catalogue) -> Iterator[list[dict[str, Any]]]:
    """Yield the raw rows of three hours, in pieces: messages as the gateway takes them, and ticks between them."""
    yield [configure(0, catalogue.version, routes=ROUTES)]
    hearing = dict.fromkeys(ROUTES, -1e6)
    world = World(catalogue, SEED, faults=FaultPlan(SEED, parse_faults(FAULTS)))
    rows: list[dict[str, Any]] = []
    tick_us = T0 + TICK_US
    for sent in world.messages(T0, T0 + SPAN_US):
        while sent.at_us >= tick_us:
            rows.append(tick((tick_us - T0) / SECOND, hearing))
            tick_us += TICK_US
        _, network, device, _ = sent.topic.split("/")
        route = "community" if network == "qd-community" else "native"
        at_s = (sent.at_us - T0) / SECOND
        rows.append(message(device, sent.payload, at_s, network=network, topic=sent.topic, route=route))
        if len(rows) >= 2000:
            yield rows
            rows = []
    # an hour is evaluated a minute of grace after its end
    yield [*rows, tick(SPAN_US / SECOND + 120, hearing)]


def fill(store: InfluxStore, bus: SqliteBus, catalogue: Catalogue) -> None:
    """Take the city through process, store and derive until nothing is left to do."""
    archive = {catalogue.version: catalogue}.__getitem__
    process = StageLoop(bus, Process(archive), state_every_s=1 << 30, batch=64)
    derive = StageLoop(bus, Derive(store, archive, grace_s=60), state_every_s=1 << 30, batch=64)
    clock = ManualClock(T0)
    streams = (PROCESSED, ALERTS, REJECTED, FIGURES)
    stages: list[Stage] = [
        process,
        *(StoreStage(bus, store, stream, 0, clock, commit_ms=0) for stream in streams),
        derive,
    ]
    for rows in city(catalogue):
        bus.append(RAW, 0, [frame_of(rows)]).result()
    while max([step(stage) for stage in stages]):
        pass


def step(stage: Stage) -> bool:
    """Step; waiting for another stage counts as nothing done."""
    try:
        return stage.step()
    except RetryLater:
        return False


def write_stations(bench: Bench, catalogue: Catalogue) -> None:
    """Write measurement ``station`` as docs/influxdb.md says."""
    lines = []
    for station in catalogue.stations.values():
        longitude, latitude = station.position
        described = fields(
            name_zh=station.zh, name_en=station.en, domain=station.domain, kind=station.kind, network=station.network,
            district=station.district or "", street=station.street or "", community=station.community or "",
            lat=latitude, lon=longitude, catalogue=catalogue.version,
        )  # fmt: skip
        lines.append(f"station{tags(station=station.id)} {described} {T0 * 1000}")
    bench.client.write(bench.settings.bucket, "\n".join(lines).encode())


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT / "stations")


@pytest.fixture(scope="module")
def dashboards(catalogue: Catalogue) -> list[dict[str, Any]]:
    return build(Scope(catalogue))


@pytest.fixture(scope="module")
def ask(influx: InfluxServer, catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> InfluxQL:
    """Fill buckets of our own; return what asks them as Grafana's data sources do."""
    bench = Bench(influx, tmp_path_factory.mktemp("bus"))
    try:
        fill(bench.open(), bench.bus, catalogue)
        write_stations(bench, catalogue)
    finally:
        bench.close()
    buckets = bench.settings
    return InfluxQL(influx.url, influx.token, {READINGS: buckets.bucket, HOURLY: buckets.hourly, DAILY: buckets.daily})


def chosen(dashboard: dict[str, Any], ask: InfluxQL) -> dict[str, str | list[str]]:
    """Ask for each variable's options, as Grafana does when the page opens, and choose "All", or else the first."""
    values: dict[str, str | list[str]] = {}
    for variable in dashboard["templating"]["list"]:
        answer = ask(variable["datasource"]["uid"], fill_in(variable["query"], values, **TIMES))
        found = options(answer, variable["regex"])
        assert found, (dashboard["uid"], variable["name"])
        values[variable["name"]] = variable.get("allValue") or (found if variable["multi"] else one_of(found))
    return values


def one_of(found: list[str]) -> str:
    """Choose the station that has alerts of its own, where stations are listed; else the first of the list."""
    return ALARMED if ALARMED in found else found[0]


def numbers(answer: list[dict[str, Any]]) -> list[Any]:
    """Return every value of an answer that is not null, but for times."""
    return [value for series in answer for row in series["values"] for value in row[1:] if value is not None]


@pytest.mark.parametrize("number", range(len(DASHBOARDS)), ids=[make.__name__ for make in DASHBOARDS])
def test_every_query_gives_data(number: int, dashboards: list[dict[str, Any]], ask: InfluxQL) -> None:
    """Each query of each panel, and each annotation, finds something; a repeated panel for each of its values."""
    dashboard = dashboards[number]
    values = chosen(dashboard, ask)
    asked, empty = 0, []
    for query in queries(dashboard):
        repeated = values["property"] if "${property}" in query.text else [""]
        for word in repeated:
            text = fill_in(query.text, values | {"property": word}, **TIMES)
            asked += 1
            if not numbers(ask(query.source, text)):
                empty.append(f"{query.panel}: {text}")
    assert asked > 0
    assert empty == []


def test_variables_list_what_the_catalogue_has(
    catalogue: Catalogue, dashboards: list[dict[str, Any]], ask: InfluxQL
) -> None:
    """Districts and stations are those of the catalogue; stations at sea, which have no district, are under "All"."""
    city_page, one = dashboards[0], dashboards[1]
    values = chosen(city_page, ask)
    assert set(values["station"]) == set(catalogue.stations)
    district, station = city_page["templating"]["list"]
    found = options(ask(READINGS, district["query"]), district["regex"])
    assert found == sorted({s.district for s in catalogue.stations.values() if s.district})
    narrowed = fill_in(station["query"], {"district": found[:2]}, **TIMES)
    assert set(options(ask(READINGS, narrowed), "")) == {
        s.id for s in catalogue.stations.values() if s.district in found[:2]
    }
    (of_station,) = [v for v in one["templating"]["list"] if v["name"] == "property"]
    listed = options(ask(HOURLY, fill_in(of_station["query"], {"station": "QD-AQ-001"}, **TIMES)), "")
    assert listed == sorted(s.property for s in catalogue.series if s.station == "QD-AQ-001")


def test_no_alert_is_a_zero(catalogue: Catalogue, ask: InfluxQL) -> None:
    """What stands open is what the rules say: gateways came back, so nobody is silent; the numbers are not empty."""
    rules = Scope(catalogue).silence_rules
    assert numbers(ask(DAILY, open_alerts(rules))) == [0]
    (still_open,) = numbers(ask(DAILY, open_alerts()))
    opened: dict[tuple[Any, ...], tuple[int, int]] = {}
    answer = ask(DAILY, 'SELECT "seq", "level" FROM "alert" GROUP BY "station", "rule", "property", "channel"')
    for series in answer:
        newest = max((seq, level) for _, seq, level in series["values"])
        opened[tuple(series["tags"].values())] = newest
    assert still_open == sum(level > 0 for _, level in opened.values()) > 0


def test_levels_in_decibel_have_energy_means(catalogue: Catalogue, ask: InfluxQL) -> None:
    """The mean of a level over an interval is that of its energy, as the hour figures have it."""
    measure = Scope(catalogue)["noise_leq"]
    station = next(s.id for s in measure.stations if s.kind == "noise")
    query = over_time(measure).replace("$__interval", "1h")
    (series,) = ask(READINGS, fill_in(query, {"station": [station]}, **TIMES))
    means = {time: level for time, level in series["values"] if level is not None}
    (figures,) = ask(HOURLY, fill_in(hourly(measure), {"station": [station]}, **TIMES))
    compared = [(means[time], level) for time, level in figures["values"] if level is not None]
    assert compared
    for mean, level in compared:
        assert mean == pytest.approx(level, abs=1e-6)
