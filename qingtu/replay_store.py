"""The stores of a replay: the generation's own, and the copy of the live one that takes a generation over.

Both are DuckDB stores with a few more tables::

    outcomes     of a generation: what became of each message of the span, and when it became known
    elsewhere    of a generation: rows of raw that say something of a station that lives in another partition
    replayed     which raw row brought a value whose revision is that of a promote
    promotions   the promotes of this store: one row for each partition in which something changed

A position means something in its partition alone. The revision of a reading is one of its station's partition, or of
the one where a row brought it that was driven again; what is about a raw row names the partition beside the position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from qingtu.partitions import partition_of
from qingtu.records import PROCESSED, codes_of, position, times_of
from qingtu.store.duckdb import DuckStore
from qingtu.store.schema import REPLAY_TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qingtu.contracts import Applied
    from qingtu.records import Frame
    from qingtu.replay_raw import Span

_OUTCOMES: Final = """
CREATE TABLE IF NOT EXISTS outcomes (
    partition INTEGER, position BIGINT, network VARCHAR, received_us BIGINT, known TIMESTAMP, outcome UTINYINT,
    decoded INTEGER, refused INTEGER, redrive_of BIGINT);
CREATE TABLE IF NOT EXISTS elsewhere (station VARCHAR, partition INTEGER, position BIGINT);
"""


class GenerationStore(DuckStore):
    """The store of a generation: also keeps what became of each message of the span.

    Args:
        path: the database file.
        memory_limit: such as ``1GB``.
        threads: that DuckDB may use.
        spans: by partition; messages outside are not kept.
    """

    def __init__(self, path: Path, memory_limit: str, threads: int, *, spans: Sequence[Span]) -> None:
        super().__init__(path, memory_limit, threads)
        self._spans = spans
        self._db.execute(REPLAY_TABLES + _OUTCOMES)

    def apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Applied:
        """Apply frames, then keep the outcomes that they tell; a replay that fails between is thrown away."""
        applied = super().apply(stream, partition, frames, next_offset)
        if stream == PROCESSED:
            self._insert_all("outcomes", [self._outcomes(frame, partition) for frame in frames])
            self._insert_all("elsewhere", [t for frame in frames for t in self._elsewhere(frame, partition)])
        return applied

    def _insert_all(self, name: str, tables: Sequence[pa.Table | None]) -> None:
        if some := [table for table in tables if table is not None]:
            self._insert(name, pa.concat_tables(some))

    def _outcomes(self, frame: Frame, partition: int) -> pa.Table | None:
        manifest, origin, span = frame.get("manifest"), frame.origin, self._spans[partition]
        if manifest is None or origin is None or not span.first <= origin[1] < span.end:
            return None
        received = times_of(manifest.column("received_at"))
        # A row that is driven again keeps its time of receipt, and is known when it is driven: its frame's clock.
        again = manifest.column("redrive_of").is_valid().to_numpy(zero_copy_only=False)
        known = np.where(again, frame.clock_us, received)
        return pa.table(
            {
                "partition": np.full(len(received), partition, np.int32),
                "position": position(origin[1], 0) + np.asarray(manifest.column("row")).astype(np.int64),
                "network": manifest.column("network").cast(pa.string()),
                "received_us": received,
                "known": pa.array(known).cast(pa.timestamp("us")),
                **{name: manifest.column(name) for name in ("outcome", "decoded", "refused", "redrive_of")},
            }
        )

    def _elsewhere(self, frame: Frame, partition: int) -> list[pa.Table]:
        """Return which rows of a frame speak of stations of other partitions, as those of a device mapped later do."""
        out = []
        for section in ("readings", "events"):
            batch = frame.get(section)
            if batch is None or len(self._spans) == 1:
                continue
            codes, names = codes_of(batch.column("station"))
            away = np.array([partition_of(name, len(self._spans)) != partition for name in names], np.bool_)[codes]
            revision = np.asarray(batch.column("revision"))
            for code in np.unique(codes[away]).tolist():
                positions = np.unique(revision[away & (codes == code)])
                n = len(positions)
                columns = {"station": [names[code]] * n, "partition": np.full(n, partition, np.int32)}
                out.append(pa.table({**columns, "position": positions}))
        return out
