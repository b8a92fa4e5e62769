"""What every promote does, whatever the store: the rows on raw that say it, the look at the books, the note of when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ingest.raw import command_row, raw_frame
from processors.process import CONFIGURE
from qingtu import replay
from qingtu.errors import QingtuError
from qingtu.records import RAW

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qingtu.contracts import Bus
    from qingtu.replay import Generation


def act_frame(config: Mapping[str, Any], name: str, who: str, now_us: int) -> bytes:
    """Make the frame whose position on raw is the revision; what holds for new messages stays as it is.

    Args:
        config: what the last ``configure`` row of the partition said.
        name: of the generation.
        who: the person.
        now_us: when, µs UTC.
    """
    row = command_row(now_us, CONFIGURE, who, {**config, "promoted": name})
    return raw_frame([row], gateway="", catalogue=config.get("catalogue"), clock_us=now_us)


def say(bus: Bus, partition: int, wanted: int, frame: bytes) -> None:
    """Write a frame of :func:`act_frame` into raw.

    Raises:
        QingtuError: it does not stand where it should.
    """
    said = bus.append(RAW, partition, [frame]).result()[0]
    if said != wanted:
        raise overtaken(partition, said, wanted)


def overtaken(partition: int, said: int, wanted: int) -> QingtuError:
    """Make the error that another program wrote what stands on raw."""
    return QingtuError(
        f"原始数据被他人写入, 未发布 / another program writes raw ({said} for {wanted} in partition {partition}): "
        "stop the gateways, too, then promote again; nothing was changed"
    )


def remember(folder: Path, generation: Generation, promoted_us: int | None) -> None:
    """Note when it was promoted last; a promote that was killed behind its end could not."""
    if promoted_us is not None and promoted_us != generation.promoted_us:
        replay.write(folder, replace(generation, promoted_us=promoted_us))
