"""Settings: defaults, then ``qingtu.toml``, then ``QINGTU_*`` variables; checked all at once, without network.

A variable names the key with two underscores between levels: ``QINGTU_MQTT__PORT=1884``.
``qingtu check`` prints every problem with file, line, key, value and what is allowed.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qingtu.errors import ConfigError, Problem

NO_SETTINGS = frozenset(("QINGTU_FAULTS", "QINGTU_HOME", "QINGTU_INFLUXD"))
"""Variables that are ours but no settings: they choose tests and where built servers stand."""

KIB = 1024
MIB = 1024 * KIB


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RouteSettings(_Section):
    """One way in: which topics, what they say about the sender, and how the payload is read."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="name in frames, metrics and catalogue")
    topic: str = Field(
        description="topic with named parts: 'qt/{network}/{device}/up'; {_} matches one level, {_*} the rest"
    )
    decoder: str = Field("native", description="a key of the decoder table")
    network: str | None = Field(None, description="network when the topic does not name it")
    max_payload_bytes: int = Field(256 * KIB, ge=1, le=64 * MIB, description="larger is quarantined, 64 KiB kept")
    qos: Literal[0, 1] = Field(1, description="quality of service of the subscription")
    redact: str | None = Field(None, description="a key of the redactor table: applied before anything is stored")

    @field_validator("topic")
    @classmethod
    def _topic(cls, topic: str) -> str:
        if topic.startswith("$SYS"):
            raise ValueError("$SYS topics are the broker's own figures, not readings; they cannot be a route")
        if "{device}" not in topic:
            raise ValueError("must name {device}, which says who the sender is")
        if "#" in topic or "+" in topic:
            raise ValueError("write {_} for one level and a last {_*} for all further levels, not + and #")
        return topic


class MqttSettings(_Section):
    """The broker and how the gateway reads from it."""

    host: str | None = Field(None, description="broker to connect to; none: an embedded one is started")
    port: int = Field(1883, ge=1, le=65535, description="of the broker; the embedded one listens there")
    version: Literal["5", "3.1.1"] = Field("5", description="of MQTT")
    client_id: str = Field("qingtu-gateway", min_length=1, description="stable: the broker keeps our session by it")
    username: str | None = Field(None, description="at the broker")
    password_file: Path | None = Field(None, description="file with the password; never the password itself")
    tls: bool = Field(False, description="encrypt, and check the broker's certificate")
    ca_file: Path | None = Field(None, description="certificates to trust; none: those of the system")
    cert_file: Path | None = Field(None, description="our own certificate")
    key_file: Path | None = Field(None, description="its private key")
    keepalive_s: int = Field(30, ge=5, le=3600, description="a silent connection is dead after 1.5 of it")
    session_expiry_h: int = Field(48, ge=24, description="how long the broker keeps messages for us while we are away")
    receive: Literal["fast", "plain"] = Field("fast", description="fast: bulk receive; plain: paho's own loop")
    flush_ms: int = Field(100, ge=1, le=60_000, description="a message waits at most this long to be durable")
    flush_idle_ms: int = Field(5, ge=0, le=1000, description="flush at once when nothing came for so long")
    flush_rows: int = Field(4096, ge=1, le=16_384, description="flush when so many messages wait")
    flush_bytes: int = Field(8 * MIB, ge=KIB, description="flush when so many bytes wait")
    buffer_rows: int = Field(65_536, ge=1, description="held while the bus is away; beyond it we disconnect")
    buffer_bytes: int = Field(64 * MIB, ge=KIB, description="the same bound in bytes")
    embedded: Literal["auto", "mosquitto", "iotcore"] = Field("auto", description="which broker to start")


class ProcessSettings(_Section):
    """The ordered pass."""

    ahead_limit_s: int = Field(300, ge=0, description="a claimed time further ahead of receipt is clock_wrong")
    backfill_limit_d: int = Field(400, ge=1, description="a claimed time older than this is clock_wrong")
    dedup_horizon_h: int = Field(72, ge=1, description="how long equal messages are recognised")
    dedup_max: int = Field(20_000_000, ge=1000, description="messages remembered at most; 16 bytes each")
    state_every_s: int = Field(5, ge=1, description="state is saved so often; a crash repeats what came since")


class StoreSettings(_Section):
    """The primary store."""

    commit_ms: int = Field(1000, ge=1, description="a processed frame waits at most this long to be stored")
    commit_messages: int = Field(4000, ge=1, description="commit when so many messages wait")
    memory_limit: str = Field("1GB", pattern=r"^\d+(\.\d+)?(MB|GB)$", description="that DuckDB may use")
    threads: int = Field(2, ge=1, le=256, description="that DuckDB may use")
    keep_days: int = Field(800, ge=1, description="readings older than this are expired day-wise")


class BusSettings(_Section):
    """The embedded bus."""

    raw_keep_h: int = Field(168, ge=1, description="raw frames are kept so long: for explain, audit and re-drive")
    derived_keep_h: int = Field(48, ge=1, description="the other streams, which can be derived again from raw")
    free_floor_mb: int = Field(64, ge=1, description="below this free space no messages are taken")


class FiguresSettings(_Section):
    """Derived figures."""

    grace_s: int = Field(60, ge=0, description="a window is evaluated this long after its end")
    tick_s: float = Field(5, gt=0, le=60, description="how often the clock is written into raw")


class WebSettings(_Section):
    """Map and API."""

    host: str = Field("127.0.0.1", description="address to listen on; anything else opens the map to the network")
    port: int = Field(8620, ge=0, le=65535, description="0: any free port")
    tokens_file: Path | None = Field(None, description="lines 'name: token'; none: one is made for the operator")


class Settings(_Section):
    """Everything that can be set."""

    data: Path = Field(Path("data"), description="folder for all that is kept")
    catalogue: Path = Field(Path("stations"), description="folder with the catalogue's YAML files")
    secret_file: Path | None = Field(None, description="key for pseudonyms; none: made in the data folder")
    sinks: tuple[str, ...] = Field((), description="keys of the sink table that follow, each with files in data/NAME/")
    mqtt: MqttSettings = MqttSettings()
    routes: tuple[RouteSettings, ...] = (
        RouteSettings(name="community", topic="qt/qd-community/{device}/up", network="qd-community", redact="native"),
        RouteSettings(name="native", topic="qt/{network}/{device}/up"),
    )
    process: ProcessSettings = ProcessSettings()
    store: StoreSettings = StoreSettings()
    bus: BusSettings = BusSettings()
    figures: FiguresSettings = FiguresSettings()
    web: WebSettings = WebSettings()

    @field_validator("sinks", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        """Take the text of a variable as names with commas between."""
        return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names

    @field_validator("sinks")
    @classmethod
    def _sinks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            return names
        from sinks import SINKS  # noqa: PLC0415 - loads what writes files; most runs have no sink

        allowed = f"(allowed: {', '.join(sorted(SINKS))})"
        for name in names:
            if name not in SINKS:
                near = difflib.get_close_matches(name, list(SINKS), 1)
                raise ValueError(f"no sink {name!r}{f'; did you mean {near[0]}?' if near else ''} {allowed}")
        if len(set(names)) < len(names):
            raise ValueError(f"each sink at most once {allowed}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if found := _contradictions(self):
            raise ValueError("; ".join(f"{'.'.join(where)}: {message}" for where, _, message in found))
        return self


def _contradictions(settings: Settings) -> list[tuple[tuple[str, ...], str, str]]:
    """Return (key, value, message) of settings that are right alone but not together."""
    out: list[tuple[tuple[str, ...], str, str]] = []
    horizon, expiry = settings.process.dedup_horizon_h, settings.mqtt.session_expiry_h
    if horizon <= expiry:
        message = f"must exceed mqtt.session_expiry_h ({expiry}): the broker may send again what is that old"
        out.append((("process", "dedup_horizon_h"), str(horizon), message))
    keep, backfill = settings.store.keep_days, settings.process.backfill_limit_d
    if keep <= backfill:
        message = f"must exceed process.backfill_limit_d ({backfill}): what is taken in would be expired at once"
        out.append((("store", "keep_days"), str(keep), message))
    seen: dict[str, int] = {}
    for number, route in enumerate(settings.routes):
        if route.name in seen:
            message = f"route {seen[route.name]} has this name already: names must differ"
            out.append((("routes", str(number), "name"), repr(route.name), message))
        seen.setdefault(route.name, number)
    return out


def load_settings(file: Path | None = None, *, environ: dict[str, str] | None = None) -> Settings:
    """Read and check settings.

    Args:
        file: a TOML file; None takes ``qingtu.toml`` of the working folder when there is one.
        environ: variables to read instead of the process's own.

    Raises:
        ConfigError: with all problems at once.
    """
    path = file or Path("qingtu.toml")
    text, data = "", {}
    if file is not None or path.exists():
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([Problem(str(path), 0, "file", str(path), f"cannot be read: {error}")]) from error
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"line (\d+)", str(error))
            line = int(found[1]) if found else 0
            raise ConfigError([Problem(str(path), line, "syntax", "", f"not TOML: {error}")]) from error
    from_env, problems = _environment(dict(os.environ) if environ is None else environ)
    for keys, value in from_env.items():
        _put(data, keys, value)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        # Contradictions are found by the model too, but only here is it known where the keys stand.
        errors = [e for e in error.errors() if e["loc"]]
        problems += [_problem(e, path, text, from_env) for e in errors]
        problems += [] if errors else _contradicting(data, path, text, from_env)
        raise ConfigError(problems) from error
    if problems:
        raise ConfigError(problems)
    return settings


def _contradicting(data: dict[str, Any], path: Path, text: str, from_env: dict[tuple[str, ...], str]) -> list[Problem]:
    """Locate what contradicts itself in data whose every key is right alone."""
    alone = Settings.model_construct(
        process=ProcessSettings.model_validate(data.get("process", {})),
        mqtt=MqttSettings.model_validate(data.get("mqtt", {})),
        store=StoreSettings.model_validate(data.get("store", {})),
        routes=tuple(RouteSettings.model_validate(route) for route in data.get("routes", ())),
    )
    return [_at(where, value, message, path, text, from_env) for where, value, message in _contradictions(alone)]


def _environment(environ: dict[str, str]) -> tuple[dict[tuple[str, ...], str], list[Problem]]:
    out: dict[tuple[str, ...], str] = {}
    problems = []
    for name, value in sorted(environ.items()):
        if not name.startswith("QINGTU_") or name in NO_SETTINGS:
            continue
        keys = tuple(name.removeprefix("QINGTU_").lower().split("__"))
        if keys[0] in Settings.model_fields:
            out[keys] = value
            continue
        near = difflib.get_close_matches(keys[0], list(Settings.model_fields), 1)
        hint = f"; did you mean QINGTU_{'__'.join((near[0], *keys[1:])).upper()}?" if near else ""
        allowed = ", ".join(f"QINGTU_{key.upper()}" for key in Settings.model_fields)
        problems.append(
            Problem("environment", 0, name, repr(value)[:80], f"no such setting{hint} (allowed: {allowed})")
        )
    return out, problems


def _put(data: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    """Set a value. Where the file has something else than a table in its way, the model will say so."""
    for key in keys[:-1]:
        inner: Any = data.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        data = inner
    data[keys[-1]] = value


def _problem(
    error: Any, path: Path, text: str, from_env: dict[tuple[str, ...], str]
) -> Problem:  # pydantic's ErrorDetails
    where = tuple(str(part) for part in error["loc"])
    value = repr(error["input"])[:80]
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        allowed = sorted(_allowed(where[:-1]))
        near = difflib.get_close_matches(where[-1], allowed, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        message = f"no such setting{hint} (allowed: {', '.join(allowed)})"
    elif error["type"] in ("model_type", "model_attributes_type"):
        message = f"must be a table with {', '.join(sorted(_allowed(where)))}"
    elif error["type"] != "value_error":
        message = f"{message} ({_describe(where)})"
    return _at(where, value, message, path, text, from_env)


def _at(
    where: tuple[str, ...], value: str, message: str, path: Path, text: str, from_env: dict[tuple[str, ...], str]
) -> Problem:
    """Say where a key stands: in a variable, at a line of the file, or nowhere, as a default."""
    if where in from_env:
        return Problem("environment", 0, "QINGTU_" + "__".join(where).upper(), value, message)
    return Problem(str(path), _line_of(text, where), ".".join(where), value, message)


def _model_at(where: tuple[str, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] = Settings
    for part in where:
        if part.isdigit():
            continue
        spec = model.model_fields.get(part)
        kind: Any = RouteSettings if part == "routes" else (spec.annotation if spec else None)
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        model = kind
    return model


def _allowed(where: tuple[str, ...]) -> list[str]:
    model = _model_at(where)
    return list(model.model_fields) if model else []


def _describe(where: tuple[str, ...]) -> str:
    model = _model_at(where[:-1])
    spec = model.model_fields.get(where[-1]) if model else None
    if spec is None:
        return "see docs/settings.md"
    return f"default {spec.default!r}" + (f"; {spec.description}" if spec.description else "")


def _line_of(text: str, where: tuple[str, ...]) -> int:
    """Find the line of a key: tomllib keeps no positions, and settings files are small and flat."""
    table: list[str] = []
    count: dict[str, int] = {}
    best = 0
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            name = found[1]
            table = [*name.split("."), str(count.setdefault(name, 0))]
            count[name] += 1
        elif found := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = found[1].split(".")
        elif found := re.match(r"\s*([\w.-]+)\s*=", line):
            here = (*table, *found[1].split("."))
            if here == where[: len(here)]:
                return number
            continue
        if tuple(table) == where[: len(table)]:
            best = number
    return best
