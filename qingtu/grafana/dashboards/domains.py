"""Air, water, ocean, community: for each domain the newest values, every measure over time, and hour figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qingtu.grafana import names, queries
from qingtu.grafana.dashboards.frame import dashboard, district_variable, station_variable
from qingtu.grafana.dashboards.shared import hour_figures, values
from qingtu.grafana.fields import joined_by_shared_columns, measure_columns, station_column
from qingtu.grafana.panels import Page, refs, table, target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.grafana.scope import Measure, Scope

DOMAIN_NAMES: Final = {
    "air": "空气 Air",
    "weather": "气象 Weather",
    "noise": "噪声 Noise",
    "radiation": "辐射 Radiation",
    "water": "地表水 Surface water",
    "soil": "土壤 Soil",
    "source": "污染源 Pollution sources",
    "ocean": "海洋 Ocean",
    "community": "社区 Communities",
    "device": "设备 Devices",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """One dashboard and the domains that it shows."""

    uid: str
    title: str
    domains: tuple[str, ...]


_AIR = _Kind(names.AIR, "青图 空气与气象 Qingtu air and weather", ("air", "weather", "noise", "radiation"))
_WATER = _Kind(names.WATER, "青图 水、土与污染源 Qingtu water, soil, sources", ("water", "soil", "source"))
_OCEAN = _Kind(names.OCEAN, "青图 海洋 Qingtu ocean", ("ocean",))
_COMMUNITY = _Kind(names.COMMUNITY, "青图 社区与设备 Qingtu communities and devices", ("community", "device"))


def air(scope: Scope) -> dict[str, Any] | None:
    """Build the dashboard of air, weather, noise and radiation."""
    return _build(_AIR, scope)


def water(scope: Scope) -> dict[str, Any] | None:
    """Build the dashboard of surface water, soil and pollution sources."""
    return _build(_WATER, scope)


def ocean(scope: Scope) -> dict[str, Any] | None:
    """Build the dashboard of the sea."""
    return _build(_OCEAN, scope)


def community(scope: Scope) -> dict[str, Any] | None:
    """Build the dashboard of communities and of the devices' own state."""
    return _build(_COMMUNITY, scope)


def _build(kind: _Kind, scope: Scope) -> dict[str, Any] | None:
    by_domain = {domain: scope.of_domain(domain) for domain in kind.domains}
    if not any(by_domain.values()):
        return None
    page = Page()
    for domain, measures in by_domain.items():
        if measures:
            _section(page, DOMAIN_NAMES[domain], measures)
    homes = sorted({station.domain for measures in by_domain.values() for m in measures for station in m.stations})
    shown = "、".join(DOMAIN_NAMES[domain] for domain, measures in by_domain.items() if measures)
    return dashboard(
        kind.uid,
        kind.title,
        page,
        variables=[district_variable(), station_variable(homes)],
        description=f"{shown}: 最新值、过程线与小时值 / newest values, values over time, hour figures",
    )


def _section(page: Page, title: str, measures: Sequence[Measure]) -> None:
    page.row(title)
    stations = list({station.id: station for measure in measures for station in measure.stations}.values())
    newest = table(
        f"{title}: 最新值 newest values",
        [target(queries.latest(measure), refs(i), table=True) for i, measure in enumerate(measures)],
        overrides=[station_column(stations), *measure_columns(measures)],
        transformations=joined_by_shared_columns(),
        description="只含合格数据, 单位见列名 / good readings only (flags 1 and 2), units in the heads",
    )
    page.add(newest, width=24, height=9)
    for measure in measures:
        page.add(values(measure))
    page.add(hour_figures(measures))
