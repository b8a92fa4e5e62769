"""Diff: a generation is taken over into a copy of the live store, which is thrown away.

Of a DuckDB store the whole file is copied; of an InfluxDB server, what the generation can touch, into a DuckDB file.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import duckdb

from qingtu import replay
from qingtu.clock import DAY, HOUR
from qingtu.errors import QingtuError
from qingtu.folder import DataFolder
from qingtu.records import position
from qingtu.replay_raw import open_raw
from qingtu.replay_takeover import NextStore
from qingtu.store.duckdb import DuckStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qingtu.client import Client
    from qingtu.replay import Generation
    from qingtu.replay_takeover import Takeover
    from qingtu.settings import Settings

LIVE: Final = "qingtu.duckdb"
"""Name of the database file, of the live store and of a generation."""
_TIMES: Final = "SELECT epoch_us(min(time)), epoch_us(max(time)) FROM readings WHERE revision >= ? AND revision < ?"


def diff(
    settings: Settings, generation: Generation, *, client: Client | None, now_us: int, limit: int = 1000
) -> Takeover:
    """Say what a promote would change now. Nothing live is touched.

    Args:
        settings: name the data folder.
        generation: what would be promoted.
        client: of the service when it runs: it makes a back-up, since no second process can open a DuckDB file. An
            InfluxDB server is asked beside it.
        now_us: now, µs UTC.
        limit: list at most so many readings.

    Raises:
        StartError: the disk is too full for a copy, or the folder is in use.
        RetryLater: InfluxDB does not answer now.
    """
    folder = replay.folder_of(settings, generation.name)
    with _copied(settings, generation, folder / "diff.duckdb", client) as copy:
        raw = open_raw(settings)
        try:
            at = [position(raw.bounds(partition)[1], 0) for partition in range(raw.partitions)]
        finally:
            raw.close()
        return take_over(settings, generation, copy, at, now_us, limit)


@contextmanager
def _copied(settings: Settings, generation: Generation, copy: Path, client: Client | None) -> Iterator[Path]:
    """Give a copy of the live store for as long as the context lasts."""
    if settings.store.kind == "influx":
        with drawn(settings, generation, copy):
            yield copy
        return
    forget(copy)
    try:
        _copy(settings, copy, client)
        yield copy
    finally:
        forget(copy)


@contextmanager
def drawn(settings: Settings, generation: Generation, copy: Path) -> Iterator[Path]:
    """Give a picture of what InfluxDB holds that the generation can touch, for as long as the context lasts.

    Raises:
        StartError: a promote has begun and is not done.
        RetryLater: the server does not answer now.
    """
    forget(copy)
    try:
        _draw(settings, generation, copy)
        yield copy
    finally:
        forget(copy)


def _copy(settings: Settings, copy: Path, client: Client | None) -> None:
    live = settings.data / LIVE
    # A back-up of the service holds the bus, too, where that is a file.
    bus = sum(path.stat().st_size for path in (settings.data / "bus").glob("*")) if client is not None else 0
    replay.need_space(copy.parent, 2 * live.stat().st_size + bus)
    if client is not None:
        answer = client.post("/api/backup", {"name": f"replay-{copy.parent.name}"}, patient=True)
        made = settings.data / "backups" / answer["name"]
        try:
            shutil.move(made / LIVE, copy)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    data = DataFolder(settings.data)
    try:
        store = DuckStore(live, settings.store.memory_limit, settings.store.threads)
        try:
            store.backup(copy)
        finally:
            store.close()
    finally:
        data.close()


def _draw(settings: Settings, generation: Generation, copy: Path) -> None:
    """Copy from InfluxDB what the generation can touch."""
    from qingtu.store import token_of  # noqa: PLC0415 - loaded only where it is used
    from qingtu.store.influx.client import InfluxClient  # noqa: PLC0415
    from qingtu.store.influx.image import Image  # noqa: PLC0415

    low, high = min(span.low for span in generation.spans), max(span.high for span in generation.spans)
    with duckdb.connect(str(copy.with_name(LIVE)), read_only=True) as db:
        found = db.execute(_TIMES, [low, high]).fetchone()
    assert found is not None
    to_us = generation.made_us if generation.to_us is None else generation.to_us
    first, last = (int(at) for at in (found[0] or generation.from_us, found[1] or to_us))
    span = min(first, generation.from_us) // DAY * DAY - DAY, (max(last, to_us) // DAY + 2) * DAY
    image = Image(
        InfluxClient(settings.influx, token_of(settings.influx.token_file, "influx.token_file")), settings.influx
    )
    try:
        image.draw(copy, span, (generation.from_us - HOUR, to_us + HOUR))
    finally:
        image.close()


def forget(path: Path) -> None:
    """Delete a database file with all that stands beside it."""
    for name in (path.name, f"{path.name}.wal", f"{path.name}.part"):
        path.with_name(name).unlink(missing_ok=True)


def take_over(
    settings: Settings, generation: Generation, copy: Path, at: Sequence[int], now_us: int, limit: int
) -> Takeover:
    """Take a generation over into a copy of the live store; see :func:`taken_over`."""
    with taken_over(settings, generation, copy, at, now_us, limit) as (_, found):
        return found


@contextmanager
def taken_over(
    settings: Settings, generation: Generation, copy: Path, at: Sequence[int], now_us: int, limit: int
) -> Iterator[tuple[NextStore, Takeover]]:
    """Take a generation over into a copy of the live store, and give the copy, open.

    Args:
        settings: name the data folder.
        generation: what to take over.
        copy: is changed.
        at: positions of the promote, by partition.
        now_us: when it becomes known, µs UTC.
        limit: list at most so many readings.

    Raises:
        QingtuError: the generation was made of another bus.
    """
    if len(generation.spans) != len(at):
        raise QingtuError(
            f"回放与总线分区数不同 / generation {generation.name} has {len(generation.spans)} partitions, the bus "
            f"{len(at)}: it was made of another installation; make it again"
        )
    folder = replay.folder_of(settings, generation.name)
    catalogue = replay.archived(folder)
    store = NextStore(copy, settings.store.memory_limit, settings.store.threads)
    try:
        found = store.take_over(
            generation, folder, catalogue, at=at, now_us=now_us, keep_days=settings.store.keep_days,
            grace_s=settings.figures.grace_s, limit=limit,
        )  # fmt: skip
        yield store, found
    finally:
        store.close()
