"""Waiting in tests for what another thread or process does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 20.0
"""A guard against hanging, never a measure."""
_PAUSE_S = 0.01
Found = TypeVar("Found")


def until(done: Callable[[], Found], what: str, patience_s: float = PATIENCE_S) -> Found:
    """Wait until something is true, and return it; fail with ``what`` when it does not come."""
    end = time.monotonic() + patience_s
    while not (found := done()):
        assert time.monotonic() < end, f"not within {patience_s:.0f} s: {what}"
        time.sleep(_PAUSE_S)
    return found
