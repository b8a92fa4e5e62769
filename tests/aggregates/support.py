"""Stations, histories and look-ups that tests of aggregates share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.clock import SECOND
from tests.process.support import T0, catalogue, configure, message, station, tick
from tests.store.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from qingtu.catalogue import Catalogue

KINDS: Final = {
    "pm25": "mean", "o3": "mean", "noise_leq": "energy", "wind_speed": "mean", "wind_direction": "vector",
    "rainfall": "sum", "electric_energy": "counter", "wind_gust": "max", "bin_fill_level": "last",
    "electric_field": "rms", "water_temperature": "mean",
}  # fmt: skip
"""One property of every kind, and some that rules name."""


def one_station(zone: str, interval_s: int, properties: Sequence[str] = tuple(KINDS), **more: Any) -> Catalogue:
    """Make a catalogue of one station A with device a."""
    devices = [{"id": "a", "properties": list(properties)}]
    return catalogue([station("A", devices, timezone=zone, interval_s=interval_s, **more)], [])


def said(at_us: int, values: Mapping[str, float | None], received_us: int | None = None) -> dict[str, Any]:
    """Make a message of device a."""
    received = at_us if received_us is None else received_us
    body = {"time": at_us // 1000, "readings": dict(values)}
    return message("a", body, (received - T0) / SECOND)


def tick_at(at_us: int) -> dict[str, Any]:
    """Make a tick."""
    return tick((at_us - T0) / SECOND)


def opened(folder: Path, made: Catalogue, at_us: int, **more: Any) -> Pipeline:
    """Open a pipeline that was configured at a time."""
    pipeline = Pipeline(folder, [made], **more)
    pipeline.feed(configure((at_us - T0) / SECOND, made.version))
    return pipeline


def feed(pipeline: Pipeline, rows: Iterable[Mapping[str, Any]], cut: int = 2000) -> None:
    """Feed rows in frames of so many, and let everything run."""
    some = list(rows)
    for i in range(0, len(some), cut):
        pipeline.feed(*some[i : i + cut])
    pipeline.run()


def figures(pipeline: Pipeline) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return (what, property, start) → row, of station A; inputs are taken apart."""
    with pipeline.store.cursor() as db:
        rows = db.execute(
            "SELECT what, property, epoch_us(start), value, count, expected, valid, reason, inputs FROM figures "
            "WHERE station = 'A'"
        ).fetchall()
    names = ("value", "count", "expected", "valid", "reason", "inputs")
    out = {(what, prop, start): dict(zip(names, rest, strict=True)) for what, prop, start, *rest in rows}
    return {key: {**row, "inputs": orjson.loads(row["inputs"])} for key, row in out.items()}
