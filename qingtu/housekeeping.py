"""What is done once an hour: readings expire by age, and frames that nobody needs any more are forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qingtu.clock import DAY, HOUR
from qingtu.records import PROCESSED, RAW, decode_header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qingtu.clock import Clock
    from qingtu.contracts import Bus
    from qingtu.followers import Followers
    from qingtu.ledger import Ledger
    from qingtu.settings import Settings
    from qingtu.store.contract import PrimaryStore


class Housekeeping:
    """Belongs to the thread that alone writes to the store.

    Args:
        settings: how long things are kept.
        bus: is trimmed.
        store: forgets old readings.
        ledger: what came in must be counted and saved before it is forgotten.
        followers: sinks that may have to catch up.
        clock: the time.
        saved: (stream, partition) → offset up to which the stages that read it have saved their state.
        started_us: when the service started.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        store: PrimaryStore,
        ledger: Ledger,
        followers: Followers,
        clock: Clock,
        saved: Callable[[str, int], int],
        started_us: int,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._store = store
        self._ledger = ledger
        self._followers = followers
        self._clock = clock
        self._saved = saved
        self._started_us = started_us
        self._kept_us = 0

    def step(self, streams: Sequence[str]) -> None:
        """Keep house when an hour has passed since the last time; ``streams`` are those that the store applies."""
        now = self._clock.now_us()
        if 0 <= now - self._kept_us < HOUR:
            return
        kept = self._settings.store
        self._store.expire(now - kept.keep_days * DAY, now - kept.rejected_keep_days * DAY)
        # What is trimmed is lost: it must be committed by the store, and in what every reader has saved.
        counted = self._ledger.save()
        for partition in range(self._bus.partitions):
            applied = self._store.progress(PROCESSED, partition)
            done = min(applied.origin, self._saved(RAW, partition), counted[partition])
            self._trim(RAW, partition, done, now - self._settings.bus.raw_keep_h * HOUR)
            for stream in streams:
                self._derived(stream, partition, now)
        self._kept_us = now  # only now: what could not be done is tried again

    def _derived(self, stream: str, partition: int, now: int) -> None:
        done = self._store.progress(stream, partition).next_offset
        if stream == PROCESSED:
            done = min(done, self._saved(PROCESSED, partition))
        taken = self._followers.taken(stream, partition)
        if taken is not None and 0 <= now - self._started_us < HOUR:
            # What aged while nothing ran is not the sinks' fault: they get an hour to catch up. After that age
            # alone decides, or a sink that refuses would fill the disk.
            done = min(done, taken)
        self._trim(stream, partition, done, now - self._settings.bus.derived_keep_h * HOUR)

    def _trim(self, stream: str, partition: int, done: int, before_us: int) -> None:
        """Forget frames that are done with and older than ``before_us``."""
        at = first = self._bus.start(stream, partition)
        while at < done and (found := self._bus.read(stream, partition, at, 64)):
            young = [r.offset for r in found if r.offset >= done or decode_header(r.data)["clock"] >= before_us]
            at = young[0] if young else found[-1].offset + 1
            if young:
                break
        if at > first:
            self._bus.trim(stream, partition, at)
