"""A community: meters, parking, doors, fire protection, and the cards and plates that pass its gates.

Card numbers and plates are made up, but have the form of real ones, so that pseudonymisation has something to hide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qingtu.clock import DAY, HOUR, SECOND
from simulators.signal import (
    LOCAL_OFFSET_US,
    awake,
    bump,
    hour_of_day,
    local_day,
    steady,
    traffic,
    uniform,
    uniform1,
    weekend,
)
from simulators.weather import solar_radiation

if TYPE_CHECKING:
    from collections.abc import Collection

    from simulators.signal import Model, Place, Times, Values

_METER_ZERO_US = 1_577_836_800_000_000  # 2020-01-01: when all meters were put in
_PLATE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Happening:
    """One event of a device.

    Attributes:
        kind: card, plate or fire_test.
        level: 0 (normal) to 4, as alert levels.
        time_us: µs UTC.
        attributes: what the device says about it; identifiers in the clear.
    """

    kind: str
    level: int
    time_us: int
    attributes: dict[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------ use and meters


def electric_power(place: Place, time_us: Times) -> Values:
    """Return active power in kW: its meter's rate, with what one kettle more or less makes."""
    return _use(place, "power", 18.0, 60.0, time_us) * (1.0 + 0.03 * place.wander("power", time_us, 1.0))


def _use(place: Place, word: str, low: float, high: float, time_us: Times) -> Values:
    """Return a use that swings with the day and can be integrated exactly: see :func:`_meter`."""
    mean, peak = place.constant(word, low, high), place.constant(f"{word} peak", 18.0, 20.0)
    result: Values = mean * (1.0 + 0.5 * np.cos((hour_of_day(time_us) - peak) * (np.pi / 12.0)))
    return result


def _meter(word: str, low: float, high: float) -> Model:
    """Make a meter that adds up a use of ``low`` to ``high`` an hour; it never runs backwards."""

    def model(place: Place, time_us: Times) -> Values:
        mean, peak = place.constant(word, low, high), place.constant(f"{word} peak", 18.0, 20.0)
        hours = (time_us - _METER_ZERO_US) / HOUR
        # the zero stands at a local hour of 8: the same phase as hour_of_day
        swing = np.sin((hours + 8.0 - peak) * (np.pi / 12.0)) * (0.5 * 12.0 / np.pi)
        start = np.sin((8.0 - peak) * (np.pi / 12.0)) * (0.5 * 12.0 / np.pi)
        result: Values = place.constant(f"{word} start", 0.0, 900.0) + mean * (hours + swing - start)
        return result

    return model


def voltage(place: Place, time_us: Times) -> Values:
    """Return mains voltage in V: lower when all cook."""
    sag = 2.5 * bump(hour_of_day(time_us), 18.5, 2.0)
    return 229.0 + 1.0 * place.wander("voltage", time_us, 3.0) - sag + 0.25 * place.jitter("voltage", time_us)


def electric_current(place: Place, time_us: Times) -> Values:
    """Return the current of one of three phases in A."""
    return electric_power(place, time_us) * 1000.0 / (3.0 * 229.0 * 0.95)


def cable_temperature(place: Place, time_us: Times) -> Values:
    """Return the temperature of a cable in Cel: it warms with the load."""
    share = electric_power(place, time_us) / place.constant("power", 18.0, 60.0)
    return 21.0 + 6.0 * share + 0.1 * place.jitter("cable", time_us)


def pipe_pressure(place: Place, time_us: Times) -> Values:
    """Return water pressure in MPa: it falls when many draw water."""
    drawn = 0.03 * (bump(hour_of_day(time_us), 7.2, 1.2) + bump(hour_of_day(time_us), 19.5, 1.8))
    return place.constant("pressure", 0.34, 0.46) - drawn + 0.001 * place.jitter("pipe", time_us)


# ------------------------------------------------------------------------------------------- people and cars


def people_count(place: Place, time_us: Times) -> Values:
    """Return how many passed in the past interval."""
    busy = 260.0 if place.kind == "park" else 90.0
    hour = hour_of_day(time_us)
    shape = awake(time_us) * (0.35 + 0.5 * bump(hour, 9.5, 2.0) + 0.8 * bump(hour, 18.8, 2.2))
    rate = place.constant("people", 0.6, 1.4) * busy * shape * np.where(weekend(time_us), 1.4, 1.0)
    # whole people: the rest by chance
    return np.floor(rate * place.interval_s / 3600.0 + uniform(place.key("people"), time_us))


def parking_occupancy(place: Place, time_us: Times) -> Values:
    """Return 1 while the space is taken: its car leaves in the morning and comes home, at other times each day."""
    day, hour = local_day(time_us), hour_of_day(time_us)
    leaves = 7.2 + 1.6 * uniform(place.key("leaves"), day)
    returns = 17.4 + 2.6 * uniform(place.key("returns"), day)
    away = (hour >= leaves) & (hour < returns) & (uniform(place.key("drives"), day) < 0.86)
    result: Values = np.where(away, 0.0, 1.0)
    return result


def door_open(place: Place, time_us: Times) -> Values:
    """Return 1 while the door stands open; mostly it is closed."""
    chance = 0.02 + 0.10 * awake(time_us) * (0.5 + traffic(time_us))
    return (uniform(place.key("door"), time_us // (20 * SECOND)) < chance).astype(np.float64)


def bin_fill_level(place: Place, time_us: Times) -> Values:
    """Return how full a bin is in %: emptied over half an hour at dawn, filled while people are about."""
    since = (hour_of_day(time_us) - 6.0) % 24.0
    full = place.constant("bin", 52.0, 74.0)
    filled = full * (1.0 - np.exp(-since / 9.0)) / (1.0 - np.exp(-24.0 / 9.0))
    result: Values = np.maximum(filled, full * (1.0 - since / 0.5))
    return np.clip(result, 0.0, 100.0)


def indoor_co2(place: Place, time_us: Times) -> Values:
    """Return carbon dioxide indoors in ppm."""
    people = awake(time_us) * (0.6 + 0.4 * bump(hour_of_day(time_us), 20.0, 3.0))
    return 470.0 + 290.0 * people + 20.0 * place.wander("co2", time_us, 2.0)


def illuminance(place: Place, time_us: Times) -> Values:
    """Return illuminance in lx: daylight, and a street lamp in the dark."""
    daylight = 105.0 * solar_radiation(place, time_us)
    return daylight + place.constant("lamp", 12.0, 28.0) * (daylight < 30.0)


def _at_rest(value: float, noise: float) -> Model:
    """Make a detector that has nothing to report: its zero and its noise, never below 0."""

    def model(place: Place, time_us: Times) -> Values:
        return np.maximum(value + noise * place.jitter(f"rest {value} {noise}", time_us), 0.0)

    return model


# ------------------------------------------------------------------------------------------- the device itself


def battery_level(place: Place, time_us: Times) -> Values:
    """Return a battery's charge in %: a sun-charged one swings a little over the day."""
    day = 3.0 * np.cos((hour_of_day(time_us) - 16.0) * (np.pi / 12.0))
    return place.constant("battery", 74.0, 95.0) + day


def battery_voltage(place: Place, time_us: Times) -> Values:
    """Return a lithium cell's voltage in V, from its charge."""
    return 3.3 + 0.008 * battery_level(place, time_us)


def rssi(place: Place, time_us: Times) -> Values:
    """Return received signal strength in dBm."""
    return place.constant("rssi", -98.0, -70.0) + 1.5 * place.wander("rssi", time_us, 2.0)


SERIES: dict[str, Model] = {
    "indoor_co2": indoor_co2,
    "illuminance": illuminance,
    "smoke_density": _at_rest(0.03, 0.004),
    "gas_leak": _at_rest(0.4, 0.1),
    "water_leak": _at_rest(0.0, 0.0),
    "door_open": door_open,
    "people_count": people_count,
    "parking_occupancy": parking_occupancy,
    "bin_fill_level": bin_fill_level,
    "manhole_tilt": _at_rest(0.8, 0.05),
    "water_meter": _meter("water", 0.8, 2.4),
    "gas_meter": _meter("gas", 0.6, 1.8),
    "pipe_pressure": pipe_pressure,
    "electric_energy": _meter("power", 18.0, 60.0),
    "electric_power": electric_power,
    "voltage": voltage,
    "electric_current": electric_current,
    "residual_current": _at_rest(14.0, 0.8),
    "cable_temperature": cable_temperature,
    "battery_voltage": battery_voltage,
    "battery_level": battery_level,
    "rssi": rssi,
    "snr": steady(6.0, 10.0, swing=0.1, period_h=3.0, noise=0.01),
}


# ------------------------------------------------------------------------------------------------- events


def happenings(place: Place, properties: Collection[str], start_us: int, end_us: int) -> list[Happening]:
    """Return what happened at a device in [start, end), by time: cards at doors, plates at parking spaces, fire tests.

    Args:
        place: the station.
        properties: what the device measures: a door has a card reader, a parking space a camera, smoke a test button.
        start_us: µs UTC.
        end_us: µs UTC.
    """
    found: list[Happening] = []
    # one chance per two minutes, so that it does not matter how the range is cut
    first, last = -(-start_us // (120 * SECOND)), -(-end_us // (120 * SECOND))
    if first == last:
        return found
    slots = np.arange(first, last, dtype=np.int64)
    times = slots * 120 * SECOND
    busy = awake(times) * (0.3 + traffic(times))
    if "door_open" in properties:
        found += [_card(place, int(t)) for t in times[uniform(place.key("card"), slots) < 0.35 * busy]]
    if "parking_occupancy" in properties:
        found += [_plate(place, int(t)) for t in times[uniform(place.key("plate"), slots) < 0.12 * busy]]
    if "smoke_density" in properties:
        monthly_test = uniform(place.key("fire test"), slots) < 120 * SECOND / (30 * DAY)
        daytime = (times + LOCAL_OFFSET_US) % DAY // HOUR
        tests = times[monthly_test & (daytime >= 9) & (daytime < 17)]
        found += [Happening("fire_test", 0, int(t), {"panel": place.station}) for t in tests]
    return sorted(found, key=lambda event: (event.time_us, event.kind))


def _card(place: Place, time_us: int) -> Happening:
    # 40 residents, each with a card number that stays
    resident = int(uniform1(place.key("who"), time_us) * 40)
    card = 3702_0000_0000 + int(uniform1(place.key(f"card {resident}"), 0) * 1e8)
    entrance = "ABCD"[int(uniform1(place.key("where"), time_us) * 4)]
    return Happening("card", 0, time_us, {"card": str(card), "door": f"{entrance}1"})


def _plate(place: Place, time_us: int) -> Happening:
    car = int(uniform1(place.key("car"), time_us) * 30)
    letters = [
        _PLATE_LETTERS[int(uniform1(place.key(f"plate {car}"), digit) * len(_PLATE_LETTERS))] for digit in range(5)
    ]
    direction = "in" if uniform1(place.key("direction"), time_us) < 0.5 else "out"
    return Happening("plate", 0, time_us, {"plate": "鲁B" + "".join(letters), "direction": direction})
