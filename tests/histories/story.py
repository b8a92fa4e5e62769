"""What happened in a history, in order and in plain words. Nothing here changes what happens."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from qingtu.clock import iso


class Violation(Exception):  # noqa: N818 - what a judge says
    """A promise was broken.

    Attributes:
        invariant: its name in docs/histories.md.
    """

    def __init__(self, invariant: str, what: str) -> None:
        self.invariant = invariant
        super().__init__(f"{invariant}: {what}")


class Story:
    """Collects events; text is made only when somebody reads it."""

    def __init__(self) -> None:
        self.now_us = 0
        self._events: list[tuple[int, str, tuple[Any, ...]]] = []

    def tell(self, text: str, *args: Any) -> None:
        """Note an event: a ``%`` format and its arguments."""
        self._events.append((self.now_us, text, args))

    def lines(self, last: int | None = None) -> list[str]:
        """Return the last events, one line each, with the true time in front."""
        events = self._events if last is None else self._events[-last:]
        return [f"{iso(at - at % 1000)[:23]:23}  {text % args if args else text}" for at, text, args in events]

    def digest(self) -> str:
        """Return a hash of all events: two runs with one digest went the same way."""
        return blake2b("\n".join(self.lines()).encode(), digest_size=8).hexdigest()
