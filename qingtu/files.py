"""What the file system promises: one process at a time, and names that outlive a power cut. Light to import."""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def lock(path: Path) -> IO[str]:
    """Open a file for appending, made when absent, and lock it: until it is closed, or this process ends anyhow.

    Raises:
        BlockingIOError: another process has it; what that one wrote into it can be read.
        OSError: it cannot be written, or the file system has no locks.
    """
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file; an absent one is nobody's."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def sync(path: Path) -> None:
    """Make a file's bytes durable, or a folder's names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
