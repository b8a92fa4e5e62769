"""The sink: who is told of which transition, once, however often it comes, and across restarts in every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qingtu.clock import DAY, HOUR, MINUTE, SECOND
from qingtu.contracts import StateDelta
from qingtu.state import pack
from tests.notify.bench import T0, Bench, channels, opened, route, then

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.notify.receiver import Receiver

AT_ONCE = "[notify]\ngroup_s = 0\ngroup_by = 'none'\n"


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    """Benches that are closed at the end."""
    found: list[Bench] = []
    yield found
    for bench in found:
        bench.close()


def simple(made: list[Bench], folder: Path, duty: Receiver, more: str = "", head: str = AT_ONCE) -> Bench:
    """One channel that is told of everything."""
    made.append(Bench.of(folder, head + channels(folder, {"duty": duty.url}) + route(["duty"], more)))
    return made[-1]


def states(receiver: Receiver) -> list[tuple[str, str]]:
    """Alert and state of everything that was taken."""
    return [(one["alert"], one["state"]) for body in receiver.bodies for one in body["alerts"]]


def test_an_alert_is_told_and_so_is_its_end(tmp_path: Path, duty: Receiver, made: list[Bench]) -> None:
    """With names, level and value, in the channel's language; the end with the level that it had."""
    bench = simple(made, tmp_path, duty)
    bench.run(T0 + 2 * SECOND, opened())
    bench.run(T0 + 2 * MINUTE, then(opened(), "resolved", value=60))
    assert duty.titles() == ["[Red] Alpha Dust: open", "[Red] Alpha Dust: resolved"]
    first = duty.bodies[0]
    assert first["text"].splitlines() == [
        "Value: PM2.5 mass concentration 300 µg/m³ (limit 250)",
        "Time: 2026-11-23 08:00:00+08:00",
        "Opened: 2026-11-23 08:00:00+08:00",
        "Id: a1",
    ]
    assert (first["kind"], first["level"], first["count"], first["channel"]) == ("alert", 4, 1, "duty")
    assert first["alerts"][0]["station_zh"] == "甲站"
    assert (first["alerts"][0]["time_ms"], first["alerts"][0]["evidence"]) == (T0 // 1000, {"direction": "above"})


def test_who_was_not_told_of_the_opening_is_not_told_of_the_end(
    tmp_path: Path, duty: Receiver, boss: Receiver, made: list[Bench]
) -> None:
    """Below the route's level; once it rises, they hear of it, of its fall below, and of its end."""
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url, "boss": boss.url})
    bench = Bench.of(tmp_path, text + route(["duty"]) + route(["boss"], 'levels = ["orange", "red"]'))
    made.append(bench)
    low, high = opened("low", 1), opened("high", 2)
    bench.run(T0 + MINUTE, low, high)
    bench.run(T0 + 2 * MINUTE, then(high, "open", 60, level=4))
    bench.run(T0 + 3 * MINUTE, then(high, "open", 120, level=1), then(low, "withdrawn", 120))
    bench.run(T0 + 4 * MINUTE, then(high, "resolved", 180))
    assert states(boss) == [("high", "open"), ("high", "open"), ("high", "resolved")]
    assert [body["level"] for body in boss.bodies] == [4, 1, 4]
    assert states(duty) == [
        ("low", "open"), ("high", "open"), ("high", "open"), ("high", "open"), ("low", "withdrawn"),
        ("high", "resolved"),
    ]  # fmt: skip


def test_of_a_muted_alert_nobody_hears_but_of_the_end_of_what_they_know(
    tmp_path: Path, duty: Receiver, made: list[Bench]
) -> None:
    """Muted, it is in the book of alerts alone; when the mute is over and it says so again, it is told."""
    bench = simple(made, tmp_path, duty)
    muted = {"muted": {"who": "Li", "until_us": T0 + HOUR, "note": "works"}}
    known, quiet = opened("known"), opened("quiet", evidence=muted)
    bench.run(T0 + MINUTE, known, quiet)
    bench.run(T0 + 2 * MINUTE, then(known, "open", 60, level=4, evidence=muted), then(quiet, "resolved", 60))
    bench.run(T0 + 3 * MINUTE, then(known, "resolved", 120, evidence=muted))
    again = opened("again", evidence=muted)
    bench.run(T0 + 4 * MINUTE, again)
    bench.run(T0 + 5 * MINUTE, then(again, "open", 240, evidence={"again": True}))
    assert states(duty) == [("known", "open"), ("known", "resolved"), ("again", "open")]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('stations = ["B"]', ["b"]),
        ('districts = ["370202"]', ["a"]),
        ('networks = ["m"]', ["b"]),
        ('domains = ["air"]', ["a", "b"]),
        ('domains = ["noise"]', []),
        ('rules = ["dust"]\nstations = ["A"]', ["a"]),
        ('rules = ["other"]', []),
        ('levels = ["blue"]', []),
        ("", ["a", "b", "gone"]),
    ],
)
def test_routes_choose_by_place_rule_and_level(
    tmp_path: Path, duty: Receiver, made: list[Bench], more: str, told: list[str]
) -> None:
    """All that is given must hold; a station that left the catalogue has an id and nothing else."""
    bench = simple(made, tmp_path, duty, more)
    bench.run(T0 + MINUTE, opened("a"), opened("b", station="B"), opened("gone", station="Z"))
    assert [alert for alert, _ in states(duty)] == told


def test_acknowledgements_and_comments_are_told_where_a_route_says_so(
    tmp_path: Path, duty: Receiver, boss: Receiver, made: list[Bench]
) -> None:
    """With the person and the note."""
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url, "boss": boss.url}) + route(["duty"])
    bench = Bench.of(tmp_path, text + route(["boss"], 'states = ["acknowledged", "comment"]'))
    made.append(bench)
    row = opened()
    bench.run(T0 + MINUTE, row)
    bench.run(T0 + 2 * MINUTE, then(row, "acknowledged", who="Li"), then(row, "comment", 61, who="Li", note="seen"))
    assert states(duty) == [("a1", "open")]
    assert [state for _, state in states(boss)] == ["acknowledged", "comment"]
    assert boss.bodies[1]["alerts"][0]["note"] == "seen"
    assert "Person: Li\nNote: seen" in boss.bodies[1]["text"]


def test_frames_that_come_again_tell_nothing_again(tmp_path: Path, duty: Receiver, made: list[Bench]) -> None:
    """In another cut, after a restart, and when the bus has forgotten the sink's position."""
    bench = simple(made, tmp_path, duty)
    row = opened()
    bench.run(T0 + MINUTE, row, opened("a2"))
    bench.restart()
    bench.put(row)
    bench.put(opened("a2"), row, then(row, "resolved"))
    bench.run(T0 + 2 * MINUTE)
    assert states(duty) == [("a1", "open"), ("a2", "open"), ("a1", "resolved")]
    bench.bus.save_state("sink-notify", 0, StateDelta(0, {"main": pack({}, {"origin": -1, "lost": 0})}))
    bench.restart()
    assert bench.follower.behind() == 3
    bench.run(T0 + 3 * MINUTE)
    assert len(states(duty)) == 3


@pytest.mark.parametrize("step", ["put", "taken", "made", "sent"])
def test_a_restart_in_every_step_loses_nothing_and_repeats_nothing(
    tmp_path: Path, duty: Receiver, made: list[Bench], step: str
) -> None:
    """The files are all that is left; each step goes on where the last one was durable."""
    bench = simple(made, tmp_path, duty, "escalate_s = 1")
    row = opened()
    bench.put(row)
    bench.tick(T0 + MINUTE)
    if step == "put":
        bench.restart()
    while bench.follower.step():
        pass
    if step == "taken":
        bench.restart()
    bench.works["notify"]()
    if step == "made":
        bench.restart()
    bench.send()
    if step == "sent":
        bench.restart()
    bench.run(T0 + 2 * MINUTE)
    assert states(duty) == [("a1", "open")]
    assert bench.count("messages", "state = 'sent'") == 1
    assert bench.count("items") == 0


def test_what_was_known_before_the_sink_was_switched_on_is_history(
    tmp_path: Path, duty: Receiver, made: list[Bench]
) -> None:
    """A stream that holds two days does not make a storm; what becomes worse from now on is told."""
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url}) + route(["duty"])
    bench = Bench.of(tmp_path, text, now_us=T0 + DAY)
    made.append(bench)
    old = opened(level=1)
    bench.run(T0 + DAY, old, opened("over"), then(opened("over"), "resolved"))
    assert states(duty) == []
    bench.run(T0 + DAY + HOUR, then(old, "open", 86_400 + 1800, level=4))
    bench.run(T0 + DAY + 2 * HOUR, then(old, "resolved", 86_400 + 5400))
    assert states(duty) == [("a1", "open"), ("a1", "resolved")]


def test_escalation_goes_by_the_streams_clock(
    tmp_path: Path, duty: Receiver, boss: Receiver, made: list[Bench]
) -> None:
    """A tick is enough; before its time nothing goes out, and an acknowledgement in time ends it."""
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url, "boss": boss.url})
    bench = Bench.of(tmp_path, text + route(["duty"], 'escalate_to = ["boss"]\nescalate_s = 600'))
    made.append(bench)
    slow, quick = opened("slow"), opened("quick")
    bench.run(T0 + MINUTE, slow, quick)
    bench.run(T0 + 5 * MINUTE, then(quick, "acknowledged", 200, who="Li"))
    bench.clock.advance(DAY)  # the wall clock decides nothing
    bench.run(T0 + SECOND + 10 * MINUTE - 1)
    assert states(boss) == []
    bench.restart()
    bench.run(T0 + SECOND + 10 * MINUTE)
    assert states(boss) == [("slow", "open")]
    assert (boss.bodies[0]["kind"], boss.titles()[0]) == (
        "escalation", "[escalated, nobody acknowledged] [Red] Alpha Dust: open",
    )  # fmt: skip
    bench.run(T0 + HOUR)
    bench.run(T0 + 2 * HOUR, then(slow, "acknowledged", 4000, who="Li"), then(slow, "resolved", 4001))
    assert states(boss) == [("slow", "open"), ("slow", "acknowledged"), ("slow", "resolved")]
    assert states(duty) == [("slow", "open"), ("quick", "open"), ("slow", "resolved")]


def test_an_acknowledgement_that_stands_on_the_stream_is_taken_first(
    tmp_path: Path, duty: Receiver, boss: Receiver, made: list[Bench]
) -> None:
    """A sink that is behind does not escalate what somebody has long since taken up."""
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url, "boss": boss.url})
    bench = Bench.of(tmp_path, text + route(["duty"], 'escalate_to = ["boss"]\nescalate_s = 60'))
    made.append(bench)
    bench.run(T0 + 2 * SECOND, opened())
    bench.put(then(opened(), "acknowledged", 30, who="Li"))
    bench.tick(T0 + HOUR)
    bench.works["notify"]()  # the follower has not taken it yet
    bench.take()
    bench.send()
    assert states(boss) == []


def test_several_steps_of_escalation(tmp_path: Path, duty: Receiver, boss: Receiver, made: list[Bench]) -> None:
    """One after the other; who opens again after an acknowledgement begins anew for those who do not know of it."""
    urls = {"duty": duty.url, "boss": boss.url, "mayor": boss.url}
    text = AT_ONCE + channels(tmp_path, urls) + route(["duty"], 'escalate_to = ["boss", "mayor"]\nescalate_s = 60')
    bench = Bench.of(tmp_path, text)
    made.append(bench)
    row = opened(level=2)
    bench.run(T0 + SECOND + 60 * SECOND, row)
    assert [body["channel"] for body in boss.bodies] == ["boss"]
    bench.run(T0 + 100 * SECOND, then(row, "acknowledged", 90, who="Li"))
    bench.run(T0 + HOUR)
    assert [body["channel"] for body in boss.bodies] == ["boss", "boss"]
    bench.run(T0 + HOUR + 2 * MINUTE, then(row, "open", 3600, level=4))
    assert [(body["channel"], body["kind"]) for body in boss.bodies][2:] == [("boss", "alert")]
    bench.run(T0 + HOUR + 3 * MINUTE)
    assert [(body["channel"], body["kind"]) for body in boss.bodies][3:] == [("mayor", "escalation")]


def test_a_group_becomes_one_message(tmp_path: Path, duty: Receiver, made: list[Bench]) -> None:
    """Of one station, after a pause for more; another station is another message."""
    bench = simple(made, tmp_path, duty, head="[notify]\ngroup_s = 10\n")
    bench.run(T0 + 2 * SECOND, opened("x", 2), opened("y", 4), opened("z", station="B"))
    assert duty.bodies == []
    bench.run(T0 + 5 * SECOND, then(opened("x", 2), "resolved", 3))
    bench.run(T0 + 12 * SECOND)
    assert [(body["kind"], body["count"], body["level"]) for body in duty.bodies] == [("group", 3, 4), ("alert", 1, 4)]
    assert duty.titles()[0] == "3 notifications, the worst: [Red] Alpha Dust: open"
    assert duty.bodies[0]["text"].splitlines() == [
        "Red 1, Yellow 2", "[Red] Alpha Dust: open", "[Yellow] Alpha Dust: open", "[Yellow] Alpha Dust: resolved",
    ]  # fmt: skip


def test_quiet_hours_end_in_a_digest(tmp_path: Path, duty: Receiver, made: list[Bench]) -> None:
    """Nothing is dropped, red breaks through, and a restart in the night forgets nothing."""
    quiet = 'quiet_from = "22:00"\nquiet_to = "07:00"\nquiet_level = "red"\n'
    bench = Bench.of(tmp_path, AT_ONCE + channels(tmp_path, {"duty": duty.url}, quiet) + route(["duty"]))
    made.append(bench)
    night = T0 + 14 * HOUR  # 22:00
    bench.run(night - SECOND, opened("evening", 2, night - 2 * SECOND))
    bench.run(night + HOUR, opened("low", 2, night), opened("high", 4, night))
    bench.restart()
    bench.run(night + 8 * HOUR, then(opened("low", 2, night), "resolved", 7000))
    assert states(duty) == [("evening", "open"), ("high", "open")]
    bench.run(night + 9 * HOUR - SECOND)
    assert len(duty.bodies) == 2
    bench.run(night + 9 * HOUR)
    assert [(body["kind"], body["count"]) for body in duty.bodies[2:]] == [("digest", 2)]
    assert duty.titles()[2] == "2 came in quiet hours, the worst: [Yellow] Alpha Dust: open"
    bench.run(night + 10 * HOUR)
    assert len(duty.bodies) == 3


def test_a_storm_of_ten_thousand_is_a_few_messages(tmp_path: Path, duty: Receiver, made: list[Bench]) -> None:
    """The limit's worth of the worst, then one summary that says how many; later ones one summary a span."""
    storm = "storm_limit = 5\nstorm_s = 300\n"
    bench = Bench.of(tmp_path, AT_ONCE + channels(tmp_path, {"duty": duty.url}, storm) + route(["duty"]))
    made.append(bench)
    rows = [opened(f"s{n}", 1 + n % 4) for n in range(10_000)]
    for first in range(0, 10_000, 2500):
        bench.put(*rows[first : first + 2500])
    bench.run(T0 + 2 * SECOND)
    assert [(body["kind"], body["count"]) for body in duty.bodies] == [*[("alert", 1)] * 5, ("summary", 9995)]
    assert {body["level"] for body in duty.bodies} == {4}
    summary = duty.bodies[-1]
    assert summary["title"] == "Storm of 9995 notifications, the worst: [Red] Alpha Dust: open"
    assert summary["text"].splitlines()[0] == "Red 2495, Orange 2500, Yellow 2500, Blue 2500"
    assert summary["text"].splitlines()[-1] == "… 9945 more"
    assert len(summary["alerts"]) == 50
    bench.run(T0 + MINUTE, opened("late1", 4, T0 + 30 * SECOND))
    bench.restart()
    bench.run(T0 + 2 * MINUTE, opened("late2", 1, T0 + 100 * SECOND))
    assert len(duty.bodies) == 6
    bench.run(T0 + 302 * SECOND)
    assert (duty.bodies[-1]["kind"], duty.bodies[-1]["count"], len(duty.bodies)) == ("summary", 2, 7)
    bench.run(T0 + HOUR, opened("calm", 1, T0 + HOUR - MINUTE))
    assert duty.bodies[-1]["kind"] == "alert"
    assert bench.count("items") == 0


def test_the_book_forgets_what_is_over_and_never_tells_it_again(
    tmp_path: Path, duty: Receiver, made: list[Bench]
) -> None:
    """After keep_days; an alert that is still open is kept, and its end told."""
    bench = simple(made, tmp_path, duty)
    over, open_still = opened("over"), opened("still")
    bench.run(T0 + MINUTE, over, open_still, then(over, "resolved", 10))
    bench.run(T0 + 91 * DAY)
    assert (bench.count("transitions"), bench.count("alerts"), bench.count("told")) == (1, 1, 1)
    assert bench.count("messages") == 0
    bench.put(over, then(over, "resolved", 10), open_still)
    bench.run(T0 + 92 * DAY, then(open_still, "resolved", 91.5 * 86_400))
    assert states(duty)[3:] == [("still", "resolved")]
