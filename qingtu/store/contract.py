"""What stages, ledger, explain and web ask of a primary store, beyond :class:`qingtu.contracts.Store`.

DuckDB and InfluxDB both answer all of it; tests/suites/store.py and tests/suites/store_questions.py say what is right.
Any thread may ask. Times are µs UTC. Every question may raise RetryLater: the database does not answer now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from qingtu.contracts import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa

    from qingtu.catalogue import Catalogue
    from qingtu.records import Frame
    from qingtu.store.books import Key


@runtime_checkable
class Describing(Protocol):
    """A store that others read beside us, and that tells them which stations there are, and how far it is."""

    def describe(self, catalogue: Catalogue, at_us: int) -> None:
        """Write the stations of a catalogue that is in use from a time on. For the writing thread."""
        ...

    def catch_up(self, *, now: bool = False) -> None:
        """Tell what is due of how far it is, or all of it ``now``. For the writing thread."""
        ...


@runtime_checkable
class Ahead(Protocol):
    """A store that saves how far it is beside the caller, who may begin another commit meanwhile."""

    def begin(self, stream: str, partition: int, frames: Sequence[Frame], next_offset: int) -> Callable[[], object]:
        """Do as ``apply``, but for the end: what is returned waits until the commit counts. For the writing thread.

        Until then ``progress`` tells nothing of it. The next commit of the same stream and partition waits for it, too.

        Returns:
            a function that raises RetryLater when the commit does not count: the same frames must be applied again.

        Raises:
            RetryLater: as ``apply``; nothing was applied.
        """
        ...


class PrimaryStore(Store, Protocol):
    """A store that the whole system can run on."""

    def ledger(self) -> tuple[dict[Key, dict[str, int]], dict[int, int]]:
        """Return outcomes by (network, hour), and by partition the raw offset up to which they count."""
        ...

    def latest(self) -> pa.Table:
        """Return the newest reading of every series: station, property, channel, and columns as ``readings``."""
        ...

    def reading(self, key: tuple[str, str, str], time_us: int) -> dict[str, Any] | None:
        """Return one reading with its corrections, newest last, or None."""
        ...

    def replay_of(self, key: tuple[str, str, str], time_us: int, revision: int) -> dict[str, Any] | None:
        """Return by which promote a reading got the value of a revision: origin, partition, name, catalogue, time."""
        ...

    def figures(
        self, station: str, prop: str, start_us: int, end_us: int, *, channel: str = "main", what: str | None = None,
        known_by_us: int | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return the figures of a series whose period starts in the range, oldest first, perhaps as published once."""
        ...

    def figure_corrections(
        self, since_us: int = 0, limit: int = 1000, *, station: str | None = None, prop: str | None = None,
        what: str | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return which published figures changed, from what to what, newest first; old and new side whole."""
        ...

    def alerts(self, *, active: bool, limit: int = 500) -> list[dict[str, Any]]:
        """Return alerts as their last transition left them; the highest unacknowledged level first."""
        ...

    def alert_now(self, alert: str) -> dict[str, Any] | None:
        """Return one alert as ``alerts`` does, or None when there is no such alert."""
        ...

    def alert(self, alert: str) -> list[dict[str, Any]]:
        """Return the transitions of one alert, oldest first; empty when there is no such alert."""
        ...

    def alerts_of(self, station: str, prop: str, revision: int) -> list[dict[str, Any]]:
        """Return the alert transitions that a raw row caused."""
        ...

    def quarantine(self, *, reason: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """Return rejected messages, newest first, with what became of them (``outcome``, ``moved_by``).

        A message that was driven again and refused again is told by its newest refusal alone: ``position`` is that
        of the row that drove it again, ``redrive_of`` its own. It stands here twice only if two stages refused it.

        Args:
            reason: only those whose newest reason code is this.
            limit: at most so many.
        """
        ...

    def refusals_of(self, message: tuple[int, int]) -> list[dict[str, Any]]:
        """Return how a message was refused, first and each time that it was driven again, the newest first.

        Args:
            message: (partition, position) of the message, or of a row that drove it again and was refused.

        Returns:
            rows as :meth:`quarantine` gives them; empty: nothing was refused there.
        """
        ...

    def raw_rows(self, ids: Sequence[tuple[int, int]]) -> pa.RecordBatch:
        """Return the raw rows of rejected messages, in the order of ``ids``, as ``RAW_ROWS``."""
        ...

    def in_quarantine(self, reason: str | None = None) -> list[tuple[int, int]]:
        """Return (partition, position) of every message that is in quarantine now, oldest first.

        The position is that of the message itself, however often it was driven again; the reason is its newest.
        """
        ...

    def quarantine_counts(self) -> list[dict[str, Any]]:
        """Return how many messages are in quarantine now, by newest reason and stage."""
        ...

    def events(self, start_us: int, end_us: int, limit: int = 1000) -> list[dict[str, Any]]:
        """Return events in a time range, newest first."""
        ...

    def knows(self, station: str) -> bool:
        """Return whether anything that is stored names a station or area: readings, figures, events or alerts.

        For names that the catalogue has not (any more); a store that others read may know it of a former catalogue.
        """
        ...

    def count(self, table: str) -> int:
        """Return the number of rows of a table: readings, corrections, events, alerts, rejected, figures and so on."""
        ...

    def export(self, path: Path, start_us: int, end_us: int, *, fmt: str = "parquet") -> int:
        """Write readings with names to a Parquet or CSV file; return how many."""
        ...

    def quarantine_expired(self) -> list[dict[str, Any]]:
        """Return how many messages left quarantine because of their age, by reason and stage, until which day."""
        ...

    def rejected_expired(self) -> int:
        """Return how many messages left quarantine because of their age, ever."""
        ...

    def expire(self, before_us: int, rejected_before_us: int | None = None) -> int:
        """Take what is old out of the dataset, by whole days; the books stay. For the writing thread, as ``apply``.

        Args:
            before_us: readings, events and corrections of phenomena before this time.
            rejected_before_us: messages of the quarantine received before this time; None: all are kept.

        Returns:
            how many readings.
        """
        ...

    def expired(self) -> int:
        """Return how many readings were deleted because of their age, ever."""
        ...

    def backup(self, path: Path) -> None:
        """Copy the dataset into a new file while it is in use, as of one moment.

        Raises:
            FileExistsError: there is such a file already.
            QingtuError: the database has tools of its own for that; the message names them.
        """
        ...
