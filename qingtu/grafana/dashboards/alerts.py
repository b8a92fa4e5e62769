"""Alerts and quality: what is open, what happened, and which values were doubted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qingtu.grafana import names, queries
from qingtu.grafana.dashboards.domains import DOMAIN_NAMES
from qingtu.grafana.dashboards.frame import dashboard, district_variable, station_variable
from qingtu.grafana.dashboards.shared import corrections, highest_level, open_alerts
from qingtu.grafana.fields import count_field, headed, level_field, override, station_column
from qingtu.grafana.panels import Page, bars, refs, table, target, time_series

if TYPE_CHECKING:
    from qingtu.grafana.scope import Scope


def alerts(scope: Scope) -> dict[str, Any] | None:
    """Build the dashboard of alerts and quality."""
    if not scope.stations:
        return None
    page = Page()
    page.row("预警 Alerts")
    page.add(open_alerts(), width=4, height=8)
    page.add(highest_level(), width=4, height=8)
    opened = time_series(
        "新开预警 Alerts opened",
        [target(queries.OPENED, alias="$tag_rule", uid=names.DAILY)],
        defaults=count_field(),
        bars=True,
        stacked=True,
        description="按规则 / by rule",
    )
    page.add(opened, width=16)
    level = override("level", displayName="级别 Level", mappings=level_field()["mappings"])
    heads = {
        "rule": "规则 Rule",
        "property": "要素 Property",
        "state": "状态 State",
        "value": "值 Value",
        "limit": "限值 Limit",
        "who": "处理人 Who",
        "note": "备注 Note",
    }
    happened = table(
        "预警过程 What happened to alerts",
        [target(queries.TRANSITIONS, table=True, uid=names.DAILY)],
        overrides=[station_column(scope.stations), level, *headed(heads)],
        description="最新 200 条 / the newest 200 steps",
    )
    page.add(happened, width=24, height=12)
    page.row("质量 Quality")
    for domain in DOMAIN_NAMES:
        measures = scope.of_domain(domain)
        if measures:
            targets = [
                target(queries.doubted(measure), refs(i), alias=measure.label) for i, measure in enumerate(measures)
            ]
            said = "标志为 3, 4, 9 的读数 / readings with flag 3, 4 or 9"
            title = f"{DOMAIN_NAMES[domain]}: 存疑读数 doubted readings"
            page.add(bars(title, targets, defaults=count_field(), description=said))
    page.add(corrections())
    return dashboard(
        names.ALERTS,
        "青图 预警与质量 Qingtu alerts and quality",
        page,
        variables=[district_variable(), station_variable()],
        description="预警、质量标志与修订 / alerts, quality flags, corrections",
    )
