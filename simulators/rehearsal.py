"""Plays a scenario through the gateway's core and the ordered pass on a simulated clock, and judges the alerts.

Nothing is connected or stored: messages become raw frames as the gateway makes them, a tick comes every minute, and the
pass runs with the catalogue that is given. So rules can be tried on stories before anything is at stake.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from ingest.core import GatewayCore
from ingest.raw import command_row, raw_frame, tick_row
from ingest.routes import RouteTable
from processors.process import CONFIGURE, Process
from qingtu.clock import HOUR, MINUTE
from qingtu.records import ALERTS, PROCESSED, Flag, decode, times_of
from simulators.scenarios.scenario import Staged
from simulators.signal import LOCAL_OFFSET_US
from simulators.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Outputs
    from qingtu.settings import Settings
    from simulators.scenarios.scenario import Expected, Scenario, Story

_YEAR: Final = 2026
_STEP_US: Final = 5 * MINUTE
"""Of frames and ticks. The pass gives the same however messages are cut into frames."""
_AFTER_H: Final = 1.0
"""What is judged over the last hour may still tell of an effect so long after it."""
_BEFORE_US: Final = 2 * HOUR
"""The city runs so long before the story begins: checks and rules with memory know what is usual."""


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


@dataclass(slots=True)
class Judgement:
    """What came of a story, held against what had to.

    Attributes:
        raised: all alerts at the story's stations, those on networks and routes that tell of one, and all situations.
        missed: what was expected and did not come in time or not so high.
        false: what was raised and not expected.
        readings: how many came.
        flagged: of these, how many were found suspect or failed.
    """

    raised: list[Raised] = field(default_factory=list)
    missed: list[Expected] = field(default_factory=list)
    false: list[Raised] = field(default_factory=list)
    readings: int = 0
    flagged: int = 0

    @property
    def right(self) -> bool:
        """Nothing was missed, nothing false."""
        return not self.missed and not self.false


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
    """Play a scenario and judge the alerts.

    Args:
        scenario: what happens.
        catalogue: stations, limits and rules.
        settings: routes and limits of the pass.
        seed: of all that is random.
        progress: is told the share that is done.

    Raises:
        LookupError: the catalogue has no stations that could tell the story.
    """
    start_us = start_of(scenario)
    staged = Staged(scenario.tell(catalogue), start_us, seed)
    stage = _Stage(catalogue, settings)
    for now_us, outputs in stage.play(World(catalogue, seed, staged=staged), start_us - _BEFORE_US, staged.end_us):
        stage.collect(outputs)
        if progress is not None:
            progress((now_us - start_us + _BEFORE_US) / (staged.end_us - start_us + _BEFORE_US))
    return stage.judge(staged.story, start_us)


class _Stage:
    """Gateway core and pass, without anything around them."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        private = frozenset(network.id for network in catalogue.networks.values() if network.private)
        routes = RouteTable(settings.routes, private)
        self._catalogue = catalogue
        self._core = GatewayCore(
            routes, settings.mqtt, gateway="rehearsal", partitions=1, key=b"rehearsal", catalogue=catalogue.version
        )
        self._process = Process(lambda _: catalogue)
        self._process.restore(None)
        self._config = {
            "catalogue": catalogue.version,
            "routes": {route.name: route.decoder for route in settings.routes},
            **settings.process.model_dump(),
        }
        self._routes = [route.name for route in settings.routes]
        self._situations = {rule.id for rule in catalogue.rules if rule.kind == "situation"}
        self._offset = 0
        self._transitions: list[dict[str, Any]] = []
        self._readings = self._flagged = 0

    def play(self, world: World, from_us: int, to_us: int) -> Iterator[tuple[int, Outputs]]:
        """Yield (time, what the pass gives) for each frame of messages and each tick."""
        row = command_row(from_us, CONFIGURE, "rehearsal", self._config)
        yield from_us, self._apply(self._own(row, from_us))
        self._core.connected(from_us, session_present=True)
        for now_us in range(from_us + _STEP_US, to_us + _STEP_US, _STEP_US):
            for message in world.messages(now_us - _STEP_US, now_us):
                self._core.receive(
                    message.topic.encode(), message.payload, qos=1, dup=False, retain=False, packet_id=1,
                    properties=None, now_us=message.at_us,
                )  # fmt: skip
            while (flush := self._core.take(now_us)) is not None:
                for frame in flush.frames.values():
                    yield now_us, self._apply(frame)
                self._core.flushed(flush)
            hearing = dict.fromkeys(self._routes, from_us)
            yield now_us, self._apply(self._own(tick_row(now_us, hearing), now_us))

    def _own(self, row: Any, now_us: int) -> bytes:
        return raw_frame([row], gateway="", catalogue=self._catalogue.version, clock_us=now_us)

    def _apply(self, frame: bytes) -> Outputs:
        self._offset += 1
        return self._process.apply(decode(frame), self._offset)

    def collect(self, outputs: Outputs) -> None:
        """Keep what a frame gave."""
        if ALERTS in outputs:
            rows = decode(outputs[ALERTS]).sections["alerts"]
            times = zip(times_of(rows.column("known_at")).tolist(), times_of(rows.column("time")).tolist(), strict=True)
            for row, (known, at) in zip(rows.to_pylist(), times, strict=True):
                self._transitions.append({**row, "known_us": known, "time_us": at})
        readings = decode(outputs[PROCESSED]).get("readings") if PROCESSED in outputs else None
        if readings is not None:
            flags = readings.column("flag").to_numpy()
            self._readings += len(flags)
            self._flagged += int(((flags == Flag.SUSPECT) | (flags == Flag.FAIL)).sum())

    def judge(self, story: Story, start_us: int) -> Judgement:
        """Hold what was raised against the story."""
        found = self._raised(start_us)
        mine = set(story.stations)
        raised = [one for one in found if {one.station, *one.stations} & mine or one.rule in self._situations]
        missed = [one for one in story.expected if not any(_answers(one, other) for other in raised)]
        wanted = {(one.rule, one.station) for one in story.expected} | story.allowed
        false = [
            one
            for one in raised
            if (one.rule, one.station) not in wanted
            and not one.withdrawn
            and (one.rule in self._situations or not _tells(story, one))
        ]
        return Judgement(raised, missed, false, self._readings, self._flagged)

    def _raised(self, start_us: int) -> list[Raised]:
        alerts: dict[str, list[dict[str, Any]]] = {}
        for row in self._transitions:
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
        (raised.rule, raised.station) == (expected.rule, expected.station)
        and raised.level >= expected.level
        and expected.from_h <= raised.opened_h
        and raised.reached_h <= expected.to_h
        and (not expected.stations or set(expected.stations) == set(raised.stations))
    )


def _tells(story: Story, raised: Raised) -> bool:
    """Return whether an alert tells in other words of what the story wants to be told: place, property and time fit."""
    return any(one.station == raised.station for one in story.expected) and any(
        effect.station == raised.station
        and raised.property in ("", effect.property)
        and effect.from_h <= raised.opened_h <= effect.from_h + effect.rise_h + effect.hold_h + effect.fall_h + _AFTER_H
        for effect in story.effects
    )
