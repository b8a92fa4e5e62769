"""``qingtu replay``: make a generation, look at it, publish it."""

from __future__ import annotations

import getpass
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qingtu import replay as core
from qingtu import replay_diff, replay_promote
from qingtu.catalogue import load_catalogue
from qingtu.client import running_service
from qingtu.clock import HOUR, SystemClock, iso
from qingtu.commands.options import Catalogue, Data, Json, SettingsFile, local_time, settings_of, time_us
from qingtu.commands.output import err, out, print_json, print_table
from qingtu.commands.progress import bars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.replay import Generation
    from qingtu.settings import Settings

KINDS = {"new": "新增 new", "changed": "改变 changed", "withdrawn": "撤回 withdrawn"}
_BROKEN_OFF = 130


def replay(  # noqa: PLR0913, PLR0917 - typer's way: an option is a parameter
    name: Annotated[str | None, typer.Argument(help="Generation; the newest if none is given / 回放名称")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Received from, inclusive / 接收时间起")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Received to, exclusive / 接收时间止")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Tell what a promote would change / 显示差异")] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Publish it; the service must be stopped / 发布")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List generations / 列出回放")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Delete the generation named / 删除回放")] = False,
    limit: Annotated[int, typer.Option(min=0, help="List at most so many readings / 最多列出读数")] = 1000,
    file: SettingsFile = None,
    data: Data = None,
    catalogue: Catalogue = None,
    json: Json = False,
) -> None:
    """Run raw again through today's code and catalogue / 用当前代码与目录重放原始数据.

    With --from a generation is made beside the live store, which is not touched. --diff tells what a promote of it
    would change, --promote publishes it: changed values become corrections with cause replay. Ctrl-C at any moment
    leaves the live store as it was; of a promote into InfluxDB, it says whether it must be done again.
    """
    settings = settings_of(file, data, catalogue)
    if until is not None and since is None:
        raise typer.BadParameter("--to needs --from / 需要 --from")
    if (listed or drop) and (since is not None or diff or promote or (listed and drop)):
        raise typer.BadParameter("--list and --drop go with nothing else / --list 与 --drop 须单独使用")
    if listed:
        _list(settings, json=json)
    elif drop:
        _drop(settings, name)
    elif since is None and not diff and not promote:
        raise typer.BadParameter("give --from, --diff, --promote, --list or --drop / 缺少选项")
    else:
        made = None
        try:
            made = core.find(settings, name) if since is None else _make(settings, name, since, until)
            answer = _act(settings, made, limit, diff=diff, promote=promote)
        except KeyboardInterrupt:
            if made is not None and core.promote_begun(settings, made.name):
                words = (
                    "发布未完成, 服务在完成前不能启动 / the promote is not done, the service does not start before it "
                    f"is: qingtu replay {made.name} --promote"
                )
            else:
                words = "已中断, 现用数据未受影响 / broken off: the live store is as it was"
            err().print(words, soft_wrap=True)
            raise typer.Exit(_BROKEN_OFF) from None
        if json:
            print_json(answer)
        else:
            _tell(made, answer)


def _drop(settings: Settings, name: str | None) -> None:
    if name is None:
        raise typer.BadParameter("--drop needs the name of a generation / 需要名称")
    core.drop(settings, name)
    out().print(f"已删除 / dropped: {name}")


def _act(settings: Settings, made: Generation, limit: int, *, diff: bool, promote: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"generation": made.as_dict()}
    if diff:
        answer["diff"] = _diff(settings, made, limit)
    if promote:
        answer["promoted"] = _promote(settings, made, limit)
    return answer


def _promote(settings: Settings, made: Generation, limit: int) -> dict[str, Any]:
    waited = ""
    with bars(err()) as shown:
        task = shown.add_task("发布 promoting", total=None)

        def progress(done: int, total: int, waiting: str) -> None:
            nonlocal waited
            shown.update(task, completed=done, total=total)
            if waiting and waiting != waited:
                err().print(f"{waiting} …", soft_wrap=True)
            waited = waiting

        return replay_promote.promote(settings, made, who=getpass.getuser(), limit=limit, progress=progress)


def _tell(made: Generation, answer: Mapping[str, Any]) -> None:
    _say(made)
    for part in ("diff", "promoted"):
        if part in answer:
            _changes(answer[part])
    if "promoted" in answer:
        _published(made, answer["promoted"])


def _published(made: Generation, done: Mapping[str, Any]) -> None:
    if not done["swapped"]:
        out().print(f"未替换, 现用数据不变 / not swapped, the live store stays as it is: {made.name}", soft_wrap=True)
        return
    out().print(f"已发布 / promoted: {made.name}; 台账平衡 / the ledger balances", soft_wrap=True)
    if "before" in done:
        out().print(f"原有数据 / the store before: {done['before']}", soft_wrap=True)


def _make(settings: Settings, name: str | None, since: str, until: str | None) -> Generation:
    now_us = SystemClock().now_us()
    given = name or re.sub(r"[^0-9TZ]", "", iso(now_us // 1_000_000 * 1_000_000))
    today = load_catalogue(settings.catalogue)
    to_us = None if until is None else time_us(until)
    with bars(err()) as shown:
        task = shown.add_task("回放 replaying", total=None)
        return core.replay(
            settings, today, given, time_us(since), to_us, now_us=now_us,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip


def _diff(settings: Settings, made: Generation, limit: int) -> dict[str, Any]:
    client = running_service(settings.data) if settings.store.kind == "duckdb" else None
    if client is not None:
        err().print("服务运行中, 先请它做一份备份 / the service runs: it makes a back-up first", soft_wrap=True)
    found = replay_diff.diff(settings, made, client=client, now_us=SystemClock().now_us(), limit=limit)
    return found.as_dict()


def _list(settings: Settings, *, json: bool) -> None:
    found = core.generations(settings)
    begun = {g.name for g in found if core.promote_begun(settings, g.name)}
    if json:
        print_json([{**g.as_dict(), "promote_begun": g.name in begun} for g in found])
        return
    print_table(
        ("名称 name", "起 from", "止 to", "消息 messages", "目录 catalogue", "发布 promoted"),
        [
            (
                g.name, local_time(g.from_us), local_time(g.to_us), g.messages, g.catalogue,
                "未完成 not done" if g.name in begun else local_time(g.promoted_us),
            )
            for g in found
        ],
    )  # fmt: skip


def _say(made: Generation) -> None:
    span = f"{local_time(made.from_us)} … {local_time(made.to_us) or '最新 newest'}"
    out().print(
        f"回放 generation {made.name}: {span}, {made.messages:,} 条消息 messages, 目录 catalogue {made.catalogue}",
        soft_wrap=True,
    )
    if made.cold:
        out().print(
            f"注意: 此前的原始数据只有 {made.warm_us / HOUR:.1f} h / note: raw holds only {made.warm_us / HOUR:.1f} h "
            f"before it, {made.warm_wanted_us / HOUR:.0f} h were wanted: first readings of a series and repetitions "
            "may be judged otherwise",
            soft_wrap=True,
        )


def _changes(found: Mapping[str, Any]) -> None:
    if found["empty"]:
        out().print("没有差异 / nothing changes")
    columns = ("站点 station", "观测量 property", "通道 channel", *KINDS.values(), "原值 old", "新值 new")
    keys = ("station", "property", "channel", *KINDS, "old_value", "new_value")
    if found["by"]:
        print_table(columns, [[row[key] for key in keys] for row in found["by"]])
    messages, alerts = found["messages"], found["alerts"]
    out().print(
        f"小时值 figures {len(found['figures'])} · 事件 events {found['events']} · 离开隔离 left quarantine "
        f"{messages['left']} · 进入隔离 entered {messages['entered']} · 原因改变 stay {messages['stay']}",
        soft_wrap=True,
    )
    if alerts["only_live"] or alerts["only_replay"]:
        out().print(
            f"预警不改写 / alerts are not rewritten: 仅现有 only live {len(alerts['only_live'])}, "
            f"仅回放 only in the replay {len(alerts['only_replay'])} (--json)",
            soft_wrap=True,
        )
