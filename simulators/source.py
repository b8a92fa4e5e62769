"""Pollution sources: sewage with the rhythm of households and shifts, and a stack that runs at a load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulators.signal import bump, hour_of_day

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values


def load(place: Place, time_us: Times) -> Values:
    """Return how hard the plant works, about 0.7 at night to 1 by day."""
    day = 0.72 + 0.25 * (bump(hour_of_day(time_us), 10.0, 3.5) + bump(hour_of_day(time_us), 18.0, 3.5)).clip(0, 1)
    return day * (1.0 + 0.02 * place.wander("load", time_us, 2.5))


def _at_load(low: float, high: float, *, power: float = 1.0, noise: float = 0.004) -> Model:
    """Make a model that follows the load to a power; its level at full load lies between ``low`` and ``high``."""

    def model(place: Place, time_us: Times) -> Values:
        word = f"at load {low} {high}"
        own = place.constant(word, low, high)
        curve = 1.0 + 0.03 * place.wander(word, time_us, 4.0) + noise * place.jitter(word, time_us)
        return own * load(place, time_us) ** power * curve

    return model


def sewage_flow(place: Place, time_us: Times) -> Values:
    """Return waste water in L/s: two waves a day, morning and evening, and little at night."""
    hour = hour_of_day(time_us)
    waves = 0.45 + 0.5 * bump(hour, 9.0, 2.6) + 0.55 * bump(hour, 20.0, 2.8)
    own = place.constant("sewage", 60.0, 260.0)
    result: Values = own * waves * (1.0 + 0.03 * place.wander("sewage", time_us, 1.5))
    return np.maximum(result, 0.0)


SERIES: dict[str, Model] = {
    "sewage_flow": sewage_flow,
    "sewage_cod": _at_load(24.0, 36.0),
    "sewage_nh3n": _at_load(0.8, 2.6),
    "flue_so2": _at_load(12.0, 22.0),
    "flue_nox": _at_load(26.0, 38.0),
    "flue_particulate": _at_load(2.5, 5.0),
    "flue_o2": _at_load(5.5, 7.5, power=-0.4),
    "flue_temperature": _at_load(82.0, 98.0, power=0.2, noise=0.001),
    "flue_velocity": _at_load(11.0, 15.0),
    "flue_flow": _at_load(45.0, 80.0),
}
