"""The data folder: one process at a time, its lock, its secret, its tokens, and the archive of catalogues.

::

    data/lock            held while a process uses the folder; holds its pid
    data/service.json    address and token of the running process, for the CLI
    data/secret          key of the pseudonyms
    data/tokens          lines "name: token" of those who may act
    data/catalogues/     every catalogue version that was ever used, as JSON
    data/bus/ data/qingtu.duckdb data/broker/
    data/generations/    what `qingtu replay` makes
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from typing import TYPE_CHECKING, Any, Final

from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.errors import ConfigError, NotFound, RetryLater, StartError
from qingtu.files import lock, sync

if TYPE_CHECKING:
    from pathlib import Path


_KEY_BYTES: Final = 16
"""Of a secret at least: with a short one, pseudonyms could be undone by trying keys."""
_LOOK_AGAIN_S: Final = 2.0


class DataFolder:
    """A data folder that this process has for itself.

    Args:
        path: created when absent, for its owner alone: raw bytes, pseudonyms and tokens are nobody else's business.

    Raises:
        StartError: not writable, or in use by another process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            self._lock = lock(path / "lock")
        except BlockingIOError as error:
            pid = (path / "lock").read_text(encoding="utf-8").strip() or "?"
            raise StartError(
                f"数据目录正被进程 {pid} 使用 / data folder {path} is in use by process {pid}: "
                "stop it, or choose another with --data"
            ) from error
        except OSError as error:
            raise StartError(
                f"数据目录不可写 / data folder {path} cannot be written: {error.strerror}; choose another with --data"
            ) from error
        try:
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()
        except OSError as error:
            raise _full(path, error) from error
        self._catalogues: dict[str, Catalogue] = {}
        self._fetching = threading.Lock()

    def secret(self, file: Path | None) -> bytes:
        """Return the key of the pseudonyms; made on first use, readable by the owner alone."""
        path = file or self.path / "secret"
        if not path.exists():
            if file is not None:
                raise StartError(f"没有此文件 / secret_file {file} does not exist")
            self._make(path, secrets.token_hex(32))
        key = path.read_text(encoding="utf-8").strip().encode()
        if len(key) < _KEY_BYTES:
            raise StartError(
                f"密钥太短 / the secret in {path} has {len(key)} bytes, pseudonyms need at least {_KEY_BYTES}: "
                "write a longer one"
            )
        return key

    def tokens(self, file: Path | None) -> dict[str, str]:
        """Return token → person. Without a file of one's own, one token for ``operator`` is made."""
        path = file or self.path / "tokens"
        if not path.exists():
            if file is not None:
                raise StartError(f"没有此文件 / web.tokens_file {file} does not exist")
            self._make(path, f"operator: {secrets.token_urlsafe(24)}\n")
        out = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            name, colon, token = line.partition(":")
            if not line.strip() or line.startswith("#"):
                continue
            if not colon or len(token.strip()) < 16:
                raise StartError(
                    f"{path}:{number}: 须写为 '姓名: 口令', 口令至少 16 个字符 / write 'name: token', a token has at "
                    "least 16 characters"
                )
            out[token.strip()] = name.strip()
        return out

    def archive(self, catalogue: Catalogue) -> None:
        """Keep a catalogue version for ever."""
        folder = self.path / "catalogues"
        folder.mkdir(exist_ok=True)
        path = folder / f"{catalogue.version}.json"
        if not path.exists():
            part = path.with_suffix(".part")
            with part.open("w", encoding="utf-8") as file:
                file.write(catalogue.to_json())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync(folder)  # raw is about to name this version: it must not be there without it
        self._catalogues[catalogue.version] = catalogue

    def in_use_since_us(self, version: str) -> int:
        """Return when a catalogue that is archived here was first used here, µs UTC."""
        return (self.path / "catalogues" / f"{version}.json").stat().st_mtime_ns // 1000

    def catalogue(self, version: str) -> Catalogue:
        """Return an archived catalogue.

        Raises:
            NotFound: this version was never archived here.
        """
        if version not in self._catalogues:
            path = self.path / "catalogues" / f"{version}.json"
            if not path.exists():
                raise NotFound(
                    f"没有目录版本 {version}, 请从备份恢复 / catalogue {version} is not in {path.parent}: restore it "
                    "from a back-up"
                )
            self._catalogues[version] = Catalogue.from_json(path.read_text(encoding="utf-8"))
        return self._catalogues[version]

    def catalogue_in_force(self, version: str, source: Path) -> Catalogue:
        """Return the catalogue that raw names: from the archive, else from where its files stand. Any thread may call.

        Args:
            version: of it.
            source: the catalogue folder, where a change arrives; what is found there is archived.

        Raises:
            RetryLater: it is in neither yet. Whoever needs it waits: what came in is not to blame.
        """
        with self._fetching:
            try:
                return self.catalogue(version)
            except NotFound:
                pass  # it was made elsewhere: look where its files should be by now
            try:
                found = load_catalogue(source)
            except ConfigError as error:
                raise _not_here(version, f"{source}: {error.problems[0]}") from error
            if found.version != version:
                raise _not_here(version, f"{source} holds {found.version}")
            try:
                self.archive(found)
            except OSError as error:
                raise RetryLater(
                    f"数据目录不可写 / {self.path}: {error.strerror}", retry_after_s=_LOOK_AGAIN_S
                ) from error
            return found

    def _make(self, path: Path, text: str) -> None:
        try:
            _write_private(path, text)
        except OSError as error:
            raise _full(self.path, error) from error

    def announce(self, address: dict[str, Any]) -> None:
        """Write where the running service is, for the CLI."""
        _write_private(self.path / "service.json", json.dumps(address))

    def close(self) -> None:
        """Give the folder free."""
        (self.path / "service.json").unlink(missing_ok=True)
        self._lock.close()


def _not_here(version: str, found: str) -> RetryLater:
    return RetryLater(
        f"缺少目录版本 {version} / catalogue {version}, which the gateways use, is not here ({found}): copy its files",
        retry_after_s=_LOOK_AGAIN_S,
    )


def _full(path: Path, error: OSError) -> StartError:
    return StartError(f"数据目录写不进去 / data folder {path} cannot be written: {error.strerror}; free some space")


def _write_private(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
