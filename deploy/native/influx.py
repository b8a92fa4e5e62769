"""InfluxDB 2.7: a given binary, one from the cache, one that lies beside the checkout, or one built from its module.

The server is set up on its first start, with an organisation, a bucket and a random admin token. The settings that are
the same everywhere stand in ``deploy/influxdb/config.yml``.
"""

from __future__ import annotations

import json
import lzma
import os
import platform
import secrets
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from deploy.native import cache
from deploy.native.process import LOCAL, Server
from qingtu.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VERSION: Final = "2.7.12"
CONFIG: Final = cache.ROOT / "deploy" / "influxdb" / "config.yml"
BUILD: Final = cache.ROOT / "deploy" / "influxdb" / "build_influxd.sh"
BUILD_TOOLS: Final = ("go", "cargo", "gcc", "pkg-config")
MISSING: Final = (
    f"没有 InfluxDB {VERSION} / no influxd {VERSION}: name one in QINGTU_INFLUXD, or let make services build it "
    "(about 15 minutes, once)"
)
_BESIDE: Final = cache.ROOT.parent / "shared" / "services" / f"influxd-{VERSION}-linux-amd64.xz"
_BESIDE_SHA256: Final = "10725172aa83ffa19110a679b1b8ba39be8b30aff0d2424048a9d77d4d47bcec"


class InfluxServer(Server):
    """An InfluxDB server, set up.

    Args:
        folder: see :class:`~deploy.native.process.Server`; also keeps `token` and `password` of the user `admin`.
        port: to listen on; None takes a free one.

    Attributes:
        org: the organisation that is made.
        bucket: the bucket that is made, which keeps for ever.
    """

    title: ClassVar[str] = f"InfluxDB {VERSION}"
    org: Final = "qingtu"
    bucket: Final = "qingtu"
    user: Final = "admin"

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://{LOCAL}:{self.port}"

    @property
    def token(self) -> str:
        """The admin token; it exists after the first start."""
        return self.token_file.read_text(encoding="utf-8").strip()

    @property
    def token_file(self) -> Path:
        """Where the admin token is kept, readable by the owner alone."""
        return self.folder / "token"

    @classmethod
    def available(cls) -> str | None:
        """Return None when a binary is there or lies beside the checkout."""
        if named := os.environ.get("QINGTU_INFLUXD"):
            if os.access(named, os.X_OK) and Path(named).is_file():
                return None
            return f"QINGTU_INFLUXD 不可执行 / QINGTU_INFLUXD={named} is not a program"
        return None if cached().exists() or _beside() else MISSING

    def _command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        command = [
            str(program()),
            f"--http-bind-address={LOCAL}:{self.port}",
            f"--bolt-path={self.data}/influxd.bolt",
            f"--sqlite-path={self.data}/influxd.sqlite",
            f"--engine-path={self.data}/engine",
        ]
        # it leaves a .cache in its home
        return command, {"INFLUXD_CONFIG_PATH": str(CONFIG), "HOME": str(self.data)}

    def _answers(self) -> bool:
        try:
            return bool(self._ask("/health")["status"] == "pass")
        except (OSError, ValueError, KeyError):
            return False

    def _started(self) -> None:
        if not self._ask("/api/v2/setup")["allowed"]:
            if not self.token_file.exists():
                raise StartError(f"缺少令牌 / {self.data} was set up before, but its token {self.token_file} is gone")
            return
        password = secrets.token_urlsafe(24)
        token = secrets.token_urlsafe(48)
        # kept before they count: killed in between, the next start finds a server that was not set up
        _keep(self.folder / "password", password)
        _keep(self.token_file, token)
        names = {"username": self.user, "org": self.org, "bucket": self.bucket}
        self._ask("/api/v2/setup", {**names, "password": password, "token": token, "retentionPeriodSeconds": 0})

    def _ask(self, path: str, data: Mapping[str, Any] | None = None) -> Any:
        body = json.dumps(data).encode() if data is not None else None
        with urllib.request.urlopen(self.url + path, body, timeout=10) as answer:  # noqa: S310 - our own http address
            return json.load(answer)


def cached() -> Path:
    """Return where the binary stands in the cache; it need not exist."""
    return cache.servers() / f"influxd-{VERSION}"


def place() -> Path:
    """Return where the binary is or will be unpacked to."""
    named = os.environ.get("QINGTU_INFLUXD")
    return Path(named).absolute() if named else cached()


def program() -> Path:
    """Return the path of influxd; one that lies packed beside the checkout is unpacked into the cache first.

    Raises:
        StartError: there is none.
    """
    if place().exists():
        return place()
    if not _beside():
        raise StartError(MISSING)
    with cache.locked("influxd") as folder:
        if not cached().exists():
            if cache.sha256(_BESIDE) != _BESIDE_SHA256:
                raise StartError(f"文件与固定的校验和不符 / {_BESIDE} is not the build that was pinned")
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as made, lzma.open(_BESIDE) as packed:
                shutil.copyfileobj(packed, made, 1 << 20)
            _install(Path(made.name))
    return cached()


def build(say: Callable[[str], None]) -> None:
    """Build the binary from the Go module into the cache: about 15 minutes on two cores, 2.5 GB of Go's own caches.

    Args:
        say: called with each line that the build prints.

    Raises:
        StartError: a tool is missing, or the build failed.
    """
    if missing := [tool for tool in BUILD_TOOLS if shutil.which(tool) is None]:
        raise StartError(
            f"缺少构建工具 / to build InfluxDB {VERSION}, these are missing: {', '.join(missing)} (Go 1.23 or newer; "
            "apt-get install golang cargo gcc pkg-config); or name a binary in QINGTU_INFLUXD"
        )
    with cache.locked("influxd") as folder:
        if cached().exists():
            return
        with tempfile.TemporaryDirectory(dir=folder, prefix="influxd-") as made:
            binary = Path(made) / "influxd"
            said = [""]
            command = ["/bin/sh", str(BUILD), str(binary)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:  # noqa: S603
                assert run.stdout is not None
                for line in run.stdout:
                    said.append(line)
                    say(line.rstrip())
            if run.returncode:
                raise StartError(f"构建失败 / building InfluxDB failed:\n{''.join(said[-15:])}")
            _install(binary)


def _beside() -> bool:
    return platform.system() == "Linux" and platform.machine() == "x86_64" and _BESIDE.is_file()


def _install(binary: Path) -> None:
    binary.chmod(0o755)
    binary.rename(cached())


def _keep(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
