"""The sink in the whole service, and the commands about it: readings go in, notifications come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from qingtu.app import Options
from qingtu.cli import main
from qingtu.client import Client
from qingtu.commands.host import Host
from qingtu.settings import load_settings
from tests.notify.bench import T0, Bench, channels, opened, route, settings_of
from tests.notify.test_sink import AT_ONCE, states
from tests.test_service import STATIONS, body, send
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.notify.receiver import Receiver


@pytest.fixture
def file(tmp_path: Path, duty: Receiver) -> Path:
    """Settings of a service with one channel."""
    (tmp_path / "stations").mkdir()
    (tmp_path / "stations" / "all.yaml").write_text(STATIONS, encoding="utf-8")
    text = "[store]\ncommit_ms = 5\n[web]\nport = 0\n[figures]\ntick_s = 1\n" + AT_ONCE + "give_up_h = 0.000001\n"
    settings_of(tmp_path, text + channels(tmp_path, {"duty": duty.url}) + route(["duty"]))
    return tmp_path / "qingtu.toml"


@pytest.fixture
def host(file: Path) -> Iterator[Host]:
    """The service with its API."""
    with Host(load_settings(file, environ={}), Options(gateway=False)) as made:
        yield made


def problems(host: Host) -> dict[str, str]:
    """What the status says, by key."""
    return {one["key"]: one["en"] for one in Client(host.url, host.token).get("/api/status")["problems"]}


def test_from_a_reading_to_a_message_and_from_a_failure_to_a_retry(
    host: Host, file: Path, duty: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is given up shows in the status with the way out, is listed, and sent again by the running service."""
    service = host.service
    send(service, "a", body(service, 1, 60, pm25=300))
    until(lambda: states(duty), "the message has come")
    assert duty.titles() == ["[Red] A Dust: open"]
    assert problems(host) == {}
    assert main(["notify", "status", "-c", str(file)]) == 0
    duty.answers = [503] * 3
    send(service, "a", body(service, 2, 30, pm25=10))
    until(lambda: "notify_dead_duty" in problems(host), "it is given up")
    assert "qingtu notify retry" in problems(host)["notify_dead_duty"]
    capsys.readouterr()
    assert main(["notify", "status", "--json", "-c", str(file)]) == 1
    (row,) = orjson.loads(capsys.readouterr().out)["channels"]
    assert (row["channel"], row["sent"], row["dead"], row["error"]) == ("duty", 1, 1, "HTTP 503 Service Unavailable")
    assert main(["notify", "dead", "--json", "-c", str(file)]) == 0
    (dead,) = orjson.loads(capsys.readouterr().out)
    assert dead["title_en"] == "[Red] A Dust: resolved"
    duty.answers.clear()
    assert main(["notify", "retry", dead["id"], "-c", str(file)]) == 0
    until(lambda: [state for _, state in states(duty)] == ["open", "resolved"], "it is sent again")
    until(lambda: problems(host) == {}, "all is well")


def test_a_channel_that_fails_shows_as_a_problem_and_holds_nobody_up(tmp_path: Path, duty: Receiver) -> None:
    """By its name and reason, without its address; readings are stored, and a stop does not wait for it."""
    (tmp_path / "stations").mkdir()
    (tmp_path / "stations" / "all.yaml").write_text(STATIONS, encoding="utf-8")
    text = "[store]\ncommit_ms = 5\n[web]\nport = 0\n[figures]\ntick_s = 1\n" + AT_ONCE
    settings = settings_of(tmp_path, text + channels(tmp_path, {"duty": duty.url}) + route(["duty"]))
    duty.answers = [500] * 100
    with Host(settings, Options(gateway=False)) as host:
        send(host.service, "a", body(host.service, 1, 60, pm25=300))
        until(lambda: "notify-duty" in problems(host), "the problem is told")
        assert problems(host)["notify-duty"] == "notify-duty: HTTP 500 Internal Server Error"
        send(host.service, "a", body(host.service, 2, 30, pm25=310))
        assert host.service.drain(20)
        duty.answers.clear()
        until(lambda: states(duty), "it is sent in the end")
        until(lambda: problems(host) == {}, "all is well")


def test_commands_say_what_is_missing(tmp_path: Path, duty: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """No book yet, no such channel, no such dead letter; a trial message needs no book."""
    bench = Bench.of(tmp_path, AT_ONCE + channels(tmp_path, {"duty": duty.url}) + route(["duty"]))
    bench.close()
    file = ["-c", str(tmp_path / "qingtu.toml")]
    assert main(["notify", "retry", "abc", *file]) == 4
    assert "there is no such dead letter" in capsys.readouterr().err
    assert main(["notify", "retry", *file]) == 2
    assert main(["notify", "retry", "--all", *file]) == 0
    assert main(["notify", "test", "nobody", *file]) == 4
    assert "allowed: duty" in capsys.readouterr().err
    assert main(["notify", "test", *file]) == 0
    assert (duty.bodies[0]["kind"], duty.bodies[0]["alerts"]) == ("test", [])
    duty.answers = [404]
    assert main(["notify", "test", "duty", *file]) == 1
    said = capsys.readouterr()
    assert "duty: 未送达 / not taken: HTTP 404 Not Found" in said.out
    assert "Sup3r" not in said.out + said.err
    (tmp_path / "notify" / "book.sqlite").unlink()
    assert main(["notify", "status", *file]) == 4
    assert 'name "notify" in `sinks`' in capsys.readouterr().err


def test_status_tells_what_waits_without_a_service(
    tmp_path: Path, duty: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the book alone."""
    bench = Bench.of(tmp_path, "[notify]\n" + channels(tmp_path, {"duty": duty.url}) + route(["duty"]))
    bench.run(T0 + 2_000_000, opened())
    bench.close()
    assert main(["notify", "status", "-c", str(tmp_path / "qingtu.toml")]) == 0
    said = capsys.readouterr().out
    assert "no service runs" in said
    assert main(["notify", "status", "--json", "-c", str(tmp_path / "qingtu.toml")]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert (found["lag_frames"], found["channels"][0]["waiting"]) == (None, 1)
