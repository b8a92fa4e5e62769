"""What a person does wrong, or the machine refuses: one line that says so and the way out."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import CATALOGUE, ROOT, Ran, command, environment, free_ports, inside

if TYPE_CHECKING:
    from pathlib import Path


def _one_line(ran: Ran) -> str:
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    return ran.err


def test_unknown_command_names_the_help() -> None:
    """A wrong word is exit code 2."""
    ran = inside("ledgre")
    assert ran.code == 2
    assert "--help" in ran.err


def test_no_data_yet(tmp_path: Path) -> None:
    """A question to a folder without data makes no folder and says how to start."""
    ran = inside("status", "--data", tmp_path / "none")
    assert ran.code == 4
    assert "qingtu run" in _one_line(ran)
    assert not (tmp_path / "none").exists()


def test_wrong_settings_are_all_named_with_their_lines(tmp_path: Path) -> None:
    """Every command refuses wrong settings with file, line, key, value and what is allowed; check lists the same."""
    file = tmp_path / "q.toml"
    file.write_text('[mqtt]\nport = 0\nhots = "x"\n\n[store]\nthreads = "many"\n', encoding="utf-8")
    for words, code in ((("check",), 1), (("run",), 2), (("ledger",), 2)):
        ran = inside(*words, "--settings", file)
        assert ran.code == code
        said = ran.out + ran.err
        assert f"{file}:2: mqtt.port = 0:" in said
        assert f"{file}:3: mqtt.hots" in said
        assert "did you mean host?" in said
        assert f"{file}:6: store.threads" in said


def test_settings_that_are_not_toml(tmp_path: Path) -> None:
    """The line of the mistake is named."""
    file = tmp_path / "q.toml"
    file.write_text("[mqtt]\nport = \n", encoding="utf-8")
    ran = inside("run", "--settings", file)
    assert ran.code == 2
    assert f"{file}:2:" in _one_line(ran)


def test_check_also_looks_at_the_catalogue_when_settings_are_wrong(tmp_path: Path) -> None:
    """Both kinds of problems come at once."""
    file = tmp_path / "q.toml"
    file.write_text("[mqtt]\nport = 0\n", encoding="utf-8")
    shutil.copytree(CATALOGUE, tmp_path / "stations")
    (tmp_path / "stations" / "bad.yaml").write_text(
        "networks:\n  - {id: x, zh: 甲, en: X, rout: y}\n", encoding="utf-8"
    )
    ran = inside("check", "--settings", file, "--catalogue", tmp_path / "stations")
    assert ran.code == 1
    assert "mqtt.port" in ran.out
    assert "bad.yaml:2:" in ran.out
    assert ran.out.endswith("个问题 / problems\n")


def test_check_passes_what_is_right() -> None:
    """The demonstration catalogue goes with the default settings."""
    ran = inside("check")
    assert ran.code == 0, ran.out
    assert "no problems" in ran.out


_NATIVE = '[[routes]]\nname = "native"\ntopic = "qt/{network}/{device}/up"\n'
_OPEN = '[[routes]]\nname = "community"\ntopic = "c/{device}"\nnetwork = "qd-community"\n'


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        (_NATIVE, "no such route (native)"),
        (_OPEN + _NATIVE, "a private network needs a route that redacts"),
        (
            _OPEN.replace("qd-community", "other") + 'redact = "native"\n' + _NATIVE,
            "此路由不送此网 / brings messages of network other alone, never of qd-community: its topic is c/{device}",
        ),
        (
            _NATIVE + _OPEN.replace("c/{device}", "qt/qd-community/{device}/up") + 'redact = "native"\n',
            "route 'native' (qt/{network}/{device}/up) stands before it",
        ),
        (_OPEN + 'redact = "native"\n' + _NATIVE + 'decoder = "xml"\n', "no such format"),
    ],
)
def test_check_compares_settings_and_catalogue(tmp_path: Path, routes: str, words: str) -> None:
    """Routes that the catalogue names exist, read a known format, and redact what is private."""
    file = tmp_path / "q.toml"
    file.write_text(routes, encoding="utf-8")
    ran = inside("check", "--settings", file)
    assert ran.code == 1
    assert words in ran.out
    assert words in inside("run", "--settings", file, "--data", tmp_path / "d").err
    assert not (tmp_path / "d").exists()


def test_files_that_settings_name_must_exist(tmp_path: Path) -> None:
    """A missing certificate is found before anything connects."""
    ran = inside("check", more={"QINGTU_MQTT__CA_FILE": str(tmp_path / "ca.pem")})
    assert ran.code == 1
    assert f"environment: QINGTU_MQTT__CA_FILE = {tmp_path / 'ca.pem'}: " in ran.out
    file = tmp_path / "q.toml"
    file.write_text('[kafka]\nca_file = "none.pem"\n[influx]\ntoken_file = "none"\n', encoding="utf-8")
    ran = inside("check", "--settings", file)
    assert f"{file}:2: kafka.ca_file = none.pem: " in ran.out
    assert f"{file}:4: influx.token_file = none: " in ran.out
    assert ran.out.endswith("2 个问题 / problems\n")


def test_check_compares_what_is_right_beside_a_broken_key(tmp_path: Path) -> None:
    """Routes and files are looked at although a port is wrong, with the lines where they stand."""
    file = tmp_path / "q.toml"
    file.write_text(f"[mqtt]\nport = 0\nca_file = 'no.pem'\n{_OPEN}{_NATIVE}decoder = 'xml'\n", encoding="utf-8")
    ran = inside("check", "--settings", file)
    said = ran.out.splitlines()
    assert [re.split(" = |: 私密网", line)[0] for line in said] == [
        f"{file}:2: mqtt.port", f"{file}:3: mqtt.ca_file", f"{file}:4: routes.community.redact",
        f"{file}:11: routes.native.decoder", "4 个问题 / problems",
    ]  # fmt: skip
    assert "networks.yaml:" in said[2]


def test_problems_of_all_files_come_by_line(tmp_path: Path) -> None:
    """The settings' first, with a route that is told by the table of topics; then the catalogue's."""
    file = tmp_path / "q.toml"
    route = '[[routes]]\nname = "one"\ntopic = "a/{device}/{x}"\nnetwork = "n"\n'
    file.write_text(f"{route}{_OPEN}redact = 'native'\n{_NATIVE}[web]\nport = 1\n[mqtt]\nkey_file = 'x'\n", "utf-8")
    shutil.copytree(CATALOGUE, tmp_path / "stations")
    (tmp_path / "stations" / "bad.yaml").write_text(
        "stations:\n  - {id: x, zh: 甲, en: X, domian: y}\nnetworks:\n  - {id: x, zh: 甲, en: X, route: none}\n",
        "utf-8",
    )
    said = inside("check", "--settings", file, "--catalogue", tmp_path / "stations").out.splitlines()
    assert [line.split(" = ")[0] for line in said[:3]] == [
        f"{file}:3: routes.one.topic", f"{file}:16: mqtt.key_file", f"{file}:16: mqtt.key_file",
    ]  # fmt: skip
    places = [line.split(": ")[0] for line in said[3:-1]]
    assert places == [f"{tmp_path / 'stations' / 'bad.yaml'}:{n}" for n in (2, 2, 2, 2, 2, 4)]


def test_check_looks_at_no_other_catalogue_than_the_one_that_is_meant(tmp_path: Path) -> None:
    """With the setting itself, or the file, unreadable nobody knows which folder that is."""
    file = tmp_path / "q.toml"
    for text, count in (("catalogue = 5\n", 1), ("catalogue = \n", 1), (f'catalogue = "{tmp_path}"\n', 1)):
        file.write_text(text, encoding="utf-8")
        ran = command("check", "--settings", file, cwd=tmp_path, more={"QINGTU_WEB__PORT": "1"}, catalogue=False)
        assert ran.out.endswith(f"{count} 个问题 / problems\n"), ran.out
    ran = inside("check", "--settings", file)
    assert ran.code == 0, "the variable names the catalogue"


def test_taken_port_of_the_map(tmp_path: Path) -> None:
    """Refused before a broker is started; the line names the setting that chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        more = {"QINGTU_WEB__PORT": port, "QINGTU_MQTT__PORT": str(free_ports(1)[0])}
        ran = inside("run", "--data", tmp_path / "d", more=more)
    assert ran.code == 3
    assert port in _one_line(ran)
    assert "QINGTU_WEB__PORT" in ran.err
    assert not (tmp_path / "d").exists(), "a start that was refused left a folder"


def test_taken_port_of_the_broker(tmp_path: Path) -> None:
    """The line names the setting, and how to use what listens there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = inside("run", "--data", tmp_path / "d", more={"QINGTU_WEB__PORT": "0", "QINGTU_MQTT__PORT": port})
    assert ran.code == 3
    assert "mqtt.port" in _one_line(ran)
    assert not (tmp_path / "d" / "service.json").exists()


def test_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    ran = inside("run", "--data", tmp_path / "file" / "data")
    assert ran.code == 3
    assert "--data" in _one_line(ran)


def test_broker_that_does_not_answer() -> None:
    """Simulate says where it looked."""
    port = free_ports(1)[0]
    ran = inside("simulate", "--port", port, "--for", "1s")
    assert ran.code == 3
    assert f"127.0.0.1:{port}" in _one_line(ran)


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    """Files that cannot grow (RLIMIT_FSIZE stands for a full disk) end the start with one line and the way out."""
    program = (
        "import resource, signal, sys; from qingtu.cli import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY)); "
        "sys.exit(main(['run', '--data', 'd']))"
    )
    # A coverage measurement of the child would write files too, and fail as loudly.
    wanted = environment({"QINGTU_WEB__PORT": "0"})
    alone = {key: value for key, value in wanted.items() if not key.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=alone, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 8192
    assert done.returncode == 3, done.stderr
    assert "disk is full" in _one_line(Ran(done.returncode, done.stdout, done.stderr))


def test_internal_error_is_one_line_and_debug_shows_all(tmp_path: Path) -> None:
    """Without --debug no traceback; with it, the whole one."""
    shutil.copytree(CATALOGUE, tmp_path / "stations")
    broken = {"QINGTU_CATALOGUE": str(tmp_path / "stations")}
    (tmp_path / "stations" / "air.yaml").write_text("\t", encoding="utf-8")
    ran = command("stations", cwd=tmp_path, more=broken)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    ran = command("--debug", "stations", cwd=tmp_path, more=broken)
    assert "Traceback" in ran.err


@pytest.mark.parametrize("chosen", ["SYSTEM", "PYTHON"])
def test_old_python_is_one_line(tmp_path: Path, chosen: str) -> None:
    """Make says which Python it needs, in both languages, when it finds none; also when it is told which to take."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make on this machine")
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        fake = tmp_path / name
        fake.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        fake.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    where = {"SYSTEM": tmp_path, "PYTHON": tmp_path / "python3"}[chosen]
    done = subprocess.run(
        [make, "-C", ROOT, "demo", f"{chosen}={where}"],
        env={**os.environ, "PATH": path}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "Python 3.11 or newer" in said[0]
    assert "需要 Python 3.11" in said[0]


@pytest.mark.parametrize(
    ("stages", "kind", "said"),
    [
        ("gateway", "sqlite", "Kafka"),
        ("map", "kafka", "no such stage"),
        ("", "kafka", "at least one"),
        ("store", "kafka", "store,derive,web"),
    ],
)
def test_stages_that_cannot_work_are_refused(tmp_path: Path, stages: str, kind: str, said: str) -> None:
    """Before anything is opened or asked for."""
    file = tmp_path / "q.toml"
    file.write_text(f'data = "{tmp_path / "data"}"\n[bus]\nkind = "{kind}"\n', encoding="utf-8")
    ran = inside("run", "--settings", file, "--stages", stages)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())
    assert not (tmp_path / "data").exists()
