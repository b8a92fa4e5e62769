"""The city at a glance: stations, alerts, a map, and the leading measure of each domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qingtu.grafana import names, queries
from qingtu.grafana.dashboards.domains import DOMAIN_NAMES
from qingtu.grafana.dashboards.frame import dashboard, district_variable, station_variable
from qingtu.grafana.dashboards.shared import highest_level, hour_figures, open_alerts, station_count, values
from qingtu.grafana.fields import field_of, joined_by_shared_columns, level_field, override, station_column, words_of
from qingtu.grafana.panels import Page, stat, station_map, table, target

if TYPE_CHECKING:
    from qingtu.grafana.scope import Measure, Scope

_LEADING: Final = (
    ("pm25", "mean"), ("o3", "max"), ("air_temperature", "mean"), ("wind_gust", "max"), ("noise_leq", "max"),
    ("dissolved_oxygen", "min"), ("river_level", "max"), ("significant_wave_height", "max"),
    ("sea_surface_temperature", "mean"), ("gamma_dose_rate", "max"),
)  # fmt: skip
"""What a city looks at first, and how its stations combine; those that nobody measures are left out."""

_HOW: Final = {"mean": "均值 mean", "max": "最高 highest", "min": "最低 lowest"}


def city(scope: Scope) -> dict[str, Any] | None:
    """Build the overview."""
    if not scope.stations:
        return None
    page = Page()
    for number in (station_count(), open_alerts(), highest_level()):
        page.add(number, width=4, height=4)
    leading = [(scope[key], how) for key, how in _LEADING if key in scope]
    for measure, how in leading:
        page.add(_number(measure, how), width=4, height=4)
    page.row("地图与预警 Map and alerts")
    column = station_column(scope.stations)
    places = [
        target(queries.POSITIONS, "A", table=True),
        target(queries.WORST_BY_STATION, "B", table=True, uid=names.DAILY),
    ]
    level = override("level", displayName="预警级别 Alert level", **level_field())
    page.add(station_map("站点地图 Station map", places, scope.centre, overrides=[column]), width=14, height=16)
    listed = table(
        "各站预警级别 Alert level by station",
        [target(queries.WORST_BY_STATION, table=True, uid=names.DAILY)],
        overrides=[column, level],
        transformations=[*joined_by_shared_columns(), _sorted_by_level()],
    )
    page.add(listed, width=10, height=16)
    page.row("各领域 Domains")
    first = [scope.of_domain(domain)[0] for domain in DOMAIN_NAMES if scope.of_domain(domain)]
    for measure in first:
        page.add(values(measure))
    page.add(hour_figures(first))
    return dashboard(
        names.CITY,
        "青图 城市总览 Qingtu city overview",
        page,
        variables=[district_variable(), station_variable()],
        description="全市站点、预警与各领域概况 / stations, alerts and every domain of the city",
    )


def _number(measure: Measure, how: str) -> dict[str, Any]:
    title = f"{measure.prop.zh} {_HOW[how]}"
    field = field_of(measure)
    field["color"] = {"mode": "thresholds"}
    return stat(title, queries.newest(measure, how), defaults=field, description=words_of(measure))


def _sorted_by_level() -> dict[str, Any]:
    return {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "level", "desc": True}]}}
