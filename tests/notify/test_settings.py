"""Settings of notifications: every contradiction with its line and the way out, files and apprise by `qingtu check`."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from qingtu.cli import main
from tests.notify.bench import STATIONS
from tests.test_settings import load, problems

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'sinks = ["notify"]\n'
DUTY = '[[notify.channels]]\nname = "duty"\nurl_file = "u"\n'
ROUTE = '[[notify.routes]]\nchannels = ["duty"]\n'


def test_the_least_that_works(tmp_path: Path) -> None:
    """One channel, one route."""
    found = load(tmp_path, HEAD + DUTY + ROUTE).notify
    assert (found.channels[0].kind, found.routes[0].channels, found.language) == ("webhook", ("duty",), "both")


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        (HEAD, 1, "sinks", "needs [[notify.channels]]"),
        (DUTY + ROUTE, 1, "notify.channels", 'needs sinks = ["notify"]'),
        (HEAD + DUTY, 2, "notify.channels", "needs [[notify.routes]]"),
        (HEAD + DUTY + DUTY + ROUTE, 6, "notify.channels.2.name", "channel 1 has this name"),
        (HEAD + DUTY + ROUTE.replace("duty", "boss"), 6, "notify.routes.1.channels", "no channel 'boss' (allowed: du"),
        (HEAD + DUTY + ROUTE + "states = []\n", 7, "notify.routes.1.states", "must have at least one"),
        (HEAD + DUTY + ROUTE + 'escalate_to = ["duty"]\n', 7, "notify.routes.1.escalate_to", "told at once already"),
        (HEAD + DUTY + 'quiet_from = "22:00"\n' + ROUTE, 5, "notify.channels.duty.quiet_from", "needs quiet_to"),
        (HEAD + DUTY + 'quiet_from = "22"\n' + ROUTE, 5, "notify.channels.duty.quiet_from", "a time of day"),
        (
            HEAD + DUTY + 'quiet_from = "22:00"\nquiet_to = "22:00"\n' + ROUTE, 6, "notify.channels.duty.quiet_to",
            "must differ",
        ),
        (
            HEAD + DUTY + 'kind = "apprise"\nsecret_file = "s"\n' + ROUTE, 6, "notify.channels.duty.secret_file",
            "only webhooks are signed",
        ),
        (HEAD + DUTY + "storm_limit = 0\n" + ROUTE, 5, "notify.channels.duty.storm_limit", "at least 1"),
        (HEAD + DUTY + ROUTE + 'levels = ["purple"]\n', 7, "notify.routes.1.levels.0", "one of blue, yellow"),
        (HEAD + DUTY + ROUTE + "[notify]\ntitle_en = '$stattion'\n", 8, "notify.title_en", "no field $stattion"),
        (HEAD + DUTY + ROUTE + "[notify]\ntext_en = ['5 $']\n", 8, "notify.text_en", "written $$"),
        (HEAD + DUTY + ROUTE + "[notify]\ntimezone = 'Mars'\n", 8, "notify.timezone", "IANA"),
    ],
)  # fmt: skip
def test_what_goes_together_with_nothing_is_told_at_its_line(
    tmp_path: Path, text: str, line: int, key: str, says: str
) -> None:
    """One problem, where it is to be mended."""
    if "[notify]\n" in text:  # TOML wants the section before its lists
        head, _, section = text.partition("[notify]\n")
        text = head.replace(DUTY + ROUTE, f"[notify]\n{section}" + DUTY + ROUTE)
        line = 3
    (found,) = problems(tmp_path, text)
    assert (found.line, found.key) == (line, key)
    assert says in found.message


def test_one_wrong_key_hides_no_other(tmp_path: Path) -> None:
    """A channel without a name is set aside; what else is wrong is told in the same breath."""
    text = HEAD + DUTY.replace('name = "duty"\n', "") + "timeout_s = 0\n" + ROUTE + 'escalate_too = ["x"]\n'
    keys = {found.key for found in problems(tmp_path, text)}
    assert keys >= {"notify.channels.1.name", "notify.channels.1.timeout_s", "notify.routes.1.escalate_too"}


def test_check_looks_for_files_and_for_apprise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line and the way out, and without network."""
    (tmp_path / "stations").mkdir()
    (tmp_path / "stations" / "all.yaml").write_text(STATIONS, encoding="utf-8")
    file = tmp_path / "qingtu.toml"
    words = ["check", "-c", str(file), "--catalogue", str(tmp_path / "stations")]
    base = '[[routes]]\nname = "native"\ntopic = "qt/{network}/{device}/up"\n'
    file.write_text(HEAD + base + DUTY.replace('"u"', f'"{tmp_path}/u"') + 'kind = "apprise"\n' + ROUTE)
    (tmp_path / "u").write_text("json://h")
    assert main(words) == 0
    (tmp_path / "u").unlink()
    find = importlib.util.find_spec
    monkeypatch.setattr("qingtu.commands.check.find_spec", lambda name: None if name == "apprise" else find(name))
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().out
    assert f"{file}:7: notify.channels.duty.url_file = {tmp_path}/u: 没有此文件 / no such file" in said
    assert f"{file}:8: notify.channels.duty.kind = 'apprise': 需要 apprise" in said
    assert "pip install 'qingtu[notify]'" in said


@pytest.mark.parametrize(
    ("key", "wrong", "says"),
    [
        ("stations", "Aa", "没有此站 / is not a station (是否指 / did you mean 'A'?) (allowed: A, B)"),
        ("rules", "dusty", "没有此规则 / is not a rule (是否指 / did you mean 'dust'?) (allowed: dust)"),
        ("domains", "aire", "没有此领域 / is not a domain (是否指 / did you mean 'air'?) (allowed: air, community, "),
        ("networks", "o", "没有此网 / is not a network (allowed: m, n)"),
        ("districts", "370204", "没有站点在此区 / no station lies in this district, six digits of GB/T 2260 (是否"),
        ("districts", "abc", "six digits of GB/T 2260 (allowed: 370202, 370203)"),
    ],
)  # fmt: skip
def test_check_refuses_routes_that_fit_no_alert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, wrong: str, says: str
) -> None:
    """A name that the catalogue has not, with its line and what is allowed; right names beside it are no problem."""
    right = {"stations": "A", "rules": "dust", "domains": "ocean", "networks": "m", "districts": "370202"}[key]
    words = _city(tmp_path, STATIONS, f'{key} = ["{right}"]\n')
    assert main(words) == 0
    words = _city(tmp_path, STATIONS, f'{key} = ["{right}", "{wrong}"]\n')
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().out
    assert f"qingtu.toml:10: notify.routes.1.{key} = '{wrong}': " in said
    assert says in said
    assert "1 个问题" in said


def test_names_that_a_broken_block_may_hold_are_not_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While the catalogue cannot be read as a whole, only its own problem is told."""
    words = _city(tmp_path, STATIONS.replace("{id: B,", "{id: 'B b',"), 'stations = ["B"]\nrules = ["dust"]\n')
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "stations[1].id" in said
    assert "notify.routes" not in said


def _city(folder: Path, stations: str, route: str) -> list[str]:
    """Write a catalogue and settings with one route, and return the words of the check."""
    (folder / "stations").mkdir(exist_ok=True)
    (folder / "stations" / "all.yaml").write_text(stations, encoding="utf-8")
    (folder / "u").write_text("http://h")
    base = '[[routes]]\nname = "native"\ntopic = "qt/{network}/{device}/up"\n'
    text = HEAD + base + DUTY.replace('"u"', f'"{folder}/u"') + ROUTE + route
    (folder / "qingtu.toml").write_text(text, encoding="utf-8")
    return ["check", "-c", str(folder / "qingtu.toml"), "--catalogue", str(folder / "stations")]
