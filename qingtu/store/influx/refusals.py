"""Which lines a server does not take: found by writing fewer and fewer of them. Knows no server, only how to write.

A 400 stores nothing of its request, a 422 stores what it does not drop; both name one bad line or field at most. So the
lines are written again in parts, which changes nothing where they are stored already, until every refusal is of one
line, or says itself that it dropped all of its request.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from qingtu.store.influx.client import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from qingtu.store.influx.lines import Lines

    Write = Callable[[bytes], None]
REQUEST_BYTES: Final = 16 * 1024 * 1024
_CONFLICT: Final = re.compile(r'input field "(?P<field>[^"]+)" on measurement "(?P<measurement>[^"]+)"')


def requests(lines: Lines, batch: int) -> Iterator[tuple[int, int]]:
    """Cut lines into requests, (first, behind the last) each: by number, and by size unless one line is larger."""
    first = 0
    while first < len(lines):
        fitting = int(np.searchsorted(lines.edges, lines.edges[first] + REQUEST_BYTES, "right")) - 1
        last = min(first + batch, max(fitting, first + 1), len(lines))
        yield first, last
        first = last


def deliver(lines: Lines, write: Write, batch: int) -> list[tuple[int, int]]:
    """Write lines in requests of ``batch``; return (first, behind the last) of the requests that were refused."""
    refused = []
    for first, last in requests(lines, batch):
        try:
            write(lines.part(first, last))
        except Refused:
            refused.append((first, last))
    return refused


def isolate(lines: Lines, write: Write) -> dict[int, str]:
    """Write lines so that all that can be stored are, and find the others.

    Returns:
        number of each line that the server does not take → what it said.
    """
    guilty: dict[int, str] = {}
    parts = [np.arange(len(lines))] if len(lines) else []
    while parts:
        which = parts.pop()
        some = lines.take(which)
        try:
            write(some.part(0, len(some)))
        except Refused as refused:
            if len(which) == 1 or (refused.status == 422 and refused.dropped >= len(which)):
                guilty.update(dict.fromkeys(which.tolist(), refused.words))
            else:
                parts += _split(lines, which, refused)
    return guilty


def _split(lines: Lines, which: NDArray[np.int64], refused: Refused) -> list[NDArray[np.int64]]:
    """Part the lines that the server's words are about from the others, else cut in two."""
    if named := _CONFLICT.search(refused.words):
        field, start = named["field"], named["measurement"] + ","
        texts = [lines.line(at) for at in which.tolist()]
        suspect = np.array([t.startswith(start) and (f" {field}=" in t or f",{field}=" in t) for t in texts])
        if suspect.any() and not suspect.all():
            return [which[suspect], which[~suspect]]
    half = len(which) // 2
    return [which[:half], which[half:]]
