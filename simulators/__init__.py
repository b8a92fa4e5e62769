"""Simulators: a plausible city that publishes what its sensors would, on time, with faults that are written down.

A simulator is a module with ``SERIES``: property key → model, a pure function of (place, times). :data:`SIMULATORS`
is the one table; :data:`MODELS` is the same by property. To add one: a module, a line here, a line in
``docs/simulators.md``; a test checks that every observed property has exactly one model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators import air, community, noise, ocean, radiation, river, soil, source, weather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.signal import Model

SIMULATORS: Mapping[str, Mapping[str, Model]] = {
    "air": air.SERIES,
    "weather": weather.SERIES,
    "river": river.SERIES,
    "ocean": ocean.SERIES,
    "noise": noise.SERIES,
    "radiation": radiation.SERIES,
    "soil": soil.SERIES,
    "source": source.SERIES,
    "community": community.SERIES,
}

MODELS: Mapping[str, Model] = {key: model for series in SIMULATORS.values() for key, model in series.items()}
