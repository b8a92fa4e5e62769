"""Each real server starts from the files of deploy/, answers, keeps its data through kill -9 and start, and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.admin import NewTopic  # type: ignore[import-untyped]
from paho.mqtt.enums import CallbackAPIVersion

from deploy.native import influx as influx_module
from deploy.native import kafka as kafka_module
from deploy.native.influx import InfluxServer
from deploy.native.kafka import KafkaServer
from deploy.native.mosquitto import MosquittoServer
from deploy.native.process import port_is_free
from qingtu.errors import StartError
from qingtu.settings import load_settings
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deploy.native.process import Server

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_kafka_keeps_what_it_acknowledged(new_kafka: Callable[[], KafkaServer]) -> None:
    """It runs with server.properties of deploy/, on the address asked for, and starts again after kill -9."""
    server = new_kafka()
    command = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")
    assert str(DEPLOY / "kafka" / "server.properties").encode() in command
    admin = KafkaAdminClient(bootstrap_servers=server.address)
    admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=server.address, acks="all")
    sent = [producer.send("kept", str(number).encode()) for number in range(100)]
    assert [future.get(30).offset for future in sent] == list(range(100))
    producer.close()
    old, address = server.pid, server.address
    server.kill()
    assert _gone(old)
    assert not server.running()
    server.start()
    assert server.address == address
    assert server.pid != old
    assert _values(server) == [str(number) for number in range(100)]


class _Distribution(KafkaServer):
    """Kafka as compose and systemd start it: by start.sh, with the commands of the Apache distribution."""

    def _command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        _, environ = super()._command()
        commands = self.folder / "kafka" / "bin"
        commands.mkdir(parents=True, exist_ok=True)
        for name, main in (("kafka-storage.sh", "kafka.tools.StorageTool"), ("kafka-server-start.sh", "kafka.Kafka")):
            script = f'#!/bin/sh\nexec java -Xmx256m -cp "{kafka_module.library()}/*" {main} "$@"\n'
            (commands / name).write_text(script)
            (commands / name).chmod(0o755)
        return [str(DEPLOY / "kafka" / "start.sh")], {**environ, "KAFKA_FOLDER": str(commands.parent)}

    def _format(self, environ: Mapping[str, str]) -> None:
        """Leave it to the script."""


def test_kafka_starts_by_the_script_of_compose_and_systemd(tmp_path: Path) -> None:
    """start.sh formats an empty folder, and only an empty one; the same settings, and SIGTERM reaches Kafka itself."""
    if missing := KafkaServer.available():
        pytest.skip(missing)
    with _Distribution(tmp_path / "kafka") as server:
        first = (server.data / "meta.properties").read_text()
        assert Path(f"/proc/{server.pid}/comm").read_text().strip() == "java"
    assert (server.data / ".kafka_cleanshutdown").exists()
    with server:
        assert (server.data / "meta.properties").read_text() == first


def _values(server: KafkaServer) -> list[str]:
    consumer = KafkaConsumer(bootstrap_servers=server.address, consumer_timeout_ms=20_000)
    partition = TopicPartition("kept", 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    values = []
    for record in consumer:
        values.append(record.value.decode())
        if record.offset == end - 1:
            break
    consumer.close()
    return values


def test_kafka_makes_no_topic_by_itself(kafka: KafkaServer) -> None:
    """A typing error in a name shows; server.properties says so, and only if it was read is it so."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.address)
    try:
        assert not consumer.partitions_for_topic("nobody-made-this")
        assert "nobody-made-this" not in consumer.topics()
    finally:
        consumer.close()


def test_influx_keeps_data_and_token(new_influx: Callable[[], InfluxServer]) -> None:
    """It is set up once, with a random token that only the owner can read; points survive kill -9."""
    server = new_influx()
    environ = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    assert f"INFLUXD_CONFIG_PATH={DEPLOY / 'influxdb' / 'config.yml'}".encode() in environ
    assert stat.S_IMODE(server.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600
    token = server.token
    assert len(token) >= 32
    written = _ask(server, f"/api/v2/write?org={server.org}&bucket={server.bucket}&precision=s", "m v=1.5 1700000000")
    assert written == b""
    old, url = server.pid, server.url
    server.kill()
    assert _gone(old)
    server.start()
    assert (server.url, server.token) == (url, token)
    rows = json.loads(_ask(server, f"/query?db={server.bucket}&q=SELECT+v+FROM+m&epoch=s"))
    assert rows["results"][0]["series"][0]["values"] == [[1_700_000_000, 1.5]]


def test_influx_refuses_who_has_no_token(influx: InfluxServer) -> None:
    """Nothing is open by default, nor is the inside of the server (config.yml)."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{influx.url}/query?db={influx.bucket}&q=SHOW+MEASUREMENTS")
    assert refused.value.code == 401
    with pytest.raises(urllib.error.HTTPError) as hidden:
        urllib.request.urlopen(f"{influx.url}/debug/pprof/cmdline")
    assert hidden.value.code == 403


def test_two_influx_servers_have_different_tokens(influx: InfluxServer, new_influx: Callable[[], InfluxServer]) -> None:
    """No default password anywhere."""
    assert new_influx().token != influx.token


def _ask(server: InfluxServer, path: str, body: str | None = None) -> bytes:
    data = body.encode() if body is not None else None
    request = urllib.request.Request(server.url + path, data, {"Authorization": f"Token {server.token}"})
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())


def test_mosquitto_keeps_a_session_through_a_stop(new_mosquitto: Callable[..., MosquittoServer]) -> None:
    """What was queued for a client that is away is there after a clean stop and start."""
    server = new_mosquitto()
    _session(server)
    sender = paho.Client(CallbackAPIVersion.VERSION2, "sender")
    sender.connect(server.host, server.port)
    sender.loop_start()
    sender.publish("a/b", b"kept", qos=1).wait_for_publish(10)
    sender.disconnect()
    sender.loop_stop()
    old = server.pid
    server.stop()
    assert _gone(old)
    server.start()
    assert _session(server, wait_for=b"kept") == [b"kept"]


def _session(server: MosquittoServer, *, wait_for: bytes | None = None) -> list[bytes]:
    """Connect as the client that keeps its session; wait for its subscription, or for a payload."""
    got: list[bytes] = []
    subscribed: list[int] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, "keeper", clean_session=False)
    client.on_message = lambda _client, _data, message: got.append(bytes(message.payload))
    client.on_subscribe = lambda _client, _data, mid, _codes, _properties: subscribed.append(mid)
    client.connect(server.host, server.port)
    client.loop_start()
    if wait_for is None:
        client.subscribe("a/#", qos=1)
        until(lambda: bool(subscribed), "subscribed", 10)
    else:
        until(lambda: wait_for in got, "the message that was kept", 10)
    client.disconnect()
    client.loop_stop()
    return got


def test_mosquitto_runs_with_the_configuration_of_deploy(
    new_mosquitto: Callable[..., MosquittoServer], tmp_path: Path
) -> None:
    """deploy/mosquitto/mosquitto.conf as it stands, but for folders and port: accounts are asked for, TLS is spoken."""
    config = DEPLOY / "mosquitto" / "mosquitto.conf"
    text = config.read_text(encoding="utf-8")
    etc, var = tmp_path / "etc", tmp_path / "var"
    port = re.search(r"^listener (\d+)", text, re.MULTILINE)
    assert port is not None
    changes = {"/mosquitto/config": str(etc), "/mosquitto/data": str(var)}
    changes |= {"/var/log/mosquitto": str(var)} if "/var/log/mosquitto" in text else {}
    free = MosquittoServer(tmp_path / "free").port
    changes[port[0]] = f"listener {free} 127.0.0.1"
    _files_of(text, etc)
    var.mkdir()
    server = new_mosquitto(config=config, changes=changes)
    assert server.port == free
    connect = bytes.fromhex("100d00044d5154540402000a000178")
    assert _over_tls(server, connect)[:4] == bytes.fromhex("20020005"), "anonymous clients are not authorised"


def _files_of(text: str, etc: Path) -> None:
    """Make the files that a configuration names below /mosquitto/config: certificates, an account, access control."""
    for option, name in re.findall(r"^(\w+)\s+/mosquitto/config/(\S+)", text, re.MULTILINE):
        path = etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if option == "password_file":
            subprocess.run(["mosquitto_passwd", "-c", "-b", str(path), "someone", "a-password"], check=True)
            path.chmod(0o600)
        elif option == "acl_file":
            path.write_text("user someone\ntopic read a/#\n")
            path.chmod(0o600)
    keys = {
        option: etc / name for option, name in re.findall(r"^(\w+file)\s+/mosquitto/config/(\S+)", text, re.MULTILINE)
    }
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", str(keys["keyfile"]), "-out", str(keys["certfile"])],
        check=True, capture_output=True,
    )  # fmt: skip
    if "cafile" in keys:
        keys["cafile"].write_bytes(keys["certfile"].read_bytes())


def _over_tls(server: MosquittoServer, packet: bytes) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((server.host, server.port), 10) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(packet)
        return secured.recv(64)


@pytest.mark.parametrize("kind", [KafkaServer, InfluxServer, MosquittoServer])
def test_a_stopped_server_leaves_nothing_behind(kind: type[Server], tmp_path: Path) -> None:
    """No process, no port, no lock: another may take the same folder at once."""
    if missing := kind.available():
        pytest.skip(missing)
    first = kind(tmp_path / "server")
    with first:
        pid = first.pid
        second = kind(tmp_path / "server", port=first.port)
        with pytest.raises(StartError, match="runs already in"):
            second.start()
        assert first.running()
    assert _gone(pid)
    assert port_is_free(first.port)
    assert _children_with(str(tmp_path)) == []
    with second:
        assert second.running()


def test_a_paused_server_can_be_stopped(new_mosquitto: Callable[..., MosquittoServer]) -> None:
    """A stopped process (SIGSTOP) does not take SIGTERM before it goes on."""
    server = new_mosquitto()
    server.pause()
    until(lambda: " T " in Path(f"/proc/{server.pid}/stat").read_text(), "paused", 5)
    server.stop()
    assert not server.running()


def test_a_taken_port_is_named(new_mosquitto: Callable[..., MosquittoServer], tmp_path: Path) -> None:
    """And whoever has it is left alone."""
    first = new_mosquitto()
    with pytest.raises(StartError, match=f"port {first.port} for mosquitto is taken"):
        MosquittoServer(tmp_path / "second", port=first.port).start()
    assert first.running()


def test_what_a_server_said_is_told_when_it_does_not_start(tmp_path: Path) -> None:
    """The end of its log is in the error."""
    if missing := MosquittoServer.available():
        pytest.skip(missing)
    config = tmp_path / "wrong.conf"
    config.write_text("listener 1\nno_such_option true\n")
    with pytest.raises(StartError, match="no_such_option"):
        MosquittoServer(tmp_path / "server", config=config, changes={"listener 1\n": "listener 29999\n"}).start()


def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """A test run that is killed leaves no server behind."""
    if missing := MosquittoServer.available():
        pytest.skip(missing)
    code = (
        "import sys, time; from pathlib import Path; from deploy.native.mosquitto import MosquittoServer\n"
        "print(MosquittoServer(Path(sys.argv[1])).start().pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "server")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert not _gone(pid)
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    until(lambda: _ended(pid), "the server ended", 20)
    until(lambda: _children_with(str(tmp_path)) == [], "nothing is left", 20)


def test_make_services_runs_all_three_until_it_is_told_to_end(tmp_path: Path) -> None:
    """It prints settings that Qingtu takes, with servers that answer there; Ctrl-C leaves no process."""
    for kind in (MosquittoServer, KafkaServer, InfluxServer):
        if missing := kind.available():
            pytest.skip(missing)
    command = [sys.executable, "-m", "deploy.native", "up", "--folder", str(tmp_path / "services")]
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT)
    assert run.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("token_file"):
        line = run.stdout.readline()
        assert line, (tmp_path / "said").read_text()
        lines.append(line)
    file = tmp_path / "qingtu.toml"
    file.write_text("".join(lines))
    settings = load_settings(file, environ={})
    assert (settings.bus.kind, settings.store.kind) == ("kafka", "influx")
    assert settings.influx.token_file is not None
    token = settings.influx.token_file.read_text().strip()
    request = urllib.request.Request(f"{settings.influx.url}/api/v2/buckets", None, {"Authorization": f"Token {token}"})
    with urllib.request.urlopen(request) as answer:
        assert "qingtu" in {bucket["name"] for bucket in json.load(answer)["buckets"]}
    KafkaAdminClient(bootstrap_servers=list(settings.kafka.servers)).close()
    with socket.create_connection((str(settings.mqtt.host), settings.mqtt.port), 10):
        pass
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert run.returncode == 0
    assert _children_with(str(tmp_path)) == []


def _ended(pid: int) -> bool:
    """Return whether a process is gone, or dead and only not yet collected by its new parent."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def _children_with(text: str) -> list[str]:
    """Return command lines of living processes that name a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found += [line] if text in line else []
    return found


def test_jars_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    """A file that was changed, is missing or too many."""
    if missing := KafkaServer.available():
        pytest.skip(missing)
    for name in kafka_module.pins():
        (tmp_path / name).symlink_to(kafka_module.library() / name)
    kafka_module.verify(tmp_path)
    changed = min(kafka_module.pins())
    (tmp_path / changed).unlink()
    with pytest.raises(StartError, match=re.escape(changed)):
        kafka_module.verify(tmp_path)
    (tmp_path / changed).write_bytes(b"another")
    with pytest.raises(StartError, match=re.escape(changed)):
        kafka_module.verify(tmp_path)


def test_what_is_missing_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The text of a skip names the package or the command."""
    monkeypatch.setenv("QINGTU_HOME", str(tmp_path))
    monkeypatch.setenv("QINGTU_INFLUXD", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert KafkaServer.available() == kafka_module.JAVA_MISSING
    assert "QINGTU_INFLUXD" in str(InfluxServer.available())
    with pytest.raises(StartError, match="go, cargo, gcc, pkg-config"):
        influx_module.build(print)
