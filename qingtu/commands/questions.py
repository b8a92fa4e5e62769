"""Commands that ask: ``status``, ``ledger``, ``stations``, ``explain``, ``alerts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qingtu import heartbeat
from qingtu.catalogue import load_catalogue
from qingtu.client import running_service
from qingtu.clock import SystemClock
from qingtu.commands.host import reach
from qingtu.commands.options import Catalogue, Data, Json, SettingsFile, local_time, settings_of, time_us
from qingtu.commands.output import err, ledger_line, ledger_table, out, print_json, print_table
from qingtu.commands.progress import waiting

if TYPE_CHECKING:
    from qingtu.client import Client

LEVELS = ("", "蓝 blue", "黄 yellow", "橙 orange", "红 red")
ALERT_STATES = {
    "open": "未确认 open",
    "acknowledged": "已确认 acked",
    "resolved": "已解除 resolved",
    "withdrawn": "已撤回 withdrawn",
}
STATES = {
    "ok": "正常 ok",
    "degraded": "降级 degraded",
    "starting": "启动中 starting",
    "not_running": "未运行 not running",
    "silent": "无响应 silent",
    "stopped": "已停止 stopped",
}

alerts_app = typer.Typer(help="Alerts, newest first; ack acknowledges one / 预警, ack 为确认", no_args_is_help=False)


def status(file: SettingsFile = None, data: Data = None, json: Json = False) -> None:
    """Say how the service is / 服务状态.

    Exit code 1 when it is degraded, or when no service runs.
    """
    settings = settings_of(file, data)
    running = running_service(settings.data) is not None
    if not running and (part := heartbeat.heard(settings.data, SystemClock().now_us())) is not None:
        _part(part, json=json)
        return
    with reach(settings) as client:
        found = client.get("/api/status")
    if not running:
        # What the opened files say of themselves is no word about a service: nothing is being taken.
        found["state"] = "not_running"
        found["rate_per_s"] = found["latency_p99_ms"] = None
    if json:
        print_json(found)
    else:
        out().print(f"状态 state: {STATES.get(found['state'], found['state'])} · {found['broker']['kind']}")
        for problem in found["problems"]:
            out().print(f"  {problem['zh']} / {problem['en']}", soft_wrap=True)
        rate, p99 = found.get("rate_per_s"), found.get("latency_p99_ms")
        rows = [("消息/秒 messages/s", rate), ("延迟 latency p99, ms", p99), ("目录 catalogue", found["catalogue"])]
        print_table(("", ""), [(name, value) for name, value in rows if value is not None])
        sums = dict(found["ledger"])
        out().print(ledger_line({"balanced": sums.pop("balanced"), "messages": sums}), soft_wrap=True)
    if found["state"] in ("degraded", "not_running"):
        raise typer.Exit(1)


def _part(part: dict[str, Any], *, json: bool) -> None:
    """Say how a process with some stages is; exit code 1 when not well."""
    if json:
        print_json(part)
    else:
        stages = ", ".join(part["stages"])
        state = STATES.get(part["state"], part["state"])
        out().print(f"状态 state: {state} · {stages} · {part['age_s']} s", soft_wrap=True)
        for problem in part["problems"]:
            out().print(f"  {problem['zh']} / {problem['en']}", soft_wrap=True)
    if part["state"] != "ok":
        raise typer.Exit(1)


def ledger(
    file: SettingsFile = None,
    data: Data = None,
    json: Json = False,
    audit: Annotated[bool, typer.Option("--audit", help="Recount everything from the rows / 逐行重新核算")] = False,
) -> None:
    """Show where every message ended / 台账.

    Exit code 1 when the sums do not balance, or a recount does not agree.
    """
    with reach(settings_of(file, data)) as client:
        report = _audited(client) if audit else None
        found = report["ledger"] if report is not None else client.get("/api/ledger")
    if json:
        print_json(report or found)
    else:
        ledger_table(found)
        if report is not None:
            rows = [(c["name"], c["counted"], c["booked"], c["agrees"]) for c in report["checks"]]
            print_table(("核对 audit", "重算 counted", "账面 booked", "一致 agrees"), rows)
    if not found["balanced"] or (report is not None and not report["agrees"]):
        raise typer.Exit(1)


def _audited(client: Client) -> Any:
    broken_off = "已中断, 未作更改 / broken off, nothing was changed"
    if client.stays:
        broken_off += "; 服务算完前不入库 / the service counts to the end, and stores nothing before"
    with waiting(err(), "重新核算 / recounting", broken_off):
        return client.post("/api/audit", {}, patient=True)


def stations(
    file: SettingsFile = None,
    catalogue: Catalogue = None,
    json: Json = False,
    geojson: Annotated[bool, typer.Option("--geojson", help="A GeoJSON FeatureCollection / 输出 GeoJSON")] = False,
) -> None:
    """List the stations of the catalogue / 列出站点."""
    found = load_catalogue(settings_of(file, None, catalogue).catalogue)
    rows: list[dict[str, Any]] = [
        {
            "id": s.id, "zh": s.zh, "en": s.en, "network": s.network, "domain": s.domain, "kind": s.kind,
            "district": s.district, "position": list(s.position), "devices": [d.id for d in s.devices],
        }
        for s in found.stations.values()
    ]  # fmt: skip
    if geojson:
        features = [
            {
                "type": "Feature",
                "id": row["id"],
                "geometry": {"type": "Point", "coordinates": row["position"]},
                "properties": {key: value for key, value in row.items() if key != "position"},
            }
            for row in rows
        ]
        print_json({"type": "FeatureCollection", "features": features})
    elif json:
        print_json(rows)
    else:
        columns = ("id", "zh", "en", "network", "kind", "district")
        print_table(columns, [[row[c] for c in columns] for row in rows])
        note = " · 演示目录, 站点为虚构 / demonstration: made-up stations" if found.demonstration else ""
        out().print(f"{len(rows)} 站 stations · 目录 catalogue {found.version}{note}")


def explain(
    station: Annotated[str, typer.Argument(help="Station id / 站点")],
    prop: Annotated[str, typer.Argument(metavar="PROPERTY", help="Observed property, such as pm25 / 观测量")],
    time: Annotated[str, typer.Argument(help="Time of the reading, RFC 3339 or China's time / 读数时间")],
    channel: Annotated[str, typer.Option("--channel", help="Channel / 通道")] = "main",
    file: SettingsFile = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show where a value comes from / 追溯数值来历.

    From raw bytes over decoder, mapping, conversion and checks to figures and alerts. Exit code 4 when there is no
    such reading.
    """
    at_ms = time_us(time) // 1000
    with reach(settings_of(file, data)) as client:
        found = client.get("/api/explain", station=station, property=prop, time_ms=at_ms, channel=channel)
    if json:
        print_json(found)
    else:
        for step in found["steps"]:
            out().print(f"{step['step']:<12}{step['zh']} / {step['en']}", soft_wrap=True)
        if not found["found"]:
            out().print(f"没有此读数 / no reading of {station}/{prop}/{channel} at {time}")
    if not found["found"]:
        raise typer.Exit(4)


def override(
    station: Annotated[str, typer.Argument(metavar="STATION", help="Station id / 站点编号")],
    prop: Annotated[str, typer.Argument(metavar="PROPERTY", help="Observed property, such as pm25 / 观测量")],
    time: Annotated[str, typer.Argument(help="Time of the reading, RFC 3339 or China's time / 读数时间")],
    flag: Annotated[int, typer.Option("--flag", min=1, max=4, help="1 pass, 2 none, 3 suspect, 4 fail / 质量标记")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with your name / 原因, 与姓名一并保存")],
    channel: Annotated[str, typer.Option("--channel", help="Channel / 通道")] = "main",
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Set the flag of one reading by hand, in the name of the token's person / 人工改标.

    Figures that the reading counts in are made again. A later override takes its place; explain shows all of them.
    """
    body = {
        "station": station, "property": prop, "channel": channel, "time_ms": time_us(time) // 1000, "flag": flag,
        "reason": reason,
    }  # fmt: skip
    with reach(settings_of(file, data), acts=True) as client:
        who = client.post("/api/override", body)["who"]
    out().print(f"已改标 / overridden by {who}: {station}/{prop}/{channel} {time} → {flag}")


@alerts_app.callback(invoke_without_command=True)
def alerts(
    context: typer.Context,
    file: SettingsFile = None,
    data: Data = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that ended / 包括已结束的")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many / 最多条数")] = 200,
    json: Json = False,
) -> None:
    """List alerts, the highest unacknowledged first / 列出预警, 未确认的最高级在前."""
    if context.invoked_subcommand is not None:
        return
    with reach(settings_of(file, data)) as client:
        found = client.get("/api/alerts", state="all" if everything else "active", limit=limit)["alerts"]
    if json:
        print_json(found)
        return
    # What belongs together shares a column, and wraps at its spaces: nine columns do not fit into 80 or 100 characters.
    rows = [
        (
            a["id"], " ".join((LEVELS[a["level"]], ALERT_STATES.get(a["state"], a["state"]), a["who"])), a["rule"],
            f"{_where(a)} {a['property'] or ''}", f"{_number(a['value'])}/{_number(a['limit'])}",
            local_time(a["opened_ms"] * 1000),
        )
        for a in found
    ]  # fmt: skip
    columns = (
        "id", "级别 level 状态 state 人 who", "规则 rule", "站点 station 观测量 property", "值/限值 value/ limit",
        "起始 opened",
    )  # fmt: skip
    print_table(columns, rows, whole=("id",))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _where(alert: dict[str, Any]) -> str:
    """Return the station, or what an alert without one is about."""
    evidence = alert["evidence"]
    about = evidence.get("network") or evidence.get("route", "")
    return alert["station"] or f"{about} ({len(evidence.get('stations', ()))})"


@alerts_app.command("ack")
def acknowledge(
    alert: Annotated[str, typer.Argument(help="Id of the alert / 预警编号")],
    note: Annotated[str, typer.Option("--note", help="What was found or done / 处置说明")] = "",
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Acknowledge an alert in the name of the token's person / 确认预警."""
    with reach(settings_of(file, data), acts=True) as client:
        client.post(f"/api/alerts/{alert}/acknowledge", {"note": note})
    out().print(f"已确认 / acknowledged: {alert}")
