"""Brings a folder in line with the accounts and options, keeping the passwords that are there.

::

    mosquitto.conf      the broker's configuration
    acl                 who may do what
    passwords           hashed
    credentials.csv     in clear text, those made or changed since the file was last taken away; for the owner alone
    USER.password       of each gateway whose settings name no password_file; for the owner alone
    server.pem, .key    the certificate (the operator's, or made for a trial beside ca.pem and ca.key)
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qingtu.broker.acl import acl_text
from qingtu.broker.config import mosquitto_conf
from qingtu.broker.passwords import hashed, new_password, password_text, read_passwords, verified
from qingtu.errors import NotFound, StartError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from qingtu.broker.acl import Account
    from qingtu.broker.config import BrokerOptions

CONF: Final = "mosquitto.conf"
ACL: Final = "acl"
PASSWORDS: Final = "passwords"
CREDENTIALS: Final = "credentials.csv"

_FOR_BROKER: Final = 0o640
"""The broker's own group reads them: give the folder that group and the set-group-id bit."""
_FOR_OWNER: Final = 0o600
_HEAD: Final = ("user", "password", "publish", "commands")


@dataclass(slots=True)
class Plan:
    """What stands in the folder and what should.

    Attributes:
        accounts: all that should exist.
        texts: file name → content, of configuration and access control.
        changed: names of those files that differ or are absent.
        kept: user → hash that stays.
        new: users without a password so far.
        rotated: users that are to get another.
        mended: gateways whose password file says another password than the broker's file.
        removed: users of the password file that should not exist.
        gateway_files: gateway's user → file with its password.
    """

    accounts: Sequence[Account]
    texts: Mapping[str, str]
    changed: list[str]
    kept: dict[str, str]
    new: list[str]
    rotated: list[str]
    mended: list[str]
    removed: list[str]
    gateway_files: Mapping[str, Path]
    written: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.changed or self.new or self.rotated or self.mended or self.removed)


def plan(
    folder: Path,
    made: Sequence[Account],
    options: BrokerOptions,
    *,
    gateway_files: Mapping[str, Path],
    rotate: Collection[str] = (),
) -> Plan:
    """Compare; nothing is written.

    Args:
        folder: of the configuration; need not exist.
        made: all accounts.
        options: of mosquitto.conf.
        gateway_files: gateway's user → file with its password, which may not exist yet.
        rotate: users that are to get another password.

    Raises:
        NotFound: a user to rotate does not exist.
        ConfigError: the password file there is damaged.
    """
    users = {account.user: account for account in made}
    for user in rotate:
        if user not in users:
            raise NotFound(f"没有账号 / there is no account {user!r}; a device's is NETWORK/DEVICE")
    there = read_passwords(folder / PASSWORDS)
    texts = {CONF: mosquitto_conf(options), ACL: acl_text(made)}
    kept, new, mended = {}, [], []
    for user in users:
        stored = there.get(user)
        if user in rotate:
            continue
        if user in gateway_files and gateway_files[user].is_file():
            # the gateway logs in with what its file says: the broker's file follows
            if stored is None or not verified(_secret(gateway_files[user]), stored):
                mended.append(user)
                continue
        elif stored is None or user in gateway_files:
            new.append(user)
            continue
        kept[user] = stored
    return Plan(
        made, texts, [name for name, text in texts.items() if _read(folder / name) != text],
        kept, new, sorted(rotate), mended, sorted(set(there) - set(users)), gateway_files,
    )  # fmt: skip


def apply(planned: Plan, folder: Path) -> list[str]:
    """Write what differs; a crash leaves whole files, and at worst passwords that the next run makes anew.

    Returns:
        names of the files written.

    Raises:
        StartError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        return _apply(planned, folder)
    except OSError as error:
        raise StartError(
            f"不可写 / cannot be written: {error.filename}: {error.strerror}; choose another folder with --out"
        ) from error


def _apply(planned: Plan, folder: Path) -> list[str]:
    written = []
    clear: dict[str, str] = {}
    passwords = dict(planned.kept)
    for user in (*planned.new, *planned.rotated, *planned.mended):
        file = planned.gateway_files.get(user)
        password = _secret(file) if file is not None and user in planned.mended else new_password()
        passwords[user] = hashed(password)
        if file is None:
            clear[user] = password
        elif user not in planned.mended:
            _write(file, password + "\n", _FOR_OWNER)
            written.append(file.name)
    # Clear text first: a password that only its hash remembers is lost.
    gone = {*clear, *planned.removed}
    rows = {row[0]: row for row in _rows(folder / CREDENTIALS) if row[0] not in gone}
    if clear or len(rows) < len(_rows(folder / CREDENTIALS)):
        grants = {account.user: dict(_named(account)) for account in planned.accounts}
        for user, password in clear.items():
            rows[user] = [user, password, grants[user].get("write", ""), grants[user].get("read", "")]
        _write(folder / CREDENTIALS, _csv([list(_HEAD), *rows.values()]), _FOR_OWNER)
        written.append(CREDENTIALS)
    if clear or planned.new or planned.rotated or planned.mended or planned.removed:
        _write(folder / PASSWORDS, password_text(passwords), _FOR_BROKER)
        written.append(PASSWORDS)
    for name in planned.changed:
        _write(folder / name, planned.texts[name], _FOR_BROKER)
        written.append(name)
    return written


def _named(account: Account) -> list[tuple[str, str]]:
    return [
        (access, " ".join(name for other, name in account.grants if other == access)) for access in ("write", "read")
    ]


def _secret(file: Path) -> str:
    """Return a password as the gateway reads it from its file."""
    return file.read_text(encoding="utf-8").rstrip("\r\n")


def _rows(file: Path) -> list[list[str]]:
    text = _read(file) or ""
    return [row for row in csv.reader(io.StringIO(text)) if len(row) == len(_HEAD)][1:]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    """Write rows. No cell can be a formula to a spreadsheet: users begin with a letter or digit, see ``acl.py``."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _write(file: Path, text: str, mode: int) -> None:
    """Replace a file at once; one that is there keeps its owner, group and mode if we may give them."""
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as out:
        if file.exists():
            was = file.stat()
            os.fchmod(out.fileno(), was.st_mode & 0o777)
            if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
                os.fchown(out.fileno(), was.st_uid, was.st_gid)
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)
