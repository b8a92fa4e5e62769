"""A thread that steps stages: the only place where stages meet threads, sleep and time."""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from qingtu.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_IDLE_S: Final = 0.5
_BACKOFF_MAX_S: Final = 15.0
_AFTER_ERROR_S: Final = 5.0


class Worker:
    """Steps something again and again in a thread of its own.

    A RetryLater is waited out with growing, jittered pauses, for ever. Anything else stops nothing either: it is
    logged, shown in :attr:`problem` and tried again, since what the stage works on is safe on the bus.

    Args:
        name: of the thread.
        step: does a bounded piece of work; True when there was some.
        wait: returns when there may be work, or after the given seconds.
        idle_s: that it is given.

    Attributes:
        problem: what is wrong now, "" when nothing is.
    """

    def __init__(
        self, name: str, step: Callable[[], bool], wait: Callable[[float], None], idle_s: float = _IDLE_S
    ) -> None:
        self.name = name
        self._step = step
        self._wait = wait
        self._idle_s = idle_s
        self._stop = threading.Event()
        self.problem = ""
        self._gate = threading.Lock()
        self._stepping = threading.Lock()
        self.idle = threading.Event()
        self._log = structlog.get_logger(name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ask the thread to end after its step, and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @contextmanager
    def between(self, timeout_s: float) -> Iterator[None]:
        """Hold the thread between two steps.

        Raises:
            RetryLater: it is within a step for all that time.
        """
        deadline = time.monotonic() + timeout_s
        with _taken(self._gate, timeout_s) as first, _taken(self._stepping, deadline - time.monotonic()) as second:
            if not (first and second):
                reason = self.problem or "任务多或服务器无应答 / there is much to do, or a server does not answer"
                raise RetryLater(f"{self.name} 尚未空闲 / {self.name} is within a step for {timeout_s:.0f} s: {reason}")
            yield

    def running(self) -> bool:
        """Return whether the thread has not ended yet."""
        return self._thread.is_alive()

    def _run(self) -> None:
        pause = 0.1
        while not self._stop.is_set():
            try:
                with self._gate:  # who waits for us to be between two steps has it, and comes first
                    pass
                with self._stepping:
                    busy = self._step()
                self.problem, pause = "", 0.1
                if busy:
                    self.idle.clear()
                else:
                    self.idle.set()
                    self._wait(self._idle_s)
            except RetryLater as later:
                # Waiting for another stage is the usual way of derive, not a problem.
                waiting = later.retry_after_s <= 0.1
                if not waiting:
                    if self.problem != str(later):
                        self._log.warning("waiting", reason=str(later))
                    self.problem = str(later)
                pause = later.retry_after_s if waiting else min(2 * pause, _BACKOFF_MAX_S)
                self._stop.wait(max(later.retry_after_s, pause) * random.uniform(0.7, 1.3))  # noqa: S311 - jitter
            except Exception as error:  # noqa: BLE001 - shown in the status, logged, tried again
                self.problem = f"{type(error).__name__}: {error}"
                # Nothing is lost, so it is no ERROR.
                self._log.warning(
                    "stage_failed", next="tried again in 5 s; the bus holds what it works on", exc_info=True
                )
                self._stop.wait(_AFTER_ERROR_S)


@contextmanager
def _taken(lock: threading.Lock, timeout_s: float) -> Iterator[bool]:
    """Hold a lock; whether it could be taken in time is what this gives."""
    taken = lock.acquire(timeout=max(0.0, timeout_s))
    try:
        yield taken
    finally:
        if taken:
            lock.release()
