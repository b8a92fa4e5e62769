"""What figures cost beside the whole way: hours of 2,000 stations through derive, without indices and with them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from bench.catalogue import PROPERTIES, bench_catalogue
from ingest.core import GatewayCore
from ingest.raw import command_row, raw_frame, tick_row
from ingest.routes import RouteTable
from processors.aggregates import DERIVED
from processors.aggregates.derive import Derive
from processors.process import CONFIGURE, Process
from qingtu import records
from qingtu.clock import MINUTE, SECOND
from qingtu.records import FIGURES, PROCESSED
from qingtu.settings import Settings
from qingtu.store.duckdb import DuckStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from processors.aggregates.hooks import Derived
    from qingtu.records import Frame

_STATIONS: Final = 2000
_HOURS: Final = 2
_START_US: Final = 1_795_392_000_000_000
_COMMIT: Final = 10
_MEAN: Final = (35.0, 70.0, 9.0, 30.0, 60.0, 0.7, 12.0, 60.0)
_SPREAD: Final = (9.0, 9.0, 2.0, 5.0, 9.0, 0.1, 1.0, 3.0)


def _raw(settings: Settings, version: str) -> Iterator[bytes]:
    """Yield raw frames: what is configured, then each minute a message of each station, and a tick."""
    args = {"catalogue": version, "routes": {"native": "native"}, **settings.process.model_dump()}
    row = command_row(_START_US, CONFIGURE, "bench", args)
    yield raw_frame([row], gateway="", catalogue=version, clock_us=_START_US)
    core = GatewayCore(
        RouteTable(settings.routes), settings.mqtt, gateway="bench", partitions=1, key=b"bench", catalogue=version
    )
    core.connected(1, session_present=False)
    topics = [f"qt/bench/s{n:04d}/up".encode() for n in range(_STATIONS)]
    rng = np.random.default_rng(5)
    for minute in range(_HOURS * 60 + 2):
        now = _START_US + minute * MINUTE
        values = np.abs(np.round(rng.normal(_MEAN, _SPREAD, (_STATIONS, len(PROPERTIES))), 1)).tolist()
        bodies = [
            orjson.dumps({"time": now // 1000, "readings": dict(zip(PROPERTIES, v, strict=True))}) for v in values
        ]
        core.receive_many([(0x32, t, n + 1, None, b) for n, (t, b) in enumerate(zip(topics, bodies, strict=True))], now)
        flush = core.take(now + SECOND)
        assert flush is not None
        yield from flush.frames.values()
        core.flushed(flush)
        yield raw_frame([tick_row(now + 2 * SECOND, {})], gateway="", catalogue=version, clock_us=now + 2 * SECOND)


def _derived(frames: Sequence[Frame], hooks: Sequence[Derived]) -> tuple[float, int]:
    """Return CPU µs a message of making figures, and how many were made."""
    catalogue = bench_catalogue(_STATIONS)
    spent, made = 0.0, 0
    waiting: list[Frame] = []
    with tempfile.TemporaryDirectory() as folder:
        store = DuckStore(Path(folder) / "bench.duckdb")
        try:
            derive = Derive(store, lambda _: catalogue, 60, derived=hooks)
            for offset, frame in enumerate(frames):
                waiting.append(frame)
                if frame.header["ticks"]:
                    store.apply(PROCESSED, 0, waiting, offset + 1)
                    waiting = []
                before = time.process_time()
                out = derive.apply(frame, offset)
                spent += time.process_time() - before
                if FIGURES in out:
                    figures = records.decode(out[FIGURES])
                    made += figures.sections["figures"].num_rows
                    store.apply(FIGURES, 0, [figures], made)
        finally:
            store.close()
    return spent / (_STATIONS * _HOURS * 60) * 1e6, made


def figures() -> str:
    """Return a line: what aggregates cost a message of eight readings a minute, and what indices add to that."""
    settings, catalogue = Settings(), bench_catalogue(_STATIONS)
    process = Process(lambda _: catalogue)
    process.restore(None)
    frames = []
    for offset, raw in enumerate(_raw(settings, catalogue.version)):
        frames.append(records.decode(process.apply(records.decode(raw), offset)[PROCESSED]))
    plain, aggregates = _derived(frames, ())
    whole, made = _derived(frames, DERIVED)
    return (
        f"figures of {_HOURS} hours, one message a minute: aggregates {plain:.1f} us/message ({aggregates:,} of them), "
        f"indices {max(whole - plain, 0.0):.1f} ({made - aggregates:,}); apart from the whole way"
    )
