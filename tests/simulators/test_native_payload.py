"""Dialects of native JSON say the same thing, and what is written in other units can be read back exactly."""

from __future__ import annotations

from datetime import datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decoders.native import decode
from qingtu.clock import HOUR
from qingtu.properties import load_properties
from qingtu.units import conversion
from simulators.payloads.native import DIALECTS, Dialect, encode, form, other_unit, write_time

TIME = 1_795_392_000_000_000


@pytest.mark.parametrize(
    ("how", "text"),
    [("offset", "2026-11-23T08:00:00+08:00"), ("offset_basic", "2026-11-23T08:00:00+0800"),
     ("utc", "2026-11-23T00:00:00Z"), ("local", "2026-11-23T08:00:00"), ("epoch_s", 1_795_392_000),
     ("epoch_ms", 1_795_392_000_000), ("epoch_us", TIME), ("epoch_ns", TIME * 1000)],
)  # fmt: skip
def test_times_are_written_in_every_form(how: str, text: str | int) -> None:
    """One moment in eight forms."""
    assert write_time(TIME, how) == text  # type: ignore[arg-type]


def test_parts_of_a_second_are_kept() -> None:
    """No form loses what it can hold; texts keep microseconds, epochs their fraction."""
    assert datetime.fromisoformat(str(write_time(TIME + 250_001, "utc"))).microsecond == 250_001
    assert write_time(TIME + 250_000, "epoch_s") == 1_795_392_000.25
    assert write_time(TIME + 250_000, "epoch_ms") == 1_795_392_000_250


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_says_the_same_as_every_other(dialect: Dialect) -> None:
    """Readings, counter and events are all there, whatever the dialect."""
    events = [("card", 0, TIME, {"card": "3702", "door": "A1"})]
    body = orjson.loads(encode([("pm25", 35, "µg/m³"), ("co", 0.5, "")], TIME, 7, dialect, device="d", events=events))
    assert isinstance(body, list) == dialect.array
    body = body[0] if dialect.array else body
    assert body["seq"] == 7
    assert body.get("device", "") == ("d" if dialect.names_itself else "")
    pm25 = body["readings"]["pm25"]
    assert pm25 == ({"value": 35, "unit": "µg/m³"} if dialect.units else "35" if dialect.strings else 35)
    assert float(body["readings"]["co"]) == 0.5
    when = write_time(TIME, "offset" if dialect.time == "local" else dialect.time)
    assert body["events"] == [{"kind": "card", "level": 0, "time": when, "attributes": {"card": "3702", "door": "A1"}}]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_decoder_reads_every_dialect(dialect: Dialect) -> None:
    """What the simulator writes, the product's decoder reads: time, values, units, events, and nothing refused."""
    events = [("plate", 0, TIME - 1_000_000, {"plate": "鲁B00000"})]
    payload = encode([("pm25", 35, "µg/m³"), ("co", 0.5, "")], TIME, 7, dialect, device="d", events=events)
    found = decode([payload], ["d"])
    assert found.refused == []
    assert (found.time_us - 8 * HOUR * found.local).tolist() == [TIME, TIME]
    assert dict(zip((found.names[i] for i in found.name), found.value.tolist(), strict=True)) == {"pm25": 35, "co": 0.5}
    assert [found.units[i] for i in found.unit] == (["µg/m³", ""] if dialect.units else ["", ""])
    assert found.own_identity.all()
    assert found.events == [(0, "plate", 0, TIME - 1_000_000, {"plate": "鲁B00000"}, False)]


@given(st.sampled_from(load_properties().keys()), st.integers(0, 5), st.floats(0, 1))
def test_another_unit_reads_back_as_the_same_value(key: str, choice: int, where: float) -> None:
    """Each unit that a device may write is accepted for the property, and rounding loses nothing to be shown."""
    prop = load_properties()[key]
    low, high = prop.plausible
    value = round(low + (high - low) * where, prop.precision)
    text = other_unit(prop, choice)
    number = form(prop, text, text=text).write(value)
    back = conversion(prop, text)
    assert round(float(number) * back.scale + back.offset, prop.precision) == pytest.approx(value, abs=1e-9)


def test_scale_and_offset_of_a_field_are_undone() -> None:
    """``number * scale + offset`` in the field's unit is the value."""
    prop = load_properties()["air_temperature"]
    number = form(prop, "K", scale=0.1, offset=200.0).write(20.0)
    assert float(number) * 0.1 + 200.0 == pytest.approx(293.15)
