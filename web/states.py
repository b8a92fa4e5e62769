"""What state a station is in, and why: a pure function over what the service knows. docs/api.md has its table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Name = Literal[
    "maintenance", "link_down", "unheard", "gateway_down", "silent", "clock_wrong", "failing", "ok",
]  # fmt: skip
STATES: Final[tuple[Name, ...]] = get_args(Name)
"""In the order in which they take precedence; but a wrong clock explains why nothing was stored."""


class Standing(NamedTuple):
    """Something that holds: since when (µs UTC), and what tells of it: the id of an alert, a route, a person."""

    since_us: int | None
    by: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a station.

    Attributes:
        maintenance: it is worked on; ``by`` is the person, "" by the catalogue.
        deaf: one of its routes is not heard; ``by`` is the route.
        alerts: rule kind → the oldest alert of that kind that stands on it or names it.
        heard_us: when anything of it was last stored; None: never.
        quiet_us: how long nothing came although its routes were heard, µs.
        patience_us: how long that may be, µs.
        bad: at least half of its latest readings have flag 4 or 9.
    """

    maintenance: Standing | None = None
    deaf: Standing | None = None
    alerts: Mapping[str, Standing] = field(default_factory=dict)
    heard_us: int | None = None
    quiet_us: int = 0
    patience_us: int = 0
    bad: bool = False


class State(NamedTuple):
    """A state with its reason.

    Attributes:
        name: of :data:`STATES`.
        since_us: when it began, None where nobody knows.
        by: id of the alert, the route or the person that tells of it; None: what was received shows it.
    """

    name: Name
    since_us: int | None = None
    by: str | None = None


def state_of(facts: Facts) -> State:
    """Return the state of a station: of all that hold the one that explains most.

    What a person said comes first. Then what keeps us from knowing anything of it (its route is not heard), what it
    shares with others, what it does itself, and last what its readings are worth. A device whose clock is wrong sends,
    but nothing of it is stored: so that comes before never heard, and before silence that no alert confirms.
    """
    alerts, shown = facts.alerts, Standing(None, None)
    holds: tuple[tuple[Name, Standing | None], ...] = (
        ("maintenance", facts.maintenance),
        ("link_down", facts.deaf),
        ("unheard", shown if facts.heard_us is None and "clock_wrong" not in alerts else None),
        ("gateway_down", alerts.get("network")),
        ("silent", alerts.get("silence")),
        ("clock_wrong", alerts.get("clock_wrong")),
        ("silent", Standing(facts.heard_us, None) if facts.quiet_us > facts.patience_us else None),
        ("failing", alerts.get("quality")),
        ("failing", shown if facts.bad else None),
    )
    return next((State(name, *why) for name, why in holds if why is not None), State("ok"))
