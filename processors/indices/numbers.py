"""Decimal arithmetic of the standards: what floats made is made exact once, then rounded as the rule says."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from typing import Final

_KEPT: Final = Decimal("1e-9")
_ONE: Final = Decimal(1)
_WIDE: Final = Context(prec=400)
"""Wide enough to round any float64: a figure may be absurd, an index does not stop at it."""


def exact(value: float | Decimal) -> Decimal:
    """Return a figure without the noise of binary arithmetic: rounded to nine decimals.

    A mean of 35.5 may come as 35.49999999999999; a rule that rounds would make another number of it. Beyond 28 digits
    the value is rounded to these.

    >>> exact(0.1 + 0.2)
    Decimal('0.3')
    """
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    return number.quantize(_KEPT, ROUND_HALF_EVEN, _WIDE).normalize(_WIDE) + 0


def _places(places: int) -> Decimal:
    return _ONE.scaleb(-places)


def half_even(value: Decimal, places: int) -> Decimal:
    """Round by GB/T 8170: to the nearest, a half to the even digit.

    >>> half_even(Decimal("36.5"), 0), half_even(Decimal("35.5"), 0), half_even(Decimal("0.25"), 1)
    (Decimal('36'), Decimal('36'), Decimal('0.2'))
    """
    return value.quantize(_places(places), ROUND_HALF_EVEN, _WIDE)


def half_up(value: Decimal, places: int = 0) -> Decimal:
    """Round to the nearest, a half away from zero, as US EPA does (125.5 gives 126)."""
    return value.quantize(_places(places), ROUND_HALF_UP, _WIDE)


def up(value: Decimal) -> Decimal:
    """Round up to an integer.

    >>> up(Decimal("51.25")), up(Decimal(51))
    (Decimal('52'), Decimal('51'))
    """
    return value.to_integral_value(ROUND_CEILING, _WIDE)


def cut(value: Decimal, places: int) -> Decimal:
    """Cut decimals off.

    >>> cut(Decimal("35.49"), 1)
    Decimal('35.4')
    """
    return value.quantize(_places(places), ROUND_DOWN, _WIDE)


def between(value: Decimal, low: tuple[Decimal, Decimal], high: tuple[Decimal, Decimal]) -> Decimal:
    """Return the straight line through two points at ``value``.

    There is one division and it comes last, so that a result which is an integer comes out as one.

    Args:
        value: where.
        low: (value, result) of one point.
        high: (value, result) of the other.

    >>> between(Decimal(36), (Decimal(35), Decimal(50)), (Decimal(60), Decimal(100)))
    Decimal('52')
    """
    (x0, y0), (x1, y1) = low, high
    return ((y1 - y0) * (value - x0) + y0 * (x1 - x0)) / (x1 - x0)
