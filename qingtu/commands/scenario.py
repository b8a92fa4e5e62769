"""``qingtu scenario``: stories with a known end, played through the whole way; does of them come what must?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qingtu.commands.check import checked
from qingtu.commands.options import Catalogue, Json, SettingsFile, settings_of
from qingtu.commands.output import err, out, print_json, print_table
from qingtu.commands.progress import bars
from qingtu.errors import NotFound
from simulators.rehearsal import rehearse
from simulators.scenarios import SCENARIOS

if TYPE_CHECKING:
    from rich.progress import TaskID

    from simulators.rehearsal import Figured, Judgement, Raised, Verdict
    from simulators.scenarios import ExpectedFigure

_LEVELS: Final = ("", "蓝 blue", "黄 yellow", "橙 orange", "红 red")
_EXPECTED: Final = "预期 expected"
_MISSED: Final = "漏报 missed"
_FALSE: Final = "误报 false"
_VERDICTS: Final[dict[Verdict, str]] = {"expected": _EXPECTED, "missed": "缺失 missed", "wrong": "错误 wrong"}


def scenario(
    names: Annotated[list[str] | None, typer.Argument(help="Which; none lists them / 情景名称, 不写则列出")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them / 全部")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same readings / 随机种子")] = 1,
    file: SettingsFile = None,
    catalogue: Catalogue = None,
    json: Json = False,
) -> None:
    """Play stories with a known end and compare what comes of them with it / 情景演练.

    On a simulated clock, with your catalogue, limits and rules; nothing is connected or stored. Exit code 1 when an
    alert or flag was missed or false, or a figure is not as it must be.
    """
    chosen = list(SCENARIOS) if every else list(dict.fromkeys(names or ()))
    if unknown := [name for name in chosen if name not in SCENARIOS]:
        raise NotFound(f"没有此情景 / no scenario {', '.join(unknown)} (there are: {', '.join(SCENARIOS)})")
    if not chosen:
        _list(json=json)
        return
    settings = settings_of(file, None, catalogue)
    found = checked(settings)
    results: dict[str, Judgement] = {}
    with bars(err()) as shown:
        for name in chosen:
            task = shown.add_task(name, total=100)

            def played(share: float, task: TaskID = task) -> None:
                shown.update(task, completed=round(100 * share))

            try:
                results[name] = rehearse(SCENARIOS[name], found, settings, seed=seed, progress=played)
            except LookupError as error:
                raise NotFound(f"{name}: {error}") from error
    if json:
        print_json({name: {"right": one.right, **asdict(one)} for name, one in results.items()})
    else:
        for name, one in results.items():
            _show(name, one)
    if not all(one.right for one in results.values()):
        raise typer.Exit(1)


def _list(*, json: bool) -> None:
    if json:
        print_json([{"key": one.key, "zh": one.zh, "en": one.en} for one in SCENARIOS.values()])
        return
    print_table(("名称 name", "情景", "scenario"), [(one.key, one.zh, one.en) for one in SCENARIOS.values()])
    err().print("qingtu scenario NAME | --all")


def _show(name: str, one: Judgement) -> None:
    story = SCENARIOS[name]
    said = "符合 as it must be" if one.right else "不符 not as it must be"
    out().print(
        f"{name} · {story.zh} / {story.en}: {said} ({one.readings} readings, {one.flagged} flagged)", soft_wrap=True
    )
    rows: list[tuple[Any, ...]] = [
        (raised.rule, raised.station, _LEVELS[raised.level], f"{raised.opened_h:.1f}", _end(raised.ended_h),
         _became(raised, one))
        for raised in one.raised
    ]  # fmt: skip
    rows += [
        (wanted.rule, wanted.station, _LEVELS[wanted.level], f"{wanted.from_h:.1f}-{wanted.to_h:.1f}", "", _MISSED)
        for wanted in one.missed
    ]
    if rows:
        print_table(("规则 rule", "站点 station", "级别 level", "开始 opened, h", "结束 ended, h", ""), rows)
    _show_flags(one)
    _show_figures(one)


def _became(raised: Raised, one: Judgement) -> str:
    if raised in one.false:
        return _FALSE
    if raised.withdrawn:
        return "撤回 withdrawn"
    missed = any((wanted.rule, wanted.station) == (raised.rule, raised.station) for wanted in one.missed)
    return "不符 otherwise" if missed else _EXPECTED


def _show_flags(one: Judgement) -> None:
    rows: list[tuple[Any, ...]] = [
        (flag.check, flag.station, flag.property, flag.readings, f"{flag.first_h:.1f}-{flag.last_h:.1f}",
         _FALSE if flag in one.flags_false else _EXPECTED)
        for flag in one.flags
    ]  # fmt: skip
    rows += [
        (wanted.check, wanted.station, wanted.property, 0, f"{wanted.from_h:.1f}-{wanted.to_h:.1f}", _MISSED)
        for wanted in one.flags_missed
    ]
    if rows:
        print_table(("检查 check", "站点 station", "观测量 property", "读数 readings", "时段 hours", ""), rows)


def _show_figures(one: Judgement) -> None:
    rows = [
        (f"{figure.wanted.what} {figure.wanted.property}", figure.wanted.station, f"{figure.wanted.at_h:.1f}",
         _wanted(figure.wanted), _found(figure), _VERDICTS[figure.verdict])
        for figure in one.figures
    ]  # fmt: skip
    if rows:
        head = ("统计值 figure", "站点 station", "起始 start, h", "应为 must be", "结果 found", "")
        print_table(head, rows)


def _wanted(figure: ExpectedFigure) -> str:
    if not figure.holds:
        return "无效 not valid"
    low, high = ("" if bound is None else f"{bound:g}" for bound in (figure.low, figure.high))
    words = [f"{low}…{high}" if low or high else "", "" if figure.level is None else _level(figure.level)]
    return ", ".join(word for word in words if word) or "有效 valid"


def _found(figure: Figured) -> str:
    words = [
        "" if figure.value is None else f"{figure.value:.4g}",
        "" if figure.level is None else _level(figure.level),
    ]
    return ", ".join(word for word in (*words, figure.reason) if word)


def _level(number: int) -> str:
    return f"级别 level {number}"


def _end(hour: float | None) -> str:
    return "-" if hour is None else f"{hour:.1f}"
