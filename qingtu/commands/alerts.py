"""``qingtu alerts comment``, ``mute``, ``maintenance``, ``mutes``: what people say about alerts, in their names."""

from __future__ import annotations

from typing import Annotated

import typer

from qingtu.commands.host import reach
from qingtu.commands.options import Data, Json, SettingsFile, duration_s, local_time, settings_of
from qingtu.commands.output import out, print_json, print_table

For = Annotated[str, typer.Option("--for", help="From now, such as 30m, 8h, 2d; 0 ends it / 时长, 0 为结束")]
Note = Annotated[str, typer.Option("--note", help="Why / 原因")]


def comment(
    alert: Annotated[str, typer.Argument(help="Id of the alert / 预警编号")],
    note: Annotated[str, typer.Argument(help="What to write down / 备注")],
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Write a note to an alert / 为预警添加备注."""
    with reach(settings_of(file, data), acts=True) as client:
        client.post(f"/api/alerts/{alert}/comment", {"note": note})
    out().print(f"已备注 / noted: {alert}")


def mute(
    until: For,
    station: Annotated[str, typer.Option("--station", help="Of this station / 站点")] = "",
    district: Annotated[str, typer.Option("--district", help="Of this district, six digits / 行政区划")] = "",
    rule: Annotated[str, typer.Option("--rule", help="Of this rule / 规则")] = "",
    note: Note = "",
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Mute alerts until an end: they are recorded, but marked as muted / 静默预警, 仍会记录."""
    body = {"station": station, "district": district, "rule": rule, "for_s": duration_s(until), "note": note}
    with reach(settings_of(file, data), acts=True) as client:
        done = client.post("/api/alerts/mute", body)
    out().print(f"静默至 / muted until: {local_time(done['until_ms'] * 1000)}")


def maintenance(
    station: Annotated[str, typer.Argument(help="Id of the station / 站点编号")],
    until: For,
    note: Note = "",
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Tell that a station is worked on: no alert of it opens meanwhile / 站点维护, 期间不触发预警."""
    with reach(settings_of(file, data), acts=True) as client:
        body = {"station": station, "for_s": duration_s(until), "note": note}
        done = client.post("/api/alerts/maintenance", body)
    out().print(f"维护至 / under maintenance until: {local_time(done['until_ms'] * 1000)}")


def mutes(file: SettingsFile = None, data: Data = None, json: Json = False) -> None:
    """List mutes and maintenance in force, and maintenance that is planned / 列出静默与维护.

    With who, why and until when. What was ordered shows with the next tick, a few seconds later.
    """
    with reach(settings_of(file, data)) as client:
        found = client.get("/api/alerts/mutes")
    if json:
        print_json({"mutes": found["mutes"], "maintenance": found["maintenance"]})
        return
    rows = [
        ("静默 mute", " ".join(filter(None, (m["station"], m["district"], m["rule"]))), "", m["until_ms"], m["who"],
         m["note"])
        for m in found["mutes"]
    ]  # fmt: skip
    rows += [
        ("维护 maintenance", m["station"], local_time(m["from_ms"] * 1000), m["until_ms"], m["who"] or "目录 catalogue",
         m["note"])
        for m in found["maintenance"]
    ]  # fmt: skip
    print_table(
        ("", "范围 scope", "起 from", "止 until", "人 who", "原因 note"),
        [(kind, scope, begin, local_time(until * 1000), who, note) for kind, scope, begin, until, who, note in rows],
    )
