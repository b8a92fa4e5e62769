"""Quality limits as a catalogue writes them, and as the ordered pass looks them up.

Every limit is in the canonical unit of its property. ``docs/quality.md`` says what each check does with them.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from qingtu.catalogue_words import Positive, Range, Seconds, Strict

Season = Literal["spring", "summer", "autumn", "winter"]
SEASONS: dict[str, tuple[int, ...]] = {
    "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11), "winter": (12, 1, 2),
}  # fmt: skip


def _months(value: Any) -> Any:
    """Spell a season out, so that the rest of the program knows months alone."""
    return SEASONS.get(value, value) if isinstance(value, str) else [value] if isinstance(value, int) else value


Month = Annotated[int, Field(ge=1, le=12)]
Months = Annotated[tuple[Month, ...], Field(min_length=1), BeforeValidator(_months)]


class Pair(Strict):
    """Two thresholds, in the property's canonical unit (per hour for a rate); absent = not tested."""

    suspect: Positive | None = None
    fail: Positive | None = None


class Spike(Pair):
    """Thresholds of a spike, and how its height is measured."""

    method: Literal["average", "differential"] = "average"


class FlatLine(Strict):
    """How long a value may stay within ``tolerance`` (strictly less is flat)."""

    tolerance: Positive | None = None
    suspect_s: Seconds | None = None
    fail_s: Seconds | None = None


class Gap(Strict):
    """Times without a fresh reading, after which the next one is suspect or fails."""

    suspect_s: Seconds | None = None
    fail_s: Seconds | None = None


class Attenuated(Strict):
    """The least that a signal must move within a window.

    ``measure`` is the standard deviation (of the population) or the range (largest − smallest). Nothing is said before
    the window holds ``min_readings``; half of those that the declared interval lets expect when that is not given.
    """

    suspect: Positive | None = None
    fail: Positive | None = None
    window_s: Seconds = 86400.0
    measure: Literal["std", "range"] = "std"
    min_readings: Annotated[int, Field(ge=2, le=100_000)] | None = None


class Climate(Strict):
    """What is usual in some months, at all depths or some (m, positive down; of channels whose depth is declared)."""

    months: Months
    suspect: Range
    fail: Range | None = None
    depth: Range | None = None


COMPARED = ("mean", "energy", "rms")
"""Kinds of aggregation of the properties whose means can be compared between stations."""


class Neighbour(Strict):
    """How far the mean of a period may be from the median of the nearest stations of the network.

    The limit is ``suspect``, or ``share`` of the median where that is more; without ``suspect`` nothing is tested.
    Nothing is said with fewer than ``minimum`` neighbours within ``radius_km`` that have a mean.
    """

    suspect: Positive | None = None
    share: Annotated[float, Field(ge=0, le=10)] = 0.0
    radius_km: Positive = 10.0
    minimum: Annotated[int, Field(ge=2, le=8)] = 3


class LimitSpec(Strict):
    """Quality limits of one property, canonical unit, bounds inclusive; what is absent is inherited."""

    range: Range | None = None
    suspect: Range | None = None
    rate_per_h: Pair | None = None
    spike: Spike | None = None
    flat_line: FlatLine | None = None
    gap: Gap | None = None
    attenuated: Attenuated | None = None
    climatology: tuple[Climate, ...] | None = None
    neighbour: Neighbour | None = None


class Limits(NamedTuple):
    """Quality limits of one series, canonical unit; infinite where nothing is tested.

    Attributes:
        fail_min: values below fail.
        fail_max: values above fail.
        suspect_min: values below are suspect.
        suspect_max: values above are suspect.
        rate_suspect_per_h: change per hour beyond which a value is suspect.
        rate_fail_per_h: change per hour beyond which a value fails.
        spike_suspect: height of a spike beyond which a value is suspect.
        spike_fail: the same, beyond which it fails.
        spike_differential: the height is the smaller step to a neighbour, not the distance to the mean of both.
        flat_tolerance: a range below this is flat.
        flat_suspect_s: flat for so many seconds is suspect.
        flat_fail_s: flat for so many seconds fails.
        gap_suspect_s: the reading after more seconds without one is suspect.
        gap_fail_s: the same, beyond which it fails.
        attenuated: what a signal must move; None: not tested.
        climatology: what is usual, later ones over earlier ones.
        neighbour: how far from the stations around; None: not tested.
    """

    fail_min: float = -math.inf
    fail_max: float = math.inf
    suspect_min: float = -math.inf
    suspect_max: float = math.inf
    rate_suspect_per_h: float = math.inf
    rate_fail_per_h: float = math.inf
    spike_suspect: float = math.inf
    spike_fail: float = math.inf
    spike_differential: bool = False
    flat_tolerance: float = 0.0
    flat_suspect_s: float = math.inf
    flat_fail_s: float = math.inf
    gap_suspect_s: float = math.inf
    gap_fail_s: float = math.inf
    attenuated: Attenuated | None = None
    climatology: tuple[Climate, ...] = ()
    neighbour: Neighbour | None = None

    @classmethod
    def of(cls, spec: LimitSpec, plausible: tuple[float, float]) -> Limits:
        """Turn merged limits into what the pass looks up.

        Args:
            spec: all layers laid over each other.
            plausible: the dictionary's range, taken where ``range`` is not given.
        """
        fail_min, fail_max = spec.range or plausible
        suspect_min, suspect_max = spec.suspect or (-math.inf, math.inf)
        rate, spike = spec.rate_per_h or Pair(), spec.spike or Spike()
        flat, gap, moves = spec.flat_line or FlatLine(), spec.gap or Gap(), spec.attenuated
        return cls(
            fail_min=fail_min,
            fail_max=fail_max,
            suspect_min=suspect_min,
            suspect_max=suspect_max,
            rate_suspect_per_h=_or_none(rate.suspect),
            rate_fail_per_h=_or_none(rate.fail),
            spike_suspect=_or_none(spike.suspect),
            spike_fail=_or_none(spike.fail),
            spike_differential=spike.method == "differential",
            flat_tolerance=flat.tolerance or 0.0,
            flat_suspect_s=_or_none(flat.suspect_s),
            flat_fail_s=_or_none(flat.fail_s),
            gap_suspect_s=_or_none(gap.suspect_s),
            gap_fail_s=_or_none(gap.fail_s),
            attenuated=moves if moves and (moves.suspect or moves.fail) else None,
            climatology=spec.climatology or (),
            neighbour=spec.neighbour if spec.neighbour and spec.neighbour.suspect else None,
        )


def contradiction(spec: LimitSpec, plausible: tuple[float, float], agg: str) -> str | None:
    """Return why merged limits can never be met, or None.

    Args:
        spec: all layers laid over each other.
        plausible: the dictionary's range of the property.
        agg: how the property is aggregated.
    """
    low, high = spec.range or plausible
    if spec.suspect and not (low <= spec.suspect[0] and spec.suspect[1] <= high):
        bounds = f"{[low, high]} (own, inherited or plausible)"
        return f"须在范围之内 / suspect {list(spec.suspect)} must lie inside range {bounds}"
    order = (
        ("rate_per_h", spec.rate_per_h and (spec.rate_per_h.suspect, spec.rate_per_h.fail)),
        ("spike", spec.spike and (spec.spike.suspect, spec.spike.fail)),
        ("flat_line", spec.flat_line and (spec.flat_line.suspect_s, spec.flat_line.fail_s)),
        ("gap", spec.gap and (spec.gap.suspect_s, spec.gap.fail_s)),
        ("attenuated", spec.attenuated and (spec.attenuated.fail, spec.attenuated.suspect)),
    )
    for name, pair in order:
        if pair and pair[0] is not None and pair[1] is not None and pair[0] > pair[1]:
            first, second = ("fail", "suspect") if name == "attenuated" else ("suspect", "fail")
            return f"须由小到大 / {name}: {first} must not be above {second}"
    if spec.neighbour and agg not in COMPARED:
        return f"此要素不能取平均 / neighbour: {agg} values have no mean to compare; only {', '.join(COMPARED)}"
    return _incomplete(spec)


def _incomplete(spec: LimitSpec) -> str | None:
    flat = spec.flat_line
    if flat and (flat.suspect_s or flat.fail_s) and not flat.tolerance:
        return "须有 tolerance / flat_line: needs a tolerance"
    for one in spec.climatology or ():
        if one.fail and not (one.fail[0] <= one.suspect[0] and one.suspect[1] <= one.fail[1]):
            return f"须在 fail 之内 / climatology: suspect {list(one.suspect)} must lie inside fail {list(one.fail)}"
    return None


def _or_none(limit: float | None) -> float:
    """Return a threshold that nothing exceeds where none is given."""
    return math.inf if limit is None else limit
