"""The state of a station: which of all that holds is told, since when, and by what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.raw import raw_frame, tick_row
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from tests.waiting import until
from tests.web.conftest import Running, running, small_catalogue
from web.states import STATES, Facts, Standing, State, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
HEARD = Facts(heard_us=100, patience_us=50)
ALL = {kind: Standing(i, kind) for i, kind in enumerate(("network", "silence", "clock_wrong", "quality"))}


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (Facts(), State("unheard")),
        (HEARD, State("ok")),
        (Facts(heard_us=100, patience_us=50, bad=True), State("failing")),
        (Facts(heard_us=100, patience_us=50, bad=True, alerts={"quality": Standing(7, "q")}), State("failing", 7, "q")),
        (Facts(heard_us=100, patience_us=50, quiet_us=50), State("ok")),
        (Facts(heard_us=100, patience_us=50, quiet_us=51, bad=True), State("silent", 100)),
        (Facts(heard_us=100, quiet_us=1, alerts={"clock_wrong": Standing(5, "c")}), State("clock_wrong", 5, "c")),
        (Facts(alerts={"clock_wrong": Standing(5, "c")}), State("clock_wrong", 5, "c")),
        (Facts(heard_us=100, alerts={k: ALL[k] for k in ("silence", "clock_wrong")}), State("silent", 1, "silence")),
        (Facts(heard_us=100, alerts=ALL), State("gateway_down", 0, "network")),
        (Facts(alerts={k: ALL[k] for k in ("network", "silence")}), State("unheard")),
        (Facts(heard_us=100, alerts=ALL, deaf=Standing(None, "r")), State("link_down", None, "r")),
        (Facts(deaf=Standing(9, "r"), maintenance=Standing(8, "Li")), State("maintenance", 8, "Li")),
        (Facts(heard_us=100, alerts={"threshold": Standing(1, "t")}), State("ok")),
    ],
)
def test_the_state_is_the_one_that_explains_most(facts: Facts, state: State) -> None:
    """Person before link, link before what is shared, that before what is the station's own, that before its values."""
    assert state_of(facts) == state


@given(st.dictionaries(st.sampled_from(sorted(ALL)), st.just(Standing(1, "x"))), st.booleans(), st.booleans())
def test_more_trouble_is_never_a_better_state(alerts: dict[str, Standing], bad: bool, quiet: bool) -> None:
    """What is added never makes a state that comes later in the order; ok is only that of which nothing holds."""
    facts = Facts(heard_us=1, alerts=alerts, bad=bad, quiet_us=int(quiet))
    state = state_of(facts)
    assert (state.name == "ok") == (not alerts and not bad and not quiet)
    more = Facts(heard_us=1, alerts=alerts, bad=bad, quiet_us=int(quiet), deaf=Standing(1, "r"))
    assert STATES.index(state_of(more).name) <= STATES.index(state.name)


def test_every_state_has_words_and_stands_on_the_page() -> None:
    """Docs in the order of precedence, words in both languages."""
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \|$", page[page.index("The **state**") :].split("##")[0], re.MULTILINE)
    assert list(dict.fromkeys(rows)) == list(STATES)
    words = (ROOT / "web/static/js/i18n.js").read_text(encoding="utf-8")
    assert [name for name in STATES if f"  state_{name}: [" not in words] == []


@pytest.fixture
def city(tmp_path: Path) -> Iterator[Running]:
    """The small catalogue with rules on links and networks."""
    content = orjson.loads(small_catalogue().to_json())["content"]
    del content["dictionary"]
    content["rules"] += [
        {"id": "net", "kind": "network", "zh": "网", "en": "Net", "least": 2, "share": 0.5, "level": "red"},
        {"id": "link", "kind": "link", "zh": "链", "en": "Link", "after_s": 60},
    ]
    with running(tmp_path, Catalogue(Content.model_validate(content))) as found:
        yield found


def _tick(run: Running, at_ms: int, hearing: dict[str, int]) -> None:
    row = tick_row(at_ms * 1000, {route: ms * 1000 for route, ms in hearing.items()})
    frame = raw_frame([row], gateway="g", catalogue=None, clock_us=at_ms * 1000)
    run.service.bus.append("raw", 0, [frame]).result()


def _properties(run: Running) -> dict[str, dict[str, object]]:
    return {f["id"]: f["properties"] for f in run.get("stations")["features"]}


def test_a_dead_network_is_told_at_its_stations_and_can_be_acknowledged(city: Running) -> None:
    """One alert without a station; those that it names are gateway_down by it; a person acknowledges it."""
    at = city.now_ms() - 3_600_000
    for device in ("a", "b"):
        city.publish(device, {"time": at, "readings": {"pm25": 12}}, received_ms=at)
    city.settle()
    _tick(city, city.now_ms(), {"native": at - 1000})
    city.settle()
    until(lambda: any(a["rule"] == "net" for a in city.get("alerts")["alerts"]), "the alert on the network")
    (alert,) = (a for a in city.get("alerts")["alerts"] if a["rule"] == "net")
    assert alert["station"] == ""
    found = _properties(city)
    assert {"A", "B"} <= set(alert["evidence"]["stations"])
    assert (found["A"]["state"], found["A"]["state_by"]) == ("gateway_down", alert["id"])
    assert found["A"]["state_since_ms"] == alert["opened_ms"]
    assert city.post(f"alerts/{alert['id']}/acknowledge", {"note": "on my way"}).status_code == 202
    until(lambda: city.get(f"alerts/{alert['id']}")["state"] == "acknowledged", "the acknowledgement")


def test_mutes_and_maintenance_are_listed_and_shown(run: Running) -> None:
    """With who, why and until when, as of the next tick; ended ones go; the station says that it is worked on."""
    assert run.get("alerts/mutes")["mutes"] == []
    until_ms = run.post("alerts/mute", {"for_s": 600, "rule": "dust", "note": "烟花"}).json()["until_ms"]
    run.post("alerts/maintenance", {"for_s": 900, "station": "A", "note": "<b>probe</b>"})
    _tick(run, run.now_ms(), {})
    until(lambda: run.get("alerts/mutes")["maintenance"], "the list")
    found = run.get("alerts/mutes")
    assert found["mutes"] == [
        {"station": "", "district": "", "rule": "dust", "until_ms": until_ms, "who": "operator", "note": "烟花"}
    ]
    (work,) = found["maintenance"]
    assert (work["station"], work["who"], work["note"]) == ("A", "operator", "<b>probe</b>")
    assert (_properties(run)["A"]["state"], _properties(run)["A"]["state_by"]) == ("maintenance", "operator")
    run.post("alerts/mute", {"for_s": 0, "rule": "dust"})
    run.post("alerts/maintenance", {"for_s": 0, "station": "A"})
    _tick(run, run.now_ms(), {})
    until(lambda: run.get("alerts/mutes")["mutes"] == run.get("alerts/mutes")["maintenance"] == [], "the end")
