"""Deliveries: tried again for a bounded time, in order, each channel by itself; kept when given up."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from qingtu.clock import DAY, HOUR, MINUTE, SECOND
from qingtu.errors import RetryLater
from tests.notify.bench import T0, Bench, channels, opened, route
from tests.notify.receiver import receiver
from tests.notify.test_sink import AT_ONCE, states
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.notify.receiver import Receiver


@pytest.fixture
def bench(tmp_path: Path, duty: Receiver) -> Iterator[Bench]:
    """One channel, with one alert that waits to be sent."""
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url}, "timeout_s = 0.3") + route(["duty"])
    made = Bench.of(tmp_path, text)
    made.put(opened())
    made.tick(T0 + 2 * SECOND)
    made.take()
    yield made
    made.close()


def attempt(bench: Bench, name: str = "notify-duty") -> str:
    """Let a channel try once; return why it was not taken, "" when it was."""
    try:
        assert bench.works[name]()
    except RetryLater as later:
        return str(later)
    return ""


def test_a_receiver_that_fails_at_first_gets_it_once(bench: Bench, duty: Receiver) -> None:
    """503, a connection that is cut, one that hangs, a redirect; then it works. The id is always the same."""
    duty.answers = [503, "drop", "hang", 307, 429]
    said = []
    while reason := attempt(bench):
        said.append(reason)
        bench.clock.advance(10 * MINUTE)
    assert duty.tried == 6
    assert states(duty) == [("a1", "open")]
    assert said[0] == "HTTP 503 Service Unavailable"
    assert "timed out" in said[2]
    assert said[3:] == ["HTTP 307 Temporary Redirect", "HTTP 429 Too Many Requests"]
    assert not any("Sup3rSecretPath" in one or "T0kenT0ken" in one for one in said)
    assert not bench.works["notify-duty"]()
    assert duty.headers[0]["Qingtu-Delivery"] == duty.bodies[0]["id"]


def test_a_receiver_that_is_away_gets_it_when_it_is_back(tmp_path: Path) -> None:
    """Connection refused for an hour, with a restart in between."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/send/Sup3rSecretPath"
    bench = Bench.of(tmp_path, AT_ONCE + channels(tmp_path, {"duty": url}) + route(["duty"]))
    try:
        bench.run(T0 + 2 * SECOND, opened())
        for _ in range(6):
            bench.clock.advance(10 * MINUTE)
            assert "refused" in attempt(bench)
        bench.restart()
        bench.clock.advance(10 * MINUTE)
        with receiver(port) as found:
            assert attempt(bench) == ""
            assert states(found) == [("a1", "open")]
    finally:
        bench.close()


def test_pauses_grow_and_end_at_five_minutes(bench: Bench, duty: Receiver) -> None:
    """Meanwhile the problem goes on showing, and nothing is asked of the receiver."""
    duty.answers = [500] * 12
    pauses = []
    for _ in range(10):
        assert "500" in attempt(bench)
        before, tried = bench.clock.now_us(), duty.tried
        assert "500" in attempt(bench)
        assert duty.tried == tried
        (row,) = bench.sink._book.rows("SELECT next_us FROM messages")
        pauses.append((row["next_us"] - before) / SECOND)
        bench.clock.advance(row["next_us"] - before)
    for n, pause in enumerate(pauses):
        whole = min(2.0 * 2**n, 300)
        assert 0.699 * whole <= pause <= 1.301 * whole


def test_a_clock_that_is_set_back_delays_nothing(bench: Bench, duty: Receiver) -> None:
    """A pause is never longer than its bound."""
    duty.answers = [500]
    attempt(bench)
    bench.clock.advance(-DAY)
    assert attempt(bench) == ""


def test_what_is_given_up_is_kept_and_can_be_sent_again(bench: Bench, duty: Receiver) -> None:
    """After a day it is a dead letter, which shows as a problem; the next message is tried at once."""
    duty.answers = [403] * 3
    attempt(bench)
    bench.clock.advance(12 * HOUR)
    attempt(bench)
    bench.clock.advance(12 * HOUR)
    attempt(bench)
    assert bench.count("messages", "state = 'dead'") == 1
    (problem,) = bench.sink.problems()
    assert problem["key"] == "notify_dead_duty"
    assert "1 dead letters" in problem["en"]
    assert not bench.works["notify-duty"]()
    bench.run(T0 + DAY + MINUTE, opened("a2", at_us=T0 + DAY))
    assert states(duty) == [("a2", "open")]
    bench.sink.close()
    bench.restart()
    assert bench.sink.problems() == [problem]


def test_order_is_kept_until_one_cannot_be_sent(bench: Bench, duty: Receiver) -> None:
    """The second waits for the first, until that one has failed five times and steps aside."""
    duty.answers = [500]
    attempt(bench)
    bench.put(opened("a2"))
    bench.tick(T0 + 2 * SECOND)  # within the pause
    bench.take()
    assert "500" in attempt(bench)
    assert duty.tried == 1, "the second went first"
    bench.clock.advance(MINUTE)
    bench.send()
    assert [alert for alert, _ in states(duty)] == ["a1", "a2"]
    bench.put(opened("bad"), opened("good"))
    bench.tick(T0 + HOUR)
    bench.take()
    duty.answers = [400] * 5
    for _ in range(5):
        attempt(bench)
        bench.clock.advance(5 * MINUTE)
    assert attempt(bench) == ""
    assert states(duty)[-1] == ("good", "open")
    assert attempt(bench) == ""
    assert states(duty)[-1] == ("bad", "open")


def test_a_channel_that_hangs_holds_up_no_other(tmp_path: Path, duty: Receiver, boss: Receiver) -> None:
    """Each has a thread; the book is open to all meanwhile."""
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url, "boss": boss.url}, "timeout_s = 60")
    bench = Bench.of(tmp_path, text + route(["duty", "boss"]))
    try:
        duty.answers = ["hang"]
        bench.put(opened())
        bench.tick(T0 + 2 * SECOND)
        bench.take()
        slow = threading.Thread(target=lambda: attempt(bench))
        slow.start()
        until(lambda: duty.tried, "the request hangs")
        bench.put(opened("a2"))
        bench.tick(T0 + 3 * SECOND)
        bench.take()
        assert attempt(bench, "notify-boss") == ""
        assert attempt(bench, "notify-boss") == ""
        assert slow.is_alive()
        assert states(boss) == [("a1", "open"), ("a2", "open")]
        duty.let_go.set()
        slow.join()
        bench.clock.advance(MINUTE)
        bench.send()
        assert states(duty) == [("a1", "open"), ("a2", "open")]
    finally:
        bench.close()
