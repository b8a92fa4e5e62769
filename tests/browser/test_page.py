"""The page in a real browser, against the real service: offline, live, in both languages, safe with hostile text.

The fixture ``live_service`` (tests/browser/conftest.py) is the running service with the demonstration catalogue and
the embedded broker; ``LiveService`` (tests/browser/support.py) says what the tests need of it.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.browser.support import message, send, sender_of, value_of
from tests.waiting import until

if TYPE_CHECKING:
    from tests.browser.support import LiveService, Watched

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='pwned'\">"


def test_loads_without_another_host_and_without_errors(live_service: LiveService, watched: Watched) -> None:
    """The page, its map and its worker come from the service alone, under a strict policy, and nothing complains."""
    page = watched.page
    with page.expect_response(live_service.url.rstrip("/") + "/") as first:
        watched.open(live_service)
    page.wait_for_selector("#map[data-ready=yes]")
    expect(page.locator("#ledger")).to_contain_text("接收")
    policy = first.value.header_value("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    own = urlsplit(live_service.url).netloc
    foreign = [url for url in watched.urls if not url.startswith(("data:", "blob:")) and urlsplit(url).netloc != own]
    assert foreign == []
    assert any(url.endswith(".mjs") and "worker" in url for url in watched.urls), "the map's worker did not start"
    assert watched.errors == []


def test_token_leaves_the_address(live_service: LiveService, watched: Watched) -> None:
    """The token of the printed link is kept for the tab and taken out of the address at once."""
    page = watched.open(live_service, token=live_service.token)
    assert live_service.token not in page.url
    expect(page.locator("#duty")).to_have_attribute("aria-pressed", "true")


def test_click_on_a_mark_shows_the_station(live_service: LiveService, watched: Watched) -> None:
    """A click on the map opens the station under it: both names, its number, readings with unit, flag and age."""
    station, topic = sender_of(live_service, "pm25")
    send(live_service, topic, message({"pm25": 31}))
    lon, lat = (float(part) for part in (station.position[0], station.position[1]))
    page = watched.open(live_service, v=f"15/{lat}/{lon}")
    page.wait_for_selector("#map[data-ready=yes]")
    box = page.locator("#map").bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    #  the tooltip says that the mark is drawn: before that a click would be on the empty sea
    for _ in range(40):
        if page.locator("#map-tip").is_visible():
            break
        page.wait_for_timeout(250)
        page.mouse.move(middle[0] + 1, middle[1])
        page.mouse.move(*middle)
    expect(page.locator("#map-tip")).to_contain_text(station.zh)
    page.mouse.click(*middle)
    panel = page.locator("#station")
    expect(panel.locator("h2")).to_contain_text(station.zh)
    expect(panel.locator("h2")).to_contain_text(station.en)
    expect(panel).to_contain_text(station.id)
    row = panel.locator("tr[data-property=pm25]")
    expect(row.locator(".v i")).to_have_text("µg/m³")
    expect(row.locator(".flag em")).to_have_text("1")
    expect(row.locator(".age")).not_to_be_empty()
    assert f"s={station.id}" in page.url
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()


def test_chart_is_drawn(live_service: LiveService, watched: Watched) -> None:
    """A reading's last day is drawn as a line, and its points can be asked for value and provenance."""
    station, topic = sender_of(live_service, "pm10", skip=1)
    send(live_service, topic, *(message({"pm10": 50 + n % 7}, age_s=60 * (40 - n)) for n in range(40)))
    page = watched.open(live_service, s=station.id, p="pm10")
    page.wait_for_selector("#station .uplot canvas")
    count = """() => {
      const canvas = document.querySelector("#station .uplot canvas");
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let accent = 0;
      for (let i = 0; i < pixels.length; i += 4)
        if (pixels[i + 3] > 200 && pixels[i + 2] - pixels[i] > 90) accent += 1;
      return accent;
    }"""
    page.wait_for_function(f"({count})() > 30")
    page.locator("#station .chart").focus()
    page.keyboard.press("ArrowLeft")
    tip = page.locator(".chart-tip")
    expect(tip).to_contain_text("µg/m³")
    expect(tip).to_contain_text("收到")
    expect(tip).to_contain_text("版本")
    assert watched.errors == []


def test_language_and_theme_switch(live_service: LiveService, watched: Watched) -> None:
    """Language and theme change at once, stand in the address, and survive a reload."""
    station, _ = sender_of(live_service, "pm25")
    page = watched.open(live_service, s=station.id)
    expect(page.locator("#station h2")).to_contain_text(station.zh)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#lang")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#left .head").first).to_contain_text("Alerts")
    expect(page.locator("#ledger")).to_contain_text("received")
    page.click("#theme")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    assert "lang=en" in page.url
    assert "theme=dark" in page.url
    page.reload()
    page.wait_for_selector("body[data-loaded=yes]")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    assert watched.errors == []


#  fields of an explanation that stand there by the name that the API gives them
UNNAMED = "all => all.filter((name) => name.textContent === name.title).map((name) => name.title)"


def test_a_published_message_changes_the_value(live_service: LiveService, watched: Watched) -> None:
    """What is published stands on the page without a reload, and the row that is looked at stays where it is."""
    station, topic = sender_of(live_service, "pm25")
    send(live_service, topic, message({"pm25": 41}))
    page = watched.open(live_service, s=station.id, p="pm25")
    value_of(page, "pm25").to_have_text("41")
    expect(page.locator("#offline")).to_be_hidden()
    order = page.locator("#station tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.key)")
    send(live_service, topic, message({"pm25": 43}))
    value_of(page, "pm25").to_have_text("43")
    assert page.locator("#station tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.key)") == order
    page.get_by_role("button", name="为什么是").click()
    expect(page.locator("#sheet .step").first).to_be_visible()
    expect(page.locator("#sheet")).to_contain_text('"pm25"')
    expect(page.locator("#sheet dt", has_text="收到时间").first).to_be_visible()
    assert page.locator("#sheet [title]").evaluate_all(UNNAMED) == [], "fields without words"
    page.keyboard.press("Escape")
    assert watched.errors == []


@pytest.mark.parametrize(("lang", "title"), [("zh", "人工改标"), ("en", "Set by a person")])
def test_a_flag_that_a_person_set_is_explained_in_words(
    live_service: LiveService, watched: Watched, lang: str, title: str
) -> None:
    """The step and its fields have names in both languages, and what is said of the payload is so."""
    station, topic = sender_of(live_service, "pm10")
    sent = message({"pm10": 61})
    send(live_service, topic, sent)
    page = watched.open(live_service, lang=lang, s=station.id, p="pm10")
    value_of(page, "pm10").to_have_text("61")
    api, series = f"{live_service.url.rstrip('/')}/api", {"station": station.id, "property": "pm10"}
    said = page.request.post(
        f"{api}/override",
        data={**series, "time_ms": sent["time"], "flag": 4, "reason": "<b>dust</b>"},
        headers={"Authorization": f"Bearer {live_service.token}"},
    )
    assert said.status == 202, said.text()
    asked: dict[str, str | float | bool] = {**series, "time_ms": sent["time"]}
    until(lambda: "dust" in page.request.get(f"{api}/explain", params=asked).text(), "the override in the store")
    expect(page.locator("#station tr[data-property=pm10] .flag em")).to_have_text("4")
    page.locator("#station .acts .primary").click()
    step = page.locator("#sheet .step", has=page.locator("b", has_text=title)).filter(has_text="<b>dust</b>")
    expect(step).to_be_visible()
    own = {"zh": "自带时间或序号", "en": "Has its own time or counter"}[lang]
    expect(page.locator("#sheet dt", has_text=own)).to_have_count(1)
    if lang == "zh":  # some English words are those of the API
        assert page.locator("#sheet [title]").evaluate_all(UNNAMED) == [], "fields without words"
    assert watched.errors == []


#  where each control of the panel stands, in its own coordinates
PLACES = """() => Object.fromEntries(
  [...document.querySelectorAll("#station button, #station a")]
    .map((one) => [one.textContent, Math.round(one.getBoundingClientRect().top)]))"""


def test_controls_stay_while_the_chart_loads(live_service: LiveService, watched: Watched) -> None:
    """A click that falls into the moment at which the chart arrives still meets what was aimed at."""
    station, topic = sender_of(live_service, "pm25")
    send(live_service, topic, message({"pm25": 47}))
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    watched.page.route("**/api/series?*", hold)
    page = watched.open(live_service, s=station.id, p="pm25")
    value_of(page, "pm25").to_have_text("47")
    expect(page.get_by_role("button", name="为什么是 47")).to_be_visible()
    before = page.evaluate(PLACES)
    assert held, "the page has not asked for the chart"
    for route in held:
        route.continue_()
    expect(page.locator("#station .chart canvas")).to_be_visible()
    expect(page.locator("#station")).to_contain_text("细颗粒物偏高 蓝色")
    assert page.evaluate(PLACES) == before
    assert watched.errors == []


#  cells that leave the panel, and texts wider than what holds them
CUT = """() => {
  const panel = document.querySelector("#station");
  const left = panel.getBoundingClientRect().left + panel.clientLeft;
  const right = left + panel.clientWidth;
  const cut = [];
  for (const part of panel.querySelectorAll("*:not(.sr, .sr *)")) {
    if (!part.checkVisibility()) continue;
    const box = part.getBoundingClientRect();
    const out = box.left < left - 0.5 || box.right > right + 0.5;
    if (out) cut.push(`${part.tagName}.${part.className}: ${part.textContent}`);
  }
  if (panel.scrollWidth > panel.clientWidth) cut.push(`${panel.scrollWidth} px wide in ${panel.clientWidth}`);
  return cut;
}"""


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
def test_no_column_of_the_station_is_cut(
    live_service: LiveService, watched: Watched, width: int, height: int, lang: str
) -> None:
    """Long names, a meter's long figure and readings hours old fit into the panel, on a desk and on a phone."""
    station, device = next(
        (station, device)
        for station in live_service.stations.values()
        for device in station.devices
        if station.domain == "community" and "electric_energy" in device.properties
    )
    topic = f"qt/{device.network or station.network}/{device.id}/up"
    readings = {"electric_energy": 2628381.85, "electric_power": 57.776}
    old = 5 * 3600 + 23 * 60
    send(live_service, topic, message(readings, age_s=old))
    page = watched.page
    page.set_viewport_size({"width": width, "height": height})
    watched.open(live_service, lang=lang, s=station.id)
    row = page.locator("#station tr[data-property=electric_energy]")
    expect(row.locator(".v b")).to_have_text("2,628,381.85")
    expect(row.locator(".age")).to_contain_text("5 h 2")
    try:  # the chart learns of the panel's width after it was laid out
        page.wait_for_function(f"() => ({CUT})().length === 0", timeout=5_000)
    except PlaywrightTimeoutError:
        assert page.evaluate(CUT) == []
        raise
    assert watched.errors == []


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
def test_every_domain_can_be_reached(
    live_service: LiveService, watched: Watched, width: int, height: int, lang: str
) -> None:
    """All toggles are in sight, or a button says how many are not and unfolds them; the top bar holds what is in it."""
    page = watched.page
    page.set_viewport_size({"width": width, "height": height})
    watched.open(live_service, lang=lang, token=live_service.token)
    chips = page.locator("#domains .chip")
    used = {station.domain for station in live_service.stations.values()}
    expect(chips).to_have_count(len(used))
    hidden = """() => {
      const row = document.querySelector("#domains").getBoundingClientRect();
      const inside = (box) => box.left >= row.left && box.right <= row.right + 1 && box.bottom <= row.bottom + 1;
      return [...document.querySelectorAll("#domains .chip")].filter((c) => !inside(c.getBoundingClientRect())).length;
    }"""
    more = page.locator("#domains-more")
    if out := page.evaluate(hidden):
        expect(more).to_contain_text(f"+{out}")
        more.click()
        expect(more).to_have_attribute("aria-expanded", "true")
    assert page.evaluate(hidden) == 0
    for chip in chips.all():
        chip.click()
        expect(chip).to_have_attribute("aria-pressed", "false")
    top, parts = page.evaluate(
        """() => [...document.querySelectorAll("header, header *")].map((part) => part.getBoundingClientRect())
          .map(({ top, bottom, left, right }) => [top, bottom, left, right])
          .reduce((all, box, index) => index ? [all[0], [...all[1], box]] : [box, []], null)"""
    )
    outside = [box for box in parts if box[0] < top[0] or box[1] > top[1] or box[2] < top[2] or box[3] > top[3]]
    assert outside == []
    assert watched.errors == []


def test_acknowledge_an_alert(live_service: LiveService, watched: Watched) -> None:
    """An alert opens live; without the token the page asks for it; acknowledged, the card says so with the note."""
    station, topic = sender_of(live_service, "wind_gust")
    page = watched.open(live_service)
    #  gusts have no hold time: one reading beyond the yellow level of the demonstration's rule opens the alert
    send(live_service, topic, message({"wind_gust": 22.5}))
    card = page.locator("#alerts .alert[data-state=open]", has_text=station.zh).filter(has_text="22.5").first
    expect(card).to_be_visible()
    key = card.get_attribute("data-key")
    card = page.locator(f'#alerts .alert[data-key="{key}"]')
    expect(card.locator(".lv")).to_have_text("2")
    card.locator(".ack").click()
    page.fill("#duty-token", live_service.token)
    page.keyboard.press("Enter")
    card.locator("form input").fill("已派人 <b>查看</b>")
    page.keyboard.press("Enter")
    expect(card).to_have_attribute("data-state", "acknowledged")
    expect(card).to_contain_text("已派人 <b>查看</b>")
    assert card.locator(".alert-more b").count() == 0, "the note was taken as HTML"
    assert watched.errors == []


def test_districts_show_their_index(live_service: LiveService, watched: Watched) -> None:
    """An hour of a station becomes the index of its district, by number, words and colour, in both languages."""
    station = next(s for s in live_service.stations.values() if s.domain == "air" and s.district == "370285")
    device = station.devices[0].id
    hour = int(time.time()) // 3600 * 3600 - 5 * 3600
    body = [{"time": hour + 60 * i, "readings": {"pm25": 180, "pm10": 240}} for i in range(60)]
    live_service.publish(f"qt/{station.network}/{device}/up", json.dumps(body).encode())
    page = watched.page

    def published() -> bool:
        areas = page.request.get(f"{live_service.url.rstrip('/')}/api/areas").json()["areas"]
        return any(area["area"] == "370285" and area["indices"] for area in areas)

    until(published, "the index of the district", 60)
    watched.open(live_service, lang="en")
    row = page.locator("#areas li[data-key='370285']")
    expect(row).to_have_text(re.compile("^Laixi(231|230)Heavily polluted$"))
    assert row.locator("i").evaluate("dot => getComputedStyle(dot).backgroundColor") == "rgb(153, 0, 76)"
    page.locator("#lang").click()
    expect(row).to_contain_text("重度污染")
    assert watched.errors == []


def test_an_incident_shows_its_timeline_as_text(live_service: LiveService, watched: Watched) -> None:
    """Opened, its card lists what led to it, by name of station; words that come with it are never HTML."""
    station, topic = sender_of(live_service, "pm25")
    send(live_service, topic, message({"pm25": 31}))
    step = {
        "time_us": 1_795_392_000_000_000,
        "rule": HOSTILE,
        "property": "",
        "level": 2,
        "state": "open",
        "value": None,
    }
    seen = [{**step, "station": station.id}, {**step, "station": HOSTILE, "state": "resolved", "level": 0}]
    incident = {
        "id": "0123456789abcdef", "rule": "s", "rule_zh": "污染过程", "rule_en": "Episode", "station": station.id,
        "property": None, "channel": None, "level": 2, "level_key": "yellow", "top_level": 2, "state": "open",
        "opened_ms": 1_795_392_000_000, "changed_ms": 1_795_392_000_000, "value": 2, "limit": 2, "unit_label": "",
        "who": "", "note": "", "evidence": {"stations": ["x", "y"], "timeline": seen, "left_out": 3},
    }  # fmt: skip

    def added(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        route.fulfill(response=answer, json={**body, "alerts": [incident, *body["alerts"]]})

    page = watched.page
    page.route(re.compile(r"/api/alerts(\?|$)"), added)
    watched.open(live_service)
    card = page.locator('#alerts .alert[data-key="0123456789abcdef"]')
    expect(card.locator(".alert-more")).to_have_text("2 个站点")
    expect(card.locator(".timeline")).to_have_count(0)
    card.locator(".alert-open").click()
    expect(card.locator(".timeline li")).to_have_count(3)
    expect(card.locator(".timeline li b").first).to_have_text(station.zh)
    expect(card.locator(".timeline li b").nth(1)).to_have_text(HOSTILE)
    expect(card.locator(".timeline")).to_contain_text("中间略去 3 条")
    assert page.locator("img[src=x]").count() == 0
    card.locator(".alert-open").click()
    expect(card.locator(".timeline")).to_have_count(0)
    assert watched.errors == []


def test_hostile_names_are_text(live_service: LiveService, watched: Watched) -> None:
    """A station whose names are HTML shows them as they are, on the map, in the panel and in the search."""
    station, topic = sender_of(live_service, "pm25")
    send(live_service, topic, message({"pm25": 31}))
    page = watched.page

    def rename(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for feature in body["features"]:
            if feature["properties"]["id"] == station.id:
                feature["properties"] |= {"zh": HOSTILE, "en": HOSTILE, "street": HOSTILE}
        route.fulfill(response=answer, json=body)

    page.route("**/api/stations", rename)
    lon, lat = (float(part) for part in (station.position[0], station.position[1]))
    watched.open(live_service, s=station.id, v=f"15/{lat}/{lon}")
    page.wait_for_selector("#map[data-ready=yes]")
    expect(page.locator("#station h2")).to_have_text(HOSTILE)
    page.keyboard.press("/")
    page.keyboard.type("onerror")
    expect(page.locator("#search-list [role=option]").first).to_contain_text(HOSTILE)
    page.keyboard.press("Escape")
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#map-tip b")).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    assert "pwned" not in page.title()
    assert watched.errors == []


def test_quarantine_shows_the_bytes_as_text(live_service: LiveService, watched: Watched) -> None:
    """A message of an unknown device is in quarantine with its bytes as text and hex, whatever its names hold."""
    device = "x<img src=y>ghost"  # no slash: that would be another level of the topic
    live_service.publish(f"qt/qd-air/{device}/up", b'{"readings": {"pm25": 1}} \xff')
    page = watched.page
    for _ in range(40):
        watched.open(live_service, sheet="quarantine")
        page.wait_for_selector("#sheet .q-list, #sheet .empty")
        row = page.locator("#sheet tbody tr", has_text=device).first
        if row.count():
            break
        page.wait_for_timeout(250)
        page.goto("about:blank")
    row.click()
    detail = page.locator("#sheet .q-detail")
    expect(detail).to_contain_text(device)
    expect(detail.locator(".payload").first).to_contain_text('{"readings": {"pm25": 1}}')
    expect(detail.locator(".hex")).to_contain_text("0000  7b 22 72 65")
    assert page.locator("#sheet img").count() == 0
    assert watched.errors == []


def test_without_webgl_the_lists_still_work(live_service: LiveService, watched: Watched) -> None:
    """A browser that cannot draw the map says so and lists the stations instead."""
    page = watched.page
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " return kind.startsWith('webgl') ? null : get.call(this, kind, ...rest); };"
    )
    watched.open(live_service)
    expect(page.locator("#station-list")).to_contain_text("没有 WebGL")
    entry = page.locator("#station-list li button").first
    name = entry.locator("b").inner_text()
    entry.click()
    expect(page.locator("#station h2")).to_contain_text(name)
    assert watched.errors == []
