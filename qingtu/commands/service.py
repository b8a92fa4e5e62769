"""``qingtu run``: the service in the foreground."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from qingtu import heartbeat
from qingtu.app import STAGES, Options, Service
from qingtu.commands.check import checked
from qingtu.commands.host import Host, StopSignals
from qingtu.commands.options import Catalogue, Data, SettingsFile, settings_of
from qingtu.commands.output import err, ledger_line
from qingtu.commands.reload import Reloads
from qingtu.store import token_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qingtu.settings import Settings

_LOG = structlog.get_logger("qingtu")
_ONE_PROCESS = frozenset(("store", "derive", "web"))
"""They share the store and the ledger's memory, which have one owner."""


def run(
    file: SettingsFile = None,
    data: Data = None,
    catalogue: Catalogue = None,
    keep_broker: Annotated[
        bool, typer.Option("--keep-broker", help="Leave the embedded broker running at the end / 结束时保留内置代理")
    ] = False,
    stages: Annotated[
        str, typer.Option(help="Parts that this process has; with Kafka they can be many processes / 本进程包含的阶段")
    ] = ",".join(STAGES),
) -> None:
    """Run the service with map and API until Ctrl-C / 运行服务."""
    settings = settings_of(file, data, catalogue)
    wanted = _stages(stages, settings)
    checked(settings)
    if "web" not in wanted:
        _run_parts(settings, Options(stages=wanted, own_broker=False))
        return
    say = err()
    with StopSignals() as signals:
        host = Host(settings, Options(stages=wanted, stop_broker=not keep_broker))
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


def _stages(text: str, settings: Settings) -> frozenset[str]:
    """Read ``--stages`` and refuse what cannot work."""
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := sorted(wanted - set(STAGES)):
        raise typer.BadParameter(f"{', '.join(unknown)}: 没有这个阶段 / no such stage (allowed: {', '.join(STAGES)})")
    if not wanted:
        raise typer.BadParameter(f"至少一个阶段 / at least one stage of {', '.join(STAGES)}")
    if wanted != frozenset(STAGES) and settings.bus.kind == "sqlite":
        raise typer.BadParameter(
            '多进程需要 Kafka / stages in several processes need Kafka: set bus.kind = "kafka" and run `qingtu setup`'
        )
    if wanted & _ONE_PROCESS and not wanted >= _ONE_PROCESS:
        raise typer.BadParameter("存储与台账只能属于一个进程 / the store has one owner: give store,derive,web together")
    return wanted


def _run_parts(settings: Settings, options: Options) -> None:
    """Run stages without page and API until Ctrl-C."""
    say = err()
    with StopSignals() as signals, _opened(settings, options) as service:
        reloads = Reloads(service)
        service.start()
        say.print(f"正在运行 / running: {', '.join(sorted(options.stages))}; Ctrl-C 结束 / ends it", soft_wrap=True)
        while not signals.event.wait(heartbeat.EVERY_S):
            reloads.look()
            try:
                heartbeat.beat(service, reloads.count, reloads.refused)
            except OSError as error:  # a full disk: the stages go on, and heal by themselves
                _LOG.warning("no_heartbeat", error=str(error), next="written again when there is space")
        say.print("正在结束 / stopping: 已收到的消息处理完毕后退出 / what was taken is finished first")
        service.stop()
        heartbeat.over(service)


@contextmanager
def _opened(settings: Settings, options: Options) -> Iterator[Service]:
    service = Service(settings, options)
    try:
        yield service
    finally:
        service.close()


def setup(
    file: SettingsFile = None,
    admin_token_file: Annotated[
        Path | None, typer.Option(help="InfluxDB token that may make buckets and tokens / 可建桶和令牌的令牌文件")
    ] = None,
) -> None:
    """Make topics, buckets and tokens on the servers / 准备服务器.

    Doing it again changes only what differs. Without --admin-token-file InfluxDB is only asked whether all is there.
    """
    settings = settings_of(file, None, None)
    say = err()
    done = []
    if settings.bus.kind == "kafka":
        from qingtu.bus.kafka_topics import setup as make_topics  # noqa: PLC0415 - loaded only where it is used

        done += make_topics(settings.kafka, settings.bus)
    if settings.store.kind == "influx":
        done += _influx(settings, admin_token_file)
    if (settings.bus.kind, settings.store.kind) == ("sqlite", "duckdb"):
        say.print(
            "没有要准备的服务器 / no servers are set: bus.kind is sqlite and store.kind is duckdb", soft_wrap=True
        )
        return
    for line in done:
        say.print(line, soft_wrap=True)
    say.print("服务器已就绪 / the servers are ready" + ("" if done else " (没有变化 / nothing to change)"))


def _influx(settings: Settings, admin_token_file: Path | None) -> list[str]:
    """Make buckets and tokens, or without an administrator's token ask whether they are there."""
    # loads requests to the server, which no embedded run needs
    from qingtu.store.influx.setup import setup as make_buckets  # noqa: PLC0415
    from qingtu.store.influx.store import InfluxStore  # noqa: PLC0415

    if admin_token_file is not None:
        return make_buckets(settings, token_of(admin_token_file, "--admin-token-file"))
    store = InfluxStore(settings.influx, token_of(settings.influx.token_file, "influx.token_file"))
    try:
        store.check()
    finally:
        store.close()
    return []
