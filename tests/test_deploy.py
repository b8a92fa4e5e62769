"""What deploy/ promises, as far as it can be told without Docker and systemd: see docs/operations.md."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest
import typer
import yaml

import qingtu.app
from qingtu.cli import app
from qingtu.settings import Settings, load_settings

ROOT: Final = Path(__file__).resolve().parent.parent
DEPLOY: Final = ROOT / "deploy"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = sorted(name for name, service in SERVICES.items() if service["image"] == "qingtu:local")
STAGES: Final = {"gateway": "gateway", "process": "process", "map": "store,derive,web"}
UNITS: Final = sorted((DEPLOY / "systemd").glob("*.service"))
_SECRET_WORD: Final = re.compile(r"pass|token|secret|key", re.IGNORECASE)


def _dockerfile() -> list[tuple[str, str]]:
    """Return (instruction, rest) of each line, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def _made(path: Path) -> bool:
    """Return whether a file is one that the two steps before the start make."""
    return DEPLOY / "secrets" in path.parents


def test_compose_file_is_one() -> None:
    """It holds to the schema of the Compose specification, and knows every name that it uses."""
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text(encoding="utf-8"))
    checker = jsonschema.Draft7Validator(schema)
    assert [error.message for error in checker.iter_errors(COMPOSE)] == []
    assert checker.is_valid({**COMPOSE, "services": {**SERVICES, "x": {"no_such_key": 1}}}) is False
    for name, service in SERVICES.items():
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"]), name
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        assert {_secret(entry)[0] for entry in service.get("secrets", ())} <= set(COMPOSE["secrets"]), name
        assert {source for source, _, kind in _mounts(service) if kind == "volume"} <= set(COMPOSE["volumes"]), name


def _secret(entry: str | dict[str, str]) -> tuple[str, str]:
    """Return a secret's name and where the container finds it."""
    if isinstance(entry, str):
        return entry, f"/run/secrets/{entry}"
    return entry["source"], entry["target"]


def _mounts(service: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (source, target, kind) of a service's volumes."""
    out = []
    for entry in service.get("volumes", ()):
        if isinstance(entry, str):
            source, target = entry.split(":")[:2]
            out.append((source, target, "volume"))
        else:
            out.append((entry["source"], entry["target"], entry["type"]))
    return out


def test_everything_that_is_mounted_exists() -> None:
    """In the checkout, or made by make_secrets.sh and broker-config."""
    for name, service in SERVICES.items():
        for source, _, kind in _mounts(service):
            if kind == "bind":
                path = Path(os.path.normpath(DEPLOY / source))
                assert path.exists() or _made(path / "x"), f"{name}: {source}"
    for name, secret in COMPOSE["secrets"].items():
        assert _made(DEPLOY / secret["file"]), f"{name}: secrets come from files of deploy/secrets/"


def test_there_is_no_default_password() -> None:
    """No secret stands in the file: what looks like one by its name is the place of a file."""
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if _SECRET_WORD.search(key):
                assert str(value).startswith("/"), f"{name}: {key} must name a file"
        assert "env_file" not in service, name


def test_secrets_are_made_at_random_and_kept(tmp_path: Path) -> None:
    """Each run on a fresh folder makes others; a second run on the same folder changes nothing; others cannot read."""
    wanted = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()} - {"ca.pem"}
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        subprocess.run(["sh", str(DEPLOY / "make_secrets.sh"), str(folder)], check=True, capture_output=True)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {path.name for path in folder.iterdir() if path.is_file()} == wanted
        contents.append({path.name: path.read_text() for path in folder.iterdir() if path.is_file()})
    assert contents[0] == contents[2]
    values = [text.split()[-1] for one in contents[:2] for text in one.values()]
    assert len(set(values)) == len(values), "no two are equal"
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in values)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_cannot_do_much(name: str) -> None:
    """Not root, nothing of the root filesystem writable, no capability."""
    service = SERVICES[name]
    assert not str(service["user"]).startswith(("0", "root"))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service.get("privileged") is not True
    writable = [target for _, target, _ in _mounts(service)] + [entry.split(":")[0] for entry in service["tmpfs"]]
    if name != "broker-config":
        assert Settings.model_validate(_settings(name)).data == Path("/var/lib/qingtu")
        assert "/var/lib/qingtu" in writable


def test_stages_are_all_there() -> None:
    """One service a stage, two processors, and nobody shares a data folder."""
    assert {name: SERVICES[name]["command"] for name in STAGES} == {
        name: ["run", "--stages", stages] for name, stages in STAGES.items()
    }
    assert sorted(",".join(STAGES.values()).split(",")) == sorted(qingtu.app.STAGES), "every stage runs once"
    assert SERVICES["process"]["scale"] == 2
    folders = [source for name in OURS for source, target, _ in _mounts(SERVICES[name]) if target == "/var/lib/qingtu"]
    assert len(set(folders)) == len(folders)
    assert not [m for m in _mounts(SERVICES["process"]) if m[1] == "/var/lib/qingtu"], "two would share the volume"


def _settings(name: str) -> dict[str, Any]:
    """Return what load_settings makes of the environment of a service, defaults of the image included."""
    image = next(rest for word, rest in reversed(_dockerfile()) if word == "ENV")
    defaults = dict(pair.split("=", 1) for pair in image.split() if pair.startswith("QINGTU_"))
    environ = defaults | {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    return load_settings(Path(os.devnull), environ=environ).model_dump()


@pytest.mark.parametrize("name", OURS)
def test_settings_in_compose_are_settings(name: str) -> None:
    """Every variable is accepted, and every file that a stage needs is one that its container has."""
    settings = _settings(name)
    assert (settings["bus"]["kind"], settings["store"]["kind"]) == ("kafka", "influx")
    assert settings["kafka"]["servers"] == ("kafka:9092",)
    assert settings["influx"]["url"] == "http://influxdb:8086"
    seen = {_secret(entry)[1] for entry in SERVICES[name].get("secrets", ())}
    seen |= {target for _, target, _ in _mounts(SERVICES[name])}
    for needed in _needs(name, settings):
        assert any(PurePosixPath(needed).is_relative_to(target) for target in seen), f"{name} does not see {needed}"


def _needs(name: str, settings: dict[str, Any]) -> list[str]:
    """Return the files that a service reads or writes."""
    needs = [settings["catalogue"]]
    if name == "gateway":
        needs += [settings["mqtt"]["ca_file"], settings["mqtt"]["password_file"]]
    if name in ("map", "setup"):
        needs += [settings["influx"]["token_file"]]
    if name == "setup":
        needs += [settings["grafana"]["influx_token_file"]]
    if name != "broker-config":
        needs += [settings["secret_file"]]
    if name in STAGES:
        needs += [settings["web"]["tokens_file"]]
    return [str(path) for path in needs]


def test_influx_is_set_up_as_our_settings_expect() -> None:
    """Organisation and bucket are those of the defaults, since compose does not name them to us."""
    environ = SERVICES["influxdb"]["environment"]
    assert environ["DOCKER_INFLUXDB_INIT_ORG"] == Settings().influx.org
    assert environ["DOCKER_INFLUXDB_INIT_BUCKET"] == Settings().influx.bucket


def test_nothing_is_open_to_the_network() -> None:
    """Ports are published on 127.0.0.1 unless told; Kafka and InfluxDB, which know no TLS here, not at all."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"mosquitto", "grafana", "map"}
    assert all(port.startswith("${BIND:-127.0.0.1}:") for ports in published.values() for port in ports)
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    assert SERVICES["kafka"]["networks"] == SERVICES["influxdb"]["networks"] == ["inner"]


def test_every_service_that_stays_is_watched() -> None:
    """A health check, a restart, and an image whose tag says what it is."""
    for name, service in SERVICES.items():
        assert re.search(r":(local|\d+\.\d+\.\d+)$", service["image"]), name
        if service["restart"] == "no":
            assert service["healthcheck"] == {"disable": True}, name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
        for other, how in service.get("depends_on", {}).items():
            once = SERVICES[other]["restart"] == "no"
            assert how["condition"] == ("service_completed_successfully" if once else "service_healthy"), name


def test_servers_get_every_variable_that_their_files_ask_for() -> None:
    """server.properties takes BROKER_… from the environment: from compose, from systemd, natively (tests/services)."""
    text = (DEPLOY / "kafka" / "server.properties").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{env:(\w+)\}", text))
    assert asked
    assert asked <= set(SERVICES["kafka"]["environment"])
    unit = (DEPLOY / "systemd" / "qingtu-kafka.service").read_text(encoding="utf-8")
    assert asked <= set(re.findall(r"\b(BROKER_\w+)=", unit))


def test_dockerfile_copies_and_runs_what_exists() -> None:
    """Each source is in the checkout and in the build's context; packages are checked by hashes; nobody is root."""
    context = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    lines = _dockerfile()
    copied = [rest.split()[0] for word, rest in lines if word == "COPY" and not rest.startswith("--from")]
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    assert set(copied) == context
    wheel = re.search(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert wheel is not None
    assert set(re.findall(r'"(\w+)"', wheel[1])) <= set(copied), "every package of the wheel is in the image"
    assert [rest for word, rest in lines if word == "USER"] == ["10001:10001"]
    installs = [rest for word, rest in lines if word == "RUN" and "pip install" in rest]
    assert installs == ["/opt/venv/bin/pip install --require-hashes -r /tmp/requirements.lock"]
    assert len([word for word, _ in lines if word == "FROM"]) == 2


@pytest.mark.parametrize("name", OURS)
def test_commands_in_compose_exist(name: str) -> None:
    """Command and options are ones that the program knows."""
    words = SERVICES[name]["command"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    command = commands[words[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
    assert options <= known


def test_mosquitto_sees_the_files_that_its_configuration_names() -> None:
    """broker-config writes for the folder that the broker's container mounts, with its store on the volume."""
    options = dict(word[2:].split("=", 1) for word in SERVICES["broker-config"]["command"][1:])
    targets = {target: (source, kind) for source, target, kind in _mounts(SERVICES["mosquitto"])}
    assert targets[options["out"]] == ("./secrets/broker", "bind")
    assert targets[options["store"]][1] == "volume"
    assert SERVICES["mosquitto"]["command"][-1] == f"{options['out']}/mosquitto.conf"
    assert SERVICES["mosquitto"]["user"] == SERVICES["broker-config"]["user"], "it reads what the other wrote"
    assert "--self-signed=mosquitto" in SERVICES["broker-config"]["command"], "the gateway's name for it"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_name_what_exists(path: Path) -> None:
    """Files of /opt/qingtu are files of the checkout, and no unit runs as root."""
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"/opt/qingtu/([\w./-]+)", text):
        assert name.startswith(".venv/") or (ROOT / name).exists(), name
    assert re.search(r"^User=qingtu", text, re.MULTILINE)
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="):
        assert f"\n{line}\n" in text
    environ = dict(re.findall(r"\b(QINGTU_\w+)=(\S+)", text))
    load_settings(Path(os.devnull), environ=environ)


def test_scripts_run() -> None:
    """They are executable, and a shell can read them."""
    scripts = [DEPLOY / "make_secrets.sh", DEPLOY / "kafka" / "start.sh", DEPLOY / "influxdb" / "build_influxd.sh"]
    for script in scripts:
        assert os.access(script, os.X_OK), script
        subprocess.run(["sh", "-n", str(script)], check=True)
    assert scripts[1].name in str(SERVICES["kafka"]["command"])
