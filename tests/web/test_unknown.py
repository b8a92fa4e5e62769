"""Questions that name what nobody knows, and parameters that an address does not have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from processors.aggregates import statistics
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from tests.web.conftest import Running, running, small_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FIRST = {"station": "A", "property": "pm25"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for all questions, which change nothing."""
    with running(tmp_path_factory.mktemp("unknown") / "data", _city("Coast-1", "Coast-2")) as started:
        yield started


def _city(*stations: str) -> Catalogue:
    place = {"network": "n", "domain": "air", "kind": "air", "position": [120.3, 36.1], "district": "370202"}
    fields = {f: {"property": "pm25", "channel": c} for f, c in (("x", "main"), ("y", "backup"))}
    content = {
        "networks": [{"id": "n", "zh": "网", "en": "Net", "interval_s": 60}],
        "stations": [
            {"id": one, "zh": "站", "en": "S", "devices": [{"id": f"d-{one}", "fields": fields}], **place}
            for one in stations
        ],
    }
    return Catalogue(Content.model_validate(content))


@pytest.mark.parametrize(
    ("path", "query", "status", "code", "said", "meant"),
    [
        ("latest", {"station": "Coast-9"}, 404, "unknown_station", "Coast-9", "'Coast-2' / 'Coast-1'"),
        ("latest", {"station": "zzz"}, 404, "unknown_station", "zzz", ""),
        ("series", {"station": "Cost-1", "property": "pm25"}, 404, "unknown_station", "Cost-1", "'Coast-1'"),
        ("series", {"station": "Coast-1", "property": "PM2.5"}, 422, "unknown_property", "PM2.5", "'pm25'"),
        ("series", {"station": "Coast-1", "property": "pm52"}, 422, "unknown_property", "pm52", "'pm"),
        ("series", {"station": "Coast-1", "property": "o3"}, 404, "unknown_series", "Coast-1 / o3 / main", ""),
        ("series", {"station": "Coast-1", "property": "pm2"}, 422, "unknown_property", "pm2", "'pm25'"),
        ("series", {"station": "Coast-1", "property": "pm25", "channel": "mian"}, 404, "unknown_series", "mian",
         "'Coast-1 / pm25 / main'"),
        ("figures", {"station": "Coast-3", "property": "pm25"}, 404, "unknown_station", "Coast-3", "Coast-"),
        ("figures", {"station": "370203", "property": "aqi"}, 404, "unknown_station", "370203", "'370202'"),
        ("figures", {"station": "Coast-1", "property": "aqj"}, 422, "unknown_property", "aqj", "'aqi'"),
        ("figures", {"station": "Coast-1", "property": "water_level"}, 404, "unknown_series", "water_level", ""),
        ("figures", {"station": "Coast-1", "property": "pm25", "what": "hours"}, 422, "unknown_statistic", "hours",
         "'hour'"),
        ("corrections", {"station": "Coast-3"}, 404, "unknown_station", "Coast-3", "Coast-"),
        ("corrections", {"property": "pm2_5"}, 422, "unknown_property", "pm2_5", "'pm25'"),
        ("corrections", {"what": "day_lnd"}, 422, "unknown_statistic", "day_lnd", "'day_ln"),
        ("explain", {"station": "coast", "property": "o3", "time_ms": 0}, 404, "unknown_station", "coast", "'Coast-1'"),
        ("explain", {"station": "Coast-1", "property": "<b>", "time_ms": 0}, 422, "unknown_property", "<b>", ""),
        ("explain", {"station": "Coast-1", "property": "o3", "time_ms": 0}, 404, "unknown_series", "o3", ""),
        ("alerts", {"station": "Coast-1"}, 422, "unknown_parameter", "station", "'state'"),
    ],
)  # fmt: skip
def test_a_name_that_nobody_knows_is_refused(
    asked: Running, path: str, query: dict[str, Any], status: int, code: str, said: str, meant: str
) -> None:
    """In Chinese and English, with the name as it was asked for, and what may have been meant."""
    answer = asked.http.get(f"/api/{path}", params=query)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert said in error["zh"]
    assert said in error["en"]
    assert re.search(r"[\u4e00-\u9fff]", error["zh"])
    assert not re.search(r"[\u4e00-\u9fff]", error["en"])
    assert meant in error["zh"]
    assert ("是否指" in error["zh"]) == ("did you mean" in error["en"]) == bool(meant)


def test_what_is_known_and_has_nothing_yet_is_an_empty_answer(asked: Running) -> None:
    """Stations, areas, series, indices and statistics of which nothing came so far."""
    first = {"station": "Coast-1", "property": "pm25"}
    assert asked.get("latest", station="Coast-1")["rows"] == []
    assert asked.get("series", **first, channel="backup")["times_ms"] == []
    assert asked.get("explain", **first, time_ms=0)["found"] is False
    assert [asked.get("figures", **first, what=what)["rows"] for what in statistics()] == [[]] * len(statistics())
    for station in ("Coast-1", "370202", "370200"):
        assert asked.get("figures", station=station, property="aqi")["rows"] == []
        assert asked.get("corrections", station=station, property="aqi", what="hour_index")["corrections"] == []


def test_a_station_that_has_left_the_catalogue_keeps_its_history(tmp_path: Path) -> None:
    """What the store holds of it is told as before, also of one that sent events alone; a stranger is still refused."""
    with running(tmp_path / "data", small_catalogue()) as run:
        at = run.now_ms() - 60_000
        run.send("a", at, pm25=31)
        run.publish("c", {"events": [{"kind": "door", "level": 1, "time": at}]})
        run.settle()
    with running(tmp_path / "data", _city("Coast-1")) as run:
        assert [row[4] for row in run.get("latest", station="A")["rows"]] == [31]
        assert run.get("series", **FIRST)["values"] == [31]
        assert run.get("series", **FIRST, to_ms=0)["values"] == []
        assert run.get("explain", **FIRST, time_ms=at)["found"] is True
        assert run.get("explain", **FIRST, time_ms=0)["found"] is False
        assert run.get("figures", **FIRST, to_ms=0)["rows"] == []
        assert run.get("corrections", station="A")["corrections"] == []
        assert run.get("latest", station="C")["rows"] == []
        assert run.get("corrections", station="C")["corrections"] == []
        for path, status in (("latest?station=B", 404), ("corrections?station=B", 404)):
            assert run.http.get(f"/api/{path}").status_code == status
        missing = run.http.get("/api/series", params={"station": "A", "property": "o3"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_series")


def test_no_address_takes_a_parameter_that_it_does_not_declare(asked: Running) -> None:
    """Every question of the API: the misspelt name and those that there are; of two, the right one changes nothing."""
    paths = asked.http.get("/openapi.json").json()["paths"]
    questions = [path for path, methods in paths.items() if "get" in methods and path.startswith("/api/")]
    assert len(questions) > 15
    for path in questions:
        declared = [p["name"] for p in paths[path]["get"].get("parameters", []) if p["in"] == "query"]
        answer = asked.http.get(path.replace("{ident}", "0:1"), params={"statoin": "A"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "unknown_parameter"), path
        for name in ("'statoin'", *declared):
            assert name in error["zh"], path
            assert name in error["en"], path
        assert ("did you mean 'station'?" in error["en"]) == ("station" in declared), path
    both = asked.http.get("/api/latest?station=Coast-1&Station=Coast-1")
    assert (both.status_code, "'Station'" in both.json()["error"]["zh"]) == (422, True)
    assert asked.http.head("/api/status?x=1").status_code == 422


def test_what_watches_us_may_add_parameters(asked: Running) -> None:
    """Load balancers and Prometheus do; neither they nor the page's files ask a question of the API."""
    for path in ("/metrics", "/healthz", "/readyz", "/", "/static/icon.svg"):
        assert asked.http.get(f"{path}?cache=1").status_code == 200, path


def test_the_statistics_are_those_of_the_docs() -> None:
    """A level that is added must be asked for by name, too."""
    aggregates = (ROOT / "docs" / "aggregates.md").read_text(encoding="utf-8")
    table = aggregates[aggregates.index("| `what` |") :].partition("\n\n")[0]
    told = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert told | {"hour_index", "day_index", "month_index"} == set(statistics())
