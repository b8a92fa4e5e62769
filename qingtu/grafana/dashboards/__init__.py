"""The dashboards: one table, in the order in which people meet them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qingtu.grafana.dashboards.alerts import alerts
from qingtu.grafana.dashboards.city import city
from qingtu.grafana.dashboards.domains import air, community, ocean, water
from qingtu.grafana.dashboards.pipeline import pipeline
from qingtu.grafana.dashboards.station import station

if TYPE_CHECKING:
    from collections.abc import Callable

    from qingtu.grafana.scope import Scope

DASHBOARDS: Final[tuple[Callable[[Scope], dict[str, Any] | None], ...]] = (
    city, station, air, water, ocean, community, alerts, pipeline,
)  # fmt: skip
"""Each builds one dashboard, or None when the catalogue measures nothing that it shows."""


def build(scope: Scope) -> list[dict[str, Any]]:
    """Build all dashboards for which the catalogue has data."""
    return [made for make in DASHBOARDS if (made := make(scope)) is not None]
