"""What was replaced by what, and how a commit that was cut off is recognised by it.

Corrections are written before the rows that they speak of. When a stage applies frames again, because it died between
the server's 204 and the save of its progress, it finds revisions that only these frames can have brought: then what
stood there before is the old side of the earliest such correction, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from qingtu.store.influx.lines import Lines, fields, nanoseconds, tags
from qingtu.store.influx.wide import between, one_of
from qingtu.store.merging import Versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.store.influx.client import InfluxClient
    from qingtu.store.influx.wide import Key

SLOTS: Final = 1000
"""Points of one time that nanoseconds tell apart; a tag counts on."""
_WHOLE: Final = (
    "old_flag", "old_tests", "old_revision", "old_known",
    "new_flag", "new_tests", "new_revision", "known", "cause",
)  # fmt: skip
_STATIONS: Final = 200


@dataclass(frozen=True, slots=True)
class Corrections:
    """Corrections, shape (n,) each.

    Attributes:
        key: int32, index into the keys that were asked for.
        time: int64, µs UTC, of the reading.
        step: int64, which correction of its reading it is, from 0.
        old, new: what was replaced, and by what; causes stand in ``new``.
    """

    key: NDArray[np.int32]
    time: NDArray[np.int64]
    step: NDArray[np.int64]
    old: Versions
    new: Versions

    def take(self, which: NDArray[Any]) -> Corrections:
        """Return some of them: a mask or places."""
        return Corrections(
            self.key[which], self.time[which], self.step[which], self.old.take(which), self.new.take(which)
        )


def correction_lines(keys: Sequence[Key], corrections: Corrections) -> Lines:
    """Write corrections as lines."""
    old, new = corrections.old, corrections.new
    columns = zip(
        corrections.key.tolist(), corrections.time.tolist(), corrections.step.tolist(),
        old.value.tolist(), old.flag.tolist(), old.tests.tolist(), old.revision.tolist(), old.known_us.tolist(),
        new.value.tolist(), new.flag.tolist(), new.tests.tolist(), new.revision.tolist(), new.known_us.tolist(),
        new.cause.tolist(), strict=True,
    )  # fmt: skip
    lines = []
    for key, time, step, *row in columns:
        station, prop, channel = keys[key]
        names = tags(station=station, property=prop, channel=channel, lane=lane_of(step))
        body = fields(**dict(zip(("old_value", *_WHOLE[:4], "new_value", *_WHOLE[4:]), row, strict=True)))
        lines.append(f"corrections{names} {body} {nanoseconds(time, step % SLOTS)}")
    return Lines.of(lines)


def lane_of(step: int, lanes: int | None = None) -> str:
    """Return the tag that counts on where slots end: "" at first."""
    lane = step // SLOTS if lanes is None else step // SLOTS % lanes
    return str(lane) if lane else ""


def fetch_corrections(
    client: InfluxClient, bucket: str, keys: Sequence[Key], start_us: int, end_us: int, condition: str = ""
) -> Corrections:
    """Ask for corrections of keys in a range of times, end exclusive, in order of key, time and step."""
    columns: dict[str, pa.DataType] = {"old_value": pa.float64(), "new_value": pa.float64()}
    columns.update(dict.fromkeys(_WHOLE, pa.int64()))
    columns.update(dict.fromkeys(("station", "property", "channel", "lane"), pa.string()))
    cast = {pa.float64(): "float", pa.int64(): "integer", pa.string(): "tag"}
    selected = ", ".join(f'"{name}"::{cast[kind]}' for name, kind in columns.items())
    where = [between(start_us, end_us), one_of("property", (key[1] for key in keys))]
    if len({key[0] for key in keys}) <= _STATIONS:
        where.append(one_of("station", (key[0] for key in keys)))
    if condition:
        where.append(condition)
    question = f"SELECT {selected} FROM corrections WHERE {' AND '.join(where)}"  # noqa: S608 - all names are quoted
    table = client.table(bucket, question, columns)
    place = {key: i for i, key in enumerate(keys)}
    names = zip(*(table.column(n).to_pylist() for n in ("station", "property", "channel")), strict=True)
    key = np.array([place.get((s or "", p or "", c or ""), -1) for s, p, c in names], np.int32)
    whole = {name: np.asarray(table.column(name).fill_null(-1)) for name in _WHOLE}
    rows = np.flatnonzero((key >= 0) & (whole["new_revision"] >= 0))
    lane = np.array([int(text or 0) for text in table.column("lane").to_pylist()], np.int64)
    found = Corrections(
        key, np.asarray(table.column("time")), lane * SLOTS + np.asarray(table.column("slot")),
        _side(table, whole, "old", "old_known"), _side(table, whole, "new", "known"),
    ).take(rows)  # fmt: skip
    return found.take(np.lexsort((found.step, found.time, found.key)))


def _side(table: pa.Table, whole: dict[str, NDArray[np.int64]], side: str, known: str) -> Versions:
    cause = whole["cause"] if side == "new" else np.zeros(table.num_rows, np.int64)
    return Versions(
        table.column(f"{side}_value").to_numpy().astype(np.float64),
        whole[f"{side}_flag"].astype(np.uint8),
        whole[f"{side}_tests"].astype(np.uint32),
        whole[f"{side}_revision"],
        whole[known],
        cause.astype(np.uint8),
    )
