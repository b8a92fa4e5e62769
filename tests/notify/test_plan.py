"""Quiet hours, storms and groups as pure functions: over midnight, over changed clocks, for any sequence."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qingtu.clock import HOUR, MINUTE, SECOND
from qingtu.settings_notify import ChannelSettings, NotifySettings
from sinks.notify.planning import Plan, Waiting, plan
from sinks.notify.routing import is_quiet

NEW_YORK = "America/New_York"


def channel(begin: str | None = None, end: str | None = None, limit: int = 20, level: str = "red") -> ChannelSettings:
    """A channel with quiet hours."""
    return ChannelSettings.model_validate(
        {
            "name": "c", "url_file": Path("x"), "quiet_from": begin, "quiet_to": end, "storm_limit": limit,
            "quiet_level": level,
        }
    )  # fmt: skip


def us(text: str) -> int:
    """Read a time with its offset."""
    return round(datetime.fromisoformat(text).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("at", "quiet"),
    [
        ("2026-11-23T21:59:59+08:00", False), ("2026-11-23T22:00:00+08:00", True),
        ("2026-11-24T00:00:00+08:00", True), ("2026-11-24T06:59:59+08:00", True),
        ("2026-11-24T07:00:00+08:00", False), ("2026-11-24T12:00:00+08:00", False),
    ],
)  # fmt: skip
def test_quiet_hours_over_midnight(at: str, quiet: bool) -> None:
    """From the first second of the begin, up to the last before the end."""
    assert is_quiet(channel("22:00", "07:00"), "Asia/Shanghai", us(at)) is quiet
    assert is_quiet(channel("07:00", "22:00"), "Asia/Shanghai", us(at)) is not quiet


@pytest.mark.parametrize(
    ("begin", "end", "at", "quiet"),
    [
        # 2026-03-08: the clock goes from 02:00 (-05:00) to 03:00 (-04:00); 02:30 does not exist
        ("22:00", "02:30", "2026-03-08T01:59:59-05:00", True),
        ("22:00", "02:30", "2026-03-08T03:00:00-04:00", False),
        ("02:30", "04:00", "2026-03-08T01:59:59-05:00", False),
        ("02:30", "04:00", "2026-03-08T03:00:00-04:00", True),
        ("22:00", "07:00", "2026-03-08T06:59:59-04:00", True),
        ("22:00", "07:00", "2026-03-08T07:00:00-04:00", False),
        # 2026-11-01: from 02:00 (-04:00) back to 01:00 (-05:00); 01:30 is there twice
        ("22:00", "01:30", "2026-11-01T01:29:00-04:00", True),
        ("22:00", "01:30", "2026-11-01T01:30:00-04:00", False),
        ("22:00", "01:30", "2026-11-01T01:29:00-05:00", True),
        ("22:00", "01:30", "2026-11-01T01:30:00-05:00", False),
        ("22:00", "07:00", "2026-11-01T06:59:59-05:00", True),
        ("22:00", "07:00", "2026-11-01T07:00:00-05:00", False),
    ],
)
def test_quiet_hours_go_by_the_wall_clock_when_it_is_changed(begin: str, end: str, at: str, quiet: bool) -> None:
    """What the clock on the wall shows decides: that is what people sleep by."""
    assert is_quiet(channel(begin, end), NEW_YORK, us(at)) is quiet


def test_a_digest_comes_at_the_first_tick_after_a_night_without_that_hour() -> None:
    """Quiet until 02:30, which is skipped: at 03:00 it is over."""
    night = NotifySettings(timezone=NEW_YORK, group_s=0)
    held = [Waiting(1, 2, "A", 0, held=True)]
    before, after = us("2026-03-08T01:59:59-05:00"), us("2026-03-08T03:00:00-04:00")
    assert after - before == SECOND
    assert plan(held, before, channel("22:00", "02:30"), night, [], None) == Plan()
    assert plan(held, after, channel("22:00", "02:30"), night, [], None).messages == [("digest", [1])]


@pytest.mark.parametrize(("level", "told"), [("blue", [1, 2, 3, 4]), ("orange", [3, 4]), ("red", [4])])
def test_levels_that_break_through(level: str, told: list[int]) -> None:
    """That level and those above; the others are held, none is lost."""
    waiting = [Waiting(n, n, "", 0) for n in (1, 2, 3, 4)]
    night = us("2026-11-23T23:00:00+08:00")
    made = plan(waiting, night, channel("22:00", "07:00", level=level), NotifySettings(), [], None)
    assert [ids for _, ids in made.messages] == [[n] for n in told]
    assert made.hold == [n for n in (1, 2, 3, 4) if n not in told]


def test_a_storm_takes_the_worst_first_and_tells_them_in_order() -> None:
    """What is over the limit is one summary, then nothing until the span is over."""
    waiting = [Waiting(n, 1 + n % 4, "", 0) for n in range(10)]
    once = NotifySettings(group_by="none")
    first = plan(waiting, HOUR, channel(limit=2), once, [], None)
    assert first.messages == [("alert", [3]), ("alert", [7]), ("summary", [0, 1, 2, 4, 5, 6, 8, 9])]
    again = plan([Waiting(10, 4, "", 0)], HOUR + MINUTE, channel(limit=2), once, [HOUR, HOUR, HOUR], HOUR)
    assert (again.messages, again.pile) == ([], [10])
    late = [Waiting(10, 4, "", 0, piled=True), Waiting(11, 1, "", 0)]
    assert plan(late, HOUR + 5 * MINUTE, channel(limit=2), once, [], HOUR).messages == [("summary", [10, 11])]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 4 * 3600), st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ABC")), max_size=6)),
        min_size=1,
        max_size=25,
    ),
    limit=st.integers(1, 4),
    grouping=st.booleans(),
)
def test_whatever_comes_each_transition_is_in_exactly_one_message(
    steps: list[tuple[int, list[tuple[int, str]]]], limit: int, grouping: bool
) -> None:
    """For any times and levels: nothing is dropped or doubled, quiet is kept, and no span has more than its limit."""
    spec = NotifySettings(group_by="station" if grouping else "none", group_s=30)
    quiet = channel("22:00", "07:00", limit)
    now, number = us("2026-11-23T12:00:00+08:00"), 0
    waiting: dict[int, Waiting] = {}
    told: list[int] = []
    made: list[tuple[int, str]] = []
    for pause, rows in [*steps, (86_400, []), (43_200, []), (3600, [])]:
        now += pause * SECOND
        for level, place in rows:
            waiting[number] = Waiting(number, level, place if grouping else "", now)
            number += 1
        since = now - quiet.storm_s * SECOND
        summary = max((at for at, kind in made if kind == "summary" and at > since), default=None)
        out = plan(list(waiting.values()), now, quiet, spec, [at for at, _ in made if at > since], summary)
        for kind, ids in out.messages:
            made.append((now, kind))
            told += ids
            levels = [waiting.pop(one).level for one in ids]
            if is_quiet(quiet, spec.timezone, now):
                assert min(levels) == 4
        for one in out.hold:
            waiting[one] = Waiting(one, waiting[one].level, waiting[one].group, waiting[one].at_us, held=True)
        for one in out.pile:
            waiting[one] = Waiting(one, waiting[one].level, waiting[one].group, waiting[one].at_us, piled=True)
        in_span = [kind for at, kind in made if at > since]
        # a digest comes when the night is over, whatever the limit says; a summary once a span
        assert sum(kind not in ("summary", "digest") for kind in in_span) <= limit
        assert in_span.count("summary") <= 1
    assert sorted(told) == list(range(number))
    assert not waiting
