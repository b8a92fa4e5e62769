"""A lane of the reader: one consumer, one thread, and windows of frames that it keeps filled."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.errors import OffsetOutOfRangeError  # type: ignore[import-untyped]

from qingtu.bus.kafka_client import KafkaError, told, topic
from qingtu.bus.kafka_log import consumer
from qingtu.contracts import Record
from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.bus.kafka_reader import Reader
    from qingtu.settings import KafkaSettings

AHEAD_BYTES: Final = 4 * 1024 * 1024
BEHIND_BYTES: Final = 2 * 1024 * 1024
_IDLE_S: Final = 60.0
_POLL_MS: Final = 100
_PAUSE_MS: Final = 20
"""kafka-python 3.0 sometimes sleeps so long behind a fetch that brought nothing, before it sends the next one. Its
default, 100 ms, is a flush of the gateway: a frame that came right then was late by a whole one.
"""
_ALL: Final = 1_000_000_000
"""Records of one poll: all that came. kafka-python 3.0 never fetches a partition again that was paused while its
records were half handed out and another had some meanwhile: what it parks is taken up only into a slot that stays full.
"""

Place = tuple[str, int]
"""Stream and partition."""


@dataclass(slots=True)
class Window:
    """Frames with offsets from ``low`` up to ``high``; those from ``front`` on were not read yet.

    Attributes:
        ahead: bytes of what was not read.
        behind: bytes of what was.
        used: when somebody last looked here, monotonic s.
        owed_until: until then it is kept for who asked for it, who has got nothing yet; monotonic s.
        seek: the consumer must be told to begin at ``high``.
    """

    low: int
    high: int
    front: int
    records: deque[Record] = field(default_factory=deque)
    ahead: int = 0
    behind: int = 0
    used: float = 0.0
    owed_until: float = 0.0
    seek: bool = True

    def add(self, record: Record) -> None:
        """Take up the next frame; what follows a gap follows directly, since offsets need not be dense."""
        self.records.append(record)
        self.high = record.offset + 1
        self.ahead += len(record.data)

    def take(self, start: int, limit: int, room: int) -> list[Record]:
        """Return frames from ``start`` on, of at most ``room`` bytes and one, and count them as read."""
        out: list[Record] = []
        for record in self.records:
            if record.offset >= start:
                if len(out) >= limit or room <= 0:
                    break
                out.append(record)
                room -= len(record.data)
            if record.offset >= self.front:  # what a reader leaves out will not be read: it must not fill the window
                self.front = record.offset + 1
                self.ahead -= len(record.data)
                self.behind += len(record.data)
        if out:
            self.owed_until = 0.0
        while self.behind > BEHIND_BYTES and self.records and self.records[0].offset < self.front:
            gone = self.records.popleft()
            self.behind -= len(gone.data)
            self.low = gone.offset + 1
        return out

    def move(self, start: int) -> None:
        """Begin anew at another offset."""
        self.low = self.high = self.front = start
        self.records.clear()
        self.ahead = self.behind = 0
        self.seek = True


class Lane:
    """One consumer and its windows, at most one for each partition. Everything but ``_run`` needs ``news`` held."""

    def __init__(self, reader: Reader, settings: KafkaSettings, number: int) -> None:
        self._reader = reader
        self._settings = settings
        self._number = number
        self.windows: dict[Place, Window] = {}
        self._changed = self._stop = self._asleep = False
        self.problem = ""
        self._log = structlog.get_logger("bus-kafka")
        self._paused: set[Place] = set()
        self._thread = threading.Thread(target=self._run, name=f"bus-kafka-reader-{number}", daemon=True)
        self._thread.start()

    def place(self, place: Place, start: int, now: float, owed_until: float) -> Window:
        """Make a window, or move the one that is there."""
        window = self.windows.get(place)
        if window is None:
            window = self.windows[place] = Window(start, start, start)
        else:
            window.move(start)
        window.used, window.owed_until = now, owed_until
        self._changed = True
        self._reader.news.notify_all()
        return window

    def resume(self) -> None:
        """Wake the thread when all its windows were full and one has room again."""
        if self._asleep and self._open():
            self._asleep = False
            self._reader.news.notify_all()

    def again(self, place: Place) -> None:
        """Ask anew for what should have come long ago, in case the client has forgotten the partition; news is held."""
        window = self.windows.get(place)
        if window is not None:
            window.seek = self._changed = True
            self._reader.news.notify_all()

    def has(self, stream: str) -> bool:
        """Return whether partitions of a stream are looked at."""
        return any(place[0] == stream for place in self.windows)

    def forget_idle(self, now: float) -> None:
        """Let go of what nobody reads."""
        for place in [p for p, window in self.windows.items() if now - window.used > _IDLE_S]:
            del self.windows[place]
            self._changed = True

    def close(self) -> None:
        """End the thread."""
        with self._reader.news:
            self._stop = True
            self._reader.news.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        client: Any = None
        while not self._stop:
            try:
                if client is None:
                    client = consumer(
                        self._settings, f"reader-{self._number}", fetch_max_wait_ms=_POLL_MS, max_poll_records=_ALL,
                        retry_backoff_ms=_PAUSE_MS,
                    )  # fmt: skip
                self._turn(client)
                self.problem = ""
            except OffsetOutOfRangeError as error:
                self._out_of_range(error)
            except (RetryLater, KafkaError) as error:
                self._fail(told(error))
            except Exception as error:  # noqa: BLE001 - a reader that died would leave everybody waiting for ever
                self._log.warning("reader_failed", next="it opens its connection anew", exc_info=True)
                self._fail(told(error))
                if client is not None:
                    client.close(autocommit=False, timeout_ms=1000)
                client = None
                with self._reader.news:
                    self._changed = True
                    for window in self.windows.values():
                        window.seek = True
        if client is not None:
            client.close(autocommit=False, timeout_ms=1000)

    def _fail(self, problem: str) -> None:
        self.problem = problem
        threading.Event().wait(0.5)

    def _turn(self, client: Any) -> None:
        """Wait until there is something to fetch, then fetch once."""
        news = self._reader.news
        with news:
            if not (self._stop or self._changed or self._open()):
                self._asleep = True
                news.wait_for(lambda: self._stop or self._changed or self._open(), 1.0)
                self._asleep = False
            if self._stop:
                return
            self._arrange(client)
            if not self._open():
                return
        found = client.poll(timeout_ms=_POLL_MS)
        with news:
            for tp, records in found.items():
                self._take((tp.topic.rpartition(".")[2], tp.partition), records)
            for place in self.windows:
                tp = self._tp(place)
                if client._subscription.is_assigned(tp):  # noqa: SLF001 - highwater() raises for what is not
                    self._reader.fetched(place, client.highwater(tp))
            news.notify_all()

    def _open(self) -> set[Place]:
        """Return what may be fetched: a full window opens again when half of it was read."""
        out = set()
        for place, window in self.windows.items():
            limit = AHEAD_BYTES // 2 if place in self._paused else AHEAD_BYTES
            if window.ahead < limit:
                out.add(place)
        return out

    def _arrange(self, client: Any) -> None:
        if self._changed:
            self._changed = False
            if {self._tp(place) for place in self.windows} != client.assignment():
                client.assign([self._tp(place) for place in self.windows])
                for window in self.windows.values():
                    window.seek = True
                self._paused.clear()
                client.resume(*client.paused())
            for place, window in self.windows.items():
                if window.seek:
                    client.seek(self._tp(place), window.high)
                    window.seek = False
        paused = self.windows.keys() - self._open()
        if resumed := (self._paused & self.windows.keys()) - paused:
            client.resume(*map(self._tp, resumed))
        if stopped := paused - self._paused:
            client.pause(*map(self._tp, stopped))
        self._paused = set(paused)

    def _take(self, place: Place, records: Sequence[Any]) -> None:
        window = self.windows.get(place)
        if window is None or window.seek:  # moved while the fetch was under way
            return
        for record in records:
            if record.offset >= window.high:
                window.add(Record(record.offset, record.value))
        self._reader.fetched(place, window.high)

    def _out_of_range(self, error: OffsetOutOfRangeError) -> None:
        """Move windows below the start to it; readers go on there, and those who count losses see the gap."""
        for tp, offset in error.args[0].items():
            place = (tp.topic.rpartition(".")[2], tp.partition)
            try:
                start = self._reader.out_of_range(place)
            except RetryLater as later:
                self._fail(str(later))
                return
            with self._reader.news:
                window = self.windows.get(place)
                if window is not None and window.high == offset:
                    window.move(max(start, offset) if offset <= self._reader.known_end(*place) else start)
                    self._changed = True
                self._reader.news.notify_all()
            if start <= offset:
                self._fail(f"{place[0]}/{place[1]} does not reach {offset}")

    def _tp(self, place: Place) -> Any:
        return TopicPartition(topic(self._settings, place[0]), place[1])
