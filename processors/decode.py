"""First step of the pass: payloads to readings, one decoder call per route and frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from processors.messages import Messages, Refusals
    from qingtu.contracts import Decoded, Decoder


def decode(
    messages: Messages,
    active: NDArray[np.bool_],
    routes: Mapping[str, str],
    decoders: Mapping[str, Decoder],
    refusals: Refusals,
) -> list[tuple[NDArray[np.int64], Decoded]]:
    """Decode the active messages.

    Args:
        messages: n messages.
        active: bool (n,), those that the gateway took.
        routes: route → key of its decoder.
        decoders: the table of decoders.
        refusals: what the decoders refuse is noted here.

    Returns:
        For each route: message indices of the decoder's rows, and what it made of them.
    """
    out = []
    names = messages.route[1]
    devices, device_names = messages.device
    for code, mine in _by_route(messages, active):
        decoder = decoders.get(routes.get(names[code], ""))
        if decoder is None:
            for i in mine.tolist():
                refusals.add(i, "decode", "no_decoder", f"route {names[code]!r} has no decoder any more", 0)
            continue
        rows = mine.tolist()
        payloads = messages.payload if len(rows) == len(messages) else [messages.payload[i] for i in rows]
        decoded = decoder(payloads, [device_names[c] for c in devices[mine].tolist()])
        for row, reason, detail, readings in decoded.refused:
            refusals.add(rows[row], "decode", reason, detail, readings)
            refusals.undecoded[rows[row]] += readings
        out.append((mine, decoded))
    return out


def _by_route(messages: Messages, active: NDArray[np.bool_]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the code of each route with the indices of its active messages."""
    codes, names = messages.route
    if len(names) == 1 and active.all():
        yield 0, np.arange(len(messages))
        return
    for code in np.unique(codes[active]).tolist():
        yield code, np.flatnonzero(active & (codes == code))
