"""The same raw rows give the same results, however they are cut into frames and wherever the process restarts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.alerts.batch import alert_id
from processors.messages import Messages
from processors.output import Output
from processors.process import Process
from qingtu.clock import SECOND
from qingtu.partitions import partition_of
from qingtu.records import ALERTS, RAW, REJECTED, Frame, decode
from qingtu.state import unpack
from tests.process.support import (
    CAT,
    RULES,
    T0,
    catalogue,
    command,
    configure,
    drive,
    frame_of,
    message,
    reading,
    station,
    tick,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.contracts import Outputs

_KINDS: list[dict[str, Any]] = [
    {"kind": "rate_of_change", "property": "pm25", "levels": {"blue": 100, "red": 3000}, "over_s": 600},
    {"kind": "stuck", "property": "pm25", "for_s": 60, "readings": 2, "tolerance": 5, "normal": [10]},
    {"kind": "quality", "levels": {"blue": 0.25, "red": 0.5}, "readings": 4, "renotify_s": 60},
    {"kind": "quality", "property": "pm25", "levels": {"yellow": 0.3}, "span_s": 300},
    {"kind": "deviation", "property": "pm25", "levels": {"blue": 1, "red": 2}, "least": 5, "min_days": 3, "hold_s": 30},
    {"kind": "expression", "when": "pm25 > 40.0 && (air_temperature < 0.0 || pm25_flag > 2)", "max_age_s": 7200},
    {"kind": "clock_wrong", "after_s": 60},
    {"kind": "link", "after_s": 60},
    {"kind": "network", "least": 2, "share": 0.6, "grace_s": 60},
    {"kind": "clock_wrong", "schedule": {"start": "08:05", "end": "09:30"}},
    {"kind": "threshold", "property": "pm25", "levels": {"blue": 15}, "renotify_s": 60,
     "schedule": {"start": "08:02", "end": "08:20"}},
    {"kind": "situation", "properties": ["pm25"], "place": "network", "within_s": 3600, "clear_s": 60},
    {"kind": "situation", "rules": ["dust", "dust-held", "k0"], "place": "network", "within_s": 600, "level": "red"},
]  # fmt: skip
OTHERS = [{"id": f"k{n}", "zh": "规", "en": "Rule", **rule} for n, rule in enumerate(_KINDS)]
USUAL = catalogue(None, [*RULES, *OTHERS])
"""The usual stations under rules of every kind."""

# Another version: A is renamed in its rules' eyes (gone), C has other limits, D is new.
CHANGED = catalogue(
    [
        station("B", [{"id": "b", "fields": {"dust": {"property": "pm25", "unit": "mg/m3"}, "door": "door_open"}}]),
        station("C", [{"id": "c", "properties": ["pm25", "pm10"]}], limits={"pm25": {"range": [0, 100]}}),
        station("A", [{"id": "a", "properties": ["pm25"]}]),
    ],
    rules=[
        {"id": "dust", "kind": "threshold", "zh": "尘", "en": "Dust", "property": "pm25", "levels": {"blue": 80}},
        {"id": "quiet", "kind": "silence", "zh": "静", "en": "Quiet", "after_s": 300},
        *OTHERS[::2],
    ],
)

VALUES = st.sampled_from([10, 50, 80, 99, 101, 160, 210, 260, 400, 600, -3, "12", None, True, "x", 1e308, -999])
UNITS = st.sampled_from(["ug/m3", "mg/m3", "K", "", "nonsense"])
NAMES = st.sampled_from(["pm25", "air_temperature", "dust", "door", "o3", "PM2.5", "other"])
TIMES = st.one_of(
    st.none(),
    st.integers(-4, 20).map(lambda n: (T0 + n * 30 * SECOND) // 1000),  # near the times of receipt, often equal
    st.sampled_from([(T0 + 40 * 86400 * SECOND) // 1000, 1_000_000, (T0 - 5000 * SECOND) // SECOND]),
    st.sampled_from(["2026-11-23T08:01:00+08:00", "2026-11-23T08:02:00", "2026-11-23", "no time"]),
)


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """Draw a payload: an object, an array of objects, or something broken."""

    def one() -> dict[str, Any]:
        names = draw(st.lists(NAMES, min_size=0, max_size=3, unique=True))
        readings: dict[str, Any] = {}
        for name in names:
            value = draw(VALUES)
            readings[name] = {"value": value, "unit": draw(UNITS)} if draw(st.integers(0, 5)) == 0 else value
        body: dict[str, Any] = {"readings": readings}
        if (time := draw(TIMES)) is not None:
            body["time"] = time
        if draw(st.integers(0, 9)) == 0:
            body["seq"] = draw(st.integers(0, 2))
        if draw(st.integers(0, 9)) == 0:
            body["events"] = [{"kind": draw(st.sampled_from(["fire", "door"])), "level": draw(st.integers(0, 5))}]
        return body

    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.sampled_from([b"", b"{", b"[]", b"7", b'{"readings": {"pm25": NaN}}']))
    return [one() for _ in range(draw(st.integers(1, 3)))] if kind < 4 else one()


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw raw rows whose time of receipt moves on, now and then by hours."""
    rows = [configure(0, USUAL.version, dedup_horizon_h=2, dedup_max=draw(st.sampled_from([6, 1000])))]
    at, connection = 0.0, 1
    for _ in range(draw(st.integers(1, 40))):
        at += draw(st.sampled_from([0, 1, 30, 30, 30, 30, 60, 60, 700, 4000, 86400]))
        what = draw(st.integers(-20, 19))
        if what < 0:
            device, name = draw(
                st.sampled_from([("a", "pm25"), ("a", "pm25"), ("c", "pm25"), ("a", "air_temperature")])
            )
            value = draw(st.sampled_from([10, 10, 60, 80, 80, 120, 160, 160, 210, 260, 400, 600, -3, -6, None]))
            late = draw(st.sampled_from([0, 0, 0, 0, 0, 30, 60, 700, -1e6]))
            rows.append(reading(device, at - late, at, **{name: value}))
        elif what < 14:
            connection += draw(st.integers(0, 4)) == 0
            columns: dict[str, Any] = {
                "flags": draw(st.sampled_from([1, 1, 1, 5, 5, 9, 0])), "packet_id": draw(st.integers(1, 2)),
                "connection": connection, "gateway": draw(st.sampled_from(["g", "g", "h"])),
            }  # fmt: skip
            if draw(st.integers(0, 14)) == 0:
                columns["refused"] = draw(st.sampled_from(["too_large", "sys_topic"]))
            earlier = [row for row in rows if row["kind"] == 0]
            if earlier and draw(st.integers(0, 4)) == 0:
                again = draw(st.sampled_from(earlier))
                rows.append(again | columns | {"received_at": T0 + round(at * SECOND)})
            elif earlier and draw(st.integers(0, 9)) == 0:
                shift = draw(st.sampled_from([0, -40 * 86400 * SECOND]))
                rows.append(command(at, "redrive"))
                rows.append(draw(st.sampled_from(earlier)) | {"redrive_of": 5, "shift_us": shift})
            else:
                device = draw(st.sampled_from(["a", "b", "c", "c2", "nobody"]))
                route = "other" if device == "c2" else draw(st.sampled_from(["native"] * 9 + ["gone"]))
                rows.append(message(device, draw(bodies()), at, route=route, **columns))
        elif what < 17:
            since = draw(st.sampled_from([-1e6, at - 100]))
            rows.append(tick(at, draw(st.sampled_from([{}, {"native": since}, {"native": since, "other": since}]))))
        elif what == 17:
            opened = draw(st.sampled_from([row["received_at"] for row in rows]))
            alert = alert_id("dust", "A", "pm25", "main", opened)
            name = draw(st.sampled_from(["acknowledge", "comment", "sing"]))
            rows.append(command(at, name, "Li", alert=alert, note="seen"))
        else:
            version = draw(st.sampled_from([USUAL.version, CHANGED.version]))
            rows.append(configure(at, version, dedup_horizon_h=draw(st.integers(1, 3)), dedup_max=1000))
    return rows


@given(histories(), st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_cutting_and_restarting_change_nothing(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """Readings, events, outcomes, transitions and rejected rows do not depend on frames or restarts."""
    places = st.lists(st.integers(1, max(1, len(rows) - 1)), max_size=6)
    cuts = data.draw(st.one_of(places, st.just(list(range(1, len(rows))))), "cuts")
    restores = data.draw(st.lists(st.sampled_from(cuts), max_size=3) if cuts else st.just([]), "restores")
    whole = drive(rows, [USUAL, CHANGED])
    pieces = drive(rows, [USUAL, CHANGED], cuts, restores)
    assert pieces.comparable() == whole.comparable()


def made_of(
    rows: list[dict[str, Any]], cuts: list[int], stops: set[int] | None, partition: int, partitions: int
) -> tuple[list[Any], str, int]:
    """What each frame gives, word for word; the memory that is left; how many frames were joined with others.

    Args:
        rows: of raw.
        cuts: where frames begin.
        stops: frames before which joining stops; None: each frame is applied alone.
        partition: that they are in.
        partitions: how many there are.
    """
    archive = {one.version: one for one in (USUAL, CHANGED)}
    process = Process(archive.__getitem__, partition, partitions, tell=True)
    process.restore(None)
    made: list[Outputs] = []
    waiting: list[tuple[int, Frame]] = []
    joined = 0

    def apply_waiting() -> None:
        nonlocal joined
        joined += len(waiting) if len(waiting) > 1 else 0
        made.extend(process.apply_joined(waiting) if waiting else [])
        waiting.clear()

    for offset, (start, stop) in enumerate(pairwise([0, *sorted(set(cuts)), len(rows)])):
        frame = decode(frame_of(rows[start:stop]))
        if stops is None or not process.joins(frame):
            apply_waiting()
            made.append(process.apply(frame, offset))
            continue
        if offset in stops:
            apply_waiting()
        waiting.append((offset, frame))
    apply_waiting()
    said = [{place: _said(decode(data)) for place, data in outputs.items()} for outputs in made]
    return said, _memory(process.snapshot()[0]), joined


def _memory(parts: Mapping[str, bytes]) -> str:
    """Write state so that what means the same is the same: into how many pieces an hour is cut means nothing."""
    known: dict[str, list[bytes]] = {}
    for name, data in parts.items():
        if name.startswith("dedup/"):
            known.setdefault(name.split("/")[1], []).extend(one.tobytes() for one in unpack(data)[0]["hashes"])
    rest = {name: unpack(data) for name, data in sorted(parts.items()) if not name.startswith("dedup/")}
    return repr((rest, {hour: sorted(hashes) for hour, hashes in sorted(known.items())}))


def _said(frame: Frame) -> str:
    rows = {name: [repr(row) for row in batch.to_pylist()] for name, batch in frame.sections.items()}
    return repr((frame.header | {"sections": list(rows)}, rows))


@given(histories(), st.sampled_from([(0, 1), (0, 2), (1, 2)]), st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_joined_frames_give_what_each_gives_alone(
    rows: list[dict[str, Any]], where: tuple[int, int], data: st.DataObject
) -> None:
    """Small frames may be applied together, in any company: each gives the same rows in the same order."""
    places = st.lists(st.integers(1, max(1, len(rows) - 1)), max_size=20)
    cuts = data.draw(st.one_of(places, st.just(list(range(1, len(rows))))), "cuts")
    stops = set(data.draw(st.lists(st.integers(1, 40), max_size=5), "stops"))
    alone, memory, _ = made_of(rows, cuts, None, *where)
    together, remembered, _ = made_of(rows, cuts, stops, *where)
    assert together == alone
    assert remembered == memory


def test_nothing_of_a_joined_pass_is_left_out_without_a_word() -> None:
    """What belongs to none of the frames makes the pass fail, so that each frame is tried alone."""
    process = Process({USUAL.version: USUAL}.__getitem__)
    process.restore(None)
    process.apply(decode(frame_of([configure(0, USUAL.version)])), 0)
    rows = decode(frame_of([reading("a", 1, pm25=80)])).sections["rows"]
    output = Output()
    assert process._pass is not None
    process._pass.run(Messages.of(rows, 0, 1, 7), None, 0, output)
    assert (len(output.readings), bool(output.transitions)) == (1, True)
    assert len(output.cut([0], [7])) == 1
    with pytest.raises(LookupError, match=r"1 readings are of none of the frames \[8\]"):
        output.cut([0], [8])
    output.readings.clear()
    with pytest.raises(LookupError, match=r"transitions some are of none of the frames \[8\]"):
        output.cut([0], [8])


def test_a_stranger_whose_device_goes_in_the_same_frame_stays_in_quarantine() -> None:
    """Its station lives elsewhere when it comes; at the end of the frame no catalogue says where it belongs."""
    rows = [configure(0, USUAL.version), message("c2", {"readings": {"o3": 1}}, 1, route="other")]
    elsewhere = 1 - partition_of("C", 2)
    stays = made_of([*rows, configure(2, CHANGED.version)], [], None, elsewhere, 2)[0][0]
    goes = made_of(rows, [], None, elsewhere, 2)[0][0]
    assert "unknown_device" in stays[REJECTED]
    assert set(goes) - set(stays) == {(RAW, 1 - elsewhere)}


@pytest.mark.parametrize(("every", "where"), [(1, (0, 1)), (3, (0, 1)), (5, (1, 2))])
def test_a_day_of_joined_frames(every: int, where: tuple[int, int]) -> None:
    """Alternating values with spikes, alerts, late and repeated readings, unknown devices and units: row by row."""
    rows = [configure(0, USUAL.version)]
    for n in range(400):
        value = 60 + 50 * (n % 17 == 3) + 200 * (n % 41 == 7) + n % 13
        at = 60 * (n - 3 * (n % 19 == 0))
        rows.append(reading("a", at, 60 * n, pm25=value, air_temperature=10 - n % 29))
        rows.append(reading("c" if n % 11 else "nobody", at, 60 * n + 1, pm25=value + 40))
        if n % 23 == 0:
            rows.append(rows[-4] | {"received_at": rows[-1]["received_at"]} if n else rows[-1])
            rows.append(reading("b", at, 60 * n + 2, door="x", dust={"value": 1, "unit": "nonsense"}))
        if n % 50 == 0:
            rows.append(tick(60 * n))
    cuts = list(range(1, len(rows), every))
    alone, memory, _ = made_of(rows, cuts, None, *where)
    together, remembered, joined = made_of(rows, cuts, set(range(0, len(cuts), 7)), *where)
    assert together == alone
    assert remembered == memory
    assert joined > len(cuts) // 2
    assert sum(ALERTS in outputs for outputs in alone) > 20
    assert sum(REJECTED in outputs for outputs in alone) > 20


@pytest.mark.parametrize("every", [1, 7, 50])
def test_days_under_every_kind_cut_anywhere(every: int) -> None:
    """A week of two stations with spikes, wrong clocks, outages: every kind opens and closes, the same row by row."""
    rows = [configure(0, USUAL.version)]
    for n in range(1000):
        at = 600 * n
        if n % 250 > 245:  # nothing comes, and in every second of these hours nothing could
            rows.append(tick(at + 61, {} if n % 500 > 250 else None))
            continue
        hour = n // 6 % 24
        value = 20 + hour + 60 * (n % 97 == 5) + 30 * (n % 301 > 290) - 30 * (n % 211 > 200) + n % 3
        ahead = 86400 * (n % 151 > 148)
        rows.append(reading("a", at + ahead, at, pm25=value, air_temperature=10 - n % 29))
        rows.append(reading("c", at, at + 1, pm25=5 if n % 89 > 70 else value))
        if n % 3 == 0:
            rows.append(tick(at + 61))
    whole = drive(rows, [USUAL])
    cuts = list(range(1, len(rows), every))
    assert drive(rows, [USUAL], cuts, cuts[::9]).comparable() == whole.comparable()
    for rule in (one["id"] for one in OTHERS if "span_s" not in one):  # these readings come too seldom for it
        states = {state for state, _ in whole.states(rule)}
        assert {"open", "resolved"} <= states, rule


@pytest.mark.parametrize("every", [1, 7])
def test_a_long_history_of_one_station_cut_everywhere(every: int) -> None:
    """A day of alternating values with spikes, alerts and late readings gives the same row by row."""
    rows = [configure(0, CAT.version)]
    for n in range(400):
        value = 60 + 50 * (n % 17 == 3) + 200 * (n % 41 == 7) + n % 13
        at = 60 * (n - 3 * (n % 19 == 0))
        rows.append(reading("a", at, 60 * n, pm25=value, air_temperature=10 - n % 29))
        if n % 50 == 0:
            rows.append(tick(60 * n))
    whole = drive(rows, [CAT])
    cuts = list(range(1, len(rows), every))
    assert drive(rows, [CAT], cuts, cuts[::5]).comparable() == whole.comparable()
    assert {row["state"] for row in whole.alerts} >= {"open", "resolved", "withdrawn"}
    assert {row["cause"] for row in whole.readings} == {0, 1}
