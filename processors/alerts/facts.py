"""What derive tells the ordered pass: figures that a rule watches, as one command row of raw.

It is told at least once: derive that was killed tells it again, and the rule kind knows by the figure's revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ingest.raw import command_row, raw_frame
from qingtu.catalogue_rules import FigureRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from qingtu.catalogue import Catalogue

FACTS: Final = "figures"
"""Name of the command."""
_WHO: Final = "system"
_Figure = TypeVar("_Figure", bound="Mapping[str, Any]")


class Fact(NamedTuple):
    """A figure as it was published.

    Attributes:
        start_us: of its period, µs UTC.
        value: canonical unit of the property, or of the index; None when there is none.
        valid: it holds by the rules of its standard.
        revision: of the figure; a correction has a greater one.
    """

    station: str
    what: str
    property: str
    channel: str
    start_us: int
    value: float | None
    valid: bool
    revision: int


class Watched:
    """Which figures are looked at by a rule of a catalogue, or of any of several.

    Attributes:
        keys: (station, what, property, channel).
    """

    def __init__(self, *catalogues: Catalogue) -> None:
        self.keys = {
            (station.id, rule.what, rule.property, rule.channel)
            for catalogue in catalogues
            for rule in catalogue.rules
            if isinstance(rule, FigureRule)
            for station in catalogue.stations.values()
            if rule.where.covers(station)
        }

    def among(self, rows: Iterable[Mapping[str, Any]]) -> list[Fact]:
        """Return the facts that rules wait for.

        Args:
            rows: figures as derive makes them: what, key (station, property, channel), start, value, valid, revision.
        """
        out = []
        for row in self.only(rows):
            station, prop, channel = row["key"]
            value = float(row["value"])
            known = value == value  # noqa: PLR0124 - NaN: there is no value
            out.append(
                Fact(
                    station, row["what"], prop, channel, row["start"], value if known else None,
                    bool(row["valid"]), row["revision"],
                )
            )  # fmt: skip
        return out

    def only(self, rows: Iterable[_Figure]) -> list[_Figure]:
        """Return the figures that rules wait for; rows have what and key."""
        return [row for row in rows if self.keys and (row["key"][0], row["what"], *row["key"][1:]) in self.keys]


def told(facts: Sequence[Fact], clock_us: int, catalogue: str) -> bytes:
    """Encode facts as a raw frame of one command row.

    Args:
        facts: at least one.
        clock_us: of the tick at which they were made, µs UTC.
        catalogue: version in force at it.
    """
    return raw_frame([fact_row(facts, clock_us)], gateway="", catalogue=catalogue, clock_us=clock_us)


def fact_row(facts: Sequence[Fact], clock_us: int) -> pa.RecordBatch:
    """Write facts as a command row of raw; arguments as :func:`told` has them."""
    return command_row(clock_us, FACTS, _WHO, {"figures": [list(fact) for fact in facts]})


def read(args: Mapping[str, Any]) -> list[Fact]:
    """Read what :func:`told` wrote."""
    return [Fact(*one) for one in args["figures"]]
