"""Settings: defaults, file, variables, and errors that say where and how to mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from qingtu.catalogue_model import Content
from qingtu.errors import ConfigError, Problem
from qingtu.settings import Settings, load_settings
from qingtu.wrong_values import PATTERNS


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
    told = problems(tmp_path, text)
    assert [p.line for p in told] == sorted(p.line for p in told)
    found = {p.key: p for p in told}
    file = str(tmp_path / "qingtu.toml")
    assert {(p.file, p.line, key) for key, p in found.items()} == {
        (file, 4, "mqtt.port"), (file, 5, "mqtt.flush_ms"), (file, 6, "mqtt.version"), (file, 7, "mqtt.hots"),
        (file, 10, "process.ahead_limit_s"), (file, 17, "routes.2.name"), (file, 18, "routes.2.topic"),
        (file, 19, "routes.2.qos"),
    }  # fmt: skip
    assert {key: p.value for key, p in found.items()} == {
        "mqtt.port": "70000", "mqtt.flush_ms": "0", "mqtt.version": "'4'", "mqtt.hots": "'broker'",
        "process.ahead_limit_s": "'soon'", "routes.2.name": "'Bad Name'", "routes.2.topic": "'a/#'",
        "routes.2.qos": "2",
    }  # fmt: skip
    for key, allowed in (
        ("mqtt.port", "≥ 1 and ≤ 65535"), ("mqtt.flush_ms", "must be at least 1"), ("mqtt.flush_ms", "不得小于 1"),
        ("mqtt.version", "one of 5, 3.1.1"), ("mqtt.hots", "did you mean host?"), ("mqtt.hots", "keepalive_s"),
        ("process.ahead_limit_s", "a whole number"), ("process.ahead_limit_s", "default 300"),
        ("routes.2.topic", "{device}"), ("routes.2.qos", "one of 0, 1"), ("routes.2.name", "a small letter, then"),
    ):  # fmt: skip
        assert allowed in found[key].message, key
    assert all(str(p).startswith(f"{file}:{p.line}: {p.key} = {p.value}: ") for p in found.values())


def test_a_wrong_variable_is_named_as_it_is_set(tmp_path: Path) -> None:
    """Not as a line of a file that is right."""
    (found,) = problems(tmp_path, "[mqtt]\nport = 1883\n", QINGTU_MQTT__PORT="none")
    assert (found.file, found.line, found.key, found.value) == ("environment", 0, "QINGTU_MQTT__PORT", "'none'")
    assert "a whole number" in found.message
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
    assert (found.line, found.key) == (3, "routes.a.topic")
    assert why in found.message


def test_a_number_that_must_be_text_is_told_so(tmp_path: Path) -> None:
    """TOML knows the two apart: that 5 must be one of 5 and 3.1.1 would help nobody."""
    [problem] = problems(tmp_path, "[mqtt]\nversion = 5\n")
    assert (problem.line, problem.key, problem.value) == (2, "mqtt.version", "5")
    assert '须加引号 / is a number and must be text: write "5", in quotes; must be one of 5, 3.1.1' in problem.message
    [problem] = problems(tmp_path, "[mqtt]\nversion = 4\n")
    assert "须为其一 / must be one of 5, 3.1.1" in problem.message


def test_the_horizon_of_duplicates_exceeds_the_session(tmp_path: Path) -> None:
    """What the broker may still send again must still be known; both settings stand in the message."""
    (found,) = problems(tmp_path, "[process]\ndedup_horizon_h = 48\n")
    assert (found.line, found.key, found.value) == (2, "process.dedup_horizon_h", "48")
    assert "must exceed mqtt.session_expiry_h (48)" in found.message
    assert load(tmp_path, "[process]\ndedup_horizon_h = 49\n").process.dedup_horizon_h == 49


def test_a_default_that_contradicts_a_key_is_told_at_the_key(tmp_path: Path) -> None:
    """Nobody finds a line that is not there: the key that was written is named, and the default beside it."""
    (found,) = problems(tmp_path, "[mqtt]\nport = 1883\nsession_expiry_h = 100\n\n[process]\nstate_every_s = 5\n")
    assert (found.line, found.key, found.value) == (3, "mqtt.session_expiry_h", "100")
    assert (
        "process.dedup_horizon_h = 72 (默认 default) 须大于 / must exceed mqtt.session_expiry_h (100)" in found.message
    )
    (found,) = problems(tmp_path, "", QINGTU_MQTT__SESSION_EXPIRY_H="100")
    assert (found.file, found.key, found.value) == ("environment", "QINGTU_MQTT__SESSION_EXPIRY_H", "100")
    (found,) = problems(tmp_path, "[mqtt]\nsession_expiry_h = 100\n[process]\ndedup_horizon_h = 72\n")
    assert (found.line, found.key) == (4, "process.dedup_horizon_h"), "both stand there: the one that is to be changed"


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
    assert "no sink 'parket'; 是否指 / did you mean parquet? (allowed: notify, parquet)" in found.message
    (found,) = problems(tmp_path, "", QINGTU_SINKS="parquet,parquet")
    assert (found.key, found.value) == ("QINGTU_SINKS", "'parquet,parquet'")
    assert "at most once" in found.message
    (found,) = problems(tmp_path, "sinks = 5\n")
    assert (found.line, found.key) == (1, "sinks")


def test_route_names_differ(tmp_path: Path) -> None:
    """Frames and the catalogue name routes."""
    route = '[[routes]]\nname = "same"\ntopic = "a/{device}"\n'
    (found,) = problems(tmp_path, route * 2)
    assert (found.line, found.key, found.value) == (5, "routes.2.name", "'same'")
    assert "names must differ" in found.message


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        ("[kafka]\nmin_in_sync = 3\nreplication = 2\n", 2, "kafka.min_in_sync", "at most kafka.replication (2)"),
        ('[kafka]\nservers = ["10.0.0.1"]\n', 2, "kafka.servers", "'10.0.0.1' 须写作 主机:端口"),
        ('[kafka]\nservers = ["a:1", "b:70000"]\n', 2, "kafka.servers", "'b:70000'"),
        ('[kafka]\nusername = "q"\n', 2, "kafka.username", "needs kafka.password_file"),
        ('[store]\nkind = "influx"\n', 2, "store.kind", "needs influx.token_file"),
        ('[mqtt]\ncert_file = "c.pem"\n', 2, "mqtt.cert_file", "needs mqtt.key_file"),
    ],
)
def test_servers_and_log_ins_that_cannot_work(tmp_path: Path, text: str, line: int, key: str, says: str) -> None:
    """Found without network, with the other setting that is meant."""
    (found,) = problems(tmp_path, text)
    assert (found.line, found.key) == (line, key)
    assert says in found.message


def test_servers_of_a_variable(tmp_path: Path) -> None:
    """Several with commas; an IPv6 address in brackets."""
    found = load(tmp_path, "", QINGTU_KAFKA__SERVERS="a:9092, [::1]:9093")
    assert found.kafka.servers == ("a:9092", "[::1]:9093")


def test_one_broken_key_hides_no_contradiction(tmp_path: Path) -> None:
    """Everything else is compared; only what follows from the broken key itself is left alone."""
    text = """\
[mqtt]
port = 0
[process]
dedup_horizon_h = 48
[kafka]
replication = "many"
min_in_sync = 5
[store]
keep_days = 7
[[routes]]
name = "a"
topic = "a/{device}"
[[routes]]
name = "a"
topic = "b/+"
"""
    found = [(p.line, p.key) for p in problems(tmp_path, text)]
    assert sorted(found) == [
        (2, "mqtt.port"), (4, "process.dedup_horizon_h"), (6, "kafka.replication"), (9, "store.keep_days"),
        (14, "routes.2.name"), (15, "routes.2.topic"),
    ]  # fmt: skip


def test_every_pattern_has_words() -> None:
    """Nobody is told a regular expression."""

    def patterns(schema: object) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(patterns, schema))
        if not isinstance(schema, dict):
            return set()
        own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
        return own.union(*map(patterns, schema.values()))

    used = patterns(Settings.model_json_schema()) | patterns(Content.model_json_schema())
    assert used == set(PATTERNS)


def test_a_variable_that_is_no_setting(tmp_path: Path) -> None:
    """A mistyped variable must not be taken for set; the message says what was meant."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "", QINGTU_MQT__PORT="1885")
    (found,) = raised.value.problems
    assert (found.file, found.key) == ("environment", "QINGTU_MQT__PORT")
    assert "did you mean QINGTU_MQTT__PORT?" in found.message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QINGTU_MQTT_PORT", "QINGTU_MQTT__PORT"),
        ("QINGTU_MQTT_SESSION_EXPIRY_H", "QINGTU_MQTT__SESSION_EXPIRY_H"),
        ("QINGTU_STORE_MEMORY_LIMT", "QINGTU_STORE__MEMORY_LIMIT"),
        ("QINGTU_CATALOG", "QINGTU_CATALOGUE"),
    ],
)
def test_one_underscore_for_two_is_told(tmp_path: Path, name: str, meant: str) -> None:
    """The slip that everybody makes once."""
    (found,) = problems(tmp_path, "", **{name: "1"})
    assert f"是否指 / did you mean {meant}?" in found.message


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
    assert str(found).startswith(f"{tmp_path / 'qingtu.toml'}:2: syntax: 不是 TOML / not TOML: ")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """Only the working folder's own may be absent."""
    with pytest.raises(ConfigError, match=r"none\.toml.*cannot be read"):
        load_settings(tmp_path / "none.toml", environ={})


def test_settings_cannot_be_changed_afterwards() -> None:
    """They are handed around; nobody changes them for the others."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().mqtt.port = 5  # type: ignore[misc]
