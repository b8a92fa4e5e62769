"""``qingtu corrections``: which published figures changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qingtu.clock import SECOND, SystemClock
from qingtu.commands.host import reach
from qingtu.commands.options import Data, Json, SettingsFile, duration_s, local_time, settings_of, time_us
from qingtu.commands.output import out, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping


def corrections(
    station: Annotated[str | None, typer.Option("--station", help="Only of this station / 只列此站点")] = None,
    prop: Annotated[
        str | None, typer.Option("--property", help="Only of this observed property, such as pm25 / 只列此观测量")
    ] = None,
    what: Annotated[
        str | None, typer.Option("--what", help="Only this statistic, such as hour, day, day_ldn / 只列此统计量")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Changed since: 7d, or a time / 起始, 如 7d 或时刻")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many / 最多条数")] = 100,
    file: SettingsFile = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """List published figures that changed, newest first / 列出已发布后更正的统计值.

    From what to what, and because of which raw rows: their positions, as `qingtu explain` shows them.
    """
    asked: dict[str, Any] = {"station": station, "property": prop, "what": what, "limit": limit}
    if since is not None:
        asked["since_ms"] = _since_us(since) // 1000
    with reach(settings_of(file, data)) as client:
        given = {name: value for name, value in asked.items() if value is not None}
        found = client.get("/api/corrections", **given)["corrections"]
    if json:
        print_json(found)
        return
    rows = [
        (
            local_time(c["new"]["known_ms"] * 1000), c["station"], c["property"], c["what"],
            local_time(c["start_ms"] * 1000), _side(c["old"]), _side(c["new"]), _because(c),
        )
        for c in found
    ]  # fmt: skip
    print_table(
        (
            "更正于 changed",
            "站点 station",
            "观测量 property",
            "统计 what",
            "时段起 start",
            "原值 old",
            "现值 new",
            "原因 because of",
        ),
        rows,
    )
    out().print(f"{len(rows)} 条更正 corrections")


def _since_us(text: str) -> int:
    """Return a time that is given as such, or as how long ago."""
    if re.fullmatch(r"\d+(\.\d+)?\s*[smhd]?", text.strip()):
        return max(0, SystemClock().now_us() - round(duration_s(text) * SECOND))
    return time_us(text)


def _side(side: Mapping[str, Any]) -> str:
    value = "—" if side["value"] is None else f"{side['value']:.6g}"
    return f"{value} ({side['count']}/{side['expected']}{', ' + side['reason'] if side['reason'] else ''})"


def _because(correction: Mapping[str, Any]) -> str:
    shown = [cause["position"] for cause in correction["because"][:3]]
    more = correction["causes"] - len(shown)
    return " ".join(shown) + (f" +{more}" if more > 0 else "")
