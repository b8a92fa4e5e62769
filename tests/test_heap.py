"""What was let go of goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from qingtu.heap import keep_little

_SCRIPT = """
import ctypes
import numpy as np
from qingtu.heap import keep_little

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
assert keep_little()
np.ones(24 * 1024 * 1024, np.uint8)  # let go of at once; from this glibc would learn
before = mallinfo2().hblkhd
large = np.ones(8 * 1024 * 1024, np.uint8)
print((mallinfo2().hblkhd - before) >> 20)
"""


def test_a_large_array_is_apart_from_the_heap_also_after_a_larger_one() -> None:
    """So nothing that lies behind it keeps its memory in the process when it is let go of."""
    if not keep_little() or not _has_mallinfo2():
        pytest.skip("the C library is not glibc 2.33 or newer")
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 8


def _has_mallinfo2() -> bool:
    return hasattr(ctypes.CDLL(None), "mallinfo2")
