"""What a device sends: its samples in time, lost, doubled, held back or damaged as the fault plan says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from qingtu.clock import SECOND
from simulators.damage import damage
from simulators.faults import LONGEST_HOLD_US, LONGEST_REPEAT_US
from simulators.signal import hashes1
from simulators.truth import Fact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simulators.device import Device
    from simulators.faults import Episode, FaultPlan

_LATE_INTERVALS, _LATE_US = 3, 600 * SECOND  # received later than both after its time: late (design, section 4)
_BURST_STEP_US = 20_000


@dataclass(frozen=True, slots=True)
class Message:
    """One message, ready to be published.

    Attributes:
        at_us: when it is published, µs UTC.
        topic: MQTT topic.
        payload: bytes.
        device: device id.
        truth_id: id of the fault that hit it, "" for none.
        expected: what must come of it, as in :class:`simulators.truth.Fact`.
    """

    at_us: int
    topic: str
    payload: bytes
    device: str
    truth_id: str = ""
    expected: str = "stored"


class Sender:
    """A device and what goes wrong on the way.

    Args:
        device: whose samples.
        plan: of faults.
    """

    def __init__(self, device: Device, plan: FaultPlan) -> None:
        self.device, self.plan = device, plan
        self._name, self._network = device.device, device.entry.network
        self._topic = f"qt/{self._network}/{self._name}/up"
        self._found_at: dict[str, int] = {}

    def messages(self, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        """Yield what is published in [start, end), by sample; tell the witness what went wrong with it."""
        back = self._look_back(start_us)
        oldest = max(start_us - back, self.plan.begin_us)
        staged = self.device.staged
        for n in range(self.device.first_from(oldest), self.device.first_from(end_us)):
            if staged is not None and staged.silent(self.device.entry.station.id, self.device.time_us(n)):
                continue
            if not self.plan.rates:
                yield self._message(n, self.device.time_us(n))
                continue
            yield from self._faulty(n, start_us, end_us, witness)

    def _look_back(self, start_us: int) -> int:
        """Return how long before ``start`` a sample may have been taken that is sent after it."""
        back = LONGEST_REPEAT_US if self.plan.rate("duplicate") else 0
        if self.plan.episodes("late", self._name, start_us - LONGEST_HOLD_US, start_us):
            back = LONGEST_HOLD_US
        return back

    def _faulty(self, n: int, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        time_us = self.device.time_us(n)
        now = start_us <= time_us < end_us
        if now:
            self._witness_episodes(n, witness)
        fault = self._fault(n)
        if fault == "late":
            yield from self._held(n, start_us, end_us, witness)
        elif fault in {"loss", "gateway_dead"}:
            if now:
                witness(self._fact(n, fault, self.device.payload(n), "absent"))
        elif fault == "duplicate":
            yield from self._twice(n, start_us, end_us, witness)
        elif now:
            yield self._damaged(n, fault, witness) if fault else self._message(n, time_us)

    def _fault(self, n: int) -> str:
        """Return the one fault that hits sample n, "" for none."""
        time_us = self.device.time_us(n)
        if self.plan.episode("gateway_dead", self._network, time_us):
            return "gateway_dead"
        if self.plan.episode("late", self._name, time_us):
            return "late"
        return self.device.drawn_fault(n)

    def _held(self, n: int, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        time_us = self.device.time_us(n)
        episode = self.plan.episode("late", self._name, time_us)
        assert episode is not None  # _fault said so
        place_in_burst = (time_us - episode.start_us) // self.device.interval_us
        at_us = episode.end_us + place_in_burst * min(_BURST_STEP_US, self.device.interval_us // 4)
        if start_us <= at_us < end_us:
            # by the interval that the catalogue declares, which is what the pass knows, not by the one of this run
            late = at_us - time_us > max(_LATE_INTERVALS * self.device.entry.interval_s * SECOND, _LATE_US)
            expected = "late" if late else "stored"
            witness(self._fact(n, "late", self.device.payload(n), expected))
            yield self._message(n, at_us, "late", expected)

    def _twice(self, n: int, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        time_us = self.device.time_us(n)
        again_us = time_us + 1_000 + hashes1(self.device.key, n) % (LONGEST_REPEAT_US - 1_000)
        if start_us <= time_us < end_us:
            yield self._message(n, time_us)
        if start_us <= again_us < end_us:
            witness(self._fact(n, "duplicate", self.device.payload(n), "duplicate"))
            yield self._message(n, again_us, "duplicate", "duplicate")

    def _damaged(self, n: int, fault: str, witness: Callable[[Fact], None]) -> Message:
        sample = self.device.sample(n)
        # checks with memory do not look at history: the sample before must be live as well
        live_before = sample.time_us - self.device.interval_us >= self.plan.live_from_us
        clean = live_before and self._fault(n - 1) == "" and self._fault(n + 1) == ""
        result = damage(fault, sample, neighbours_clean=clean)
        if result is None:
            return self._message(n, sample.time_us)
        fact = self._fact(n, fault, result.payload, result.expected, at=result.at, decided_us=result.decided_us,
                          detail=result.detail)  # fmt: skip
        witness(fact)
        return Message(sample.time_us, self._topic, result.payload, self._name, fact.id, result.expected)

    def _witness_episodes(self, n: int, witness: Callable[[Fact], None]) -> None:
        for at, episode_id in self.device.wrong_series(n):
            fault = episode_id.partition(":")[0]
            episode = self.plan.episode(fault, self.device.series_name(at), self.device.time_us(n))
            assert episode is not None  # the samples were made from it
            if episode_id not in self._found_at:
                self._found_at[episode_id] = self._flat_us(at, episode) if fault == "stuck" else 0
            found_us = self._found_at[episode_id]
            expected = "flag:3:flat_line" if found_us else "stored"
            fact = self._fact(n, fault, b"", expected, at=at, detail="" if found_us else "found by later checks")
            fact = replace(fact, id=episode_id, message="", from_us=episode.start_us, to_us=episode.end_us)
            witness(replace(fact, decided_us=found_us))

    def _flat_us(self, at: int, episode: Episode) -> int:
        """Return the time of the first reading of a stuck series that the flat-line check must find; 0: of none.

        Counted are samples that are live, on time and whole: the check looks back on so many fresh readings, whatever
        lies between them. One that is damaged may count as well: then it was found earlier, and still is.
        """
        limits, first_us = self.device.limits(at), max(episode.start_us, self.plan.live_from_us)
        if not (limits.flat_tolerance > 0 and isfinite(limits.flat_suspect_s)):
            return 0
        if self.plan.episodes("drift", self.device.series_name(at), episode.start_us, episode.end_us):
            return 0
        needed = max(2, int(limits.flat_suspect_s / self.device.entry.interval_s))
        for n in range(self.device.first_from(first_us), self.device.first_from(episode.end_us)):
            if self._fault(n) in {"", "duplicate"}:
                needed -= 1
                if needed < 0:
                    return self.device.time_us(n)
        return 0

    def _fact(
        self, n: int, fault: str, payload: bytes, expected: str, *, at: int = 0, decided_us: int = 0, detail: str = ""
    ) -> Fact:
        time_us = self.device.time_us(n)
        station, prop, channel = self.device.series(at)
        return Fact(
            id=self._id(n, fault),
            fault=fault,
            network=self._network,
            device=self._name,
            station=station,
            property=prop,
            channel=channel,
            from_us=time_us,
            to_us=time_us,
            message=hashlib.sha256(payload).hexdigest(),
            expected=expected,
            decided_us=decided_us or time_us,
            detail=detail,
        )

    def _id(self, n: int, fault: str) -> str:
        return f"{fault}:{self._network}/{self._name}:{n}"

    def _message(self, n: int, at_us: int, fault: str = "", expected: str = "stored") -> Message:
        truth_id = self._id(n, fault) if fault else ""
        return Message(at_us, self._topic, self.device.payload(n), self._name, truth_id, expected)
