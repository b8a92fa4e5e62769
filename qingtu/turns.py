"""Steps many stages in one thread so that one that is refused or fails holds none of the others up."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_AFTER_ERROR_S: Final = 5.0
_LONGEST_S: Final = 15.0
_WAITING_S: Final = 0.1
"""A refusal for no longer than this is waiting for another stage, which is no problem."""


@dataclass(slots=True)
class _Pause:
    """Of one that sits out: until when (monotonic seconds), and after how many refusals in a row."""

    until_s: float
    count: int


class Turns:
    """Gives each of some things to do its turn; one that was refused or failed sits out a while, longer each time.

    Nothing is lost meanwhile: what stages work on is on the bus, and they try the same again, for ever.

    Args:
        now_s: monotonic seconds.

    Attributes:
        problems: by name, why it does not move; it is over with the next turn that works.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._pauses: dict[str, _Pause] = {}
        self._log = structlog.get_logger("turns")
        self.problems: dict[str, str] = {}

    def take(self, work: Iterable[tuple[str, Callable[[], bool]]]) -> bool:
        """Do each piece of work once, but for those that sit out.

        Args:
            work: (name, step) of each; a step returns whether there was something to do. Asked for one by one, so a
                piece may change what comes after it.

        Returns:
            True when any did something.
        """
        busy = False
        for name, step in work:
            if self.sits_out(name):
                continue
            try:
                busy |= step()
            except RetryLater as later:
                waits = later.retry_after_s <= _WAITING_S
                self._sit_out(name, "" if waits else str(later), later.retry_after_s, longer=not waits)
            except Exception as error:  # noqa: BLE001 - shown in the status, logged, tried again, as a worker does
                self._sit_out(name, f"{type(error).__name__}: {error}", _AFTER_ERROR_S, longer=False)
            else:
                self.forget(name)
        return busy

    def sits_out(self, name: str) -> bool:
        """Return whether it is not this one's turn yet: it was refused or failed."""
        pause = self._pauses.get(name)
        return pause is not None and pause.until_s > self._now_s()

    def forget(self, name: str) -> None:
        """Forget what was wrong with something."""
        self._pauses.pop(name, None)
        self.problems.pop(name, None)

    def _sit_out(self, name: str, problem: str, seconds: float, *, longer: bool) -> None:
        count = self._pauses[name].count if name in self._pauses else 0
        if longer:
            seconds = min(_LONGEST_S, seconds * 2 ** min(count, 6)) * random.uniform(0.7, 1.0)  # noqa: S311 - jitter
        self._pauses[name] = _Pause(self._now_s() + seconds, count + 1)
        if not problem:
            self.problems.pop(name, None)
        elif self.problems.get(name) != problem:
            self.problems[name] = problem
            self._log.warning("stage_waits", stage=name, reason=problem, next="tried again", exc_info=not longer)
