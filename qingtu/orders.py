"""What this program itself writes into raw: ticks and commands; whatever `process` decides hangs on raw alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from ingest.raw import command_row, raw_frame, redrive_rows, tick_row
from processors.process import CONFIGURE
from qingtu.clock import SECOND
from qingtu.errors import Undecided
from qingtu.partitions import partition_of
from qingtu.records import RAW, away

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qingtu.clock import Clock
    from qingtu.contracts import Bus, Ticket
    from qingtu.store.contract import PrimaryStore

    StationOf = Callable[[str, str], str | None]

_BATCH: Final = 1000
_PATIENCE_S: Final = 30.0
At = tuple[int, int]
"""Partition and position of a message."""


class Orders:
    """Writes ticks and commands; each call returns when they are durable. Any thread may call.

    Every method raises RetryLater when the bus refuses, and nothing was written; and :class:`Undecided` when it has not
    said after half a minute whether it was.

    Args:
        bus: where raw stands.
        clock: for the time of ticks and commands.

    Attributes:
        catalogue: version that frames name.
    """

    def __init__(self, bus: Bus, clock: Clock, catalogue: str) -> None:
        self._bus = bus
        self._clock = clock
        self.catalogue = catalogue

    def tick(self, hearing: Mapping[str, int]) -> None:
        """Tell every partition the clock, and since when each route hears all (µs UTC)."""
        now = self._clock.now_us()
        self._everywhere([tick_row(now, hearing)], now)

    def configure(self, args: Mapping[str, Any]) -> None:
        """Tell every partition which catalogue, decoders and limits hold from here on."""
        now = self._clock.now_us()
        self._everywhere([command_row(now, CONFIGURE, "system", args)], now)

    def command(self, name: str, who: str, args: Mapping[str, Any], station: str | None) -> int:
        """Write a command into its station's partition, of what has none into the first; return its frame's offset."""
        now = self._clock.now_us()
        partition = 0 if station is None else partition_of(station, self._bus.partitions)
        return self._into(partition, [command_row(now, name, who, args)], now)

    def system(self, name: str, args: Mapping[str, Any]) -> None:
        """Write what the program itself has to tell into the first partition."""
        now = self._clock.now_us()
        self._into(0, [command_row(now, name, "system", args)], now)

    def command_all(self, name: str, who: str, args: Mapping[str, Any]) -> None:
        """Write a command that is not about one station into every partition."""
        now = self._clock.now_us()
        self._everywhere([command_row(now, name, who, args)], now)

    def redrive(
        self, store: PrimaryStore, wanted: Sequence[At], who: str, station_of: StationOf, *,
        reason: str | None, shift_s: float,
    ) -> None:  # fmt: skip
        """Drive messages of the quarantine again through the pass, each in the partition of its station.

        A device that was unknown was heard in the partition of its name; what its station has is perhaps in another.

        Args:
            store: has their rows.
            wanted: (partition, position) of each.
            who: the person.
            station_of: network and device → station in the catalogue of now, None for an unknown device.
            reason: by which they were chosen.
            shift_s: added to claimed times.
        """
        for i in range(0, len(wanted), _BATCH):
            part = wanted[i : i + _BATCH]
            rows = store.raw_rows(part)
            places = self._places(rows, part, station_of)
            for place in sorted(set(places)):
                some = [n for n, at in enumerate(places) if at == place]
                of = [part[n][1] if part[n][0] == place else away(*part[n]) for n in some]
                now = self._clock.now_us()
                args = {"count": len(some), "reason": reason, "shift_s": shift_s}
                driven = redrive_rows(rows.take(pa.array(some)), of, round(shift_s * SECOND))
                self._into(place, [command_row(now, "redrive", who, args), driven], now)

    def _places(self, rows: pa.RecordBatch, at: Sequence[At], station_of: StationOf) -> list[int]:
        """Return in which partition each message is to be driven again; where it is when nobody knows its device."""
        senders = zip(rows.column("network").to_pylist(), rows.column("device").to_pylist(), strict=True)
        stations = [station_of(network, device) for network, device in senders]
        n = self._bus.partitions
        return [p if name is None else partition_of(name, n) for name, (p, _) in zip(stations, at, strict=True)]

    def _frame(self, batches: Sequence[pa.RecordBatch], now: int) -> bytes:
        return raw_frame(batches, gateway="", catalogue=self.catalogue, clock_us=now)

    def _into(self, partition: int, batches: Sequence[pa.RecordBatch], now: int) -> int:
        return _kept(self._bus.append(RAW, partition, [self._frame(batches, now)]))

    def _everywhere(self, batches: Sequence[pa.RecordBatch], now: int) -> None:
        frame = self._frame(batches, now)
        for ticket in [self._bus.append(RAW, partition, [frame]) for partition in range(self._bus.partitions)]:
            _kept(ticket)


def _kept(ticket: Ticket) -> int:
    try:
        return ticket.result(_PATIENCE_S)[0]
    except TimeoutError as error:
        raise Undecided(
            f"总线 {_PATIENCE_S:.0f} 秒未答复, 是否已执行未知, 请先查看 / the bus has not said for {_PATIENCE_S:.0f} s "
            "whether this was written: look before doing it again"
        ) from error
