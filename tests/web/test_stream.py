"""The event stream: what comes first, what comes again, and what happens to a client that does not read."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import TYPE_CHECKING

import httpx
import orjson

from tests.waiting import until
from tests.web.conftest import WAIT_S, Running, running, small_catalogue
from web.fanout import Fanout, Subscriber, event

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MINUTE_MS = 60_000


def test_hello_comes_first_then_readings_as_they_come(run: Running) -> None:
    """The first event names the catalogue; readings come in order, and a late one says so."""
    stream = run.stream()
    at = run.now_ms()
    run.send("a", at, pm25=31)
    stream.until(lambda name, data: name == "readings" and data["rows"][0][4] == 31)
    run.send("a", at - MINUTE_MS, pm25=30)
    late = stream.until(lambda name, data: name == "readings" and data["rows"][0][4] == 30)
    name, hello = stream.events[0]
    assert (name, hello["catalogue"]) == ("hello", run.service.catalogue.version)
    assert late["columns"][-1] == "late"
    assert late["rows"] == [["A", "pm25", "main", at - MINUTE_MS, 30, 1, 0, 1]]
    assert [row[7] for data in stream.named("readings") for row in data["rows"]] == [0, 1]


def test_of_more_than_an_event_holds_the_latest_of_every_series_is_told(
    run: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit comes with the next events: nothing on the map stays old, however much came at once."""
    monkeypatch.setattr("web.live.EVENT_ROWS", 1)
    stream = run.stream()
    at = run.now_ms() - 40 * 1000
    values = {"pm25": 31, "air_temperature": 20}
    run.publish("a", [{"time": at + i * 1000, "readings": values} for i in range(4)])
    until(lambda: len(stream.named("readings")) >= 2, "two events")
    events = [data["rows"] for data in stream.named("readings")]
    told = sorted(tuple(row) for rows in events for row in rows)
    assert [len(rows) for rows in events] == [1, 1]
    assert told == sorted(("A", name, "main", at + 3000, value, 1, 0, 0) for name, value in values.items())


def test_the_chart_has_what_the_stream_told(run: Running) -> None:
    """Asked as soon as readings show, before the store's commit, the series holds all of them."""
    stream = run.stream()
    at = run.now_ms() - 40 * 1000
    run.publish("a", [{"time": at + i * 1000, "readings": {"pm25": 10 + i % 3}} for i in range(40)])
    stream.until(lambda name, _: name == "readings")
    found = run.get("series", station="A", property="pm25", from_ms=at, to_ms=run.now_ms())
    assert found["times_ms"] == [at + i * 1000 for i in range(40)]


def test_a_second_connection_gets_what_comes_from_then_on(run: Running) -> None:
    """Reconnecting is loading again and listening: nothing old is sent, nothing new is missed."""
    first = run.stream()
    at = run.now_ms()
    run.send("a", at, pm25=31)
    first.until(lambda name, _: name == "readings")
    second = run.stream()
    run.send("a", at + 1, pm25=32)
    seen = second.until(lambda name, _: name == "readings")
    assert seen["rows"] == [["A", "pm25", "main", at + 1, 32, 1, 0, 0]]
    first.until(lambda name, data: name == "readings" and data["rows"] == seen["rows"])


def test_status_and_stations_are_told_without_asking(run: Running) -> None:
    """A station that is heard for the first time changes its state on every open page."""
    stream = run.stream()
    stream.until(lambda name, _: name == "status")
    run.send("c", run.now_ms(), o3=80)
    told = stream.until(lambda name, _: name == "stations")["stations"]
    assert [(station["id"], station["state"]) for station in told] == [("C", "ok")]
    assert told[0]["headline"]["property"] == "o3"


def test_figures_are_told(run: Running) -> None:
    """An hour that is over gets its figure at the next tick, and pages learn it."""
    stream = run.stream()
    hour = run.now_ms() // 3_600_000 * 3_600_000 - 2 * 3_600_000
    run.send("a", hour + MINUTE_MS, pm25=30)
    rows = stream.until(lambda name, _: name == "figures")["rows"]
    mine = next(row for row in rows if (row["station"], row["what"]) == ("A", "hour"))
    assert (mine["what"], mine["start_ms"], mine["value"], mine["valid"]) == ("hour", hour, 30, False)
    run.settle()
    stored = run.get("figures", station="A", property="pm25", what="hour")["rows"]
    assert [(row["what"], row["start_ms"], row["value"]) for row in stored] == [("hour", hour, 30)]


def test_the_server_ends_while_streams_are_open(tmp_path: Path) -> None:
    """Stopping ends every stream and returns: an open page does not keep the service up."""
    with running(tmp_path / "data", small_catalogue()) as run:
        streams = [run.stream() for _ in range(3)]
        stopped = threading.Thread(target=run.server.stop)
        stopped.start()
        stopped.join(WAIT_S)
        assert not stopped.is_alive()
        assert all(stream.ended.wait(WAIT_S) for stream in streams)
        assert not any(t.name in {"live", "web", "web-pulse"} for t in threading.enumerate())


def test_a_client_that_goes_away_is_forgotten(run: Running) -> None:
    """Closing the page frees its queue."""
    with httpx.stream("GET", f"{run.url}api/stream", timeout=WAIT_S) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        assert len(run.context.live.fanout) == 1
    until(lambda: len(run.context.live.fanout) == 0, "nobody listens")


def test_a_client_that_is_too_slow_is_told_to_come_again() -> None:
    """Its queue is bounded: what waits is dropped, it is told to reconnect, and others are not held up."""

    async def both() -> tuple[list[bytes], list[bytes], int]:
        fanout = Fanout()
        slow, fast = fanout.join(b"", limit_bytes=1000), fanout.join(b"", limit_bytes=100_000)
        assert slow is not None
        assert fast is not None
        for n in range(100):
            fanout.send(event("readings", orjson.dumps({"n": n})))
        left = len(fanout)
        fanout.close()
        return [part async for part in slow.events()], [part async for part in fast.events()], left

    slow, fast, left = asyncio.run(both())
    assert left == 1, "the slow one was given up"
    assert slow[0].startswith(b"retry: 1000\nevent: reconnect\n")
    assert len(slow) == 1
    told = [json.loads(line[6:])["n"] for line in b"".join(fast).decode().splitlines() if line.startswith("data: ")]
    assert told == list(range(100))


def test_what_was_handed_over_counts_until_it_is_sent() -> None:
    """A client that does not take its piece holds no more than the limit, the piece included."""

    async def scene() -> list[bool]:
        client = Subscriber(1000)
        events = client.events()
        offered = [client.offer(b"a" * 600)]
        assert await anext(events) == b"a" * 600
        offered += [client.offer(b"b" * 300), client.offer(b"c" * 300)]
        assert b"reconnect" in await anext(events)
        return offered

    assert asyncio.run(scene()) == [True, True, False]


def test_what_was_sent_counts_no_more() -> None:
    """A client that takes everything is never given up, however much it is in sum."""

    async def scene() -> None:
        client = Subscriber(1000)
        events = client.events()
        for _ in range(20):
            next_one = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)  # it is asked for before there is anything: the one before is sent
            assert client.offer(b"x" * 900)
            assert await next_one == b"x" * 900

    asyncio.run(scene())


def test_pieces_are_bounded_and_lose_nothing() -> None:
    """Events that wait are joined up to a MiB; a larger one comes alone, and the order stays."""

    async def scene() -> list[bytes]:
        client = Subscriber(2**24)
        for size in (0, 600_000, 400_000, 300_000, 2_000_000, 5, 7):
            assert client.offer(b"e" * size)
        client.close()
        return [piece async for piece in client.events()]

    assert [len(piece) for piece in asyncio.run(scene())] == [1_000_000, 300_000, 2_000_000, 12]


def test_a_client_that_never_reads_holds_up_neither_others_nor_the_end(tmp_path: Path) -> None:
    """Behind a full socket its queue fills and it is given up; other pages go on, and the server stops."""
    with running(tmp_path / "data", small_catalogue()) as run:
        url = httpx.URL(run.url)
        fanout = run.context.live.fanout
        with socket.create_connection((url.host, url.port or 80)) as stuck:
            stuck.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: len(fanout) == 1, "one listens")
            large = event("readings", orjson.dumps({"rows": ["x" * (1 << 20)]}))
            for _ in range(64):
                fanout.send(large)
            assert len(fanout) == 0, "64 MiB are more than a queue and the buffers of a socket hold"
            other = run.stream()
            run.send("a", run.now_ms(), pm25=31)
            other.until(lambda name, _: name == "readings")
            stopped = threading.Thread(target=run.server.stop)
            stopped.start()
            stopped.join(WAIT_S)
            assert not stopped.is_alive()
            assert other.ended.wait(WAIT_S)


def test_a_client_of_a_loop_that_has_ended_is_given_up() -> None:
    """Events offered to what is gone are refused, not piled up."""

    async def make() -> Subscriber:
        return Subscriber()

    gone = asyncio.run(make())
    gone.offer(b"x")
    assert gone.offer(b"x") is False


def test_a_new_catalogue_makes_pages_load_again(run: Running) -> None:
    """When the catalogue changes, open pages get ``hello`` with its version."""
    stream = run.stream()
    other = small_catalogue()
    other.version = "0123456789ab"
    run.service.catalogue = other
    stream.until(lambda name, data: name == "hello" and data["catalogue"] == "0123456789ab")
