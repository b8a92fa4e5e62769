"""The small city of every history: five stations, two versions of its catalogue, and what each payload means.

What a payload means is told by whoever made it (:class:`Said`), and what the catalogue makes of it is written down
here a second time in plain tables, so that a history is judged by something that the pass does not compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from ingest.routes import RouteTable
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from qingtu.clock import DAY, MINUTE, SECOND
from qingtu.settings import RouteSettings

INTERVAL_S: Final = 600
SILENT_S: Final = 1800
AHEAD_S: Final = 300
BACKFILL_D: Final = 20
HORIZON_H: Final = 72
CONFIG: Final[dict[str, Any]] = {
    "ahead_limit_s": AHEAD_S,
    "backfill_limit_d": BACKFILL_D,
    "dedup_horizon_h": HORIZON_H,
    "dedup_max": 1_000_000,
    "routes": {"native": "native", "other": "native"},
}
"""What the command ``configure`` says beside the catalogue's version."""

Key = tuple[str, str, str]
"""(station, property, channel)."""


@dataclass(frozen=True, slots=True)
class Field:
    """What a field of a device is, by version of the catalogue."""

    key: Key
    scale: float = 1.0


_PM: Final = "pm25"
_FIELDS: Final[dict[str, dict[str, Field]]] = {
    "a": {_PM: Field(("A", _PM, "main")), "air_temperature": Field(("A", "air_temperature", "main"))},
    "b": {"dust": Field(("B", _PM, "main"), 1000.0)},
    "c": {_PM: Field(("C", _PM, "main"))},
    "c2": {"o3": Field(("C", "o3", "main"))},
    "dd": {_PM: Field(("D", _PM, "main"))},
}
_ROUTE: Final = {"c2": "other"}
STATION_OF: Final = {"a": "A", "b": "B", "c": "C", "c2": "C", "dd": "D"}
ROUTES_OF: Final = {"A": ("native",), "B": ("native",), "C": ("native", "other"), "D": ("native",)}
"""On which routes a station is heard, in the version that has it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One reading as a device says it: ``problem`` is the reason for which it must be refused, "" for none."""

    field: str
    time_us: int | None
    value: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What a payload says.

    Attributes:
        own: it has a time or counter of its own.
        items: its readings.
        whole: it cannot be read at all, or is refused by the gateway.
    """

    own: bool
    items: tuple[Item, ...] = ()
    whole: bool = False


def topic_of(device: str) -> str:
    """Return the topic on which a device publishes."""
    return f"ot/n/{device}" if device in _ROUTE else f"qt/n/{device}/up"


def devices_of(version: str) -> dict[str, dict[str, Field]]:
    """Return the devices of a catalogue version with their fields."""
    return _FIELDS if "D" in archive()[version].stations else {d: f for d, f in _FIELDS.items() if d != "dd"}


def accepted(said: Said, device: str, version: str, received_us: int, shift_us: int) -> list[tuple[Key, int, float]]:
    """Return (series, time, value) of the readings that must be stored; a missing value is NaN."""
    fields = devices_of(version).get(device)
    if fields is None or said.whole:
        return []
    out = []
    for item in said.items:
        time = received_us if item.time_us is None else item.time_us + shift_us
        ahead = time - received_us
        if item.problem or item.field not in fields or not -BACKFILL_D * DAY <= ahead <= AHEAD_S * SECOND:
            continue
        field = fields[item.field]
        out.append((field.key, time, float("nan") if item.value is None else item.value * field.scale))
    return out


@cache
def catalogues() -> tuple[Catalogue, Catalogue]:
    """Return both versions: the second has station D, another limit, and lacks one rule."""
    return _catalogue(("A", "B", "C"), 75), _catalogue(("A", "B", "C", "D"), 60)


@cache
def archive() -> dict[str, Catalogue]:
    """Return the catalogues by version, as the data folder keeps them."""
    return {c.version: c for c in catalogues()}


@cache
def routes() -> RouteTable:
    """Return the routes of the gateway."""
    return RouteTable(
        [
            RouteSettings(name="native", topic="qt/{network}/{device}/up", max_payload_bytes=4096),
            RouteSettings(name="other", topic="ot/{network}/{device}", max_payload_bytes=4096),
        ]
    )


def late_after_us() -> int:
    """Return by how much a reading may be received after its time before it is late."""
    return max(3 * INTERVAL_S * SECOND, 10 * MINUTE)


def _catalogue(stations: tuple[str, ...], blue: float) -> Catalogue:
    near: dict[str, Any] = {"neighbour": {"suspect": 40, "minimum": 2}}
    limits = {
        _PM: {"suspect": [0, 500], "spike": {"suspect": 60, "fail": 120}, **near},
        "air_temperature": {"rate_per_h": {"suspect": 30, "fail": 60}},
    }
    devices: dict[str, list[dict[str, Any]]] = {
        "A": [{"id": "a", "properties": [_PM, "air_temperature"]}],
        "B": [{"id": "b", "fields": {"dust": {"property": _PM, "unit": "mg/m3", "sentinels": [-999]}}}],
        "C": [{"id": "c", "properties": [_PM]}, {"id": "c2", "properties": ["o3"], "route": "other"}],
        "D": [{"id": "dd", "properties": [_PM]}],
    }
    rules: list[dict[str, Any]] = [
        {"id": "dust", "kind": "threshold", "zh": "尘", "en": "Dust", "property": _PM,
         "levels": {"blue": blue, "orange": 150, "red": 250}, "hysteresis": 5},
        {"id": "quiet", "kind": "silence", "zh": "静", "en": "Quiet", "after_s": SILENT_S, "level": "orange"},
        {"id": "frost", "kind": "threshold", "zh": "霜", "en": "Frost", "property": "air_temperature",
         "direction": "below", "levels": {"blue": 0, "yellow": -5}, "hysteresis": 1},
        {"id": "held", "kind": "threshold", "zh": "久", "en": "Held", "property": _PM,
         "levels": {"yellow": 100, "red": 200}, "hysteresis": 10, "hold_s": 900},
    ]  # fmt: skip
    content = {
        "networks": [{"id": "n", "zh": "网", "en": "Net", "interval_s": INTERVAL_S}],
        "stations": [
            {"id": s, "zh": "站", "en": "Station", "network": "n", "domain": "air", "kind": "air",
             "position": [120.3, 36.1], "devices": devices[s],
             "limits": {k: v for k, v in limits.items() if s == "A" or k == _PM} if s != "C" else {_PM: near}}
            for s in stations
        ],
        "rules": rules[: 4 if len(stations) < 4 else 3],
    }  # fmt: skip
    return Catalogue(Content.model_validate(content))
