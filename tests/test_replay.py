"""Replay: a mended catalogue changes what it should, an unmended one nothing, and a promote is whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, assume, example, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from qingtu import replay
from qingtu.app import Options, Service
from qingtu.catalogue import load_catalogue
from qingtu.clock import HOUR, SECOND, ManualClock
from qingtu.contracts import ReadingQuery
from qingtu.errors import NotFound, QingtuError, StartError
from qingtu.explain import explain
from qingtu.records import NEIGHBOUR, OVERRIDDEN, PROCESSED, RAW, Cause, Outcome
from qingtu.replay_diff import LIVE, diff
from qingtu.replay_pass import config_of
from qingtu.replay_promote import BEFORE, promote
from qingtu.replay_raw import SqliteRaw
from qingtu.settings import load_settings
from qingtu.store.duckdb import DuckStore
from tests.process.support import T0, command, frame_of, message, reading, tick

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.replay import Generation
    from qingtu.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
NOW = T0 + 6 * HOUR
STATIONS = """
networks:
  - {{id: n, zh: 网, en: Net, interval_s: 600}}
rules:
  - {{id: dust, kind: threshold, zh: 尘, en: Dust, property: pm25, levels: {{blue: 75, red: 250}}, hysteresis: 5}}
stations:
  - {{id: A, zh: 站, en: A, network: n, domain: air, kind: air, position: [120.3, 36.1],
     limits: {{pm25: {{suspect: [0, 500], spike: {{suspect: 60, fail: 120}}}}}},
     devices: [{{id: a, fields: {{dust: {{property: pm25, unit: {unit}}}}}}}]}}
  - {{id: B, zh: 站, en: B, network: n, domain: air, kind: air, position: [120.4, 36.1],
     devices: [{{id: b, properties: [pm25, air_temperature]}}]}}
{more}
"""
MORE = """  - {id: X, zh: 站, en: X, network: n, domain: air, kind: air, position: [120.5, 36.1],
     devices: [{id: x, properties: [pm25]}]}
"""


class Scene:
    """A data folder with a history, and the settings that name it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "stations").mkdir(parents=True)
        self.write()

    def write(self, unit: str = "ug/m3", more: str = "") -> None:
        """Write the catalogue."""
        text = STATIONS.format(unit=unit, more=more)
        (self.folder / "stations" / "all.yaml").write_text(text, encoding="utf-8")

    @property
    def settings(self) -> Settings:
        """As the commands load them."""
        environ = {
            "QINGTU_DATA": str(self.folder / "data"), "QINGTU_CATALOGUE": str(self.folder / "stations"),
            "QINGTU_BUS__FREE_FLOOR_MB": "1", "QINGTU_STORE__COMMIT_MS": "5", "QINGTU_STORE__MEMORY_LIMIT": "256MB",
        }  # fmt: skip
        return load_settings(Path(os.devnull), environ=environ)

    def service(self) -> Service:
        """Open the service on the files; nothing runs."""
        return Service(self.settings, Options(gateway=False), clock=ManualClock(NOW))

    def live(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let rows, each a raw frame, go all the way, as the running service does; the catalogue is said first."""
        service = self.service()
        try:
            args = config_of(service.settings, service.catalogue)
            service.bus.append(RAW, 0, [frame_of([command(0, "configure", **args)])]).result()
            if rows:
                service.bus.append(RAW, 0, [frame_of([row]) for row in rows]).result()
            self.run(service)
        finally:
            service.close()

    @staticmethod
    def run(service: Service) -> None:
        """Step everything until nothing moves, then save."""
        busy = True
        while busy:
            busy = service.process.step()
            for stage in service.stores:
                stage.hurry()
                busy |= stage.step()
            busy |= service.derive.step()
            # It waits for the store, and sits out a moment meanwhile.
            behind = [p for p, at in service.derive.stages.items() if at.next_offset < service.bus.end(PROCESSED, p)]
            if behind and not busy:
                time.sleep(0.02)
                busy = True
        service.process.save()
        service.derive.save()
        service.ledger.save()

    def replay(self, name: str = "g", from_s: float = 0, to_s: float | None = None) -> Generation:
        """Make a generation with the catalogue of now."""
        to_us = None if to_s is None else T0 + round(to_s * SECOND)
        today = load_catalogue(self.settings.catalogue)
        return replay.replay(self.settings, today, name, T0 + round(from_s * SECOND), to_us, now_us=NOW)

    def diff(self, generation: Generation) -> dict[str, Any]:
        """What a promote would change."""
        return diff(self.settings, generation, client=None, now_us=NOW).as_dict()

    def promote(self, generation: Generation) -> dict[str, Any]:
        """Publish."""
        return promote(self.settings, generation, who="t", clock=ManualClock(NOW))

    def values(self, table: str = "readings") -> list[tuple[Any, ...]]:
        """All readings (or hours of PM2.5) by name, with value and flag."""
        store = DuckStore(self.settings.data / LIVE)
        try:
            with store.cursor() as db:
                sql = {
                    "readings": "SELECT s.station, s.property, epoch_us(time), value, flag FROM readings r "
                    "JOIN series s ON s.id = r.series ORDER BY ALL",
                    "figures": "SELECT station, property, epoch_us(start), value, count FROM figures "
                    "WHERE what = 'hour' AND property = 'pm25' ORDER BY ALL",
                }[table]
                rows: list[tuple[Any, ...]] = db.execute(sql).fetchall()
                return rows
        finally:
            store.close()

    def audited(self) -> dict[str, Any]:
        """Ledger and audit after everything on raw is done."""
        service = self.service()
        try:
            self.run(service)
            return service.audit()
        finally:
            service.close()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """One scene."""
    return Scene(tmp_path / "scene")


def hours(device: str, field: str, count: int, start_s: float = 0) -> list[dict[str, Any]]:
    """Readings every ten minutes."""
    return [reading(device, start_s + 600 * i, **{field: 20 + i}) for i in range(count)]


def merged(*rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows in the order of receipt."""
    return sorted((row for some in rows for row in some), key=lambda row: row["received_at"])


def test_a_mended_unit_changes_exactly_its_readings_and_figures(scene: Scene) -> None:
    """mg/m3 was read as ug/m3: the diff names the readings and hours, the promote corrects them with their cause."""
    rows = merged(hours("a", "dust", 24), hours("b", "pm25", 24), [tick(600 * i + 1) for i in range(30)])
    scene.live(rows)
    before, figures_before = scene.values(), scene.values("figures")
    scene.write(unit="mg/m3")
    made = scene.replay(from_s=3600, to_s=3 * 3600)
    assert scene.values() == before

    found = scene.diff(made)
    mended = [row for row in before if row[0] == "A" and T0 + HOUR <= row[2] < T0 + 3 * HOUR]
    assert found["readings"] == {"new": 0, "changed": len(mended), "withdrawn": 0}
    assert [(c["time_ms"] * 1000, c["old_value"], c["new_value"]) for c in found["changes"]] == [
        (row[2], row[3], pytest.approx(1000 * row[3])) for row in mended
    ]
    figures = [f for f in found["figures"] if f["property"] == "pm25"]
    assert {f["what"] for f in figures} == {"hour"}  # the day is not over; indices are made of the hours
    changed_hours = [(f["station"], f["start_ms"]) for f in figures]
    assert changed_hours == [("A", (T0 + HOUR) // 1000), ("A", (T0 + 2 * HOUR) // 1000)]
    assert scene.values() == before

    assert scene.promote(made)["readings"] == found["readings"]
    after = scene.values()
    assert [row for row in after if row not in before] == [
        (*row[:3], pytest.approx(1000 * row[3]), 4) for row in mended
    ]  # above 500, so they fail gross range or are suspect
    figures = scene.values("figures")
    assert [row[:3] for row in figures if row not in figures_before] == [
        ("A", "pm25", T0 + HOUR), ("A", "pm25", T0 + 2 * HOUR),
    ]  # fmt: skip
    audit = scene.audited()
    assert audit["agrees"], audit["checks"]
    assert audit["ledger"]["balanced"]
    assert scene.diff(made)["empty"]


def test_corrections_as_of_and_explain_tell_of_the_replay(scene: Scene) -> None:
    """The cause is replay, the old value is what was known before, and the bytes are converted as they were now."""
    scene.live(merged(hours("a", "dust", 6), [tick(600 * i + 1) for i in range(30)]))
    scene.write(unit="mg/m3")
    revision = int(scene.promote(scene.replay())["revisions"]["0"])
    service = scene.service()
    try:
        key, at = ("A", "pm25", "main"), T0 + 600 * SECOND
        found = service.store.reading(key, at)
        assert found is not None
        chain = [(c["cause"], c["old_value"], c["new_value"], c["new_revision"]) for c in found["corrections"]]
        assert chain == [(Cause.REPLAY, 21.0, 21_000.0, revision)]
        for asked in (
            ReadingQuery([key], at, at + 1, as_of=revision - 1),
            ReadingQuery([key], at, at + 1, known_by_us=NOW - 1),
        ):
            assert service.store.readings(asked).column("value").to_pylist() == [21.0]
        assert service.store.readings(ReadingQuery([key], at, at + 1)).column("value").to_pylist() == [21_000.0]
        told = {s["step"]: s["data"] for s in explain(service, *key[:2], at)["steps"]}
        assert (told["replay"]["cause"], told["replay"]["generation"]) == ("replay", "g")
        assert told["locate"]["catalogue"] == told["replay"]["catalogue"] == service.catalogue.version
        assert told["convert"]["agrees"]
        assert told["convert"]["unit_sent"] == "mg/m3"
        assert [row["cause"] for row in told["corrections"]["rows"]] == ["replay"]
        assert "21" in told["raw"]["payload_text"]
    finally:
        service.close()


def test_quarantined_messages_that_pass_now_leave_quarantine(scene: Scene) -> None:
    """A device that was forgotten in the catalogue: its readings appear, its messages move, the books agree."""
    rows = merged(hours("x", "pm25", 12), hours("b", "pm25", 12), [message("b", b"{", 700)], [tick(9000)])
    scene.live(rows)
    assert scene.audited()["ledger"]["messages"]["quarantined"] == 13
    scene.write(more=MORE)
    made = scene.replay()
    found = scene.promote(made)
    assert found["readings"] == {"new": 12, "changed": 0, "withdrawn": 0}
    assert found["messages"] == {"left": 12, "entered": 0, "stay": 0}
    assert {(f["station"], f["old_value"]) for f in found["figures"]} == {("X", None)}
    audit = scene.audited()
    assert audit["agrees"], audit["checks"]
    assert audit["ledger"]["messages"]["quarantined"] == 1
    assert audit["ledger"]["messages"]["stored"] == 24
    assert audit["ledger"]["redriven"] == 12
    assert scene.diff(made)["empty"]


def test_what_does_not_pass_any_more_is_withdrawn_and_comes_back(scene: Scene) -> None:
    """A device that the catalogue lost: value missing, flag 9, the message quarantined; mended again, it returns."""
    scene.live(merged(hours("b", "pm25", 12), hours("a", "dust", 12), [tick(9000)]))
    good = scene.values()
    text = (scene.folder / "stations" / "all.yaml").read_text()
    gone = text.replace("{id: a, fields", "{id: a-new, fields")
    (scene.folder / "stations" / "all.yaml").write_text(gone)
    out = scene.promote(scene.replay("out"))
    assert out["readings"] == {"new": 0, "changed": 0, "withdrawn": 12}
    assert out["messages"] == {"left": 0, "entered": 12, "stay": 0}
    assert [row[3:] for row in scene.values() if row[0] == "A"] == [(None, 9)] * 12
    audit = scene.audited()
    assert audit["agrees"], audit["checks"]
    assert audit["ledger"]["messages"]["quarantined"] == 12
    assert scene.diff(replay.find(scene.settings, "out"))["empty"]
    scene.write()
    back = scene.promote(scene.replay("back"))
    assert back["readings"] == {"new": 0, "changed": 12, "withdrawn": 0}
    assert back["messages"] == {"left": 12, "entered": 0, "stay": 0}
    assert scene.values() == good
    audit = scene.audited()
    assert audit["agrees"], audit["checks"]
    assert audit["ledger"]["messages"]["quarantined"] == 0
    (scene.folder / "stations" / "all.yaml").write_text(gone)
    assert scene.promote(scene.replay("out-again", to_s=10_000))["messages"] == {"left": 0, "entered": 12, "stay": 0}
    audit = scene.audited()
    assert audit["agrees"], audit["checks"]
    assert audit["ledger"]["messages"]["quarantined"] == 12


def driven_again(scene: Scene, shift_s: float = 0) -> None:
    """Drive all of the quarantine again, with the catalogue of now."""
    scene.live([])
    service = scene.service()
    try:
        service.redrive(None, "t", shift_s=shift_s)
        scene.run(service)
    finally:
        service.close()


def reasons(scene: Scene) -> tuple[list[tuple[str, int]], list[str], list[list[str]]]:
    """What quarantine says: counts by reason, reasons as listed, and how each message in it was refused."""
    service = scene.service()
    try:
        store = service.store
        counts = [(row["reason"], row["count"]) for row in store.quarantine_counts()]
        told = [[row["reason"] for row in store.refusals_of(at)] for at in store.in_quarantine()]
        assert all(store.in_quarantine(reason) for reason, _ in counts)
        return counts, [row["reason"] for row in store.quarantine()], told
    finally:
        service.close()


def test_a_promote_replaces_why_a_message_was_refused_again(scene: Scene) -> None:
    """An unknown device, then an unknown field, then a catalogue without the device: it is unknown again."""
    scene.live([reading("x", 600, pm25=20, weird=1), tick(9000)])
    scene.write(more=MORE)
    driven_again(scene)
    assert reasons(scene) == (
        [("unknown_property", 1)], ["unknown_property"], [["unknown_property", "unknown_device"]],
    )  # fmt: skip
    assert scene.diff(scene.replay("same"))["empty"]
    scene.write()
    made = scene.replay("lost")
    assert scene.promote(made)["messages"] == {"left": 0, "entered": 0, "stay": 1}
    assert reasons(scene) == ([("unknown_device", 1)], ["unknown_device"], [["unknown_device", "unknown_device"]])
    assert scene.diff(made)["empty"]
    audit = scene.audited()
    assert audit["agrees"], audit["checks"]


def test_what_enters_quarantine_tells_what_its_last_row_was_refused_for(scene: Scene) -> None:
    """A clock a day ahead, mended by a shift to 200 s ahead; then only 60 s are allowed: the 200 are the reason."""
    scene.live([reading("a", 600 + 86_400, 600, dust=20), tick(9000)])
    driven_again(scene, 200 - 86_400)
    assert reasons(scene) == ([], ["clock_wrong"], [])
    strict = scene.settings.model_copy(
        update={"process": scene.settings.process.model_copy(update={"ahead_limit_s": 60})}
    )
    made = replay.replay(strict, load_catalogue(strict.catalogue), "strict", T0, None, now_us=NOW)
    assert scene.promote(made)["messages"] == {"left": 0, "entered": 1, "stay": 0}
    service = scene.service()
    try:
        (row,) = service.store.quarantine()
        ((_, at),) = service.store.in_quarantine("clock_wrong")
        assert (row["redrive_of"], row["moved_by"], row["outcome"]) == (at, row["position"], Outcome.QUARANTINED)
        assert len(service.store.refusals_of((0, at))) == 2
    finally:
        service.close()
    assert scene.diff(made)["empty"]


def test_a_second_mending_of_the_same_span_follows_the_first(scene: Scene) -> None:
    """What a promote wrote still belongs to the raw rows of the span."""
    scene.live(merged(hours("a", "dust", 6), [tick(9000)]))
    first = scene.values()
    scene.write(unit="mg/m3")
    scene.promote(scene.replay("one"))
    scene.write()
    again = scene.promote(scene.replay("two", to_s=10_000))
    assert again["readings"]["changed"] == 6
    assert scene.values() == first


def test_later_raw_stands(scene: Scene) -> None:
    """A reading that was sent again behind the span is not taken back to what the span says."""
    later = message("a", {"time": T0 // 1000, "readings": {"dust": 99}}, 7200)
    scene.live([*hours("a", "dust", 3), later, tick(9000)])
    scene.write(unit="mg/m3")
    found = scene.promote(scene.replay(to_s=3600))
    assert found["readings"]["changed"] == 2
    assert scene.values()[0][2:4] == (T0, 99.0)


_ROW = st.tuples(
    st.sampled_from(["a", "b", "x"]), st.integers(0, 40), st.sampled_from([0, 0, 0, 1, 20]), st.integers(0, 260),
    st.sampled_from(["good", "good", "good", "garbage", "wrong clock", "again", "tick"]),
)  # fmt: skip


@example(
    rows=[*[("a", 0, 0, 0, "good")] * 9, ("a", 1, 0, 61, "good"), ("a", 8, 0, 0, "good")],
    first=0, length=2, whole=False,
)  # fmt: skip
@given(rows=st.lists(_ROW, max_size=40), first=st.integers(0, 45), length=st.integers(1, 50), whole=st.booleans())
@limits(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_unchanged_program_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], first: int, length: int, whole: bool
) -> None:
    """Whatever came, duplicates, late, garbage, from unknown devices: any span of it gives an empty diff."""
    scene = Scene(tmp_path_factory.mktemp("replay") / "scene")
    history: list[Mapping[str, Any]] = []
    for device, at, late, value, kind in rows:
        received = 600 * (at + late)
        body = {"time": T0 // 1000 + 600_000 * at, "readings": {"dust" if device == "a" else "pm25": value}}
        if kind == "tick":
            history.append(tick(received))
        elif kind == "garbage":
            history.append(message(device, b"{", received))
        elif kind == "wrong clock":
            history.append(message(device, {**body, "time": 1000}, received))
        else:
            history.extend([message(device, body, received)] * (2 if kind == "again" else 1))
    history.sort(key=lambda row: row["received_at"])
    history.append(tick(40_000))
    from_s, to_s = (0, 50_000) if whole else (600 * first, 600 * (first + length))
    assume(any(T0 + from_s * SECOND <= row["received_at"] < T0 + to_s * SECOND for row in history))
    scene.live(history)
    made = scene.replay(from_s=from_s, to_s=None if whole else to_s)
    found = scene.diff(made)
    assert found["empty"], found
    assert not found["alerts"]["only_live"]
    assert not found["alerts"]["only_replay"]


_PROMOTE = """
import os, signal, sys
from pathlib import Path
from qingtu import replay
from qingtu.clock import ManualClock
from qingtu.replay_promote import promote
from qingtu.settings import load_settings
from qingtu.store.duckdb import DuckStore

die_at, now = int(sys.argv[1]), int(sys.argv[2])
seen = 0
def hook(event, args):
    global seen
    if event in ("os.link", "os.rename", "os.remove", "open", "os.mkdir") and str(args[0]).startswith(sys.argv[3]):
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
environ = {k: v for k, v in os.environ.items() if k.startswith("QINGTU_")}
settings = load_settings(Path(os.devnull), environ=environ)
sys.addaudithook(hook)
promote(settings, replay.find(settings, None), who="t", clock=ManualClock(now))
"""


def test_killed_at_any_step_of_a_promote(scene: Scene) -> None:
    """Kill -9 before each file that is opened, linked, renamed or removed leaves the old store or the new one.

    Both go on, and the promote can be done again.
    """
    scene.live(merged(hours("a", "dust", 6), hours("x", "pm25", 3), [tick(9000)]))
    old = scene.values()
    scene.write(unit="mg/m3", more=MORE)
    scene.replay()
    ended = False
    seen = set()
    die_at = 0
    environ = {
        **os.environ, "PYTHONPATH": str(ROOT), "QINGTU_DATA": str(scene.folder / "data"),
        "QINGTU_CATALOGUE": str(scene.folder / "stations"), "QINGTU_BUS__FREE_FLOOR_MB": "1",
    }  # fmt: skip
    while not ended:
        die_at += 1
        words = [sys.executable, "-c", _PROMOTE, str(die_at), str(NOW), str(scene.folder)]
        done = subprocess.run(words, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        ended = done.returncode == 0
        new = scene.values()
        kind = "old" if new == old else "new"
        if kind == "new":
            assert len(new) == len(old) + 3
            assert [row[3] for row in new if row[0] == "A"] == [1000 * row[3] for row in old if row[0] == "A"]
        seen.add(kind)
        audit = scene.audited()
        assert audit["agrees"], (die_at, audit["checks"])
        assert audit["ledger"]["balanced"]
        assert die_at < 60, "it never ends by itself"
    assert seen == {"old", "new"}
    assert die_at > 5, "it was killed at no step"
    assert [name for name in before_files(scene) if name.startswith("before")] == [BEFORE]
    assert values_of(replay.folder_of(scene.settings, "g") / BEFORE) == [row[3] for row in old]
    assert replay.find(scene.settings, "g").promoted_us == NOW


def before_files(scene: Scene) -> list[str]:
    """Names of the database files in the folder of generation g."""
    return sorted(path.name for path in replay.folder_of(scene.settings, "g").glob("*.duckdb"))


def values_of(file: Path) -> list[float]:
    """All values in a database file, in the order of :meth:`Scene.values`."""
    store = DuckStore(file)
    try:
        with store.cursor() as db:
            sql = "SELECT value FROM readings r JOIN series s ON s.id = r.series ORDER BY station, property, time"
            return [row[0] for row in db.execute(sql).fetchall()]
    finally:
        store.close()


def raw_frames(scene: Scene) -> int:
    """How many frames raw holds."""
    reader = SqliteRaw(scene.settings.data / "bus" / "raw.db")
    try:
        return reader.bounds()[1]
    finally:
        reader.close()


def test_a_promote_that_changes_nothing_swaps_nothing(scene: Scene) -> None:
    """Done a second time, the store before the first one stays, and raw and the live file are left alone."""
    scene.live(hours("a", "dust", 3))
    scene.write(unit="mg/m3")
    made = scene.replay()
    first = scene.promote(made)
    folder, live = replay.folder_of(scene.settings, "g"), scene.settings.data / "qingtu.duckdb"
    assert (first["swapped"], first["before"]) == (True, str(folder / BEFORE))
    was, frames = live.stat().st_ino, raw_frames(scene)
    again = promote(scene.settings, replay.find(scene.settings, "g"), who="t", clock=ManualClock(NOW + HOUR))
    assert again["empty"]
    assert not again["swapped"]
    assert (live.stat().st_ino, raw_frames(scene)) == (was, frames)
    assert before_files(scene) == [BEFORE, "qingtu.duckdb"]
    assert values_of(folder / BEFORE) == [20.0, 21.0, 22.0]
    assert replay.find(scene.settings, "g").promoted_us == NOW


def test_no_store_before_is_ever_overwritten(scene: Scene) -> None:
    """A generation that is published again after another one: both stores that it replaced are there."""
    scene.live(hours("a", "dust", 3))
    scene.write(unit="mg/m3")
    made = scene.replay()
    scene.promote(made)
    scene.write()
    scene.promote(scene.replay("back", to_s=10_000))
    again = scene.promote(made)
    folder = replay.folder_of(scene.settings, "g")
    assert again["readings"]["changed"] == 3
    assert again["before"] == str(folder / "before-2.duckdb")
    assert values_of(folder / BEFORE) == values_of(folder / "before-2.duckdb") == [20.0, 21.0, 22.0]
    assert [row[3] for row in scene.values()] == [20_000.0, 21_000.0, 22_000.0]


def test_back_to_the_store_before_and_promoted_again(scene: Scene) -> None:
    """As docs/replay.md says it: what was replaced is put back by a copy, and the generation published again."""
    scene.live(hours("a", "dust", 3))
    old = scene.values()
    scene.write(unit="mg/m3")
    made = scene.replay()
    scene.promote(made)
    new = scene.values()
    shutil.copyfile(replay.folder_of(scene.settings, "g") / BEFORE, scene.settings.data / "qingtu.duckdb")
    assert scene.values() == old
    assert scene.promote(replay.find(scene.settings, "g"))["swapped"]
    assert scene.values() == new
    assert before_files(scene) == ["before-2.duckdb", BEFORE, "qingtu.duckdb"]


def test_what_was_replaced_is_kept_and_can_be_dropped(scene: Scene) -> None:
    """before.duckdb is the old store; --drop deletes it with its generation."""
    scene.live(hours("a", "dust", 3))
    scene.write(unit="mg/m3")
    scene.promote(scene.replay())
    folder = replay.folder_of(scene.settings, "g")
    kept = DuckStore(folder / BEFORE)
    try:
        assert kept.latest().column("value").to_pylist() == [22.0]
    finally:
        kept.close()
    assert replay.find(scene.settings, None).promoted_us == NOW
    replay.drop(scene.settings, "g")
    assert not folder.exists()
    with pytest.raises(NotFound, match="no generation"):
        replay.find(scene.settings, "g")


def test_refusals(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """No raw, no frame of the span, a name taken, a full disk, a running service: one line each, and nothing made."""
    with pytest.raises(NotFound, match="no raw stream"):
        scene.replay()
    scene.live(hours("a", "dust", 3))
    with pytest.raises(NotFound, match="holds no frame"):
        scene.replay(from_s=90_000)
    with pytest.raises(QingtuError, match="cannot be the name"):
        scene.replay("../live")
    made = scene.replay()
    with pytest.raises(QingtuError, match="already"):
        scene.replay()
    with monkeypatch.context() as patch:
        patch.setattr("qingtu.replay._SPARE", 1 << 62)
        with pytest.raises(StartError, match="MiB free"):
            scene.replay("h")
    service = scene.service()
    try:
        with pytest.raises(StartError, match="in use by process"):
            scene.promote(made)
    finally:
        service.close()
    assert [g.name for g in replay.generations(scene.settings)] == ["g"]


def test_broken_off_it_leaves_nothing(scene: Scene) -> None:
    """Ctrl-C in the middle: no generation, no half of one."""
    scene.live(hours("a", "dust", 40))

    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay.replay(
            scene.settings, load_catalogue(scene.settings.catalogue), "g", T0, None, now_us=NOW, progress=stop
        )
    assert list((scene.folder / "data" / "generations").iterdir()) == []


def test_raw_that_expires_under_the_reader_ends_it(scene: Scene) -> None:
    """Frames that are trimmed before they are read: an error that names the first, never a generation with a hole."""
    scene.live(hours("a", "dust", 60))

    def trim(done: int, total: int) -> None:
        assert 0 < done < total
        service = scene.service()
        try:
            service.bus.trim(RAW, 0, 50)
        finally:
            service.close()

    with pytest.raises(QingtuError, match=r"raw frame 16 of partition 0 expired .*oldest: 50\).*raw_keep_h"):
        replay.replay(
            scene.settings, load_catalogue(scene.settings.catalogue), "g", T0, None, now_us=NOW, progress=trim
        )
    assert list((scene.folder / "data" / "generations").iterdir()) == []


def test_a_short_past_is_told(scene: Scene) -> None:
    """Raw whose beginning was trimmed cannot warm the memory: the generation says so."""
    scene.live(hours("a", "dust", 40))
    assert not scene.replay("whole").cold
    service = scene.service()
    try:
        service.bus.trim(RAW, 0, 20)
    finally:
        service.close()
    made = scene.replay("cut", from_s=600 * 30)
    assert made.cold
    assert made.warm_us == 11 * 600 * SECOND


def test_what_stands_around_the_span_is_known_in_it(scene: Scene) -> None:
    """A spike at its end is judged by the reading behind it, a repetition at its start by the message before it."""
    values = [20, 21, 22, 300, 23, 24]
    rows = [reading("a", 600 * i, dust=value) for i, value in enumerate(values)]
    again = {**rows[0], "received_at": T0 + 650 * SECOND}
    garbage_again = [message("a", b"{", 100), message("a", b"{", 700)]
    scene.live(merged(rows, [again, *garbage_again], [tick(9000)]))
    flags = [row[4] for row in scene.values()]
    assert flags[3] != flags[1], "the reading is no spike: this test tests nothing"
    found = scene.diff(scene.replay(from_s=600, to_s=600 * 3 + 1))
    assert found["empty"], found


def test_the_limits_of_today_hold(scene: Scene) -> None:
    """A setting of the pass that changed counts as a catalogue does: what is on raw about it does not."""
    scene.live([*hours("a", "dust", 3), reading("a", 4000 + 400, 4000, dust=50), tick(9000)])
    assert scene.audited()["ledger"]["messages"]["quarantined"] == 1
    wider = scene.settings.model_copy(
        update={"process": scene.settings.process.model_copy(update={"ahead_limit_s": 600})}
    )
    made = replay.replay(wider, load_catalogue(wider.catalogue), "g", T0, None, now_us=NOW)
    assert diff(wider, made, client=None, now_us=NOW).readings == {"new": 1, "changed": 0, "withdrawn": 0}


def test_later_words_about_a_value_that_stays_stand(scene: Scene) -> None:
    """A person's and the neighbours', said hours behind the raw that is run again; the narrower limit counts beside."""
    later = 5 * 3600.0
    word = {
        "station": "A", "property": "pm25", "channel": "main", "time_us": T0 + 600 * SECOND, "value": 21.0, "tests": 0,
        "flag": 1, "reason": "seen on site",
    }  # fmt: skip
    apart = {
        "station": "A", "property": "pm25", "channel": "main", "start_us": T0, "end_us": T0 + HOUR, "at": 1 << 40,
        "bad": True, "mean": 22.0, "median": 90.0, "limit": 40.0, "near": ["B"],
        "readings": [[T0 + 1200 * SECOND, 22.0, 3, NEIGHBOUR], [T0 + 1800 * SECOND, 23.0, 3, NEIGHBOUR]],
    }  # fmt: skip
    said = [command(later, "override", "Li", **word), command(later, "neighbours", "system", verdicts=[apart])]
    scene.live([*hours("a", "dust", 4), tick(9000), *said])
    file = scene.folder / "stations" / "all.yaml"
    narrower = file.read_text(encoding="utf-8").replace("suspect: [0, 500]", "suspect: [0, 22.5]")
    file.write_text(narrower, encoding="utf-8")
    made = scene.replay(to_s=3600)
    assert scene.promote(made)["readings"] == {"new": 0, "changed": 1, "withdrawn": 0}
    store = DuckStore(scene.settings.data / LIVE)
    try:
        table = store.readings(ReadingQuery([("A", "pm25", "main")], T0, T0 + HOUR)).to_pylist()
    finally:
        store.close()
    assert [(row["value"], row["flag"], row["tests"]) for row in table] == [
        (20, 1, 0), (21, 1, OVERRIDDEN), (22, 3, NEIGHBOUR), (23, 3, NEIGHBOUR | 1),
    ]  # fmt: skip
    assert scene.diff(made)["empty"]


def test_the_last_word_of_a_person_stands(scene: Scene) -> None:
    """One was said within the raw that is run again, another one behind it: people have changed their mind."""
    word = {
        "station": "A", "property": "pm25", "channel": "main", "time_us": T0 + 600 * SECOND, "value": 21.0, "tests": 0,
        "flag": 4, "reason": "defective",
    }  # fmt: skip
    first = command(1500, "override", "Li", **word)
    last = command(5 * 3600.0, "override", "Wang", **{**word, "tests": OVERRIDDEN, "flag": 1, "reason": "not so"})
    scene.live([*merged(hours("a", "dust", 4), [first]), tick(9000), last])
    made = scene.replay(to_s=3600)
    assert scene.diff(made)["empty"]
    other = {**word, "time_us": T0 + 1200 * SECOND, "value": 22.0}
    scene.live([command(6 * 3600.0, "override", "Li", **other)])
    assert scene.diff(made)["empty"]
    file = scene.folder / "stations" / "all.yaml"
    narrower = file.read_text(encoding="utf-8").replace("suspect: [0, 500]", "suspect: [0, 20.5]")
    file.write_text(narrower, encoding="utf-8")
    scene.promote(scene.replay("narrower", to_s=3600))
    store = DuckStore(scene.settings.data / LIVE)
    try:
        table = store.readings(ReadingQuery([("A", "pm25", "main")], T0, T0 + 1800 * SECOND)).to_pylist()
    finally:
        store.close()
    assert [(row["value"], row["flag"], row["tests"]) for row in table] == [
        (20, 1, 0), (21, 1, OVERRIDDEN), (22, 4, OVERRIDDEN | 1),
    ]  # fmt: skip


def test_what_a_killed_service_left_is_finished_first(scene: Scene) -> None:
    """Frames that nobody has processed, and a tick that derive has not seen: no figure is made of old values later."""
    rows = [reading("a", 600 * i, dust=(20 + i) / 1000) for i in range(7)]
    scene.live(rows[:3])
    service = scene.service()
    try:
        service.bus.append(RAW, 0, [frame_of([row]) for row in [*rows[3:], tick(9000)]]).result()
    finally:
        service.close()
    scene.write(unit="mg/m3")
    assert scene.promote(scene.replay(to_s=3700))["readings"]["changed"] == 7
    assert scene.audited()["agrees"]
    assert [row[3] for row in scene.values()] == pytest.approx([20.0 + i for i in range(7)])
    assert [row[3:] for row in scene.values("figures")] == [(pytest.approx(22.5), 6), (pytest.approx(26.0), 1)]
