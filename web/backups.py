"""Back-ups of the service that runs, one at a time."""

from __future__ import annotations

import re
import shutil
import threading
from typing import TYPE_CHECKING, Final

from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SECOND, iso
from web.guard import ApiError

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.app import Service

_PART: Final = ".part"
"""End of the name of a folder that is not whole; no back-up may be called so."""


class Backups:
    """Copies a service's data into folders under ``data/backups``. Any thread may ask.

    Args:
        service: whose store, bus and catalogues are copied.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._folder = service.settings.data / "backups"
        self._running = threading.Lock()

    def clean(self) -> None:
        """Remove what a back-up that was killed left behind; the folder of one that runs stays."""
        if not self._running.acquire(blocking=False):
            return
        try:
            self._clean()
        finally:
            self._running.release()

    def make(self, name: str | None) -> Path:
        """Make a back-up and return its folder.

        Args:
            name: of the folder; None: the time.

        Raises:
            ApiError: 409, another one is being made, or there is one of this name.
        """
        # Not waited for: who asked would sit through somebody else's copy, and then make a second one of the same.
        if not self._running.acquire(blocking=False):
            raise ApiError(
                409, "backup_running", "另一备份正在进行, 请待其完成后重试",
                "another back-up is being made; ask again when it is done",
            )  # fmt: skip
        try:
            folder = self._folder / (name or _by_time(self._service.clock.now_us()))
            if folder.exists():
                zh, en = f"备份 {folder.name} 已存在", f"a back-up called {folder.name} is there already"
                raise ApiError(409, "backup_exists", zh, en)
            self._clean()
            self._copy(folder)
        finally:
            self._running.release()
        return folder

    def _copy(self, folder: Path) -> None:
        part = folder.with_name(folder.name + _PART)
        try:
            part.parent.mkdir(exist_ok=True)
            part.mkdir(mode=0o700)  # it may be moved out of the data folder, which is closed to others as well
            # The store first, raw last: what the later ones hold beyond the earlier is worked on after a restore.
            self._service.store.backup(part / "qingtu.duckdb")
            if isinstance(self._service.bus, SqliteBus):  # what stands on Kafka is kept, and copied, by Kafka
                self._service.bus.backup(part / "bus")
            shutil.copytree(self._service.settings.data / "catalogues", part / "catalogues")
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _clean(self) -> None:
        for left in self._folder.glob(f"*{_PART}"):
            shutil.rmtree(left, ignore_errors=True)


def _by_time(now_us: int) -> str:
    return re.sub(r"[^0-9TZ]", "", iso(now_us // SECOND * SECOND))
