"""Promote into InfluxDB: the same dataset as DuckDB gets, and whatever cuts it off, doing it again finishes it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from qingtu import replay
from qingtu.app import Options, Service
from qingtu.clock import DAY, HOUR, SECOND, ManualClock
from qingtu.commands.replay import replay as replay_command
from qingtu.contracts import FigureQuery, ReadingQuery
from qingtu.errors import QingtuError, StartError
from qingtu.explain import explain
from qingtu.records import Cause
from qingtu.replay_promote import promote
from tests.process.support import T0, message, reading, tick
from tests.services.kafka_support import installation
from tests.services.replay_support import HOME, MORE, Town, history, influx_environ, overtaking, told
from tests.test_replay import NOW, ROOT, hours, merged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploy.native.influx import InfluxServer
    from deploy.native.kafka import KafkaServer
    from qingtu.store.contract import PrimaryStore

pytestmark = pytest.mark.services
_NAMES = itertools.count()
KEYS = [(station, "pm25", "main") for station in ("A1", "B1", "B2", "X1")]


@pytest.fixture
def wide(kafka: KafkaServer, influx: InfluxServer, tmp_path: Path) -> Town:
    """One on Kafka with two partitions and InfluxDB."""
    more = influx_environ(influx, tmp_path / "token", f"promote{os.getpid()}x{next(_NAMES)}")
    return Town(tmp_path / "influx", installation(kafka, 2), more)


@pytest.fixture
def small(tmp_path: Path) -> Town:
    """One on SQLite and DuckDB."""
    return Town(tmp_path / "sqlite", None)


def everything(town: Town) -> dict[str, Any]:
    """What a town's store says of its dataset, without positions: those differ where partitions do."""
    with town.open() as it:
        return said_by(it.store)


def said_by(store: PrimaryStore) -> dict[str, Any]:
    """The same of a store."""
    now = store.readings(ReadingQuery(KEYS, T0 - HOUR, NOW)).drop(["revision"]).to_pylist()
    before = store.readings(ReadingQuery(KEYS, T0 - HOUR, NOW, known_by_us=NOW - 1)).drop(["revision"]).to_pylist()
    chains = []
    for row in now:
        found = store.reading(KEYS[row["series"]], row["time"])
        assert found is not None
        chains.append([(c["cause"], c["old_value"], c["new_value"], c["new_flag"]) for c in found["corrections"]])
    figures = store.figures_of(FigureQuery(KEYS, T0 - HOUR, NOW)).drop(["revision", "inputs"]).to_pylist()
    corrected = [
        {name: row[name] for name in ("what", "station", "start", "old_value", "new_value", "known_at")}
        for row in store.figure_corrections()
        if row["station"] in HOME  # an area is made more often with two partitions
    ]
    books, _ = store.ledger()
    quarantine = [
        (row["device"], row["stage"], row["reason"], row["detail"], row["outcome"], row["received_at"])
        for row in store.quarantine()
    ]
    events = [tuple(v for n, v in row.items() if n != "revision") for row in store.events(T0 - HOUR, T0 + DAY)]
    counted = {name: store.count(name) for name in ("readings", "corrections", "events", "figures", "rejected")}
    return {
        "now": now, "before": before, "chains": chains, "figures": figures,
        "figure_corrections": sorted(corrected, key=lambda row: tuple(map(str, row.values()))),
        "books": books, "quarantine": sorted(quarantine), "counts": store.quarantine_counts(), "counted": counted,
        "events": sorted(events),
    }  # fmt: skip


def opened(at_s: float) -> dict[str, Any]:
    """A message of an unknown device with an event, and another one of the same time."""
    events = [{"kind": "door", "attributes": {"door": name}} for name in ("north", "south")]
    return message("x", {"time": (T0 + round(at_s * SECOND)) // 1000, "events": events}, at_s)


def agreed(town: Town) -> dict[str, Any]:
    """Ledger and audit after everything is done, as they must be."""
    audit = town.audited()
    assert audit["agrees"], audit["checks"]
    assert audit["ledger"]["balanced"]
    return audit


def test_influxdb_gets_what_duckdb_gets(wide: Town, small: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong unit and two forgotten devices: first changed, then all taken back, then published again."""
    monkeypatch.setattr("qingtu.replay_influx._READINGS", 5)
    for town in (wide, small):
        town.live(history() + [opened(7000 + i) for i in range(3)])
        town.live([tick(24_050)])
    assert everything(wide) == everything(small)
    steps: list[tuple[str, dict[str, str], dict[str, float]]] = [
        ("first", {"unit": "mg/m3", "more": MORE}, {"from_s": 3600, "to_s": 3 * 3600}),
        ("back", {}, {}),
        ("again", {"unit": "mg/m3", "more": MORE}, {}),
    ]
    for name, catalogue, span in steps:
        done = []
        for town in (wide, small):
            town.write(**catalogue)
            made = town.replay(name, **span)
            found = told(town.diff(made))
            out = town.promote(made)
            assert told(out) == found
            assert out["swapped"]
            assert told(town.diff(made))["empty"]
            ends = town.ends()
            again = town.promote(made)
            assert (again["empty"], again["swapped"], town.ends()) == (True, False, ends)
            agreed(town)
            done.append((found, everything(town)))
        for part, says in done[0][1].items():
            assert says == done[1][1][part], (name, part)
        assert done[0][0] == done[1][0]
    assert len(done[0][1]["events"]) == 6
    assert {(row["value"], row["flag"]) for row in done[0][1]["now"] if row["series"] == 0} >= {(21_000.0, 4)}


def test_why_a_message_was_refused_again_is_replaced(wide: Town, small: Town) -> None:
    """An unknown device, then an unknown field, then a catalogue without the device: both stores say the same."""
    for town in (wide, small):
        town.live([reading("x", 600, weird=1), tick(9000)])
        town.write(more=MORE)
        assert town.redrive() == 1
        assert _reasons(town) == (["unknown_property"], [["unknown_property", "unknown_device"]])
        town.write()
        made = town.replay("lost")
        assert told(town.promote(made))["messages"] == {"left": 0, "entered": 0, "stay": 1}
        assert _reasons(town) == (["unknown_device"], [["unknown_device", "unknown_device"]])
        assert told(town.diff(made))["empty"]
        agreed(town)
    assert everything(wide) == everything(small)


def _reasons(town: Town) -> tuple[list[str], list[list[str]]]:
    with town.open() as it:
        counted = [row["reason"] for row in it.store.quarantine_counts()]
        return counted, [[row["reason"] for row in it.store.refusals_of(at)] for at in it.store.in_quarantine()]


def test_a_promote_waits_for_nobody_and_is_explained(wide: Town) -> None:
    """As-of before it gives the old value, and the reading is explained from the other partition's raw."""
    wide.fill()
    wide.write(unit="mg/m3", more=MORE)
    revisions = wide.promote(wide.replay())["revisions"]
    options = Options(stages=frozenset({"store", "derive", "web"}), gateway=False)
    service = Service(wide.settings, options, clock=ManualClock(NOW))
    try:
        key, at, revision = ("A1", "pm25", "main"), T0 + 600_000_000, int(revisions["1"])
        found = service.store.reading(key, at)
        assert found is not None
        chain = [(c["cause"], c["old_value"], c["new_value"], c["new_revision"]) for c in found["corrections"]]
        assert chain == [(Cause.REPLAY, 21.0, 21_000.0, revision)]
        asked = ReadingQuery([key], at, at + 1, as_of=revision - 1)
        assert service.store.readings(asked).column("value").to_pylist() == [21.0]
        steps = {step["step"]: step["data"] for step in explain(service, "B2", "pm25", at)["steps"]}
        assert (steps["replay"]["generation"], steps["replay"]["promoted_ms"]) == ("g", NOW // 1000)
        assert (steps["raw"]["device"], steps["convert"]["agrees"]) == ("x", True)
    finally:
        service.close()


def test_what_comes_behind_a_promote_is_no_part_of_it(wide: Town) -> None:
    """A reading of raw right behind the promote's own row revises what it published, and the chain has both."""
    wide.fill()
    wide.write(unit="mg/m3", more=MORE)
    wide.promote(wide.replay())
    at = T0 + 600_000_000
    wide.live([reading("a", 600, 25_000, dust=0.5)])
    with wide.open() as it:
        found = it.store.reading(("A1", "pm25", "main"), at)
    assert found is not None
    assert [(c["cause"], c["old_value"], c["new_value"]) for c in found["corrections"]] == [
        (Cause.REPLAY, 21.0, 21_000.0), (Cause.READING, 21_000.0, 500.0),
    ]  # fmt: skip
    agreed(wide)


_PROMOTE = """
import os, signal, sys
from pathlib import Path
from qingtu import replay
from qingtu.bus.kafka import KafkaBus
from qingtu.clock import ManualClock
from qingtu.replay_promote import promote
from qingtu.settings import load_settings
from qingtu.store.influx.client import InfluxClient

die_at, now, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
seen = 0
def step():
    global seen
    seen += 1
    if seen == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
def stepped(kind, name):
    plain = getattr(kind, name)
    def around(*given, **named):
        step()
        done = plain(*given, **named)
        if name in ("append", "save_state") and done is not None:
            done.result()
        step()
        return done
    setattr(kind, name, around)
def hook(event, args):
    if event in ("os.rename", "os.remove", "shutil.rmtree", "os.mkdir") and "promote" in str(args[0]):
        step()
for kind, name in ((KafkaBus, "append"), (KafkaBus, "save_state"), (InfluxClient, "write"), (InfluxClient, "call")):
    stepped(kind, name)
environ = {k: v for k, v in os.environ.items() if k.startswith("QINGTU_")}
settings = load_settings(Path(os.devnull), environ=environ)
sys.addaudithook(hook)
promote(settings, replay.find(settings, None), who="t", clock=ManualClock(now))
"""


def killed(town: Town, die_at: int) -> bool:
    """Promote in a process of its own that is killed at a step; return whether it was."""
    words = [sys.executable, "-c", _PROMOTE, str(die_at), str(NOW), str(town.folder)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **town.environ}
    done = subprocess.run(words, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def starts(town: Town) -> bool:
    """Whether a process with the store starts; when not, it says how to finish the promote."""
    try:
        with town.open():
            return True
    except StartError as error:
        if "未完成" in str(error) and "qingtu replay g --promote" in str(error):
            return False
        raise


def cut_off(town: Town) -> None:
    """Leave a promote half done: killed at its first step behind which nothing starts."""
    town.live(merged(hours("a", "dust", 6), [tick(9000)]))
    town.write(unit="mg/m3")
    town.replay()
    at = 1
    while starts(town):
        assert killed(town, at), "it was never half done"
        at += 1


def test_killed_at_any_step_and_done_again(wide: Town, small: Town) -> None:
    """Kill -9 before and behind each write: nothing starts on half a promote, and again and again it gets further."""
    rows = merged(hours("a", "dust", 6), hours("x", "pm25", 3), [tick(9000)])
    for town in (wide, small):
        town.live(rows)
        town.write(unit="mg/m3", more=MORE)
        town.replay()
    old = everything(wide)
    small.promote(replay.find(small.settings, "g"))
    wanted, seen, ended, die_at = everything(small), set(), False, 0
    while not ended:
        die_at += 1
        assert die_at < 80, "it never ends by itself"
        ended = not killed(wide, die_at)
        if starts(wide):
            now = everything(wide)
            seen.add("old" if now == old else "new")
            assert now in (old, wanted) or ended
        else:
            seen.add("half")
            assert replay.promote_begun(wide.settings, "g")
            with pytest.raises(StartError, match="qingtu replay g --promote"):
                wide.diff(replay.find(wide.settings, "g"))
            with pytest.raises(QingtuError, match="qingtu replay g --promote"):
                replay.drop(wide.settings, "g")
    assert seen == {"old", "half", "new"}
    agreed(wide)
    got = everything(wide)
    for part, says in wanted.items():
        assert got[part] == says, part
    assert not replay.promote_begun(wide.settings, "g")
    assert replay.find(wide.settings, "g").promoted_us == NOW


def test_another_program_that_writes_raw_is_noticed(wide: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that was forgotten: nothing is changed, nothing has begun, and the sentence says to stop it."""
    wide.fill()
    wide.write(unit="mg/m3")
    made, before = wide.replay(), everything(wide)
    monkeypatch.setattr("qingtu.replay_influx.settle", overtaking(wide))
    with pytest.raises(QingtuError, match=r"another program writes raw.*stop the gateways"):
        wide.promote(made)
    monkeypatch.undo()
    assert everything(wide) == before
    assert not replay.promote_begun(wide.settings, "g")
    assert told(wide.promote(made))["readings"]["changed"] == 24


def test_another_promote_is_finished_first(wide: Town) -> None:
    """While one is half done another one is refused, and says which."""
    cut_off(wide)
    wide.write(unit="ug/m3")
    with pytest.raises(StartError, match="qingtu replay g --promote"):
        wide.promote(wide.replay("h"))
    assert wide.promote(replay.find(wide.settings, "g"))["swapped"]
    assert wide.promote(replay.find(wide.settings, "h"))["readings"]["changed"] == 6
    agreed(wide)


def test_a_server_that_dies_meanwhile_is_waited_for(
    kafka: KafkaServer, new_influx: Callable[[], InfluxServer], tmp_path: Path
) -> None:
    """Killed while lines are written, it is asked until it is back; the command says what it waits for."""
    server = new_influx()
    town = Town(tmp_path / "own", installation(kafka, 2), influx_environ(server, tmp_path / "token", "own"))
    town.live(merged(hours("a", "dust", 6), hours("x", "pm25", 3), [tick(9000)]))
    town.write(unit="mg/m3", more=MORE)
    made, said = town.replay(), list[str]()

    def progress(done: int, total: int, waiting: str) -> None:
        assert done <= total
        if done == 2 and not said and not waiting:
            server.kill()
        if waiting:
            said.append(waiting)
            server.start()

    out = promote(town.settings, made, who="t", clock=ManualClock(NOW), progress=progress)
    assert out["readings"] == {"new": 3, "changed": 6, "withdrawn": 0}
    assert said
    assert "does not answer" in said[0]
    agreed(town)
    assert told(town.diff(made))["empty"]


def test_the_commands(wide: Town) -> None:
    """``qingtu replay`` lists what is not done, finishes it, and says what it published."""
    cut_off(wide)
    app = typer.Typer()
    app.command()(replay_command)
    listed = CliRunner().invoke(app, ["--list"], env=wide.environ)
    assert (listed.exit_code, "not done" in listed.stdout) == (0, True)
    assert isinstance(CliRunner().invoke(app, ["g", "--drop"], env=wide.environ).exception, QingtuError)
    done = CliRunner().invoke(app, ["g", "--promote"], env=wide.environ)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "已发布 / promoted: g" in done.stdout
    listed = CliRunner().invoke(app, ["--list"], env=wide.environ)
    assert "not done" not in listed.stdout
    assert CliRunner().invoke(app, ["g", "--drop"], env=wide.environ).exit_code == 0
    agreed(wide)
