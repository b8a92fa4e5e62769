"""The ticket of an append, as both buses give it out."""

from __future__ import annotations

import threading

from qingtu.errors import RetryLater


class Ticket:
    """See :class:`qingtu.contracts.Ticket`. Whoever gave it out decides it, once; any thread may wait for it."""

    def __init__(self) -> None:
        self._decided = threading.Event()
        self._offsets: list[int] = []
        self._error: str | None = None
        self._abandoned = False

    def done(self) -> bool:
        """Return whether it is decided."""
        return self._decided.is_set()

    def result(self, timeout_s: float | None = None) -> list[int]:
        """Wait and return the offsets; see the contract. Once it was abandoned it raises TimeoutError for ever."""
        if not self._decided.wait(timeout_s) or self._abandoned:
            raise TimeoutError("the bus has not said whether the frames were written; do not append them again")
        if self._error is not None:
            raise RetryLater(self._error)
        return self._offsets

    def keep(self, offsets: list[int]) -> None:
        """Decide: the frames are durable at these offsets."""
        self._offsets = offsets
        self._decided.set()

    def refuse(self, reason: str) -> None:
        """Decide: nothing was written."""
        self._error = reason
        self._decided.set()

    def abandon(self) -> None:
        """Give up waiting: whether the frames were written is not known and will not be."""
        self._abandoned = True
        self._decided.set()
