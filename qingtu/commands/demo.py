"""``qingtu demo``: everything at once, on made-up data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from qingtu.commands.host import StopSignals
from qingtu.commands.options import Json, duration_s
from qingtu.commands.output import err, ledger_table, out, print_json, print_table
from qingtu.commands.progress import bars
from qingtu.demo import DemoOptions, DemoResult, run_demo
from simulators.faults import parse_faults

_SHOWN = 20


class Broker(StrEnum):
    """Which broker to start."""

    auto = "auto"
    mosquitto = "mosquitto"
    iotcore = "iotcore"


def demo(
    for_time: Annotated[str | None, typer.Option("--for", help="End after, such as 60s / 运行时长")] = None,
    json: Json = False,
    seed: Annotated[int, typer.Option(help="Same seed, same city / 随机种子")] = 1,
    faults: Annotated[str, typer.Option(help="demo, none, all, or loss=0.01,late=0.1 / 故障及比率")] = "demo",
    history: Annotated[str, typer.Option(help="The past to load first / 先载入的历史")] = "24h",
    broker: Annotated[Broker, typer.Option(help="Embedded broker / 内置代理")] = Broker.auto,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Of the map; 0: any free / 地图端口")] = None,
) -> None:
    """Show everything with a simulated city / 演示.

    Broker, service, map and simulators run until Ctrl-C or for a while, in a temporary folder; nothing is left behind.
    With --json the only standard output is the ledger. Exit code 0 when it balances, nothing is in flight, and every
    injected fault had its expected outcome.
    """
    options = DemoOptions(
        seed=seed, faults=parse_faults(faults), history_h=duration_s(history) / 3600,
        for_s=None if for_time is None else duration_s(for_time), port=port, broker=broker.value,
    )  # fmt: skip
    with StopSignals() as signals, bars(err()) as progress:
        result = run_demo(options, lambda text: progress.console.print(text, soft_wrap=True), progress, signals)
    if json:
        print_json(result.to_json())
    else:
        _show(result)
    if not result.good:
        raise typer.Exit(1)


def _show(result: DemoResult) -> None:
    ledger_table(result.ledger)
    if result.injected:
        print_table(("注入的故障 injected faults", ""), list(result.injected.items()))
        out().print(
            f"结果与预期不符 / with an unexpected outcome: {len(result.differences)}"
            if result.differences
            else "每个故障的结果都符合预期 / every fault had its expected outcome"
        )
    for sentence in result.differences[:_SHOWN]:
        out().print(f"  {sentence}", soft_wrap=True)
