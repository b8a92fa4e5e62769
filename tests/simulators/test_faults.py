"""Injected faults: each kind happens, is written down with the right bytes, and has the outcome it promises.

The outcome is decided here by a small second pipeline, written from the rules alone (docs of formats, quality and
time), so that the ground truth is checked before the real pipeline is checked with it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from processors.bits import named
from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.catalogue_model import Content
from qingtu.clock import DAY, HOUR, MINUTE, SECOND
from qingtu.errors import ConfigError
from qingtu.properties import load_properties
from qingtu.records import times_of
from qingtu.settings import Settings
from qingtu.units import UnknownUnit, conversion
from simulators.faults import FAULTS, PRESETS, FaultPlan, parse_faults
from simulators.stage import Stage
from simulators.truth import Fact, Stored, Truth, TruthError, TruthWriter, compare
from simulators.world import World

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from qingtu.catalogue import DeviceEntry, Limits
    from qingtu.records import Frame
    from simulators.world import Message

START = 1_795_363_200_000_000
LIVE = START + 2 * HOUR
END = LIVE + 5 * HOUR
Key = tuple[str, str, str]
CHINA = timezone(timedelta(hours=8))


@cache
def city() -> Catalogue:
    return load_catalogue(Path(__file__).parents[2] / "stations")


@cache
def run() -> tuple[list[Message], list[Fact]]:
    plan = FaultPlan(11, PRESETS["all"], begin_us=START, live_from_us=LIVE)
    facts: list[Fact] = []
    return list(World(city(), 11, faults=plan).messages(START, END, facts.append)), facts


class Refused(Exception):  # noqa: N818 - the answer of the little pipeline
    pass


def read_time(claimed: Any) -> int:
    if isinstance(claimed, str):
        try:
            moment = datetime.fromisoformat(claimed)
        except ValueError:
            raise Refused("bad_time") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=CHINA)
        return round(moment.timestamp() * SECOND)
    # told apart by magnitude: s, ms, µs or ns since 1970, for times from 1990 on
    number = float(claimed)
    if number > 6.3e17:
        return int(claimed) // 1000
    return round(number) if number > 6.3e14 else round(number * (1000 if number > 6.3e11 else SECOND))


class LittlePipeline:
    """Messages in publish order → ledger, readings with flags, quarantine. Follows the rules alone."""

    def __init__(self, messages: list[Message]) -> None:
        self.counts: Counter[str] = Counter()
        self.quarantine: dict[str, set[str]] = {}
        self.readings: dict[tuple[Key, int], tuple[float, Stored, bool]] = {}
        self.seen: set[tuple[str, bytes]] = set()
        self.last: dict[Key, list[tuple[int, float]]] = {}
        for message in messages:
            # history is received when live begins
            self._message(message, max(message.at_us, LIVE))

    def _message(self, message: Message, received: int) -> None:
        self.counts["received"] += 1
        if (message.topic, message.payload) in self.seen:
            self.counts["duplicate"] += 1
            return
        self.seen.add((message.topic, message.payload))
        _, network, device, _ = message.topic.split("/")
        reasons = self._content(message.payload, city().devices[network, device], received)
        self.counts["quarantined" if reasons else "stored"] += 1
        if reasons:
            self.quarantine.setdefault(hashlib.sha256(message.payload).hexdigest(), set()).update(reasons)

    def _content(self, payload: bytes, entry: DeviceEntry, received: int) -> set[str]:
        try:
            body = orjson.loads(payload)
        except ValueError:
            return {"bad_json"}
        body = body[0] if isinstance(body, list) else body
        if not isinstance(body, dict) or "readings" not in body:
            return {"no_readings" if isinstance(body, dict) else "not_an_object"}
        try:
            time_us = read_time(body["time"])
        except Refused as refused:
            return {str(refused)}
        if time_us > received + 5 * MINUTE or time_us < received - 400 * DAY:
            return {"clock_wrong"}
        assert body.get("device", entry.device.id) == entry.device.id
        reasons = set()
        for name, given in body["readings"].items():
            try:
                self._reading(entry, name, given, time_us, received)
            except Refused as refused:
                reasons.add(str(refused))
        return reasons

    def _reading(self, entry: DeviceEntry, name: str, given: Any, time_us: int, received: int) -> None:
        field = entry.fields[name]
        series = city().series[field.series_index]
        number, unit = (given["value"], given["unit"]) if isinstance(given, dict) else (given, field.unit)
        try:
            factor = conversion(load_properties()[series.property], unit)
            value = (float(number) * field.scale + field.offset) * factor.scale + factor.offset
        except UnknownUnit:
            raise Refused("unknown_unit") from None
        except TypeError:
            raise Refused("bad_value") from None
        key = (series.station, series.property, series.channel)
        late = received - time_us > max(3 * entry.interval_s, 600) * SECOND
        outside = not series.limits.fail_min <= value <= series.limits.fail_max
        stored = Stored(4, {"gross_range"}) if outside else Stored(1)
        self.readings[key, time_us] = (value, stored, late)
        past = self.last.setdefault(key, [])
        if not late and (not past or time_us > past[-1][0]):
            past.append((time_us, value))
            self._decide_spike(key, past, series.limits.spike_fail)
            self._decide_flat(key, past, series.limits, series.interval_s)

    def _decide_spike(self, key: Key, past: list[tuple[int, float]], fail: float) -> None:
        if len(past) < 3:
            return
        (_, before), (time_us, value), (_, after) = past[-3:]
        if abs(value - (before + after) / 2) > fail:
            known, stored, late = self.readings[key, time_us]
            self.readings[key, time_us] = (known, Stored(4, {*stored.tests, "spike"}), late)

    def _decide_flat(self, key: Key, past: list[tuple[int, float]], limits: Limits, interval_s: float) -> None:
        """So many readings before this one, and it, have a range below the tolerance."""
        for flag, limit_s in ((4, limits.flat_fail_s), (3, limits.flat_suspect_s)):
            if not limits.flat_tolerance or limit_s == float("inf"):
                continue
            window = [value for _, value in past[-max(2, int(limit_s / interval_s)) - 1 :]]
            if len(window) > max(2, int(limit_s / interval_s)) and max(window) - min(window) < limits.flat_tolerance:
                known, stored, late = self.readings[key, past[-1][0]]
                flags = Stored(max(flag, stored.flag), {*stored.tests, "flat_line"})
                self.readings[key, past[-1][0]] = (known, flags, late)
                return

    def totals(self) -> Mapping[str, int]:
        return {**self.counts, "in_flight": 0}

    def reading(self, series: Key, time_us: int) -> Stored | None:
        found = self.readings.get((series, time_us))
        return found and found[1]

    def reasons(self, fact: Fact) -> Collection[str]:
        return self.quarantine.get(fact.message, set())

    def late(self, series: Key, time_us: int) -> bool | None:
        return self.readings[series, time_us][2]


def written(tmp_path: Path) -> Truth:
    messages, facts = run()
    with TruthWriter(tmp_path / "truth.jsonl") as truth:
        for fact in facts:
            truth.fact(fact)
        for message in messages:
            truth.sent(message.expected)
        truth.finish(START, END, seed=11)
    return Truth.load(tmp_path / "truth.jsonl")


def test_every_fault_has_the_outcome_that_the_truth_promises(tmp_path: Path) -> None:
    """A pipeline that follows the rules agrees with the ground truth of a day with all faults, message by message."""
    truth = written(tmp_path)
    assert set(truth.totals.by_fault) == set(FAULTS)
    assert {fact.expected for fact in truth.facts} >= {
        "absent", "duplicate", "late", "stored", "flag:4:spike", "flag:4:gross_range", "flag:3:flat_line",
        "quarantined:bad_json", "quarantined:not_an_object", "quarantined:no_readings", "quarantined:bad_time",
        "quarantined:bad_value", "quarantined:clock_wrong", "quarantined:unknown_unit",
    }  # fmt: skip
    assert compare(truth, LittlePipeline(run()[0])) == []


def test_the_real_pass_finds_the_sensors_that_stand_still() -> None:
    """Noise, air and radiation, each sensor stuck once, messages lost and doubled: flat_line says 3 when it must."""
    content = orjson.loads(city().to_json())["content"]
    del content["dictionary"]
    chosen = ("QD-NS-001", "QD-NS-002", "QD-NS-003", "QD-AQ-001", "QD-RD-001", "QD-RD-002")
    content["stations"] = [block for block in content["stations"] if block["id"] in chosen]
    content["rules"] = []
    small = Catalogue(Content.model_validate(content))
    facts: dict[str, Fact] = {}
    plan = FaultPlan(5, {"stuck": 1.0, "loss": 0.02, "duplicate": 0.02}, begin_us=START, live_from_us=START)
    world = World(small, 5, faults=plan)
    found: dict[tuple[str, str, int], tuple[int, list[str]]] = {}

    def watch(frame: Frame) -> None:
        readings = frame.get("readings")
        if readings is not None:
            times = times_of(readings.column("time")).tolist()
            for row, at in zip(
                readings.select(["station", "property", "flag", "tests"]).to_pylist(), times, strict=True
            ):
                found[row["station"], row["property"], at] = (row["flag"], named(row["tests"]))

    with closing(Stage(small, Settings(), watch)) as stage:
        assert len(list(stage.play(world, START, START + 7 * HOUR))) == 84
    list(World(small, 5, faults=plan).messages(START, START + 7 * HOUR, lambda fact: facts.update({fact.id: fact})))
    flat = [f for f in facts.values() if f.expected == "flag:3:flat_line" and f.decided_us < START + 7 * HOUR]
    assert {f.property for f in flat} >= {"noise_leq", "gamma_dose_rate", "pm25"}
    for fact in flat:
        assert found[fact.station, fact.property, fact.decided_us] == (3, ["flat_line"]), fact
    stuck = [(f.station, f.property, f.from_us, f.to_us) for f in facts.values() if f.fault == "stuck"]
    for (station, prop, at), (_, tests) in found.items():
        still = [1 for who, what, begin, end in stuck if (who, what) == (station, prop) and begin <= at < end]
        assert still or "flat_line" not in tests, f"{station} {prop} moves at {at}"


def test_an_undisturbed_world_has_nothing_to_tell() -> None:
    """Without faults there are no facts, and every message is expected to be stored."""
    facts: list[Fact] = []
    messages = list(World(city(), 11).messages(START, START + 20 * MINUTE, facts.append))
    assert facts == []
    assert {message.expected for message in messages} == {"stored"}
    outcome = LittlePipeline(messages)
    assert outcome.counts == {"received": len(messages), "stored": len(messages)}


def test_facts_name_the_bytes_that_were_sent() -> None:
    """Each fact of one message has the SHA-256 of a published payload; lost ones have one that never was."""
    messages, facts = run()
    by_id = {message.truth_id: message for message in messages if message.truth_id}
    published = {hashlib.sha256(message.payload).hexdigest() for message in messages}
    for fact in facts:
        if fact.expected == "absent":
            assert fact.message not in published
        elif fact.message:
            assert hashlib.sha256(by_id[fact.id].payload).hexdigest() == fact.message
            assert by_id[fact.id].expected == fact.expected


def test_a_duplicate_is_the_same_bytes_twice_and_a_burst_keeps_its_order() -> None:
    """Copies follow within half a minute; what was held back comes together, oldest first, after the hold."""
    messages, facts = run()
    by_payload: dict[tuple[str, bytes], list[int]] = {}
    for message in messages:
        by_payload.setdefault((message.topic, message.payload), []).append(message.at_us)
    copies = [m for m in messages if m.expected == "duplicate"]
    assert copies
    for copy in copies:
        first, second = by_payload[copy.topic, copy.payload]
        assert 0 < second - first <= 30 * SECOND
    held = [f for f in facts if f.fault == "late"]
    sent = {m.truth_id: m.at_us for m in messages if m.truth_id.startswith("late:")}
    for device in {f.device for f in held}:
        mine = [f for f in held if f.device == device]
        assert [f.from_us for f in mine] == sorted(f.from_us for f in mine)
        assert all(0 <= sent[f.id] - f.from_us <= 51 * MINUTE for f in mine)


@pytest.mark.parametrize("interval_s", [120.0, 900.0, 3600.0])
def test_late_is_judged_as_the_pass_does_at_any_rate(interval_s: float) -> None:
    """A rate of one's own changes how often devices send, not what the catalogue declares of them."""
    plan = FaultPlan(3, {"late": 1.0}, begin_us=LIVE, live_from_us=LIVE)
    facts: list[Fact] = []
    messages = list(World(city(), 3, faults=plan, interval_s=interval_s).messages(LIVE, LIVE + 3 * HOUR, facts.append))
    outcome = LittlePipeline(messages)
    assert {fact.expected for fact in facts} == {"late", "stored"}
    for fact in facts:
        late = outcome.late((fact.station, fact.property, fact.channel), fact.from_us)
        assert late == (fact.expected == "late"), fact


def test_a_dead_gateway_silences_its_whole_network() -> None:
    """While a gateway is dead, not one device of its network sends a sample."""
    messages, facts = run()
    dead = [f for f in facts if f.fault == "gateway_dead"]
    assert dead
    network = dead[0].network
    begin = min(f.from_us for f in dead if f.network == network)
    end = max(f.from_us for f in dead if f.network == network and f.from_us < begin + HOUR)
    devices = {f.device for f in dead if f.network == network}
    assert devices == {device for net, device in city().devices if net == network}
    released = [m for m in messages if begin < m.at_us < end and m.topic.split("/")[1] == network]
    assert all(m.truth_id.startswith(("late:", "duplicate:")) for m in released)


def test_the_comparison_notices_every_kind_of_difference(tmp_path: Path) -> None:
    """A pipeline that loses, doubles, lets pass or misjudges is told so, one sentence a fault."""
    truth = written(tmp_path)
    messages = run()[0]
    good = LittlePipeline(messages)

    def differences(outcome: LittlePipeline) -> str:
        return "\n".join(compare(truth, outcome))

    assert "messages stored" in differences(LittlePipeline([m for m in messages if m is not messages[0]]))
    decided = [fact for fact in truth.facts if fact.message or 0 < fact.decided_us < END]
    for fact in {fact.expected: fact for fact in decided}.values():
        asked = fact.asked_us()
        assert asked is not None
        key = ((fact.station, fact.property, fact.channel), asked)
        reading = good.readings.get(key)
        quarantine = good.quarantine.get(fact.message)
        if fact.expected == "absent":
            good.readings[key] = (1.0, Stored(1), False)
        elif fact.expected.startswith("quarantined"):
            del good.quarantine[fact.message]
        else:
            del good.readings[key]
        assert f"{fact.fault} {fact.id}: " in differences(good), fact
        good.readings.pop(key, None)
        if reading:
            good.readings[key] = reading
        if quarantine:
            good.quarantine[fact.message] = quarantine
    spike = next(f for f in truth.facts if f.expected == "flag:4:spike" and f.decided_us < END)
    key = ((spike.station, spike.property, spike.channel), spike.from_us)
    good.readings[key] = (good.readings[key][0], Stored(1), False)
    assert "has flag 1 by [], expected flag 4 by spike" in differences(good)
    flat = next(f for f in decided if f.expected == "flag:3:flat_line")
    key = ((flat.station, flat.property, flat.channel), flat.decided_us)
    good.readings[key] = (good.readings[key][0], Stored(2), False)
    assert f"stuck {flat.id}: " in differences(good)
    assert "has flag 2 by [], expected flag 3 by flat_line" in differences(good)


def test_a_truth_file_without_its_end_is_refused(tmp_path: Path) -> None:
    """A run that was killed leaves a file that does not load, and the message names it."""
    path = tmp_path / "truth.jsonl"
    with TruthWriter(path) as truth:
        truth.fact(run()[1][0])
    with pytest.raises(TruthError, match="no summary"):
        Truth.load(path)
    path.write_text('{"what": 1}\n')
    with pytest.raises(TruthError, match=r"truth\.jsonl:1"):
        Truth.load(path)


def test_rates_and_presets_are_read() -> None:
    """A preset, single rates, and a preset with changes."""
    assert parse_faults("loss=0.25, late=1") == {"loss": 0.25, "late": 1.0}
    assert parse_faults("none") == {}
    assert parse_faults("demo,loss=0.5") == {**PRESETS["demo"], "loss": 0.5}
    assert set(parse_faults("all")) == set(FAULTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [("los=0.1", "loss=RATE"), ("loss", "loss=RATE"), ("loss=2", "0 to 1"), ("loss=x", "0 to 1"),
     ("loss=0.6,spike=0.6", "add up"), ("loss=nan", "0 to 1")],
)  # fmt: skip
def test_wrong_rates_are_refused_with_what_is_allowed(text: str, message: str) -> None:
    """The message names what was given and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        parse_faults(text)


@pytest.mark.parametrize("fault", ["loss", "duplicate", "garbage", "clock", "spike", "unit"])
def test_the_rate_is_the_share_of_messages(fault: str) -> None:
    """Of all samples, the wanted share is hit: within five standard deviations."""
    import numpy as np

    plan = FaultPlan(1, {fault: 0.1})
    hit = plan.message_faults("device", np.arange(20_000, dtype=np.int64)).count(fault)
    assert abs(hit - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
