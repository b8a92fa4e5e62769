"""One station: where it is, its newest values, and every property that it measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qingtu.grafana import names, queries
from qingtu.grafana.dashboards.frame import dashboard, one_station_variable, property_variable
from qingtu.grafana.dashboards.shared import highest_level
from qingtu.grafana.fields import headed, override
from qingtu.grafana.panels import Page, table, target, time_series
from qingtu.grafana.units import grafana_unit, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.grafana.scope import Measure, Scope

_HEADS: Final = {
    "name_zh": "名称",
    "name_en": "Name",
    "kind": "类型 Kind",
    "domain": "领域 Domain",
    "network": "网络 Network",
    "district": "区 District",
    "street": "街道 Street",
    "lat": "纬度 Latitude",
    "lon": "经度 Longitude",
}


def station(scope: Scope) -> dict[str, Any] | None:
    """Build the dashboard of one station."""
    measures = scope.of_domain(*scope.domains)
    if not measures:
        return None
    page = Page()
    described = table("站点 Station", [target(queries.DESCRIPTION, table=True)], overrides=headed(_HEADS))
    page.add(described, width=18, height=5)
    page.add(highest_level("预警级别 Alert level", queries.WORST_HERE), width=6, height=5)
    page.row("要素 Properties")
    # one panel for each chosen property; its name, unit and decimals come from the override of its key
    chart = time_series(
        "${property}",
        [target(queries.any_property(scope.domains), alias="${property}")],
        defaults={},
        overrides=_properties(measures),
        description="只含合格数据 (标志 1, 2) / good readings only (flags 1 and 2)",
    )
    page.add(chart, repeat="property", repeatDirection="h", maxPerRow=2)
    page.row("质量 Quality")
    flags = time_series(
        "质量标志 Quality flags",
        [target(queries.any_flag(scope.domains), alias="${property}")],
        defaults={"unit": "none", "decimals": 0, "min": 1, "max": 9},
        overrides=headed({measure.key: measure.label for measure in measures}),
        description="1 合格 pass, 2 未评价 not evaluated, 3 可疑 suspect, 4 不合格 fail, 9 缺测 missing",
    )
    page.add(flags, repeat="property", repeatDirection="h", maxPerRow=2)
    return dashboard(
        names.STATION,
        "青图 站点 Qingtu station",
        page,
        variables=[one_station_variable(), property_variable()],
        about="station",
        description="一个站点的全部要素 / all properties of one station",
    )


def _properties(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    made = []
    for measure in measures:
        unit = written(measure.prop.unit)
        head = f"{measure.label} ({unit})" if unit else measure.label
        shown = {"displayName": head, "unit": grafana_unit(measure.prop.unit), "decimals": measure.prop.precision}
        made.append(override(measure.key, **shown))
    return made
