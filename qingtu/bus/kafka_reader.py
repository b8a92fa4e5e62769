"""Reads frames ahead of their readers, so that ``read`` mostly finds them in memory.

A *window* is a run of frames of one partition: some that were read lately, and some that nobody read yet. Readers at
about the same place share one. A reader elsewhere (a stage that catches up, an explanation of last week) gets a window
in another *lane*; a lane is one consumer with one thread. Windows are bounded in bytes: a window that is full is not
fetched on until somebody reads, so a stage that stands still holds little memory and costs nothing.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from qingtu.bus.kafka_client import told, topic
from qingtu.bus.kafka_lane import Lane, Place, Window
from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.bus.kafka_log import Log
    from qingtu.contracts import Record
    from qingtu.settings import KafkaSettings

LANES: Final = 4
READ_BYTES: Final = 32 * 1024 * 1024
"""One ``read`` returns no more than this and one frame."""
_FRESH_S: Final = 1.0
_PATIENCE_S: Final = 10.0
_OWED_S: Final = 3.0
_LOOK_S: Final = 0.1


class Reader:
    """Reads, and knows where partitions begin and end.

    Args:
        settings: servers and log-in.
        partitions: of each stream.
        log: is asked for bounds that no fetch tells.
    """

    def __init__(self, settings: KafkaSettings, partitions: int, log: Log) -> None:
        self._settings = settings
        self._partitions = partitions
        self._asked = log
        self.news = threading.Condition()
        self._lanes: list[Lane] = []
        self._starts: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._refreshed: dict[str, float] = {}
        self._wanted: dict[str, float] = {}
        self._closed = threading.Event()
        self.problem = ""
        self._log = structlog.get_logger("bus-kafka")
        self._thread = threading.Thread(target=self._keep_fresh, name="bus-kafka-bounds", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------------- bounds

    def end(self, stream: str, partition: int) -> int:
        """Return the next offset; that of others' appends is at most about a second old, our own never."""
        self._ask(stream)
        return self._ends[stream, partition]

    def start(self, stream: str, partition: int) -> int:
        """Return the oldest offset held; what the servers expired is noticed after about a second."""
        self._ask(stream)
        return self._starts[stream, partition]

    def known_end(self, stream: str, partition: int) -> int:
        """Return an offset that the end is not below, without asking anybody."""
        return self._ends.get((stream, partition), 0)

    def appended(self, stream: str, partition: int, end: int) -> None:
        """Learn of frames that this process appended."""
        with self.news:
            self._raise_end((stream, partition), end)
            self.news.notify_all()

    def trimmed(self, stream: str, partition: int, start: int) -> None:
        """Learn that frames below ``start`` are gone."""
        with self.news:
            self._starts[stream, partition] = max(start, self._starts.get((stream, partition), 0))

    def _raise_end(self, place: Place, end: int) -> None:
        if end > self._ends.get(place, 0):
            self._ends[place] = end

    def _ask(self, stream: str) -> None:
        """Make sure that the bounds of a stream are known; afterwards a thread keeps them fresh while they are used."""
        self._wanted[stream] = time.monotonic()
        if stream not in self._refreshed:
            self._refresh(stream)

    def _refresh(self, stream: str) -> None:
        starts, ends = self._asked.bounds(topic(self._settings, stream), self._partitions)
        with self.news:
            for p in range(self._partitions):
                self._starts[stream, p] = max(starts[p], self._starts.get((stream, p), 0))
                self._ends[stream, p] = max(ends[p], self._ends.get((stream, p), 0))
            self._refreshed[stream] = time.monotonic()
            self.news.notify_all()

    def _keep_fresh(self) -> None:
        while not self._closed.wait(_FRESH_S):
            now = time.monotonic()
            try:
                for stream in [s for s, asked in self._wanted.items() if now - asked < 10 * _FRESH_S]:
                    self._refresh(stream)
                self.problem = ""
            except RetryLater as later:
                self.problem = str(later)
            except Exception as error:  # noqa: BLE001 - without this thread nobody would learn of new frames
                self.problem = told(error)
                self._log.warning("bounds_failed", next="asked again in a second", exc_info=True)
            with self.news:
                for lane in self._lanes:
                    lane.forget_idle(now)

    # ---------------------------------------------------------------------------------------------- reading

    def read(self, stream: str, partition: int, start: int, limit: int) -> list[Record]:
        """Return what stands from ``start`` up to the end as it is known now; see the contract.

        Raises:
            RetryLater: frames are there, but the servers do not give them.
        """
        end = self.end(stream, partition)
        start = max(start, self._starts[stream, partition])
        out: list[Record] = []
        room, deadline = READ_BYTES, time.monotonic() + _PATIENCE_S
        with self.news:
            while start < end and len(out) < limit and room > 0 and not self._closed.is_set():
                lane, window = self._window(stream, partition, start, owed=True)
                found = window.take(start, limit - len(out), room) if window else []
                if found and lane is not None:
                    lane.resume()
                    out += found
                    room -= sum(len(record.data) for record in found)
                    start = found[-1].offset + 1
                    deadline = time.monotonic() + _PATIENCE_S
                    continue
                if window is not None and window.low <= start and window.high >= end:  # a gap up to the end
                    break
                if time.monotonic() >= deadline:
                    if lane is not None:
                        lane.again((stream, partition))
                    if out:
                        break
                    reason = lane.problem if lane else "more readers than lanes"
                    why = reason or "无应答 / no answer"
                    raise RetryLater(f"Kafka 暂不给出 / Kafka does not give {stream}/{partition} from {start}: {why}")
                self.news.wait(_LOOK_S)
                start = max(start, self._starts[stream, partition])
            if not out and start >= end:
                self._window(stream, partition, start)  # keeps the tail coming
        return out

    def at_hand(self, stream: str, partition: int, start: int, limit: int) -> list[Record]:
        """Return what was fetched already of what stands from ``start`` on; asks and waits for nobody.

        Nothing as long as nobody has asked for the stream's bounds.
        """
        self._wanted[stream] = time.monotonic()
        with self.news:
            start = max(start, self._starts.get((stream, partition), 0))
            if start >= self._ends.get((stream, partition), 0):
                return []
            lane, window = self._window(stream, partition, start)
            found = window.take(start, limit, READ_BYTES) if window is not None else []
            if found and lane is not None:
                lane.resume()
            return found

    def wait(self, stream: str, seen: Sequence[int], timeout_s: float) -> None:
        """Sleep until an end differs from what was seen."""
        self._ask(stream)
        with self.news:
            if not any(lane.has(stream) for lane in self._lanes):
                for p in range(self._partitions):
                    self._window(stream, p, self._ends[stream, p])
            self.news.wait_for(
                lambda: self._closed.is_set() or any(self._ends[stream, p] != seen[p] for p in range(self._partitions)),
                timeout_s,
            )

    def _window(
        self, stream: str, partition: int, start: int, *, owed: bool = False
    ) -> tuple[Lane | None, Window | None]:
        """Return a window that ``start`` lies in, or take the one that was used longest ago; news is held.

        Neither when all are owed to others: who asked gets something before the window moves on, else readers that
        are more than the lanes would chase each other's windows away for ever.

        Args:
            stream: of the partition.
            partition: where to read.
            start: from which offset.
            owed: frames are known to be there, and are waited for.
        """
        place, now = (stream, partition), time.monotonic()
        free: list[tuple[float, Lane]] = []
        for lane in self._lanes:
            window = lane.windows.get(place)
            if window is not None and window.low <= start <= window.high:
                window.used = now
                return lane, window
            if window is None:
                free.append((0.0, lane))
            elif window.owed_until < now:
                free.append((window.used, lane))
        used, found = min(free, key=lambda one: one[0], default=(now, None))
        if used > now - _FRESH_S and len(self._lanes) < LANES:
            found = Lane(self, self._settings, len(self._lanes))
            self._lanes.append(found)
        if found is None or (used > now - _FRESH_S and not owed and used):
            return None, None
        return found, found.place(place, start, now, now + _OWED_S if owed else 0.0)

    def out_of_range(self, place: Place) -> int:
        """Find where a partition begins now, after a fetch below its start."""
        self._refresh(place[0])
        return self._starts[place]

    def fetched(self, place: Place, high: int | None) -> None:
        """Learn the end that a fetch told; news is held."""
        if high is not None:
            self._raise_end(place, high)

    def close(self) -> None:
        """End all threads and close all connections."""
        self._closed.set()
        with self.news:
            self.news.notify_all()
        for lane in self._lanes:
            lane.close()
        self._thread.join(10)
