"""The tide at Qingdao from harmonic constants, with the astronomy of date, so that a true prediction fits it.

Of each wave the argument, and its nodal factors by the short formulas of Schureman (1940), table 14 and 6: within a few
centimetres of what the full sums of ``utide`` give. The index ``surge_residual`` is made with those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qingtu.clock import DAY, HOUR

if TYPE_CHECKING:
    from simulators.signal import Times, Values


class Constituent(NamedTuple):
    """One wave of the tide.

    Attributes:
        name: as tide tables write it.
        amplitude_m: metres.
        speed_deg_h: degrees an hour.
        lag_deg: Greenwich phase lag, degrees.
        argument: multiples of 15 degrees an hour of UTC, and of the mean longitudes of moon and sun; and degrees added.
        factor: nodal factor of the amplitude: mean, and what goes with the cosine of the moon's node.
        turn_deg: nodal correction of the phase: what goes with the sine of the node.
    """

    name: str
    amplitude_m: float
    speed_deg_h: float
    lag_deg: float
    argument: tuple[int, int, int, int]
    factor: tuple[float, float] = (1.0, 0.0)
    turn_deg: float = 0.0


# Source: standards/warnings.yaml, tide. Speeds are textbook values. Amplitudes and the lag of M2 are from memory and
# unconfirmed there; the other lags are those of Shijiusuo (TICON-4, CC BY 4.0) moved by the time that M2 differs.
QINGDAO = (
    Constituent("M2", 1.25, 28.9841042, 253.1, (2, -2, 2, 0), (1.0, -0.037), -2.1),
    Constituent("S2", 0.39, 30.0, 287.0, (2, 0, 0, 0)),
    Constituent("K1", 0.26, 15.0410686, 228.7, (1, 0, 1, 90), (1.006, 0.115), -8.9),
    Constituent("O1", 0.20, 13.9430356, 177.5, (1, -2, 1, -90), (1.009, 0.187), 10.8),
)
MEAN_LEVEL_M = 2.42
"""Mean sea level above the gauge's chart datum, metres; a round value for the demonstration."""
_J2000_US = 946_728_000_000_000


def _waves(time_us: Times) -> list[tuple[Constituent, Values, Values]]:
    """Return each wave with its amplitude in m and its phase in rad at some times."""
    hour_deg = 15.0 * ((time_us % DAY) / HOUR)
    century = (time_us - _J2000_US) / (36525.0 * DAY)
    # Mean longitudes and the moon's node, degrees: Meeus, Astronomical Algorithms, chapters 25 and 47.
    moon = (218.3164477 + 481267.88123421 * century) % 360.0
    sun = (280.46646 + 36000.76983 * century) % 360.0
    node = np.radians((125.04452 - 1934.136261 * century) % 360.0)
    found = []
    for wave in QINGDAO:
        turns, of_moon, of_sun, added = wave.argument
        angle = turns * hour_deg + of_moon * moon + of_sun * sun + added + wave.turn_deg * np.sin(node)
        mean, swing = wave.factor
        found.append((wave, wave.amplitude_m * (mean + swing * np.cos(node)), np.radians(angle - wave.lag_deg)))
    return found


def tide(time_us: Times) -> Values:
    """Return the tide around mean sea level in m."""
    height = np.zeros(time_us.shape)
    for _, amplitude, phase in _waves(time_us):
        height += amplitude * np.cos(phase)
    return height


def tide_rate(time_us: Times) -> Values:
    """Return how fast the tide rises in m/h; negative on the ebb."""
    rate = np.zeros(time_us.shape)
    for wave, amplitude, phase in _waves(time_us):
        rate -= amplitude * np.radians(wave.speed_deg_h) * np.sin(phase)
    return rate
