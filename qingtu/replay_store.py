"""The stores of a replay: the generation's own, and the copy of the live one that takes a generation over.

Both are DuckDB stores with a few more tables::

    outcomes     of a generation: what became of each message of the span
    replayed     which raw row brought a value whose revision is that of a promote
    promotions   the promotes of this store
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from qingtu.records import PROCESSED, position, times_of
from qingtu.store.duckdb import DuckStore
from qingtu.store.queries import Queries, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qingtu.contracts import Applied
    from qingtu.records import Frame
    from qingtu.replay_raw import Span

REPLAY_TABLES: Final = """
CREATE TABLE IF NOT EXISTS replayed (series INTEGER, time TIMESTAMP, revision BIGINT, origin BIGINT);
CREATE TABLE IF NOT EXISTS promotions (
    revision BIGINT, name VARCHAR, promoted_at TIMESTAMP, catalogue VARCHAR, low BIGINT, high BIGINT);
"""
_OUTCOMES: Final = """
CREATE TABLE IF NOT EXISTS outcomes (
    position BIGINT, network VARCHAR, received_us BIGINT, outcome UTINYINT, decoded INTEGER, refused INTEGER,
    redrive_of BIGINT);
"""
_ORIGIN: Final = """
SELECT p.origin, m.name, m.catalogue, epoch_us(m.promoted_at) AS promoted_us FROM replayed p
JOIN series s ON s.id = p.series JOIN promotions m ON m.revision = p.revision
WHERE s.station = ? AND s.property = ? AND s.channel = ? AND p.time = ? AND p.revision = ?
"""


class GenerationStore(DuckStore):
    """The store of a generation: also keeps what became of each message of the span.

    Args:
        path: the database file.
        memory_limit: such as ``1GB``.
        threads: that DuckDB may use.
        span: messages outside are not kept.
    """

    def __init__(self, path: Path, memory_limit: str, threads: int, *, span: Span) -> None:
        super().__init__(path, memory_limit, threads)
        self._span = span
        self._db.execute(REPLAY_TABLES + _OUTCOMES)

    def apply(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Applied:
        """Apply frames, then keep the outcomes that they tell; a replay that fails between is thrown away."""
        applied = super().apply(stream, partition, frames, next_offset)
        if stream == PROCESSED:
            tables = [table for frame in frames if (table := self._outcomes(frame)) is not None]
            if tables:
                self._insert("outcomes", pa.concat_tables(tables))
        return applied

    def _outcomes(self, frame: Frame) -> pa.Table | None:
        manifest, origin = frame.get("manifest"), frame.origin
        if manifest is None or origin is None or not self._span.first <= origin[1] < self._span.end:
            return None
        return pa.table(
            {
                "position": position(origin[1], 0) + np.asarray(manifest.column("row")).astype(np.int64),
                "network": manifest.column("network").cast(pa.string()),
                "received_us": times_of(manifest.column("received_at")),
                **{name: manifest.column(name) for name in ("outcome", "decoded", "refused", "redrive_of")},
            }
        )


def replay_of(store: Queries, key: tuple[str, str, str], time_us: int, revision: int) -> dict[str, Any] | None:
    """Return by which promote a reading got the value of a revision, or None when it was none.

    Args:
        store: where the reading is.
        key: (station, property, channel).
        time_us: of the reading, µs UTC.
        revision: that brought the value.

    Returns:
        ``origin``, position of the raw row that the value comes from; ``name`` of the generation; ``catalogue`` that it
        was made with; ``promoted_us``.
    """
    with store.cursor() as db:
        if not db.execute("SELECT 1 FROM information_schema.tables WHERE table_name = 'promotions'").fetchone():
            return None
        found = rows_of(db, _ORIGIN, [*key, np.datetime64(time_us, "us").item(), revision])
    return found[0] if found else None
