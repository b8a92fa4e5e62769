"""For all tests: a property test is judged by what it finds, never by how long an example took on a busy machine.

What a command sets up for the logs of its process ends with the test: the stream it named is closed then.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("untimed", deadline=None, print_blob=True)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """Put global logging back as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before
