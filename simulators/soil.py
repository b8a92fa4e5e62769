"""Soil: rain wets it at once, days dry it; its temperature follows the air, late and softened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulators.signal import hour_of_day, monthly, steady
from simulators.weather import wetness

if TYPE_CHECKING:
    from simulators.signal import Model, Place, Times, Values

# Monthly mean at 20 cm depth, Cel; from memory, unconfirmed.
_TEMPERATURE = (1.0, 2.0, 6.0, 12.0, 18.0, 22.5, 26.0, 26.5, 22.5, 16.5, 9.5, 3.5)


def moisture(place: Place, time_us: Times) -> Values:
    """Return volumetric water content in %: never beyond what the pores hold."""
    held = 15.0 * (1.0 - np.exp(-wetness(place, time_us, 72.0) / 35.0))
    dawn = 0.25 * np.cos((hour_of_day(time_us) - 6.0) * (np.pi / 12.0))
    return place.constant("moisture", 16.0, 22.0) + held + dawn + 0.03 * place.jitter("moisture", time_us)


def temperature(place: Place, time_us: Times) -> Values:
    """Return soil temperature in Cel."""
    day = 0.9 * np.cos((hour_of_day(time_us) - 18.5) * (np.pi / 12.0))
    own = place.constant("soil", -0.6, 0.6)
    return monthly(time_us, _TEMPERATURE) + own + 0.9 * place.city("temperature", time_us, 60.0) + day


def conductivity(place: Place, time_us: Times) -> Values:
    """Return electrical conductivity in µS/cm: more water, more of it conducts."""
    return place.constant("salt", 9.0, 16.0) * moisture(place, time_us)


SERIES: dict[str, Model] = {
    "soil_moisture": moisture,
    "soil_temperature": temperature,
    "soil_conductivity": conductivity,
    "soil_ph": steady(6.2, 7.4, swing=0.004, period_h=40.0, noise=0.0005),
    # clean farmland, all below the screening values of GB 15618; metals hardly change
    "soil_cadmium": steady(0.05, 0.2, swing=0.01, period_h=200.0),
    "soil_mercury": steady(0.02, 0.1, swing=0.01, period_h=200.0),
    "soil_arsenic": steady(5.0, 12.0, swing=0.01, period_h=200.0),
    "soil_lead": steady(15.0, 35.0, swing=0.01, period_h=200.0),
    "soil_chromium": steady(35.0, 80.0, swing=0.01, period_h=200.0),
    "soil_chromium_vi": steady(0.2, 0.8, swing=0.01, period_h=200.0),
    "soil_copper": steady(12.0, 35.0, swing=0.01, period_h=200.0),
    "soil_nickel": steady(15.0, 35.0, swing=0.01, period_h=200.0),
    "soil_zinc": steady(40.0, 90.0, swing=0.01, period_h=200.0),
}
