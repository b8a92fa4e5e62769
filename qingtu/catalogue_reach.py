"""Whether a rule can ever see a reading: of a channel that its stations have of its property.

A rule may wait for its first station, and for the first instrument of its property: both are words of closed lists, in
which no slip passes. A channel is a free word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qingtu.catalogue_partial import has
from qingtu.catalogue_rules import DeviationRule, QualityRule, RateOfChangeRule, StuckRule, ThresholdRule, Where
from qingtu.catalogue_words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qingtu.catalogue_files import Block, Blocks
    from qingtu.catalogue_model import Station
    from qingtu.errors import Problem

_OF_READINGS: Final = (DeviationRule, QualityRule, RateOfChangeRule, StuckRule, ThresholdRule)


def placing(rule: Block[Any]) -> bool:
    """Return whether nothing is wrong with the words that say which stations a rule is for."""
    return has(rule.item, "where") and has(rule.item.where, *Where.model_fields)


def reach_problems(blocks: Blocks) -> Iterator[Problem]:
    """Yield rules of readings that none of their stations can have; nothing while any block has a fault."""
    if blocks.problems:
        return
    measured = _measured(blocks)
    for rule in blocks.rules:
        item = rule.item
        if not isinstance(item, _OF_READINGS) or item.property is None or item.channel is None:
            continue
        channels: set[str] = set()
        for station, found in measured.get(item.property, ()):
            if item.channel not in channels and item.where.covers(station):
                channels |= found
        if channels and item.channel not in channels:
            text = f"所指的站没有此通道 / no station that it is for has this channel of {item.property}"
            known = f"{nearest(item.channel, channels)}; there are {', '.join(sorted(channels))}"
            yield rule.problem(("channel",), text + known, item.channel)


def _measured(blocks: Blocks) -> dict[str, list[tuple[Station, set[str]]]]:
    """Return by property the stations that have it, each with its channels."""
    found: dict[str, list[tuple[Station, set[str]]]] = {}
    for block in blocks.stations:
        own: dict[str, set[str]] = {}
        for device in block.item.devices:
            for spec in device.mapping({}).values():
                own.setdefault(spec.property, set()).add(spec.channel)
        for key, channels in own.items():
            found.setdefault(key, []).append((block.item, channels))
    return found
