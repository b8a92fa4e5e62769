"""Messages that are driven again in another partition than the one where they are in quarantine.

Of a device that was unknown, the messages are in the partition of its name; once the catalogue knows its station, they
are driven again where that lives (``redrive_of`` as :func:`qingtu.records.away` says it): there its readings have
positions that count, and derive finds what they touched. The message itself stays booked where it is: what became of it
is told back, through raw, with the row itself. So each partition's books move by its own commits alone.

A message that comes into the partition of its device while its station lives in another one by the catalogue in force,
as when that changes, goes the same way: it is quarantined, and driven again at once.

All is told at least once: a pass that was killed tells it again, which is like driving the message again in vain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from ingest.raw import command_row
from qingtu.partitions import partition_of
from qingtu.records import away, codes_of, home, position, times_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processors.output import Output
    from processors.plan import Plan

DRIVEN: Final = "driven"
"""Name of the command; the rows behind it are those that it speaks of."""
REDRIVE: Final = "redrive"
"""The command before rows that are driven again."""
_WHO: Final = "system"
_DECIDED: Final = ("outcome", "refused", "stage", "reason", "detail")


class Verdict(NamedTuple):
    """What became of a message.

    Attributes:
        row: of the raw frame that drove it again.
        outcome: an :class:`qingtu.records.Outcome`.
        refused: how many of its readings were refused.
        stage, reason, detail: why; "" for a message that passed.
    """

    row: int
    outcome: int
    refused: int
    stage: str = ""
    reason: str = ""
    detail: str = ""


def to_tell(
    output: Output, rows: pa.RecordBatch, plan: Plan, partitions: int, offset: int, at_us: int
) -> dict[int, list[pa.RecordBatch]]:
    """Write what other partitions must be told of a raw frame's messages.

    Args:
        output: what the frame caused.
        rows: of the raw frame.
        plan: of its partition.
        partitions: how many there are.
        offset: of the frame.
        at_us: its clock, µs UTC.

    Returns:
        by partition rows of raw: commands, each before the messages that it speaks of.
    """
    out: dict[int, list[pa.RecordBatch]] = {}
    verdicts: dict[int, list[tuple[Verdict, int]]] = {}
    of = rows.column("redrive_of")
    for verdict in output.away:
        place, message = home(of[verdict.row].as_py(), plan.partition)
        verdicts.setdefault(place, []).append((verdict, message))
    for place, some in verdicts.items():
        decided = [[getattr(verdict, name) for name in _DECIDED] for verdict, _ in some]
        command = command_row(at_us, DRIVEN, _WHO, {"partition": plan.partition, "verdicts": decided})
        out[place] = [command, _again(rows, [verdict.row for verdict, _ in some], [at for _, at in some])]
    for place, astray in _by_place(output.astray, rows, plan, partitions).items():
        command = command_row(at_us, REDRIVE, _WHO, {"count": len(astray), "reason": None, "shift_s": None})
        messages = [position(offset, row) if of[row].as_py() is None else of[row].as_py() for row in astray]
        again = _again(rows, astray, [away(plan.partition, at) for at in messages])
        out.setdefault(place, []).extend([command, again])
    return out


def _by_place(astray: Sequence[int], rows: pa.RecordBatch, plan: Plan, partitions: int) -> dict[int, list[int]]:
    network, device = rows.column("network"), rows.column("device")
    out: dict[int, list[int]] = {}
    for row in astray:
        number = plan.device.get((network[row].as_py(), device[row].as_py()))
        if number is None:
            continue  # the catalogue lost it later in this frame: it stays in quarantine, as all that is unknown
        station = plan.station_names[plan.device_station[number]]
        out.setdefault(partition_of(station, partitions), []).append(row)
    return out


def _again(rows: pa.RecordBatch, some: Sequence[int], of: Sequence[int]) -> pa.RecordBatch:
    place = rows.schema.get_field_index("redrive_of")
    return rows.take(pa.array(some)).set_column(place, "redrive_of", pa.array(of, pa.int64()))


def take(decided: Sequence[Sequence[Any]], rows: pa.RecordBatch, start: int, stop: int, output: Output) -> None:
    """Report rows of a raw frame as another partition has decided them.

    What was accepted of a message is counted there, where it is stored.

    Args:
        decided: of each row, as :func:`to_tell` wrote it.
        rows: of the raw frame.
        start: the first of them.
        stop: behind the last one.
        output: is added to.
    """
    part = rows.slice(start, stop - start)
    refused = np.array([one[1] for one in decided], np.int32)
    output.manifest.append(
        {
            "row": np.arange(start, stop, dtype=np.uint16),
            "network": codes_of(part.column("network")),
            "received_at": times_of(part.column("received_at")),
            "outcome": np.array([one[0] for one in decided], np.uint8),
            "decoded": refused,
            "refused": refused,
            "redrive_of": part.column("redrive_of"),
        }
    )
    for row, (_, count, stage, reason, detail) in enumerate(decided, start):
        if reason:
            output.rejected.append((row, stage, reason, detail, count))
