"""Noise: what a zone is made for, its traffic by day, its quiet by night, and one building site that goes on late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulators.signal import awake, bump, hour_of_day, local_day, traffic, uniform

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values

# Day and night limits of GB 3096-2008 in dB(A), standards/noise.yaml; a zone is simulated to keep below them.
_ZONES = {"0": (50, 40), "1": (55, 45), "2": (60, 50), "3": (65, 55), "4a": (70, 55), "4b": (70, 60)}
_MARGIN_DB = 6.0


def level(place: Place, time_us: Times) -> Values:
    """Return the equivalent level of the past interval in dB(A), without the sensor's noise."""
    by_kind = "4a" if place.kind == "construction" else "2"
    day, night = _ZONES[place.noise_class or by_kind]
    quiet, loud = night - _MARGIN_DB, day - _MARGIN_DB
    rush = 1.6 * (traffic(time_us) - 0.6) * awake(time_us)
    x = quiet + (loud - quiet) * awake(time_us) + rush + place.constant("zone", -1.5, 1.0)
    x = x + 0.8 * place.wander("noise", time_us, 1.5)
    if "noisy night" in place.roles:
        late = 0.85 + 0.25 * uniform(place.key("noisy night"), local_day(time_us - 12 * 3_600_000_000))
        x = x + 27.0 * late * bump(hour_of_day(time_us), 23.6, 1.1)
    return x


def leq(place: Place, time_us: Times) -> Values:
    """Return Leq in dB(A)."""
    return level(place, time_us) + 0.35 * place.jitter("leq", time_us)


def instantaneous(place: Place, time_us: Times) -> Values:
    """Return the level at the moment in dB(A): it moves more than its mean."""
    return level(place, time_us) + 1.0 * place.jitter("la", time_us)


def maximum(place: Place, time_us: Times) -> Values:
    """Return the highest level of the interval in dB(A), above Leq."""
    return leq(place, time_us) + 8.0 + 1.2 * np.abs(place.jitter("lmax", time_us))


def background(place: Place, time_us: Times) -> Values:
    """Return L90 in dB(A), below Leq."""
    return leq(place, time_us) - 5.0 - 0.4 * np.abs(place.jitter("l90", time_us))


def _of_the_day(hours: tuple[int, int], night_penalty_db: float = 0.0) -> Model:
    """Make the energy mean over the local hours [from, to) of the day before; steps once a day."""

    def model(place: Place, time_us: Times) -> Values:
        days, where = np.unique(local_day(time_us), return_inverse=True)
        first, last = hours
        each = np.arange(first * 4, last * 4, dtype=np.int64) * 900_000_000
        midnight = (days - 1) * 86_400_000_000 - 8 * 3_600_000_000
        grid = (midnight[:, None] + each[None, :]).ravel()
        night = (hour_of_day(grid) >= 22.0) | (hour_of_day(grid) < 6.0)
        energy = 10.0 ** ((level(place, grid) + night_penalty_db * night) / 10.0)
        result: Values = 10.0 * np.log10(energy.reshape(len(days), -1).mean(axis=1))[where]
        return result

    return model


SERIES: dict[str, Model] = {
    "noise_la": instantaneous,
    "noise_leq": leq,
    "noise_ld": _of_the_day((6, 22)),
    "noise_ln": _of_the_day((22, 30)),
    "noise_ldn": _of_the_day((6, 30), night_penalty_db=10.0),
    "noise_lmax": maximum,
    "noise_l90": background,
}
