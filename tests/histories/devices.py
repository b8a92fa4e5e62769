"""Devices that send what devices send: with a time of their own, with a counter, with neither; right and wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.clock import DAY, HOUR, MINUTE
from tests.histories.city import Item, Said, topic_of

if TYPE_CHECKING:
    from random import Random

    from tests.histories.faults import Faults

NAMES: Final = ("a", "b", "c", "c2", "dd")
_TOO_LARGE: Final = b"x" * 5000


class Fleet:
    """All devices.

    Args:
        rng: of what they measure.
        faults: what goes wrong with them.

    Attributes:
        said: (device, payload) → what it says: the truth that a history is judged by.
    """

    def __init__(self, rng: Random, faults: Faults) -> None:
        self._rng = rng
        self._faults = faults
        self._value = dict.fromkeys(NAMES, 40.0)
        self._offset = dict.fromkeys(NAMES, 0)
        self._counter = 0
        self._away: dict[str, list[tuple[str, bytes]]] = {}
        self._sent: list[tuple[str, bytes]] = []
        self.said: dict[tuple[str, bytes], Said] = {}

    def turn(self, now_us: int) -> list[tuple[str, str, bytes, int]]:
        """Let a turn pass at true time ``now_us``; return what is published: (device, topic, payload, QoS)."""
        out: list[tuple[str, bytes]] = []
        for device in NAMES:
            self._clocks(device)
            count = self._rng.choice([0, 1, 1, 2, 3])
            made = [self._measure(device, now_us - (count - i) * MINUTE) for i in range(count)]
            out += self._burst(device, made)
        if self._sent and self._faults.chance("resends", 0.5):
            out.append(self._faults.draw("resends").choice(self._sent[-60:]))
        self._sent += out
        # Devices come in any order, each keeps its own.
        order = sorted(range(len(out)), key=lambda _: self._rng.random())
        mine = {device: iter([m for m in out if m[0] == device]) for device in NAMES}
        shuffled = [next(mine[out[i][0]]) for i in order]
        return [(d, topic_of(d), payload, 0 if self._rng.random() < 0.03 else 1) for d, payload in shuffled]

    def _clocks(self, device: str) -> None:
        if self._faults.chance("device_clocks", 0.06):
            choices = (0, 2 * HOUR, -2 * HOUR, -30 * DAY, 200 * 1_000_000)
            self._offset[device] = self._faults.draw("device_clocks").choice(choices)

    def _burst(self, device: str, made: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Keep messages back while a device is away; send them all when it comes back."""
        if device in self._away:
            kept = self._away[device] = (self._away[device] + made)[-30:]
            if self._faults.on and not self._faults.chance("late_bursts", 0.25):
                return []
            del self._away[device]
            return kept[::-1] if self._faults.on and self._faults.chance("late_bursts", 0.3) else kept
        if self._faults.chance("late_bursts", 0.05):
            self._away[device] = made
            return []
        return made

    def _measure(self, device: str, at_us: int) -> tuple[str, bytes]:
        payload, said = self._garbage(device) if self._faults.chance("garbage", 0.12) else (b"", None)
        if said is None:
            payload, said = self._usual(device, (at_us + self._offset[device]) // 1000 * 1000)
        self.said[device, payload] = said
        return device, payload

    def _usual(self, device: str, time_us: int) -> tuple[bytes, Said]:
        self._value[device] = value = self._walk(self._value[device])
        if device == "b":  # no time, few distinct values: equal payloads are the rule
            missing = self._rng.random() < 0.1
            number = -999.0 if missing else round(value / 50) * 0.05
            item = Item("dust", None, None if missing else number)
            return _json({"readings": {"dust": number}}), Said(own=False, items=(item,))
        if device == "c2":
            self._counter += 1
            body = {"seq": self._counter, "readings": {"o3": round(value, 1)}}
            return _json(body), Said(own=True, items=(Item("o3", None, round(value, 1)),))
        values = {"pm25": round(value, 1)}
        if device == "a":
            values["air_temperature"] = round(8 - value / 15, 1)
        body = {"time": time_us // 1000, "readings": values}
        return _json(body), Said(own=True, items=tuple(Item(f, time_us, v) for f, v in values.items()))

    def _walk(self, value: float) -> float:
        step = self._rng.choice([-60, -20, -5, 0, 5, 20, 60, 130])
        return min(280.0, max(5.0, value + step + self._rng.random()))

    def _garbage(self, device: str) -> tuple[bytes, Said | None]:
        rng = self._faults.draw("garbage")
        what = rng.randrange(5)
        if what == 0:
            return rng.choice([b"", b"not json", _TOO_LARGE, b"\xff\xfe"]), Said(own=False, whole=True)
        field = {"b": "dust", "c2": "o3"}.get(device, "pm25")
        self._counter += 1
        number = round(rng.uniform(5, 60), 1)
        good = Item(field, None, number)
        bad: dict[str, Any]
        if what in (1, 2):
            bad = {"nonsense": 1.0}
            items: tuple[Item, ...] = (good, Item("nonsense", None, 1.0, "unknown_property"))
        else:
            bad = {field: {"value": 1.0, "unit": "furlong"}}
            items = (Item(field, None, 1.0, "unknown_unit"),)
        readings: dict[str, Any] = {field: number, **bad}
        return _json({"seq": self._counter, "readings": readings}), Said(own=True, items=items)


def _json(body: dict[str, Any]) -> bytes:
    return orjson.dumps(body)
