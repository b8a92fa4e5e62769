"""What a fault does to one message: another payload, and what must come of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import orjson

from qingtu.clock import DAY, HOUR
from qingtu.units import conversion
from simulators.payloads.native import encode, write_time
from simulators.signal import hashes1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.catalogue import Limits
    from qingtu.properties import Property
    from simulators.payloads.native import Dialect, Form

_UNKNOWN_UNITS = ("furlong", "格令", "arb.u.", "bananas/m2")
_YEAR_2000_US = 946_684_800_000_000


class Slot(NamedTuple):
    """One reading of a device: how its number is written, and what the catalogue makes of it.

    Attributes:
        name: of the payload's field.
        property: what it measures.
        form: how the number is written.
        limits: quality limits of its series.
        sentinels: numbers that mean "missing".
        smooth: the value moves in small steps, so that a fault can stand out: no states, counts or directions.
    """

    name: str
    property: Property
    form: Form
    limits: Limits
    sentinels: tuple[float, ...]
    smooth: bool


class Sample(NamedTuple):
    """One message before anything goes wrong.

    Attributes:
        key: of the device's randomness.
        n: number of the sample.
        time_us: µs UTC.
        interval_us: between samples.
        device: device id.
        dialect: how the device writes.
        slots: its readings.
        values: canonical values, rounded, in the order of ``slots``.
        written: numbers as written, in the same order.
        wrong_series: positions in ``slots`` of series that are stuck or drift now, just before or just after.
        live: the sample is published when it is taken, not later as history.
    """

    key: int
    n: int
    time_us: int
    interval_us: int
    device: str
    dialect: Dialect
    slots: Sequence[Slot]
    values: Sequence[float]
    written: Sequence[float | int]
    wrong_series: frozenset[int]
    live: bool

    @property
    def seq(self) -> int:
        """The device's counter: 16 bits, wraps."""
        return self.n & 0xFFFF

    def encode(
        self,
        *,
        time_us: int | None = None,
        dialect: Dialect | None = None,
        at: int = -1,
        number: float | None = None,
        unit: str | None = None,
    ) -> bytes:
        """Write the message, perhaps with another time, dialect, or number or unit at one position."""
        readings: list[tuple[str, float | int, str]] = []
        for i, (slot, written) in enumerate(zip(self.slots, self.written, strict=True)):
            here = i == at
            readings.append(
                (
                    slot.name,
                    number if here and number is not None else written,
                    unit if here and unit is not None else slot.form.unit,
                )
            )
        when = self.time_us if time_us is None else time_us
        return encode(readings, when, self.seq, dialect or self.dialect, device=self.device)


class Damaged(NamedTuple):
    """A message after a fault.

    Attributes:
        payload: the bytes that are sent.
        expected: see :class:`simulators.truth.Fact`.
        at: position of the reading that was hit.
        decided_us: see :class:`simulators.truth.Fact`.
        detail: for people.
    """

    payload: bytes
    expected: str
    at: int
    decided_us: int
    detail: str


def damage(fault: str, sample: Sample, *, neighbours_clean: bool) -> Damaged | None:
    """Return what becomes of a sample, or None when the fault cannot show on this device.

    Args:
        fault: garbage, clock, spike or unit.
        sample: the message.
        neighbours_clean: the samples before and after it are sent on time and undisturbed.
    """
    if fault == "garbage":
        return _garbage(sample)
    if fault == "clock":
        return _clock(sample)
    return _spike(sample, neighbours_clean=neighbours_clean) if fault == "spike" else _unit(sample)


def _garbage(sample: Sample) -> Damaged:
    bits = hashes1(sample.key, sample.n)
    whole = sample.encode()
    noise = bits.to_bytes(8, "little")
    time = write_time(sample.time_us, sample.dialect.time)
    name = sample.slots[0].name
    kinds: tuple[tuple[bytes, str, str], ...] = (
        (b"\xff\xfe" + noise * 3, "bad_json", "noise on the line"),
        (whole[: len(whole) // 2], "bad_json", "cut in the middle"),
        (b"%s" % orjson.dumps(noise.hex()), "not_an_object", "a bare text"),
        (orjson.dumps({"time": time, "seq": sample.seq}), "no_readings", "no readings"),
        (orjson.dumps({"time": f"yesterday {sample.n}", "readings": {name: 1}}), "bad_time", "a time in words"),
        (orjson.dumps({"time": time, "readings": {name: [[]]}, "seq": sample.seq}), "bad_value", "a list for a number"),
    )
    payload, reason, detail = kinds[bits % len(kinds)]
    return Damaged(payload, f"quarantined:{reason}", 0, sample.time_us, detail)


def _clock(sample: Sample) -> Damaged:
    if hashes1(sample.key, sample.n) % 2:
        # a clock without battery starts again with the century
        claimed, detail = _YEAR_2000_US + sample.time_us % DAY, "year 2000"
    else:
        # history is received long after its time: only a clock far ahead is ahead of the receipt, too
        ahead = 2 * HOUR if sample.live else 366 * DAY
        claimed, detail = sample.time_us + ahead, f"{ahead // HOUR} h ahead"
    return Damaged(sample.encode(time_us=claimed), "quarantined:clock_wrong", 0, sample.time_us, detail)


def _candidates(sample: Sample) -> list[int]:
    """Return the positions whose value may be made wrong, in an order of chance."""
    free = [i for i, slot in enumerate(sample.slots) if slot.smooth and i not in sample.wrong_series]
    if not free:
        return free
    first = hashes1(sample.key, ~sample.n) % len(free)
    return free[first:] + free[:first]


def _spike(sample: Sample, *, neighbours_clean: bool) -> Damaged | None:
    positions = _candidates(sample)
    if sample.live and neighbours_clean:
        for at in positions:
            hit = _jump(sample, at)
            if hit is not None:
                return hit
    for at in positions:
        low, high = sample.slots[at].limits[:2]
        span = high - low
        if not 0.0 < span < float("inf"):
            continue
        number = sample.slots[at].form.write(round(high + 0.5 * span, 3))
        if number not in sample.slots[at].sentinels:
            payload = sample.encode(at=at, number=number)
            return Damaged(payload, "flag:4:gross_range", at, sample.time_us, "beyond what the sensor can measure")
    return None


def _jump(sample: Sample, at: int) -> Damaged | None:
    """Move a value by three times what fails the spike check, to a side that is still in range."""
    slot, value = sample.slots[at], sample.values[at]
    for step in (3.0 * slot.limits.spike_fail, -3.0 * slot.limits.spike_fail):
        wrong = round(value + step, slot.property.precision)
        if slot.limits.fail_min <= wrong <= slot.limits.fail_max:
            number = slot.form.write(wrong)
            decided = sample.time_us + sample.interval_us
            return Damaged(sample.encode(at=at, number=number), "flag:4:spike", at, decided, f"moved by {step:g}")
    return None


def _unit(sample: Sample) -> Damaged:
    bits = hashes1(sample.key, sample.n)
    for at in _candidates(sample) if bits % 2 else ():
        silent = _silent(sample, at)
        if silent is not None:
            return silent
    at, unit = bits % len(sample.slots), _UNKNOWN_UNITS[bits // 8 % len(_UNKNOWN_UNITS)]
    payload = sample.encode(dialect=replace(sample.dialect, units=True), at=at, unit=unit)
    return Damaged(payload, "quarantined:unknown_unit", at, sample.time_us, f"unit {unit}")


def _silent(sample: Sample, at: int) -> Damaged | None:
    """Write a value in another unit without saying so, where the number is then out of range; else it cannot show."""
    slot, value = sample.slots[at], sample.values[at]
    for unit in slot.property.accepted_units[1:]:
        scale, offset = conversion(slot.property, unit)
        number = round((value - offset) / scale, 6)
        read_as = number * slot.form.scale + slot.form.offset
        if not slot.limits.fail_min <= read_as <= slot.limits.fail_max and number not in slot.sentinels:
            payload = sample.encode(at=at, number=number)
            return Damaged(payload, "flag:4:gross_range", at, sample.time_us, f"in {unit} without saying so")
    return None
