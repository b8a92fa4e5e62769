"""``qingtu grafana``: folder, data sources and dashboards in a Grafana server, or as files for one."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qingtu.catalogue import load_catalogue
from qingtu.commands.options import Catalogue, SettingsFile, settings_of
from qingtu.commands.output import err, out, print_json, print_table
from qingtu.commands.progress import bars
from qingtu.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.grafana.provision import Step, Wanted
    from qingtu.settings import Settings

_KINDS: Final = {"folder": "文件夹 folder", "data source": "数据源 data source", "dashboard": "仪表板 dashboard"}
_DONE: Final = {"create": "已新建 created", "update": "已更新 updated", "same": "无变化 same", "keep": "保留 kept"}
_WOULD: Final = {"create": "将新建 create", "update": "将更新 update", "same": "无变化 same", "keep": "将保留 keep"}


def grafana(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change / 只说明将改变什么")] = False,
    files: Annotated[
        Path | None,
        typer.Option("--files", metavar="DIR", help="Write provisioning files instead / 改为写出配置文件"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also dashboards that people changed / 覆盖他人改过的仪表板")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output / 输出 JSON")] = False,
    file: SettingsFile = None,
    catalogue: Catalogue = None,
) -> None:
    """Set Grafana up: folder, InfluxDB data sources, dashboards / 设置 Grafana.

    Doing it again changes only what differs. Exit code 1: something was kept that people changed, or Grafana cannot
    read InfluxDB.
    """
    settings = settings_of(file, None, catalogue)
    if files is not None:
        _write(files, settings, dry_run=dry_run, json=json)
    else:
        _provision(settings, dry_run=dry_run, overwrite=overwrite, json=json)


def _provision(settings: Settings, *, dry_run: bool, overwrite: bool, json: bool) -> None:
    # loads requests, which no other command needs
    from qingtu.grafana.client import GrafanaClient  # noqa: PLC0415
    from qingtu.grafana.provision import apply, plan  # noqa: PLC0415

    token = _token("grafana.token_file", settings.grafana.token_file)
    wanted = _wanted(settings)
    client = GrafanaClient(settings.grafana.url, token)
    trouble: dict[str, str] = {}
    try:
        version = client.version()
        with bars(err()) as progress:
            task = progress.add_task("查看 look", total=None)
            steps = plan(client, wanted, overwrite=overwrite)
            if not dry_run:
                progress.update(task, description="写入 write", total=len(steps))
                apply(client, wanted, steps, lambda _step: progress.advance(task))
                said = {source["uid"]: client.datasource_trouble(source["uid"]) for source in wanted.sources}
                trouble = {uid: words for uid, words in said.items() if words is not None}
    finally:
        client.close()
    if json:
        print_json({"version": version, "dry_run": dry_run, "steps": [_plain(s) for s in steps], "trouble": trouble})
    else:
        _report(version, steps, trouble, dry_run=dry_run)
    if trouble or any(step.action == "keep" for step in steps):
        raise typer.Exit(1)


def _report(version: str, steps: Sequence[Step], trouble: dict[str, str], *, dry_run: bool) -> None:
    words = _WOULD if dry_run else _DONE
    rows = [(_KINDS[step.kind], step.title, words[step.action], step.why) for step in steps]
    print_table(("", "", "", ""), rows, title=f"Grafana {version}")
    for uid, said in trouble.items():
        out().print(
            f"数据源 {uid} 读不到 InfluxDB / data source {uid} cannot read InfluxDB: {said}; 检查 / check "
            "grafana.influx_url (as Grafana's server reaches it), grafana.influx_token_file and the bucket",
            soft_wrap=True,
        )


def _plain(step: Step) -> dict[str, str]:
    return {"kind": step.kind, "uid": step.uid, "title": step.title, "action": step.action, "why": step.why}


def _wanted(settings: Settings) -> Wanted:
    from qingtu.grafana.dashboards import build  # noqa: PLC0415
    from qingtu.grafana.names import SOURCE_NAMES  # noqa: PLC0415
    from qingtu.grafana.provision import Wanted, data_source  # noqa: PLC0415
    from qingtu.grafana.scope import Scope  # noqa: PLC0415

    if settings.grafana.influx_token_file is not None:
        token = _token("grafana.influx_token_file", settings.grafana.influx_token_file)
    else:
        token = _token("influx.token_file", settings.influx.token_file)
    url = settings.grafana.influx_url or settings.influx.url
    sources = [
        data_source(uid, name=SOURCE_NAMES[uid], url=url, database=database, token=token)
        for uid, database in _databases(settings).items()
    ]
    return Wanted(settings.grafana.folder, sources, build(Scope(load_catalogue(settings.catalogue))))


def _databases(settings: Settings) -> dict[str, str]:
    from qingtu.grafana.names import DAILY, HOURLY, READINGS  # noqa: PLC0415

    return {READINGS: settings.influx.bucket, HOURLY: settings.influx.hourly, DAILY: settings.influx.daily}


def _write(folder: Path, settings: Settings, *, dry_run: bool, json: bool) -> None:
    from qingtu.grafana.dashboards import build  # noqa: PLC0415
    from qingtu.grafana.files import differing, provisioning, write  # noqa: PLC0415
    from qingtu.grafana.scope import Scope  # noqa: PLC0415

    where = folder.absolute()
    secret = settings.grafana.influx_token_file or settings.influx.token_file
    if secret is None:
        raise _missing("grafana.influx_token_file")
    texts = provisioning(
        build(Scope(load_catalogue(settings.catalogue))),
        folder=settings.grafana.folder,
        influx_url=settings.grafana.influx_url or settings.influx.url,
        databases=_databases(settings),
        token_file=str(secret.absolute()),
        dashboards_at=str(where / "dashboards"),
    )
    changed = differing(where, texts) if dry_run else write(where, texts)
    if json:
        print_json({"folder": str(where), "dry_run": dry_run, "changed": changed})
        return
    word = "将写 would write" if dry_run else "已写 wrote"
    for path in changed:
        out().print(f"{word}: {where / path}", soft_wrap=True)
    out().print(
        f"{len(changed)} / {len(texts)} 个文件有变化 / files differ. 让 Grafana 读取 / let Grafana read it: "
        f"GF_PATHS_PROVISIONING={where / 'provisioning'} (or copy its files into Grafana's own provisioning folder)",
        soft_wrap=True,
    )


def _token(key: str, path: Path | None) -> str:
    if path is None:
        raise _missing(key)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError([Problem("settings", 0, key, str(path), f"cannot be read: {reason}")]) from error
    if not text or not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        # the content is not shown: it may be a secret with a typing error
        raise ConfigError([Problem("settings", 0, key, str(path), "must hold one token on one line and nothing else")])
    return text


def _missing(key: str) -> ConfigError:
    text = f"must name a file with a token: set {key.partition('.')[2]} under [{key.partition('.')[0]}]"
    return ConfigError([Problem("settings", 0, key, "none", text)])
