"""First step of the pass: payloads to readings, one decoder call per route and frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    codes, names = messages.route
    devices, device_names = messages.device
    for code in np.unique(codes[active]).tolist():
        mine = np.flatnonzero(active & (codes == code))
        decoder = decoders.get(routes.get(names[code], ""))
        if decoder is None:
            for i in mine.tolist():
                refusals.add(i, "decode", "no_decoder", f"route {names[code]!r} has no decoder any more", 0)
            continue
        rows = mine.tolist()
        decoded = decoder([messages.payload[i] for i in rows], [device_names[c] for c in devices[mine].tolist()])
        for row, reason, detail, readings in decoded.refused:
            refusals.add(rows[row], "decode", reason, detail, readings)
            refusals.undecoded[rows[row]] += readings
        out.append((mine, decoded))
    return out
