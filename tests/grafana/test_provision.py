"""Into a Grafana: what is made, that doing it again changes nothing, and what is said when it cannot be done.

Against a real Grafana when ``QINGTU_TEST_GRAFANA`` (its URL) and ``QINGTU_TEST_GRAFANA_TOKEN`` (a file with an
admin's token) name one, which is then written to; otherwise against the documented answers.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from qingtu.catalogue import load_catalogue
from qingtu.commands.grafana import grafana
from qingtu.errors import ConfigError, QingtuError, RetryLater, StartError
from qingtu.grafana.__main__ import GOLDEN_CATALOGUE
from qingtu.grafana.client import Conflict, GrafanaClient
from qingtu.grafana.dashboards import build
from qingtu.grafana.names import DAILY, FOLDER, HOURLY, READINGS, SOURCE_NAMES
from qingtu.grafana.provision import Step, Wanted, apply, data_source, message_of, plan
from qingtu.grafana.scope import Scope
from tests.grafana.grafana_server import TOKEN, VIEWER, DocumentedGrafana

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[DocumentedGrafana]:
    with DocumentedGrafana() as made:
        yield made


@pytest.fixture
def client(server: DocumentedGrafana) -> Iterator[GrafanaClient]:
    made = GrafanaClient(server.url, TOKEN)
    yield made
    made.close()


def wanted(*, token: str = "read-token", folder: str = "青图 Qingtu") -> Wanted:
    sources = [
        data_source(uid, name=uid, url="http://127.0.0.1:8086", database=uid, token=token) for uid in SOURCE_NAMES
    ]
    return Wanted(folder, sources, build(Scope(load_catalogue(GOLDEN_CATALOGUE))))


def actions(steps: list[Step]) -> set[str]:
    return {step.action for step in steps}


# ------------------------------------------------------------------------------------------------- real or documented


@pytest.fixture(params=["documented", "real"])
def any_client(request: pytest.FixtureRequest) -> Iterator[GrafanaClient]:
    """A client of the documented server, and of a real one where there is one."""
    if request.param == "documented":
        with DocumentedGrafana() as made:
            client = GrafanaClient(made.url, TOKEN)
            yield client
            client.close()
        return
    url, file = os.environ.get("QINGTU_TEST_GRAFANA"), os.environ.get("QINGTU_TEST_GRAFANA_TOKEN")
    if not url or not file:
        pytest.skip("no real Grafana: set QINGTU_TEST_GRAFANA=URL and QINGTU_TEST_GRAFANA_TOKEN=FILE")
    client = GrafanaClient(url, Path(file).read_text(encoding="utf-8").strip())
    yield client
    client.close()


def test_second_time_changes_nothing(any_client: GrafanaClient) -> None:
    """Whatever stood there: after one run everything is as wanted, and a second one finds it so."""
    assert any_client.version()
    want = wanted()
    apply(any_client, want, plan(any_client, want, overwrite=True))
    steps = plan(any_client, want)
    assert actions(steps) == {"same"}
    assert [step.uid for step in steps] == [FOLDER, *SOURCE_NAMES, *(d["uid"] for d in want.dashboards)]
    for dashboard in want.dashboards:
        found = any_client.dashboard(dashboard["uid"])
        assert found is not None
        assert [panel["title"] for panel in found["dashboard"]["panels"]] == [p["title"] for p in dashboard["panels"]]
        assert any_client.last_message(dashboard["uid"]) == message_of(dashboard)


def test_what_changed_is_a_new_version(any_client: GrafanaClient) -> None:
    """A changed dashboard is saved over the old one, which stays in Grafana's history; others stay as they are."""
    want = wanted()
    apply(any_client, want, plan(any_client, want, overwrite=True))
    changed = [dict(d) for d in want.dashboards]
    changed[0]["description"] = "another"
    later = Wanted(want.folder, want.sources, changed)
    steps = plan(any_client, later)
    assert [step.uid for step in steps if step.action != "same"] == [changed[0]["uid"]]
    before = any_client.dashboard(changed[0]["uid"])
    apply(any_client, later, steps)
    after = any_client.dashboard(changed[0]["uid"])
    assert before is not None
    assert after is not None
    assert after["dashboard"]["version"] == before["dashboard"]["version"] + 1
    assert after["dashboard"]["description"] == "another"
    assert actions(plan(any_client, later)) == {"same"}


# --------------------------------------------------------------------------------------------------------- documented


def test_dry_run_writes_nothing(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """Looking tells every step and writes nothing."""
    assert actions(plan(client, wanted())) == {"create"}
    assert server.state.writes() == []


def test_token_goes_only_where_it_is_kept_secret(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """InfluxDB's token stands in the secret header alone; another token is seen although Grafana never tells it."""
    want = wanted()
    apply(client, want, plan(client, want))
    assert server.state.secrets[READINGS] == {"httpHeaderValue1": "Token read-token"}
    assert "read-token" not in json.dumps([server.state.sources, server.state.dashboards])
    other = wanted(token="new-token")
    steps = [step for step in plan(client, other) if step.action != "same"]
    assert [(step.uid, step.why) for step in steps] == [(uid, "jsonData.qingtuToken") for uid in SOURCE_NAMES]
    server.state.sources[READINGS]["isDefault"] = True
    apply(client, other, steps)
    assert server.state.secrets[READINGS] == {"httpHeaderValue1": "Token new-token"}
    assert server.state.sources[READINGS]["isDefault"] is True  # people chose that


def test_peoples_work_is_kept(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """A dashboard that somebody saved since is left alone unless asked; and goes on as ours after that."""
    want = wanted()
    apply(client, want, plan(client, want))
    uid = want.dashboards[2]["uid"]
    server.state.save(uid, {"uid": uid, "title": "mine"}, "")
    steps = plan(client, want)
    assert [(step.uid, step.action) for step in steps if step.action != "same"] == [(uid, "keep")]
    writes = len(server.state.writes())
    apply(client, want, steps)
    assert len(server.state.writes()) == writes
    apply(client, want, plan(client, want, overwrite=True))
    assert actions(plan(client, want)) == {"same"}
    assert [v["message"] for v in server.state.dashboards[uid]] == [
        message_of(want.dashboards[2]), "", message_of(want.dashboards[2]),
    ]  # fmt: skip


def test_dashboard_stays_in_the_folder_to_which_it_was_moved(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """Folders carry permissions: what people moved to a closed folder is not brought back into the open one."""
    want = wanted()
    apply(client, want, plan(client, want))
    uid = want.dashboards[-1]["uid"]
    server.state.meta[uid]["folderUid"] = "closed"
    changed = [*want.dashboards[:-1], dict(want.dashboards[-1]) | {"description": "another"}]
    later = Wanted(want.folder, want.sources, changed)
    apply(client, later, plan(client, later))
    assert server.state.meta[uid]["folderUid"] == "closed"
    assert len(server.state.dashboards[uid]) == 2


def test_folder_is_renamed(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """Another title in the settings renames the folder and makes no second one."""
    want = wanted()
    apply(client, want, plan(client, want))
    renamed = wanted(folder="Other")
    apply(client, renamed, plan(client, renamed))
    assert {uid: folder["title"] for uid, folder in server.state.folders.items()} == {FOLDER: "Other"}


def test_what_files_made_is_kept(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """Grafana refuses to change what it read from files; so it is not tried."""
    want = wanted()
    apply(client, want, plan(client, want))
    for uid, meta in server.state.meta.items():
        meta["provisioned"] = True
        server.state.save(uid, {"uid": uid, "title": "x"}, "")
    for source in server.state.sources.values():
        source |= {"readOnly": True, "url": "http://elsewhere"}
    steps = plan(client, want)
    assert {(step.kind, step.action) for step in steps} == {
        ("folder", "same"), ("data source", "keep"), ("dashboard", "keep"),
    }  # fmt: skip


def test_changed_between_look_and_write(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """Whoever saves a dashboard between our look and our write wins; we say so (412)."""
    want = wanted()
    apply(client, want, plan(client, want))
    changed = Wanted(want.folder, want.sources, [dict(d) | {"description": "another"} for d in want.dashboards])
    steps = plan(client, changed)
    uid = want.dashboards[0]["uid"]
    server.state.save(uid, {"uid": uid, "title": "mine"}, "")
    with pytest.raises(Conflict, match=r"changed by someone else.*run it again"):
        apply(client, changed, steps)
    assert server.state.dashboards[uid][-1]["data"]["title"] == "mine"


def test_made_by_somebody_between_look_and_write(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """What was new when we looked and is there when we write is not overwritten either."""
    want = wanted()
    steps = plan(client, want)
    first = want.dashboards[0]["uid"]
    server.state.dashboards[first] = [{"version": 3, "message": "", "data": {"title": "mine", "version": 3}}]
    with pytest.raises(Conflict):
        apply(client, want, steps)
    assert server.state.dashboards[first][-1]["data"]["title"] == "mine"


def test_title_of_the_folder_is_taken(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """Another folder of the same title is not taken over: which one is meant is for people to say."""
    server.state.folders["theirs"] = {"uid": "theirs", "title": "青图 Qingtu", "version": 1}
    with pytest.raises(Conflict, match=r"same name.*rename the other one"):
        apply(client, wanted(), plan(client, wanted()))


def test_versions_as_newer_grafanas_tell_them(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """The list of versions stands in an object since Grafana 12."""
    server.state.new_versions_form = True
    want = wanted()
    apply(client, want, plan(client, want))
    assert actions(plan(client, want)) == {"same"}


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("version", "ok"), [("9.0.0", True), ("9.3.2", True), ("13.1.0-pre", True), ("8.5.27", False), ("7.5.0", False)]
)
def test_oldest_version(server: DocumentedGrafana, client: GrafanaClient, version: str, ok: bool) -> None:
    """From 9.0 on; older ones are told so before anything is written."""
    server.state.version = version
    if ok:
        assert client.version() == version
        return
    with pytest.raises(StartError, match=r"too old: 9\.0 or newer"):
        client.version()


@pytest.mark.parametrize(
    ("token", "kind", "words"),
    [
        ("wrong", StartError, r"does not know the token \(Invalid API key\).*grafana\.token_file"),
        (VIEWER, StartError, r"may not do this \(You'll need additional permissions.*it needs folders:create"),
    ],
)
def test_refused_token(server: DocumentedGrafana, token: str, kind: type[QingtuError], words: str) -> None:
    """401 and 403 say which token or permission is meant."""
    client = GrafanaClient(server.url, token)
    with pytest.raises(kind, match=words):
        apply(client, wanted(), plan(client, wanted()))
    client.close()


def test_nobody_there() -> None:
    """A wrong port is one line with the address and the way out."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it meanwhile
        client = GrafanaClient(f"http://127.0.0.1:{held.getsockname()[1]}", TOKEN)
        with pytest.raises(StartError, match=r"cannot be reached: .*refused; check .*grafana\.url") as told:
            client.version()
    assert "\n" not in str(told.value)


def test_silent_server() -> None:
    """One that takes the connection and says nothing is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = GrafanaClient(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN, timeout_s=0.2)
        with pytest.raises(StartError, match=r"cannot be reached: .*timed out"):
            client.version()
        client.close()


def test_page_of_a_proxy(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """A log-in page with status 200 is not taken for an answer."""
    server.state.page_instead = True
    with pytest.raises(StartError, match=r"not JSON.*path prefix"):
        client.version()


def test_grafana_in_trouble(server: DocumentedGrafana, client: GrafanaClient) -> None:
    """500 is worth another try later, and says what Grafana said."""
    server.state.broken = True
    with pytest.raises(RetryLater, match="Internal Server Error"):
        plan(client, wanted())


def test_path_prefix() -> None:
    """A Grafana below a path of a proxy is found by its URL."""
    with DocumentedGrafana(prefix="/monitor/grafana") as server:
        client = GrafanaClient(server.url + "/", TOKEN)
        assert client.version() == server.state.version
        assert actions(plan(client, wanted())) == {"create"}
        client.close()


# ------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def settings(tmp_path: Path, server: DocumentedGrafana) -> Path:
    (tmp_path / "grafana.token").write_text(TOKEN + "\n", encoding="utf-8")
    (tmp_path / "influx.token").write_text("influx-secret\n", encoding="utf-8")
    file = tmp_path / "qingtu.toml"
    file.write_text(
        f'catalogue = "{GOLDEN_CATALOGUE}"\n[grafana]\nurl = "{server.url}"\n'
        f'token_file = "{tmp_path / "grafana.token"}"\ninflux_token_file = "{tmp_path / "influx.token"}"\n'
        '[influx]\nbucket = "city"\nhourly = "city_h"\n',
        encoding="utf-8",
    )
    return file


def run(*words: str) -> Any:
    app = typer.Typer()
    app.command()(grafana)
    # variables that name a real Grafana are no settings
    return CliRunner().invoke(app, list(words), env=dict.fromkeys(("QINGTU_TEST_GRAFANA", "QINGTU_TEST_GRAFANA_TOKEN")))


def test_command_sets_grafana_up(server: DocumentedGrafana, settings: Path) -> None:
    """The command does it, tells every step, and the second time that nothing differs."""
    looked = run("--settings", str(settings), "--dry-run")
    assert looked.exit_code == 0
    assert "将新建 create" in looked.output
    assert server.state.writes() == []
    first = run("--settings", str(settings), "--json")
    assert first.exit_code == 0
    told = json.loads(first.stdout)
    assert {step["action"] for step in told["steps"]} == {"create"}
    assert len(told["steps"]) == 4 + len(server.state.dashboards)
    assert server.state.sources[READINGS]["jsonData"]["dbName"] == "city"
    assert server.state.sources[HOURLY]["database"] == "city_h"
    second = run("--settings", str(settings))
    assert second.exit_code == 0
    assert "无变化 same" in second.output
    assert "created" not in second.output


def test_command_says_when_influx_cannot_be_read(server: DocumentedGrafana, settings: Path) -> None:
    """Grafana is set up, but what it says of InfluxDB is passed on, and the answer is no."""
    server.state.source_answers = False
    ended = run("--settings", str(settings))
    assert ended.exit_code == 1
    assert "cannot read InfluxDB" in ended.output
    assert "Status Code: 401" in ended.output
    assert "grafana.influx_url" in ended.output


def test_command_answers_no_when_something_was_kept(server: DocumentedGrafana, settings: Path) -> None:
    """Somebody's dashboard was kept: exit code 1 and the option that would replace it; with it, 0."""
    assert run("--settings", str(settings)).exit_code == 0
    uid = next(iter(server.state.dashboards))
    server.state.save(uid, {"uid": uid, "title": "mine"}, "mine")
    ended = run("--settings", str(settings))
    assert ended.exit_code == 1
    assert "--overwrite" in ended.output
    assert run("--settings", str(settings), "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("", "must hold one token"), ("two tokens", "must hold one token")]
)
def test_command_checks_token_files(settings: Path, content: str | None, words: str) -> None:
    """A file that is absent, empty or holds something else is named by its setting, without its content."""
    file = settings.parent / "grafana.token"
    file.unlink()
    if content is not None:
        file.write_text(content, encoding="utf-8")
    ended = run("--settings", str(settings))
    assert isinstance(ended.exception, ConfigError)
    (problem,) = ended.exception.problems
    assert problem.key == "grafana.token_file"
    assert words in problem.message
    assert "two tokens" not in str(problem)


def test_command_needs_a_token(tmp_path: Path) -> None:
    """Without the setting: which one, and where it stands."""
    file = tmp_path / "qingtu.toml"
    file.write_text(f'catalogue = "{GOLDEN_CATALOGUE}"\n', encoding="utf-8")
    for words in ((), ("--files", str(tmp_path / "out"))):
        ended = run("--settings", str(file), *words)
        assert isinstance(ended.exception, ConfigError)
        assert "under [grafana]" in str(ended.exception)


def test_files(settings: Path, tmp_path: Path) -> None:
    """The same as files: no secret in them, uids as by API; a second time nothing differs; what is gone is removed."""
    folder = tmp_path / "out"
    assert run("--settings", str(settings), "--files", str(folder), "--dry-run").exit_code == 0
    assert not folder.exists()
    ended = run("--settings", str(settings), "--files", str(folder), "--json")
    assert ended.exit_code == 0
    changed = json.loads(ended.stdout)["changed"]
    texts = {path: (folder / path).read_text(encoding="utf-8") for path in changed}
    assert not any("influx-secret" in text or TOKEN in text for text in texts.values())
    sources = yaml.safe_load(texts["provisioning/datasources/qingtu.yaml"])["datasources"]
    assert [(source["uid"], source["database"]) for source in sources] == [
        (READINGS, "city"), (HOURLY, "city_h"), (DAILY, "qingtu_daily"),
    ]  # fmt: skip
    assert sources[0]["secureJsonData"]["httpHeaderValue1"] == f"Token $__file{{{tmp_path / 'influx.token'}}}"
    (provider,) = yaml.safe_load(texts["provisioning/dashboards/qingtu.yaml"])["providers"]
    assert {file.name for file in Path(provider["options"]["path"]).iterdir()} == {
        path.removeprefix("dashboards/") for path in changed if path.startswith("dashboards/")
    }
    (folder / "dashboards" / "qingtugone.json").write_text("{}", encoding="utf-8")
    (folder / "dashboards" / "theirs.json").write_text("{}", encoding="utf-8")
    again = json.loads(run("--settings", str(settings), "--files", str(folder), "--json").stdout)["changed"]
    assert again == ["dashboards/qingtugone.json"]
    assert (folder / "dashboards" / "theirs.json").exists()
    assert not (folder / "dashboards" / "qingtugone.json").exists()


def test_files_where_nothing_can_be_written(settings: Path, tmp_path: Path) -> None:
    """A folder that is a file: one line."""
    (tmp_path / "out").write_text("", encoding="utf-8")
    ended = run("--settings", str(settings), "--files", str(tmp_path / "out"))
    assert isinstance(ended.exception, StartError)
    assert "cannot be written" in str(ended.exception)
