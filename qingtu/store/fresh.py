"""Which frames a store has not applied yet: it skips those whose origin it has, whatever their offset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qingtu.errors import QingtuError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qingtu.records import Frame


def fresh(stream: str, frames: Iterable[Frame], after: int) -> tuple[list[Frame], int]:
    """Return the frames that come behind an origin, and the newest origin then.

    Args:
        stream: for the message.
        frames: in the order of the stream; a stage that was killed emits some again.
        after: raw offset of the newest origin that is applied; -1: none.

    Raises:
        QingtuError: a frame has no origin: nobody could tell whether it came before.
    """
    new = []
    for frame in frames:
        if frame.origin is None:
            raise QingtuError(f"a frame of {stream} has no origin")
        if frame.origin[1] > after:
            new.append(frame)
            after = frame.origin[1]
    return new, after
