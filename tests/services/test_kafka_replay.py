"""Replay on Kafka: several partitions give the same diff as one, and a promote is whole or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from qingtu import replay
from qingtu.app import Options, Service
from qingtu.bus.kafka import KafkaBus
from qingtu.catalogue import load_catalogue
from qingtu.clock import HOUR, ManualClock
from qingtu.commands.host import Host
from qingtu.commands.replay import replay as replay_command
from qingtu.contracts import ReadingQuery
from qingtu.errors import NotFound, QingtuError, StartError
from qingtu.explain import explain
from qingtu.records import RAW, Cause
from qingtu.rules_try import changed_catalogue, try_rules
from tests.process.support import T0, tick
from tests.services.kafka_support import installation
from tests.services.replay_support import HOME, MORE, Town, overtaking, reading, told
from tests.test_replay import NOW

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.native.kafka import KafkaServer

pytestmark = pytest.mark.services
RULES = """
rules:
  - {id: dust, kind: threshold, zh: 尘, en: Dust, property: pm25, levels: {blue: 30, red: 250}, hysteresis: 5}
"""


@pytest.fixture
def town(kafka: KafkaServer, tmp_path: Path) -> Town:
    """One on Kafka, with two partitions."""
    return Town(tmp_path / "kafka", installation(kafka, 2))


@pytest.fixture
def small(tmp_path: Path) -> Town:
    """One on SQLite."""
    return Town(tmp_path / "sqlite", None)


def answer(printed: str) -> Any:
    """Return the JSON object of a command's output; here logs go there, too, such as of a client that is closed."""
    lines = printed.splitlines()
    return json.JSONDecoder().raw_decode("\n".join(lines[lines.index("{") :]))[0]


def test_both_buses_tell_and_publish_the_same(town: Town, small: Town) -> None:
    """A wrong unit and two forgotten devices: readings, figures, books and what was known before."""
    changed: list[Any] = []
    for one in (town, small):
        one.fill()
        before = one.values()
        one.write(unit="mg/m3", more=MORE)
        made = one.replay(from_s=3600, to_s=3 * 3600)
        assert one.values() == before
        found = told(one.diff(made))
        assert one.values() == before
        done = one.promote(made)
        assert told(done) == found
        audit = one.audited()
        assert audit["agrees"], audit["checks"]
        assert audit["ledger"]["balanced"]
        assert audit["ledger"]["messages"]["quarantined"] == 13
        assert told(one.diff(made))["empty"]
        changed.append((found, one.values(), one.values("figures"), sorted(done["revisions"])))
    (found, values, figures, partitions), other = changed[0], changed[1]
    for name, part in found.items():
        assert part == other[0][name], name
    assert (values, figures) == other[1:3]
    assert partitions == ["0", "1"]
    assert found["readings"] == {"new": 12, "changed": 11, "withdrawn": 0}
    assert found["messages"] == {"left": 12, "entered": 0, "stay": 0}
    assert {(c["station"], c["time_ms"] * 1000) for c in found["changes"] if c["what"] == "changed"} == {
        ("A1", T0 + 600_000_000 * i) for i in range(6, 18) if i != 7
    }, "and the reading that raw behind the span revised stays"
    hourly = {(f["station"], f["start_ms"] * 1000) for f in found["figures"] if f["property"] == "pm25"}
    expected = {("A1", 1), ("A1", 2), ("B2", 1), ("X1", 1)}
    assert {one for one in hourly if one[0] in HOME} == {(station, T0 + n * HOUR) for station, n in expected}


def test_what_was_known_before_is_there_and_explained(town: Town) -> None:
    """As-of in each partition; a reading whose message stands in another partition is explained from there."""
    town.fill()
    town.write(unit="mg/m3", more=MORE)
    revisions = town.promote(town.replay())["revisions"]
    options = Options(stages=frozenset({"store", "derive", "web"}), gateway=False)
    service = Service(town.settings, options, clock=ManualClock(NOW))
    try:
        key, at, revision = ("A1", "pm25", "main"), T0 + 600_000_000, int(revisions["1"])
        found = service.store.reading(key, at)
        assert found is not None
        chain = [(c["cause"], c["old_value"], c["new_value"], c["new_revision"]) for c in found["corrections"]]
        assert chain == [(Cause.REPLAY, 21.0, 21_000.0, revision)]
        for asked in (
            ReadingQuery([key], at, at + 1, as_of=revision - 1),
            ReadingQuery([key], at, at + 1, known_by_us=NOW - 1),
        ):
            assert service.store.readings(asked).column("value").to_pylist() == [21.0]
        away = service.store.reading(("B2", "pm25", "main"), at)
        assert away is not None
        assert away["revision"] == int(revisions["0"])
        steps = {step["step"]: step["data"] for step in explain(service, "B2", "pm25", at)["steps"]}
        assert steps["replay"]["generation"] == "g"
        assert (steps["raw"]["device"], steps["convert"]["agrees"]) == ("x", True)
    finally:
        service.close()


def test_only_what_changes_is_written(town: Town) -> None:
    """Raw of the other partition, and a store that has nothing to change, are left alone."""
    town.fill()
    file = town.folder / "stations" / "all.yaml"
    mended = "fields: {pm25: {property: pm25, unit: mg/m3}}"
    file.write_text(file.read_text().replace("properties: [pm25]", mended))
    ends = town.ends()
    done = town.promote(town.replay())
    assert {row["station"] for row in done["by"]} == {"B1"}
    assert done["revisions"] == {"0": str(ends[0] << 16)}
    assert town.ends() == [ends[0] + 1, ends[1]]
    again = town.promote(replay.find(town.settings, None))
    assert (again["empty"], again["swapped"]) == (True, False)
    assert town.ends() == [ends[0] + 1, ends[1]]


def test_devices_that_come_and_go(town: Town) -> None:
    """Withdrawn and brought back, with messages of one partition and readings of the other."""
    town.write(more=MORE)
    town.fill()
    good = town.values()
    town.write()
    out = town.promote(town.replay("out"))
    assert out["readings"] == {"new": 0, "changed": 0, "withdrawn": 24}
    assert out["messages"]["entered"] == 24
    assert {(row[0], row[3], row[4]) for row in town.values() if row[0] in {"B2", "X1"}} == {
        ("B2", None, 9), ("X1", None, 9),
    }  # fmt: skip
    assert town.audited()["agrees"]
    town.write(more=MORE)
    back = town.promote(town.replay("back"))
    assert back["readings"]["changed"] == 24
    assert town.values() == good
    audit = town.audited()
    assert audit["agrees"], audit["checks"]
    assert audit["ledger"]["messages"]["quarantined"] == 1


def test_what_was_driven_again_belongs_to_its_messages(town: Town) -> None:
    """Readings that another partition's messages brought: nothing changes unasked, and what is lost is withdrawn."""
    town.fill()
    town.write(more=MORE)
    town.live([tick(24_100 + i) for i in range(40)])
    # B2's partition must be further than the rows that are driven again in the other one.
    with town.open() as it:
        behind = it.bus.end(RAW, 1) - it.bus.end(RAW, 0)
        rows = [reading("b", 25_000 + i, pm25=20 + i % 3) for i in range(behind + 20)]
    town.live(rows)
    assert town.redrive() == 25
    good = town.values()
    assert len([row for row in good if row[0] in {"B2", "X1"}]) == 24
    later = town.diff(town.replay("span", from_s=3600, to_s=3 * 3600))
    assert told(later)["empty"], later["changes"][:5]
    assert told(town.diff(town.replay("all")))["empty"]
    town.write()
    found = town.promote(town.replay("out"))
    assert found["readings"] == {"new": 0, "changed": 0, "withdrawn": 24}
    audit = town.audited()
    assert audit["agrees"], audit["checks"]


def test_the_commands(town: Town, small: Town) -> None:
    """``qingtu replay`` makes, shows and publishes; ``qingtu rules try`` tells the same of both buses."""
    tried = []
    for one in (town, small):
        one.fill()
        changed = one.folder / "rules.yaml"
        changed.write_text(RULES, encoding="utf-8")
        then = changed_catalogue(one.settings.catalogue, changed, whole=False)
        found = try_rules(one.settings, load_catalogue(one.settings.catalogue), then, T0 - HOUR)
        sides = {"appear": found.appear, "vanish": found.vanish}
        tried.append({side: sorted((a.station, a.opened_us, a.level) for a in some) for side, some in sides.items()})
    assert tried[0] == tried[1]
    assert {station for station, _, _ in tried[0]["appear"]} == {"A1", "B1"}
    town.write(unit="mg/m3", more=MORE)
    app = typer.Typer()
    app.command()(replay_command)
    words = ["fix", "--from", "2026-11-23T01:00:00Z", "--to", "2026-11-23T03:00:00Z", "--diff", "--promote", "--json"]
    done = CliRunner().invoke(app, words, env=town.environ)
    assert done.exit_code == 0, (done.output, done.exception)
    told_ = answer(done.stdout)
    assert told_["generation"]["messages"] == 37
    assert told_["diff"]["readings"] == told_["promoted"]["readings"] == {"new": 12, "changed": 11, "withdrawn": 0}
    assert sorted(told_["promoted"]["revisions"]) == ["0", "1"]


def test_beside_the_running_service(town: Town) -> None:
    """A generation and its diff are had, from a back-up; a promote waits until the service is stopped."""
    town.fill()
    before = town.values()
    town.write(unit="mg/m3", more=MORE)
    app = typer.Typer()
    app.command()(replay_command)
    settings = town.settings
    with Host(settings.model_copy(update={"web": settings.web.model_copy(update={"port": 0})}), Options(gateway=False)):
        words = ["fix", "--from", "2026-11-23T01:00:00Z", "--to", "2026-11-23T03:00:00Z", "--diff", "--json"]
        done = CliRunner().invoke(app, words, env=town.environ)
        assert done.exit_code == 0, (done.output, done.exception)
        found = answer(done.stdout)["diff"]
        refused = CliRunner().invoke(app, ["--promote"], env=town.environ)
        assert isinstance(refused.exception, StartError)
    assert found["readings"] == {"new": 12, "changed": 11, "withdrawn": 0}
    assert list((town.folder / "data" / "backups").iterdir()) == []
    assert town.values() == before
    assert told(town.promote(replay.find(town.settings, "fix")))["readings"] == found["readings"]
    assert town.audited()["agrees"]


def test_retention_that_overtakes_the_reader_ends_it(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of the partition that is read last are deleted meanwhile: an error that names one, and no generation."""
    town.fill()
    monkeypatch.setattr("qingtu.bus.kafka_lane.AHEAD_BYTES", 1000)
    monkeypatch.setattr("qingtu.bus.kafka_lane.BEHIND_BYTES", 1000)
    ends, trimmed = town.ends(), list[int]()

    def trim(done: int, total: int) -> None:
        assert 0 < done <= total
        if not trimmed:
            bus = KafkaBus(town.settings.kafka)
            try:
                bus.trim(RAW, 1, ends[1] - 2)
            finally:
                bus.close()
            trimmed.append(ends[1] - 2)

    with pytest.raises(QingtuError, match=rf"of partition 1 expired .*oldest: {ends[1] - 2}\).*raw_keep_h"):
        replay.replay(town.settings, load_catalogue(town.settings.catalogue), "g", T0, None, now_us=NOW, progress=trim)
    assert list((town.folder / "data" / "generations").iterdir()) == []
    with pytest.raises(NotFound, match="holds no frame"):
        town.replay(from_s=90_000)


def test_another_program_that_writes_raw_is_noticed(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that was forgotten: nothing is swapped, and the sentence says to stop it."""
    town.fill()
    town.write(unit="mg/m3")
    made, before = town.replay(), town.values()
    monkeypatch.setattr("qingtu.replay_promote.settle", overtaking(town))
    with pytest.raises(QingtuError, match=r"another program writes raw.*stop the gateways"):
        town.promote(made)
    assert town.values() == before
    assert town.audited()["agrees"]
