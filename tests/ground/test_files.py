"""What the file system promises: folders for a while, which no killed process leaves behind for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from qingtu.files import scratch

if TYPE_CHECKING:
    from pathlib import Path

_HOLD = """
import sys
from pathlib import Path
from qingtu.files import scratch
with scratch(Path(sys.argv[1]), "try-") as folder:
    (folder / "large").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Not the folder of a process that lives, nor one that is too young to be locked, nor one of another name."""
    kept = tmp_path / "trysts"
    kept.mkdir()
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        folders = []
        for holder in holders:
            assert holder.stdout is not None
            folders.append(tmp_path / holder.stdout.readline().strip())
        holders[0].kill()
        holders[0].wait()
        with scratch(tmp_path, "try-") as young:
            assert folders[0].exists()
        assert not young.exists()
        for folder in [*folders, kept]:
            os.utime(folder, (0, 0))
        with scratch(tmp_path, "try-"):
            assert [folder.exists() for folder in (*folders, kept)] == [False, True, True]
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
