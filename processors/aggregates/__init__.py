"""Aggregates: how readings of a period become one value, by the property's aggregation kind.

One function a kind in KINDS; each takes values (n,) of good readings and returns one number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray


def energy(values: NDArray[np.float64]) -> float:
    """Average levels in energy: ``10 lg(mean(10^(L/10)))`` (noise.yaml; GB 3096-2008).

    >>> round(energy(np.array([60.0, 70.0])), 2)
    67.4
    """
    return float(10 * np.log10(np.mean(10 ** (values / 10))))


def circular(values: NDArray[np.float64]) -> float:
    """Average directions in degrees as unit vectors; NaN when they cancel out.

    >>> round(circular(np.array([350.0, 30.0])), 6)
    10.0
    """
    radians = np.deg2rad(values)
    east, north = float(np.mean(np.sin(radians))), float(np.mean(np.cos(radians)))
    if np.hypot(east, north) < 1e-9:
        return float("nan")
    return float(np.rad2deg(np.arctan2(east, north)) % 360)


def rms(values: NDArray[np.float64]) -> float:
    """Root of the mean square.

    >>> rms(np.array([3.0, 4.0])) == np.sqrt(12.5)
    True
    """
    return float(np.sqrt(np.mean(values**2)))


KINDS: Final[Mapping[str, Callable[[NDArray[np.float64]], float]]] = {
    "mean": lambda values: float(np.mean(values)),
    "sum": lambda values: float(np.sum(values)),
    "max": lambda values: float(np.max(values)),
    "last": lambda values: float(values[-1]),
    "energy": energy,
    "circular": circular,
    "rms": rms,
}
