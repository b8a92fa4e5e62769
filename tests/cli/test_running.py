"""Commands while the service runs, through its API; then the same ones on the files."""

from __future__ import annotations

import csv
import json
import signal
from typing import TYPE_CHECKING

import duckdb
import pytest

from tests.cli.conftest import Ran, Running, inside
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with half an hour of a city in which every tenth message is garbage; later tests stop it."""
    service = Running(tmp_path_factory.mktemp("service"))
    service.start()
    try:
        sent = service.ask("simulate", "--history", "30m", "--no-live", "--faults", "garbage=0.1", "--json",
                           "--truth", service.folder / "truth.jsonl")  # fmt: skip
        assert sent.code == 0, sent.err
        yield service
    finally:
        service.kill()
        service.end_broker()


def _ledger(running: Running) -> Ran:
    """Return the ledger after everything has been stored."""
    for _ in range(100):
        ran = running.ask("ledger", "--json")
        if ran.json["messages"]["in_flight"] == 0 and ran.json["messages"]["received"]:
            return ran
    raise AssertionError(ran.out)


def test_notes_say_where_the_map_is(running: Running) -> None:
    """The address carries the token behind the #, and the note names the broker in both languages."""
    told = "".join(running.told)
    assert f"http://127.0.0.1:{running.ports[1]}/#token=" in told
    assert "内置代理" in told
    assert "embedded broker" in told


def test_ledger_agrees_with_what_was_published(running: Running) -> None:
    """Every message has ended; those of garbage in quarantine."""
    truth = json.loads((running.folder / "truth.jsonl").read_text().splitlines()[-1])["summary"]
    messages = _ledger(running).json["messages"]
    assert messages["received"] == truth["published"]
    assert messages["quarantined"] == truth["quarantined"] > 0
    assert running.ask("ledger").out.startswith("台账 ledger: 平衡 balanced")


def test_audit_agrees(running: Running) -> None:
    """A recount of all rows gives what the ledger has booked."""
    _ledger(running)
    audit = running.ask("ledger", "--audit", "--json")
    assert audit.code == 0
    assert audit.json["agrees"] is True


def test_status_is_ok(running: Running) -> None:
    """The service says how it is, for people and as JSON."""
    _ledger(running)
    assert running.ask("status", "--json").json["broker"]["kind"] in {"mosquitto", "iotcore"}
    assert "平衡 balanced" in running.ask("status").out


def test_rejected_messages_are_listed_shown_and_driven_again(running: Running) -> None:
    """What is still wrong goes back into quarantine, and the ledger still balances."""
    before = _ledger(running).json["messages"]
    listed = running.ask("rejected", "list", "--reason", "bad_json", "--json").json
    counts = {row["reason"]: row["count"] for row in listed["counts"]}
    assert all(row["reason"] == "bad_json" for row in listed["rows"])
    ident = listed["rows"][0]["id"]
    shown = running.ask("rejected", "show", ident, "--json").json
    assert bytes.fromhex(shown["payload_hex"])
    assert shown["advice_zh"]
    assert shown["advice_en"]
    assert "00000000  " in running.ask("rejected", "show", ident).out
    driven = running.ask("rejected", "redrive", "--reason", "bad_json")
    assert driven.out.strip() == f"重投 / driven again: {counts['bad_json']}"
    after = _ledger(running).json
    assert after["balanced"] is True
    assert after["messages"] == before
    until(lambda: running.ask("rejected", "show", ident, "--json").json["before"], "the second refusal")
    assert f"bad_json: {shown['detail']}"[:20] in running.ask("rejected", "show", ident).out


def test_wrong_acts_are_refused_in_one_line(running: Running) -> None:
    """An id that is not there is exit code 4; redrive without a choice is a wrong command line."""
    ran = running.ask("rejected", "redrive", "0:999999999")
    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert running.ask("rejected", "redrive").code == 2
    for words in (("list",), ("redrive",)):
        ran = running.ask("rejected", *words, "--reason", "bad_jsno")
        said = " ".join(ran.err.replace("│", " ").split())
        assert ran.code == 2, ran.err
        assert "did you mean bad_json?" in said
        assert "clock_wrong" in said
    ran = running.ask("alerts", "ack", "none")
    assert (ran.code, ran.err.count("\n")) == (4, 1)


def test_alerts_are_listed(running: Running) -> None:
    """The list is JSON on request."""
    assert isinstance(running.ask("alerts", "--all", "--json").json, list)


def test_export_has_every_reading(running: Running, tmp_path: Path) -> None:
    """CSV and Parquet hold as many readings as the ledger says are stored."""
    stored = _ledger(running).json["readings"]["stored"]
    assert running.ask("export", tmp_path / "a.csv").code == 0
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == stored
    assert running.ask("export", tmp_path / "b.parquet").code == 0
    assert duckdb.read_parquet(str(tmp_path / "b.parquet")).count("*").fetchall() == [(stored,)]
    assert running.ask("export", tmp_path / "c.txt").code == 2
    (tmp_path / "a.csv").write_text("mine", encoding="utf-8")
    ran = running.ask("export", tmp_path / "a.csv")
    assert (ran.code, "--force" in ran.err) == (2, True)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "mine"
    assert running.ask("export", tmp_path / "a.csv", "--force").code == 0
    assert len((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()) == stored + 1


def test_explain_starts_at_the_bytes(running: Running, tmp_path: Path) -> None:
    """A stored reading is explained from raw on; one that does not exist is exit code 4."""
    running.ask("export", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    words = (row["station"], row["property"], row["time"])
    found = running.ask("explain", *words, "--json")
    assert found.code == 0, found.err
    assert [step["step"] for step in found.json["steps"]][:3] == ["raw", "decode", "locate"]
    assert running.ask("explain", *words).out.startswith("raw")
    assert running.ask("explain", row["station"], row["property"], "2001-01-01").code == 4


def test_a_flag_is_set_by_hand(running: Running, tmp_path: Path) -> None:
    """The command names the person; explain tells who, what and why; a reading that does not exist is refused."""
    running.ask("export", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    words = (row["station"], row["property"], row["time"])
    done = running.ask("override", *words, "--flag", "4", "--reason", "探头脱落")
    assert done.code == 0, done.err
    assert "overridden by operator" in done.out
    until(lambda: "set the flag to 4: 探头脱落" in running.ask("explain", *words).out, "the override")
    assert running.ask("override", *words[:2], "2001-01-01", "--flag", "4", "--reason", "x").code != 0


def test_the_data_folder_is_its_owners_alone(running: Running) -> None:
    """Raw bytes, pseudonyms and tokens are nobody else's business."""
    assert (running.folder / "data").stat().st_mode & 0o777 == 0o700


def test_reload_takes_the_catalogue_again(running: Running) -> None:
    """An unchanged catalogue stays what it is."""
    assert "unchanged" in running.ask("reload").out


def test_second_service_is_refused(running: Running) -> None:
    """The data folder belongs to one process; the line names it and the way out."""
    ran = running.ask("run")
    assert ran.code == 3, ran.out
    assert running.process is not None
    assert f"in use by process {running.process.pid}" in ran.err
    assert "--data" in ran.err
    assert ran.err.count("\n") == 1


def test_backup_can_be_started_from(running: Running, tmp_path: Path) -> None:
    """A back-up made while the service runs is a data folder with a ledger that balances."""
    made = running.ask("backup", tmp_path / "copy")
    assert made.code == 0, made.err
    ledger = inside("ledger", "--json", "--data", tmp_path / "copy")
    assert ledger.code == 0, ledger.err
    assert ledger.json["messages"] == _ledger(running).json["messages"]
    assert running.ask("backup", tmp_path / "copy").code == 2


def test_sigterm_ends_cleanly_and_files_answer_the_same(running: Running) -> None:
    """After SIGTERM: exit code 0, a ledger line, no address left, and commands read the files."""
    while_running = _ledger(running).json
    ended = running.stop(signal.SIGTERM)
    assert ended.code == 0, ended.err
    assert "平衡 balanced" in ended.err
    assert not (running.folder / "data" / "service.json").exists()
    assert not (running.folder / "data" / "broker" / "pid.json").exists()
    ran = running.ask("ledger", "--json")
    assert ran.json["messages"] == while_running["messages"]
    assert "no service runs" in ran.err
    assert running.ask("ledger", "--audit").code == 0
    assert running.ask("reload").code == 4


def test_redrive_without_a_service_is_finished_when_the_command_ends(running: Running) -> None:
    """The command runs the stages itself for as long as they have work."""
    count = len(running.ask("rejected", "list", "--reason", "bad_time", "--limit", "1000", "--json").json["rows"])
    assert count > 0
    assert running.ask("rejected", "redrive", "--reason", "bad_time").out.strip().endswith(f": {count}")
    ledger = running.ask("ledger", "--json").json
    assert ledger["balanced"] is True
    assert ledger["messages"]["in_flight"] == 0


def test_stale_address_is_noticed(running: Running) -> None:
    """The address of a killed service is not believed, and the next start takes over its broker."""
    running.start()
    running.kill()
    assert (running.folder / "data" / "service.json").exists()
    ran = running.ask("ledger", "--json")
    assert ran.code == 0, ran.err
    running.start()
    ended = running.stop(signal.SIGINT)
    assert ended.code == 0, ended.err
    assert "平衡 balanced" in ended.err
