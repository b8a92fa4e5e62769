"""Indices and classes of the standards: one file a standard, one line here; docs/indices.md has a section for each.

:mod:`processors.indices.contract` says what an index is; :mod:`processors.indices.run` makes figure rows of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.indices import (
    gamma,
    gb3096,
    gb3097,
    gb3838,
    gb15618,
    gb36600,
    hj442,
    hj633,
    marine_warnings,
    tide,
    us_epa,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors.indices.contract import Index

INDICES: Final[Mapping[str, Index]] = {
    "aqi": hj633.AQI,
    "aqi_us": us_epa.AQI,
    "surface_water_class": gb3838.CLASS,
    "sea_water_class": gb3097.CLASS,
    "eutrophication": hj442.INDEX,
    "noise_excess": gb3096.COMPLIANCE,
    "gamma_excess": gamma.EXCESS,
    "farmland_risk": gb15618.RISK,
    "building_land_risk": gb36600.RISK,
    "surge_residual": tide.RESIDUAL,
    "wave_warning": marine_warnings.WAVE,
    "surge_warning": marine_warnings.SURGE,
    "tsunami_warning": marine_warnings.TSUNAMI,
    "red_tide_warning": marine_warnings.RED_TIDE,
    "green_tide_warning": marine_warnings.GREEN_TIDE,
}
