"""Settings: defaults, then ``qingtu.toml``, then ``QINGTU_*`` variables; checked all at once, without network.

A variable names the key with two underscores between levels: ``QINGTU_MQTT__PORT=1884``.
``qingtu check`` prints every problem with file, line, key, value and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from qingtu.errors import ConfigError
from qingtu.settings_notify import NotifySettings
from qingtu.settings_section import Section
from qingtu.settings_together import contradictions

NO_SETTINGS = frozenset(
    ("QINGTU_FAULTS", "QINGTU_HOME", "QINGTU_INFLUXD", "QINGTU_TEST_GRAFANA", "QINGTU_TEST_GRAFANA_TOKEN")
)
"""Variables that are ours but no settings: they choose tests and where built servers stand."""

KIB = 1024
MIB = 1024 * KIB


ROUTE_NAME = r"^[a-z][a-z0-9_-]{0,31}$"
SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
"""``host:port``; an IPv6 address stands in brackets."""


def _listed(names: Any) -> Any:
    """Take the text of a variable as a list with commas between."""
    return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names


class RouteSettings(Section):
    """One way in: which topics, what they say about the sender, and how the payload is read."""

    name: str = Field(pattern=ROUTE_NAME, description="name in frames, metrics and catalogue")
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
            raise ValueError("不能用 $SYS 主题 / $SYS topics are the broker's own figures, not readings")
        if "{device}" not in topic:
            raise ValueError("须含 {device} / must name {device}, which says who the sender is")
        if "#" in topic or "+" in topic:
            raise ValueError(
                "用 {_} 与末尾的 {_*} / write {_} for one level and a last {_*} for all further levels, not + and #"
            )
        return topic


class MqttSettings(Section):
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
    queue_messages: int | None = Field(
        None, ge=0, description="max_queued_messages of a broker of one's own, 0 for no bound: for the outage budget"
    )
    queue_bytes: int | None = Field(None, ge=0, description="its max_queued_bytes, 0 for no bound")
    embedded: Literal["auto", "mosquitto", "iotcore"] = Field("auto", description="which broker to start")


class ProcessSettings(Section):
    """The ordered pass."""

    ahead_limit_s: int = Field(300, ge=0, description="a claimed time further ahead of receipt is clock_wrong")
    backfill_limit_d: int = Field(400, ge=1, description="a claimed time older than this is clock_wrong")
    dedup_horizon_h: int = Field(72, ge=1, description="how long equal messages are recognised")
    dedup_max: int = Field(20_000_000, ge=1000, description="messages remembered at most; 16 bytes each")
    state_every_s: int = Field(20, ge=1, description="state is saved so often; a crash repeats what came since")
    gather_ms: int = Field(
        310, ge=0, le=1000,
        description="with the embedded bus, under load: what came waits so long at most for more; 0: it does not",
    )  # fmt: skip


class StoreSettings(Section):
    """The primary store."""

    kind: Literal["duckdb", "influx"] = Field("duckdb", description="DuckDB in the data folder, or an InfluxDB server")
    commit_ms: int = Field(2000, ge=1, description="a processed frame waits at most this long to be stored")
    commit_messages: int = Field(4000, ge=1, description="commit when so many messages wait")
    memory_limit: str = Field("1GB", pattern=r"^\d+(\.\d+)?(MB|GB)$", description="that DuckDB may use")
    threads: int = Field(
        1, ge=1, le=256, description="that DuckDB may use; more help large questions on a machine with idle cores"
    )
    keep_days: int = Field(800, ge=1, description="readings older than this are expired day-wise")
    rejected_keep_days: int = Field(800, ge=1, description="messages in quarantine received before this are expired")


class BusSettings(Section):
    """The bus: where frames are durable."""

    kind: Literal["sqlite", "kafka"] = Field("sqlite", description="files in the data folder, or Kafka servers")
    raw_keep_h: int = Field(168, ge=1, description="raw frames are kept so long: for explain, audit and re-drive")
    derived_keep_h: int = Field(48, ge=1, description="the other streams, which can be derived again from raw")
    free_floor_mb: int = Field(64, ge=1, description="below this free space no messages are taken")


class KafkaSettings(Section):
    """The Kafka servers, for ``bus.kind = "kafka"``. Topics are made by ``qingtu setup``."""

    servers: tuple[str, ...] = Field(("127.0.0.1:9092",), min_length=1, description="host:port to begin with")
    prefix: str = Field("qingtu", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="of topics and consumer groups")
    partitions: int = Field(4, ge=1, le=256, description="of each stream; fixed once the topics are made")
    replication: int = Field(1, ge=1, le=9, description="copies of each topic; 3 in a cluster")
    min_in_sync: int = Field(1, ge=1, le=9, description="copies that must have a frame before it counts; 2 of 3")
    member: str | None = Field(None, description="stable name of this process in its groups; none: host and stages")
    session_timeout_ms: int = Field(10_000, ge=1000, description="a process silent for so long loses its partitions")
    username: str | None = Field(None, description="for SASL SCRAM-SHA-512; none: no log-in")
    password_file: Path | None = Field(None, description="file with the password; never the password itself")
    tls: bool = Field(False, description="encrypt, and check the servers' certificates")
    ca_file: Path | None = Field(None, description="certificates to trust; none: those of the system")

    @field_validator("servers", mode="before")
    @classmethod
    def _listed(cls, servers: Any) -> Any:
        return _listed(servers)

    @field_validator("servers")
    @classmethod
    def _servers(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            found = SERVER.fullmatch(server)
            if found is None or not 1 <= int(found[2]) <= 65535:
                raise ValueError(
                    f"{server!r} 须写作 主机:端口 / must be written host:port, such as 127.0.0.1:9092 or [::1]:9092"
                )
        return servers


class InfluxSettings(Section):
    """The InfluxDB server, for ``store.kind = "influx"``. Buckets are made by ``qingtu setup``."""

    url: str = Field("http://127.0.0.1:8086", pattern=r"^https?://", description="of the server")
    org: str = Field("qingtu", min_length=1, description="organisation")
    token_file: Path | None = Field(None, description="file with a token that may read and write the buckets")
    bucket: str = Field("qingtu", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$", description="readings, alerts, corrections")
    hourly: str = Field("qingtu_hourly", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$", description="figures below a day")
    daily: str = Field("qingtu_daily", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$", description="figures of days and more")
    hourly_keep_d: int = Field(3660, ge=1, description="figures below a day are kept so long")
    batch_lines: int = Field(5000, ge=1, le=100_000, description="lines of one request")
    timeout_s: int = Field(30, ge=1, le=600, description="for one request")
    gzip: bool = Field(False, description="compress requests: dear on a local link, good on a thin one")


class GrafanaSettings(Section):
    """The Grafana server for ``qingtu grafana``."""

    url: str = Field("http://127.0.0.1:3000", pattern=r"^https?://", description="of the server")
    token_file: Path | None = Field(None, description="file with a service account's token")
    folder: str = Field("青图 Qingtu", min_length=1, description="title of the folder for the dashboards")
    influx_url: str | None = Field(None, description="InfluxDB as Grafana reaches it; none: influx.url")
    influx_token_file: Path | None = Field(None, description="a token that may only read; none: influx.token_file")


class FiguresSettings(Section):
    """Derived figures."""

    grace_s: int = Field(60, ge=0, description="a window is evaluated this long after its end")
    tick_s: float = Field(5, gt=0, le=60, description="how often the clock is written into raw")


class WebSettings(Section):
    """Map and API."""

    host: str = Field("127.0.0.1", description="address to listen on; anything else opens the map to the network")
    port: int = Field(8620, ge=0, le=65535, description="0: any free port")
    tokens_file: Path | None = Field(None, description="lines 'name: token'; none: one is made for the operator")


class Settings(Section):
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
    kafka: KafkaSettings = KafkaSettings()
    influx: InfluxSettings = InfluxSettings()
    grafana: GrafanaSettings = GrafanaSettings()
    figures: FiguresSettings = FiguresSettings()
    web: WebSettings = WebSettings()
    notify: NotifySettings = NotifySettings()

    @field_validator("sinks", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        return _listed(names)

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
                hint = f"; 是否指 / did you mean {near[0]}?" if near else ""
                raise ValueError(f"没有此输出 / no sink {name!r}{hint} {allowed}")
        if len(set(names)) < len(names):
            raise ValueError(f"输出重复 / each sink at most once {allowed}")
        return names

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Settings:
        if not (info.context or {}).get("apart") and (found := contradictions(self)):
            raise ValueError("; ".join(f"{'.'.join(one.where)}: {one.message}" for one in found))
        return self


def load_settings(file: Path | None = None, *, environ: dict[str, str] | None = None) -> Settings:
    """Read and check settings.

    Args:
        file: a TOML file; None takes ``qingtu.toml`` of the working folder when there is one.
        environ: variables to read instead of the process's own.

    Raises:
        ConfigError: with all problems at once.
    """
    from qingtu.settings_file import read_settings  # noqa: PLC0415 - which reads into the models above

    reading = read_settings(file, environ=environ)
    if reading.problems:
        raise ConfigError(reading.problems)
    return reading.settings
