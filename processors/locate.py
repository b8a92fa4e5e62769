"""Second step: which device of the catalogue a message came from, and which series its fields are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors.plan import UNKNOWN, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from processors.messages import Messages
    from qingtu.contracts import Decoded


def devices(plan: Plan, messages: Messages) -> NDArray[np.int64]:
    """Return the device number of each message, shape (n,); UNKNOWN where the catalogue has no such device."""
    networks, network_names = messages.network
    senders, sender_names = messages.device
    if len(network_names) == 1:  # usual, and nearly all of the names are distinct
        number = plan.device_of.get(network_names[0], {}).get
        table = np.array([number(name, UNKNOWN) for name in sender_names], np.int64)
        return np.asarray(table[senders])
    look_up = plan.device.get
    pairs, inverse = np.unique(networks.astype(np.int64) * len(sender_names) + senders, return_inverse=True)
    numbers = [
        look_up((network_names[pair // len(sender_names)], sender_names[pair % len(sender_names)]), UNKNOWN)
        for pair in pairs.tolist()
    ]
    out: NDArray[np.int64] = np.array(numbers, np.int64)[inverse]
    return out


def entries(plan: Plan, device: NDArray[np.int64], decoded: Decoded) -> NDArray[np.int64]:
    """Return the catalogue entry of each reading, shape (m,); UNKNOWN where the device has no such field.

    Args:
        plan: look-up tables.
        device: int64 (m,), device number of each reading, none UNKNOWN.
        decoded: the readings.
    """
    columns = plan.known_names(decoded.names)
    known = plan.slot.ravel()
    slot = known.take(plan.device_layout.take(device) * plan.slot.shape[1] + columns.take(decoded.name))
    out: NDArray[np.int64] = plan.device_base.take(device) + slot
    none = slot == UNKNOWN
    if none.any():
        out[none] = UNKNOWN
    return out
