"""The tide at Qingdao from harmonic constants, for simulation only: nodal factors and phases of date are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qingtu.clock import HOUR
from simulators.signal import LOCAL_OFFSET_US

if TYPE_CHECKING:
    from simulators.signal import Times, Values


class Constituent(NamedTuple):
    """One wave of the tide.

    Attributes:
        name: as tide tables write it.
        amplitude_m: metres.
        speed_deg_h: degrees an hour.
        lag_deg: local phase lag, degrees, for hours of UTC+8.
    """

    name: str
    amplitude_m: float
    speed_deg_h: float
    lag_deg: float


# Source: standards/warnings.yaml, tide. Speeds are textbook values. Amplitudes and the lag of M2 are from memory and
# unconfirmed there; the other lags are those of Shijiusuo (TICON-4, CC BY 4.0) moved by the time that M2 differs.
QINGDAO = (
    Constituent("M2", 1.25, 28.9841042, 125.0),
    Constituent("S2", 0.39, 30.0, 167.0),
    Constituent("K1", 0.26, 15.0410686, 349.0),
    Constituent("O1", 0.20, 13.9430356, 289.0),
)
MEAN_LEVEL_M = 2.42
"""Mean sea level above the gauge's chart datum, metres; a round value for the demonstration."""


def tide(time_us: Times) -> Values:
    """Return the tide around mean sea level in m."""
    hours = (time_us + LOCAL_OFFSET_US) / HOUR
    height = np.zeros(time_us.shape)
    for wave in QINGDAO:
        height += wave.amplitude_m * np.cos(np.radians((wave.speed_deg_h * hours - wave.lag_deg) % 360.0))
    return height


def tide_rate(time_us: Times) -> Values:
    """Return how fast the tide rises in m/h; negative on the ebb."""
    hours = (time_us + LOCAL_OFFSET_US) / HOUR
    rate = np.zeros(time_us.shape)
    for wave in QINGDAO:
        angle = np.radians((wave.speed_deg_h * hours - wave.lag_deg) % 360.0)
        rate -= wave.amplitude_m * np.radians(wave.speed_deg_h) * np.sin(angle)
    return rate
