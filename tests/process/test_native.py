"""The native decoder against anything: it never raises, and payloads do not touch each other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ingest.decoders import native
from ingest.decoders.native_model import PAYLOAD, SCHEMA_FILE, schema_text
from qingtu.contracts import NO_TIME, Decoded

ROOT = Path(__file__).parents[2]

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["12.5", "NaN", "inf", "1e999", 10**400, -(10**400), 2**64, -(2**63) - 1, "2026-11-23T08:00:00"]),
)  # fmt: skip
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
MEMBERS = {
    "time": ANY | st.sampled_from([1795392000, "2026-11-23T00:00:00Z", "2026-11-23T00:00:00"]),
    "readings": ANY | st.dictionaries(st.sampled_from(["a", "b", "温", "\ud800"]), ANY, max_size=3),
    "events": ANY | st.lists(st.fixed_dictionaries({"kind": ANY}, optional={"level": ANY, "time": ANY}), max_size=2),
    "seq": ANY,
    "device": st.sampled_from(["d", "e", 5]),
}
OBJECTS = st.fixed_dictionaries({}, optional=MEMBERS)
BODIES = ANY | OBJECTS | st.lists(OBJECTS | ANY, max_size=3)
PAYLOADS = st.binary(max_size=40) | BODIES.map(lambda body: json.dumps(body, ensure_ascii=True).encode())


def split(decoded: Decoded, n: int) -> list[str]:
    """Write what each payload became, as text that can be compared."""
    out = []
    for row in range(n):
        mine = np.flatnonzero(decoded.row == row)
        readings = [
            (decoded.names[decoded.name[i]], decoded.units[decoded.unit[i]], float(decoded.value[i]).hex(),
             int(decoded.time_us[i]), bool(decoded.local[i]))
            for i in mine
        ]  # fmt: skip
        events = [event[1:] for event in decoded.events if event[0] == row]
        refused = sorted(refusal[1:] for refusal in decoded.refused if refusal[0] == row)
        out.append(repr((readings, events, refused, bool(decoded.own_identity[row]))))
    return out


@given(st.lists(PAYLOADS, max_size=6))
@settings(max_examples=400, deadline=None)
@example([b'{"readings": {"a": ' + b"9" * 400 + b', "b": NaN}}'])
@example([b'{"time": "x", "events": 5}'])
@example([b'{"readings": {"a": NaN}, "events": [{"kind": "\\ud800"}]}'])
@example([b'{"readings": {"a": NaN}, "events": [{"kind": "k", "attributes": {"n": ' + b"9" * 30 + b"}}]}"])
def test_never_raises_and_payloads_do_not_touch_each_other(payloads: list[bytes]) -> None:
    """What a payload becomes is the same alone and among others, in order, and can be written into a frame."""
    together = native.decode(payloads, ["d"] * len(payloads))
    alone = [split(native.decode([payload], ["d"]), 1)[0] for payload in payloads]
    assert split(together, len(payloads)) == alone
    assert (np.diff(together.row) >= 0).all()
    assert not np.isinf(together.value).any()
    assert {len(getattr(together, c)) for c in ("row", "name", "unit", "value", "time_us", "local")} == {
        len(together.row)
    }
    for text in [*together.names, *together.units, *(e[1] for e in together.events), *(r[2] for r in together.refused)]:
        text.encode()  # no half of a surrogate pair comes through: Arrow could not hold it
    for event in together.events:
        orjson.dumps(event[4])
    for at, reason, detail, readings in together.refused:
        assert 0 <= at < len(payloads)
        assert reason
        assert detail
        assert readings >= 0


@given(st.lists(PAYLOADS, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_payload_is_refused_or_gives_something(payloads: list[bytes]) -> None:
    """No payload vanishes: each gives readings, events or a refusal."""
    decoded = native.decode(payloads, ["d"] * len(payloads))
    told = {*decoded.row.tolist(), *(e[0] for e in decoded.events), *(r[0] for r in decoded.refused)}
    assert told == set(range(len(payloads)))


@given(st.integers(1_000_000_000, 4_000_000_000), st.integers(0, 999_999))
def test_epoch_numbers_of_every_unit_are_the_same_moment(second: int, us: int) -> None:
    """Seconds, milliseconds, µs and ns are told apart by magnitude, with what each can carry."""
    whole = second * 1_000_000 + us
    for time, expected in (
        (second, second * 1_000_000), (whole // 1000, whole // 1000 * 1000), (whole, whole),
        (whole * 1000 + 999, whole), (str(whole * 1000), whole),
    ):  # fmt: skip
        decoded = native.decode([orjson.dumps({"time": time, "readings": {"a": 1}})], ["d"])
        assert decoded.time_us.tolist() == [expected]


def test_usual_and_unusual_ways_give_the_same() -> None:
    """The short cut for the usual message and the long way agree, in any order of messages."""
    usual = orjson.dumps({"time": 1795392000123, "readings": {"a": 1, "b": None, "c": 2.5}})
    turned = orjson.dumps({"readings": {"a": 1, "b": None, "c": 2.5}, "time": 1795392000123})
    longer = orjson.dumps({"time": 1795392000123, "readings": {"a": 1, "b": None, "c": 2.5}, "seq": None})
    first, *others = split(native.decode([usual, usual, turned, longer, usual], ["d"] * 5), 5)
    assert others == [first] * 4
    assert "nan" in first


def test_boundaries_of_magnitude() -> None:
    """The smallest and largest number of each unit, by the rule of the page."""
    times = [10**11 - 1, 10**11, 10**14 - 1, 10**14, 10**17 - 1, 10**17, 10**20]
    payloads = [orjson.dumps({"time": t, "readings": {"a": 1}}) for t in times[:-1]]
    payloads.append(b'{"time": 1e20, "readings": {"a": 1}}')
    decoded = native.decode(payloads, ["d"] * 7)
    assert decoded.time_us.tolist() == [
        (10**11 - 1) * 10**6, 10**14, (10**14 - 1) * 1000, 10**14, 10**17 - 1, 10**14,
    ]  # fmt: skip
    assert [(row, reason) for row, reason, _, _ in decoded.refused] == [(6, "bad_time")]
    assert NO_TIME not in decoded.time_us


# ---------------------------------------------------------------------------------------------- model and schema

CORE_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["12.5", " -3 ", ".5", "5.", "1e3", "NaN", "", "x", "1_0", "0x1", "1e", "+", "1 2"]),
    st.lists(st.none(), max_size=1),
)  # fmt: skip
CORE_UNITS = st.sampled_from(["ug/m3", "", "1", " 1 ", None, 5, "m" * 40, "m" * 41])
CORE_READINGS = st.dictionaries(
    st.sampled_from(["a", "b", "温"]),
    CORE_VALUES | st.fixed_dictionaries({"value": CORE_VALUES}, optional={"unit": CORE_UNITS, "note": st.just(1)}),
    max_size=3,
)
CORE_TIMES: st.SearchStrategy[Any] = st.sampled_from([
    None, 0, -5, 1795392000, 1.5, 1e19, 1e20, True, "2026-11-23T08:00:00Z", "2026-11-23 08:00:00.5+0800", "1795392000",
    "2026-11-23T08:00", "2026-11-23t08:00:00z", "2026-11-23", "20261123080000", "x", "", [], {},
])  # fmt: skip
CORE_EVENTS = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["fire", "", 5, None])},
        optional={
            "level": st.sampled_from([0, 4, 5, -1, True, "1"]),
            "time": st.sampled_from([None, 5, "2026-11-23T08:00:00Z", "x"]),
            "attributes": st.sampled_from([{}, {"a": [1]}, [], None]),
        },
    ),
    max_size=2,
)
CORE = st.fixed_dictionaries(
    {},
    optional={
        "time": CORE_TIMES.filter(lambda t: t != "2026-11-23T08:00"),  # zone-less: see the page about events
        "readings": CORE_READINGS | st.sampled_from([None, 5, []]),
        "events": CORE_EVENTS | st.sampled_from([None, 5, {}]),
        "seq": st.sampled_from([1, "1", None]),
        "rssi": st.just(-70),
    },
)


def accepted(payload: bytes) -> bool:
    """Whether the model validates a payload."""
    try:
        PAYLOAD.validate_json(payload)
    except ValidationError:
        return False
    return True


@given(CORE | st.lists(CORE, max_size=2))
@settings(max_examples=500, deadline=None)
def test_model_and_decoder_accept_the_same(body: Any) -> None:
    """A payload of the documented core validates if, and only if, the decoder refuses nothing of it."""
    payload = orjson.dumps(body)
    decoded = native.decode([payload], ["d"])
    assert accepted(payload) == (not decoded.refused), decoded.refused


BEYOND_A_SCHEMA = {
    "value-unit-bool-name",
    "device-other",
    "device-number",
    "events-zone-less",
    "time-bad-no-such-day",
    "time-bad-leap-second",
}
JSON_CASES = [
    file.parent
    for file in sorted((ROOT / "tests/cases/native").glob("*/payload.json"))
    if file.parent.name not in BEYOND_A_SCHEMA
]


@pytest.mark.parametrize("folder", JSON_CASES, ids=lambda f: f.name)
def test_cases_that_pass_validate(folder: Path) -> None:
    """A case of plain JSON validates if, and only if, nothing of it is refused; but for what no schema can say."""
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    assert accepted((folder / "payload.json").read_bytes()) == ("refused" not in case)


def test_schema_file_is_current() -> None:
    """docs/formats/native.schema.json is what the model says; `python -m ingest.decoders.native_model` writes it."""
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == schema_text()


def test_value_of_nan_is_missing_everywhere() -> None:
    """null, NaN and their text are the same: no value."""
    decoded = native.decode([b'{"readings": {"a": null, "b": NaN, "c": "nan", "d": {"value": null}}}'], ["d"])
    assert [math.isnan(v) for v in decoded.value] == [True] * 4
