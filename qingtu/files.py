"""What the file system promises: one process at a time, and names that outlive a power cut. Light to import."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK: Final = "lock"
_YOUNG_S: Final = 60.0
"""A folder may be so young that its maker has not locked it yet."""


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


@contextmanager
def scratch(folder: Path, prefix: str) -> Iterator[Path]:
    """Give a new folder within another one for as long as this lasts; what killed processes left there is removed.

    Args:
        folder: on whose disk it is to be.
        prefix: of its name, and of those that are looked for.

    Raises:
        OSError: it cannot be made.
    """
    for left in folder.glob(f"{prefix}*"):
        _remove_forsaken(left)
    with TemporaryDirectory(prefix=prefix, dir=folder) as name, lock(Path(name) / _LOCK):
        yield Path(name)


def _remove_forsaken(folder: Path) -> None:
    """Remove a folder of :func:`scratch` whose process is gone."""
    try:
        made_s = folder.stat().st_mtime
    except FileNotFoundError:  # its process has just ended
        return
    if time.time() - made_s > _YOUNG_S and not is_locked(folder / _LOCK):
        shutil.rmtree(folder, ignore_errors=True)  # another one may be at it, too; what is left is met again
