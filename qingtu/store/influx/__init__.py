"""The InfluxDB store; what it keeps where is in docs/influxdb.md."""

from __future__ import annotations

from qingtu.store.influx.setup import setup
from qingtu.store.influx.store import InfluxStore

__all__ = ["InfluxStore", "setup"]
