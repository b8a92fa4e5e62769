"""Panels as Grafana's JSON, and how they stand on the page. Fields are those of Grafana's dashboard schema, version 36.

Schema 36 is Grafana 9.0's: newer ones read it and migrate it when they show it. Titles are "中文 English". How values
are written and coloured is in :mod:`qingtu.grafana.fields`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qingtu.grafana.fields import joined_by_shared_columns, level_field
from qingtu.grafana.names import READINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH: Final = 24
_ROW_HEIGHT: Final = 1


def source(uid: str = READINGS) -> dict[str, str]:
    """Refer to a data source."""
    return {"type": "influxdb", "uid": uid}


def target(query: str, ref: str = "A", *, alias: str = "", table: bool = False, uid: str = READINGS) -> dict[str, Any]:
    """Make one query of a panel.

    Args:
        query: InfluxQL.
        ref: letter, unique in the panel.
        alias: name of each series; ``$tag_station`` and ``$col`` are filled in.
        table: rows instead of time series.
        uid: of the data source.
    """
    made = {
        "refId": ref,
        "datasource": source(uid),
        "query": query,
        "rawQuery": True,
        "resultFormat": "table" if table else "time_series",
    }
    return made | ({"alias": alias} if alias else {})


def refs(number: int) -> str:
    """Return the ``number``-th query letter: A … Z, AA …."""
    return (refs(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


# --------------------------------------------------------------------------------------------------------- kinds


def time_series(
    title: str,
    targets: Sequence[dict[str, Any]],
    *,
    defaults: dict[str, Any],
    overrides: Sequence[dict[str, Any]] = (),
    description: str = "",
    bars: bool = False,
    stacked: bool = False,
) -> dict[str, Any]:
    """Draw values over time."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if bars else 0,
        "showPoints": "never" if bars else "auto",
        "pointSize": 4,
        "spanNulls": 3_600_000,  # ms: a gap is a gap, but an interval of the screen may be shorter than a station's
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if "thresholds" in defaults else "off"},
    }
    return _panel("timeseries", title, targets, description) | {
        "fieldConfig": {"defaults": defaults | {"custom": custom}, "overrides": list(overrides)},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def stat(
    title: str, query: str, *, uid: str = READINGS, defaults: dict[str, Any], description: str = ""
) -> dict[str, Any]:
    """Show one number."""
    return _panel("stat", title, [target(query, alias=title, uid=uid)], description) | {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "orientation": "auto",
            "textMode": "value",
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
        },
    }


def table(
    title: str,
    targets: Sequence[dict[str, Any]],
    *,
    overrides: Sequence[dict[str, Any]] = (),
    transformations: Sequence[dict[str, Any]] = (),
    description: str = "",
) -> dict[str, Any]:
    """Show rows."""
    return _panel("table", title, targets, description) | {
        "fieldConfig": {"defaults": {"custom": {"align": "auto", "filterable": True}}, "overrides": list(overrides)},
        "options": {"showHeader": True},
        "transformations": list(transformations),
    }


def bars(
    title: str, targets: Sequence[dict[str, Any]], *, defaults: dict[str, Any], description: str = ""
) -> dict[str, Any]:
    """Show one bar for each series."""
    return _panel("bargauge", title, targets, description) | {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "orientation": "horizontal",
            "displayMode": "basic",
            "showUnfilled": True,
        },
    }


def station_map(
    title: str, targets: Sequence[dict[str, Any]], centre: tuple[float, float], *, overrides: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Show stations as markers, larger and coloured by ``level``, from columns ``latitude`` and ``longitude``."""
    style = {
        "color": {"field": "level", "fixed": "green"},
        "size": {"field": "level", "fixed": 6, "min": 6, "max": 16},
        "opacity": 0.7,
        "symbol": {"mode": "fixed", "fixed": "img/icons/marker/circle.svg"},
    }
    layer = {
        "type": "markers",
        "name": "站点 Stations",
        "config": {"showLegend": False, "style": style},
        "location": {"mode": "coords", "latitude": "latitude", "longitude": "longitude"},
        "tooltip": True,
    }
    levels = level_field() | {"min": 0, "max": 4}
    return _panel(
        "geomap", title, targets, "标记越大, 预警越高 / the larger the marker, the higher the alert level"
    ) | {
        "fieldConfig": {"defaults": levels, "overrides": list(overrides)},
        "options": {
            "view": {"id": "coords", "lat": centre[1], "lon": centre[0], "zoom": 8, "allLayers": True},
            "controls": {"showZoom": True, "mouseWheelZoom": True, "showAttribution": True, "showScale": True},
            "basemap": {"type": "default", "name": "底图 Base map"},
            "layers": [layer],
            "tooltip": {"mode": "details"},
        },
        "transformations": joined_by_shared_columns(),
    }


def text(title: str, markdown: str) -> dict[str, Any]:
    """Show a note."""
    return {
        "type": "text",
        "title": title,
        "targets": [],
        "options": {"mode": "markdown", "content": markdown},
    }


def _panel(kind: str, title: str, targets: Sequence[dict[str, Any]], description: str) -> dict[str, Any]:
    made: dict[str, Any] = {"type": kind, "title": title, "targets": list(targets)}
    sources = {query["datasource"]["uid"] for query in targets}
    # a panel whose queries go to several sources names Grafana's own one for that
    made["datasource"] = source(sources.pop()) if len(sources) == 1 else {"type": "datasource", "uid": "-- Mixed --"}
    return made | ({"description": description} if description else {})


# ---------------------------------------------------------------------------------------------------------- page


class Page:
    """Places panels from left to right, row by row."""

    def __init__(self) -> None:
        self.panels: list[dict[str, Any]] = []
        self._x = self._y = self._height = 0

    def row(self, title: str) -> None:
        """Begin a section."""
        self._break()
        place = {"x": 0, "y": self._y, "w": _WIDTH, "h": _ROW_HEIGHT}
        self._put({"type": "row", "title": title, "collapsed": False, "panels": []}, place)
        self._y += _ROW_HEIGHT

    def add(self, panel: dict[str, Any], width: int = 12, height: int = 8, **more: Any) -> None:
        """Put a panel right of the last one, or below when it does not fit."""
        if self._x + width > _WIDTH:
            self._break()
        self._put(panel | more, {"x": self._x, "y": self._y, "w": width, "h": height})
        self._x += width
        self._height = max(self._height, height)

    def _break(self) -> None:
        self._y += self._height
        self._x = self._height = 0

    def _put(self, panel: dict[str, Any], place: dict[str, int]) -> None:
        self.panels.append({"id": len(self.panels) + 1, **panel, "gridPos": place})
