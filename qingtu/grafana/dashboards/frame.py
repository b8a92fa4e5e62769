"""What all dashboards share: variables, alert annotations, links, and the JSON around the panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from qingtu.grafana import queries
from qingtu.grafana.names import DAILY, HOURLY, READINGS, TAG
from qingtu.grafana.panels import source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.grafana.panels import Page

SCHEMA_VERSION: Final = 36
"""Of Grafana 9.0; newer ones migrate it when they show it."""


def dashboard(
    uid: str,
    title: str,
    page: Page,
    *,
    variables: Sequence[dict[str, Any]],
    description: str,
    span: str = "now-24h",
    about: Literal["stations", "station", "all"] = "stations",
) -> dict[str, Any]:
    """Put a dashboard together.

    Args:
        uid: letters and digits only.
        title: 中文 English.
        page: its panels.
        variables: in the order in which they depend on each other.
        description: 中文 / English.
        span: how far back it shows at first.
        about: whose alerts are marked on the time axis: the chosen stations', the one station's, or nobody's, for a
            dashboard without a choice of stations.
    """
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "1m",
        "time": {"from": span, "to": "now"},
        "templating": {"list": list(variables)},
        "annotations": {"list": [] if about == "all" else [_alert_annotations(one_station=about == "station")]},
        "links": [
            {
                "type": "dashboards",
                "title": "青图 Qingtu",
                "tags": [TAG],
                "asDropdown": True,
                "icon": "external link",
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": page.panels,
    }


def _alert_annotations(*, one_station: bool) -> dict[str, Any]:
    """Mark openings and ends of alerts of the chosen stations.

    The InfluxQL data source looks for its keys beside the query in Grafana 9 and under ``target`` in newer ones.
    """
    query = queries.alert_marks(one_station=one_station)
    asked = {"query": query, "textColumn": "text", "titleColumn": "title", "tagsColumn": "station,rule,state"}
    return {
        "name": "预警 Alerts",
        "datasource": source(DAILY),
        "enable": True,
        "hide": False,
        "iconColor": "orange",
        **asked,
        "target": asked | {"refId": "Anno", "fromAnnotations": True, "queryType": "tags", "rawQuery": True},
    }


def district_variable() -> dict[str, Any]:
    """Choose districts, by their codes (GB/T 2260); stations at sea have none and are under "All"."""
    # "All" is any text, the empty one too; the list leaves the empty one out
    return _variable("district", "区 District", queries.DISTRICTS, several=True) | {"allValue": ".*", "regex": "/.+/"}


def station_variable(domains: Sequence[str] = ()) -> dict[str, Any]:
    """Choose stations in the chosen districts. "All" is written out, so that districts count."""
    return _variable("station", "站点 Station", queries.stations_of(domains), several=True)


def one_station_variable() -> dict[str, Any]:
    """Choose one station of all."""
    return _variable("station", "站点 Station", queries.STATIONS, several=False)


def property_variable() -> dict[str, Any]:
    """Choose properties of the chosen station, those that have hour figures."""
    return _variable("property", "要素 Property", queries.PROPERTIES, several=True, uid=HOURLY)


def _variable(name: str, label: str, query: str, *, several: bool, uid: str = READINGS) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": source(uid),
        "query": query,
        "refresh": 1,  # when the dashboard is opened
        "sort": 1,  # by name
        "hide": 0,
        "multi": several,
        "includeAll": several,
        "skipUrlSync": False,
        "regex": "",
        "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if several else {},
    }
