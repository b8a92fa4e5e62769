"""``python -m deploy.native fetch | status | up``: real servers on this machine, without Docker.

``fetch`` brings what is missing into the user's cache, ``status`` says what is there, ``up`` starts all three, prints
the settings for Qingtu and runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.native import cache, influx, kafka, mosquitto
from deploy.native.influx import InfluxServer
from deploy.native.kafka import KafkaServer
from deploy.native.mosquitto import MosquittoServer
from deploy.native.process import port_is_free
from qingtu.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.native.process import Server

_KINDS: Final[tuple[type[Server], ...]] = (MosquittoServer, KafkaServer, InfluxServer)
_USUAL_PORTS: Final = {MosquittoServer: 1883, KafkaServer: 9092, InfluxServer: 8086}
_WATCH_S: Final = 1.0
_SETTINGS: Final = """\
[mqtt]
host = "{mqtt_host}"
port = {mqtt_port}

[bus]
kind = "kafka"

[kafka]
servers = ["{kafka}"]

[store]
kind = "influx"

[influx]
url = "{influx}"
org = "{org}"
token_file = "{token_file}"
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0, or 1 when something is missing or failed."""
    parser = argparse.ArgumentParser("python -m deploy.native", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="下载缺少的服务器 / bring what is missing into the cache")
    fetch.add_argument(
        "--no-build", action="store_true", help="不编译 InfluxDB / leave InfluxDB out when it would have to be built"
    )
    commands.add_parser("status", help="列出已有与缺少的 / list what is there and what is missing")
    up = commands.add_parser("up", help="启动全部服务器 / start all servers until Ctrl-C")
    up.add_argument(
        "--folder", type=Path, default=cache.home() / "services", help="数据目录 / for the servers' data (%(default)s)"
    )
    asked = parser.parse_args(arguments)
    # a pipe has no width: whoever reads it wants whole lines
    console = Console(stderr=True, highlight=False, markup=False, width=None if sys.stderr.isatty() else 400)
    try:
        if asked.command == "status":
            return _status(console)
        fetched = _fetch(console, build=not getattr(asked, "no_build", False))
        if asked.command == "fetch" or fetched:
            return fetched
        return _up(asked.folder, console)
    except StartError as error:
        console.print(str(error), soft_wrap=True)
        return 1


def _status(console: Console) -> int:
    """Print what is there. Return 1 when something is missing."""
    rows = [(kind.title, _where(kind), kind.available()) for kind in _KINDS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("服务器 server", "", "位置 where / 缺少 missing"):
        table.add_column(heading, overflow="fold")
    for title, where, missing in rows:
        table.add_row(title, "缺少 missing" if missing else "有 there", missing or where)
    console.print(table)
    return int(any(missing for _, _, missing in rows))


def _where(kind: type[Server]) -> str:
    if kind is KafkaServer:
        return f"{kafka.library()}  ({kafka.java()})"
    if kind is InfluxServer:
        return str(influx.place())
    return str(mosquitto.program())


def _fetch(console: Console, *, build: bool) -> int:
    """Fetch or build what is missing, as far as it can be had, and list it. Return 1 when something lacks."""
    for kind, title, bring in (
        (KafkaServer, f"下载 Kafka {kafka.VERSION} (43 MB) / fetching", _fetch_kafka),
        (InfluxServer, f"构建 InfluxDB {influx.VERSION}, 约 15 分钟 / building, about 15 minutes", influx.build),
    ):
        if kind.available() is None or (kind is InfluxServer and not build):
            continue
        try:
            _with_progress(console, title, bring)
        except StartError as error:
            # the others can still be had; the table says it again in one line
            console.print(str(error), soft_wrap=True)
    if InfluxServer.available() is None:
        influx.program()  # unpacks what lies beside the checkout, so that no test waits for it
    return _status(console)


def _fetch_kafka(say: Callable[[str], None]) -> None:
    kafka.fetch(lambda done, total, name: say(f"{done}/{total} {name}"))


def _with_progress(console: Console, title: str, bring: Callable[[Callable[[str], None]], None]) -> None:
    """Show the last line of what is going on; on a terminal only, elsewhere just that it began."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    if not console.is_terminal:
        console.print(title, soft_wrap=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(title)
        width = max(20, console.width - 20)
        bring(lambda text: progress.update(task, description=f"{title}  {text}"[:width]))


def _up(folder: Path, console: Console) -> int:
    """Start all three, print the settings, stay until Ctrl-C or SIGTERM, stop all. Return 1 when a server died."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    broker = MosquittoServer(folder / "mosquitto", port=_port(MosquittoServer))
    bus = KafkaServer(folder / "kafka", port=_port(KafkaServer))
    store = InfluxServer(folder / "influxdb", port=_port(InfluxServer))
    servers: tuple[Server, ...] = (broker, bus, store)
    with ExitStack() as stack:
        for server in servers:
            if over.is_set():
                return 0
            console.print(f"启动 / starting {server.title} …")
            stack.enter_context(server)
            console.print(f"  127.0.0.1:{server.port}  pid {server.pid}  {server.folder}", soft_wrap=True)
        console.print("青图设置, 写入 qingtu.toml / settings for qingtu.toml:\n")
        sys.stdout.write(
            _SETTINGS.format(
                mqtt_host=broker.host, mqtt_port=broker.port, kafka=bus.address, influx=store.url, org=store.org,
                token_file=store.token_file,
            )
        )  # fmt: skip
        sys.stdout.flush()
        console.print("\n然后 / then: qingtu setup && qingtu run    (Ctrl-C 停止全部 / stops all servers)")
        while not over.wait(_WATCH_S):
            if died := [server for server in servers if not server.running()]:
                names = ", ".join(f"{server.title} ({server.log})" for server in died)
                console.print(f"服务器意外退出 / ended by itself, see its log: {names}", soft_wrap=True)
                return 1
        console.print("正在停止 / stopping …")
    return 0


def _port(kind: type[Server]) -> int | None:
    """Return the port that everybody knows, so that settings stay the same from start to start; None when taken."""
    usual = _USUAL_PORTS[kind]
    return usual if port_is_free(usual) else None


if __name__ == "__main__":
    sys.exit(main())
