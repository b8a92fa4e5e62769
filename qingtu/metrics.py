"""What every component counts: received, sent, refused, errors, lag. Shown at ``/metrics`` for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """Counters and gauges by name; labels are fixed by their first use."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter, made on first use; ``qingtu_`` goes in front of the name."""
        counter = self._counters.get(name)
        if counter is None:
            text = name.replace("_", " ")
            counter = self._counters[name] = Counter(f"qingtu_{name}", text, list(labels), registry=self._registry)
        (counter.labels(**labels) if labels else counter).inc(amount)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, made on first use."""
        gauge = self._gauges.get(name)
        if gauge is None:
            text = name.replace("_", " ")
            gauge = self._gauges[name] = Gauge(f"qingtu_{name}", text, list(labels), registry=self._registry)
        (gauge.labels(**labels) if labels else gauge).set(value)

    def text(self) -> bytes:
        """Return all in the Prometheus text format."""
        return generate_latest(self._registry)
