"""One simulated device: its samples, computed in blocks, and the messages that come of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qingtu.clock import SECOND
from qingtu.properties import load_properties
from qingtu.units import canonical_unit
from simulators import MODELS
from simulators.community import happenings
from simulators.damage import Sample, Slot, damage
from simulators.faults import LONGEST_HOLD_US, LONGEST_REPEAT_US
from simulators.payloads.native import DIALECTS, encode, form, other_unit
from simulators.signal import Place, hashes1, key_of, uniform1
from simulators.truth import Fact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue, DeviceEntry
    from qingtu.properties import Property
    from simulators.faults import FaultPlan
    from simulators.payloads.native import Dialect, Form
    from simulators.signal import Model, Values

_BLOCK = 256
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


class _Block(NamedTuple):
    """Samples ``first`` … ``first + 255`` of a device, computed together.

    Attributes:
        first: number of the first sample.
        values: per reading the canonical values, rounded.
        written: per sample the numbers as written.
        faults: per sample the message fault drawn; has one more at each end, for the neighbours.
        wrong: per sample the series that are stuck or drift: (position, episode id).
        events: per sample what happened since the sample before.
    """

    first: int
    values: list[Values]
    written: list[tuple[float | int, ...]]
    faults: list[str]
    wrong: dict[int, list[tuple[int, str]]]
    events: dict[int, list[tuple[str, int, int, dict[str, object]]]]


class Sender:
    """A device of the catalogue that takes a sample every interval.

    Sample n is taken at ``n * interval + phase`` for every whole n, whatever the run: a run only chooses which.

    Args:
        catalogue: for the series' limits.
        entry: the device.
        seed: of the run.
        plan: of faults.
        roles: stories of its station.
        interval_us: between samples.
        phase_us: of the first sample after time 0.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        entry: DeviceEntry,
        seed: int,
        plan: FaultPlan,
        roles: frozenset[str],
        interval_us: int,
        phase_us: int,
    ) -> None:
        self.entry, self.plan = entry, plan
        self.interval_us, self.phase_us = interval_us, phase_us
        self.device = entry.device.id
        self.topic = f"qt/{entry.network}/{self.device}/up"
        self.key = key_of(seed, self.device, "sender")
        self.dialect = _dialect(self.key, entry)
        self._slots: list[Slot] = []
        self._models: list[tuple[Model, Place]] = []
        self._stagger = int(uniform1(self.key, 1) * _BLOCK)
        self._blocks: dict[int, _Block] = {}
        station = entry.station
        for name, field in entry.fields.items():
            series = catalogue.series[field.series_index]
            if any(place.channel == series.channel and slot.property.key == series.property
                   for slot, (_, place) in zip(self._slots, self._models, strict=True)):  # fmt: skip
                continue  # an alias: the device uses one name for it
            prop = load_properties()[series.property]
            how = _form(prop, field.unit, field.scale, field.offset, self.dialect, len(self._slots) + self.key % 7)
            smooth = prop.agg in {"mean", "energy", "rms"} and series.channel == "main"
            self._slots.append(Slot(name, prop, how, series.limits, field.sentinels, smooth))
            place = Place(
                seed, station.id, station.kind, *station.position, interval_us / SECOND, series.channel,
                station.noise_class or "", roles,
            )  # fmt: skip
            self._models.append((MODELS[prop.key], place))
        self._properties = {slot.property.key for slot in self._slots}

    def messages(self, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        """Yield what is published in [start, end), by sample; tell the witness what went wrong with it."""
        back = self._look_back(start_us)
        first = -((self.phase_us - (start_us - back)) // self.interval_us)
        last = -((self.phase_us - end_us) // self.interval_us)
        for n in range(first, last):
            if not self.plan.rates:
                yield Message(n * self.interval_us + self.phase_us, self.topic, self._payload(n), self.device)
                continue
            yield from self._faulty(n, start_us, end_us, witness)

    def prepare(self, start_us: int) -> None:
        """Compute the block that holds a time, so that the first message does not wait for it."""
        self._block((start_us - self.phase_us) // self.interval_us)

    # -------------------------------------------------------------------------------------------- faults

    def _look_back(self, start_us: int) -> int:
        """Return how long before ``start`` a sample may have been taken that is sent after it."""
        back = LONGEST_REPEAT_US if self.plan.rate("duplicate") else 0
        if self.plan.episodes("late", self.device, start_us - LONGEST_HOLD_US, start_us):
            back = LONGEST_HOLD_US
        return back

    def _faulty(self, n: int, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        time_us = n * self.interval_us + self.phase_us
        now = start_us <= time_us < end_us
        if now:
            self._witness_episodes(n, witness)
        fault = self._fault(n)
        if fault == "late":
            yield from self._held(n, start_us, end_us, witness)
        elif fault in {"loss", "gateway_dead"}:
            if now:
                witness(self._fact(n, fault, self._payload(n), "absent"))
        elif fault == "duplicate":
            yield from self._twice(n, start_us, end_us, witness)
        elif now:
            yield self._damaged(n, fault, witness) if fault else self._message(n, time_us)

    def _fault(self, n: int) -> str:
        """Return the one fault that hits sample n, "" for none."""
        time_us = n * self.interval_us + self.phase_us
        if self.plan.episode("gateway_dead", self.entry.network, time_us):
            return "gateway_dead"
        if self.plan.episode("late", self.device, time_us):
            return "late"
        block = self._block(n)
        return block.faults[n - block.first + 1]

    def _held(self, n: int, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        time_us = n * self.interval_us + self.phase_us
        episode = self.plan.episode("late", self.device, time_us)
        assert episode is not None  # _fault said so
        place_in_burst = (time_us - episode.start_us) // self.interval_us
        at_us = episode.end_us + place_in_burst * min(_BURST_STEP_US, self.interval_us // 4)
        if start_us <= at_us < end_us:
            late = at_us - time_us > max(_LATE_INTERVALS * self.interval_us, _LATE_US)
            expected = "late" if late else "stored"
            witness(self._fact(n, "late", self._payload(n), expected))
            yield self._message(n, at_us, "late", expected)

    def _twice(self, n: int, start_us: int, end_us: int, witness: Callable[[Fact], None]) -> Iterator[Message]:
        time_us = n * self.interval_us + self.phase_us
        again_us = time_us + 1_000 + hashes1(self.key, n) % (LONGEST_REPEAT_US - 1_000)
        if start_us <= time_us < end_us:
            yield self._message(n, time_us)
        if start_us <= again_us < end_us:
            witness(self._fact(n, "duplicate", self._payload(n), "duplicate"))
            yield self._message(n, again_us, "duplicate", "duplicate")

    def _damaged(self, n: int, fault: str, witness: Callable[[Fact], None]) -> Message:
        sample = self._sample(n)
        clean = self._fault(n - 1) == "" and self._fault(n + 1) == ""
        result = damage(fault, sample, neighbours_clean=clean)
        if result is None:
            return self._message(n, sample.time_us)
        fact = self._fact(n, fault, result.payload, result.expected, at=result.at, decided_us=result.decided_us,
                          detail=result.detail)  # fmt: skip
        witness(fact)
        return Message(sample.time_us, self.topic, result.payload, self.device, fact.id, result.expected)

    def _witness_episodes(self, n: int, witness: Callable[[Fact], None]) -> None:
        for at, episode_id in self._block(n).wrong.get(n, ()):
            fault = episode_id.partition(":")[0]
            time_us = n * self.interval_us + self.phase_us
            episode = self.plan.episode(fault, f"{self.device}/{self._slots[at].name}", time_us)
            assert episode is not None  # the block was made from it
            slot = self._slots[at]
            witness(
                Fact(
                    episode_id, fault, self.entry.network, self.device, self.entry.station.id, slot.property.key,
                    episode.start_us, episode.end_us, "", "stored", detail="found by later checks",
                )
            )  # fmt: skip

    def _fact(
        self, n: int, fault: str, payload: bytes, expected: str, *, at: int = 0, decided_us: int = 0, detail: str = ""
    ) -> Fact:
        time_us = n * self.interval_us + self.phase_us
        return Fact(
            self._id(n, fault), fault, self.entry.network, self.device, self.entry.station.id,
            self._slots[at].property.key, time_us, time_us, hashlib.sha256(payload).hexdigest(), expected,
            decided_us or time_us, detail,
        )  # fmt: skip

    def _id(self, n: int, fault: str) -> str:
        return f"{fault}:{self.entry.network}/{self.device}:{n}"

    # ------------------------------------------------------------------------------------------- samples

    def _message(self, n: int, at_us: int, fault: str = "", expected: str = "stored") -> Message:
        truth_id = self._id(n, fault) if fault else ""
        return Message(at_us, self.topic, self._payload(n), self.device, truth_id, expected)

    def _payload(self, n: int) -> bytes:
        block = self._block(n)
        readings = [
            (slot.name, number, slot.form.unit)
            for slot, number in zip(self._slots, block.written[n - block.first], strict=True)
        ]
        time_us = n * self.interval_us + self.phase_us
        events = block.events.get(n, ())
        return encode(readings, time_us, n & 0xFFFF, self.dialect, device=self.device, events=events)

    def _sample(self, n: int) -> Sample:
        block = self._block(n)
        at = n - block.first
        time_us = n * self.interval_us + self.phase_us
        wrong = frozenset(position for position, _ in block.wrong.get(n, ()))
        values = [float(column[at]) for column in block.values]
        return Sample(
            self.key, n, time_us, self.interval_us, self.device, self.dialect, self._slots, values, block.written[at],
            wrong, time_us >= self.plan.live_from_us,
        )  # fmt: skip

    def _block(self, n: int) -> _Block:
        number = (n + self._stagger) // _BLOCK
        if number not in self._blocks:
            if len(self._blocks) >= 3:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[number] = self._compute(number * _BLOCK - self._stagger)
        return self._blocks[number]

    def _compute(self, first: int) -> _Block:
        samples = np.arange(first, first + _BLOCK, dtype=np.int64)
        times = samples * self.interval_us + self.phase_us
        wrong: dict[int, list[tuple[int, str]]] = {}
        values: list[Values] = []
        columns: list[list[float | int]] = []
        for at, (slot, (model, place)) in enumerate(zip(self._slots, self._models, strict=True)):
            raw = model(place, times)
            if slot.smooth and self.plan.rates:
                self._go_wrong(at, samples, times, raw, wrong)
            exact = np.round(raw, slot.property.precision) + 0.0  # no -0.0
            values.append(exact)
            columns.append(_written(slot.form, exact))
        around = np.arange(first - 1, first + _BLOCK + 1, dtype=np.int64)
        faults = self.plan.message_faults(self.device, around)
        return _Block(first, values, list(zip(*columns, strict=True)), faults, wrong, self._events(samples, times))

    def _go_wrong(
        self,
        at: int,
        samples: NDArray[np.int64],
        times: NDArray[np.int64],
        raw: Values,
        wrong: dict[int, list[tuple[int, str]]],
    ) -> None:
        """Let a series be stuck or drift where the plan says so; changes ``raw`` in place."""
        slot, (model, place) = self._slots[at], self._models[at]
        who = f"{self.device}/{slot.name}"
        for fault in ("stuck", "drift"):
            for episode in self.plan.episodes(fault, who, int(times[0]), int(times[-1]) + 1):
                inside = (times >= episode.start_us) & (times < episode.end_us)
                start = model(place, np.array([episode.start_us], dtype=np.int64))[0]
                if fault == "stuck":
                    raw[inside] = start
                else:
                    grown = (times[inside] - episode.start_us) / (episode.end_us - episode.start_us)
                    low, high = slot.limits.fail_min, slot.limits.fail_max
                    raw[inside] = np.clip(raw[inside] + 0.3 * (abs(start) + 1.0) * grown, low, high)
                episode_id = f"{fault}:{self.entry.network}/{who}:{episode.start_us}"
                for n in samples[inside].tolist():
                    wrong.setdefault(n, []).append((at, episode_id))

    def _events(
        self, samples: NDArray[np.int64], times: NDArray[np.int64]
    ) -> dict[int, list[tuple[str, int, int, dict[str, object]]]]:
        place = self._models[0][1]
        before = int(times[0]) - self.interval_us
        found: dict[int, list[tuple[str, int, int, dict[str, object]]]] = {}
        for event in happenings(place, self._properties, before + 1, int(times[-1]) + 1):
            # the first sample at or after it carries it
            n = int(samples[0]) + int(np.searchsorted(times, event.time_us))
            found.setdefault(n, []).append((event.kind, event.level, event.time_us, event.attributes))
        return found


def _dialect(key: int, entry: DeviceEntry) -> Dialect:
    dialect = DIALECTS[key % len(DIALECTS)]
    # a zone-less time is read in the zone that the catalogue declares; the simulator writes China's
    return DIALECTS[0] if dialect.time == "local" and entry.timezone != "Asia/Shanghai" else dialect


def _form(prop: Property, unit: str, scale: float, offset: float, dialect: Dialect, choice: int) -> Form:
    if not dialect.units:
        return form(prop, unit, scale=scale, offset=offset)
    text = other_unit(prop, choice)
    return form(prop, canonical_unit(text) or prop.unit, scale=scale, offset=offset, text=text)


def _written(how: Form, values: Values) -> list[float | int]:
    numbers = values
    if (how.scale, how.offset) != (1.0, 0.0):
        numbers = np.round((values - how.offset) / how.scale, how.decimals) + 0.0
    result: list[float | int] = (numbers.astype(np.int64) if how.decimals == 0 else numbers).tolist()
    return result
