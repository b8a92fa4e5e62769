"""What one partition of the ordered pass tells the first, where situations are decided: transitions, as a row of raw.

They are told at least once: a pass that was killed tells those of the same frame again, and :class:`Heard` knows by the
frame's offset. Nothing is told that no situation of the catalogue looks at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from ingest.raw import command_row
from processors.alerts.incidents import ENDED, STANDING
from processors.alerts.places import Key, Scope
from qingtu.catalogue_rules import SituationRule
from qingtu.contracts import Transition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from qingtu.catalogue import Catalogue

TRANSITIONS: Final = "transitions"
"""Name of the command."""
_WHO: Final = "system"
_TOLD: Final = (
    "alert", "rule", "station", "property", "channel", "level", "state", "time_us", "opened_us", "value",
)  # fmt: skip


class Watched:
    """Which transitions the situations of a catalogue look at."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._scopes = [Scope(rule, catalogue) for rule in catalogue.rules if isinstance(rule, SituationRule)]

    def among(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Return those that are to be told."""
        if not self._scopes:
            return []
        states = (*STANDING, *ENDED)
        return [t for t in transitions if t.state in states and any(s.counts(Key.of(t)) for s in self._scopes)]


def told(transitions: Sequence[Transition], partition: int, offset: int, clock_us: int) -> pa.RecordBatch:
    """Write transitions as a command row of raw.

    Args:
        transitions: at least one, in order.
        partition: in which they were decided.
        offset: of the raw frame that caused them.
        clock_us: of that frame, µs UTC.
    """
    rows = [[getattr(t, name) for name in _TOLD] for t in transitions]  # a value that is none becomes null in JSON
    return command_row(clock_us, TRANSITIONS, _WHO, {"partition": partition, "offset": offset, "transitions": rows})


class Heard:
    """How far each partition was heard; to be saved with the state."""

    def __init__(self, saved: Mapping[str, int] | None = None) -> None:
        self.offsets: dict[str, int] = dict(saved or {})

    def read(self, args: Mapping[str, Any], at_us: int, revision: int) -> list[Transition]:
        """Read what :func:`told` wrote; nothing when it was heard before.

        Args:
            args: of the command.
            at_us: when it was told, µs UTC: that is when these transitions are known here.
            revision: position of the row that tells them.
        """
        teller, offset = str(args["partition"]), args["offset"]
        if offset <= self.offsets.get(teller, -1):
            return []
        self.offsets[teller] = offset
        rows = [dict(zip(_TOLD, one, strict=True)) for one in args["transitions"]]
        for row in rows:
            row["value"] = math.nan if row["value"] is None else row["value"]
        return [Transition(**row, limit=math.nan, revision=revision, known_us=at_us, evidence={}) for row in rows]
