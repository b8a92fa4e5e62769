"""How a bus with servers fares, as gauges: what waits, how large the state is, and the share of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qingtu.contracts import Reporting
from qingtu.metrics import Metrics

if TYPE_CHECKING:
    from qingtu.contracts import Bus


def gauges(bus: Bus) -> bytes:
    """Return the gauges in Prometheus' text format; empty for a bus without servers.

    Made anew each time: of a partition that went to another process nothing is left.
    """
    if not isinstance(bus, Reporting):
        return b""
    said, metrics = bus.status(), Metrics()
    metrics.gauge("bus_problem", float(bool(said["problem"])))
    metrics.gauge("bus_waiting_appends", said["waiting"]["appends"])
    metrics.gauge("bus_waiting_bytes", said["waiting"]["bytes"])
    metrics.gauge("bus_waiting_seconds", said["waiting"]["seconds"])
    for name, size in said["state_bytes"].items():
        group, _, partition = name.rpartition("/")
        metrics.gauge("bus_state_bytes", size, group=group, partition=partition)
    for group, share in said["groups"].items():
        metrics.gauge("bus_rebalances", share["rebalances"], group=group)
        metrics.gauge("bus_partitions", len(share["partitions"]), group=group)
        for partition, frames in share["lag"].items():
            metrics.gauge("bus_lag_frames", frames, group=group, partition=str(partition))
    return metrics.text()
