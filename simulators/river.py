"""Rivers and reservoirs: rain raises level, flow and turbidity and thins what is dissolved; plants breathe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulators.ocean import oxygen_saturation
from simulators.signal import hour_of_day, monthly, steady
from simulators.weather import warm_season, wetness

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values

# Monthly mean temperature of running water, Cel; from memory, unconfirmed.
_TEMPERATURE = (2.5, 3.5, 7.0, 13.0, 19.0, 23.5, 26.5, 27.0, 23.0, 16.5, 10.0, 4.5)


def _still(place: Place) -> bool:
    return place.kind == "reservoir"


def runoff(place: Place, time_us: Times) -> Values:
    """Return rain of the past day and a half that is still running off, 0 to about 1.5."""
    return np.minimum(wetness(place, time_us, 36.0) / 40.0, 1.5) * (0.3 if _still(place) else 1.0)


def _day(time_us: Times, peak_h: float) -> Values:
    result: Values = np.cos((hour_of_day(time_us) - peak_h) * (np.pi / 12.0))
    return result


def water_temperature(place: Place, time_us: Times) -> Values:
    """Return water temperature in Cel; a reservoir changes less over a day."""
    swing = 0.25 if _still(place) else 0.8
    spell = 0.8 * place.city("temperature", time_us, 60.0) + place.constant("water", -0.6, 0.6)
    return monthly(time_us, _TEMPERATURE) + spell + swing * _day(time_us, 16.0)


def dissolved_oxygen(place: Place, time_us: Times) -> Values:
    """Return dissolved oxygen in mg/L: a share of what the water can hold, highest in the afternoon."""
    share = place.constant("oxygen", 0.84, 0.95) + 0.05 * _day(time_us, 15.5) - 0.04 * runoff(place, time_us)
    share = share + 0.012 * place.wander("oxygen", time_us, 8.0)
    return oxygen_saturation(water_temperature(place, time_us), 0.0) * share


def ph(place: Place, time_us: Times) -> Values:
    """Return pH."""
    own = place.constant("ph", 7.6, 8.1)
    return own + 0.08 * _day(time_us, 16.0) - 0.08 * runoff(place, time_us) + 0.02 * place.wander("ph", time_us, 9.0)


def conductivity(place: Place, time_us: Times) -> Values:
    """Return conductivity in µS/cm, thinned by rain."""
    low, high = (380.0, 520.0) if _still(place) else (700.0, 1100.0)
    own = place.constant("conductivity", low, high)
    return own * (1.0 - 0.15 * runoff(place, time_us) + 0.015 * place.wander("conductivity", time_us, 10.0))


def turbidity(place: Place, time_us: Times) -> Values:
    """Return turbidity in NTU: washed in with the rain."""
    own = place.constant("turbidity", 3.0, 6.0) if _still(place) else place.constant("turbidity", 9.0, 20.0)
    stir = 1.0 + 0.08 * place.wander("turbidity", time_us, 5.0) + 1.2 * runoff(place, time_us)
    return own * stir


def _pollutant(low: float, high: float, *, washed_in: float) -> Model:
    """Make a model in which the rain brings ``washed_in`` times the level in; a reservoir has 0.6 of it."""

    def model(place: Place, time_us: Times) -> Values:
        own = place.constant(f"pollutant {low}", low, high) * (0.6 if _still(place) else 1.0)
        word = f"pollutant {low} {high}"
        curve = 0.05 * place.wander(word, time_us, 11.0) + 0.04 * _day(time_us, 9.0)
        return own * (1.0 + curve + washed_in * runoff(place, time_us))

    return model


def level(place: Place, time_us: Times) -> Values:
    """Return the water level in m above the station's datum."""
    base = place.constant("level", 60.0, 75.0) if _still(place) else place.constant("level", 2.0, 14.0)
    rise = 0.15 if _still(place) else 0.9
    return base + rise * runoff(place, time_us) + 0.015 * place.wander("level", time_us, 18.0)


def flow(place: Place, time_us: Times) -> Values:
    """Return the discharge in m3/s."""
    base = place.constant("flow", 1.5, 14.0) * (1.0 + 0.4 * warm_season(time_us))
    return base * (1.0 + 1.8 * runoff(place, time_us) + 0.03 * place.wander("flow", time_us, 6.0))


def algae_density(place: Place, time_us: Times) -> Values:
    """Return algae cells per litre."""
    base = place.constant("algae", 6e5, 2.5e6) * (0.4 + 1.6 * warm_season(time_us))
    return base * (1.0 + 0.08 * place.wander("algae", time_us, 12.0))


SERIES: dict[str, Model] = {
    "water_temperature": water_temperature,
    "water_ph": ph,
    "dissolved_oxygen": dissolved_oxygen,
    "conductivity": conductivity,
    "turbidity": turbidity,
    "codmn": _pollutant(2.6, 4.2, washed_in=0.15),
    "cod": _pollutant(10.0, 15.0, washed_in=0.15),
    "bod5": _pollutant(1.8, 2.8, washed_in=0.12),
    "nh3n": _pollutant(0.12, 0.5, washed_in=0.2),
    "total_phosphorus": _pollutant(0.04, 0.09, washed_in=0.25),
    "total_nitrogen": _pollutant(0.7, 1.2, washed_in=0.15),
    "toc": _pollutant(2.5, 4.0, washed_in=0.15),
    "suspended_solids": _pollutant(8.0, 18.0, washed_in=1.0),
    "chlorophyll_a_fresh": steady(4.0, 9.0, swing=0.08, period_h=12.0),
    "algae_density": algae_density,
    "orp": steady(240.0, 360.0, swing=0.03, period_h=10.0),
    "fluoride": steady(0.4, 0.8, swing=0.03, period_h=20.0),
    "cyanide": steady(0.001, 0.003, swing=0.1, period_h=20.0),
    "volatile_phenol": steady(0.0004, 0.0012, swing=0.1, period_h=20.0),
    "petroleum": steady(0.01, 0.03, swing=0.1, period_h=20.0),
    "mercury": steady(0.010, 0.030, swing=0.05, period_h=20.0),
    "arsenic": steady(0.8, 2.5, swing=0.05, period_h=20.0),
    "lead": steady(0.5, 2.0, swing=0.05, period_h=20.0),
    "cadmium": steady(0.1, 0.4, swing=0.05, period_h=20.0),
    "chromium_vi": steady(1.0, 3.0, swing=0.05, period_h=20.0),
    "copper": steady(0.002, 0.006, swing=0.05, period_h=20.0),
    "zinc": steady(0.008, 0.025, swing=0.05, period_h=20.0),
    "selenium": steady(0.2, 0.8, swing=0.05, period_h=20.0),
    "nickel": steady(0.001, 0.004, swing=0.05, period_h=20.0),
    "total_chromium": steady(0.004, 0.012, swing=0.05, period_h=20.0),
    "sulfide": steady(0.005, 0.02, swing=0.1, period_h=20.0),
    "anionic_surfactant": steady(0.03, 0.09, swing=0.1, period_h=20.0),
    "fecal_coliform": steady(900.0, 3500.0, swing=0.1, period_h=20.0),
    "river_level": level,
    "river_flow": flow,
}
