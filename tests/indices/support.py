"""A catalogue of a few stations, figures in a plain dict behind ``get``, and the way from them to index rows."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from processors.indices import INDICES
from processors.indices.run import evaluate
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from qingtu.clock import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from processors.indices.contract import Get, Result

SHANGHAI = ZoneInfo("Asia/Shanghai")
AIR = ("pm25", "pm10", "so2", "no2", "o3", "co")


def at(text: str) -> int:
    """Return a local time of Qingdao as µs UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=SHANGHAI).timestamp()) * 1_000_000


DAY = at("2026-11-23")
OLD_DAY = at("2025-11-23")
"""Under HJ 633-2012."""


def station(ident: str = "A", measures: Sequence[str] = AIR, **more: Any) -> dict[str, Any]:
    """Write a station's block."""
    device = {"id": ident.lower(), "properties": list(measures)}
    return {
        "id": ident, "zh": "站", "en": "Station", "network": "n", "domain": "air", "kind": "air",
        "position": [120.3, 36.1], "devices": [device], **more,
    }  # fmt: skip


def catalogue(*stations: Mapping[str, Any]) -> Catalogue:
    """Make a catalogue."""
    networks = [{"id": "n", "zh": "网", "en": "Net", "interval_s": 60}]
    return Catalogue(Content.model_validate({"networks": networks, "stations": stations or (station(),)}))


class Figures:
    """Figure rows by hand: ``put`` them, then ask as derive's ``get`` does."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str, int], dict[str, Any]] = {}

    def put(
        self, prop: str, what: str, start_us: int, value: float | None, *, valid: bool = True, of: str = "A"
    ) -> None:
        """Add one figure."""
        self.rows[of, prop, what, start_us] = {
            "what": what, "key": (of, prop, "main"), "start": start_us,
            "value": float("nan") if value is None else value, "count": 60, "expected": 60,
            "valid": valid and value is not None, "reason": "" if valid and value is not None else "too_few",
            "inputs": {},
        }  # fmt: skip

    def hours(
        self, prop: str, start_us: int, values: Sequence[float | None], *, of: str = "A", what: str = "hour"
    ) -> None:
        """Add hour (or 8 h) figures one after the other."""
        for i, value in enumerate(values):
            self.put(prop, what, start_us + i * HOUR, value, of=of)

    def get_of(self, of: str, prop: str, channel: str, what: str, start_us: int) -> dict[str, Any] | None:
        """Return a figure of any station."""
        assert channel == "main"
        return self.rows.get((of, prop, what, start_us))

    def get(self, of: str = "A") -> Get:
        """Return what derive hands over for one station."""
        return lambda prop, channel, what, start_us: self.get_of(of, prop, channel, what, start_us)


def row_of(key: str, cat: Catalogue, what: str, start_us: int, figures: Figures, of: str = "A") -> dict[str, Any]:
    """Return the row of one index of a station."""
    rows = {row["key"][1]: row for row in evaluate(cat, of, what, start_us, figures.get(of))}
    return rows[key]


def day_row(key: str, values: Mapping[str, float], what: str = "day", **block: Any) -> dict[str, Any]:
    """Return the row of one index of a station that has these figures of one period."""
    figures = Figures()
    for prop, value in values.items():
        figures.put(prop, what, DAY, value)
    return row_of(key, catalogue(station(measures=tuple(values), **block)), what, DAY, figures)


def neighbours(value: Decimal, step: str = "0.000001") -> tuple[Decimal, Decimal]:
    """Return what lies next to a bound on both sides."""
    return value - Decimal(step), value + Decimal(step)


def same_whatever(function: Callable[[], Result]) -> bool:
    """Say whether a pure function gives the same twice."""
    return function() == function()


__all__ = ["INDICES", "Figures", "at", "catalogue", "day_row", "neighbours", "row_of", "same_whatever", "station"]
