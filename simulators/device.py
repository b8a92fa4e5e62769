"""One simulated device: when it takes samples, what it measures, and how it writes it down.

Samples are computed in blocks of 256, because array operations cost the same for one as for many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qingtu.clock import SECOND
from qingtu.properties import load_properties
from qingtu.units import canonical_unit
from simulators import MODELS
from simulators.community import happenings
from simulators.damage import Sample, Slot
from simulators.payloads.native import DIALECTS, encode, form, other_unit
from simulators.signal import Place, key_of, uniform1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue, DeviceEntry, Limits
    from qingtu.properties import Property
    from simulators.faults import FaultPlan
    from simulators.payloads.native import Dialect, Form
    from simulators.scenarios.scenario import Staged
    from simulators.signal import Model, Values

_BLOCK = 256


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


class Device:
    """A device of the catalogue that takes a sample every interval.

    Sample n is taken at ``n * interval + phase`` for every whole n, whatever the run: a run only chooses which.

    Args:
        catalogue: for the series' limits.
        entry: the device.
        seed: of the run.
        plan: of faults: which series are stuck or drift is part of the samples.
        roles: stories of its station.
        interval_us: between samples.
        phase_us: of the first sample after time 0.
        staged: a scenario that is told, or None.
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
        staged: Staged | None = None,
    ) -> None:
        self.entry, self.plan, self.staged = entry, plan, staged
        self.interval_us, self.phase_us = interval_us, phase_us
        self.device = entry.device.id
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

    def first_from(self, time_us: int) -> int:
        """Return the number of the first sample at or after a time."""
        return -((self.phase_us - time_us) // self.interval_us)

    def time_us(self, n: int) -> int:
        """Return when sample n is taken, µs UTC."""
        return n * self.interval_us + self.phase_us

    def series(self, at: int) -> tuple[str, str, str]:
        """Return (station, property, channel) of a reading by its position."""
        slot, (_, place) = self._slots[at], self._models[at]
        return place.station, slot.property.key, place.channel

    def limits(self, at: int) -> Limits:
        """Return the quality limits of a series by its position."""
        return self._slots[at].limits

    def series_name(self, at: int) -> str:
        """Return the name under which a fault plan knows a series of this device."""
        return f"{self.device}/{self._slots[at].name}"

    def drawn_fault(self, n: int) -> str:
        """Return the message fault that was drawn for sample n, "" for none; an episode goes before it."""
        block = self._block(n)
        return block.faults[n - block.first + 1]

    def wrong_series(self, n: int) -> Sequence[tuple[int, str]]:
        """Return (position, episode id) of the series that are stuck or drift in sample n."""
        return self._block(n).wrong.get(n, ())

    def prepare(self, time_us: int) -> None:
        """Compute the block that holds a time, so that the first message does not wait for it."""
        self._block(self.first_from(time_us))

    def payload(self, n: int) -> bytes:
        """Return the message of sample n, undisturbed."""
        block = self._block(n)
        readings = [
            (slot.name, number, slot.form.unit)
            for slot, number in zip(self._slots, block.written[n - block.first], strict=True)
        ]
        events = block.events.get(n, ())
        return encode(readings, self.time_us(n), n & 0xFFFF, self.dialect, device=self.device, events=events)

    def sample(self, n: int) -> Sample:
        """Return sample n in the form that faults work on."""
        block = self._block(n)
        at = n - block.first
        time_us = self.time_us(n)
        near = (self._block(m).wrong.get(m, ()) for m in (n - 1, n, n + 1))
        wrong = frozenset(position for found in near for position, _ in found)
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
            if self.staged is not None:
                raw = self.staged.values(place.station, slot.property.key, times, raw)
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
        who = self.series_name(at)
        for fault in ("stuck", "drift"):
            for episode in self.plan.episodes(fault, who, int(times[0]), int(times[-1]) + 1):
                inside = (times >= episode.start_us) & (times < episode.end_us)
                start = model(place, np.array([episode.start_us], dtype=np.int64))[0]
                if fault == "stuck":
                    raw[inside] = start
                else:
                    grown = (times[inside] - episode.start_us) / (episode.end_us - episode.start_us)
                    low, high = slot.limits.fail_min, slot.limits.fail_max
                    reach = min(0.3 * (abs(start) + 1.0), 0.15 * (high - low))
                    raw[inside] = np.clip(raw[inside] + reach * grown, low, high)
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
