"""Noise against the limits of its zone: Ld and Ln of a local day, GB 3096-2008. Numbers: ``data/gb3096.yaml``.

Day and night levels are energy means of the hour figures of ``noise_leq`` in one calendar day: the night of a day is
its hours before the day period and those after it. A station that only sends ``noise_ld`` and ``noise_ln`` is taken
at its word.
"""

from __future__ import annotations

from decimal import Decimal
from math import fsum, log10
from typing import TYPE_CHECKING, Any, Final

from processors.indices.contract import ITEMS_MISSING, MISSING, Exceeding, Index, Input, Level, Result, largest
from processors.indices.numbers import exact, up
from processors.indices.tables import table, weakest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processors.indices.contract import Period

_MEASURED: Final = frozenset({"noise_leq", "noise_ld", "noise_ln"})


def energy_mean(levels: Sequence[Decimal]) -> Decimal:
    """Return ``10 lg(mean(10^(L/10)))`` in dB.

    >>> round(energy_mean([Decimal(60), Decimal(70)]), 2)
    Decimal('67.40')
    """
    return _energy([(float(level), 1) for level in levels])


def day_night(day: Decimal, night: Decimal, day_hours: int = 16) -> Decimal:
    """Return Ldn in dB: the energy mean of 24 hours with 10 dB added at night.

    >>> day_night(Decimal(60), Decimal(50))
    Decimal('6E+1')
    """
    return _energy([(float(day), day_hours), (float(night) + 10, 24 - day_hours)])


def _energy(levels: Sequence[tuple[float, int]]) -> Decimal:
    """Return the energy mean of (level, weight), relative to the loudest so that no level is too large to compute."""
    top = max(level for level, _ in levels)
    energy = fsum(weight * 10 ** ((level - top) / 10) for level, weight in levels)
    return exact(top + 10 * log10(energy / sum(weight for _, weight in levels)))


def _split(period: Period) -> tuple[list[int], list[int]]:
    """Return the starts of the hours of day and night of the period's local day."""
    rule = table("gb3096")["periods"]
    first = period.number("noise_day_from")
    last = period.number("noise_day_to")
    begin, end = (rule["day_from"] if first is None else first), (rule["day_to"] if last is None else last)
    hours = period.day_hours()
    day = [at for at in hours if begin <= period.local(at).hour < end]
    return day, [at for at in hours if at not in day]


def _level(period: Period, hours: Sequence[int], own: str) -> Input:
    if "noise_leq" not in period.measured:
        return period.figure(own)
    figures = [period.figure("noise_leq", "hour", at) for at in hours]
    good = [value for each in figures if (value := each.good) is not None]
    if not good:
        return Input(own, "hour_energy", None, False, MISSING)
    valid = len(good) >= up(table("gb3096")["validity"]["share"] * len(hours))
    return Input(own, "hour_energy", energy_mean(good), valid, "" if valid else "too_few")


def _limits(period: Period) -> tuple[dict[str, Decimal], list[str]]:
    """Return the limits of Ld and Ln under ``day`` and ``night``, and which of them the station sets itself."""
    rule = table("gb3096")
    zone = str(period.station.noise_class)
    existing = zone == "4b" and period.station.attributes.get("noise_existing_railway") is True
    row = rule["existing_railway"] if existing else rule["zones"][zone]
    own = {part: period.number(f"noise_limit_{part}_db") for part in ("day", "night")}
    limits = {part: Decimal(row[part]) if limit is None else limit for part, limit in own.items()}
    return limits, [part for part, limit in own.items() if limit is not None]


def evaluate(period: Period) -> Result | None:
    """Return whether a noise station complies with its zone; None without a zone or levels.

    The value is the largest excess over a limit in dB, negative when all comply.
    """
    if period.station.noise_class is None or not _MEASURED & period.measured:
        return None
    rule = table("gb3096")
    limits, own = _limits(period)
    day, night = _split(period)
    ld, ln = _level(period, day, "noise_ld"), _level(period, night, "noise_ln")
    checks: list[tuple[Input, Decimal]] = [(ld, limits["day"]), (ln, limits["night"])]
    if "noise_lmax" in period.measured:
        loudest = [period.figure("noise_lmax", "hour", at) for at in night]
        sudden = limits["night"] + rule["sudden_at_night"]
        checks.append((largest(loudest, "noise_lmax", "night_max", 1), sudden))
    known = [(each.name, each.good, limit) for each, limit in checks if each.good is not None]
    missing = [each.name for each in (ld, ln) if each.good is None]
    exceeding = [Exceeding(name, value, limit) for name, value, limit in known if value > limit]
    details: dict[str, Any] = {
        "zone": period.station.noise_class, "limits": limits, "missing": missing, "own_limits": own,
    }  # fmt: skip
    if ld.good is not None and ln.good is not None:
        details["noise_ldn"] = day_night(ld.good, ln.good, len(day))
    named = rule["levels"][bool(exceeding)]
    return Result(
        value=max((value - limit for _, value, limit in known), default=None),
        level=Level(1 + bool(exceeding), named["zh"], named["en"]) if known else None,
        valid=not missing,
        reason=MISSING if not known else ITEMS_MISSING if missing else "",
        standard=rule["standard"],
        edition=rule["edition"],
        confidence=weakest(rule["confidence"], rule["periods"]["confidence"]),
        inputs=tuple(each for each, _ in checks),
        exceeding=tuple(exceeding),
        details=details,
    )


COMPLIANCE: Final = Index(
    key="noise_excess",
    zh="声环境超标量",
    en="Noise above the limit of its zone",
    unit="dB",
    domains=frozenset({"noise", "community", "source"}),
    periods=frozenset({"day"}),
    evaluate=evaluate,
    attributes={
        "noise_day_from": "local hour at which the day period begins, 6 when not set",
        "noise_day_to": "local hour at which it ends, 22 when not set",
        "noise_limit_day_db": "limit of Ld in place of that of the zone",
        "noise_limit_night_db": "limit of Ln in place of that of the zone",
        "noise_existing_railway": "true: zone 4b beside a railway that existed before 2011 (70 / 55 dB)",
    },
)
