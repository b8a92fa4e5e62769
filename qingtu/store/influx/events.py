"""Events: told by station, kind, time and attributes; the first of equal ones stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from qingtu.store.influx.corrections import SLOTS
from qingtu.store.influx.lines import Lines
from qingtu.store.influx.rows import columns_of, event_line
from qingtu.store.influx.wide import between, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qingtu.records import Frame
    from qingtu.store.influx.client import InfluxClient

COLUMNS: Final[Mapping[str, pa.DataType]] = {
    "attributes": pa.string(),
    "level": pa.int64(),
    "revision": pa.int64(),
    "known": pa.int64(),
    "station": pa.string(),
    "kind": pa.string(),
    "lane": pa.string(),
}
SELECTED: Final = (
    "attributes::string, level::integer, revision::integer, known::integer, station::tag, kind::tag, lane::tag"
)
Place = tuple[str, str, int]
"""(station, kind, time)."""


@dataclass(frozen=True, slots=True)
class EventPlan:
    """Events that a batch brings.

    Attributes:
        lines: those that are new.
        frame: index of the frame of each line.
        row: raw row that each line came from.
        newest: newest time of all events that are known.
    """

    lines: Lines
    frame: list[int]
    row: list[int]
    newest: int


class EventWriter:
    """Works out which events are new.

    Args:
        client: the server.
        bucket: of events.
    """

    def __init__(self, client: InfluxClient, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._newest: dict[tuple[str, str], int] = {}

    def plan(self, frames: Sequence[Frame], floor: int, stands: Callable[[], None]) -> EventPlan:
        """Take events out of frames. From then on they count as stored: who asks waits until they are.

        Args:
            frames: in order.
            floor: events up to this time may be stored, though this process does not know of them.
            stands: returns when all that was planned before is written, or failed.
        """
        rows: list[tuple[int, dict[str, Any]]] = []
        for number, frame in enumerate(frames):
            if (batch := frame.get("events")) is not None:
                columns = columns_of(batch)
                rows += [(number, dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        newest = self._newest
        asked = [row for _, row in rows if row["time"] <= newest.get(_who(row), floor)]
        if asked:
            stands()
        taken = self._stored(asked)
        lines, frame_of, row_of = [], [], []
        for number, row in rows:
            there = taken.setdefault((row["station"], row["kind"], row["time"]), {})
            if row["attributes"] in there:
                continue
            slot = 1 + max(there.values(), default=-1)
            there[row["attributes"]] = slot
            lines.append(event_line(row, slot))
            frame_of.append(number)
            row_of.append(row["revision"] & 0xFFFF)
            newest[_who(row)] = max(newest.get(_who(row), floor), row["time"])
        return EventPlan(Lines.of(lines), frame_of, row_of, max(newest.values(), default=floor))

    def _stored(self, rows: Sequence[Mapping[str, Any]]) -> dict[Place, dict[str, int]]:
        """Return the attributes and numbers of the events that stand at the times of these."""
        out: dict[Place, dict[str, int]] = {}
        if not rows:
            return out
        times = [row["time"] for row in rows]
        where = f"{between(min(times), max(times) + 1)} AND {one_of('kind', (row['kind'] for row in rows))}"
        found = self._client.table(
            self._bucket,
            f"SELECT {SELECTED} FROM event WHERE {where}",  # noqa: S608 - quoted
            COLUMNS,
        )
        for row in found.to_pylist():
            slot = int(row["lane"] or 0) * SLOTS + row["slot"]
            at = (row["station"] or "", row["kind"] or "", row["time"])
            out.setdefault(at, {})[row["attributes"] or ""] = slot
        return out


def _who(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["station"], row["kind"]
