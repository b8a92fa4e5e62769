"""``qingtu rules try``: what changed alert rules would have done."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import Annotated, Any

import typer

from qingtu import rules_try
from qingtu.catalogue import load_catalogue
from qingtu.clock import SECOND, SystemClock
from qingtu.commands.options import Catalogue, Data, Json, SettingsFile, duration_s, local_time, settings_of
from qingtu.commands.output import err, out, print_json, print_table
from qingtu.commands.progress import bars
from qingtu.commands.questions import LEVELS

rules_app = typer.Typer(
    help="Alert rules; try runs changed ones over stored data / 预警规则试运行", no_args_is_help=True
)


@rules_app.callback()
def rules() -> None:
    """Alert rules / 预警规则."""


@rules_app.command("try")
def try_(
    changed: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML with rules / 规则文件")],
    since: Annotated[str, typer.Option("--since", help="So far back, such as 12h, 7d / 回溯时长")] = "7d",
    whole: Annotated[bool, typer.Option("--all", help="FILE has all rules, others are gone / 文件为全部规则")] = False,
    file: SettingsFile = None,
    data: Data = None,
    catalogue: Catalogue = None,
    json: Json = False,
) -> None:
    """Tell which alerts would appear, vanish or move under changed rules / 试运行规则, 显示预警的增减与变化.

    Rules of FILE take the place of those with the same id. Stored raw is run twice, under the rules as they are and
    under the changed ones; the live store is not touched, and the service may run.
    """
    settings = settings_of(file, data, catalogue)
    now, then = (
        load_catalogue(settings.catalogue),
        rules_try.changed_catalogue(settings.catalogue, changed, whole=whole),
    )
    from_us = SystemClock().now_us() - round(duration_s(since) * SECOND)
    with bars(err()) as shown:
        task = shown.add_task("试运行 trying", total=None)
        found = rules_try.try_rules(
            settings, now, then, from_us,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    if json:
        print_json(found.as_dict())
        return
    rows = [("新增 appears", *_row(alert)) for alert in found.appear]
    rows += [("消失 vanishes", *_row(alert)) for alert in found.vanish]
    rows += [line for was, will in found.move for line in (("现为 moves from", *_row(was)), ("变为 to", *_row(will)))]
    if rows:
        columns = ("", "规则 rule", "站点 station", "观测量 property", "级别 level", "起始 opened", "结束 ended")
        print_table(columns, rows)
    out().print(
        f"{local_time(found.from_us)} … {local_time(found.to_us)}: 新增 appear {len(found.appear)} · 消失 vanish "
        f"{len(found.vanish)} · 变化 move {len(found.move)} · 不变 same {found.same}",
        soft_wrap=True,
    )


def _row(alert: rules_try.Alert) -> tuple[Any, ...]:
    opened, ended = local_time(alert.opened_us), local_time(alert.ended_us)
    return alert.rule, alert.station, alert.property, LEVELS[alert.level], opened, ended
