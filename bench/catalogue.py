"""The bench's catalogue: like air stations with all default checks, some more, and twelve rules on each of them.

Or with the first layer alone: range, rate of change and spike on every property, thresholds and silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from qingtu.catalogue import Catalogue
from qingtu.catalogue_checks import content_of
from qingtu.catalogue_files import read_blocks
from qingtu.catalogue_limits import FlatLine, LimitSpec, Pair, Spike
from qingtu.catalogue_model import Content, Device, Network, Station
from qingtu.catalogue_rules import RULE

Layer = Literal["first", "all"]
"""Which checks and rules are on; goals of 20 and 40 µs a message are those of the first, 25 that of all."""

PROPERTIES: Final = ("pm25", "pm10", "so2", "no2", "o3", "co", "air_temperature", "relative_humidity")

RULES: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "threshold", "property": "pm25", "levels": {"yellow": 75, "orange": 95}, "hysteresis": 5},
    {"kind": "threshold", "property": "o3", "levels": {"yellow": 200}, "hysteresis": 10},
    {"kind": "threshold", "property": "pm10", "levels": {"blue": 150, "red": 420}, "hold_s": 600},
    {"kind": "threshold", "property": "no2", "levels": {"blue": 200}, "hold_s": 600},
    {"kind": "rate_of_change", "property": "pm25", "levels": {"yellow": 500}},
    {"kind": "rate_of_change", "property": "air_temperature", "direction": "fall", "levels": {"yellow": 60}},
    {"kind": "stuck", "property": "pm25", "for_s": 3600},
    {"kind": "stuck", "property": "o3", "for_s": 3600},
    {"kind": "quality", "levels": {"yellow": 0.5}, "readings": 20},
    {"kind": "deviation", "property": "pm25", "levels": {"yellow": 4}, "least": 20},
    {"kind": "clock_wrong", "after_s": 600},
    {"kind": "silence", "after_intervals": 5},
)
"""Twelve on each station, of every kind but expressions; that of quality watches all eight series."""


_FIRST_RULES: Final = ("threshold", "silence")
_FIRST_LIMITS: Final = ("range", "suspect", "rate_per_h", "spike")


def bench_catalogue(stations: int, layer: Layer = "all") -> Catalogue:
    """Return a catalogue of ``stations`` devices ``s0000`` … in network ``bench``, eight properties each."""
    first = layer == "first"
    # What the demonstration's stations inherit, and a rate, a spike and a flat line for every property.
    defaults = content_of(read_blocks(Path(__file__).parents[1] / "stations")).defaults
    flat = None if first else FlatLine(tolerance=0.05, suspect_s=10800, fail_s=21600)
    more = {
        key: LimitSpec(rate_per_h=Pair(suspect=1e6, fail=2e6), spike=Spike(suspect=500.0, fail=900.0), flat_line=flat)
        for key in PROPERTIES
    }
    kept = [rule for rule in RULES if not first or rule["kind"] in _FIRST_RULES]
    rules = tuple(RULE.validate_python({"id": f"r{i}", "zh": "规则", "en": "Rule", **r}) for i, r in enumerate(kept))
    rows = tuple(
        Station(
            id=f"s{i:04d}", zh=f"站{i}", en=f"Station {i}", network="bench", domain="air", kind="air",
            position=(120.0 + i % 100 / 200, 36.0 + i // 100 % 100 / 200),
            devices=(Device(id=f"s{i:04d}", properties=PROPERTIES),),
        )
        for i in range(stations)
    )  # fmt: skip
    network = Network(id="bench", zh="基准", en="Bench", interval_s=60)
    limits = {**defaults.limits, "all": {**defaults.limits["all"], **more}}
    given = {"limits": {domain: _first(specs) for domain, specs in limits.items()} if first else limits}
    if first:
        given["relations"] = {}
    return Catalogue(
        Content(networks=(network,), stations=rows, rules=rules, defaults=defaults.model_copy(update=given))
    )


def _first(specs: dict[str, LimitSpec]) -> dict[str, LimitSpec]:
    """Return limits of the first layer alone."""
    return {key: LimitSpec(**{name: getattr(spec, name) for name in _FIRST_LIMITS}) for key, spec in specs.items()}
