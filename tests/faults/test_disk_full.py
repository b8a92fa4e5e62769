"""The disk of the data folder fills up and is freed again: nothing lost, nothing twice, it heals by itself.

The data folder stands on a small tmpfs in a mount namespace of its own (``unshare -rm``).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from .harness import World

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.faults

_WRAPPER = """
set -e
data=$1; control=$2; shift 2
mkdir -p "$data" "$control"
mount -t tmpfs -o size=160m tmpfs "$data"
"$@" &
pid=$!
trap 'kill -TERM $pid' TERM
set +e
while kill -0 $pid 2>/dev/null; do
  if [ -e "$control/fill" ]; then
    dd if=/dev/zero of="$data/ballast" bs=64k 2>/dev/null
    mv "$control/fill" "$control/filled"
  fi
  if [ -e "$control/free" ]; then
    rm -f "$data/ballast"
    mv "$control/free" "$control/freed"
  fi
  sleep 0.1
done
wait $pid
code=$?
cp -a "$data/." "$control/saved"
exit $code
"""


def _namespaces() -> bool:
    tool = shutil.which("unshare")
    if tool is None:
        return False
    tried = subprocess.run(
        [tool, "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.05)


def test_disk_full_and_freed(tmp_path: Path) -> None:
    """While the disk is full nothing is acknowledged that is not durable; when it is freed all is stored once."""
    if not _namespaces():
        pytest.skip("no mount namespaces for this user (unshare -rm): the disk cannot be filled without harm")
    control = tmp_path / "control"
    scene = tmp_path / "scene"
    prefix = ("unshare", "-rm", "sh", "-c", _WRAPPER, "wrapper", str(scene / "data"), str(control))
    world = World(scene, settings=("QINGTU_BUS__FREE_FLOOR_MB=16",), prefix=prefix)
    count, rate = 12_000, 1500
    try:
        world.start_broker()
        world.start_service()
        time.sleep(1)
        world.start_publisher(count, start_ms=int(time.time()) * 1000 - 30_000, rate=rate)
        time.sleep(2)
        (control / "fill").touch()
        _wait_for(control / "filled")
        time.sleep(4)
        (control / "free").touch()
        _wait_for(control / "freed")
        assert world.published()["acknowledged"] == count
        time.sleep(15)
        world.stop_service()
        shutil.rmtree(world.data, ignore_errors=True)
        shutil.copytree(control / "saved", world.data)
        world.outcome().check(world.acked())
    finally:
        world.end()
