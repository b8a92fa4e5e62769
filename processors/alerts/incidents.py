"""The book of one situation rule: the alerts that it may be made of, and the incidents that stand.

Of each rule on each series the newest alert counts, so the book is bounded by what the catalogue can raise; timelines
keep their beginning and their end. Nothing here depends on when transitions are looked at, only on their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from processors.alerts.batch import alert_id
from processors.alerts.ladder import Moment
from processors.alerts.places import Key, Scope
from processors.alerts.timeline import Step, Timeline
from qingtu.catalogue_words import LEVELS
from qingtu.clock import HOUR, SECOND
from qingtu.contracts import Transition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STANDING: Final = ("open", "acknowledged")
ENDED: Final = ("resolved", "withdrawn")
_ALONE: Final = 8
"""Steps that are kept of an alert that is in no incident."""
_TIMELINE: Final = 48
_LISTED: Final = 64
"""Stations and alerts that evidence names at most."""
_LATE_US: Final = HOUR
"""So much later than usual may an alert be told and still find those that ended before it."""


@dataclass(slots=True)
class Seen:
    """The newest alert of its key.

    Attributes:
        opened_us: as it says itself.
        level: that it has; 0: it has ended.
        before: (id, opened_us) of the alert before it, which counts again when this one is withdrawn.
        incident: id of the one that it is in, "" for none.
        timeline: what it did, until it is in an incident.
    """

    alert: str
    opened_us: int
    level: int
    before: tuple[str, int] | None = None
    incident: str = ""
    timeline: Timeline = field(default_factory=lambda: Timeline(_ALONE))


@dataclass(slots=True)
class Incident:
    """One situation that stands.

    Attributes:
        station: that began it.
        began_us: opening of the first alert.
        opened_us: opening of the alert that made it one.
        calm_us: since when none of its alerts stands, as it became known; 0: one does.
    """

    id: str
    station: str
    began_us: int
    opened_us: int
    level: int = 0
    acknowledged: bool = False
    calm_us: int = 0
    timeline: Timeline = field(default_factory=lambda: Timeline(_TIMELINE))


class Book:
    """All alerts and incidents of one rule."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._rule = scope.rule
        self._within_us = round(scope.rule.within_s * SECOND)
        self._early_us = round(scope.rule.early_s * SECOND)
        self._fixed = 0 if scope.rule.level is None else LEVELS.index(scope.rule.level) + 1
        self._seen: dict[Key, Seen] = {}
        self._incidents: dict[str, Incident] = {}

    def take(self, t: Transition) -> Transition | None:
        """Look at a transition of another rule; return what it makes of an incident."""
        key = Key.of(t)
        if t.state not in (*STANDING, *ENDED) or not self._scope.counts(key):
            return None
        seen = self._seen.get(key)
        if seen is not None and seen.alert == t.alert:
            return self._moved(key, seen, t)
        return self._began(key, seen, t) if t.state in STANDING else None

    def _moved(self, key: Key, seen: Seen, t: Transition) -> Transition | None:
        """Take up what an alert that is known does."""
        if t.state in STANDING and t.level == seen.level:
            return None  # it asks for attention again, or somebody took note
        seen.level = t.level if t.state in STANDING else 0
        incident = self._incidents.get(seen.incident)
        (seen if incident is None else incident).timeline.add(Step.of(t))
        if t.state == "withdrawn":
            del self._seen[key]
            if seen.before is not None:
                self._seen[key] = Seen(*seen.before, 0, None, seen.incident, seen.timeline)
            if incident is not None and self._group(self._members(incident)) is None:
                return self._end(incident, "withdrawn", t, why="alerts were withdrawn")
        return None if incident is None else self._step(incident, t)

    def _began(self, key: Key, old: Seen | None, t: Transition) -> Transition | None:
        """Take up a new alert: it goes into an incident that stands, or makes one, or waits for others."""
        now = Seen(t.alert, t.opened_us, t.level)
        if old is not None:
            now.before, now.incident, now.timeline = (old.alert, old.opened_us), old.incident, old.timeline
        self._seen[key] = now
        incident = self._incidents.get(now.incident)
        if incident is not None:
            incident.timeline.add(Step.of(t))
            return self._step(incident, t)
        now.timeline.add(Step.of(t))
        incident = next((one for one in self._incidents.values() if self._joins(one, key, now)), None)
        if incident is not None:
            _put_in(incident, [now])
            return self._step(incident, t)
        return self._open(key, now, t)

    def _open(self, key: Key, now: Seen, t: Transition) -> Transition | None:
        free = {k: s for k, s in self._seen.items() if not s.incident}
        found = self._group(free, (key, now))
        if found is None:
            return None
        first, *_ = found
        began, opened = free[first].opened_us, max(free[k].opened_us for k in found)
        ident = alert_id(self._rule.id, first.station, "", "", opened)
        incident = self._incidents[ident] = Incident(ident, first.station, began, opened)
        _put_in(incident, [free.pop(k) for k in found])
        for k in _in_order(free):  # one by one: what is put in may bring another, such as a source above it
            if self._joins(incident, k, free[k]):
                _put_in(incident, [free[k]])
        return self._step(incident, t)

    def _group(self, among: Mapping[Key, Seen], with_it: tuple[Key, Seen] | None = None) -> list[Key] | None:
        """Return the first alerts that are a situation, the one that began it in front; None when none are.

        Args:
            among: alerts to choose from.
            with_it: one of them that must be in it.
        """
        if len({key.station for key in among}) < self._rule.stations:
            return None
        ordered = _in_order(among)
        for first in ordered:
            if not self._scope.begins(first) or (with_it and not self._near(first, among[first], *with_it)):
                continue
            near = [key for key in ordered if self._near(first, among[first], key, among[key])]
            flows = self._rule.place != "downstream" or any(
                self._scope.follows(key) and key.station != first.station for key in near
            )
            if flows and len({key.station for key in near}) >= self._rule.stations:
                return [first, *(key for key in near if key != first)]
        return None

    def _near(self, first: Key, begun: Seen, key: Key, seen: Seen) -> bool:
        """Say whether an alert is near, in place and time, to one that began before it."""
        after = seen.opened_us - begun.opened_us
        return -self._early_us <= after <= self._within_us and self._scope.together(first.station, key.station)

    def _joins(self, incident: Incident, key: Key, seen: Seen) -> bool:
        """Say whether an alert belongs to an incident that stands: also another source above a station of it."""
        if seen.opened_us < incident.began_us - self._within_us:
            return False
        return self._scope.together(incident.station, key.station) or (
            self._rule.place == "downstream"
            and self._scope.begins(key)
            and any(self._scope.above(key.station, one.station) for one in self._members(incident))
        )

    def _members(self, incident: Incident) -> dict[Key, Seen]:
        return {key: seen for key, seen in self._seen.items() if seen.incident == incident.id}

    def _step(self, incident: Incident, t: Transition) -> Transition:
        """Take the level of what stands; a step that changes none is a comment, which asks for nobody's attention."""
        levels = [seen.level for seen in self._members(incident).values() if seen.level]
        incident.calm_us = 0 if levels else t.known_us
        was = incident.level
        incident.level = self._fixed or max(levels, default=was)
        if incident.level > was:
            incident.acknowledged = False
        state = "comment" if incident.level == was else "acknowledged" if incident.acknowledged else "open"
        return self._tell(incident, state, Moment(t.time_us, t.revision, t.known_us))

    def _end(self, incident: Incident, state: str, cause: Transition | Moment, **why: str) -> Transition:
        """Close an incident; what still stands of a withdrawn one is free for another."""
        incident.level = 0
        done = self._tell(incident, state, Moment(cause.time_us, cause.revision, cause.known_us), **why)
        for key, seen in self._members(incident).items():
            if state == "resolved" and not seen.level:
                del self._seen[key]
            seen.incident = ""
        del self._incidents[incident.id]
        return done

    def tick(self, moment: Moment) -> list[Transition]:
        """Close what has been calm for long enough, and forget what ended too long ago to count."""
        clear_us = round(self._rule.clear_s * SECOND)
        calm = [i for i in self._incidents.values() if i.calm_us and moment.time_us - i.calm_us >= clear_us]
        out = [self._end(incident, "resolved", moment) for incident in calm]
        oldest = moment.time_us - self._within_us - self._early_us - _LATE_US
        for key in [k for k, s in self._seen.items() if not s.level and not s.incident and s.opened_us < oldest]:
            del self._seen[key]
        return out

    def close(self, moment: Moment) -> list[Transition]:
        """End all incidents: the rule is gone."""
        return [self._end(one, "resolved", moment, why="catalogue changed") for one in [*self._incidents.values()]]

    def carry(self, old: Book, moment: Moment) -> list[Transition]:
        """Go on from the book of another catalogue; what does not count any more is forgotten."""
        self._incidents = old._incidents
        self._seen = {key: seen for key, seen in old._seen.items() if self._scope.counts(key)}
        gone = [one for one in self._incidents.values() if not self._scope.together(one.station, one.station)]
        out = [self._end(one, "resolved", moment, why="catalogue changed") for one in gone]
        for incident in self._incidents.values():
            if not incident.calm_us and not any(seen.level for seen in self._members(incident).values()):
                incident.calm_us = moment.known_us
        return out

    def command(self, name: str, alert: str, moment: Moment) -> Transition | None:
        """Acknowledge or comment an incident."""
        incident = self._incidents.get(alert)
        if incident is None:
            return None
        incident.acknowledged |= name == "acknowledge"
        return self._tell(incident, {"acknowledge": "acknowledged", "comment": "comment"}[name], moment)

    def _tell(self, incident: Incident, state: str, moment: Moment, **why: str) -> Transition:
        members = self._members(incident)
        ordered = _in_order(members)
        stations = list(dict.fromkeys((incident.station, *(key.station for key in ordered))))
        evidence = {
            "place": self._rule.place, "began_us": incident.began_us, "stations": stations[:_LISTED],
            "alerts": [members[key].alert for key in ordered][:_LISTED],
            "standing": sum(seen.level > 0 for seen in members.values()),
            "timeline": [step._asdict() for step in incident.timeline.steps], "left_out": incident.timeline.left_out,
            **why,
        }  # fmt: skip
        return Transition(
            incident.id, self._rule.id, incident.station, "", "", incident.level, state, moment.time_us,
            incident.opened_us, float(len(stations)), float(self._rule.stations), moment.revision, moment.known_us,
            evidence,
        )  # fmt: skip

    def saved(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return {
            "seen": [
                [*key, s.alert, s.opened_us, s.level, s.before, s.incident, s.timeline.packed()]
                for key, s in self._seen.items()
            ],
            "incidents": [
                [i.id, i.station, i.began_us, i.opened_us, i.level, i.acknowledged, i.calm_us, i.timeline.packed()]
                for i in self._incidents.values()
            ],
        }

    def restore(self, saved: Mapping[str, Any]) -> Self:
        """Take up what :meth:`saved` returned."""
        for *key, alert, opened, level, before, incident, line in saved["seen"]:
            known = None if before is None else (before[0], before[1])
            self._seen[Key(*key)] = Seen(alert, opened, level, known, incident, Timeline.of(_ALONE, line))
        for ident, station, began, opened, level, acknowledged, calm, line in saved["incidents"]:
            timeline = Timeline.of(_TIMELINE, line)
            self._incidents[ident] = Incident(ident, station, began, opened, level, acknowledged, calm, timeline)
        return self


def _put_in(incident: Incident, alerts: Iterable[Seen]) -> None:
    for seen in alerts:
        seen.incident = incident.id
        incident.timeline.add(*seen.timeline.steps)
        incident.timeline.left_out += seen.timeline.left_out
        seen.timeline = Timeline(_ALONE)


def _in_order(alerts: Mapping[Key, Seen]) -> list[Key]:
    return sorted(alerts, key=lambda key: (alerts[key].opened_us, key))
