"""Plays a scenario on a simulated clock and holds alerts, incidents, flags and figures against its truth.

Everything from message to figure is the real one (:mod:`simulators.stage`) with the catalogue that is given. So rules,
limits and attributes can be tried on stories before anything is at stake.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from qingtu.clock import HOUR
from simulators.scenarios.scenario import Staged
from simulators.signal import LOCAL_OFFSET_US
from simulators.stage import Stage
from simulators.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qingtu.catalogue import Catalogue
    from qingtu.settings import Settings
    from simulators.scenarios.scenario import Expected, ExpectedFigure, ExpectedFlag, Scenario, Story
    from simulators.stage import FlagCount

_YEAR: Final = 2026
_BEFORE_US: Final = 2 * HOUR
"""The city runs so long before the story begins: checks and rules with memory know what is usual."""
Verdict = Literal["expected", "missed", "wrong"]


@dataclass(frozen=True, slots=True)
class Raised:
    """One alert of a rehearsal.

    Attributes:
        rule: id.
        station: id, "" for an alert on a network or route.
        property: of the alert, "" when it is of the whole station.
        level: highest that it reached, 1 blue … 4 red.
        opened_h: hours after the start of the story.
        reached_h: when it reached that level.
        ended_h: when it was resolved or withdrawn; None: it still stands.
        withdrawn: it was taken back.
        stations: that an alert on a network or route tells of, or that a situation was made of in the end.
    """

    rule: str
    station: str
    property: str
    level: int
    opened_h: float
    reached_h: float
    ended_h: float | None
    withdrawn: bool
    stations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figured:
    """What became of a figure that the story names.

    Attributes:
        wanted: as the story has it.
        value: as it was published; None when there is none.
        level: number of its class or level; None where it has none.
        reason: why it does not hold; ``absent`` when there is no figure.
        verdict: ``missed``: it does not hold; ``wrong``: it holds and is not as the story wants it.
    """

    wanted: ExpectedFigure
    value: float | None
    level: int | None
    reason: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Flagged:
    """A series that a quality check found suspect or failing.

    Attributes:
        station: id.
        property: key.
        check: key.
        readings: how many.
        first_h: time of the first of them, hours after the start of the story.
        last_h: of the last.
    """

    station: str
    property: str
    check: str
    readings: int
    first_h: float
    last_h: float


@dataclass(slots=True)
class Judgement:
    """What came of a story, held against what had to.

    Attributes:
        raised: all alerts at the story's stations, those on networks and routes that tell of one, and all situations.
        missed: what was expected and did not come, not in time, or with another highest level.
        false: what was raised and not expected.
        figures: what became of each figure that the story names.
        flags: what quality control found.
        flags_missed: what it had to find and did not.
        flags_false: what it found and had not to.
        readings: how many came.
        flagged: of these, how many were found suspect or failed.
    """

    raised: list[Raised] = field(default_factory=list)
    missed: list[Expected] = field(default_factory=list)
    false: list[Raised] = field(default_factory=list)
    figures: list[Figured] = field(default_factory=list)
    flags: list[Flagged] = field(default_factory=list)
    flags_missed: list[ExpectedFlag] = field(default_factory=list)
    flags_false: list[Flagged] = field(default_factory=list)
    readings: int = 0
    flagged: int = 0

    @property
    def right(self) -> bool:
        """Nothing was missed, nothing false, no figure other than it must be."""
        unexpected = (self.missed, self.false, self.flags_missed, self.flags_false)
        return not any(unexpected) and all(one.verdict == "expected" for one in self.figures)


def start_of(scenario: Scenario) -> int:
    """Return when a scenario begins: local midnight in the middle of its month, µs UTC."""
    day = datetime(_YEAR, scenario.month, 15, tzinfo=UTC)
    return round(day.timestamp()) * 1_000_000 - LOCAL_OFFSET_US


def rehearse(
    scenario: Scenario,
    catalogue: Catalogue,
    settings: Settings,
    *,
    seed: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Judgement:
    """Play a scenario and judge what came of it.

    Args:
        scenario: what happens.
        catalogue: stations, limits and rules.
        settings: routes, limits of the pass, grace of figures.
        seed: of all that is random.
        progress: is told the share that is done.

    Raises:
        LookupError: the catalogue has no stations that could tell the story.
    """
    start_us = start_of(scenario)
    staged = Staged(scenario.tell(catalogue), start_us, seed)
    situations = {rule.id for rule in catalogue.rules if rule.kind == "situation"}
    from_us = start_us - _BEFORE_US
    with closing(Stage(catalogue, settings)) as stage:
        for now_us in stage.play(World(catalogue, seed, staged=staged), from_us, staged.end_us):
            if progress is not None:
                progress((now_us - from_us) / (staged.end_us - from_us))
        found = Judgement(readings=stage.readings, flagged=stage.flagged)
        _judge_alerts(found, staged.story, _raised(stage.transitions, start_us), situations)
        _judge_flags(found, staged.story, stage.flags, start_us)
        found.figures = [_judge_figure(one, stage, start_us) for one in staged.story.figures]
    return found


def _judge_alerts(found: Judgement, story: Story, raised: list[Raised], situations: set[str]) -> None:
    """Hold what was raised against the story."""
    mine = set(story.stations)
    found.raised = [one for one in raised if {one.station, *one.stations} & mine or one.rule in situations]
    found.missed = [one for one in story.expected if not any(_answers(one, other) for other in found.raised)]
    found.false = [
        one for one in found.raised if not one.withdrawn and not any(_names(other, one) for other in story.expected)
    ]


def _judge_flags(
    found: Judgement, story: Story, flags: Mapping[tuple[str, str, str], FlagCount], start_us: int
) -> None:
    """Hold what quality control found against the story."""
    found.flags = [
        Flagged(*key, one.readings, (one.first_us - start_us) / HOUR, (one.last_us - start_us) / HOUR)
        for key, one in sorted(flags.items())
    ]
    found.flags_missed = [one for one in story.flags if not any(_covers(one, other) for other in found.flags)]
    found.flags_false = [one for one in found.flags if not any(_covers(other, one) for other in story.flags)]


def _covers(expected: ExpectedFlag, found: Flagged) -> bool:
    same = (found.station, found.property, found.check) == (expected.station, expected.property, expected.check)
    return same and expected.from_h <= found.first_h and found.last_h <= expected.to_h


def _raised(transitions: list[dict[str, Any]], start_us: int) -> list[Raised]:
    alerts: dict[str, list[dict[str, Any]]] = {}
    for row in transitions:
        alerts.setdefault(row["alert"], []).append(row)
    out = []
    for rows in alerts.values():
        top = max(rows, key=lambda row: row["level"])
        ends = [row for row in rows if row["state"] in ("resolved", "withdrawn")]
        out.append(
            Raised(
                top["rule"], top["station"], top["property"], top["level"], (rows[0]["known_us"] - start_us) / HOUR,
                (top["known_us"] - start_us) / HOUR, (ends[-1]["known_us"] - start_us) / HOUR if ends else None,
                bool(ends) and ends[-1]["state"] == "withdrawn",
                tuple(orjson.loads(rows[-1]["evidence"]).get("stations", ())),
            )
        )  # fmt: skip
    return sorted(out, key=lambda one: one.opened_h)


def _answers(expected: Expected, raised: Raised) -> bool:
    return (
        _names(expected, raised)
        and raised.level == expected.level
        and raised.reached_h <= expected.to_h
        and (not expected.stations or set(expected.stations) == set(raised.stations))
    )


def _names(expected: Expected, raised: Raised) -> bool:
    """Return whether an alert is one that the story speaks of: its rule, its station, its time."""
    return (raised.rule, raised.station) == (
        expected.rule, expected.station
    ) and expected.from_h <= raised.opened_h <= expected.to_h  # fmt: skip


def _judge_figure(wanted: ExpectedFigure, stage: Stage, start_us: int) -> Figured:
    """Hold one figure against the story."""
    key = (wanted.station, wanted.property, "main")
    found = stage.figure(key, wanted.what, start_us + round(wanted.at_h * HOUR))
    if found is None or not found.valid or found.value is None:
        value, level, reason = (None, None, "absent") if found is None else (found.value, found.level, found.reason)
        return Figured(wanted, value, level, reason, "missed" if wanted.holds else "expected")
    right = wanted.holds and wanted.fits(found.value, found.level)
    return Figured(wanted, found.value, found.level, "", "expected" if right else "wrong")
