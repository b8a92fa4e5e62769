"""The bench's catalogue: like air stations with all checks and a threshold rule on every one of them."""

from __future__ import annotations

from typing import Final

from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content, Defaults, Device, LimitSpec, Network, Pair, Station, ThresholdRule

PROPERTIES: Final = ("pm25", "pm10", "so2", "no2", "o3", "co", "air_temperature", "relative_humidity")


def bench_catalogue(stations: int) -> Catalogue:
    """Return a catalogue of ``stations`` devices ``s0000`` … in network ``bench``, eight properties each."""
    limits = {
        key: LimitSpec(rate_per_h=Pair(suspect=1e6, fail=2e6), spike=Pair(suspect=500.0, fail=900.0))
        for key in PROPERTIES
    }
    rules = (
        ThresholdRule(
            id="pm25-high", kind="threshold", zh="PM2.5 超标", en="PM2.5 high", property="pm25",
            levels={"yellow": 75, "orange": 95}, hysteresis=5,
        ),
        ThresholdRule(
            id="o3-high", kind="threshold", zh="臭氧超标", en="Ozone high", property="o3",
            levels={"yellow": 200}, hysteresis=10,
        ),
    )  # fmt: skip
    rows = tuple(
        Station(
            id=f"s{i:04d}", zh=f"站{i}", en=f"Station {i}", network="bench", domain="air", kind="air",
            position=(120.0 + i % 100 / 200, 36.0 + i // 100 % 100 / 200),
            devices=(Device(id=f"s{i:04d}", properties=PROPERTIES),),
        )
        for i in range(stations)
    )  # fmt: skip
    network = Network(id="bench", zh="基准", en="Bench", interval_s=60)
    return Catalogue(
        Content(networks=(network,), stations=rows, rules=rules, defaults=Defaults(limits={"all": limits}))
    )
