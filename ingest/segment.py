"""The messages of one flush: collected in a :class:`Segment`, encoded into a :class:`Flush`."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.raw import SESSION, RawBuilder, command_row


@dataclass(frozen=True, slots=True)
class Flush:
    """Messages on their way to the bus.

    Attributes:
        frames: by partition; append each to ``raw``. Empty when only a marker is to be acknowledged.
        rows: messages in them.
        size: their payload bytes.
        acks: (connection, packet ids), in the order received.
        marker: connection whose marker is among them, 0 for none.
    """

    frames: dict[int, bytes]
    rows: int
    size: int
    acks: tuple[tuple[int, list[int]], ...]
    marker: int = 0


class Segment:
    """The messages of one flush, while they are collected."""

    __slots__ = (
        "acks", "appends", "builders", "catalogue", "first_us", "last_us", "marker", "rows", "session", "size",
    )  # fmt: skip

    def __init__(self, partitions: int, gateway: str) -> None:
        self.builders = [RawBuilder(gateway) for _ in range(partitions)]
        self.appends = [builder.append for builder in self.builders]
        self.acks: list[tuple[int, list[int]]] = []
        self.rows = 0
        self.size = 0
        self.marker = 0
        self.session = 0
        self.first_us = 0
        self.last_us = 0
        self.catalogue: str | None = None

    @property
    def empty(self) -> bool:
        """Return whether there is nothing in it: no message, no acknowledgement, no word of a new session."""
        return not self.rows and not self.acks and not self.session

    def begin_session(self, connection: int, now_us: int, catalogue: str | None) -> None:
        """Tell every partition, before the messages of this segment, that a session began with this connection."""
        self.session = connection
        self.first_us = self.last_us = now_us
        self.catalogue = catalogue

    def note(self, rows: int, size: int, connection: int, acks: list[int], now_us: int, catalogue: str | None) -> None:
        """Sum up a batch whose rows were appended: how many, payload bytes, packet ids to acknowledge, when."""
        if self.empty:
            self.first_us = now_us
        self.rows += rows
        self.size += size
        self.last_us = now_us
        self.catalogue = catalogue
        if acks:
            if self.acks and self.acks[-1][0] == connection:
                self.acks[-1][1].extend(acks)
            else:
                self.acks.append((connection, acks))

    def flush(self) -> Flush:
        """Encode what was collected."""
        first = None
        if self.session:
            args = {"connection": self.session}
            first = command_row(self.first_us, SESSION, "system", args, gateway=self.builders[0].gateway)
        frames = {
            partition: builder.build(self.catalogue, builder.rows[-1][5] if builder.rows else self.first_us, first)
            for partition, builder in enumerate(self.builders)
            if builder.rows or first is not None
        }
        return Flush(frames, self.rows, self.size, tuple(self.acks), self.marker)
