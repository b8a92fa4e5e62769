"""Passwords for devices: made at random, and kept as mosquitto keeps them.

mosquitto 2.0 writes one line an account, ``user:$7$ITERATIONS$SALT$HASH``: PBKDF2 with HMAC-SHA-512, 64 bytes out,
salt and hash in base64 (mosquitto 2.0.11, ``src/password_mosq.c``). It takes salts of exactly 12 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Final

from qingtu.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ITERATIONS: Final = 101
"""mosquitto_passwd's own number. A guesser of 160 random bits is not stopped by more rounds, but the broker is one
thread: when ten thousand devices come back at once, every round is paid ten thousand times."""
_SALT_BYTES: Final = 12
_HASH_BYTES: Final = 64
_SCHEME: Final = "7"
_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 signs that nobody mistakes for another when typing them into a device: no l, o, 0, 1."""
_LENGTH: Final = 32


def new_password() -> str:
    """Return a random password of 160 bits, letters and digits only."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def hashed(password: str) -> str:
    """Return the password as it stands in mosquitto's password file, after the colon."""
    salt = secrets.token_bytes(_SALT_BYTES)
    key = _derived(password, salt, ITERATIONS)
    return f"${_SCHEME}${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def verified(password: str, stored: str) -> bool:
    """Say whether a password is the one of which :func:`hashed` or mosquitto_passwd made ``stored``."""
    parts = stored.split("$")
    if len(parts) != 5 or parts[1] != _SCHEME or not parts[2].isdecimal():
        return False
    try:
        salt, key = base64.b64decode(parts[3], validate=True), base64.b64decode(parts[4], validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(_derived(password, salt, max(1, int(parts[2]))), key)


def read_passwords(path: Path) -> dict[str, str]:
    """Return user → hash of a password file; empty when there is none.

    Raises:
        ConfigError: lines that are not of this form; with all of them.
    """
    if not path.exists():
        return {}
    out: dict[str, str] = {}
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line or line.startswith("#"):
            continue
        user, colon, stored = line.partition(":")
        if not colon or not stored.startswith("$"):
            # what stands there may be a password in clear text: it is not repeated here
            problems.append(Problem(str(path), number, "password", "", "must be user:$7$… as mosquitto_passwd writes"))
        out[user] = stored
    if problems:
        raise ConfigError(problems)
    return out


def password_text(passwords: Mapping[str, str]) -> str:
    """Write a password file, sorted by user."""
    return "".join(f"{user}:{passwords[user]}\n" for user in sorted(passwords))


def _derived(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, _HASH_BYTES)
