"""A city's processes for tests: mosquitto, Kafka, and Qingtu's stages as processes of their own, on 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final

from tests.faults.harness import write_catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploy.native.influx import InfluxServer
    from deploy.native.kafka import KafkaServer
    from deploy.native.mosquitto import MosquittoServer

_READY_S: Final = 60
STATIONS: Final = 60


class Part:
    """One process of Qingtu with some stages. What it writes stands in ``log``."""

    def __init__(self, name: str, stages: str, settings: Path, environ: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.stages = stages
        self._settings = settings
        self._environ = environ
        self._folder = folder
        self.log = folder / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self._folder / self.name

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def start(self) -> None:
        """Start it; it works a moment later."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "qingtu.cli", "run", "--settings", str(self._settings), "--stages", self.stages,
                 "--data", str(self.data)],
                env={**self._environ, "QINGTU_KAFKA__MEMBER": self.name},
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def child(self) -> subprocess.Popen[bytes]:
        """The process; it was started."""
        assert self._child is not None
        return self._child

    def running(self) -> bool:
        """Return whether it runs."""
        return self._child is not None and self._child.poll() is None

    def kill(self) -> None:
        """End it without a word to it."""
        assert self.running(), f"{self.name} has ended by itself: see {self.log}"
        self.child.kill()
        self.child.wait()

    def pause(self) -> None:
        """Stop it as if its machine hung."""
        assert self.running(), f"{self.name} has ended by itself: see {self.log}"
        self.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.child.send_signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 60) -> int:
        """Ask it to end; return its exit code."""
        if self.running():
            self.child.send_signal(signal.SIGCONT)
            self.child.terminate()
            try:
                self.child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.child.returncode


class City:
    """All processes of one test. ``parts`` are by name; servers belong to whoever made them.

    Args:
        folder: for data and logs.
        kafka: running.
        mosquitto: running.
        prefix: of topics: several cities share one server.
        processors: processes with the stage ``process``.
        partitions: of each stream.
        influx: running, for the store; None: DuckDB.
        apart: environment of single processes, by name: the address of a proxy for one of them.
    """

    def __init__(
        self,
        folder: Path,
        kafka: KafkaServer,
        mosquitto: MosquittoServer,
        prefix: str,
        *,
        processors: int = 2,
        partitions: int = 4,
        stations: int = STATIONS,
        influx: InfluxServer | None = None,
        apart: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.catalogue = catalogue = write_catalogue(folder / "stations", stations)
        (folder / "tokens").write_text("tester: token-of-the-tester\n", encoding="utf-8")
        settings = folder / "qingtu.toml"
        settings.write_text(
            f'catalogue = "{catalogue}"\n[bus]\nkind = "kafka"\n[kafka]\nservers = ["{kafka.address}"]\n'
            f'prefix = "{prefix}"\npartitions = {partitions}\nsession_timeout_ms = 3000\n[mqtt]\n'
            f'host = "127.0.0.1"\nport = {mosquitto.port}\nclient_id = "{prefix}"\nkeepalive_s = 5\n'
            f'[web]\nport = 0\ntokens_file = "{folder / "tokens"}"\n[figures]\ntick_s = 1\n[store]\ncommit_ms = 300\n',
            encoding="utf-8",
        )
        self.settings = settings
        self._admin_token: Path | None = None
        if influx is not None:
            self._admin_token = influx.token_file
            with settings.open("a", encoding="utf-8") as file:
                file.write(
                    f'kind = "influx"\n[influx]\nurl = "{influx.url}"\norg = "{influx.org}"\n'
                    f'token_file = "{folder / "influx-token"}"\nbucket = "{prefix}"\nhourly = "{prefix}_h"\n'
                    f'daily = "{prefix}_d"\n[grafana]\ninflux_token_file = "{folder / "influx-read-token"}"\n'
                )
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("QINGTU_")}
        workers = {f"process{n}": "process" for n in range(processors)}
        names = {"gateway": "gateway", **workers, "map": "store,derive,web"}
        self.parts = {
            name: Part(name, stages, settings, {**self._environ, **(apart or {}).get(name, {})}, folder)
            for name, stages in names.items()
        }

    def command(self, *words: str, part: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``qingtu`` on the data folder of a process."""
        return subprocess.run(
            [sys.executable, "-m", "qingtu.cli", *words, "--settings", str(self.settings),
             "--data", str(self.parts[part].data)],
            env=self._environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def setup(self) -> str:
        """Run ``qingtu setup``; return what it said."""
        admin = () if self._admin_token is None else ("--admin-token-file", str(self._admin_token))
        done = subprocess.run(
            [sys.executable, "-m", "qingtu.cli", "setup", "--settings", str(self.settings), *admin],
            env=self._environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    def start(self) -> None:
        """Set up and start all processes; wait until messages are taken."""
        self.setup()
        for part in self.parts.values():
            part.start()
        self.wait(lambda: self.get("/api/status")["state"] == "ok", _READY_S)

    def get(self, path: str) -> Any:
        """Ask the API of the map's process."""
        return json.loads(self._ask(path, None))

    def text(self, path: str) -> str:
        """Return a page of the map's process."""
        return self._ask(path, None).decode()

    def post(self, path: str, body: Any = None) -> Any:
        """Act through the API, as the operator."""
        return json.loads(self._ask(path, json.dumps(body or {}).encode()))

    def _ask(self, path: str, body: bytes | None) -> bytes:
        at = json.loads((self.folder / "map" / "service.json").read_text(encoding="utf-8"))
        headers = {"Authorization": f"Bearer {at['token']}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{at['url'].rstrip('/')}{path}", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise OSError(f"{path}: {error.code} {error.read().decode(errors='replace')}") from error

    def ledger(self) -> Any:
        """Return the ledger."""
        return self.get("/api/ledger")

    def wait(self, condition: Any, timeout_s: float) -> None:
        """Wait until a condition holds; what cannot be asked yet does not hold."""
        deadline = time.monotonic() + timeout_s
        last: object = None
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
                last = None
            except (OSError, KeyError, ValueError) as error:
                last = error
            threading.Event().wait(0.2)
        logs = [f"--- {part.name}\n{part.log.read_text(errors='replace')[-1500:]}" for part in self.parts.values()]
        raise AssertionError("\n".join([f"not within {timeout_s} s (last: {last!r})", *logs]))

    def end(self) -> None:
        """Stop all processes, from the gateway on."""
        for part in self.parts.values():
            if part.running():
                part.stop()
