"""Panels that stand on several dashboards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qingtu.grafana import names, queries
from qingtu.grafana.fields import LEVEL_WORDS, count_field, field_of, level_field, named_stations, words_of
from qingtu.grafana.panels import stat, target, time_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.grafana.scope import Measure


def station_count() -> dict[str, Any]:
    """Count the chosen stations."""
    return stat("站点 Stations", queries.STATION_COUNT, defaults=count_field())


def open_alerts() -> dict[str, Any]:
    """Count the alerts of the chosen stations that are not resolved."""
    return stat("未解除预警 Open alerts", queries.open_alerts(), uid=names.DAILY, defaults=count_field())


def highest_level(title: str = "最高级别 Highest level", query: str = queries.WORST) -> dict[str, Any]:
    """Show the highest level of open alerts, in words too; without any all is normal."""
    return stat(title, query, uid=names.DAILY, defaults=level_field() | {"noValue": LEVEL_WORDS[0][1]})


def corrections() -> dict[str, Any]:
    """Count what was replaced over time."""
    return time_series(
        "修订 Corrections",
        [target(queries.CORRECTIONS, alias="修订 corrections")],
        defaults=count_field(),
        bars=True,
        description="被更新的值或标志 / values or flags that were replaced",
    )


def values(measure: Measure) -> dict[str, Any]:
    """Draw a measure of the chosen stations over time."""
    return time_series(
        measure.label,
        [target(queries.over_time(measure), alias="$tag_station")],
        defaults=field_of(measure),
        overrides=named_stations(measure.stations),
        description=words_of(measure),
    )


def hour_figures(measures: Sequence[Measure]) -> dict[str, Any]:
    """Draw the hour figures of the first measure that has any."""
    measure = next((measure for measure in measures if measure.prop.agg != "none"), measures[0])
    return time_series(
        f"{measure.prop.zh} 小时值 {measure.prop.en}, hour figures",
        [target(queries.hourly(measure), alias="$tag_station", uid=names.HOURLY)],
        defaults=field_of(measure),
        overrides=named_stations(measure.stations),
        description="整点后算出, 晚到数据会修正, 只含有效值 / made after each full hour, corrected by late "
        "readings, valid ones only. " + words_of(measure),
    )
