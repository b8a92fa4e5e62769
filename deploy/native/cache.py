"""The user's cache of servers that were fetched or built: ``$QINGTU_HOME/servers`` or ``~/.cache/qingtu/servers``."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qingtu.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
"""Of the checkout."""


def home() -> Path:
    """Return the folder that belongs to us in the user's cache; it need not exist."""
    named = os.environ.get("QINGTU_HOME")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "qingtu"


def servers() -> Path:
    """Return the folder of fetched and built servers; it need not exist."""
    return home() / "servers"


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """Keep other processes from filling the same part of the cache; they wait.

    Args:
        name: of the part.

    Yields:
        the folder of the cache, which exists then.

    Raises:
        StartError: the folder cannot be written.
    """
    folder = servers()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{name}.lock").open("a")
    except OSError as error:
        raise StartError(
            f"缓存目录不可写 / the cache {folder} cannot be written: {error.strerror}; name another in QINGTU_HOME"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
