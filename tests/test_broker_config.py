"""``qingtu broker-config``: accounts and rules from the catalogue, passwords kept, dangerous names refused."""

from __future__ import annotations

import csv
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ingest.routes import RouteTable
from qingtu.broker import here
from qingtu.broker.acl import Account, accounts, acl_text
from qingtu.broker.certificates import lacking
from qingtu.broker.config import INT_MAX, BrokerOptions, mosquitto_conf, queue_for
from qingtu.broker.here import FOR_BROKER, Who, file_notes, store_notes
from qingtu.broker.passwords import hashed, new_password, read_passwords, verified
from qingtu.budget import BrokerQueue
from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.catalogue_model import Content, Device, Network, Station
from qingtu.commands.broker_config import broker_config
from qingtu.errors import ConfigError, QingtuError
from qingtu.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PASSWD = shutil.which("mosquitto_passwd")
DEMO = load_catalogue(ROOT / "stations")


def _catalogue(folder: Path, *devices: str, network: str = "n", route: str = "native") -> Catalogue:
    blocks = "".join(
        f"  - {{id: s{i}, zh: 站, en: S, network: {network}, domain: air, kind: air, position: [120.3, 36.1],\n"
        f"     devices: [{{id: {device!r}, properties: [pm25]}}]}}\n"
        for i, device in enumerate(devices)
    )
    folder.mkdir(exist_ok=True)
    (folder / "all.yaml").write_text(
        f"networks:\n  - {{id: {network}, zh: 网, en: N, interval_s: 60, route: {route}}}\nstations:\n{blocks}",
        encoding="utf-8",
    )
    return load_catalogue(folder)


def _one_device(device: str) -> Catalogue:
    """Return a catalogue with this device, however it was written.

    Raises:
        ValueError: the catalogue refuses such an id itself.
    """
    network = Network(id="n", zh="网", en="N", interval_s=60)
    station = Station(
        id="s", zh="站", en="S", network="n", domain="air", kind="air", position=(120.0, 36.0),
        devices=(Device(id=device, properties=("pm25",)),),
    )  # fmt: skip
    return Catalogue(Content(networks=(network,), stations=(station,)))


def _routes(*routes: dict[str, Any], **mqtt: Any) -> Settings:
    return Settings.model_validate({"routes": routes, "mqtt": mqtt})


def _grants(made: list[Account], user: str) -> dict[str, list[str]]:
    found = next(account for account in made if account.user == user)
    out: dict[str, list[str]] = {}
    for access, topic in found.grants:
        out.setdefault(access, []).append(topic)
    return out


# ---------------------------------------------------------------------------------------------------- passwords


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40))
def test_a_hash_verifies_its_password_only(password: str) -> None:
    """Two hashes of one password differ (salt), both verify, another password does not."""
    one, two = hashed(password), hashed(password)
    assert one != two
    assert verified(password, one)
    assert verified(password, two)
    assert not verified(password + "x", one)


def test_hash_of_mosquitto_passwd_verifies(tmp_path: Path) -> None:
    """The oracle: what mosquitto's own program writes is read, and ours has its form."""
    if PASSWD is None:
        pytest.skip("no mosquitto_passwd on this machine: apt install mosquitto")
    file = tmp_path / "passwords"
    subprocess.run([PASSWD, "-c", "-b", str(file), "n/a", "geheim 密"], check=True, capture_output=True)
    stored = read_passwords(file)["n/a"]
    assert verified("geheim 密", stored)
    assert not verified("geheim", stored)
    form = r"\$7\$101\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}=="
    assert re.fullmatch(form, stored)
    assert re.fullmatch(form, hashed("x"))


@pytest.mark.parametrize("stored", ["", "secret", "$6$abc$def", "$7$x$AA==$AA==", "$7$101$*$*", "$7$101$AAAA"])
def test_what_is_no_hash_verifies_nothing(stored: str) -> None:
    """Also not the empty password."""
    assert not verified("", stored)
    assert not verified("secret", stored)


def test_a_password_in_clear_text_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """The error names file and line, never the password."""
    file = tmp_path / "passwords"
    file.write_text(f"a:{hashed('x')}\nb:hunter2\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_passwords(file)
    assert "passwords:2" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_passwords_are_long_random_and_easy_to_type() -> None:
    """160 bits; no sign that is mistaken for another, none that a spreadsheet or shell would run."""
    made = {new_password() for _ in range(200)}
    assert len(made) == 200
    assert all(re.fullmatch(r"[abcdefghijkmnpqrstuvwxyz2-9]{32}", one) for one in made)


# ------------------------------------------------------------------------------------------------------- access


def test_every_device_of_the_demonstration_may_write_its_own_topic_only() -> None:
    """What each may write is matched by the routes as this device's message, and nobody shares a topic."""
    settings = Settings()
    made = [account for account in accounts(DEMO, settings) if account.kind == "device"]
    assert len(made) == len(DEMO.devices)
    table = RouteTable(settings.routes)
    for account in made:
        grants = dict(account.grants)
        found = table.match(grants["write"])
        assert found is not None
        assert f"{found.network}/{found.device}" == account.user
        assert grants["read"] == f"qt/{account.user}/down"
    assert len({topic for account in made for _, topic in account.grants}) == 2 * len(made)


def test_gateway_may_read_its_subscriptions_and_use_its_own_marker() -> None:
    """No more than that: not other markers, not commands."""
    routes = (
        {"name": "community", "topic": "qt/qd-community/{device}/up", "network": "qd-community"},
        {"name": "native", "topic": "qt/{network}/{device}/up"},
    )
    made = accounts(DEMO, _routes(*routes, client_id="gate 1/x"))
    assert _grants(made, "qingtu-gateway") == {"read": ["qt/+/+/up"], "readwrite": ["qingtu/marker/gate%201%2Fx"]}


def test_silent_levels_become_wildcards(tmp_path: Path) -> None:
    """{_} is one level, {_*} the rest: the device's own level stays fixed."""
    catalogue = _catalogue(tmp_path / "c", "d1", route="field")
    settings = _routes({"name": "field", "topic": "field/{_}/{device}/{_*}", "network": "n"})
    assert _grants(accounts(catalogue, settings), "n/d1")["write"] == ["field/+/d1/#"]


def test_a_grant_that_reaches_another_devices_topic_is_refused(tmp_path: Path) -> None:
    """On field/+/#, device x could write field/y/x/… which an earlier route takes as a message of y."""
    catalogue = _catalogue(tmp_path / "c", "x", route="wide")
    routes = (
        {"name": "narrow", "topic": "field/{device}/{_}/up", "network": "n"},
        {"name": "wide", "topic": "field/{_}/{device}/{_*}", "network": "n"},
    )
    with pytest.raises(ConfigError, match="takes as another device's"):
        accounts(catalogue, _routes(*routes))
    assert accounts(catalogue, _routes(routes[1]))


def test_a_topic_that_another_route_takes_as_somebody_elses_is_refused(tmp_path: Path) -> None:
    """The route table is asked with the very topic: what it says must be this device."""
    catalogue = _catalogue(tmp_path / "c", "d", route="second")
    settings = _routes(
        {"name": "first", "topic": "f/{device}/up", "network": "other"},
        {"name": "second", "topic": "f/{device}/{_}", "network": "n"},
    )
    with pytest.raises(ConfigError):
        accounts(catalogue, settings)


def test_bridge_stands_for_all_devices_of_its_route() -> None:
    """One account that may write the route's filter; its devices have none; unknown routes are refused."""
    made = accounts(DEMO, Settings(), bridges=["native"])
    assert [account.user for account in made if account.kind == "bridge"] == ["bridge-native"]
    assert _grants(made, "bridge-native")["write"] == ["qt/+/+/up"]
    assert {account.user.split("/")[0] for account in made if account.kind == "device"} == {"qd-community"}
    with pytest.raises(ConfigError, match="no such route"):
        accounts(DEMO, Settings(), bridges=["nativ"])


@pytest.mark.parametrize("device", ["a:b", "a%u", "%c", "100%", "a\u0001b", "a\u007fb", "a\u0080b"])
def test_ids_that_could_end_a_field_or_mean_more_are_refused(device: str) -> None:
    """The catalogue may hold them, mosquitto's files may not; the error names the device."""
    with pytest.raises(ConfigError) as refused:
        accounts(_one_device(device), Settings())
    assert "cannot hold" in str(refused.value)
    assert repr(device)[1:-1].replace("\\", "") in str(refused.value).replace("\\", "")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_no_device_id_writes_a_line_that_is_not_its_own(device: str) -> None:
    """Whatever the id: refused, or exactly one user line and its two topic lines, as they should be."""
    try:
        catalogue = _one_device(device)
    except ValueError:
        return
    try:
        text = acl_text(accounts(catalogue, Settings()))
    except ConfigError:
        return
    lines = re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)
    assert lines[-4:-1] == [f"user n/{device}", f"topic write qt/n/{device}/up", f"topic read qt/n/{device}/down"]
    assert sum(line.startswith("user ") for line in lines) == 2
    assert "pattern" not in text.split()


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ("qt/{network}/{device}/up", "take commands for readings"),
        ("qt/{device}/down", "must hold"),
        ("qt/{network}/{device}/+", "must hold"),
        ("qt/{network}/x{device}/down", "must hold"),
        ("$SYS/{network}/{device}", "must hold"),
        ("qt/{network}/{device}/a\nuser admin", "must hold"),
    ],
)
def test_topic_of_commands_is_checked(commands: str, says: str) -> None:
    """It must name one device, and no gateway may subscribe to it."""
    with pytest.raises(ConfigError, match=says):
        accounts(DEMO, Settings(), commands=commands)


def test_gateways_must_differ_in_everything() -> None:
    """Same account, same client id, shared topics: all said at once."""
    with pytest.raises(ConfigError) as refused:
        accounts(DEMO, Settings(), [Settings()])
    keys = {problem.key for problem in refused.value.problems}
    assert keys == {"mqtt.username", "mqtt.client_id", "routes.topic"}


@pytest.mark.parametrize("name", ["a b", "a:b", "n/d", "bridge-x", "qingtu-gateway", ""])
def test_commanders_cannot_pose_as_others(name: str) -> None:
    """Not as device, bridge or gateway."""
    with pytest.raises(ConfigError):
        accounts(DEMO, Settings(), commanders=[name])


# -------------------------------------------------------------------------------------------------------- limits


def test_queue_fits_outage_and_memory() -> None:
    """Twice the outage's messages, at least 100,000, never more than the memory holds."""
    assert queue_for(10, 300, 48 * 3600, 8 << 30).messages == 2 * 10 * 48 * 3600
    assert queue_for(0.1, 300, 3600, 8 << 30).messages == 100_000
    small = queue_for(2000, 300, 48 * 3600, 1 << 30)
    assert small.messages * 300 < 1 << 30
    assert small.holds(300) == small.messages


def test_no_number_that_mosquitto_reads_as_another() -> None:
    """Above 2,147,483,647 mosquitto 2.0 reads a negative number, and takes it for no bound."""
    for memory in (1 << 20, 1 << 30, 1 << 31, 1 << 40):
        queue = queue_for(1e6, 1, 1e6, memory)
        assert 0 < queue.messages <= INT_MAX
        assert 0 <= queue.payload_bytes <= INT_MAX
        assert queue.payload_bytes in {0, memory}


def test_sample_in_deploy_is_what_the_command_writes() -> None:
    """deploy/mosquitto/mosquitto.conf is the one for containers; python -m tests.test_broker_config writes it."""
    assert (ROOT / "deploy" / "mosquitto" / "mosquitto.conf").read_text(encoding="utf-8") == sample()


def sample() -> str:
    """Return the configuration that deploy/ ships: paths of the official image, a queue of 1 GiB."""
    return mosquitto_conf(
        BrokerOptions(
            folder=PurePosixPath("/mosquitto/config"),
            store=PurePosixPath("/mosquitto/data"),
            queue=queue_for(1e9, 300, 48 * 3600, 1 << 30),
        )
    )


def test_sessions_are_kept_longer_than_any_gateway_asks() -> None:
    """persistent_client_expiration is in days, at least 14."""
    for hours, days in ((48, 14), (24 * 20, 21)):
        text = mosquitto_conf(BrokerOptions(PurePosixPath("/a"), PurePosixPath("/b"), BrokerQueue(1), session_h=hours))
        assert f"persistent_client_expiration {days}d" in text


# ------------------------------------------------------------------------------------------------------- command


class Runner:
    """The command on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.out, self.stations = folder / "broker", folder / "stations"
        self.devices("a", "b")

    def devices(self, *names: str) -> None:
        _catalogue(self.stations, *names)

    def __call__(self, *words: str, code: int = 0) -> str:
        app = typer.Typer()
        app.command()(broker_config)
        done = CliRunner().invoke(app, ["--out", str(self.out), "--catalogue", str(self.stations), *words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    def files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.out.iterdir()}

    def clear(self) -> dict[str, str]:
        with (self.out / "credentials.csv").open(encoding="utf-8", newline="") as file:
            return {row["user"]: row["password"] for row in csv.DictReader(file)}

    def hashes(self) -> dict[str, str]:
        return read_passwords(self.out / "passwords")


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_first_run_gives_everybody_a_password(run: Runner) -> None:
    """Hashed for the broker; in clear text for devices in one file, for the gateway in its own."""
    run()
    clear, hashes = run.clear(), run.hashes()
    assert set(clear) == {"n/a", "n/b"}
    assert set(hashes) == {*clear, "qingtu-gateway"}
    assert all(verified(password, hashes[user]) for user, password in clear.items())
    own = (run.out / "qingtu-gateway.password").read_text(encoding="utf-8").strip()
    assert verified(own, hashes["qingtu-gateway"])
    for name, mode in {"credentials.csv": 0o600, "qingtu-gateway.password": 0o600, "passwords": 0o640}.items():
        assert stat.S_IMODE((run.out / name).stat().st_mode) == mode, name


def test_second_run_changes_nothing(run: Runner) -> None:
    """Idempotent, byte for byte; --check agrees."""
    run()
    before = run.files()
    assert "无 / nothing" in run()
    assert run.files() == before


def test_new_devices_get_theirs_and_others_keep_theirs(run: Runner) -> None:
    """After the operator took the clear text away, only what is new stands there; who is gone has no entry."""
    run()
    before = run.hashes()
    (run.out / "credentials.csv").unlink()
    run.devices("b", "c")
    said = run()
    assert "n/a" in said
    assert set(run.clear()) == {"n/c"}
    after = run.hashes()
    assert set(after) == {"n/b", "n/c", "qingtu-gateway"}
    assert after["n/b"] == before["n/b"]
    assert "n/a" not in (run.out / "acl").read_text(encoding="utf-8")


def test_clear_text_that_was_not_taken_away_is_kept(run: Runner) -> None:
    """A second run before the operator looked must not lose the first passwords."""
    run()
    before = run.clear()
    run.devices("a", "c")
    run()
    after = run.clear()
    assert after["n/a"] == before["n/a"]
    assert set(after) == {"n/a", "n/c"}, "n/b is gone"


def test_rotate_changes_one_account(run: Runner) -> None:
    """Device or gateway; both places change together, the others keep theirs."""
    run()
    clear, hashes = run.clear(), run.hashes()
    run("--rotate", "n/a", "--rotate", "qingtu-gateway")
    assert run.clear()["n/a"] != clear["n/a"]
    assert verified(run.clear()["n/a"], run.hashes()["n/a"])
    assert run.clear()["n/b"] == clear["n/b"]
    assert run.hashes()["n/b"] == hashes["n/b"]
    own = (run.out / "qingtu-gateway.password").read_text(encoding="utf-8").strip()
    assert verified(own, run.hashes()["qingtu-gateway"])
    assert not verified(own, hashes["qingtu-gateway"])
    with pytest.raises(QingtuError, match="no account"):
        run("--rotate", "n/z")


def test_gateway_with_a_password_file_keeps_its_password(run: Runner, tmp_path: Path) -> None:
    """The broker's file follows what the gateway's file says, also after somebody changed it."""
    secret, file = tmp_path / "secret", tmp_path / "q.toml"
    secret.write_text("given by the city\n", encoding="utf-8")
    file.write_text(f'[mqtt]\nusername = "gate"\npassword_file = "{secret}"\n', encoding="utf-8")
    run("-c", str(file))
    assert verified("given by the city", run.hashes()["gate"])
    secret.write_text("changed\n", encoding="utf-8")
    assert "gate" in run("-c", str(file), "--check", code=1)
    run("-c", str(file))
    assert verified("changed", run.hashes()["gate"])
    assert secret.read_text(encoding="utf-8") == "changed\n"


def test_check_says_what_differs_and_writes_nothing(run: Runner) -> None:
    """New, gone, changed by hand, no certificate: each named, exit code 1, no file touched."""
    assert "mosquitto.conf" in run("--check", code=1)
    assert not run.out.exists()
    run()
    run.devices("b", "c")
    (run.out / "mosquitto.conf").write_text("listener 1883\n", encoding="utf-8")
    before = run.files()
    said = run("--check", code=1)
    for what in ("n/a", "n/c", "mosquitto.conf", "acl", "server.pem"):
        assert what in said
    assert "n/b" not in said
    assert run.files() == before


def test_files_keep_the_mode_that_the_operator_gave(run: Runner) -> None:
    """Replaced files do not become closed to the broker's user again."""
    run()
    (run.out / "passwords").chmod(0o644)
    run("--rotate", "n/a")
    assert stat.S_IMODE((run.out / "passwords").stat().st_mode) == 0o644


@pytest.mark.parametrize("words", [("--at", "relative"), ("--at", "/a b"), ("--store", "/a\nuser root")])
def test_folders_that_would_break_the_configuration_are_refused(run: Runner, words: tuple[str, str]) -> None:
    """mosquitto.conf knows no quotes."""
    with pytest.raises(ConfigError):
        run(*words)


def test_trial_certificate_is_made_once_and_made_anew_for_another_name(run: Runner) -> None:
    """Authority kept; the server's certificate kept while it holds all names."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    run("--self-signed", "broker.example", "--self-signed", "127.0.0.1")
    first = run.files()
    assert lacking(run.out, ["broker.example", "127.0.0.1"]) == []
    assert lacking(run.out, ["broker.example.org"]) == ["server.pem: is not for broker.example.org"]
    run("--self-signed", "broker.example")
    assert run.files() == first
    run("--self-signed", "other.example")
    second = run.files()
    assert second["ca.pem"] == first["ca.pem"]
    assert second["server.pem"] != first["server.pem"]
    assert stat.S_IMODE((run.out / "ca.key").stat().st_mode) == 0o600
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "server.pem"]
    subprocess.run(words, check=True, capture_output=True, cwd=run.out)


# -------------------------------------------------------------------------------------------------- this machine


def test_a_folder_for_sessions_that_is_not_there_is_told_with_the_way_to_make_it(run: Runner, tmp_path: Path) -> None:
    """Mosquitto starts without it and saves nothing; a broker elsewhere, which --at names, is not judged."""
    store = tmp_path / "sessions"
    for words in ((), ("--check",)):
        said = run("--store", str(store), *words, code=1 if words else 0)
        assert f"this machine has no folder {store}" in said
        assert f"install -d -o mosquitto -g mosquitto -m 750 {store}" in said
        assert "本机没有会话目录" in said
    assert "会话目录" not in run("--store", str(store), "--at", "/mosquitto/config")
    store.mkdir()
    assert "has no folder" not in run("--store", str(store))


def test_files_that_the_brokers_account_cannot_read_are_told(run: Runner, tmp_path: Path) -> None:
    """Named with what keeps it away: the folder around, which only another --out mends, or group and mode."""
    if here.account() is None:
        pytest.skip("no account mosquitto on this machine: apt install mosquitto")
    tmp_path.chmod(0o700)
    said = run("--store", str(tmp_path))
    assert "the account mosquitto cannot read mosquitto.conf, acl, passwords: mosquitto does not start" in said
    assert f"the account mosquitto cannot write {tmp_path}" in said
    assert "cannot" not in run("--store", str(tmp_path), "--at", "/elsewhere")


def test_what_an_account_may_is_read_from_the_modes() -> None:
    """As owner, as member of the group, as anybody; the way out names the files that it is needed for."""
    stranger = Who(os.getuid() + 4321, frozenset([os.getgid() + 4321]))
    member = Who(stranger.uid, frozenset([os.getgid()]))
    with tempfile.TemporaryDirectory(dir="/tmp") as text:
        folder = Path(text).resolve()
        for name in FOR_BROKER:
            (folder / name).touch()
            (folder / name).chmod(0o640)
        (folder / "server.pem").chmod(0o644)
        folder.chmod(0o755)
        assert file_notes(folder, member) == []
        (told,) = file_notes(folder, stranger)
        assert "cannot read mosquitto.conf, acl, passwords, server.key:" in told
        assert f"chgrp mosquitto {folder} {folder / 'mosquitto.conf'}" in told
        (folder / "acl").chmod(0o600)
        assert "cannot read acl:" in file_notes(folder, member)[0]
        folder.chmod(0o700)
        assert "server.pem" in file_notes(folder, member)[0]
        (folder / "sessions").mkdir()
        folder.chmod(0o755)
        (folder / "sessions").chmod(0o770)
        assert store_notes(folder / "sessions", member) == []
        assert "cannot write" in store_notes(folder / "sessions", stranger)[0]


@pytest.mark.parametrize("name", ["a b", "x/CN=y", "a,IP:1.2.3.4", "a\nb", "-days", ""])
def test_names_that_are_none_are_refused(run: Runner, name: str) -> None:
    """A certificate's name goes into openssl's words."""
    with pytest.raises(QingtuError, match="neither"):
        run("--self-signed", name)


if __name__ == "__main__":
    (ROOT / "deploy" / "mosquitto" / "mosquitto.conf").write_text(sample(), encoding="utf-8")
