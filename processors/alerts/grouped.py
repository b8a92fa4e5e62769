"""Alerts on more than one station: a route or a network. They name no station; their evidence names all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from processors.alerts.batch import alert_id
from processors.plan import carry
from qingtu.catalogue_words import LEVELS
from qingtu.contracts import Transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue_rules import OneLevel

STATE: Final = np.dtype(
    [("opened", "<i8"), ("acknowledged", "u1"), ("since", "<i8"), ("until", "<i8"), ("told", "<i8")]
)


class Group(NamedTuple):
    """What one alert is about: a rule on a route or network, as far as its stations live in this partition.

    Attributes:
        rule: of the catalogue.
        name: of the route or network.
        stations: int64 (n,), numbers of the plan; never empty.
    """

    rule: OneLevel
    name: str
    stations: NDArray[np.int64]

    def key(self) -> tuple[str, str]:
        """Return what this is known by across catalogues."""
        return self.rule.id, self.name


class Book:
    """The alerts of all groups of a kind.

    Attributes:
        groups: what they are about.
        state: (groups,) of :data:`STATE`. ``opened`` of 0: none stands; ``since``: when what it tells began at the
            earliest, ``until``: at the latest, 0: it did not; ``told``: when its stations were last named.
    """

    def __init__(self, groups: Sequence[Group], partition: int) -> None:
        self.groups = list(groups)
        self.state = np.zeros(len(self.groups), STATE)
        self._partition = partition

    def adopt(self, old: Book, at_us: int, revision: int) -> tuple[NDArray[np.int64], list[Transition]]:
        """Take over from the book of another catalogue.

        Returns:
            for each group its number in ``old`` or -1, and the closing of alerts whose group is gone.
        """
        number = {group.key(): g for g, group in enumerate(old.groups)}
        taken = np.array([number.get(group.key(), -1) for group in self.groups], np.int64)
        self.state = carry(old.state, taken, self.state)
        gone = set(old.standing()) - set(taken.tolist())
        return taken, [old.resolve(g, at_us, revision, why="catalogue changed") for g in sorted(gone)]

    def standing(self) -> list[int]:
        """Return the groups with an open alert."""
        found: list[int] = np.flatnonzero(self.state["opened"]).tolist()
        return found

    def ident(self, g: int) -> str:
        """Return the id of the alert that stands."""
        rule, name = self.groups[g].key()
        # Each partition tells of its own stations: of one network there may be an alert in each.
        return alert_id(rule, "", name, str(self._partition), int(self.state["opened"][g]))

    def open(self, g: int, at_us: int, revision: int, **evidence: Any) -> Transition:
        """Open the alert of a group."""
        state = self.state[g]
        state["opened"], state["acknowledged"], state["told"] = at_us, 0, at_us
        return self._step(g, "open", at_us, revision, evidence)

    def name_again(self, g: int, at_us: int, revision: int, **evidence: Any) -> Transition:
        """Say what has changed about an alert that stands; its state stays."""
        self.state["told"][g] = at_us
        state = "acknowledged" if self.state["acknowledged"][g] else "open"
        return self._step(g, state, at_us, revision, evidence)

    def resolve(self, g: int, at_us: int, revision: int, **evidence: Any) -> Transition:
        """End the alert of a group."""
        done = self._step(g, "resolved", at_us, revision, evidence)
        self.state[g] = 0
        return done

    def command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert; None when it is not one of these."""
        for g in self.standing():
            if self.ident(g) == alert:
                if name == "acknowledge":
                    self.state["acknowledged"][g] = 1
                state = {"acknowledge": "acknowledged", "comment": "comment"}[name]
                return self._step(g, state, at_us, revision, {})._replace(who=who, note=note)
        return None

    def _step(self, g: int, state: str, at_us: int, revision: int, evidence: dict[str, Any]) -> Transition:
        rule = self.groups[g].rule
        level = 0 if state == "resolved" else LEVELS.index(rule.level) + 1
        return Transition(
            self.ident(g), rule.id, "", "", "", level, state, at_us, int(self.state["opened"][g]), np.nan, np.nan,
            revision, at_us, evidence,
        )  # fmt: skip
