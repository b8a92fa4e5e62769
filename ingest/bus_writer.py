"""Brings one flush after the other from the core to the bus, without waiting longer than a ticket takes to say.

A flush has a frame for each of several partitions. Only what the bus refused is given again: a frame appended twice
would double its messages. Times here are monotonic seconds that the caller passes in.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, Protocol

from qingtu.errors import RetryLater
from qingtu.records import RAW

if TYPE_CHECKING:
    from ingest.core import Flush, GatewayCore
    from qingtu.contracts import Bus, Ticket

LONGEST_PAUSE_S: Final = 10.0


class Meter(Protocol):
    """Where counts go."""

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        ...


class BusWriter:
    """Owns the outstanding flush of a core.

    Args:
        core: gives flushes.
        bus: takes frames.
        meter: counts, or None.

    Attributes:
        refusal: why the bus takes nothing now; None while it does.
        retry_at: monotonic s before which nothing is tried again.
    """

    def __init__(self, core: GatewayCore, bus: Bus, meter: Meter | None = None) -> None:
        self._core = core
        self._bus = bus
        self._meter = meter
        self._flush: Flush | None = None
        self._tickets: dict[int, Ticket] = {}
        self._began_s = 0.0
        self._refusals = 0
        self._counted: tuple[int, dict[str, int]] = (0, {})
        self.refusal: str | None = None
        self.retry_at = 0.0

    @property
    def busy(self) -> bool:
        """Return whether the bus works on a flush."""
        return self._flush is not None

    def step(self, now_us: int, now_s: float, *, force: bool = False) -> list[int]:
        """Do what can be done now.

        Args:
            now_us: wall time, µs UTC.
            now_s: monotonic time, s.
            force: flush what there is, due or not.

        Returns:
            packet ids to acknowledge now, in this order.
        """
        if self._flush is None and now_s >= self.retry_at and (force or self._core.flush_due(now_us)):
            self._begin(now_us, now_s)
        if self._flush is None or not all(ticket.done() for ticket in self._tickets.values()):
            return []
        return self._settle(self._flush, now_s)

    def _begin(self, now_us: int, now_s: float) -> None:
        self._flush = self._core.take(now_us)
        self._tickets = {}
        self._began_s = now_s
        if self._flush is not None:
            for partition, frame in self._flush.frames.items():
                try:
                    self._tickets[partition] = self._bus.append(RAW, partition, [frame])
                except Exception as error:  # noqa: BLE001 - raised by _settle, when the others are decided
                    self._tickets[partition] = _Failed(error)

    def _settle(self, flush: Flush, now_s: float) -> list[int]:
        self._flush = None
        kept: list[int] = []
        refusal: RetryLater | None = None
        fault: Exception | None = None
        for partition, ticket in self._tickets.items():
            try:
                ticket.result(0)
                kept.append(partition)
            except RetryLater as error:
                refusal = error
            except Exception as error:  # noqa: BLE001 - raised below
                fault = error
        if fault is not None:  # a frame of unknown fate is given again: better twice, which shows, than never
            self._core.failed(flush, kept)
            self.retry_at = now_s + 1.0
            raise fault
        if refusal is not None:
            self._core.failed(flush, kept)
            pause = min(LONGEST_PAUSE_S, refusal.retry_after_s * 2 ** min(self._refusals, 6))
            self._refusals += 1
            self.refusal = str(refusal)
            self.retry_at = now_s + pause * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
            return []
        self._refusals = 0
        self.refusal = None
        self.retry_at = 0.0
        self._count(now_s - self._began_s)
        return self._core.flushed(flush)

    def _count(self, seconds: float) -> None:
        if self._meter is None:
            return
        taken, refused = self._counted
        self._meter.count("gateway_messages_total", self._core.taken - taken)
        for reason, n in self._core.refused.items():
            if n > refused.get(reason, 0):
                self._meter.count("gateway_refused_total", n - refused.get(reason, 0), reason=reason)
        self._meter.count("gateway_flushes_total")
        self._meter.count("gateway_flush_seconds_total", seconds)
        self._counted = (self._core.taken, dict(self._core.refused))


class _Failed:
    """The ticket of an append that failed on the spot."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> list[int]:  # noqa: ARG002 - decided already
        raise self._error
