"""The sea: water bodies, tide gauge, buoy, bathing beach and marine ranch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulators.signal import bump, hour_of_day, monthly, steady
from simulators.tide import MEAN_LEVEL_M, tide, tide_rate
from simulators.weather import solar_radiation, wetness, wind_direction

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values

# standards/qartod.yaml, thresholds_qingdao_suggested: monthly climatology, Cel; from memory, unconfirmed.
_SST = (4.5, 3.5, 5.0, 8.5, 13.5, 18.5, 23.0, 26.0, 24.5, 19.5, 14.0, 8.5)
_LOW_OXYGEN_MG_L = 3.7  # beyond class 3 of GB 3097-1997 (4 mg/L), not yet beyond class 4 (3 mg/L)
_FLOOD_DIRECTION_DEG = 318.0  # into Jiaozhou Bay
_SWING_DEG = 0.0004
"""About 40 m: how far a buoy drifts from where it is moored."""


def sea_temperature(place: Place, time_us: Times) -> Values:
    """Return sea temperature in Cel: the climatology, slow spells, a little warmth in the afternoon."""
    day = 0.22 * np.cos((hour_of_day(time_us) - 16.0) * (np.pi / 12.0))
    spell = 0.8 * place.city("sst", time_us, 240.0) + 0.12 * place.wander("sst", time_us, 12.0)
    own = place.constant("sst", -0.5, 0.5)
    return monthly(time_us, _SST) + own + spell + day + 0.003 * place.jitter("sst", time_us)


def salinity(place: Place, time_us: Times) -> Values:
    """Return practical salinity: lower after rain."""
    fresh = 0.6 * np.minimum(wetness(place, time_us, 30.0) / 60.0, 1.5)
    own = place.constant("salinity", 30.2, 31.6)
    return own - fresh + 0.12 * place.wander("salinity", time_us, 14.0) + 0.001 * place.jitter("salinity", time_us)


def conductivity(place: Place, time_us: Times) -> Values:
    """Return conductivity in mS/cm, linear around standard sea water (PSS-78: 42.914 mS/cm at 35, 15 Cel)."""
    warm = 1.0 + 0.0205 * (sea_temperature(place, time_us) - 15.0)
    return 42.914 * (salinity(place, time_us) / 35.0) * warm


def surge(place: Place, time_us: Times) -> Values:
    """Return the part of the water level that is not tide, in m."""
    return 0.09 * place.city("surge", time_us, 26.0)


def water_level(place: Place, time_us: Times) -> Values:
    """Return the water level above chart datum in m."""
    seiche = 0.008 * place.wander("seiche", time_us, 0.4)
    return MEAN_LEVEL_M + tide(time_us) + surge(place, time_us) + seiche + 0.001 * place.jitter("level", time_us)


def pressure(place: Place, time_us: Times) -> Values:
    """Return the pressure of the water over a sensor on the bottom in dbar; a metre is about 1.005 dbar."""
    depth = place.constant("depth", 4.0, 9.0)
    return 1.005 * (depth + tide(time_us) + surge(place, time_us))


def wave_height(place: Place, time_us: Times) -> Values:
    """Return the significant wave height in m: a sea that builds up and falls over a day, lower near the shore."""
    open_sea = place.constant("waves", 0.75, 1.05) if place.kind == "buoy" else place.constant("waves", 0.3, 0.5)
    sea = np.exp(0.27 * place.city("waves", time_us, 26.0))
    return open_sea * sea * (1.0 + 0.05 * place.wander("waves", time_us, 1.5))


def max_wave_height(place: Place, time_us: Times) -> Values:
    """Return the highest wave in m: 1.5 to 1.9 times the significant height."""
    return wave_height(place, time_us) * (1.68 + 0.05 * place.wander("highest", time_us, 0.8))


def mean_wave_period(place: Place, time_us: Times) -> Values:
    """Return the mean wave period in s: longer waves in a higher sea."""
    own = 0.12 * place.wander("period", time_us, 2.0)
    return 2.6 + 1.9 * np.sqrt(wave_height(place, time_us)) + own


def peak_wave_period(place: Place, time_us: Times) -> Values:
    """Return the period at the spectrum's peak in s."""
    return mean_wave_period(place, time_us) * place.constant("peak", 1.2, 1.32)


def wave_direction(place: Place, time_us: Times) -> Values:
    """Return where the waves come from in deg: with the wind, bent towards the coast."""
    return np.floor((wind_direction(place, time_us) + place.constant("bend", -25.0, 10.0)) % 360.0)


def _current(place: Place, time_us: Times) -> tuple[Values, Values]:
    """Return (along the flood, across it) in m/s: an ellipse, so that the direction turns without a jump."""
    size = place.constant("current", 0.35, 0.75)
    along = size * tide_rate(time_us) / 0.95
    across = 0.16 * size * tide(time_us) / 1.7 + 0.04
    return along, across


def current_speed(place: Place, time_us: Times) -> Values:
    """Return the speed of the tidal current in m/s."""
    along, across = _current(place, time_us)
    return np.hypot(along, across) + 0.003 * np.abs(place.jitter("current", time_us))


def current_direction(place: Place, time_us: Times) -> Values:
    """Return where the current goes to in deg, 0 to below 360."""
    along, across = _current(place, time_us)
    return np.floor((_FLOOD_DIRECTION_DEG + np.degrees(np.arctan2(across, along))) % 360.0)


def oxygen_saturation(temperature: Values, salt: Values | float) -> Values:
    """Return the oxygen in mg/L that water holds at 1 atm (Elmore and Hayes 1960; salt after Weiss, linear)."""
    t = temperature
    fresh = 14.652 - 0.41022 * t + 0.007991 * t**2 - 7.7774e-5 * t**3
    return fresh * (1.0 - 0.0058 * salt)


def dissolved_oxygen(place: Place, time_us: Times) -> Values:
    """Return dissolved oxygen in mg/L: near saturation, more by day; a ranch may run short before dawn."""
    saturated = oxygen_saturation(sea_temperature(place, time_us), salinity(place, time_us))
    light = 0.03 * np.cos((hour_of_day(time_us) - 15.5) * (np.pi / 12.0))
    share = place.constant("oxygen", 0.9, 0.96) + light + 0.012 * place.wander("oxygen", time_us, 7.0)
    if "low oxygen" in place.roles:
        short = np.maximum(share - _LOW_OXYGEN_MG_L / saturated, 0.0)
        share = share - short * bump(hour_of_day(time_us), 4.5, 2.6)
    return saturated * share + 0.003 * place.jitter("oxygen", time_us)


def chlorophyll(place: Place, time_us: Times) -> Values:
    """Return chlorophyll a in µg/L; strong light dims its fluorescence."""
    season = monthly(time_us, (1.4, 1.8, 2.8, 3.4, 3.0, 3.2, 4.2, 4.6, 3.6, 2.6, 1.9, 1.5))
    dim = 1.0 - 0.15 * solar_radiation(place, time_us) / 1000.0
    own = place.constant("chlorophyll", 0.8, 1.3) * (1.0 + 0.12 * place.wander("chlorophyll", time_us, 9.0))
    return season * own * dim


def turbidity(place: Place, time_us: Times) -> Values:
    """Return turbidity in NTU: waves and currents stir the bottom."""
    stirred = 2.2 * wave_height(place, time_us) + 2.0 * np.abs(tide_rate(time_us))
    own = place.constant("turbidity", 2.0, 5.0)
    return own + stirred + 0.4 * np.abs(place.wander("turbidity", time_us, 3.0))


def sea_ph(place: Place, time_us: Times) -> Values:
    """Return the pH of sea water: carbon goes with light and life."""
    light = 0.025 * np.cos((hour_of_day(time_us) - 16.0) * (np.pi / 12.0))
    x = place.constant("ph", 8.02, 8.14) + light + 0.02 * place.wander("ph", time_us, 12.0)
    return x - (0.12 * bump(hour_of_day(time_us), 4.5, 2.6) if "low oxygen" in place.roles else 0.0)


def no_red_tide(_place: Place, time_us: Times) -> Values:
    """Return the area of red tide in km2: none. A bloom is an event, and a toxic one counts from the first km2 on."""
    return np.zeros(time_us.shape)


def _green_tide(low: float, high: float) -> Model:
    """Make the area of a few rafts that drift by in summer: below what any zone's warning begins with."""
    rafts = steady(low, high, swing=0.1, period_h=60.0)
    season = (0.0, 0.0, 0.0, 0.0, 0.3, 1.0, 1.0, 0.4, 0.0, 0.0, 0.0, 0.0)

    def model(place: Place, time_us: Times) -> Values:
        return rafts(place, time_us) * monthly(time_us, season)

    return model


def latitude(place: Place, time_us: Times) -> Values:
    """Return where a buoy that swings around its mooring says that it is, in degrees north."""
    return place.lat + _SWING_DEG * np.tanh(place.wander("latitude", time_us, 3.0))


def longitude(place: Place, time_us: Times) -> Values:
    """Return the same in degrees east."""
    return place.lon + _SWING_DEG * np.tanh(place.wander("longitude", time_us, 3.0))


def vessel_course(place: Place, time_us: Times) -> Values:
    """Return the course of a vessel in deg, 0 to below 360."""
    turn = 40.0 * place.wander("course", time_us, 4.0)
    return np.floor(((place.constant("course", 0.0, 360.0) + turn) % 360.0) * 10.0) / 10.0


SERIES: dict[str, Model] = {
    "sea_surface_temperature": sea_temperature,
    "sea_water_temperature": sea_temperature,
    "practical_salinity": salinity,
    "sea_water_conductivity": conductivity,
    "sea_water_pressure": pressure,
    "significant_wave_height": wave_height,
    "max_wave_height": max_wave_height,
    "mean_wave_period": mean_wave_period,
    "peak_wave_period": peak_wave_period,
    "wave_direction": wave_direction,
    "water_level": water_level,
    "storm_surge": surge,
    "current_speed": current_speed,
    "current_direction": current_direction,
    "sea_dissolved_oxygen": dissolved_oxygen,
    "sea_chlorophyll_a": chlorophyll,
    "sea_turbidity": turbidity,
    "sea_water_ph": sea_ph,
    "inorganic_nitrogen": steady(0.10, 0.17, swing=0.05, period_h=20.0),
    "nitrate": steady(4.5, 8.5, swing=0.05, period_h=20.0),
    "active_phosphate": steady(0.006, 0.012, swing=0.05, period_h=20.0),
    "silicate": steady(6.0, 12.0, swing=0.05, period_h=20.0),
    "sea_cod": steady(0.8, 1.4, swing=0.05, period_h=20.0),
    "sea_petroleum": steady(0.012, 0.03, swing=0.05, period_h=20.0),
    "secchi_depth": steady(1.5, 3.5, swing=0.05, period_h=20.0),
    # what surveys and satellites count: a quiet sea
    "tsunami_amplitude": steady(0.005, 0.02, swing=0.1, period_h=6.0),
    "red_tide_area": no_red_tide,
    "green_tide_distribution": _green_tide(5.0, 25.0),
    "green_tide_coverage": _green_tide(0.05, 0.25),
    "vessel_speed": steady(6.0, 11.0, swing=0.1, period_h=3.0),
    "vessel_course": vessel_course,
    "latitude": latitude,
    "longitude": longitude,
}
