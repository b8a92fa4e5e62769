"""Threads that wait for servers, while the thread that writes goes on with what comes next."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_THREADS: Final = 4
_Errand = tuple["Callable[[], None]", "Future[None]"]


class Errands:
    """Runs some errands at once, and begins them in the order in which they are given."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Errand | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def give(self, errand: Callable[[], None]) -> Future[None]:
        """Begin an errand; what becomes of it, and what it raises, is the future's. One thread gives all."""
        future: Future[None] = Future()
        if len(self._threads) < _THREADS:
            # Not of a pool of Python's: it would keep the program from ending while a server does not answer.
            thread = threading.Thread(target=self._run, name=f"store-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._queue.put((errand, future))
        return future

    def close(self) -> None:
        """End the threads, each behind its errand."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (given := self._queue.get()) is not None:
            errand, future = given
            try:
                errand()
            except BaseException as error:  # noqa: BLE001 - raised to whoever waits for it
                future.set_exception(error)
            else:
                future.set_result(None)
