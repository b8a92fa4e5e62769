"""``qingtu simulate``: a simulated city against any broker."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import Annotated, Any

import typer

from qingtu.catalogue import load_catalogue, synthetic_catalogue
from qingtu.commands.host import StopSignals
from qingtu.commands.options import Catalogue, Json, SettingsFile, duration_s, settings_of
from qingtu.commands.output import err, out, print_json
from qingtu.commands.progress import bars
from qingtu.errors import StartError
from simulators.faults import parse_faults
from simulators.run import RATE_PROPERTIES, SimulateOptions
from simulators.run import simulate as run_simulation


def simulate(  # noqa: PLR0913, PLR0917 - one parameter an option of the command line
    file: SettingsFile = None,
    catalogue: Catalogue = None,
    stations: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="So many like stations instead / 改用若干相同测站")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes / 随机种子")] = 1,
    faults: Annotated[str, typer.Option(help="none, demo, all, or loss=0.01,late=0.1 / 故障及比率")] = "none",
    history: Annotated[str, typer.Option(help="Publish this past first, such as 24h / 先发布的历史")] = "0s",
    live: Annotated[bool, typer.Option("--live/--no-live", help="Go on in real time / 之后实时发布")] = True,
    for_time: Annotated[str | None, typer.Option("--for", help="End after, such as 60s / 实时时长")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Messages a second, over all devices / 每秒消息数")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Write the ground truth here / 真值文件")] = None,
    window: Annotated[int, typer.Option(min=1, max=65_535, help="Messages without PUBACK at most / 未确认上限")] = 1000,
    patience: Annotated[str, typer.Option(help="Wait so long for a PUBACK that is due / 等待确认的时长")] = "30s",
    host: Annotated[str | None, typer.Option(help="Broker (mqtt.host, else 127.0.0.1) / 代理地址")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Its port (mqtt.port) / 端口")] = None,
    version: Annotated[str, typer.Option(help="MQTT 5 or 3.1.1 / 协议版本")] = "5",
    client_id: Annotated[str, typer.Option(help="MQTT client id / 客户端标识")] = "qingtu-simulator",
    username: Annotated[str | None, typer.Option(help="User / 用户名")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password / 口令文件")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt / 加密")] = False,
    ca_file: Annotated[Path | None, typer.Option(help="Certificates to trust / 信任证书")] = None,
    cert_file: Annotated[Path | None, typer.Option(help="Own certificate / 自身证书")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its key / 私钥")] = None,
    json: Json = False,
) -> None:
    """Publish a simulated city to any broker / 发布模拟数据.

    Exit code 1 when the broker refused messages or nobody subscribes to their topics; 3 when it went away and messages
    were never acknowledged.
    """
    settings = settings_of(file, None, catalogue)
    if version not in ("5", "3.1.1"):
        raise typer.BadParameter(f"没有此 MQTT 版本 / no MQTT version {version!r} (allowed: 5, 3.1.1)")
    own = synthetic_catalogue(stations, RATE_PROPERTIES) if stations else load_catalogue(settings.catalogue)
    options = SimulateOptions(
        catalogue=own, seed=seed, faults=parse_faults(faults), history_h=duration_s(history) / 3600, live=live,
        for_s=None if for_time is None else duration_s(for_time), rate=rate, truth=truth, window=window,
        patience_s=duration_s(patience), client_id=client_id,
        host=host or settings.mqtt.host or "127.0.0.1", port=port or settings.mqtt.port,
        version="3.1.1" if version == "3.1.1" else "5", username=username, password=_password(password_file), tls=tls,
        ca_file=ca_file, cert_file=cert_file, key_file=key_file,
    )  # fmt: skip
    with StopSignals() as signals, bars(err()) as progress:
        summary = run_simulation(options, progress, stop=signals.event)
    if json:
        print_json(asdict(summary))
    else:
        _tell(asdict(summary))
    if summary.unacknowledged:
        raise StartError(
            f"{summary.unacknowledged:,} 条未确认, 代理无应答 / not acknowledged, and the broker at "
            f"{options.host}:{options.port} does not answer: it may have them or not; start it and run this again"
        )
    if summary.refused or summary.unheard:
        raise typer.Exit(1)


def _tell(summary: dict[str, Any]) -> None:
    totals = summary["totals"]
    say = out()
    say.print(
        f"发布 published {totals['published']:,} · 确认 acknowledged {totals['acknowledged']:,} · "
        f"重发 resent {totals['resent']:,} · {summary['seconds']:.1f} s"
    )
    if totals["by_fault"]:
        say.print("故障 faults: " + ", ".join(f"{name} {count}" for name, count in totals["by_fault"].items()))
    if summary["refused"]:
        say.print(f"代理拒收 / the broker refused {summary['refused']:,}: these are lost; check its access control")
    if summary["unheard"]:
        say.print(f"无人订阅 / nobody subscribes to the topics of {summary['unheard']:,}: start 'qingtu run' first")


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartError(f"文件无法读取 / --password-file {file} cannot be read: {error.strerror}") from error
