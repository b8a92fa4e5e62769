"""How much memory that was let go of the C library keeps for the next one who asks."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_MIB: Final = 1024 * 1024
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Numbers of glibc's malloc.h."""
_LARGE: Final = 4 * _MIB
"""From here on memory is asked of the system and given back one by one; what a frame needs is smaller."""
_KEPT: Final = 8 * _MIB
"""So much may lie unused at the end of each thread's heap."""


def keep_little() -> bool:
    """Give large memory back to the system at once; False where the C library is not one that can be told.

    By itself glibc learns from each large array that is let go: the next ones, of up to 32 MiB, come from the heap of
    their thread, and 64 MiB may lie unused at the end of each heap. One rare large merge, or a backlog that is worked
    off, made the process larger for good.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # such as musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE) and mallopt(_TRIM_THRESHOLD, _KEPT))
