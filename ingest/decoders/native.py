"""Native JSON: ``{"time": …, "readings": {name: number | {"value": …}}, "seq": …}``, or an array of it.

docs/formats/native.md has the whole definition; :mod:`ingest.decoders.native_model` its JSON Schema. The usual
message (numbers by name) takes a path without per-reading work; everything else is read one by one with the
same outcome.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from qingtu.contracts import NO_TIME, Decoded
from qingtu.marks import mark_number

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOLEAN_UNIT: Final = "bool"
"""Unit given to true and false: only properties that are states (0 or 1) accept it."""

_NO_UNIT: Final = frozenset(("", "1"))
_PLAIN: Final = frozenset((int, float))
_US: Final = 1_000_000
# An epoch number tells its unit by its size: seconds stay below 1e11 until the year 5138, and milliseconds
# above it since 1973; likewise for the steps to µs and ns.
_STEPS: Final = ((1e11, _US), (1e14, 1_000), (1e17, 1))
_MS: Final = (10**11, 10**14)
_LATEST: Final = 1e20
_EPOCH_DIGITS: Final = (10, 13, 16, 19)  # s, ms, µs, ns of our century; 14 digits are 20261123080000, which is none


class _Refusal(Exception):  # noqa: N818 - an outcome, not a fault
    """Part of a payload is refused.

    Attributes:
        reason: reason code.
        detail: for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class _Columns:
    """Columns as they grow. One entry of ``items`` is (payload row, number of readings, time, local).

    Of ``named`` one entry is the list of the name codes of an item's readings: the same one for items of one shape.
    """

    codes: dict[str, int] = field(default_factory=dict)
    unit_codes: dict[str, int] = field(default_factory=lambda: {"": 0})
    shapes: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    items: list[tuple[int, int, int, bool]] = field(default_factory=list)
    named: list[list[int]] = field(default_factory=list)
    value: list[Any] = field(default_factory=list)
    texts: dict[str, tuple[int, bool]] = field(default_factory=dict)
    own: list[bool] = field(default_factory=list)
    events: list[tuple[int, str, int, int, dict[str, Any], bool]] = field(default_factory=list)
    refused: list[tuple[int, str, str, int]] = field(default_factory=list)


def decode(payloads: Sequence[bytes], devices: Sequence[str | None]) -> Decoded:
    """Decode native JSON payloads; see :class:`qingtu.contracts.Decoder`."""
    columns = _Columns()
    shapes, loads = columns.shapes, orjson.loads
    for row, payload in enumerate(payloads):
        try:
            body = loads(payload)
        except orjson.JSONDecodeError:
            body = None
        # The usual message, inline: an object of known shape with an epoch time in ms, readings and perhaps a counter.
        if type(body) is dict and (len(body) == 2 or (len(body) == 3 and "seq" in body)):
            time, readings = body.get("time"), body.get("readings")
            if type(time) is int and _MS[0] <= time < _MS[1] and type(readings) is dict:
                codes = shapes.get(tuple(readings))
                if codes is not None:
                    columns.named.append(codes)
                    columns.value += readings.values()
                    columns.items.append((row, len(codes), time * 1000, False))
                    columns.own.append(True)
                    continue
        columns.own.append(_take_payload(columns, row, body, payload, devices[row]))
    return _finish(columns)


def _take_payload(columns: _Columns, row: int, body: Any, payload: bytes, device: str | None) -> bool:
    """Take a payload of any form, or refuse it; return whether it has a time or counter of its own."""
    try:
        body = _parse(payload) if body is None else body
    except _Refusal as refusal:
        columns.refused.append((row, refusal.reason, refusal.detail, 0))
        return False
    if type(body) is not list:
        return _take(columns, row, body, device)
    if not body:
        columns.refused.append((row, "no_readings", "the array is empty", 0))
    own = False
    for item in body:
        own |= _take(columns, row, item, device)
    return own


def _parse(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        try:
            # NaN, Infinity, huge numbers and a byte order mark are beyond JSON or orjson, but devices write them.
            body = json.loads(payload.decode("utf-8-sig"), parse_int=_whole)
            # What it takes beyond them (lone surrogates, any depth) is text that no frame can carry.
            orjson.dumps(body)
        except (ValueError, TypeError, RecursionError):
            raise _Refusal("bad_json", str(error)[:200]) from error
        return body


def _whole(digits: str) -> float:
    """Read an integer as orjson does: beyond 64 bits it is a float, perhaps an infinite one."""
    number = int(digits) if len(digits) < 20 else float(digits)
    return number if -(1 << 63) <= number < 1 << 64 else float(number)


def _take(columns: _Columns, row: int, item: Any, device: str | None) -> bool:
    """Take one object of a payload, or refuse it; return whether it has a time or counter of its own."""
    try:
        return _take_object(columns, row, item, device)
    except _Refusal as refusal:
        columns.refused.append((row, refusal.reason, refusal.detail, 0))
        return False


def _take_object(columns: _Columns, row: int, item: Any, device: str | None) -> bool:
    if type(item) is not dict:
        raise _Refusal("not_an_object", f"expected an object with readings, got {type(item).__name__}")
    claimed = item.get("device")
    if claimed is not None and device is not None and claimed != device:
        raise _Refusal("device_mismatch", f"payload says device {str(claimed)[:80]!r}, topic says {device!r}")
    readings = item.get("readings")
    if readings is not None and type(readings) is not dict:
        raise _Refusal("bad_value", f"readings must be an object, got {type(readings).__name__}")
    events = item.get("events")
    if events is not None and type(events) is not list:
        raise _Refusal("bad_value", f"events must be an array, got {type(events).__name__}")
    if not readings and not events:
        raise _Refusal("no_readings", "neither readings nor events inside")
    time = item.get("time")
    own = time is not None or item.get("seq") is not None
    try:
        at, local = _time(columns, time)
    except _Refusal as refusal:
        columns.refused.append((row, refusal.reason, refusal.detail, len(readings or ()) + len(events or ())))
        return own
    if readings:
        keys = tuple(readings)
        codes = columns.shapes.get(keys)
        if codes is None:
            known = columns.codes
            codes = columns.shapes[keys] = [known.setdefault(key, len(known)) for key in keys]
        columns.named.append(codes)
        columns.value += readings.values()
        columns.items.append((row, len(codes), at, local))
    if events:
        _events(columns, row, events, at, local=local)
    return own


def _time(columns: _Columns, time: Any) -> tuple[int, bool]:
    """Return (µs, whether the zone is still to be applied)."""
    if time is None:
        return NO_TIME, False
    kind = type(time)
    if kind is str:
        known = columns.texts.get(time)
        if known is None:
            known = columns.texts[time] = _parse_time(time)
        return known
    if (kind is int or kind is float) and abs(time) < _LATEST:
        return _epoch_us(time), False
    raise _Refusal("bad_time", f"time {str(time)[:40]!r} is neither RFC 3339 nor an epoch number")


def _epoch_us(time: float) -> int:
    size = abs(time)
    for limit, factor in _STEPS:
        if size < limit:
            return round(time * factor)
    return int(time // 1000)


def _parse_time(text: str) -> tuple[int, bool]:
    stamp = text.strip()
    if len(stamp) in _EPOCH_DIGITS and stamp.isascii() and stamp.isdigit():
        return _epoch_us(int(stamp)), False
    # fromisoformat also takes dates without a time, week dates and times without separators: none is RFC 3339.
    if len(stamp) < 16 or stamp[4] != "-" or stamp[7] != "-" or stamp[10] not in "Tt " or stamp[13] != ":":
        raise _Refusal("bad_time", f"time {text[:40]!r} is not RFC 3339, such as 2026-11-23T08:00:00+08:00")
    try:
        moment = datetime.fromisoformat(stamp.upper())  # RFC 3339 allows t and z
    except ValueError as error:
        raise _Refusal("bad_time", f"time {text[:40]!r}: {error}") from error
    local = moment.tzinfo is None
    since = (moment.replace(tzinfo=UTC) if local else moment) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * _US + since.microseconds, local


def _events(columns: _Columns, row: int, events: list[Any], at: int, *, local: bool) -> None:
    for event in events:
        try:
            columns.events.append((row, *_event(columns, event, at, local=local)))
        except _Refusal as refusal:
            columns.refused.append((row, refusal.reason, refusal.detail, 1))


def _event(columns: _Columns, event: Any, at: int, *, local: bool) -> tuple[str, int, int, dict[str, Any], bool]:
    if type(event) is not dict or type(event.get("kind")) is not str or not event["kind"]:
        raise _Refusal("bad_value", "an event is an object with a kind")
    level, attributes = event.get("level", 0), event.get("attributes", {})
    if type(level) is not int or not 0 <= level <= 4 or type(attributes) is not dict:
        raise _Refusal("bad_value", "an event's level is 0 to 4 and its attributes are an object")
    if event.get("time") is not None:
        at, local = _time(columns, event["time"])
    return event["kind"][:64], level, at, attributes, local


def _finish(columns: _Columns) -> Decoded:
    # Of a list of tuples np.array looks for shape and kind first, which takes twice as long.
    items = np.fromiter(chain.from_iterable(columns.items), np.int64, 4 * len(columns.items)).reshape(-1, 4)
    counts = items[:, 1]
    row = np.repeat(items[:, 0].astype(np.int32), counts)
    name = _names(columns.named)
    units = np.zeros(len(columns.value), np.int32)
    keep: np.ndarray[Any, Any] | None = None
    marks: np.ndarray[Any, Any] | None = None
    if _PLAIN.issuperset(map(type, columns.value)):
        value = np.array(columns.value, np.float64)  # orjson and _whole keep integers within 64 bits
    else:
        value, keep, marks = _one_by_one(columns, row, name, units)
    if not np.isfinite(value).all():
        keep = _refuse_infinite(columns, row, name, value, keep)
    out = Decoded(
        names=list(columns.codes),
        units=list(columns.unit_codes),
        row=row,
        name=name,
        unit=units,
        value=value,
        time_us=np.repeat(items[:, 2], counts),
        local=np.repeat(items[:, 3].astype(np.bool_), counts),
        own_identity=np.array(columns.own, np.bool_),
        events=columns.events,
        refused=columns.refused,
        mark=marks,
    )
    if keep is not None:
        for attribute in ("row", "name", "unit", "value", "time_us", "local"):
            setattr(out, attribute, getattr(out, attribute)[keep])
        out.mark = None if marks is None else marks[keep]
    return out


def _names(named: list[list[int]]) -> np.ndarray[Any, Any]:
    """Return the name code of each reading."""
    if named and named.count(named[0]) == len(named):  # usual: all have one shape
        return np.tile(np.array(named[0], np.int32), len(named))
    return np.fromiter(chain.from_iterable(named), np.int32)


def _one_by_one(columns: _Columns, rows: Any, name: Any, units: Any) -> tuple[Any, Any, Any]:
    """Return values, which are not refused, and marks (None when there is none)."""
    value = np.empty(len(columns.value), np.float64)
    keep = np.ones(len(columns.value), np.bool_)
    by_code = list(columns.codes)
    marks = None
    for i, given in enumerate(columns.value):
        try:
            value[i], unit = _value(given)
            if type(given) is dict and given.get("mark") is not None:
                marks = np.zeros(len(keep), np.uint8) if marks is None else marks
                marks[i] = _mark(given["mark"])
            units[i] = columns.unit_codes.setdefault(unit, len(columns.unit_codes))
        except _Refusal as refusal:
            keep[i], value[i] = False, np.nan
            detail = f"{by_code[name[i]][:80]}: {refusal.detail}"
            columns.refused.append((int(rows[i]), refusal.reason, detail, 1))
    return value, keep, marks


def _mark(given: Any) -> int:
    if type(given) is not str:
        raise _Refusal("bad_value", f"a mark is a word such as 'maintenance', got {type(given).__name__}")
    return mark_number(given)


def _refuse_infinite(columns: _Columns, rows: Any, name: Any, value: Any, keep: Any) -> Any:
    kept = np.ones(len(value), np.bool_) if keep is None else keep
    by_code = list(columns.codes)
    for i in np.flatnonzero(np.isinf(value) & kept):
        columns.refused.append((int(rows[i]), "not_finite", f"{by_code[name[i]][:80]}: infinite", 1))
        kept[i] = False
    return kept


def _value(given: Any, *, nested: bool = False) -> tuple[float, str]:
    """Return (number or NaN, unit text)."""
    kind = type(given)
    if kind is int or kind is float:
        return float(given), ""
    if given is None:
        return float("nan"), ""
    if kind is bool:
        return float(given), BOOLEAN_UNIT
    if kind is str:
        return _from_text(given), ""
    if kind is dict and not nested and "value" in given:
        number, unit = _value(given["value"], nested=True)
        given_unit = given.get("unit")
        if given_unit is None:
            return number, unit
        if type(given_unit) is not str or len(given_unit) > 40 or given_unit.strip() == BOOLEAN_UNIT:
            raise _Refusal("unknown_unit", f"unit {str(given_unit)[:40]!r} is not a short text that names a unit")
        if unit == BOOLEAN_UNIT and given_unit.strip() not in _NO_UNIT:
            raise _Refusal("bad_value", f"true or false in {given_unit!r}")
        return number, unit or given_unit.strip()
    raise _Refusal("bad_value", f"expected a number or an object with value and unit, got {kind.__name__}")


def _from_text(text: str) -> float:
    # float() also takes "1_000" and digits of any script; a device that writes that means something else.
    if "_" not in text and text.isascii():
        try:
            return float(text)
        except ValueError:
            pass
    raise _Refusal("bad_value", f"text {text[:40]!r} is not a number")
