"""What the writing process tells others in the database: progress and books, as of its newest commit."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa

from qingtu.contracts import Progress
from qingtu.grouped import NEVER
from qingtu.records import PROCESSED
from qingtu.store.books import COLUMNS
from qingtu.store.influx.wide import FOREVER, between

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qingtu.settings import InfluxSettings
    from qingtu.store.books import Key as BookKey
    from qingtu.store.influx.client import InfluxClient

_TOLD_S: Final = 0.25


class Told:
    """Questions about what others have applied."""

    def __init__(self, client: InfluxClient, settings: InfluxSettings) -> None:
        self._client = client
        self._settings = settings
        self._told_lock = threading.Lock()
        self._told: tuple[float, dict[tuple[str, int], dict[str, Any]]] = (-1e9, {})

    def _progresses(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Return what ``progress`` says of every stream and partition; asked again after a short while."""
        with self._told_lock:
            at, told = self._told
            if time.monotonic() - at > _TOLD_S:
                names = ("next_offset", "origin", "kept_from", "expired", "rejected_from")
                types = {
                    **dict.fromkeys(names, pa.int64()),
                    **dict.fromkeys(("gone", "stream", "partition"), pa.string()),
                }
                others = ("gone::string", "stream::tag", '"partition"::tag')
                selected = ", ".join([*(f"{n}::integer" for n in names), *others])
                question = f"SELECT {selected} FROM progress WHERE time = 0"  # noqa: S608 - our own names
                rows = self._client.table(self._settings.daily, question, types).to_pylist()
                told = {(row["stream"], int(row["partition"])): row for row in rows if row["origin"] is not None}
                self._told = (time.monotonic(), told)
        return told

    def _told_progress(self, stream: str, partition: int) -> Progress:
        row = self._progresses().get((stream, partition))
        return Progress(0, -1) if row is None else Progress(row["next_offset"], row["origin"])

    def _told_ledger(self, own: frozenset[int]) -> tuple[dict[int, int], list[tuple[BookKey, NDArray[np.int64]]]]:
        """Return origins by partition and book rows, of partitions that are not our own."""
        told = self._progresses()
        origins = {p: row["origin"] for (stream, p), row in told.items() if stream == PROCESSED and p not in own}
        types = {**dict.fromkeys(COLUMNS, pa.int64()), "network_name": pa.string(), "partition": pa.string()}
        selected = ", ".join([*(f"{n}::integer" for n in COLUMNS), "network_name::string", '"partition"::tag'])
        question = f"SELECT {selected} FROM ledger WHERE {between(0, FOREVER[1])}"  # noqa: S608 - our own names
        rows = []
        for row in self._client.table(self._settings.daily, question, types).to_pylist():
            if row["stored"] is not None and int(row["partition"]) not in own:
                key = (row["network_name"] or "", row["time"] // 3_600_000_000)
                rows.append((key, np.array([row[name] for name in COLUMNS], np.int64)))
        return origins, rows

    def _kept_from(self) -> int:
        """Return from when on readings are kept, µs UTC."""
        return max((row["kept_from"] for row in self._progresses().values()), default=NEVER)

    def expired(self) -> int:
        """Return how many readings were deleted because of their age, ever."""
        return sum(row["expired"] for row in self._progresses().values())

    def _rejected_from(self) -> int:
        """Return from when on messages of the quarantine are kept, µs UTC."""
        return max((row["rejected_from"] for row in self._progresses().values()), default=NEVER)

    def _gone(self) -> list[Mapping[tuple[str, str], tuple[int, int]]]:
        """Return, by partition, how many messages left quarantine because of their age."""
        rows = [orjson.loads(row["gone"] or "[]") for row in self._progresses().values()]
        return [{(reason, stage): (n, day) for reason, stage, n, day in some} for some in rows]
