"""What a killed mosquitto loses, and what its saves cost: prints the tables of docs/broker.md.

``python -m deploy.mosquitto.measure`` takes about eight minutes. Everything is real: mosquitto, the gateway, the
bus, and a publisher that notes which messages mosquitto acknowledged. Lost = acknowledged to the publisher, and not
on the bus after the broker came back and the gateway has drained its queue.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from deploy.native.mosquitto import MosquittoServer
from ingest.core import GatewayCore
from ingest.mqtt import MqttGateway
from ingest.routes import RouteTable
from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SystemClock
from qingtu.logs import set_up_logs
from qingtu.records import RAW, decode
from qingtu.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOPIC: Final = "qt/n/d/up"
BYTES: Final = 200
WAIT_S: Final = 120.0
_WINDOW: Final = 1000
_CONF: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {store}/
max_queued_messages 5000000
max_inflight_messages 0
log_dest none
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one kill.

    Attributes:
        acknowledged: messages for which the publisher had a PUBACK.
        lost: of them, not on the bus in the end.
        oldest_lost_s: how long before the kill the oldest lost one was acknowledged; 0 without loss.
        cpu_us: of the broker, a message, until the kill.
    """

    acknowledged: int
    lost: int
    oldest_lost_s: float
    cpu_us: float


def kill_test(folder: Path, lines: Sequence[str], *, away: bool, rate: float, seconds: float) -> Outcome:
    """Publish, kill the broker with SIGKILL in the middle of it, bring it back, and count.

    Args:
        folder: for everything; must not exist or be empty.
        lines: of mosquitto.conf, on saving.
        away: whether the gateway is disconnected, its session kept, while messages come.
        rate: messages a second.
        seconds: that messages come before the kill.
    """
    server = started(folder / "broker", lines)
    bus = SqliteBus(folder / "bus")
    gateway = Gateway(folder, bus, server.port)
    try:
        _until(gateway.hears, "the gateway hears")
        if away:
            gateway.stop()
            os.kill(_pid(server), signal.SIGUSR1)  # the session itself is saved: it was made long ago
            time.sleep(1.0)
        before = cpu_s(_pid(server))
        publisher = Publisher(server.port, rate)
        time.sleep(seconds)
        cpu = cpu_s(_pid(server)) - before
        server.kill()
        killed_s = time.monotonic()
        acked = publisher.end()
        server.start()
        if away:
            gateway = Gateway(folder, bus, server.port)
        _until(gateway.hears, "the gateway has drained what there is")
        there = payloads(bus)
    finally:
        gateway.stop()
        server.kill()
        bus.close()
    missing = {payload: at for payload, at in acked.items() if payload not in there}
    oldest = min(missing.values(), default=killed_s)
    return Outcome(len(acked), len(missing), killed_s - oldest, cpu / max(1, len(acked)) * 1e6)


def save_test(folder: Path, messages: int) -> tuple[float, float, float, float]:
    """Queue messages for a gateway that is away, and have the broker save.

    Returns:
        bytes of memory a message beside its payload, size of the file in MiB, longest round trip during the save in
        ms, and before it.
    """
    server = started(folder / "broker", ["autosave_interval 0"])
    bus = SqliteBus(folder / "bus")
    gateway = Gateway(folder, bus, server.port)
    try:
        _until(gateway.hears, "the gateway hears")
        gateway.stop()
        empty = _rss(_pid(server))
        publisher = Publisher(server.port, 1e9, most=messages)
        _until(lambda: len(publisher.acked) >= messages, f"{messages} messages are queued")
        each = (_rss(_pid(server)) - empty) / messages - BYTES
        publisher.end()
        quiet = _longest_round_trip(server.port, 1.0, lambda: None)
        busy = _longest_round_trip(server.port, 3.0, lambda: os.kill(_pid(server), signal.SIGUSR1))
        size = (server.data / "mosquitto.db").stat().st_size / 2**20
    finally:
        gateway.stop()
        server.kill()
        bus.close()
    return each, size, busy, quiet


class Gateway:
    """Our gateway on a bus."""

    def __init__(self, folder: Path, bus: SqliteBus, port: int) -> None:
        settings = Settings.model_validate({"data": folder, "mqtt": {"host": "127.0.0.1", "port": port}})
        core = GatewayCore(RouteTable(settings.routes), settings.mqtt, gateway="g", partitions=1, key=b"k" * 32)
        self._mqtt = MqttGateway(settings, core, bus, SystemClock())
        self._mqtt.start()

    def hears(self) -> bool:
        """Return whether it is connected and no backlog waits."""
        return bool(self._mqtt.hearing())

    def stop(self) -> None:
        """Disconnect; the session stays."""
        self._mqtt.stop(10)


class Publisher:
    """Publishes at a rate with QoS 1 and notes when which message was acknowledged.

    Attributes:
        acked: payload → monotonic seconds of its PUBACK.
    """

    def __init__(self, port: int, rate: float, most: int = sys.maxsize) -> None:
        self.acked: dict[bytes, float] = {}
        self._sent: deque[tuple[paho.MQTTMessageInfo, bytes]] = deque()
        self._ended = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, args=(rate, most), daemon=True)
        self._thread.start()

    def end(self) -> dict[bytes, float]:
        """Stop, and return what was acknowledged."""
        self._ended.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()
        self._note()
        return self.acked

    def _run(self, rate: float, most: int) -> None:
        begin, number = time.monotonic(), 0
        while not self._ended.is_set() and (number < most or self._sent):
            due = min(most, int((time.monotonic() - begin) * rate) + 1)
            while number < due and len(self._sent) < _WINDOW:
                payload = b"%d " % number + b"x" * (BYTES - len(b"%d " % number))
                info = self._client.publish(TOPIC, payload, 1)
                if info.rc:
                    return  # the broker is gone
                self._sent.append((info, payload))
                number += 1
            self._note()
            time.sleep(0.002)

    def _note(self) -> None:
        """Take what was acknowledged; mosquitto does that in order."""
        now = time.monotonic()
        while self._sent and self._sent[0][0].is_published():
            self.acked[self._sent.popleft()[1]] = now


def started(folder: Path, lines: Sequence[str]) -> MosquittoServer:
    """Start a mosquitto with these lines of configuration added."""
    folder.mkdir(parents=True)
    server = MosquittoServer(folder)
    config = folder / "measured.conf"
    text = _CONF.format(port=server.port, store=server.data) + "\n".join(lines) + "\n"
    config.write_text(text, encoding="utf-8")
    return MosquittoServer(folder, port=server.port, config=config).start()


def payloads(bus: SqliteBus) -> set[bytes]:
    """Return the payloads of all messages on raw."""
    out: set[bytes] = set()
    at = 0
    while records := bus.read(RAW, 0, at):
        for record in records:
            out.update(decode(record.data).sections["rows"].column("payload").to_pylist())
        at = records[-1].offset + 1
    return out


def cpu_s(pid: int) -> float:
    """Return seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _pid(server: MosquittoServer) -> int:
    if server.pid is None:
        raise RuntimeError("mosquitto does not run")
    return server.pid


def _longest_round_trip(port: int, seconds: float, act: Callable[[], None]) -> float:
    """Return the longest time from PUBLISH to PUBACK in ms, on a topic that nobody reads."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish("nobody", b"", 1).wait_for_publish(WAIT_S)
    longest = 0.0
    end = time.monotonic() + seconds
    act()
    while time.monotonic() < end:
        begin = time.monotonic()
        client.publish("nobody", b"", 1).wait_for_publish(WAIT_S)
        longest = max(longest, time.monotonic() - begin)
        time.sleep(0.002)
    client.disconnect()
    client.loop_stop()
    return longest * 1000


def _until(true: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {WAIT_S:.0f} s: {what}")
        time.sleep(0.02)


_SAVING: Final = (
    ("never (`autosave_interval 0`)", ["autosave_interval 0"]),
    ("15 s", ["autosave_interval 15"]),
    ("5 s", ["autosave_interval 5"]),
    ("1 s", ["autosave_interval 1"]),
    ("each 1,000 changes", ["autosave_on_changes true", "autosave_interval 1000"]),
    ("each 100 changes", ["autosave_on_changes true", "autosave_interval 100"]),
)


def main() -> None:
    """Print the tables."""
    set_up_logs(verbose=False, debug=False)
    rate, seconds = 1000.0, 20.0
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        print("| saves | gateway | acknowledged | lost | reaching back | broker CPU a message |")  # noqa: T201
        print("| --- | --- | --- | --- | --- | --- |")  # noqa: T201
        for number, (name, lines) in enumerate(_SAVING):
            for away in (False, True):
                if not away and number > 1:
                    continue  # what is delivered at once is not in the queue
                place = folder / f"{number}-{away}"
                got = kill_test(place, lines, away=away, rate=rate, seconds=seconds)
                print(  # noqa: T201
                    f"| {name} | {'away' if away else 'connected'} | {got.acknowledged:,} | {got.lost:,} | "
                    f"{got.oldest_lost_s:.1f} s | {got.cpu_us:.0f} µs |",
                    flush=True,
                )
        print("\n| queued | memory beside payload | file | longest PUBACK during a save | before |")  # noqa: T201
        print("| --- | --- | --- | --- | --- |")  # noqa: T201
        for messages in (20_000, 100_000, 300_000):
            each, size, busy, quiet = save_test(folder / f"save-{messages}", messages)
            print(  # noqa: T201
                f"| {messages:,} | {each:.0f} bytes | {size:.0f} MiB | {busy:.0f} ms | {quiet:.0f} ms |", flush=True
            )


if __name__ == "__main__":
    main()
