"""What can go wrong, and when it does: each seed turns some kinds on, and each kind draws from numbers of its own.

So a kind that is left out changes nothing about the others' draws, which makes shrinking honest.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

KINDS: Final[Mapping[str, str]] = {
    "disconnects": "the connection to the broker breaks; what was on the wire is lost both ways",
    "broker_restarts": "the broker restarts with its store and sends again what was not acknowledged",
    "broker_forgets": "the broker restarts without its store: sessions and packet identifiers begin anew",
    "gateway_crashes": "the gateway is killed before, within or after a write",
    "processor_crashes": "a processor (process and derive) is killed before, within or after a write",
    "store_crashes": "the store stage with the ledger is killed before, within or after a write",
    "notify_crashes": "the follower of alerts is killed before, within or after a write",
    "power_cuts": "everything of ours is killed at once",
    "bus_refuses": "the bus refuses single appends and states: torn and failed flushes",
    "bus_down": "the bus is away for a while",
    "disk_full": "raw takes nothing for a while, other streams do",
    "store_refuses": "the store refuses single calls; so does the sink of alerts",
    "store_down": "the store is away for a while",
    "rebalances": "partitions move between processors",
    "zombies": "a processor or store stage goes on for a while after its work went to another",
    "our_clock": "our clock jumps forward and back",
    "device_clocks": "clocks of devices are wrong for a while",
    "resends": "devices send messages again, at once or after days",
    "late_bursts": "devices are away for hours or days and send everything afterwards, perhaps backwards",
    "days_pass": "nothing happens for a day or more",
    "garbage": "payloads that cannot be read, are too large or empty; unknown fields and units",
    "catalogue": "the catalogue changes, and back",
    "redrives": "messages in quarantine are driven again, also with shifted times, also twice",
    "commands": "alerts are acknowledged and commented, also such as do not exist",
    "overrides": "people set flags of readings, also of such as have changed meanwhile",
    "trims": "frames that are done with are trimmed at once",
    "offset_gaps": "offsets of the bus are not dense",
}
"""Kind → what it does, in words."""


class Faults:
    """Draws what goes wrong.

    Args:
        seed: of the history.
        kinds: those that are on; None lets the seed choose.

    Attributes:
        on: whether anything goes wrong now; the end of a history is calm.
        bus_down, disk_full, store_down: for so many more turns.
    """

    def __init__(self, seed: int, kinds: Collection[str] | None = None) -> None:
        pick = Random(f"{seed}/kinds")
        share = pick.choice([0.15, 0.3, 0.5, 0.8])
        chosen = [kind for kind in KINDS if pick.random() < share]
        self.kinds = [kind for kind in KINDS if kind in (chosen if kinds is None else kinds)]
        self._draws = {kind: Random(f"{seed}/{kind}") for kind in self.kinds}
        self.on = True
        self.bus_down = self.disk_full = self.store_down = 0

    def chance(self, kind: str, probability: float) -> bool:
        """Say whether something of a kind happens now."""
        draw = self._draws.get(kind)
        return draw is not None and self.on and draw.random() < probability

    def draw(self, kind: str) -> Random:
        """Return the random numbers of a kind that is on."""
        return self._draws[kind]

    def turn(self) -> None:
        """Let a turn pass: outages begin and end."""
        for name, probability in (("bus_down", 0.06), ("disk_full", 0.06), ("store_down", 0.06)):
            left = getattr(self, name)
            if left:
                setattr(self, name, left - 1)
            elif self.chance(name, probability):
                setattr(self, name, self._draws[name].randint(1, 3))

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        self.on = False
        self.bus_down = self.disk_full = self.store_down = 0

    def refuses(self, what: str, stream: str) -> str | None:
        """Say why the bus refuses; see :class:`tests.histories.bus.Trouble`."""
        if self.bus_down:
            return "the bus is away"
        if what == "append" and stream == "raw" and self.disk_full:
            return "too little free space"
        if what != "read" and self.chance("bus_refuses", 0.4 if what == "state" else 0.12):
            return "the bus refuses this once"
        return None

    def gap(self) -> int:
        """Leave out an offset now and then."""
        return 1 if self.chance("offset_gaps", 0.3) else 0
