"""An independent MQTT 3.1.1 publisher with QoS 1, for benches and kill tests: a raw socket, no code of ours, no paho.

It publishes ``--count`` messages of eight readings for ``--stations`` stations to ``qt/NETWORK/s0000/up`` …, keeps
at most ``--window`` without acknowledgement, connects again after a broken connection and sends what was not
acknowledged once more with the same bytes (and DUP set). Every PUBACK becomes a line ``station seq time_ms`` of
``--out``, in the order of the acknowledgements. The summary is one JSON object on standard output.

Message i belongs to station ``i % stations``, has ``seq = i // stations`` and the time ``start_ms + seq * step_ms``.
PM2.5 is ``round(35 + 10 * sin(2π * ((seq + 37 * station) % 1440) / 1440))``. With ``--episode-every E`` a station has
an episode whenever ``phase = (seq + station) % E`` is below ``--episode-length L``: it adds
``round(H * sin(π * (phase + 0.5) / L) ** 2)`` (``--episode-height H``), so a threshold is crossed up and down again at
known sequence numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import select
import socket
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_PUBLISH_QOS1, _PUBLISH_QOS1_DUP, _PUBACK = 0x32, 0x3A, 0x40
_BATCH, _CYCLE = 64, 1440


class Messages:
    """Makes message i of the run; everything but time, counter and episodes is prepared once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.stations: int = options.stations
        self.start_ms, self.step_ms = options.start_ms, options.step_ms
        self.every, self.length, self.height = options.episode_every, options.episode_length, options.episode_height
        names = [f"s{number:04d}" for number in range(self.stations)]
        topics = [f"qt/{options.network}/{name}/up".encode() for name in names]
        self.names = names
        self.heads = [len(topic).to_bytes(2, "big") + topic for topic in topics]
        waves = [math.sin(2 * math.pi * i / _CYCLE) for i in range(_CYCLE)]
        self.pm25 = [round(35 + 10 * w) for w in waves]
        self.tails = [
            b',"pm10":%d,"so2":%d,"no2":%d,"o3":%d,"co":%.1f,"air_temperature":%.1f,"relative_humidity":%d}}'
            % (round(70 + 15 * w), round(9 + 2 * w), round(30 + 8 * w), round(60 - 20 * w), 0.7 + 0.2 * w,
               12 + 4 * w, round(60 - 10 * w))
            for w in waves
        ]  # fmt: skip

    def packet(self, index: int, packet_id: int) -> bytes:
        """Return the PUBLISH packet of message ``index``."""
        seq, station = divmod(index, self.stations)
        wave = (seq + 37 * station) % _CYCLE
        pm25 = self.pm25[wave]
        if self.every:
            phase = (seq + station) % self.every
            if phase < self.length:
                pm25 += round(self.height * math.sin(math.pi * (phase + 0.5) / self.length) ** 2)
        body = b"%b%c%c" % (self.heads[station], packet_id >> 8, packet_id & 0xFF)
        body += b'{"time":%d,"seq":%d,"readings":{"pm25":%d' % (self.start_ms + seq * self.step_ms, seq, pm25)
        body += self.tails[wave]
        size = len(body)  # 128 … 16383, so its length takes two bytes
        return b"%c%c%c%b" % (_PUBLISH_QOS1, size & 0x7F | 0x80, size >> 7, body)

    def label(self, index: int) -> str:
        """Return the line of the acknowledgement file."""
        seq, station = divmod(index, self.stations)
        return f"{self.names[station]} {seq} {self.start_ms + seq * self.step_ms}\n"


class Publisher:
    """One connection after the other, until every message is acknowledged."""

    def __init__(self, options: argparse.Namespace, out: TextIO) -> None:
        self.options, self.out = options, out
        self.messages = Messages(options)
        self.unacked: dict[int, tuple[int, bytes]] = {}  # packet id → (message, packet), oldest first
        self.free = deque(range(1, min(options.window, 65535) + 1))
        self.next = self.acked = self.resent = self.connections = 0
        self.sock = socket.socket()
        self.outgoing = self.incoming = b""
        self.began = time.monotonic()

    def run(self) -> None:
        """Publish everything; raises TimeoutError when the broker stays away for ``--give-up-s``."""
        self._connect()
        self.began = time.monotonic()
        while self.acked < self.options.count:
            try:
                self._turn()
            except OSError:
                self._connect()
        self.sock.sendall(b"\xe0\x00")  # DISCONNECT
        self.sock.close()

    def _connect(self) -> None:
        deadline = time.monotonic() + self.options.give_up_s
        client = self.options.client_id.encode()
        # 3.1.1, session kept, keep-alive off: the socket tells when the broker is gone
        variable = b"\x00\x04MQTT\x04\x00\x00\x00" + len(client).to_bytes(2, "big") + client
        while True:
            self.sock.close()
            try:
                self.sock = socket.create_connection((self.options.host, self.options.port), timeout=5)
                self.sock.sendall(b"\x10" + bytes([len(variable)]) + variable)
                answer = self.sock.recv(4, socket.MSG_WAITALL)
                if len(answer) == 4 and answer[0] == 0x20 and answer[3] == 0:
                    break
                raise ConnectionError(f"the broker answered {answer.hex()}")
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no broker at {self.options.host}:{self.options.port}: {error}") from error
                time.sleep(0.1)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.connections += 1
        again = [bytes([_PUBLISH_QOS1_DUP]) + packet[1:] for _, packet in self.unacked.values()]
        self.resent += len(again)
        self.outgoing, self.incoming = b"".join(again), b""

    def _turn(self) -> None:
        if len(self.outgoing) < 65536:
            self._fill()
        pace = 0.002 if self.options.rate and self.next < self.options.count else 1.0
        readable, writable, _ = select.select([self.sock], [self.sock] if self.outgoing else [], [], pace)
        if readable:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._acknowledge(self.incoming + data)
        if writable:
            self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]

    def _fill(self) -> None:
        room = min(len(self.free), self.options.count - self.next, _BATCH)
        if self.options.rate:
            room = min(room, int((time.monotonic() - self.began) * self.options.rate) + 1 - self.next)
        packets = []
        for index in range(self.next, self.next + room):
            packet_id = self.free.popleft()
            packet = self.messages.packet(index, packet_id)
            self.unacked[packet_id] = (index, packet)
            packets.append(packet)
        self.next += len(packets)
        self.outgoing += b"".join(packets)

    def _acknowledge(self, data: bytes) -> None:
        whole = len(data) // 4 * 4  # a PUBACK of 3.1.1 always has four bytes, and nothing else comes
        lines = []
        for at in range(0, whole, 4):
            if data[at] != _PUBACK:
                raise ConnectionError(f"unexpected packet {data[at]:#x}")
            packet_id = data[at + 2] << 8 | data[at + 3]
            known = self.unacked.pop(packet_id, None)
            if known is None:
                continue  # it was acknowledged before and after the connection broke
            self.free.append(packet_id)
            lines.append(self.messages.label(known[0]))
        self.incoming = data[whole:]
        self.acked += len(lines)
        self.out.writelines(lines)


def main() -> None:
    """Read the command line, publish, print the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, kind, default in (
        ("host", str, "127.0.0.1"), ("port", int, 1883), ("client-id", str, "bench-publisher"),
        ("network", str, "bench"), ("stations", int, 100), ("count", int, 10_000), ("window", int, 1000),
        ("start-ms", int, time.time_ns() // 1_000_000), ("step-ms", int, 1000),
        ("episode-every", int, 0), ("episode-length", int, 60), ("episode-height", int, 140),
        ("give-up-s", float, 60.0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--rate", type=float, default=0.0, help="messages per second; 0: as fast as the broker takes")
    parser.add_argument("--out", type=Path, required=True, help="file for the acknowledged messages")
    options = parser.parse_args()
    cpu = time.process_time()
    with options.out.open("w", encoding="ascii") as out:
        publisher = Publisher(options, out)
        publisher.run()
    seconds = time.monotonic() - publisher.began
    summary = {
        "published": publisher.next, "acknowledged": publisher.acked, "resent": publisher.resent,
        "connections": publisher.connections, "seconds": round(seconds, 3),
        "per_s": round(publisher.acked / seconds, 1) if seconds else 0.0,
        "cpu_us_per_message": round((time.process_time() - cpu) / max(publisher.acked, 1) * 1e6, 2),
    }  # fmt: skip
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
