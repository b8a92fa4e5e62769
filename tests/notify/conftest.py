"""Real servers on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.notify.receiver import mail_server, receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.notify.receiver import Mailbox, Receiver


@pytest.fixture
def duty() -> Iterator[Receiver]:
    """One receiver."""
    with receiver() as found:
        yield found


@pytest.fixture
def boss() -> Iterator[Receiver]:
    """Another one."""
    with receiver() as found:
        yield found


@pytest.fixture
def box() -> Iterator[Mailbox]:
    """A mail server."""
    with mail_server() as found:
        yield found
