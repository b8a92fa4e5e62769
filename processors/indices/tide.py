"""Storm surge as residual of the tide: observed minus predicted water level.

Only for tide gauges that set constants (:func:`processors.indices.harmonics.constants_of`): a tide of another place
would be a wrong surge. Public sets: ``data/tides.yaml``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from processors.indices import harmonics
from processors.indices.contract import Index, Result
from processors.indices.numbers import exact, half_even
from qingtu.clock import DAY, HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from processors.indices.contract import Input, Period

LEVEL: Final = "water_level"
EXTRA_MISSING: Final = "tides_extra_missing"
"""Reason of a result that needs the extra ``tides``."""
BAD_ATTRIBUTES: Final = "bad_attributes"
"""Reason of a result whose station sets tidal constants that cannot be read."""
_SAMPLES: Final = 12


def predicted_mean_m(constants: harmonics.Constants, start_us: int) -> Decimal:
    """Return the mean of the predicted tide over one hour, m, to 0.1 mm; of twelve moments five minutes apart."""
    first = start_us - start_us % DAY + start_us % HOUR
    return _day_of_means(constants, first)[(start_us - first) // HOUR]


@lru_cache(maxsize=64)
def _day_of_means(constants: harmonics.Constants, first_us: int) -> tuple[Decimal, ...]:
    """Return the means of 24 hours: most of a prediction is astronomy that its moments share."""
    step = HOUR // _SAMPLES
    moments = first_us + step // 2 + step * np.arange(24 * _SAMPLES, dtype=np.int64)
    means = harmonics.predict(constants, moments).reshape(24, _SAMPLES).mean(axis=1)
    # Rounded, so that another machine's sine makes no other figure.
    return tuple(half_even(exact(mean), 4) for mean in means.tolist())


def evaluate(period: Period) -> Result | None:
    """Return the residual of an hour in m; None for a station without water level or tidal constants."""
    attributes = period.station.attributes
    if LEVEL not in period.measured or not any(name.startswith(harmonics.PREFIX) for name in attributes):
        return None
    level = period.figure(LEVEL)
    if not harmonics.available():
        return _result(level, EXTRA_MISSING)
    constants = harmonics.constants_of(attributes, period.station.position[1])
    wrong = harmonics.wrong_attributes(attributes)
    if constants is None or wrong:
        return _result(level, BAD_ATTRIBUTES, details={"attributes": wrong})
    tide = predicted_mean_m(constants, period.start_us)
    residual = None if level.good is None else half_even(level.good - tide, 4)
    details = {"predicted_m": tide, "source": constants.source}
    return _result(level, level.reason, residual, constants.confidence, details)


def _result(
    level: Input,
    reason: str,
    residual: Decimal | None = None,
    confidence: str = "unconfirmed",
    details: Mapping[str, Any] | None = None,
) -> Result:
    return Result(
        value=residual,
        level=None,
        valid=residual is not None,
        reason=reason,
        standard="harmonic analysis",
        edition="utide",
        confidence=confidence,
        inputs=(level,),
        details=details or {},
    )


RESIDUAL: Final = Index(
    key="surge_residual",
    zh="增水(观测减预报潮位)",
    en="Surge: observed minus predicted water level",
    unit="m",
    domains=frozenset({"ocean"}),
    periods=frozenset({"hour"}),
    evaluate=evaluate,
    attributes={
        "tide_mean_m": "mean sea level above the station's datum",
        "tide_set": "a public set of constants: shijiusuo or lianyungang",
        "tide_M2": 'a constant of the station\'s own: "amplitude in m, Greenwich lag in degrees"; so for every wave',
    },
)
