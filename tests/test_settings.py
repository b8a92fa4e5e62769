"""Settings: defaults, file, variables, and errors that say where and how to mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from qingtu.errors import ConfigError, Problem
from qingtu.settings import Settings, load_settings


def load(folder: Path, text: str, **environ: str) -> Settings:
    """Load settings from a text."""
    file = folder / "qingtu.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ=environ)


def problems(folder: Path, text: str, **environ: str) -> list[Problem]:
    """Load settings that are wrong."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    return list(caught.value.problems)


def test_defaults_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder runs; everything binds to this machine alone."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings == Settings()
    assert settings.web.host == "127.0.0.1"
    assert settings.mqtt.host is None


def test_the_working_folders_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """qingtu.toml beside is taken without being named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qingtu.toml").write_text("[web]\nport = 9000\n")
    assert load_settings(environ={}).web.port == 9000


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    """Two underscores between levels; other programs' variables are left alone."""
    text = '[mqtt]\nport = 1884\nhost = "a"\n'
    settings = load(tmp_path, text, QINGTU_MQTT__PORT="1885", QINGTU_DATA="/elsewhere", PATH="x", QINGTU_HOME="y")
    assert (settings.mqtt.port, settings.mqtt.host, settings.data) == (1885, "a", Path("/elsewhere"))


def test_all_problems_are_told_at_once_with_line_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    """In the order in which an editor shows them, each with all that is needed to mend it."""
    text = """\
data = "data"

[mqtt]
port = 70000
flush_ms = 0
version = "4"
hots = "broker"

[process]
ahead_limit_s = "soon"

[[routes]]
name = "native"
topic = "qt/{network}/{device}/up"

[[routes]]
name = "Bad Name"
topic = "a/#"
qos = 2
"""
    found = {p.key: p for p in problems(tmp_path, text)}
    file = str(tmp_path / "qingtu.toml")
    assert {(p.file, p.line, key) for key, p in found.items()} == {
        (file, 4, "mqtt.port"), (file, 5, "mqtt.flush_ms"), (file, 6, "mqtt.version"), (file, 7, "mqtt.hots"),
        (file, 10, "process.ahead_limit_s"), (file, 17, "routes.1.name"), (file, 18, "routes.1.topic"),
        (file, 19, "routes.1.qos"),
    }  # fmt: skip
    assert {key: p.value for key, p in found.items()} == {
        "mqtt.port": "70000", "mqtt.flush_ms": "0", "mqtt.version": "'4'", "mqtt.hots": "'broker'",
        "process.ahead_limit_s": "'soon'", "routes.1.name": "'Bad Name'", "routes.1.topic": "'a/#'",
        "routes.1.qos": "2",
    }  # fmt: skip
    for key, allowed in (
        ("mqtt.port", "less than or equal to 65535"), ("mqtt.flush_ms", "greater than or equal to 1"),
        ("mqtt.version", "'5' or '3.1.1'"), ("mqtt.hots", "did you mean host?"), ("mqtt.hots", "keepalive_s"),
        ("process.ahead_limit_s", "valid integer"), ("process.ahead_limit_s", "default 300"),
        ("routes.1.topic", "{device}"), ("routes.1.qos", "0 or 1"), ("routes.1.name", "pattern"),
    ):  # fmt: skip
        assert allowed in found[key].message, key
    assert all(str(p).startswith(f"{file}:{p.line}: {p.key} = {p.value}: ") for p in found.values())


def test_a_wrong_variable_is_named_as_it_is_set(tmp_path: Path) -> None:
    """Not as a line of a file that is right."""
    (found,) = problems(tmp_path, "[mqtt]\nport = 1883\n", QINGTU_MQTT__PORT="none")
    assert (found.file, found.line, found.key, found.value) == ("environment", 0, "QINGTU_MQTT__PORT", "'none'")
    assert "valid integer" in found.message
    assert str(found).startswith("environment: QINGTU_MQTT__PORT = 'none': ")


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("$SYS/{device}", "$SYS"),
        ("qt/{network}/up", "must name {device}"),
        ("qt/+/{device}", "{_}"),
        ("qt/{device}/#", "{_*}"),
    ],
)
def test_topics_that_cannot_be_a_route(tmp_path: Path, topic: str, why: str) -> None:
    """With what to write in their place."""
    (found,) = problems(tmp_path, f'[[routes]]\nname = "a"\ntopic = "{topic}"\n')
    assert (found.line, found.key) == (3, "routes.0.topic")
    assert why in found.message


def test_the_horizon_of_duplicates_exceeds_the_session(tmp_path: Path) -> None:
    """What the broker may still send again must still be known; both settings stand in the message."""
    (found,) = problems(tmp_path, "[process]\ndedup_horizon_h = 48\n")
    assert (found.line, found.key, found.value) == (2, "process.dedup_horizon_h", "48")
    assert "must exceed mqtt.session_expiry_h (48)" in found.message
    assert load(tmp_path, "[process]\ndedup_horizon_h = 49\n").process.dedup_horizon_h == 49


def test_readings_are_kept_longer_than_they_may_be_old(tmp_path: Path) -> None:
    """Else what is taken in would be expired at once, and its windows evaluated anew from nothing."""
    (found,) = problems(tmp_path, "[process]\nbackfill_limit_d = 400\n[store]\nkeep_days = 400\n")
    assert (found.line, found.key, found.value) == (4, "store.keep_days", "400")
    assert "must exceed process.backfill_limit_d (400)" in found.message
    assert load(tmp_path, "[store]\nkeep_days = 401\n").store.keep_days == 401
    (found,) = problems(tmp_path, "", QINGTU_STORE__KEEP_DAYS="30")
    assert (found.file, found.key) == ("environment", "QINGTU_STORE__KEEP_DAYS")


def test_sinks_are_names_of_the_table(tmp_path: Path) -> None:
    """As a list, or with commas in a variable; an unknown one is told with what is allowed."""
    assert Settings().sinks == ()
    assert load(tmp_path, 'sinks = ["parquet"]\n').sinks == ("parquet",)
    assert load(tmp_path, "", QINGTU_SINKS=" parquet, ").sinks == ("parquet",)
    (found,) = problems(tmp_path, 'data = "d"\nsinks = ["parket"]\n')
    assert (found.line, found.key, found.value) == (2, "sinks", "['parket']")
    assert "no sink 'parket'; did you mean parquet? (allowed: parquet)" in found.message
    (found,) = problems(tmp_path, "", QINGTU_SINKS="parquet,parquet")
    assert (found.key, found.value) == ("QINGTU_SINKS", "'parquet,parquet'")
    assert "at most once" in found.message
    (found,) = problems(tmp_path, "sinks = 5\n")
    assert (found.line, found.key) == (1, "sinks")


def test_route_names_differ(tmp_path: Path) -> None:
    """Frames and the catalogue name routes."""
    route = '[[routes]]\nname = "same"\ntopic = "a/{device}"\n'
    (found,) = problems(tmp_path, route * 2)
    assert (found.line, found.key, found.value) == (5, "routes.1.name", "'same'")
    assert "names must differ" in found.message


def test_a_variable_that_is_no_setting(tmp_path: Path) -> None:
    """A mistyped variable must not be taken for set; the message says what was meant."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "", QINGTU_MQT__PORT="1885")
    (found,) = raised.value.problems
    assert (found.file, found.key) == ("environment", "QINGTU_MQT__PORT")
    assert "did you mean QINGTU_MQTT__PORT?" in found.message


def test_a_value_where_a_table_belongs(tmp_path: Path) -> None:
    """Also when a variable wants to go into it."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "mqtt = 5\n", QINGTU_MQTT__PORT="1885")
    (found,) = raised.value.problems
    assert (found.line, found.key, found.value) == (1, "mqtt", "5")
    assert "must be a table with" in found.message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """One problem that names the file."""
    file = tmp_path / "qingtu.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as raised:
        load_settings(file, environ={})
    assert raised.value.problems[0].file == str(file)


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    """With the line at which it stops to be."""
    (found,) = problems(tmp_path, 'data = "x"\n[mqtt\nport = 1\n')
    assert (found.line, found.key) == (2, "syntax")
    assert "not TOML" in found.message


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """Only the working folder's own may be absent."""
    with pytest.raises(ConfigError, match=r"none\.toml.*cannot be read"):
        load_settings(tmp_path / "none.toml", environ={})


def test_settings_cannot_be_changed_afterwards() -> None:
    """They are handed around; nobody changes them for the others."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().mqtt.port = 5  # type: ignore[misc]
