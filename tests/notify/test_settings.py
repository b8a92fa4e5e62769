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
