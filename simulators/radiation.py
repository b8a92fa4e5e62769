"""Ambient gamma radiation: a steady background, which rain raises for an hour or two (washed-out radon daughters)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulators.weather import wetness

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values


def gamma_dose_rate(place: Place, time_us: Times) -> Values:
    """Return the dose rate in air in nGy/h; outdoors in China the mean is 62.8 (standards/soil_radiation.yaml)."""
    own = place.constant("gamma", 56.0, 74.0)
    # lead-214 and bismuth-214 have half-lives of 27 and 20 minutes: the rise is gone soon after the rain
    washed = 3.0 * np.minimum(wetness(place, time_us, 0.8), 6.0)
    slow = 0.9 * place.wander("gamma", time_us, 14.0)
    return own + washed + slow + 0.35 * place.jitter("gamma", time_us)


SERIES: dict[str, Model] = {"gamma_dose_rate": gamma_dose_rate}
