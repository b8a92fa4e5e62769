"""Whether a mosquitto on this machine can use what was written: its account may read it, and its own folder is there.

mosquitto 2.0 that root starts gives root up before it opens these files, and a folder for its sessions that is not
there stops nothing: it runs and saves nothing, without a word. Only mode bits are looked at, no access lists.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qingtu.broker.certificates import CERTIFICATE, KEY
from qingtu.broker.folder import ACL, CONF, PASSWORDS

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNT: Final = "mosquitto"
"""What mosquitto calls itself unless mosquitto.conf names another ``user``."""
FOR_BROKER: Final = (CONF, ACL, PASSWORDS, CERTIFICATE, KEY)
_READ, _WRITE, _PASS = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Who:
    """An account: its number and those of its groups."""

    uid: int
    gids: frozenset[int]

    def may(self, path: Path, wanted: int) -> bool:
        """Say whether mode bits allow it: 4 read, 2 write, 1 pass through a folder.

        Raises:
            OSError: we cannot look at it ourselves.
        """
        if self.uid == 0:
            return True
        found = path.stat()
        mode = stat.S_IMODE(found.st_mode)
        if self.uid == found.st_uid:
            mode >>= 6
        elif found.st_gid in self.gids:
            mode >>= 3
        return mode & wanted == wanted

    def stopped_by(self, path: Path, wanted: int) -> Path | None:
        """Return what keeps the account from a file or folder: one around it, or itself; None when nothing does."""
        path = path.resolve()
        shut = [folder for folder in reversed(path.parents) if not self.may(folder, _PASS)]
        return shut[0] if shut else None if self.may(path, wanted) else path


def account() -> Who | None:
    """Return mosquitto's account on this machine, if there is one."""
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None
    return Who(entry.pw_uid, frozenset(os.getgrouplist(ACCOUNT, entry.pw_gid)))


def store_notes(store: Path, who: Who | None) -> list[str]:
    """Say what is wrong with the folder for mosquitto's sessions, and how to make it."""
    make = f"install -d -o {ACCOUNT} -g {ACCOUNT} -m 750 {store}"
    try:
        there = store.is_dir()
        stopped = who.stopped_by(store, _READ | _WRITE | _PASS) if there and who is not None else None
    except PermissionError as error:
        return [f"会话目录无法查看 / the folder for sessions cannot be looked at: {error.filename}: {error.strerror}"]
    if not there:
        text = (
            f"本机没有会话目录 {store}, mosquitto 照常启动, 但不保存会话与队列 / this machine has no folder {store}: "
            f"mosquitto starts all the same and saves no session and no queue. Make it: '{make}'; give --at when the "
            "broker is not on this machine"
        )
        return [text]
    if stopped is None:
        return []
    text = (
        f"账号 {ACCOUNT} 不能写会话目录 / the account {ACCOUNT} cannot write {store} ({stopped} is closed to it), and "
        f"saves nothing. Mend it: '{make}'"
    )
    return [text]


def file_notes(folder: Path, who: Who | None) -> list[str]:
    """Say which files of the configuration mosquitto's account could not read, and how to change that."""
    if who is None:
        return []
    files = [folder / name for name in FOR_BROKER if (folder / name).is_file()]
    shut = {file: place for file in files if (place := who.stopped_by(file, _READ)) is not None}
    if not shut:
        return []
    around = next((place for place in shut.values() if place.is_dir() and place != folder.resolve()), None)
    if around is not None:
        way = f"{around} is closed to it: choose another folder with --out, such as /etc/mosquitto/qingtu"
    else:
        names = " ".join(str(file) for file in shut)
        way = f"'chgrp {ACCOUNT} {folder} {names} && chmod g+rxs {folder} && chmod g+r {names}'"
    text = (
        f"账号 {ACCOUNT} 读不到, 作为服务或由 root 启动会失败 / the account {ACCOUNT} cannot read "
        f"{', '.join(file.name for file in shut)}: mosquitto does not start as a service or by root. Mend it: {way}"
    )
    return [text]
