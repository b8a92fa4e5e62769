"""The simulated city: a catalogue of stations becomes the messages that their devices publish.

``World(catalogue, seed).messages(start, end)`` is a pure function: the same seed, catalogue and range give the same
bytes in the same order, and a range that is cut in two gives what the whole gives.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from qingtu.clock import SECOND
from simulators.device import Device
from simulators.faults import FaultPlan
from simulators.sender import Message, Sender
from simulators.signal import hashes1, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.catalogue import Catalogue
    from simulators.scenarios.scenario import Staged
    from simulators.truth import Fact

__all__ = ["Message", "World"]

_MESSAGES_AT_A_TIME = 4096

# Stories of a run, each told by one station that is drawn from those that could: (role, property, station kinds).
_ROLES = (
    ("episode 0", "pm25", ("air",)),
    ("episode 1", "pm25", ("air",)),
    ("episode 2", "pm25", ("air",)),
    ("low oxygen", "sea_dissolved_oxygen", ("ranch",)),
    ("noisy night", "noise_leq", ("construction",)),
)


class World:
    """All devices of a catalogue.

    Args:
        catalogue: networks, stations and devices.
        seed: everything random follows from it.
        faults: what goes wrong; nothing by default.
        interval_s: between a device's samples, for all devices; by default what the catalogue declares.
        staged: a scenario: only its stations send, and they have no other stories.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        seed: int,
        *,
        faults: FaultPlan | None = None,
        interval_s: float | None = None,
        staged: Staged | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.seed = seed
        self.faults = faults or FaultPlan(seed)
        roles = assign_roles(catalogue, seed) if staged is None else {}
        self.senders: list[Sender] = []
        for number, entry in enumerate(catalogue.devices.values()):
            if staged is not None and entry.station.id not in staged.story.stations:
                continue
            declared = entry.interval_s if interval_s is None else interval_s
            interval_us = max(1, round(declared * SECOND))
            if interval_s is None:
                # instruments that measure by the second start on a whole second
                unit = SECOND if interval_us % SECOND == 0 else 1
                phase_us = hashes1(key_of(seed, entry.device.id, "phase"), 0) % (interval_us // unit) * unit
            else:
                phase_us = number * interval_us // len(catalogue.devices)  # evenly spread: a steady rate
            own = roles.get(entry.station.id, frozenset())
            device = Device(catalogue, entry, seed, self.faults, own, interval_us, phase_us, staged)
            self.senders.append(Sender(device, self.faults))

    @property
    def messages_per_s(self) -> float:
        """How many messages all devices send in a second, without faults."""
        return sum(SECOND / sender.device.interval_us for sender in self.senders)

    def prepare(self, start_us: int) -> None:
        """Compute what is needed at a time, so that a live run starts without a pause."""
        for sender in self.senders:
            sender.device.prepare(start_us)

    def messages(self, start_us: int, end_us: int, witness: Callable[[Fact], None] | None = None) -> Iterator[Message]:
        """Yield what is published in [start, end) in the order of publishing.

        Args:
            start_us: µs UTC, inclusive.
            end_us: µs UTC, exclusive.
            witness: is told every fault that was injected, at the time at which it shows; an episode (stuck, drift)
                with each of its samples, under one id.
        """
        tell = witness or _look_away
        step_us = max(1, round(_MESSAGES_AT_A_TIME / max(self.messages_per_s, 1e-9) * SECOND))
        while start_us < end_us:
            until_us = min(start_us + step_us, end_us)
            # one sort of a stretch is cheaper than a heap over all devices; it keeps the order of equal times
            stretch = [m for sender in self.senders for m in sender.messages(start_us, until_us, tell)]
            yield from sorted(stretch, key=attrgetter("at_us"))
            start_us = until_us


def _look_away(_fact: Fact) -> None:
    """Nobody wants to know."""


def assign_roles(catalogue: Catalogue, seed: int) -> dict[str, frozenset[str]]:
    """Return by station which stories it tells; a story without a station that could tell it is left out."""
    roles: dict[str, frozenset[str]] = {}
    for role, prop, kinds in _ROLES:
        able = [
            station.id
            for station in catalogue.stations.values()
            if station.kind in kinds and catalogue.series_index(station.id, prop) is not None
        ]
        fresh = [station for station in able if station not in roles] or able
        if fresh:
            chosen = fresh[hashes1(key_of(seed, "role", role), 0) % len(fresh)]
            roles[chosen] = roles.get(chosen, frozenset()) | {role}
    return roles
