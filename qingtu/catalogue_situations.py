"""What situations need of several catalogue blocks: the rules that they are about, and what lies downstream of what."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from qingtu.catalogue_partial import has
from qingtu.catalogue_rules import SituationRule
from qingtu.catalogue_words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qingtu.catalogue_files import Block, Blocks
    from qingtu.catalogue_model import Station
    from qingtu.errors import Problem


def upstream_of(stations: Iterable[Station]) -> dict[str, frozenset[str]]:
    """Return for each station that lies downstream of any all those above it, next or further up; there is no loop."""
    nexts = {station.id: station.downstream_of for station in stations}
    found: dict[str, frozenset[str]] = {}
    for station, above in nexts.items():
        if above:
            seen, waiting = set[str](), list(above)
            while waiting:
                if (one := waiting.pop()) not in seen:
                    seen.add(one)
                    waiting += nexts.get(one, ())
            found[station] = frozenset(seen)
    return found


def situation_problems(blocks: Blocks, stations: tuple[set[str], bool], rules: tuple[set[str], bool]) -> list[Problem]:
    """Return what is wrong with topology and situations.

    Args:
        blocks: of the folder.
        stations: ids that are right, and whether those are all that there are.
        rules: the same.
    """
    return [*_topology(blocks, *stations), *_rules(blocks, *rules)]


def _topology(blocks: Blocks, known: set[str], complete: bool) -> list[Problem]:
    problems = []
    first: dict[str, Block[Any]] = {}
    for block in blocks.stations:
        if has(block.item, "id", "downstream_of"):
            first.setdefault(block.item.id, block)
    for block in first.values():
        for i, above in enumerate(block.item.downstream_of):
            if above not in known and complete:
                text = f"没有此站 / is not a station{nearest(above, known)}"
                problems.append(block.problem(("downstream_of", i), text, above))
    try:
        TopologicalSorter({name: block.item.downstream_of for name, block in first.items()}).prepare()
    except CycleError as error:
        below, *others = reversed(error.args[1])  # from a station to what is above it, and round to itself
        text = f"上下游成环 / goes round: {' is downstream of '.join((below, *others))}"
        problems.append(first[below].problem(("downstream_of",), text, others[0]))
    return problems


def _rules(blocks: Blocks, known: set[str], complete: bool) -> list[Problem]:
    situations = {b.item.id for b in blocks.rules if isinstance(b.item, SituationRule) and has(b.item, "id")}
    problems = []
    for block in blocks.rules:
        if not isinstance(block.item, SituationRule):
            continue
        for key in ("rules", "then"):
            for i, name in enumerate(getattr(block.item, key, None) or ()):
                if name in situations:
                    text = "情形不能由情形组成 / is a situation itself: situations are made of other rules"
                    problems.append(block.problem((key, i), text, name))
                elif name not in known and complete:
                    problems.append(block.problem((key, i), f"没有此规则 / is not a rule{nearest(name, known)}", name))
    return problems
