"""``qingtu broker-config``: what a mosquitto of the city's own needs, from catalogue and settings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qingtu.broker import certificates
from qingtu.broker.acl import COMMANDS, GATEWAY, Account, account_of, accounts
from qingtu.broker.config import PORT, BrokerOptions, queue_for
from qingtu.broker.folder import CREDENTIALS, apply, plan
from qingtu.broker.here import account, file_notes, store_notes
from qingtu.budget import declared_load
from qingtu.catalogue import load_catalogue
from qingtu.commands.options import Catalogue, SettingsFile, duration_s, settings_of
from qingtu.commands.output import out
from qingtu.errors import ConfigError, Problem
from qingtu.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.broker.folder import Plan
    from qingtu.settings import Settings

_MIB: Final = 1024 * 1024


def broker_config(  # noqa: PLR0913, PLR0917 - one parameter an option of the command line
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the files / 输出目录")],
    file: SettingsFile = None,
    catalogue: Catalogue = None,
    gateway: Annotated[
        list[Path] | None, typer.Option(help="Settings of a further gateway / 其他网关的设置文件")
    ] = None,
    bridge: Annotated[
        list[str] | None, typer.Option(help="Route with one account for all its devices / 由网桥代发的路由")
    ] = None,
    commander: Annotated[
        list[str] | None, typer.Option(help="Account that may send commands / 可下发指令的账号")
    ] = None,
    commands: Annotated[str, typer.Option(help="Topic of a device's commands / 设备指令主题")] = COMMANDS,
    rotate: Annotated[list[str] | None, typer.Option(help="Account to get a new password / 更换口令的账号")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what differs / 仅报告差异")] = False,
    self_signed: Annotated[
        list[str] | None, typer.Option(help="Make a trial certificate for this name / 为该主机名制作试用证书")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="The folder as the broker sees it / 代理所见目录")] = None,
    store: Annotated[str, typer.Option(help="Folder for its sessions / 会话目录")] = "/var/lib/mosquitto",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="TLS port / TLS 端口")] = PORT,
    away: Annotated[str, typer.Option(help="A gateway may be away so long / 网关可离线时长")] = "48h",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Messages a second (the catalogue's) / 每秒消息数")
    ] = None,
    message_bytes: Annotated[int, typer.Option(min=1, help="Of a mean payload / 平均负载字节数")] = 300,
    memory_mb: Annotated[int, typer.Option(min=1, help="The broker may queue so much / 排队内存上限")] = 1024,
    autosave_s: Annotated[int, typer.Option(min=1, help="Seconds between saves / 保存间隔秒数")] = 15,
) -> None:
    """Write mosquitto's configuration and passwords / 生成 mosquitto 配置.

    Run it again after every change of catalogue or settings, then tell mosquitto to read it (SIGHUP): passwords that
    exist are kept, devices that are gone lose theirs. Exit code 1 when --check finds a difference.
    """
    settings = settings_of(file, None, catalogue)
    others = [load_settings(one) for one in gateway or ()]
    made_for = load_catalogue(settings.catalogue)
    made = accounts(made_for, settings, others, bridges=bridge or (), commanders=commander or (), commands=commands)
    per_s = rate if rate is not None else declared_load(made_for).messages_per_s
    options = BrokerOptions(
        folder=PurePosixPath(_plain(at or str(out_folder.resolve()), "--at")),
        store=PurePosixPath(_plain(store, "--store")),
        queue=queue_for(per_s, message_bytes, duration_s(away), memory_mb * _MIB),
        port=port,
        session_h=max(one.mqtt.session_expiry_h for one in (settings, *others)),
        autosave_s=autosave_s,
    )
    gateways = {
        account_of(one): one.mqtt.password_file or out_folder / f"{account_of(one)}.password"
        for one in (settings, *others)
    }
    planned = plan(out_folder, made, options, gateway_files=gateways, rotate=rotate or ())
    names = self_signed or []
    if check:
        _say_here(out_folder, store, at)
        _check(planned, certificates.lacking(out_folder, names))
        return
    written = apply(planned, out_folder)
    if names:
        written += certificates.make(out_folder, names)
    _say(planned, written, made, certificates.lacking(out_folder, names))
    _say_settings(settings, options, gateways, out_folder, names=names)
    _say_queue(options, per_s, message_bytes, duration_s(away))
    _say_here(out_folder, store, at)


def _plain(folder: str, option: str) -> str:
    """Return a folder's name that mosquitto.conf can hold: it knows no quotes."""
    if not folder.startswith("/") or any(sign.isspace() or not sign.isprintable() for sign in folder):
        raise ConfigError(
            [Problem("command line", 0, option, repr(folder)[:80], "must begin with / and hold no spaces or line ends")]
        )
    return folder


def _check(planned: Plan, lacking: Sequence[str]) -> None:
    lines = [f"{name}: 不同或缺失 / differs or is absent" for name in planned.changed]
    lines += [f"{user}: 尚无口令 / has no password yet" for user in planned.new]
    lines += [f"{user}: 口令文件与代理不一致 / its file says another password" for user in planned.mended]
    lines += [f"{user}: 将换口令 / would get another password" for user in planned.rotated]
    lines += [f"{user}: 已不在目录中 / is no longer in the catalogue" for user in planned.removed]
    lines += list(lacking)
    for line in lines or ["没有差异 / no difference"]:
        out().print(line, soft_wrap=True)
    if lines:
        raise typer.Exit(1)


def _say(planned: Plan, written: Sequence[str], made: Sequence[Account], lacking: Sequence[str]) -> None:
    kinds = Counter(account.kind for account in made)
    out().print(
        f"账号 / accounts: {', '.join(f'{kind} {count}' for kind, count in kinds.items())}; "
        f"新增 new {len(planned.new)}, 更换 rotated {len(planned.rotated) + len(planned.mended)}, "
        f"移除 removed {len(planned.removed)}",
        soft_wrap=True,
    )
    for user in planned.removed:
        out().print(f"  移除 / removed: {user}", soft_wrap=True)
    out().print(f"写入 / written: {', '.join(written) or '无 / nothing'}", soft_wrap=True)
    if CREDENTIALS in written:
        out().print(
            f"{CREDENTIALS} 含明文口令, 分发后请移走 / holds passwords in clear text: hand them out, then take it away",
            soft_wrap=True,
        )
    for line in lacking:
        out().print(f"还缺 / still needed: {line}", soft_wrap=True)
    if lacking:
        out().print(
            "请放入自有证书, 或用 --self-signed 主机名 制作试用证书 / put your certificate and key there, or make some "
            "for a trial with --self-signed NAME",
            soft_wrap=True,
        )


def _say_settings(
    settings: Settings, options: BrokerOptions, gateways: dict[str, Path], folder: Path, *, names: Sequence[str]
) -> None:
    user = settings.mqtt.username or GATEWAY
    out().print("网关设置 / settings of the gateway:\n  [mqtt]")
    host = names[0] if names else "HOST"
    lines = [f'host = "{host}"', f"port = {options.port}", "tls = true"]
    if (folder / certificates.CA).is_file():
        lines.append(f'ca_file = "{(folder / certificates.CA).resolve()}"')
    lines += [
        f'username = "{user}"',
        f'password_file = "{gateways[user].resolve()}"',
        f"queue_messages = {options.queue.messages}",
        f"queue_bytes = {options.queue.payload_bytes}",
    ]
    for line in lines:
        out().print(f"  {line}", soft_wrap=True)


def _say_here(folder: Path, store: str, at: str | None) -> None:
    """Say what a mosquitto on this machine would fail at; one that --at puts elsewhere cannot be looked at."""
    if at is not None:
        return
    who = account()
    for note in [*store_notes(Path(store), who), *file_notes(folder.resolve(), who)]:
        out().print(f"注意 / note: {note}", soft_wrap=True)


def _say_queue(options: BrokerOptions, per_s: float, message_bytes: int, away_s: float) -> None:
    holds_h = options.queue.holds(message_bytes) / per_s / 3600 if per_s else float("inf")
    line = (
        f"队列 / queue: {options.queue.messages:,} 条 messages; {per_s:.4g}/s → {holds_h:.1f} h"
        f" (网关会话 session {options.session_h} h)"
    )
    out().print(line, soft_wrap=True)
    if holds_h * 3600 < away_s:
        out().print(
            f"注意: 少于要求的 {away_s / 3600:.1f} h, 请增加 --memory-mb / note: less than the {away_s / 3600:.1f} h "
            "asked for: give the broker more memory with --memory-mb",
            soft_wrap=True,
        )
