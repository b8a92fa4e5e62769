"""Figures over the API: as they are, as they were published, and what of them changed, because of what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from tests.web.conftest import Running

HOUR_MS = 3_600_000


def test_a_late_reading_is_a_correction_with_its_cause(run: Running) -> None:
    """Both sides, the raw row that did it, and the old figure for whoever asks as of before."""
    hour = run.now_ms() // HOUR_MS * HOUR_MS - 30 * HOUR_MS
    run.send("a", hour, pm25=30)
    run.settle()
    until(lambda: bool(run.get("figures", station="A", property="pm25", what="hour")["rows"]), "a figure")
    (first,) = run.get("figures", station="A", property="pm25", what="hour")["rows"]
    assert (first["value"], first["stats"]) == (30, {"min": 30, "max": 30})
    assert run.get("corrections") == {"corrections": []}
    run.send("a", hour + 60_000, pm25=50)
    run.settle()
    until(lambda: bool(run.get("corrections", what="hour")["corrections"]), "a correction")
    (changed,) = run.get("corrections", station="A", property="pm25", what="hour")["corrections"]
    assert (changed["old"]["value"], changed["new"]["value"], changed["start_ms"]) == (30, 40, hour)
    assert (changed["old"]["count"], changed["new"]["count"], changed["new"]["stats"]["max"]) == (1, 2, 50)
    assert changed["causes"] == 1
    (cause,) = changed["because"]
    assert (cause["property"], cause["time_ms"]) == ("pm25", hour + 60_000)
    assert run.service.raw_row(int(cause["position"]))["device"] == "a"
    asked = {"station": "A", "property": "pm25", "what": "hour"}
    before = changed["new"]["known_ms"] - 1
    assert [row["value"] for row in run.get("figures", **asked, as_of_ms=before)["rows"]] == [30]
    assert [row["value"] for row in run.get("figures", **asked)["rows"]] == [40]
    assert run.get("figures", **asked, as_of_ms=hour)["rows"] == []
    assert run.get("corrections", since_ms=changed["new"]["known_ms"] + 1)["corrections"] == []
    assert run.get("corrections", station="B")["corrections"] == []


def test_a_district_and_its_city_have_indices(run: Running) -> None:
    """Named in both languages, of the stations that lie there; a figure by district is asked for like any other."""
    hour = run.now_ms() // HOUR_MS * HOUR_MS - 30 * HOUR_MS
    for minute in range(60):
        run.send("a", hour + minute * 60_000, pm25=700)
        run.send("b", hour + minute * 60_000, dust=0.8)
    run.settle()

    def made() -> bool:
        """Say whether both have a value: an hour that is over may be made while its readings still come in."""
        indices = [one for area in run.get("areas")["areas"] for one in area["indices"]]
        return sum((one["property"], one["what"], one["value"]) == ("aqi", "hour_index", 500) for one in indices) == 2

    until(made, "indices of the areas")
    city, district = run.get("areas")["areas"]
    assert (city["area"], city["zh"], city["en"]) == ("370200", "青岛市", "Qingdao")
    assert (district["area"], district["zh"], district["stations"]) == ("370202", "市南区", ["A", "B", "C"])
    found = {one["property"]: one for one in district["indices"] if one["what"] == "hour_index"}
    assert found["aqi"]["value"] == 500
    assert found["aqi"]["primary"] == ["pm25"]
    assert (found["aqi"]["start_ms"], found["aqi"]["level"]["zh"]) == (hour, "严重污染")
    (row,) = run.get("figures", station="370202", property="aqi", what="hour_index")["rows"]
    assert row["value"] == 500
