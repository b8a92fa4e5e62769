"""``qingtu run``: the service in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from qingtu.app import Options
from qingtu.commands.check import checked
from qingtu.commands.host import Host, StopSignals
from qingtu.commands.options import Catalogue, Data, SettingsFile, settings_of
from qingtu.commands.output import err, ledger_line


def run(
    file: SettingsFile = None,
    data: Data = None,
    catalogue: Catalogue = None,
    keep_broker: Annotated[
        bool, typer.Option("--keep-broker", help="Leave the embedded broker running at the end / 结束时保留内置代理")
    ] = False,
) -> None:
    """Run the service with map and API until Ctrl-C / 运行服务."""
    settings = settings_of(file, data, catalogue)
    checked(settings)
    say = err()
    with StopSignals() as signals:
        host = Host(settings, Options(stop_broker=not keep_broker))
        with host:
            broker = host.service.broker
            if broker is not None:
                say.print(f"{broker.note_zh} / {broker.note_en} ({broker.host}:{broker.port})", soft_wrap=True)
            say.print(f"地图 map: {host.page}", soft_wrap=True)
            say.print("Ctrl-C 结束 / ends the service")
            signals.event.wait()
            say.print("正在结束 / stopping: 已收到的消息处理完毕后退出 / what was taken is finished first")
            ledger = host.stop()
        say.print(ledger_line(ledger), soft_wrap=True)
    if not ledger["balanced"]:
        raise typer.Exit(1)
