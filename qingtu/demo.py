"""The demonstration: a whole system with a simulated city, in a temporary folder, judged by its own ground truth."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import stations
from qingtu.commands.host import Host, StopSignals, free_port, port_free
from qingtu.demo_outcome import StoreOutcome
from qingtu.errors import StartError
from qingtu.settings import MqttSettings, Settings, WebSettings
from simulators.run import SimulateOptions, simulate
from simulators.truth import Truth, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.progress import Progress

_ARRIVE_S: Final = 60.0
_PREFIX: Final = "qingtu-demo-"
_WEB_PORT: Final = 8620
_MQTT_PORT: Final = 1883


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What to demonstrate.

    Attributes:
        seed: of the simulated city.
        faults: rates by fault.
        history_h: hours of the past that are published first.
        for_s: ends by itself after so many seconds of publishing, history included; None: when stopped.
        port: of the page; None takes 8620, or any free one when that is taken. 0: any free one.
        broker: which embedded one to start.
    """

    seed: int = 1
    faults: Mapping[str, float] = field(default_factory=dict)
    history_h: float = 24.0
    for_s: float | None = None
    port: int | None = None
    broker: Literal["auto", "mosquitto", "iotcore"] = "auto"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came of it.

    Attributes:
        ledger: as :meth:`qingtu.ledger.Ledger.report`.
        injected: faults by name.
        differences: between the ground truth and what the system made of it, one sentence each.
        published: messages handed to the broker.
    """

    ledger: dict[str, Any]
    injected: Mapping[str, int]
    differences: list[str]
    published: int

    @property
    def good(self) -> bool:
        """Whether the ledger balances, nothing is in flight, and every fault had its expected outcome."""
        return bool(self.ledger["balanced"] and self.ledger["messages"]["in_flight"] == 0 and not self.differences)

    def to_json(self) -> dict[str, Any]:
        """Return the ledger, with what became of the faults beside it."""
        return {**self.ledger, "faults": {"injected": dict(self.injected), "unexpected": self.differences}}


def run_demo(options: DemoOptions, say: Callable[[str], None], progress: Progress, signals: StopSignals) -> DemoResult:
    """Run until ``for_s`` is over or the signals' event is set; leaves no process and no file.

    Args:
        options: what to show.
        say: is told, in both languages, what a person should know.
        progress: bars of the simulator are added.
        signals: Ctrl-C and SIGTERM; a second one ends everything at once.

    Raises:
        StartError: a port that was asked for is taken, or a folder cannot be made.
    """
    folder = _folder()
    try:
        with Host(_settings(options, folder)) as host:
            signals.hard = lambda: _end_hard(host, folder)
            _tell(host, say)
            simulation = _Simulation(options, host, folder / "truth.jsonl", progress, signals.event)
            simulation.run()
            say("正在结束 / stopping: 已收到的消息处理完毕后退出 / what was taken is finished first")
            _arrive(host, simulation.published)
            ledger = host.stop()
            truth = Truth.load(folder / "truth.jsonl")
            differences = compare(truth, StoreOutcome(host.service, ledger, truth))
            return DemoResult(ledger, truth.totals.by_fault, differences, truth.totals.published)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Simulation:
    """The simulator in its own thread, so that signals reach the main thread at once.

    Attributes:
        published: messages that the broker acknowledged, after :meth:`run`.
    """

    def __init__(
        self, options: DemoOptions, host: Host, truth: Path, progress: Progress, stop: threading.Event
    ) -> None:
        broker = host.service.broker
        assert broker is not None  # the demonstration starts one
        self._options = SimulateOptions(
            catalogue=host.service.catalogue, seed=options.seed, faults=options.faults, history_h=options.history_h,
            for_s=options.for_s, truth=truth, host=broker.host, port=broker.port,
            version=broker.adapt(host.service.settings.mqtt).version, window=5000,
        )  # fmt: skip
        self._progress, self._stop = progress, stop
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._simulate, name="simulator", daemon=True)
        self.published = 0

    def run(self) -> None:
        """Simulate until the time is over or the event is set; raises what the simulator raised."""
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(0.2)
        if self._error is not None:
            raise self._error

    def _simulate(self) -> None:
        try:
            summary = simulate(self._options, self._progress, stop=self._stop)
            self.published = summary.totals.acknowledged - summary.refused
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._error = error


def _settings(options: DemoOptions, folder: Path) -> Settings:
    mqtt_port = _MQTT_PORT if port_free(_MQTT_PORT) else free_port()
    web_port = options.port
    if web_port is None:
        web_port = _WEB_PORT if port_free(_WEB_PORT) else 0
    return Settings(
        data=folder,
        catalogue=Path(stations.__file__).parent,
        mqtt=MqttSettings(port=mqtt_port, embedded=options.broker),
        web=WebSettings(port=web_port),
    )


def _folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    except OSError as error:
        raise StartError(
            f"无法建立临时目录 / no temporary folder can be made: {error.strerror}; "
            "set TMPDIR to a folder that can be written"
        ) from error


def _tell(host: Host, say: Callable[[str], None]) -> None:
    broker = host.service.broker
    assert broker is not None
    say(f"{broker.note_zh} / {broker.note_en} ({broker.host}:{broker.port})")
    say("演示目录, 站点与数据均为虚构 / demonstration: made-up stations and data")
    say(f"地图 map: {host.page}")
    say("Ctrl-C 结束 / ends everything")


def _arrive(host: Host, published: int) -> None:
    """Wait until what the broker acknowledged has come to us: it hands on a little later than it acknowledges."""
    deadline = time.monotonic() + _ARRIVE_S
    while time.monotonic() < deadline:
        if host.service.ledger.summary()["messages"]["received"] >= published:
            return
        time.sleep(0.05)


def _end_hard(host: Host, folder: Path) -> None:
    """End the broker, which lives in a session of its own, and remove the folder; for a second Ctrl-C."""
    if host.service.broker is not None:
        host.service.broker.stop()
    shutil.rmtree(folder, ignore_errors=True)
