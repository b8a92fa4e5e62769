"""What each step costs: CPU per message of eight readings, on whole frames, in this process."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.catalogue import PROPERTIES, bench_catalogue
from ingest.core import GatewayCore
from ingest.decoders.native import decode as decode_native
from ingest.raw import command_row, raw_frame
from ingest.routes import RouteTable
from processors.deduplicate import Segments, fingerprints, sender
from processors.process import CONFIGURE, Process
from qingtu import records
from qingtu.clock import HOUR
from qingtu.records import ALERTS, PROCESSED, Frame
from qingtu.settings import Settings
from qingtu.store.duckdb import DuckStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.contracts import Outputs

_STATIONS, _FRAMES = 2000, 12
_START_US = 1_795_392_000_000_000


def _payloads(number: int) -> list[bytes]:
    rng = np.random.default_rng(number)
    values = np.round(rng.normal([35, 70, 9, 30, 60, 0.7, 12, 60], [9, 9, 2, 5, 9, 0.1, 1, 3], (_STATIONS, 8)), 1)
    at = _START_US // 1000 + number * 60_000
    return [
        json.dumps({"time": at, "seq": number, "readings": dict(zip(PROPERTIES, row, strict=True))}).encode()
        for row in np.abs(values).tolist()
    ]


def _cost(work: Callable[[int], Any]) -> float:
    """Return CPU µs per message of doing ``work`` once for each frame."""
    before = time.process_time()
    for number in range(_FRAMES):
        work(number)
    return (time.process_time() - before) / _FRAMES / _STATIONS * 1e6


def _raw(settings: Settings, version: str, payloads: list[list[bytes]]) -> tuple[list[bytes], float]:
    core = GatewayCore(
        RouteTable(settings.routes), settings.mqtt, gateway="bench", partitions=1, key=b"bench", catalogue=version
    )
    core.connected(1, session_present=False)
    topics = [f"qt/bench/s{i:04d}/up".encode() for i in range(_STATIONS)]
    frames: list[bytes] = []

    def receive(number: int) -> None:
        now = _START_US + number * 60_000_000
        ids = range(1, _STATIONS + 1)
        core.receive_many([(0x32, t, i, None, p) for t, i, p in zip(topics, ids, payloads[number], strict=True)], now)
        flush = core.take(now + 10_000_000)
        assert flush is not None
        frames.extend(flush.frames.values())
        core.flushed(flush)

    cost = _cost(receive)
    return frames, cost


def steps() -> Iterator[tuple[str, float]]:
    """Yield (step, CPU µs per message)."""
    settings, catalogue = Settings(), bench_catalogue(_STATIONS)
    payloads = [_payloads(number) for number in range(_FRAMES)]
    devices = [f"s{i:04d}" for i in range(_STATIONS)]
    raw, cost = _raw(settings, catalogue.version, payloads)
    yield "gateway core: route, row, raw frame", cost
    yield "raw frame decode", _cost(lambda n: records.decode(raw[n]).sections["rows"]["payload"].to_pylist())
    yield "native JSON decode", _cost(lambda n: decode_native(payloads[n], devices))
    senders, segments = [sender("bench", device) for device in devices], Segments(72 * HOUR, 10_000_000)

    def deduplicate(number: int) -> None:
        segments.decide(fingerprints(senders, payloads[number]), np.full(_STATIONS, _START_US))

    yield "duplicates: hash, look up, remember", _cost(deduplicate)
    process = Process(lambda _: catalogue)
    process.restore(None)
    config = {"catalogue": catalogue.version, "routes": {"native": "native"}, **settings.process.model_dump()}
    row = command_row(_START_US, CONFIGURE, "bench", config)
    first = raw_frame([row], gateway="", catalogue=catalogue.version, clock_us=_START_US)
    process.apply(records.decode(first), 0)
    decoded = [records.decode(frame) for frame in raw]
    made: list[Outputs] = []
    yield (
        "the whole pass: decode … quality, alerts, processed frame",
        _cost(lambda n: made.append(process.apply(decoded[n], n + 1))),
    )
    yield from _store(made)


def _store(made: list[Outputs]) -> Iterator[tuple[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        store = DuckStore(Path(folder) / "bench.duckdb")
        try:

            def apply(number: int) -> None:
                for stream in (PROCESSED, ALERTS):
                    if stream in made[number]:
                        frame: Frame = records.decode(made[number][stream])
                        store.apply(stream, 0, [frame], number + 1)

            yield "store: one DuckDB commit a frame", _cost(apply)
        finally:
            store.close()


def yardstick() -> float:
    """Return the CPU ms of a fixed Python loop: how fast this machine is just now."""
    before = time.process_time()
    total = 0
    for i in range(400_000):
        total += i & 7
    assert total > 0
    return (time.process_time() - before) * 1e3
