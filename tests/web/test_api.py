"""Every address of the API: what it answers, to whom, and what it refuses."""

from __future__ import annotations

import csv
import io
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from qingtu.contracts import ReadingQuery
from qingtu.errors import RetryLater
from qingtu.records import PROCESSED
from qingtu.store.duckdb import DuckStore
from tests.store import build
from tests.store.build import processed
from tests.waiting import until
from tests.web.conftest import FORMULA, HOSTILE, Running, running, small_catalogue
from web.api.series_csv import pieces
from web.guard import CSP

if TYPE_CHECKING:
    from pathlib import Path

MINUTE_MS = 60_000
LATEST = ["station", "property", "channel", "time_ms", "value", "flag", "tests"]


def _rows(answer: Any) -> list[dict[str, Any]]:
    return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]


def test_page_and_its_files_have_the_types_that_browsers_insist_on(run: Running) -> None:
    """The page is at /, modules are JavaScript whatever their ending, and a file that did not change is not sent."""
    kinds = {
        "/": "text/html; charset=utf-8",
        "/static/js/main.js": "text/javascript; charset=utf-8",
        "/static/vendor/maplibre-gl/maplibre-gl-worker.mjs": "text/javascript; charset=utf-8",
        "/static/icon.svg": "image/svg+xml",
        "/static/data/land.geojson": "application/geo+json",
    }
    for path, kind in kinds.items():
        answer = run.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), path
        again = run.http.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code in (200 if path == "/" else 304, 304)


def test_head_answers_like_get_without_a_body(run: Running) -> None:
    """For monitors and download tools: the same status and headers; a stream ends at once."""
    for path in (
        "/", "/static/js/main.js", "/api/status", "/api/stations", "/api/latest", "/metrics", "/healthz", "/nowhere",
        "/api/series?station=A&property=pm25", "/api/series", "/api/export?from_ms=0&to_ms=1",
    ):  # fmt: skip
        got, head = run.http.get(path), run.http.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        for name in ("content-type", "content-security-policy", "cache-control"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)
    stream = run.http.head("/api/stream")
    assert (stream.status_code, stream.content) == (200, b"")
    assert stream.headers["content-type"].startswith("text/event-stream")
    until(lambda: len(run.context.live.fanout) == 0, "nobody listens")
    assert run.http.head("/api/status", headers={"Host": "example.invalid"}).status_code == 421


def test_no_file_outside_of_the_page_can_be_read(run: Running) -> None:
    """Paths that climb out of the folder are not found."""
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/js/..%2f..%2f..%2fserver.py"):
        assert run.http.get(path).status_code == 404


def test_every_answer_carries_the_security_headers(run: Running) -> None:
    """Pages, data, errors, metrics: the policy is exactly the strict one, and nothing is shared across origins."""
    for path in ("/", "/api/status", "/metrics", "/nowhere", "/api/series", "/static/js/main.js"):
        headers = run.http.get(path, headers={"Origin": "http://example.invalid"}).headers
        assert headers["content-security-policy"] == CSP, path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8620", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("LOCALHOST", 200),
        ("example.invalid", 421), ("127.0.0.1.example.invalid", 421), ("", 421), ("[", 421),
    ],
)  # fmt: skip
def test_names_that_are_not_this_machine_are_refused(run: Running, host: str, status: int) -> None:
    """A page of another site cannot reach us under a name that it points to 127.0.0.1."""
    assert run.http.get("/api/status", headers={"Host": host}).status_code == status


def test_catalogue_names_everything_that_codes_stand_for(run: Running) -> None:
    """Checks are named by bit number; flags, levels, domains and reasons in both languages."""
    found = run.get("catalogue")
    assert found["version"] == run.service.catalogue.version
    assert found["demonstration"] is False
    assert found["tests"]["4"] == {"key": "spike", "zh": "尖峰", "en": "Spike"}
    assert set(found["flags"]) == {"1", "2", "3", "4", "9"}
    assert [(level["key"], level["n"]) for level in found["levels"]] == [
        ("blue", 1), ("yellow", 2), ("orange", 3), ("red", 4),
    ]  # fmt: skip
    assert found["properties"]["pm25"]["unit_label"] == "µg/m³"
    assert [domain["key"] for domain in found["domains"]] == ["air"]
    assert all({"zh", "en", "advice_zh", "advice_en"} == set(reason) for reason in found["reasons"].values())


def test_stations_tell_their_state_and_names_are_plain_text(run: Running) -> None:
    """GeoJSON with state, headline and time zone; names that look like HTML come as they are."""
    at = run.now_ms()
    run.send("a", at, pm25=31.5, air_temperature=8)
    run.send("b", at, dust=-999)
    run.settle()
    answer = run.http.get("/api/stations")
    assert answer.headers["content-type"] == "application/json"
    collection = answer.json()
    assert collection["type"] == "FeatureCollection"
    found = {feature["id"]: feature for feature in collection["features"]}
    assert found["A"]["geometry"] == {"type": "Point", "coordinates": [120.3, 36.1]}
    place = found["A"]["properties"]
    assert (place["state"], place["timezone"], place["district_zh"]) == ("ok", "Asia/Shanghai", "市南区")
    assert place["headline"] == {"property": "pm25", "value": 31.5, "unit_label": "µg/m³", "flag": 1, "time_ms": at}
    assert at <= place["heard_ms"] <= run.now_ms()
    assert found["B"]["properties"]["zh"] == HOSTILE
    assert found["B"]["properties"]["state"] == "failing"
    assert found["B"]["properties"]["headline"]["value"] is None
    assert (found["C"]["properties"]["state"], found["C"]["properties"]["headline"]) == ("unheard", None)


def test_latest_is_what_was_sent_last(run: Running) -> None:
    """One row a series; a late reading does not move it back; one station alone when asked."""
    at = run.now_ms()
    run.send("a", at, pm25=31, air_temperature=-3.25)
    run.send("a", at - MINUTE_MS, pm25=30)
    run.send("b", at, dust=0.04)
    run.settle()
    answer = run.get("latest")
    assert answer["columns"] == LATEST
    found = {(row["station"], row["property"]): row for row in _rows(answer)}
    assert {key: (row["time_ms"], row["value"]) for key, row in found.items()} == {
        ("A", "pm25"): (at, 31), ("A", "air_temperature"): (at, -3.25), ("B", "pm25"): (at, pytest.approx(40)),
    }  # fmt: skip
    assert {row["station"] for row in _rows(run.get("latest", station="B"))} == {"B"}


def test_latest_is_there_again_after_a_restart(tmp_path: Path) -> None:
    """What the store holds stands on the page before the first new message; alerts too."""
    with running(tmp_path / "data", small_catalogue()) as run:
        at = run.now_ms()
        run.send("a", at, pm25=180)
        run.settle()
        before = run.get("latest")["rows"], run.get("alerts")["alerts"]
    assert len(before[1]) == 1
    with running(tmp_path / "data", small_catalogue()) as again:
        assert (again.get("latest")["rows"], again.get("alerts")["alerts"]) == before
        assert again.get("stations")["features"][0]["properties"]["state"] == "ok"


def test_series_has_flags_limits_and_missing_values(run: Running) -> None:
    """A range in order of time; null where the device had no value; the rule's levels as limits."""
    at = run.now_ms() - 10 * MINUTE_MS
    for i, value in enumerate((10, None, 1200)):
        run.send("a", at + i * MINUTE_MS, pm25=value)
    run.settle()
    found = run.get("series", station="A", property="pm25", from_ms=at, to_ms=at + 2 * MINUTE_MS)
    assert found["times_ms"] == [at, at + MINUTE_MS, at + 2 * MINUTE_MS]
    assert found["values"] == [10, None, 1200]
    assert found["flags"] == [1, 9, 4]
    assert [(limit["value"], limit["level"], limit["name_zh"]) for limit in found["limits"]] == [
        (75, 1, "尘 蓝色"), (150, 3, "尘 橙色"), (250, 4, "尘 红色"),
    ]  # fmt: skip
    assert (found["unit"], found["unit_label"], found["truncated"]) == ("ug/m3", "µg/m³", False)
    assert len(set(found["revisions"])) == 3
    part = run.get("series", station="A", property="pm25", from_ms=at + 1, to_ms=at + MINUTE_MS)
    assert part["values"] == [None]


def test_series_as_it_was_known(run: Running) -> None:
    """``as_of_ms`` gives what was known then, before the spike was decided."""
    at = run.now_ms() - 5 * MINUTE_MS
    run.send("a", at, pm25=10)
    run.send("a", at + MINUTE_MS, pm25=300)
    run.settle()
    known = run.now_ms()
    until(lambda: run.now_ms() > known, "the clock moves")
    run.send("a", at + 2 * MINUTE_MS, pm25=10)
    run.settle()
    ask = {"station": "A", "property": "pm25", "from_ms": at, "to_ms": at + 5 * MINUTE_MS}
    assert run.get("series", **ask)["flags"] == [1, 4, 1]
    then = run.get("series", **ask, as_of_ms=known)
    assert (then["flags"], then["values"]) == ([1, 1], [10, 300])


def test_series_as_csv_is_safe_in_a_spreadsheet(run: Running) -> None:
    """RFC 4180: CRLF, quoted where needed; a name that is a formula is kept as text, a negative number a number."""
    at = run.now_ms()
    run.send("b", at, dust=0.04)
    run.send("a", at, air_temperature=-3.25)
    run.settle()
    answer = run.http.get("/api/series", params={"station": "B", "property": "pm25", "format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="B_pm25_main.csv"'
    assert answer.text.count("\r\n") == answer.text.count("\n") == 2
    row = next(csv.DictReader(io.StringIO(answer.text)))
    assert row["name_en"] == f"'{FORMULA}"
    assert row["name_zh"] == HOSTILE
    assert float(row["value"]) == pytest.approx(40)
    cold = run.http.get("/api/series", params={"station": "A", "property": "air_temperature", "format": "csv"})
    assert next(csv.DictReader(io.StringIO(cold.text)))["value"] == "-3.25"


def test_csv_holds_all_readings_of_a_range(run: Running) -> None:
    """More than the JSON answer tells: in the order of their times, each once; nothing is cut without a word."""
    end, count = run.now_ms(), 50_200
    for first in range(0, count, 400):
        times = range(end - first * 1000, end - min(first + 400, count) * 1000, -1000)
        run.publish("a", [{"time": at, "readings": {"pm25": 12}} for at in times])
    run.settle()
    ask: dict[str, Any] = {"station": "A", "property": "pm25", "from_ms": 0, "to_ms": end}
    told = run.get("series", **ask)
    assert (len(told["times_ms"]), told["truncated"]) == (50_000, True)
    text = run.http.get("/api/series", params={**ask, "format": "csv"}).text
    table = pcsv.read_csv(io.BytesIO(text.encode()))
    times_ms = [int(at.timestamp() * 1000) for at in table.column("time").to_pylist()]
    assert times_ms == list(range(end - (count - 1) * 1000, end + 1, 1000))
    assert run.http.head("/api/series", params={**ask, "format": "csv"}).status_code == 200


def test_a_store_that_refuses_begins_no_csv(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as with every other question, not by a file that ends."""
    readings = run.service.store.readings

    def refuse(query: ReadingQuery) -> pa.Table:
        if query.limit != 1:
            raise RetryLater("忙 / busy")
        return readings(query)

    assert run.http.get("/api/series?station=A&property=pm25&format=csv").text.count("\n") == 1
    monkeypatch.setattr(run.service.store, "readings", refuse)
    assert run.http.get("/api/series?station=A&property=pm25&format=csv").status_code == 503


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_pieces_are_the_whole_in_order(limit: int, tmp_path: Path) -> None:
    """However readings lie in time, and however few a piece may hold."""
    minutes = [-1_000_000, *range(5), 7, 9, 1000, 1001, *range(5000, 5030), 30_000_000]
    store = DuckStore(tmp_path / "store.duckdb")
    store.apply(PROCESSED, 0, [processed(0, [build.reading(minute, float(minute)) for minute in minutes])], 1)
    query = ReadingQuery([build.SERIES[0]], build.T0 - 10**15, build.T0 + 10**16)
    found = list(pieces(store, query, limit))
    assert max(piece.num_rows for piece in found) <= limit
    assert [value for piece in found for value in piece.column("value").to_pylist()] == minutes
    store.close()


def test_what_does_not_exist_or_makes_no_sense_is_refused_in_two_languages(run: Running) -> None:
    """404, 405 and 422 all have one shape."""
    refused = {
        "/nowhere": 404, "/api/series?station=A&property=o3": 404, "/api/series?station=A": 422,
        "/api/series?station=A&property=pm25&from_ms=x": 422, "/api/series?station=A&property=pm25&to_ms=1e30": 422,
        "/api/alerts/nobody": 404, "/api/quarantine/0:99": 404, "/api/quarantine/%3Cb%3E": 404,
        "/api/alerts?limit=0": 422, "/api/alerts/x/acknowledge": 405, "/api/export?from_ms=5&to_ms=5": 422,
        "/api/series?station=A&property=pm25&from_ms=5&to_ms=4": 422, "/api/events?from_ms=5&to_ms=4": 422,
        "/api/series?station=A&property=pm25&from_ms=-99999999999999999": 422,
    }  # fmt: skip
    for path, status in refused.items():
        answer = run.http.get(path)
        assert answer.status_code == status, path
        error = answer.json()["error"]
        assert error["code"]
        assert error["zh"]
        assert error["en"]
        assert "<b>" not in answer.text


@pytest.mark.parametrize("edge", [-62_135_596_800_000, 253_402_300_799_000])
def test_the_first_and_the_last_time_there_is_can_be_asked_about(run: Running, edge: int) -> None:
    """At either edge of what may be asked there is nothing, and that is the answer; beyond it is refused."""
    run.send("a", run.now_ms(), pm25=12)
    run.settle()
    series = "station=A&property=pm25"
    paths = (
        f"series?{series}&to_ms={edge}&from_ms={edge}", f"series?{series}&as_of_ms={edge}",
        f"series?{series}&to_ms={edge}", f"series?{series}&to_ms={edge}&format=csv",
        f"figures?{series}&to_ms={edge}&from_ms={edge}", f"figures?{series}&to_ms={edge}",
        f"events?to_ms={edge}", f"events?to_ms={edge}&from_ms={edge}",
        f"explain?{series}&time_ms={edge}", f"corrections?since_ms={edge}",
        f"export?from_ms={edge - 1000 * (edge > 0)}&to_ms={edge + 1000 * (edge < 0)}",
    )  # fmt: skip
    for path in paths:
        answer = run.http.get(f"/api/{path}")
        assert answer.status_code == 200, (path, answer.text)
    beyond = edge + (1 if edge > 0 else -1)
    assert run.http.get(f"/api/series?{series}&to_ms={beyond}").status_code == 422


def test_metrics_and_health(run: Running) -> None:
    """Prometheus finds lag and ledger; the service is alive and ready."""
    run.send("a", run.now_ms(), pm25=12)
    run.settle()
    text = run.http.get("/metrics").text
    assert 'qingtu_stage_lag_frames{stage="process"}' in text
    assert 'qingtu_ledger_messages{outcome="received"}' in text
    assert run.http.get("/healthz").status_code == 200
    assert run.http.get("/readyz").status_code == 200
    paths = run.http.get("/openapi.json").json()["paths"]
    assert {"/api/stations", "/api/latest", "/api/series", "/api/alerts", "/api/stream", "/api/explain"} <= set(paths)


def test_export_gives_whole_files(run: Running) -> None:
    """Parquet and CSV of a range hold the same readings, times as RFC 3339; no half-made file is left."""
    at = run.now_ms()
    run.send("a", at - MINUTE_MS, pm25=11)
    run.send("a", at, pm25=12)
    run.settle()
    ask = {"from_ms": at - MINUTE_MS, "to_ms": at + 1}
    parquet = run.http.get("/api/export", params=ask)
    assert parquet.headers["x-qingtu-readings"] == "2"
    table = pq.read_table(io.BytesIO(parquet.content))
    assert table.column("value").to_pylist() == [11, 12]
    text = run.http.get("/api/export", params={**ask, "format": "csv"})
    assert pcsv.read_csv(io.BytesIO(text.content)).column("value").to_pylist() == [11, 12]
    assert text.text.splitlines()[1].split(",")[3].endswith("Z")
    folder, deadline = run.service.settings.data / "export", time.monotonic() + 10
    while list(folder.iterdir()):  # a file goes right after its last byte was sent
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.02)


def test_an_act_is_refused_before_its_body_is_read(run: Running) -> None:
    """Without a token nothing of a large body is taken; with one, no more than an act can need."""
    body = b"[" + b" " * (4 * 1024 * 1024) + b"]"
    stranger = run.http.post("/api/quarantine/redrive", content=body, headers={"Authorization": ""})
    assert stranger.status_code == 401
    assert stranger.json()["error"]["code"] == "no_token"
    token = next(iter(run.service.tokens))
    known = run.http.post("/api/quarantine/redrive", content=body, headers={"Authorization": f"Bearer {token}"})
    assert known.status_code == 413
    assert known.json()["error"]["zh"]
