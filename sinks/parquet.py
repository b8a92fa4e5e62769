"""Follows ``processed`` into Parquet files, one per day of the phenomenon and frame batch; for those who analyse.

Files hold every revision as it came, so the newest revision of a key is the current one; at equal revisions the one
with the greater ``cause`` (a message can bring a reading and the verdict about it). Written at least once: a file is
named by the revisions in it, so writing the same frames again replaces it; in another cut, rows may stand twice, and
the rule above gives the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qingtu.clock import DAY, iso
from qingtu.errors import RetryLater
from qingtu.records import PROCESSED, Frame, times_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ParquetSink:
    """See :class:`qingtu.contracts.Sink`.

    Args:
        folder: files go to ``folder/YYYY-MM-DD/``.
    """

    name = "parquet"
    stream = PROCESSED

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, frames: Sequence[Frame]) -> None:
        """Write the readings of the frames."""
        batches = [batch for frame in frames if (batch := frame.get("readings")) is not None]
        if not batches:
            return
        table = pa.Table.from_batches(batches)
        day = times_of(table.column("time").combine_chunks()) // DAY
        for number in np.unique(day).tolist():
            part = table.filter(pa.array(day == number))
            revision = np.asarray(part.column("revision"))
            folder = self._folder / iso(number * DAY)[:10]
            name = f"{int(revision.min()):016x}-{int(revision.max()):016x}.parquet"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                pq.write_table(part, folder / f".{name}", compression="zstd")
                (folder / f".{name}").replace(folder / name)
            except OSError as error:
                raise RetryLater(f"Parquet 文件无法写入 / parquet: {error}", retry_after_s=5) from error
