"""A private certificate authority and a server certificate for a trial, made with the ``openssl`` program.

A city that has an authority of its own, or a public name, brings its certificate instead.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qingtu.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

CERTIFICATE: Final = "server.pem"
KEY: Final = "server.key"
CA: Final = "ca.pem"
CA_KEY: Final = "ca.key"

_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}(?<!-))?(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*")
_CA_DAYS: Final = 3650
_SERVER_DAYS: Final = 397
"""What clients take at most from public authorities (CA/Browser Forum, 6.3.2), so nobody refuses it."""
_RENEW_S: Final = 30 * 86_400
_OPENSSL_S: Final = 60
_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def lacking(folder: Path, names: Sequence[str]) -> list[str]:
    """Return what a broker that is reached by these names still needs; empty when all is there.

    Args:
        folder: of the configuration.
        names: host names or IP addresses that the certificate must hold; empty: its names are not looked at.

    Raises:
        StartError: there is no openssl to look into the certificate with.
    """
    missing = [name for name in (CERTIFICATE, KEY) if not (folder / name).is_file()]
    if missing or not names:
        return [f"{name}: no such file" for name in missing]
    own = str(folder / CERTIFICATE)
    for name in names:
        option = "-checkip" if _is_address(name) else "-checkhost"
        said = _openssl("x509", "-in", own, "-noout", option, name)
        if "does match" not in said:
            return [f"{CERTIFICATE}: is not for {name}"]
    said = _openssl("x509", "-in", own, "-noout", "-checkend", str(_RENEW_S), may_fail=True)
    return [f"{CERTIFICATE}: ends within {_RENEW_S // 86_400} days"] if "will expire" in said else []


def make(folder: Path, names: Sequence[str]) -> list[str]:
    """Make an authority, if there is none, and a certificate for these names, unless a good one is there.

    Returns:
        names of the files that were written.

    Raises:
        StartError: no openssl, or it refuses, or a name is none.
    """
    for name in names:
        if not (_is_address(name) or _NAME.fullmatch(name)):
            raise StartError(f"{name!r} 不是主机名或 IP 地址 / is neither a host name nor an IP address")
    written = []
    if not ((folder / CA).is_file() and (folder / CA_KEY).is_file()):
        _make_authority(folder)
        written += [CA, CA_KEY]
    if written or lacking(folder, names):
        _make_server(folder, names)
        written += [CERTIFICATE, KEY]
    return written


def _make_authority(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as text:
        at = Path(text)
        _openssl(
            "req", "-x509", "-new", *_KEY, "-keyout", str(at / CA_KEY), "-out", str(at / CA),
            "-days", str(_CA_DAYS), "-subj", "/CN=Qingtu private CA", "-sha256",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        _place(at / CA_KEY, folder, 0o600)
        _place(at / CA, folder, 0o644)


def _make_server(folder: Path, names: Sequence[str]) -> None:
    shown = ",".join(f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names)
    with tempfile.TemporaryDirectory(dir=folder) as text:
        at = Path(text)
        (at / "ext").write_text(
            f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
            f"subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName={shown}\n",
            encoding="ascii",
        )
        _openssl(
            "req", "-new", *_KEY, "-keyout", str(at / KEY), "-out", str(at / "csr"), "-subj", "/CN=Qingtu MQTT broker"
        )
        _openssl(
            "x509", "-req", "-in", str(at / "csr"), "-CA", str(folder / CA), "-CAkey", str(folder / CA_KEY),
            "-CAserial", str(at / "serial"), "-CAcreateserial", "-days", str(_SERVER_DAYS), "-sha256",
            "-extfile", str(at / "ext"), "-out", str(at / CERTIFICATE),
        )  # fmt: skip
        _place(at / KEY, folder, 0o640)
        _place(at / CERTIFICATE, folder, 0o644)


def _place(made: Path, folder: Path, mode: int) -> None:
    made.chmod(mode)
    made.replace(folder / made.name)


def _openssl(*words: str, may_fail: bool = False) -> str:
    program = shutil.which("openssl")
    if program is None:
        raise StartError(
            "没有 openssl 程序 / there is no openssl program: install it (apt install openssl), or put your own "
            f"{CERTIFICATE} and {KEY} into the folder"
        )
    done = subprocess.run(  # noqa: S603 - our own words; names were checked
        [program, *words], capture_output=True, text=True, timeout=_OPENSSL_S, check=False, stdin=subprocess.DEVNULL,
        umask=0o077, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    if done.returncode and not may_fail:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StartError(f"openssl {words[0]} 失败 / failed: {said}")
    return done.stdout


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
