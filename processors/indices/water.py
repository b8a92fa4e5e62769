"""Classes of water by single factors: each item has a class, the worst one is that of the section.

Shared by the standards of surface water and sea water; what they decide differently is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from processors.indices.contract import ITEMS_MISSING, MISSING, Exceeding, Input, Level, Result
from processors.indices.tables import weakest
from qingtu.properties import load_properties
from qingtu.units import conversion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processors.indices.contract import Period


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a standard.

    Attributes:
        key: its short name in the data file.
        prop: property that measures it.
        unit: of the limits.
        bounds: by class, (lower, upper) bound; None where there is none.
        strict: the lower bound itself is not good enough.
        plain: the item has an upper bound alone, so that it has a multiple.
    """

    key: str
    prop: str
    unit: str
    bounds: tuple[tuple[Decimal | None, Decimal | None], ...]
    strict: bool
    plain: bool

    def meets(self, value: Decimal, number: int) -> bool:
        """Say whether a value in the item's unit is good enough for a class (1 is the best)."""
        low, high = self.bounds[number - 1]
        above = low is None or value > low or (value == low and not self.strict)
        return above and (high is None or value <= high)

    def class_of(self, value: Decimal) -> int:
        """Return the best class that a value meets; one more than the last class when it meets none."""
        return next((n for n in range(1, len(self.bounds) + 1) if self.meets(value, n)), len(self.bounds) + 1)

    def exceeding(self, value: Decimal, number: int) -> Exceeding:
        """Return how a value that does not meet a class exceeds it."""
        low, high = self.bounds[number - 1]
        limit = high if high is not None and value > high else low
        assert limit is not None
        return Exceeding(self.prop, value, limit, (value - limit) / limit if self.plain else None)


def items_of(rows: Mapping[str, Mapping[str, Any]], classes: int, *, lake: bool = False) -> list[Item]:
    """Read the items that a property measures from a data file's block.

    Args:
        rows: the items.
        classes: how many.
        lake: take the column of lakes and reservoirs, and the items that are for them alone.
    """
    found = []
    bounds: list[tuple[Decimal | None, Decimal | None]]
    for key, row in rows.items():
        if row["property"] is None or (row.get("lakes_only") and not lake):
            continue
        if "limits" in row:
            limits = [
                None if n is None else Decimal(n) for n in (row.get("limits_lake") if lake else None) or row["limits"]
            ]
            bounds = [(None, n) if row["direction"] == "max" else (n, None) for n in limits]
        else:
            ranges = row.get("ranges") or [row["range"]] * classes
            bounds = [(Decimal(low), Decimal(high)) for low, high in ranges]
        plain = row.get("direction") == "max"
        found.append(Item(key, row["property"], row["unit"], tuple(bounds), row.get("strict", False), plain))
    return found


def in_unit(value: Decimal, prop: str, unit: str) -> Decimal:
    """Turn a value in its property's unit into the unit of a limit; ratios of units are powers of ten here.

    >>> in_unit(Decimal("0.05"), "mercury", "mg/L")
    Decimal('0.00005')
    """
    spec = load_properties()[prop]
    if spec.unit == unit:
        return value
    return value / Decimal(repr(conversion(spec, unit).scale))


@dataclass(frozen=True, slots=True)
class Judged:
    """One item of a station, judged.

    Attributes:
        item: what was judged.
        value: in the item's unit.
        number: class.
    """

    item: Item
    value: Decimal
    number: int


def judge(period: Period, items: Sequence[Item]) -> tuple[list[Judged], list[Input]]:
    """Return the judged items of a station, and all figures of those that it measures."""
    judged, inputs = [], []
    for item in items:
        if item.prop not in period.measured:
            continue
        figure = period.figure(item.prop)
        inputs.append(figure)
        if figure.good is not None:
            value = in_unit(figure.good, item.prop, item.unit)
            judged.append(Judged(item, value, item.class_of(value)))
    return judged, inputs


def result_of(
    rule: Mapping[str, Any],
    period: Period,
    judged: Sequence[Judged],
    inputs: Sequence[Input],
    *,
    apart: Sequence[Judged] = (),
    confidence: Sequence[str] = (),
) -> Result:
    """Make the result of a section: class, what decides it, and what exceeds the class that it must meet.

    Args:
        rule: the data file.
        period: of the station; its ``water_class`` is what must be met.
        judged: items that take part in the class.
        inputs: figures of all items that the station measures.
        apart: items that are told but take no part in the class.
        confidence: of what was used beside limits and the rule of the worst item.
    """
    classes, required = rule["classes"], period.station.water_class
    missing = [figure.name for figure in inputs if figure.good is None]
    details: dict[str, Any] = {
        "classes": {one.item.prop: _name(classes, one.number) for one in judged},
        "apart": {one.item.prop: _name(classes, one.number) for one in apart},
        "missing": missing,
    }
    worst = max((one.number for one in judged), default=None)
    exceeding: list[Exceeding] = []
    if required in classes:
        details["required"] = required
        wanted = classes.index(required) + 1
        exceeding = [one.item.exceeding(one.value, wanted) for one in (*judged, *apart) if one.number > wanted]
        if worst is not None:
            details["complies"] = worst <= wanted
    return Result(
        value=None if worst is None else Decimal(worst),
        level=None if worst is None else level_of(rule, worst),
        valid=worst is not None and not missing,
        reason=MISSING if worst is None else ITEMS_MISSING if missing else "",
        standard=rule["standard"],
        edition=rule["edition"],
        confidence=weakest(rule["limits"]["confidence"], rule["section"]["confidence"], *confidence),
        inputs=tuple(inputs),
        primary=tuple(one.item.prop for one in judged if one.number == worst and one.number > 1),
        exceeding=tuple(exceeding),
        details=details,
    )


def _name(classes: Sequence[str], number: int) -> str:
    return classes[number - 1] if number <= len(classes) else f">{classes[-1]}"


def level_of(rule: Mapping[str, Any], number: int) -> Level:
    """Return name, colour and use of a class."""
    row, uses = rule["display"]["rows"][number - 1], rule["uses"]
    status = (f"{row['status_zh']}；", f"{row['status_en'].capitalize()}; ") if "status_zh" in row else ("", "")
    advice_zh = f"{status[0]}适用于：{uses['zh'][number - 1]}"
    advice_en = f"{status[1]}fit for: {uses['en'][number - 1]}"
    return Level(number, row["zh"], row["en"], row["hex"], False, advice_zh, advice_en)
