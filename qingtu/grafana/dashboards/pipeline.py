"""Pipeline health: whether data come in and stay good, from what the pipeline writes into InfluxDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qingtu.grafana import names, queries
from qingtu.grafana.dashboards.domains import DOMAIN_NAMES
from qingtu.grafana.dashboards.frame import dashboard
from qingtu.grafana.dashboards.shared import corrections, station_count
from qingtu.grafana.fields import count_field, headed, joined_by_shared_columns, station_column
from qingtu.grafana.panels import Page, refs, stat, table, target, text, time_series

if TYPE_CHECKING:
    from qingtu.grafana.scope import Scope

_NOTE = (
    "台账、在途与积压由 `qingtu status`、`qingtu ledger` 和 `/metrics` 给出; 此处只有 InfluxDB 中的数据。\n\n"
    "The ledger, what is in flight and lag are told by `qingtu status`, `qingtu ledger` and `/metrics`; this page "
    "shows what stands in InfluxDB."
)


def pipeline(scope: Scope) -> dict[str, Any] | None:
    """Build the dashboard of the pipeline's health."""
    if not scope.domains:
        return None
    page = Page()
    page.add(station_count(), width=4, height=5)
    silent = stat(
        "失联站点 Silent stations", queries.open_alerts(scope.silence_rules), uid=names.DAILY, defaults=count_field()
    )
    page.add(silent, width=4, height=5)
    held = stat("隔离中的消息 Quarantined messages", queries.QUARANTINED, uid=names.DAILY, defaults=count_field())
    page.add(held, width=4, height=5)
    page.add(text("说明 Note", _NOTE), width=12, height=5)
    page.row("读数 Readings")
    counted = [
        target(queries.stored(scope.of_domain(domain)), refs(i), alias=DOMAIN_NAMES[domain])
        for i, domain in enumerate(scope.domains)
    ]
    page.add(
        time_series(
            "入库读数 Readings stored",
            counted,
            defaults=count_field(),
            bars=True,
            stacked=True,
            description="每个时间间隔, 按领域 / each interval of the screen, by domain",
        ),
        width=24,
    )
    by_station = [
        target(queries.stored_by_station(scope.of_domain(domain), domain), refs(i), table=True)
        for i, domain in enumerate(scope.domains)
    ]
    page.add(
        table(
            "各站读数 Readings of each station",
            by_station,
            overrides=[
                station_column(scope.stations),
                *headed({domain: DOMAIN_NAMES[domain] for domain in scope.domains}),
            ],
            transformations=joined_by_shared_columns(),
            description="所选时段内入库的读数, 按领域 / readings stored in the chosen time, by domain",
        ),
        height=10,
    )
    page.add(corrections(), height=10)
    page.add(
        time_series(
            "拒收 Refused",
            [target(queries.REJECTED, alias="$tag_reason", uid=names.DAILY)],
            defaults=count_field(),
            bars=True,
            stacked=True,
            description="进入隔离区的消息, 按原因 / messages that went into quarantine, by reason",
        ),
        width=24,
    )
    return dashboard(
        names.PIPELINE,
        "青图 管道运行 Qingtu pipeline health",
        page,
        variables=[],
        description="数据是否在流动 / whether data flow",
        span="now-6h",
        about="all",
    )
