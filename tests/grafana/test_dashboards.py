"""The dashboards' JSON: golden files, Grafana's own types, and what must hold of every panel."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units as sdk_units
from grafana_foundation_sdk.models.dashboard import Dashboard

from qingtu.catalogue import load_catalogue
from qingtu.grafana import names
from qingtu.grafana.__main__ import DEPLOY, GOLDEN, GOLDEN_CATALOGUE, ROOT, deployed, golden
from qingtu.grafana.dashboards import DASHBOARDS, build
from qingtu.grafana.files import differing
from qingtu.grafana.scope import Scope
from qingtu.grafana.units import GRAFANA_IDS, grafana_unit
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AGAIN = "run `python -m qingtu.grafana` and read the difference"

# The types know one annotation query of Grafana's own; the InfluxQL data source adds these keys (its AnnotationEditor,
# and `annotationQuery` of its datasource.ts, read them).
ANNOTATION_KEYS = re.compile(
    r"\.annotations\.list\[\d+\](\.target)?\."
    r"(query|textColumn|tagsColumn|titleColumn|refId|fromAnnotations|queryType|rawQuery)"
)
# `InfluxQuery` of the data source's types.ts, as far as raw InfluxQL uses it
TARGET_KEYS = {"refId", "datasource", "query", "rawQuery", "resultFormat", "alias"}


@pytest.fixture(scope="module")
def scope() -> Scope:
    return Scope(load_catalogue(ROOT / "stations"))


@pytest.fixture(scope="module")
def dashboards(scope: Scope) -> list[dict[str, Any]]:
    return build(scope)


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def lost(sent: Any, back: Any, path: str = "") -> Iterator[str]:
    """Yield where ``back`` lacks or changes something of ``sent``."""
    if isinstance(sent, dict) and isinstance(back, dict):
        for key, value in sent.items():
            if key in back:
                yield from lost(value, back[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(sent, list) and isinstance(back, list) and len(sent) == len(back):
        for i, value in enumerate(sent):
            yield from lost(value, back[i], f"{path}[{i}]")
    elif sent != back:
        yield f"{path} = {sent!r} became {back!r}"


def written_back(dashboard: dict[str, Any]) -> tuple[Any, Any]:
    """Return the dashboard as it is sent, and as Grafana's types write it after reading it."""
    register_default_plugins()
    sent = json.loads(json.dumps(dashboard))
    for panel in sent["panels"]:
        # the types take the panel's "datasource" for the kind of each of its queries, also when it means "mixed"
        if panel.get("datasource", {}).get("uid") == "-- Mixed --":
            del panel["datasource"]["type"]
    back = json.loads(json.dumps(Dashboard.from_json(json.loads(json.dumps(sent))), cls=JSONEncoder))
    return sent, back


def unknown(dashboard: dict[str, Any]) -> list[str]:
    """Return the keys that Grafana's types do not know, and the values that they change."""
    return [path for path in lost(*written_back(dashboard)) if not ANNOTATION_KEYS.fullmatch(path)]


def test_golden() -> None:
    """The dashboards of the small catalogue are those that were last looked at."""
    assert differing(GOLDEN, golden()) == [], AGAIN


def test_deployed_files_are_what_the_catalogue_gives() -> None:
    """What compose mounts is made from the catalogue that ships."""
    assert differing(DEPLOY, deployed()) == [], AGAIN


def test_grafanas_types_know_every_key(dashboards: list[dict[str, Any]]) -> None:
    """Read into Grafana's own dashboard models and written again, nothing is lost or changed."""
    for dashboard in dashboards:
        assert unknown(dashboard) == []


def test_the_types_would_tell() -> None:
    """A misspelt key is seen at every depth that this check relies on."""
    made = build(Scope(load_catalogue(GOLDEN_CATALOGUE)))[0]
    spoilers: tuple[Callable[[Any], Any], ...] = (
        lambda d: d.update(refesh="1m"),
        lambda d: d["panels"][0].update(titel="x"),
        lambda d: d["panels"][0]["options"].update(textmode="value"),
        lambda d: d["panels"][0]["fieldConfig"]["defaults"].update(units="x"),
        lambda d: d["templating"]["list"][0].update(multy=True),
        lambda d: next(p for p in d["panels"] if p["type"] == "timeseries")["fieldConfig"]["defaults"]["custom"].update(
            linewidth=1
        ),
        lambda d: next(p for p in d["panels"] if p["type"] == "geomap")["options"]["layers"][0].update(lat="x"),
    )
    for spoil in spoilers:
        dashboard = json.loads(json.dumps(made))
        spoil(dashboard)
        assert unknown(dashboard) != []


def test_all_dashboards_of_the_demonstration(dashboards: list[dict[str, Any]]) -> None:
    """The shipped catalogue fills every dashboard of the table; uids are letters and digits, so proxies work."""
    uids = [dashboard["uid"] for dashboard in dashboards]
    assert len(uids) == len(set(uids)) == len(DASHBOARDS) == 8
    assert all(re.fullmatch(r"[a-z0-9]+", uid) for uid in [*uids, names.FOLDER, *names.SOURCE_NAMES])


def test_ids_places_and_titles(dashboards: list[dict[str, Any]]) -> None:
    """Panels have ids of their own, do not overlap, stay on the page and are titled in both languages."""
    for dashboard in dashboards:
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
            assert not cells & taken, (dashboard["uid"], panel["title"])
            taken |= cells
            title = panel["title"].replace("${property}", "值 value")
            assert re.search(r"[一-鿿]", title), title
            assert re.search(r"[A-Za-z]{2}", title), title


def test_every_property_of_the_catalogue_is_drawn(scope: Scope, dashboards: list[dict[str, Any]]) -> None:
    """Nothing that a station measures is left out of the domain dashboards, nothing else is drawn."""
    drawn: set[str] = set()
    domains = (names.AIR, names.WATER, names.OCEAN, names.COMMUNITY)
    for dashboard in dashboards:
        if dashboard["uid"] in domains:
            drawn |= {
                re.sub(r"_flag$", "", key)
                for panel in panels(dashboard)
                if panel["type"] == "timeseries"
                for query in panel["targets"]
                for key in re.findall(r'"(\w+_flag)" <=', query["query"])
            }
    assert drawn == {measure.key for measure in scope.of_domain(*scope.domains)}


def test_queries_name_their_source_and_parts(dashboards: list[dict[str, Any]]) -> None:
    """Every panel but a note asks InfluxDB, by keys that the data source knows, and each query has its own letter."""
    for dashboard in dashboards:
        for panel in panels(dashboard):
            assert bool(panel["targets"]) == (panel["type"] != "text")
            letters = [query["refId"] for query in panel["targets"]]
            assert len(letters) == len(set(letters))
            for query in panel["targets"]:
                assert set(query) <= TARGET_KEYS
                assert query["rawQuery"] is True
                assert query["datasource"]["uid"] in names.SOURCE_NAMES
                uses = set(re.findall(r"\$\{(\w+)", query["query"]))
                assert uses <= {variable["name"] for variable in dashboard["templating"]["list"]}


def test_units_exist_in_grafana() -> None:
    """Ids are those of Grafana's list as its types have it; everything else is written out as a suffix."""
    known = {value for name, value in vars(sdk_units).items() if isinstance(value, str) and not name.startswith("_")}
    assert set(GRAFANA_IDS.values()) <= known
    for prop in load_properties():
        unit = grafana_unit(prop.unit)
        assert unit in known or re.fullmatch(r"suffix: \S+", unit), (prop.key, unit)


def test_colour_is_not_the_only_sign(dashboards: list[dict[str, Any]]) -> None:
    """Wherever thresholds colour a chart they are drawn as lines and told in words; levels have words."""
    seen = 0
    for dashboard in dashboards:
        for panel in panels(dashboard):
            defaults = panel.get("fieldConfig", {}).get("defaults", {})
            if "thresholds" not in defaults:
                continue
            seen += 1
            words = any(mapping["type"] == "value" for mapping in defaults.get("mappings", []))
            if panel["type"] == "timeseries":
                assert defaults["custom"]["thresholdsStyle"]["mode"] == "dashed"
            assert words or "alert levels" in panel["description"]
    assert seen > 20


@pytest.mark.parametrize(
    ("key", "steps"),
    [
        ("pm25", [("green", None), ("blue", 60.0), ("red", 250.0)]),
        ("dissolved_oxygen", [("orange", None), ("yellow", 2.0), ("blue", 3.0), ("green", 5.0)]),
    ],
)
def test_thresholds_follow_the_rule(key: str, steps: list[tuple[str, float | None]]) -> None:
    """Colours are the levels of the catalogue's rule, also where low values are the bad ones."""
    made = {d["uid"]: d for d in build(Scope(load_catalogue(GOLDEN_CATALOGUE)))}
    found = [
        [(step["color"], step["value"]) for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        for dashboard in (made[names.AIR], made[names.WATER])
        for panel in panels(dashboard)
        if panel["type"] == "timeseries" and f'"{key}_flag" <' in panel["targets"][0]["query"]
    ]
    assert found == [steps]


def test_stations_under_different_limits_have_no_common_colour() -> None:
    """Where one rule holds for some of the stations only, no thresholds are drawn."""
    scope = Scope(load_catalogue(GOLDEN_CATALOGUE))
    assert scope["air_temperature"].threshold is None
    assert scope["pm25"].threshold is not None


def test_a_catalogue_without_a_domain_has_no_such_dashboard(tmp_path: Path) -> None:
    """No dashboard and no panel without data: a city without sea has no ocean dashboard."""
    text = (GOLDEN_CATALOGUE / "small.yaml").read_text(encoding="utf-8")
    start, end = text.index("  - id: T-1"), text.index("  - {id: C-1")
    (tmp_path / "inland.yaml").write_text(text[:start] + text[end:], encoding="utf-8")
    uids = {dashboard["uid"] for dashboard in build(Scope(load_catalogue(tmp_path)))}
    assert names.OCEAN not in uids
    assert len(uids) == len(DASHBOARDS) - 1
