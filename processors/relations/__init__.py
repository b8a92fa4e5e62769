"""Checks of several properties of one message: one file a check, one line here; docs/quality.md has a row for each.

Bits are never reused, and are none of :data:`processors.quality.CHECKS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.relations import (
    calm_wind,
    density_inversion,
    location,
    multi_variate,
    nitrogen_oxides,
    particle_sizes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.contracts import MessageCheck

MESSAGE_CHECKS: Final[Mapping[str, MessageCheck]] = {
    check.key: check
    for check in (
        location.Location(),
        density_inversion.DensityInversion(),
        multi_variate.MultiVariate(),
        nitrogen_oxides.NitrogenOxides(),
        particle_sizes.ParticleSizes(),
        calm_wind.CalmWind(),
    )
}
