"""Promote: a generation is taken over into a copy of the live store, which is swapped in by one rename.

That is for DuckDB. An InfluxDB server is written to instead: :mod:`qingtu.replay_influx`.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from qingtu import replay
from qingtu.bus import open_bus
from qingtu.clock import SystemClock
from qingtu.errors import QingtuError
from qingtu.files import sync
from qingtu.folder import DataFolder
from qingtu.ledger import Ledger
from qingtu.records import position
from qingtu.replay_acts import act_frame, remember, say
from qingtu.replay_diff import LIVE, forget, take_over
from qingtu.replay_settle import settle
from qingtu.store.duckdb import DuckStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qingtu.clock import Clock
    from qingtu.contracts import Bus
    from qingtu.replay import Generation
    from qingtu.replay_settle import Settled
    from qingtu.settings import Settings

BEFORE: Final = "before.duckdb"
"""What the first promote of a generation replaced, in its folder; of the next one it is ``before-2.duckdb``."""


def _unseen(done: int, total: int, waiting: str) -> None:
    """Show no progress."""


def promote(
    settings: Settings, generation: Generation, *, who: str, clock: Clock | None = None, limit: int = 1000,
    progress: Callable[[int, int, str], None] = _unseen,
) -> dict[str, Any]:  # fmt: skip
    """Publish a generation. When nothing would change, as after a promote that is done again, nothing is written.

    Into DuckDB: the next store is built beside the live one, checked, and swapped in by one rename. Ended at any
    moment, it leaves the old store or the new one. Into InfluxDB what changes is kept first and written then; ended
    meanwhile, it must be done again, and processes with a store do not start before.

    Args:
        settings: name the data folder.
        generation: what to publish.
        who: the person, for raw.
        clock: for the time at which the change becomes known.
        limit: list at most so many readings.
        progress: is called with steps done and in all, and what is waited for; of InfluxDB.

    Returns:
        what changed, as :class:`Takeover` gives it; ``swapped``. When it was: ``revisions``, by partition in which
        something changed; ``before``, the file that holds the store that was replaced (of DuckDB); ``ledger``, whether
        it balances and agrees.

    Raises:
        StartError: the service runs, the disk is too full, or InfluxDB does not answer.
        QingtuError: the books of the new store would not be right, or the stages cannot finish what is on raw;
            the live store is as it was.
    """
    clock = clock or SystemClock()
    if settings.store.kind == "influx":
        from qingtu.replay_influx import promote as into_influx  # noqa: PLC0415 - loaded only where it is used

        return into_influx(settings, generation, who=who, clock=clock, limit=limit, progress=progress)
    folder = replay.folder_of(settings, generation.name)
    data = DataFolder(settings.data)  # refuses while the service runs
    try:
        live, copy = settings.data / LIVE, folder / "next.duckdb"
        replay.need_space(folder, 3 * live.stat().st_size)
        data.archive(replay.archived(folder))
        bus = open_bus(settings, ())
        try:
            settled = _copy_settled(settings, bus, live, copy, data, clock)
            now_us = clock.now_us()
            at = [position(end, 0) for end in settled.ends]  # of the rows below: nobody else appends
            found = take_over(settings, generation, copy, at, now_us, limit)
            if found.empty:
                forget(copy)
                remember(folder, generation, found.promoted_us)
                return {**found.as_dict(), "swapped": False}
            for partition in found.partitions:
                # Where nothing holds yet, what the generation said.
                config = settled.configs[partition] or generation.config
                frame = act_frame(config, generation.name, who, now_us)
                say(bus, partition, settled.ends[partition], frame)
            ledger = _checked(settings, bus, copy)
        finally:
            bus.close()
        before = _swap(live, copy, folder)
        remember(folder, generation, now_us)
    finally:
        data.close()
    revisions = {str(partition): str(at[partition]) for partition in found.partitions}
    return {**found.as_dict(), "swapped": True, "revisions": revisions, "before": str(before), "ledger": ledger}


def _copy_settled(settings: Settings, bus: Bus, live: Path, copy: Path, data: DataFolder, clock: Clock) -> Settled:
    """Copy the live store when it holds everything that is on raw."""
    store = DuckStore(live, settings.store.memory_limit, settings.store.threads)
    try:
        settled = settle(settings, bus, store, data, clock)
        forget(copy)
        store.backup(copy)
    finally:
        store.close()
    return settled


def _checked(settings: Settings, bus: Bus, copy: Path) -> dict[str, Any]:
    """Count the next store's rows against its books.

    Raises:
        QingtuError: they do not agree.
    """
    store = DuckStore(copy, settings.store.memory_limit, settings.store.threads)
    try:
        report = Ledger(bus, store).report()
        counted = {
            "readings": store.count("readings") + store.expired(),
            "quarantined": len(store.in_quarantine()) + store.rejected_expired(),
        }  # fmt: skip
    finally:
        store.close()
    booked = {"readings": report["readings"]["stored"], "quarantined": report["messages"]["quarantined"]}
    if not report["balanced"] or counted != booked:
        raise QingtuError(
            f"新台账不平, 未替换 / the books of the new store are not right (balanced: {report['balanced']}, counted "
            f"{json.dumps(counted)}, booked {json.dumps(booked)}); nothing was promoted: report this as a fault"
        )
    return {"balanced": True, "counted": counted, "booked": booked}


def _swap(live: Path, copy: Path, folder: Path) -> Path:
    """Put the copy in the place of the live store; the old file keeps a second name, which is returned.

    Raises:
        QingtuError: the live file or the copy is not whole: a write-ahead log stands beside it.
    """
    for path in (live, copy):
        log = path.with_name(f"{path.name}.wal")
        if log.exists():
            raise QingtuError(f"{log} 仍在 / is still there: start and stop the service once, then promote")
    sync(copy)
    before = _second_name(live, folder)
    copy.replace(live)
    sync(live.parent)
    sync(folder)
    return before


def _second_name(live: Path, folder: Path) -> Path:
    """Give the live file a second name that nothing has: what an earlier promote replaced stays.

    A promote that was killed between the two names left one that is the live file itself; it is taken.
    """
    number = 1
    while True:
        before = folder / (BEFORE if number == 1 else f"before-{number}.duckdb")
        try:
            os.link(live, before)
        except FileExistsError:
            if not before.samefile(live):
                number += 1
                continue
        return before
