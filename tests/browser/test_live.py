"""What the page makes of the stream and of the answers of the service, whichever of them comes first."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from tests.browser.support import message, send, sender_of, value_of
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import APIResponse, Page, Route

    from tests.browser.support import LiveService, Watched

pytestmark = pytest.mark.browser

STORE = """async ([name, key]) => {
  const { store } = await import("/static/js/store.js");
  return key === null ? store[name] : store[name].get(key);
}"""

LIVE = """async () => (await import("/static/js/store.js")).store.link.state === "live" """
NEXT = """async (topic) => {
  const { on } = await import("/static/js/store.js");
  await new Promise((done) => on(topic, () => done()));
}"""


def stored(page: Page, name: str, key: str | None = None) -> Any:
    """Return what the page knows: an entry of its store, or of one of the store's maps."""
    return page.evaluate(STORE, [name, key])


class Held:
    """Answers that the service has made and that are on their way until ``release``; the first of each passes."""

    def __init__(self, page: Page, *paths: str) -> None:
        """Hold the second answer of each of these addresses."""
        self._page = page
        self._seen: dict[str, int] = dict.fromkeys(paths, 0)
        self._held: list[tuple[Route, APIResponse]] = []
        for path in paths:
            page.route(f"**/api/{path}", self._hold(path))

    def wait(self, count: int) -> None:
        """Return when so many are held."""

        def here() -> bool:
            self._page.wait_for_timeout(20)  # the browser's requests are answered in here
            return len(self._held) >= count

        until(here, f"{count} answers")

    def _hold(self, path: str) -> Callable[[Route], None]:
        def hold(route: Route) -> None:
            answer = route.fetch()
            self._seen[path] += 1
            if self._seen[path] == 2:
                self._held.append((route, answer))
            else:
                route.fulfill(response=answer)

        return hold

    def release(self) -> None:
        """Let them arrive."""
        for route, answer in self._held:
            route.fulfill(response=answer)


def test_an_answer_that_was_overtaken_takes_nothing_back(live_service: LiveService, watched: Watched) -> None:
    """Map and table keep what the stream told while the answer was on its way, of the same time, too."""
    station, topic = sender_of(live_service, "pm25")
    at = message({"pm25": 41})
    page = watched.page
    send(live_service, topic, at)
    held = Held(page, "stations", "latest")
    watched.open(live_service, s=station.id, p="pm25")
    held.wait(2)
    value_of(page, "pm25").to_have_text("41")
    head = stored(page, "stations", station.id)["headline"]
    send(live_service, topic, at | {"readings": {head["property"]: 43, "pm25": 43}})
    value_of(page, "pm25").to_have_text("43")
    held.release()
    page.wait_for_function(LIVE)
    page.wait_for_timeout(500)
    value_of(page, "pm25").to_have_text("43")
    assert stored(page, "latest", f"{station.id}|pm25|main")["value"] == 43
    assert stored(page, "stations", station.id)["headline"]["value"] == 43
    assert watched.errors == []


def test_a_station_that_is_heard_for_the_first_time_is_online_at_once(
    live_service: LiveService, watched: Watched
) -> None:
    """The stream tells of it, as nobody would wait for the next list of all stations."""
    page = watched.page
    found = page.request.get(f"{live_service.url.rstrip('/')}/api/stations").json()["features"]
    silent = {one["id"] for one in found if one["properties"]["state"] == "unheard"}
    senders = (sender_of(live_service, "pm25", skip) for skip in range(9))
    station, topic = next(sender for sender in senders if sender[0].id in silent)
    watched.open(live_service, s=station.id)
    state = page.locator("#station .state")
    expect(state).to_have_text("未收到过数据")
    for _ in range(2):  # from its second look on the service tells what has changed
        page.evaluate(NEXT, "status")
    asked = sum(url.endswith("/api/stations") for url in watched.urls)
    send(live_service, topic, message({"pm25": 30}))
    expect(state).to_have_text("在线", timeout=10_000)
    assert stored(page, "stations", station.id)["headline"]["value"] is not None
    assert sum(url.endswith("/api/stations") for url in watched.urls) == asked, "the page asked for all stations"
    assert watched.errors == []


def _alerts(stations: list[str], count: int) -> list[dict[str, Any]]:
    """Return so many alerts, on these stations by turns."""
    return [
        {"id": f"{n:016x}", "rule": "r", "rule_zh": "规则", "rule_en": "Rule", "station": stations[n % len(stations)],
         "property": None, "channel": None, "level": 1, "level_key": "blue", "top_level": 1, "state": "open",
         "opened_ms": 1_795_392_000_000, "changed_ms": 1_795_392_000_000, "value": 2, "limit": 2, "unit_label": "",
         "who": "", "note": "", "evidence": {}}
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "told"), [(515, "515"), (10_001, "10,000+")])
def test_all_alerts_are_counted_and_no_station_is_lowered(
    live_service: LiveService, watched: Watched, count: int, told: str
) -> None:
    """The most urgent are listed, all are told; what the list could not hold stays on the map."""
    *others, last = sorted(live_service.stations)
    alerts = _alerts(others, count - 1) + _alerts([last], count)[-1:]

    def many(route: Route) -> None:
        limit = int(parse_qs(urlsplit(route.request.url).query)["limit"][0])
        route.fulfill(json={"now_ms": 1_795_392_000_000, "alerts": alerts[:limit]})

    def marked(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for feature in body["features"]:
            feature["properties"] |= {"alert_level": 1, "unacknowledged": True}
        route.fulfill(response=answer, json=body)

    page = watched.page
    page.route(re.compile(r"/api/alerts\?"), many)
    page.route("**/api/stations", marked)
    watched.open(live_service)
    expect(page.locator("#left [data-alert-count]")).to_have_text(told)
    expect(page.locator("#alerts .alert")).to_have_count(500)
    expect(page.locator("#alerts-more")).to_have_text(f"共 {told} 条，这里列出最急的 500 条")
    expect(page.locator("#fig-alerts b")).to_have_text(str(len(live_service.stations)))
    page.wait_for_function(LIVE)
    assert stored(page, "stations", last)["alert_level"] == 1
    assert watched.errors == []


def test_a_panel_stays_true_over_a_shift(live_service: LiveService, watched: Watched) -> None:
    """Files hold the last day at the click, small lines are drawn anew, and late readings come into the chart."""
    station, topic = sender_of(live_service, "pm10", skip=1)
    send(live_service, topic, *(message({"pm10": 50 + age % 7}, age_s=60 * age) for age in (480, 4, 3, 2)))
    page = watched.open(live_service, s=station.id, p="pm10")
    page.wait_for_selector("#station .uplot canvas")
    page.wait_for_function(LIVE)
    for link in page.locator("#station .acts a").all():
        query = parse_qs(urlsplit(link.get_attribute("href") or "").query)
        assert set(query) - {"format"} == {"station", "property", "channel"}

    line = page.locator("#station tr[data-property=pm10] .spark path")
    expect(line).to_have_attribute("d", re.compile("^M"))
    before = line.get_attribute("d") or ""
    send(live_service, topic, message({"pm10": 59}))
    value_of(page, "pm10").to_have_text("59")
    page.evaluate("async () => { (await import('/static/js/store.js')).store.skew_ms += 61_000; }")
    expect(line).not_to_have_attribute("d", before, timeout=10_000)

    late = message({"pm10": 77}, age_s=6 * 3600)
    send(live_service, topic, late)
    page.locator("#station .chart").focus()

    chart = page.locator("#station .chart")
    tip = chart.locator(".chart-tip")
    chart.focus()

    def found() -> bool:
        for _ in range(8):  # points of the day, the last first
            page.keyboard.press("ArrowLeft")
            if "77 µg/m³" in (tip.text_content() or ""):
                return True
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        return False

    until(found, "the late reading on the chart")
    assert watched.errors == []


def test_times_of_a_station_are_told_in_its_zone(live_service: LiveService, watched: Watched) -> None:
    """Panel, chart and explanation tell them by the station's clock and name its zone; the strip keeps the city's."""
    station, topic = sender_of(live_service, "pm25", skip=2)
    sent = [message({"pm25": value}, age_s=age) for value, age in ((33, 120), (34, 60))]
    send(live_service, topic, *sent)

    def moved(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for feature in body["features"]:
            feature["properties"]["timezone"] = "Asia/Kathmandu"
        route.fulfill(response=answer, json=body)

    page = watched.page
    page.route("**/api/stations", moved)
    watched.open(live_service, s=station.id, p="pm25", lang="en")
    first, last = (
        datetime.fromtimestamp(one["time"] / 1000, ZoneInfo("Asia/Kathmandu")).strftime("%H:%M:%S") for one in sent
    )
    expect(page.locator("#station .hero dd").nth(1)).to_contain_text(last)
    expect(page.locator("#station")).to_contain_text("Time zone Asia/Kathmandu")
    chart = page.locator("#station .chart")
    expect(chart.locator("canvas")).to_be_visible()
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".chart-tip")).to_contain_text(first)
    page.locator("#station .acts .primary").click()
    expect(page.locator("#sheet .explain > .hint")).to_contain_text(last)
    page.keyboard.press("Escape")
    city = datetime.now(ZoneInfo("Asia/Shanghai")).strftime("%Y-%m-%d %H:")
    expect(page.locator("#clock")).to_contain_text(re.compile(f"^{city}|:00:0"))
    assert watched.errors == []
