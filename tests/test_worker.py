"""A thread that steps: who waits for it to be between two steps comes first."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from qingtu.errors import RetryLater
from qingtu.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANY = 20


@pytest.fixture
def steps() -> list[int]:
    """What was stepped."""
    return []


@pytest.fixture
def busy(steps: list[int]) -> Iterator[Worker]:
    """A worker that has always something to do."""
    pause = threading.Event()

    def step() -> bool:
        steps.append(len(steps))
        pause.wait(0.02)
        return True

    worker = Worker("busy", step, lambda _: None)
    worker.start()
    yield worker
    worker.stop()


def test_who_asks_gets_in_between_though_there_is_always_something_to_do(busy: Worker, steps: list[int]) -> None:
    """A lock alone is taken again at once by the thread that has just let go of it."""
    for _ in range(_MANY):
        before = len(steps)
        with busy.between(20):
            stood = len(steps)
            threading.Event().wait(0.05)
            assert len(steps) == stood
        assert stood - before <= 2


def test_a_step_that_does_not_end_is_told() -> None:
    """With the name of the worker and what to think of it; the next one who asks may be luckier."""
    began, over = threading.Event(), threading.Event()

    def step() -> bool:
        began.set()
        over.wait(60)
        return False

    worker = Worker("slow", step, lambda _: None)
    worker.start()
    assert began.wait(20)
    with pytest.raises(RetryLater, match="slow is within a step"), worker.between(0.1):
        pass
    over.set()
    with worker.between(20):
        pass
    worker.stop()


def test_who_has_nothing_to_do_waits_for_as_long_as_is_said() -> None:
    """And only then: a step that did something is followed by the next one."""
    waited: list[float] = []
    came = threading.Event()
    did = iter([True, True])

    def wait(seconds: float) -> None:
        waited.append(seconds)
        came.set()
        threading.Event().wait(0.02)

    worker = Worker("idle", lambda: next(did, False), wait, idle_s=7)
    worker.start()
    assert came.wait(20)
    worker.stop()
    assert set(waited) == {7}
    assert next(did, None) is None
