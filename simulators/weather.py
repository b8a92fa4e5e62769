"""Weather: one sky over the whole city, with what differs from place to place.

The other simulators ask here for rain, sun, wind and temperature, so that all of them tell one story.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from simulators.signal import bump, decayed, hour_of_day, monthly, steady, uniform, year_fraction

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values

# Monthly mean air temperature of Qingdao in Cel; from memory, unconfirmed, good for a simulation only.
_TEMPERATURE = (-0.5, 1.3, 5.5, 11.0, 16.7, 20.6, 24.5, 25.6, 22.1, 16.3, 9.0, 2.4)
_PRESSURE = (1026.0, 1024.0, 1019.0, 1013.0, 1008.0, 1004.0, 1003.0, 1006.0, 1012.0, 1018.0, 1023.0, 1026.0)
_AT_SEA = frozenset({"buoy", "beach", "ranch", "sea_water", "tide_gauge"})


def cloud(place: Place, time_us: Times) -> Values:
    """Return cloud cover, 0 to 1."""
    x = 0.45 + 0.3 * place.city("rain", time_us, 9.0) + 0.15 * place.city("cloud", time_us, 4.0)
    return np.clip(x, 0.0, 1.0)


def rain_rate(place: Place, time_us: Times) -> Values:
    """Return rain in mm/h: nothing most of the time, most in summer."""
    wet = np.maximum(place.city("rain", time_us, 9.0) - 1.25, 0.0)
    local = np.clip(1.0 + 0.35 * place.wander("rain", time_us, 3.0), 0.2, 2.0)
    return wet * local * (3.0 + 4.0 * warm_season(time_us))


def warm_season(time_us: Times) -> Values:
    """Return 0 in mid-January to 1 in mid-July."""
    result: Values = 0.5 - 0.5 * np.cos(2.0 * np.pi * (year_fraction(time_us) - 0.04))
    return result


def sun(place: Place, time_us: Times) -> Values:
    """Return the sine of the sun's elevation, 0 at night."""
    declination = np.radians(23.44) * np.sin(2.0 * np.pi * (year_fraction(time_us) - 0.2205))
    solar_hour = hour_of_day(time_us) + (place.lon - 120.0) / 15.0
    angle = (solar_hour - 12.0) * (np.pi / 12.0)
    lat = np.radians(place.lat)
    height = np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(angle)
    result: Values = np.maximum(height, 0.0)
    return result


def solar_radiation(place: Place, time_us: Times) -> Values:
    """Return downwelling short-wave radiation in W/m2."""
    result: Values = 1080.0 * sun(place, time_us) ** 1.15 * (1.0 - 0.7 * cloud(place, time_us))
    return result


def air_temperature(place: Place, time_us: Times) -> Values:
    """Return air temperature in Cel: season, warm and cold spells, a day that the sea damps and clouds flatten."""
    swing = 1.6 if place.kind in _AT_SEA else place.constant("inland", 2.2, 3.6)
    day = np.cos((hour_of_day(time_us) - 14.2) * (np.pi / 12.0))
    return (
        monthly(time_us, _TEMPERATURE)
        + place.constant("temperature", -0.7, 0.7)
        + 2.2 * place.city("temperature", time_us, 60.0)
        + swing * day * (1.0 - 0.5 * cloud(place, time_us))
        + 0.25 * place.wander("temperature", time_us, 3.0)
        + 0.04 * place.jitter("temperature", time_us)
    )


def relative_humidity(place: Place, time_us: Times) -> Values:
    """Return relative humidity in %, lowest in the afternoon, high in rain."""
    day = np.cos((hour_of_day(time_us) - 14.2) * (np.pi / 12.0))
    x = (
        62.0
        + 14.0 * warm_season(time_us)
        - 9.0 * day * (1.0 - 0.5 * cloud(place, time_us))
        + 7.0 * place.city("humidity", time_us, 30.0)
        + 3.0 * np.minimum(rain_rate(place, time_us), 4.0)
        + 1.2 * place.wander("humidity", time_us, 4.0)
    )
    return np.clip(x, 12.0, 99.0)


def dew_point(place: Place, time_us: Times) -> Values:
    """Return the dew point in Cel by Magnus' formula over water (WMO: 17.62, 243.12 Cel)."""
    t = air_temperature(place, time_us)
    gamma = np.log(relative_humidity(place, time_us) / 100.0) + 17.62 * t / (243.12 + t)
    result: Values = 243.12 * gamma / (17.62 - gamma)
    return result


def sea_level_pressure(place: Place, time_us: Times) -> Values:
    """Return air pressure at mean sea level in hPa, with the double wave of the day."""
    tide = 0.7 * np.cos((hour_of_day(time_us) - 10.0) * (np.pi / 6.0))
    return monthly(time_us, _PRESSURE) + 4.0 * place.city("pressure", time_us, 54.0) + tide


def air_pressure(place: Place, time_us: Times) -> Values:
    """Return air pressure at the station in hPa; 8.3 m of height take 1 hPa."""
    height = 3.0 if place.kind in _AT_SEA else place.constant("height", 5.0, 60.0)
    return sea_level_pressure(place, time_us) - height / 8.3 + 0.03 * place.jitter("pressure", time_us)


def wind_speed(place: Place, time_us: Times) -> Values:
    """Return wind in m/s: systems that pass, a sea breeze in the afternoon, more over the sea."""
    exposed = 1.45 if place.kind in _AT_SEA else place.constant("exposed", 0.75, 1.1)
    breeze = 1.1 * bump(hour_of_day(time_us), 14.5, 3.0)
    x = 3.1 + 1.1 * place.city("wind", time_us, 14.0) + breeze + 0.35 * place.wander("wind", time_us, 1.0)
    return np.maximum(exposed * x + 0.15 * place.jitter("wind", time_us), 0.1)


def wind_gust(place: Place, time_us: Times) -> Values:
    """Return the gust in m/s, always above the mean wind."""
    factor = 1.42 + 0.06 * np.abs(place.wander("gust", time_us, 0.5))
    return wind_speed(place, time_us) * factor + 0.2


def wind_direction(place: Place, time_us: Times) -> Values:
    """Return where the wind comes from in deg, 0 to below 360: north-west in winter, south-east in summer."""
    season = 325.0 - 180.0 * warm_season(time_us)
    turn = 30.0 * place.city("direction", time_us, 20.0) + 4.0 * place.wander("direction", time_us, 1.5)
    # values are rounded to whole degrees later: 359.7 would become 360
    return np.floor((season + turn) % 360.0)


def rainfall(place: Place, time_us: Times) -> Values:
    """Return the rain of the past interval in mm, in tips of 0.1 mm: the rest of a tip falls by chance."""
    tips = rain_rate(place, time_us) * place.interval_s / 3600.0 / 0.1
    return np.floor(tips + uniform(place.key("tips"), time_us) * (tips > 0.0)) * 0.1


def visibility(place: Place, time_us: Times) -> Values:
    """Return visibility in m: less in rain and damp air."""
    damp = np.maximum(relative_humidity(place, time_us) - 55.0, 0.0)
    x = 19000.0 - 190.0 * damp - 600.0 * np.minimum(rain_rate(place, time_us), 6.0)
    return np.clip(x + 500.0 * place.wander("visibility", time_us, 6.0), 1500.0, 30000.0)


def uv_index(place: Place, time_us: Times) -> Values:
    """Return the UV index, about 10 under a clear summer noon."""
    result: Values = 11.5 * sun(place, time_us) ** 2.0 * (1.0 - 0.6 * cloud(place, time_us))
    return result


def wetness(place: Place, time_us: Times, tau_h: float) -> Values:
    """Return the rain of the past in mm that has not run off, dried or decayed yet."""
    return decayed(partial(rain_rate, place), time_us, tau_h)


SERIES: dict[str, Model] = {
    "air_temperature": air_temperature,
    "relative_humidity": relative_humidity,
    "air_pressure": air_pressure,
    "sea_level_pressure": sea_level_pressure,
    "wind_speed": wind_speed,
    "wind_direction": wind_direction,
    "wind_gust": wind_gust,
    "rainfall": rainfall,
    "rain_rate": rain_rate,
    "visibility": visibility,
    "dew_point": dew_point,
    "solar_radiation": solar_radiation,
    "uv_index": uv_index,
    "electric_field": steady(0.6, 1.4, swing=0.1, noise=0.02),
}
