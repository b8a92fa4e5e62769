"""Tides by harmonic constants: analysis of a record and prediction, with nodal corrections and Greenwich phases.

Both are done by utide (the extra ``tides``); it is imported when first needed, because it brings scipy.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from processors.indices.tables import table
from qingtu.clock import DAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

PREFIX: Final = "tide_"
_UNIX_EPOCH_DAYS: Final = 719163
"""1970-01-01 in days since 0000-12-31, the time of utide."""


class Constituent(NamedTuple):
    """One wave of the tide.

    Attributes:
        name: as utide and tide tables write it.
        amplitude_m: metres.
        lag_deg: Greenwich phase lag, degrees.
        error_m: half the 95 % interval of the amplitude, metres; NaN when unknown.
    """

    name: str
    amplitude_m: float
    lag_deg: float
    error_m: float = float("nan")


@dataclass(frozen=True, slots=True)
class Constants:
    """Harmonic constants of one place.

    Attributes:
        latitude: degrees north, for nodal factors.
        mean_m: mean level above the datum of the heights, metres.
        constituents: the waves.
        source: where they are from.
        confidence: how sure they are.
    """

    latitude: float
    mean_m: float
    constituents: tuple[Constituent, ...]
    source: str = "analysis"
    confidence: str = "unconfirmed"


def available() -> bool:
    """Say whether the extra ``tides`` is installed."""
    return find_spec("utide") is not None


def known_names() -> frozenset[str]:
    """Return the names of all constituents that can be predicted."""
    return frozenset(_index())


def _index() -> dict[str, int]:
    import utide  # noqa: PLC0415 - an extra, and slow to import

    return {str(name).strip(): i for i, name in enumerate(utide.ut_constants.const.name)}


def predict(constants: Constants, times_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the astronomical tide.

    ``h(t) = mean + Σ f A cos(V + u − g)``, f and u the nodal factors and V the astronomical argument of each moment.

    Args:
        constants: of the place; every name one of :func:`known_names`.
        times_us: shape (n,), µs UTC.

    Returns:
        heights above the datum in m, shape (n,).

    Raises:
        ImportError: the extra ``tides`` is not installed.
        KeyError: a constituent is not known.
    """
    from utide.harmonics import FUV  # noqa: PLC0415 - an extra

    index = _index()
    places = np.array([index[wave.name] for wave in constants.constituents], np.int64)
    days = _UNIX_EPOCH_DAYS + times_us / DAY
    exactly = [False, False, False, False]  # nodal factors and arguments at each time, not linearised
    factor, shift, argument = FUV(days, days[:1], places, constants.latitude, exactly)
    amplitude = np.array([wave.amplitude_m for wave in constants.constituents])
    lag = np.array([wave.lag_deg for wave in constants.constituents]) / 360
    waves = amplitude * factor * np.cos(2 * np.pi * (argument + shift - lag))
    heights: NDArray[np.float64] = constants.mean_m + waves.sum(axis=1)
    return heights


def analyse(
    times_us: NDArray[np.int64],
    heights: NDArray[np.float64],
    latitude: float,
    names: Sequence[str] | None = None,
) -> Constants:
    """Find the harmonic constants of a record by least squares.

    Args:
        times_us: shape (n,), µs UTC; gaps may be left out.
        heights: shape (n,), m above the datum; NaN is left out.
        latitude: degrees north.
        names: constituents to solve for; None: those that the length of the record tells apart (Rayleigh criterion).

    Raises:
        ImportError: the extra ``tides`` is not installed.
        ValueError: fewer than two days of values.
    """
    good = np.isfinite(heights)
    if not good.any() or np.ptp(times_us[good]) < 2 * DAY:
        raise ValueError("潮汐分析至少需要两天的数据 / the analysis of a tide needs at least two days of values")
    import utide  # noqa: PLC0415 - an extra, and slow to import

    waves_wanted = "auto" if names is None else list(names)
    found: Mapping[str, Any] = utide.solve(
        times_us[good].view("datetime64[us]"), heights[good], lat=latitude, constit=waves_wanted,
        method="ols", conf_int="linear", trend=False, nodal=True, phase="Greenwich", verbose=False,
    )  # fmt: skip
    rows = zip(found["name"], found["A"], found["g"], found["A_ci"], strict=True)
    waves = [Constituent(str(name), float(a), float(g), float(ci)) for name, a, g, ci in rows]
    waves.sort(key=lambda wave: (-wave.amplitude_m, wave.name))
    return Constants(latitude, float(found["mean"]), tuple(waves))


def constants_of(attributes: Mapping[str, Any], latitude: float) -> Constants | None:
    """Read the constants that a station of the catalogue sets; None when it sets none or not all that is needed.

    ``tide_mean_m`` is needed; the waves are those of the public set ``tide_set``, or the station's own as
    ``tide_M2: "1.25 289.1"`` (metres, Greenwich lag in degrees). :func:`wrong_attributes` tells what cannot be read.
    """
    mean = attributes.get(f"{PREFIX}mean_m")
    if isinstance(mean, bool) or not isinstance(mean, int | float):
        return None
    own = tuple(wave for name, value in attributes.items() if (wave := _own(name, value)) is not None)
    if own:
        origin = table("tides")["own"]
        return Constants(latitude, float(mean), own, origin["source"], origin["confidence"])
    public = table("tides")["sets"].get(attributes.get(f"{PREFIX}set"))
    if public is None:
        return None
    waves = tuple(Constituent(name, float(a), float(g)) for name, (a, g) in public["constituents"].items())
    return Constants(latitude, float(mean), waves, public["source"], public["confidence"])


def wrong_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """Return the attributes that begin with ``tide_`` and cannot be read: no such set or wave, no two numbers."""
    names = known_names()
    wrong = []
    for name, value in attributes.items():
        if not name.startswith(PREFIX):
            continue
        if name == f"{PREFIX}mean_m":
            good = isinstance(value, int | float) and not isinstance(value, bool)
        elif name == f"{PREFIX}set":
            good = value in table("tides")["sets"]
        else:
            wave = _own(name, value)
            good = wave is not None and wave.name in names
        if not good:
            wrong.append(name)
    return wrong


def attributes_of(constants: Constants) -> dict[str, float | str]:
    """Write constants as a station's attributes, which :func:`constants_of` reads; to 0.1 mm and 0.01 degrees."""
    waves = {f"{PREFIX}{w.name}": f"{w.amplitude_m:.4f} {w.lag_deg % 360:.2f}" for w in constants.constituents}
    return {f"{PREFIX}mean_m": round(constants.mean_m, 4), **waves}


def _own(name: str, value: Any) -> Constituent | None:
    wave = name.removeprefix(PREFIX)
    if wave in {name, "mean_m", "set"} or not isinstance(value, str):
        return None
    try:
        amplitude, lag = (float(part) for part in value.split())
    except ValueError:
        return None
    return Constituent(wave, amplitude, lag) if np.isfinite([amplitude, lag]).all() else None
