"""Scenarios: stories with a known end, one line each; docs/simulators.md has a row for each.

``qingtu scenario NAME`` plays one through the ordered pass on a simulated clock and compares alerts,
flags and figures with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulators.scenarios import air, city, sea, water
from simulators.scenarios.scenario import Effect, Expected, ExpectedFigure, ExpectedFlag, Scenario, Staged, Story

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SCENARIOS", "Effect", "Expected", "ExpectedFigure", "ExpectedFlag", "Scenario", "Staged", "Story"]

SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.key: scenario
    for scenario in (
        Scenario("pm25-episode", "细颗粒物污染过程", "PM2.5 episode over five stations", 12, air.pm25_episode),
        Scenario("ozone-afternoon", "夏季午后臭氧", "Ozone on a hot afternoon", 7, air.ozone_afternoon),
        Scenario("sensor-drift", "传感器漂移", "A sensor drifts away from its neighbours", 4, air.sensor_drift),
        Scenario("sewage-discharge", "污水超标下移", "A discharge moves downstream", 5, water.sewage_discharge),
        Scenario("low-oxygen", "海洋牧场低氧", "Oxygen runs out over a marine ranch", 8, sea.low_oxygen),
        Scenario("green-tide", "绿潮北上", "A green tide drifts to the city", 6, sea.green_tide),
        Scenario("red-tide", "海湾赤潮", "A toxic red tide in a bay", 5, sea.red_tide),
        Scenario("storm-surge", "风暴潮与海浪", "A storm with surge and waves", 9, sea.storm_surge),
        Scenario("night-noise", "工地夜间噪声", "A building site at night", 6, city.night_noise),
        Scenario("radiation-rain", "降雨致辐射升高", "Radiation rises with rain: no alarm", 7, city.radiation_rain),
        Scenario("radiation-dry", "辐射异常升高", "Radiation rises without rain", 3, city.radiation_dry),
        Scenario("community-fire", "社区电气火灾", "An electrical fire in a community", 12, city.community_fire),
        Scenario("gateway-failure", "网关故障", "A network falls silent", 10, city.gateway_failure),
    )
}
