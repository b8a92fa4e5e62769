"""One Kafka node, broker and controller in one JVM, from the jars of Maven Central that ``deploy/kafka`` pins.

Tuned to be light: 256 MB of heap, the serial collector, only the quick compiler, and an archive of loaded classes,
which halves the processor time of a start. Its settings are ``deploy/kafka/server.properties``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from deploy.native import cache
from deploy.native.process import LOCAL, Server, free_port
from qingtu.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Progress = Callable[[int, int, str], None]

VERSION: Final = "4.4.0"
JAVA_MISSING: Final = "没有 Java / no Java (17 or newer): apt-get install openjdk-17-jre-headless"
MAVEN_MISSING: Final = "没有 Maven / no mvn to fetch Kafka's jars with: apt-get install maven"
_HERE: Final = cache.ROOT / "deploy" / "kafka"
POM: Final = _HERE / "pom.xml"
PINS: Final = _HERE / "jars.sha256"
PROPERTIES: Final = _HERE / "server.properties"
_JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_LOGGING: Final = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    # otherwise every start writes all settings with their values, 100 KB
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
)
_API_VERSIONS: Final = struct.pack(">ihhih", 11, 18, 0, 7, 1) + b"r"
"""A request that every broker answers, to anybody: length, key 18, version 0, correlation 7, client "r"."""


class KafkaServer(Server):
    """A Kafka node. Topics are not made by themselves.

    Args:
        folder: see :class:`~deploy.native.process.Server`.
        port: for clients; None takes a free one.
        heap: most memory for Java's objects, as Java writes it.
        doors: for each more door its port, and the port that clients who came through it are told to come to: that of a
            proxy before it, since Kafka's clients go where the server tells them.
    """

    title: ClassVar[str] = f"Kafka {VERSION}"

    def __init__(
        self, folder: Path, *, port: int | None = None, heap: str = "256m", doors: Sequence[tuple[int, int]] = ()
    ) -> None:
        super().__init__(folder, port=port)
        self._controller_port = free_port((self.port, *(n for door in doors for n in door)))
        self._heap = heap
        self._doors = tuple(doors)
        self._archiving: Path | None = None

    @property
    def address(self) -> str:
        """Host and port for clients."""
        return f"{LOCAL}:{self.port}"

    @classmethod
    def available(cls) -> str | None:
        """Return None when Java is there and the jars are in the cache."""
        if java() is None:
            return JAVA_MISSING
        if not fetched():
            return f"没有 Kafka 的 jar 文件 / Kafka's jars are not in {library()}: make services fetches them"
        return None

    def _command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        environ = {
            "BROKER_BIND": LOCAL,
            "BROKER_HOST": LOCAL,
            "BROKER_PORT": str(self.port),
            "BROKER_CONTROLLER_PORT": str(self._controller_port),
            "BROKER_DATA": str(self.data),
        }
        if not (self.data / "meta.properties").exists():
            self._format(environ)
        jvm = [*_JVM, *_LOGGING]
        if self._archiving is not None:
            jvm.append(f"-XX:ArchiveClassesAtExit={self._archiving}")
        elif (archive := _archive()).exists():
            # one that was made by another Java is passed over
            jvm += [f"-XX:SharedArchiveFile={archive}", "-Xlog:disable", "-Xlog:all=error:stderr"]
        program = ["-cp", _class_path(), "kafka.Kafka", str(PROPERTIES), *self._more_doors()]
        return [_java(), f"-Xmx{self._heap}", *jvm, *program], environ

    def _more_doors(self) -> list[str]:
        if not self._doors:
            return []
        listen = [("PLAINTEXT", self.port, self.port)]
        listen += [(f"DOOR{n}", port, told) for n, (port, told) in enumerate(self._doors)]
        settings = {
            "listeners": [f"{name}://{LOCAL}:{port}" for name, port, _ in listen]
            + [f"CONTROLLER://{LOCAL}:{self._controller_port}"],
            "advertised.listeners": [f"{name}://{LOCAL}:{told}" for name, _, told in listen],
            "listener.security.protocol.map": [f"{name}:PLAINTEXT" for name in (*(d[0] for d in listen), "CONTROLLER")],
        }
        return [word for key, values in settings.items() for word in ("--override", f"{key}={','.join(values)}")]

    def _format(self, environ: Mapping[str, str]) -> None:
        # "A" first: an id that began with "-" would be taken for an option
        cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(PROPERTIES)]
        done = subprocess.run(  # noqa: S603 - our own command
            [_java(), "-Xmx64m", *_JVM, "-cp", _class_path(), *tool],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StartError(f"Kafka 数据目录初始化失败 / Kafka could not format {self.data}:\n{done.stderr[-2000:]}")

    def _answers(self) -> bool:
        """Ask for API versions: the port is open long before the broker works."""
        try:
            with socket.create_connection((LOCAL, self.port), 1) as connection:
                connection.sendall(_API_VERSIONS)
                head = connection.recv(10, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(head) == 10 and struct.unpack(">iih", head)[1:] == (7, 0)


def java() -> str | None:
    """Return the path of java: that of JAVA_HOME, else the first on the path."""
    place = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{place}/bin") if place else shutil.which("java")


def library() -> Path:
    """Return the folder of the jars in the cache; it need not exist."""
    return cache.servers() / f"kafka-{VERSION}"


def pins() -> dict[str, str]:
    """Return the SHA-256 of each jar by its file name."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def fetched() -> bool:
    """Return whether the jars were fetched and compared with the pins as they are now."""
    stamp = library() / "verified"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _mark()


def fetch(progress: Progress) -> None:
    """Fetch the jars into the cache, compare each with its pin, and make the class archive. Nothing when all is there.

    Args:
        progress: called with how many jars are there, of how many, and what was fetched last.

    Raises:
        StartError: Java or Maven is missing, the network refuses, or a file is not the one that was pinned.
    """
    if java() is None:
        raise StartError(JAVA_MISSING)
    with cache.locked("kafka") as folder:
        if fetched():
            return
        if shutil.which("mvn") is None:
            raise StartError(MAVEN_MISSING)
        with tempfile.TemporaryDirectory(dir=folder, prefix="kafka-") as made:
            jars = Path(made) / "lib"
            _download(jars, progress)
            verify(jars)
            shutil.rmtree(library(), ignore_errors=True)
            jars.rename(library())
        (library() / "verified").write_text(_mark(), encoding="utf-8")
        _make_archive()


def verify(folder: Path) -> None:
    """Compare all files of a folder with the pins.

    Raises:
        StartError: a file is missing, too many, or not the one that was pinned.
    """
    found = {path.name: cache.sha256(path) for path in folder.glob("*.jar")}
    if wrong := sorted(name for name, _ in found.items() ^ pins().items()):
        names = ", ".join(dict.fromkeys(wrong))
        raise StartError(f"文件与固定的校验和不符 / not what {PINS.name} pins: {names}; nothing of it was kept")


def _download(folder: Path, progress: Progress) -> None:
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    command = ["mvn", "-B", "-f", str(POM), goal, "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    total, done, said = len(pins()), 0, [""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as maven:  # noqa: S603
        assert maven.stdout is not None
        for line in maven.stdout:
            said.append(line)
            done += "Copying " in line
            if found := re.search(r"(?:Downloaded from .*/|Copying )([\w.-]+\.jar)\b", line):
                progress(done, total, found[1])
    if maven.returncode:
        errors = [line for line in said if "ERROR" in line][:5] or said[-5:]
        raise StartError(f"下载 Kafka 失败 / Maven could not fetch Kafka's jars:\n{''.join(errors)}")


def _make_archive() -> None:
    """Start once and let Java write down the classes that it loaded. Without the file a start only takes longer."""
    with tempfile.TemporaryDirectory(prefix="qingtu-kafka-") as folder:
        server = KafkaServer(Path(folder))
        server._archiving = _archive()  # noqa: SLF001 - the only use
        with server:
            pass


def _archive() -> Path:
    return library() / "classes.jsa"


def _class_path() -> str:
    # in a fixed order: the class archive is only taken for the very same class path
    return os.pathsep.join(str(library() / name) for name in sorted(pins()))


def _java() -> str:
    found = java()
    assert found is not None, "start() asked available()"
    return found


def _mark() -> str:
    return json.dumps({"pins": hashlib.sha256(PINS.read_bytes()).hexdigest()})
