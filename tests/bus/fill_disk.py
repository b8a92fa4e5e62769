"""Run by test_sqlite.py in a process of its own: fills a disk under a bus, frees it, and checks what is there."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

from qingtu.bus.sqlite import SqliteBus
from qingtu.contracts import StateDelta
from qingtu.errors import RetryLater
from qingtu.records import PROCESSED, RAW

LIMIT = 3 * 1024 * 1024


def main(folder: Path, how: str) -> None:
    """Fill, check, free, check."""
    ballast = folder / "ballast"
    if how == "tmpfs":
        ballast.write_bytes(bytes(2 * 1024 * 1024))
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead of killing
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    bus = SqliteBus(folder / "bus", free_floor_bytes=0)
    kept: list[bytes] = []
    refused: list[bytes] = []
    for stream in (RAW, PROCESSED):
        sent = 0
        while True:
            batch = [stream.encode() + b"%d/%d" % (sent, k) + bytes(50_000) for k in range(4)]
            try:
                offsets = bus.append(stream, 0, batch).result(60)
            except RetryLater:
                refused = batch
                break
            assert offsets == list(range(sent, sent + 4))
            kept, sent = (kept if stream == RAW and sent else []) + batch, sent + 4
            assert sent < 1000, "the disk never filled"
        held = [record.data for record in bus.read(stream, 0, 0, 1000)]
        assert len(held) == sent == bus.end(stream, 0)
        assert not set(refused) & set(held)
        assert sent or stream == PROCESSED
        print(stream, "refused after", sent)
    free(ballast, how)
    (first,) = bus.append(PROCESSED, 0, [b"again"]).result(60)
    assert first == bus.end(PROCESSED, 0) - 1
    end = bus.end(RAW, 0)
    assert bus.append(RAW, 0, refused).result(60) == list(range(end, end + 4))
    bus.save_state("g", 0, StateDelta(7, {"part": bytes(1000)}))
    bus.close()
    bus = SqliteBus(folder / "bus", free_floor_bytes=0)
    found = [record.data for record in bus.read(RAW, 0, 0, 1000)]
    assert found[-4:] == refused
    assert [f.partition(b"\0")[0] for f in found[:-4]] == [b"raw%d/%d" % (n // 4 * 4, n % 4) for n in range(end)]
    state = bus.load_state("g", 0)
    assert state is not None
    assert state.next_offset == 7
    bus.close()
    print("healed")


def free(ballast: Path, how: str) -> None:
    """Make room."""
    if how == "tmpfs":
        ballast.unlink()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


main(Path(sys.argv[1]), sys.argv[2])
