"""Air quality: pollutants that share weather, traffic and season, and so go together as they do outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulators.signal import bump, hour_of_day, local_day, monthly, steady, traffic, uniform
from simulators.weather import cloud, rain_rate, warm_season

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values

_PM25 = (36.0, 33.0, 28.0, 24.0, 21.0, 18.0, 15.0, 14.0, 17.0, 21.0, 26.0, 33.0)
_EPISODE_H = (4.0, 12.0, 20.0)
"""Local hours at the middle of a day's three episodes; each has another station (role ``episode 0`` …)."""
_EPISODE_UG_M3 = 120.0
_EPISODE_WIDTH_H = 2.6


def stagnation(place: Place, time_us: Times) -> Values:
    """Return how badly the air is exchanged: about 0.5 (windy) to 2 (still), the same for all pollutants."""
    calm = np.exp(0.20 * place.city("stagnation", time_us, 34.0) + 0.06 * place.wander("stagnation", time_us, 7.0))
    wash = 1.0 - 0.08 * np.minimum(rain_rate(place, time_us), 4.0)
    result: Values = calm * wash
    return result


def _roads(place: Place) -> float:
    return place.constant("roads", 0.6, 1.3)


def episode(place: Place, time_us: Times) -> Values:
    """Return the extra PM2.5 in µg/m³ at a station that has an episode every day.

    Each day's episode has a strength of its own and lasts over midnight: what is left of yesterday's and what begins
    of tomorrow's belong to today.
    """
    extra = np.zeros(time_us.shape)
    today, hour = local_day(time_us), hour_of_day(time_us)
    for number, middle in enumerate(_EPISODE_H):
        if f"episode {number}" not in place.roles:
            continue
        for day in (-1, 0, 1):
            strength = 0.85 + 0.3 * uniform(place.key(f"episode {number}"), today + day)
            distance = (hour - middle - 24.0 * day) / _EPISODE_WIDTH_H
            extra += _EPISODE_UG_M3 * strength * np.exp(-0.5 * distance**2)
    return extra


def pm25(place: Place, time_us: Times) -> Values:
    """Return fine particles in µg/m³."""
    level = monthly(time_us, _PM25) * place.constant("pm25", 0.85, 1.15)
    roads = 1.0 + 0.10 * _roads(place) * traffic(time_us)
    noise = 0.25 * place.jitter("pm25", time_us)
    return np.maximum(level * roads * stagnation(place, time_us) + episode(place, time_us) + noise, 2.0)


def pm10(place: Place, time_us: Times) -> Values:
    """Return particles up to 10 µm in µg/m³: the fine ones and coarse dust, more of it at a building site."""
    site = 1.3 * bump(hour_of_day(time_us), 14.0, 4.0) if place.kind == "construction" else 0.0
    dust = 18.0 * (1.0 + 0.3 * place.wander("dust", time_us, 8.0) + site) * (1.0 + 0.3 * traffic(time_us))
    dry = 1.0 / (1.0 + rain_rate(place, time_us) / 3.0)
    # the same rounding of a larger number never makes it smaller: PM10 stays at or above PM2.5
    return pm25(place, time_us) * place.constant("pm10", 1.15, 1.4) + np.maximum(dust, 2.0) * dry


def no2(place: Place, time_us: Times) -> Values:
    """Return nitrogen dioxide in µg/m³: traffic makes it, sunshine takes it away."""
    cars = 0.65 + 0.75 * _roads(place) * traffic(time_us)
    light = 1.0 - 0.3 * _photochemistry(place, time_us)
    shallow = 1.0 + 0.3 * bump(hour_of_day(time_us), 1.5, 4.5)  # the night air mixes over a lower height
    level = 27.0 - 9.0 * warm_season(time_us)
    x = level * cars * light * shallow * stagnation(place, time_us) + 0.25 * place.jitter("no2", time_us)
    return np.maximum(x, 2.0)


def _photochemistry(place: Place, time_us: Times) -> Values:
    return bump(hour_of_day(time_us), 14.8, 3.6) * (1.0 - 0.5 * cloud(place, time_us))


def o3(place: Place, time_us: Times) -> Values:
    """Return ozone in µg/m³: made in the afternoon sun, eaten by fresh nitric oxide, so opposite to NO2."""
    warm = warm_season(time_us)
    made = (38.0 + 75.0 * warm) * _photochemistry(place, time_us)
    x = 48.0 + 22.0 * warm + made - 1.0 * (no2(place, time_us) - 20.0)
    return np.maximum(x + 3.0 * place.wander("o3", time_us, 5.0) + 0.25 * place.jitter("o3", time_us), 4.0)


def nitric_oxide(place: Place, time_us: Times) -> Values:
    """Return nitric oxide in µg/m³: fresh from engines."""
    fresh = 0.12 + 0.35 * traffic(time_us)
    return no2(place, time_us) * fresh * (1.0 - 0.6 * _photochemistry(place, time_us))


def nox(place: Place, time_us: Times) -> Values:
    """Return NO2 and NO as NO2 in µg/m³ (molar masses 46.0055 and 30.0061)."""
    return no2(place, time_us) + nitric_oxide(place, time_us) * (46.0055 / 30.0061)


def so2(place: Place, time_us: Times) -> Values:
    """Return sulfur dioxide in µg/m³: heating and ships, low nowadays."""
    level = 9.5 - 3.5 * warm_season(time_us)
    x = level * (1.0 + 0.2 * place.wander("so2", time_us, 9.0)) * stagnation(place, time_us)
    return np.maximum(x + 0.1 * place.jitter("so2", time_us), 1.0)


def co(place: Place, time_us: Times) -> Values:
    """Return carbon monoxide in mg/m³: engines and all that burns, so it follows PM2.5."""
    burning = 0.30 + 0.006 * pm25(place, time_us)
    return burning * (1.0 + 0.22 * _roads(place) * traffic(time_us)) + 0.008 * place.jitter("co", time_us)


def co2(place: Place, time_us: Times) -> Values:
    """Return carbon dioxide in ppm: highest on still nights."""
    night = bump(hour_of_day(time_us), 4.0, 4.0)
    return 424.0 + 16.0 * night + 9.0 * traffic(time_us) + 7.0 * stagnation(place, time_us)


def _index(table: tuple[float, ...], value: Values) -> Values:
    # HJ 633-2026 breakpoints of IAQI 0, 50, 100, 150, 200, 300, 400, 500 (standards: air_aqi.yaml)
    result: Values = np.interp(value, table, (0.0, 50.0, 100.0, 150.0, 200.0, 300.0, 400.0, 500.0))
    return result


def aqi(place: Place, time_us: Times) -> Values:
    """Return what an instrument that shows an index of its own would show: the worse of PM2.5 and PM10."""
    fine = _index((0.0, 35.0, 60.0, 115.0, 150.0, 250.0, 350.0, 500.0), pm25(place, time_us))
    coarse = _index((0.0, 50.0, 120.0, 250.0, 350.0, 420.0, 500.0, 600.0), pm10(place, time_us))
    return np.ceil(np.round(np.maximum(fine, coarse), 9))


def _of_pm25(share: float) -> Model:
    def model(place: Place, time_us: Times) -> Values:
        return share * pm25(place, time_us)

    return model


def tsp(place: Place, time_us: Times) -> Values:
    """Return all suspended particles in µg/m³."""
    return pm10(place, time_us) * place.constant("tsp", 1.3, 1.6) + 12.0


def _vapour(level: float) -> Model:
    def model(place: Place, time_us: Times) -> Values:
        own = place.constant(f"vapour {level}", 0.7, 1.3) * (1.0 + 0.15 * traffic(time_us))
        return level * own * stagnation(place, time_us)

    return model


SERIES: dict[str, Model] = {
    "pm25": pm25,
    "pm10": pm10,
    "pm1": _of_pm25(0.72),
    "tsp": tsp,
    "so2": so2,
    "no2": no2,
    "nitric_oxide": nitric_oxide,
    "nox": nox,
    "co": co,
    "o3": o3,
    "co2": co2,
    "nh3": _vapour(9.0),
    "h2s": _vapour(2.0),
    "ch4": steady(1290.0, 1360.0, swing=0.01, noise=0.001),
    "nmhc": _vapour(0.25),
    "tvoc": _vapour(170.0),
    "benzene": _vapour(1.6),
    "toluene": _vapour(4.5),
    "formaldehyde": _vapour(6.0),
    "dustfall": steady(3.0, 5.0),
    "aqi": aqi,
}
