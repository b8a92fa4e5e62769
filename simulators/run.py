"""Run a simulated city against a broker: history as fast as it goes, then live, at a device's pace or a set rate.

The broker's PUBACK is what counts: at most ``window`` messages are under way without one, and after a broken
connection they are sent again with the same bytes. A broker that never comes back ends the run: see ``patience_s``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from qingtu.clock import HOUR, SECOND, SystemClock
from simulators.faults import FaultPlan
from simulators.publisher import Publisher
from simulators.truth import TruthWriter
from simulators.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from rich.progress import Progress

    from qingtu.catalogue import Catalogue
    from qingtu.clock import Clock
    from simulators.truth import Fact, Totals
    from simulators.world import Message

RATE_PROPERTIES = ("pm25", "pm10", "so2", "no2", "o3", "co", "air_temperature", "relative_humidity")
"""What the stations of a load test measure: eight readings a message, for ``synthetic_catalogue``."""
_LIVE_STEP_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What to simulate and where to publish it.

    Attributes:
        catalogue: stations and devices.
        seed: everything random follows from it.
        faults: rates by fault, from :func:`simulators.faults.parse_faults`.
        history_h: hours of the past to publish first, as fast as the broker takes them.
        live: go on in real time after the history.
        for_s: seconds of real time to simulate live; None: until stopped.
        rate: messages per second, evenly over all devices, in place of their own intervals.
        truth: ground-truth file to write.
        window: messages under way without PUBACK at most (the broker's Receive Maximum if that is lower).
        patience_s: waits so long for a PUBACK that is due, before the broker counts as gone; a run without end stays.
        host: of the broker.
        port: of the broker.
        client_id: MQTT client id.
        version: of MQTT; the embedded broker iotcore speaks only 3.1.1.
        username: or None.
        password: or None.
        tls: encrypt, and check the broker's certificate.
        ca_file: certificates to trust; None: those of the system.
        cert_file: own certificate, or None.
        key_file: its key, or None.
    """

    catalogue: Catalogue
    seed: int = 1
    faults: Mapping[str, float] = field(default_factory=dict)
    history_h: float = 0.0
    live: bool = True
    for_s: float | None = None
    rate: float | None = None
    truth: Path | None = None
    window: int = 1000
    patience_s: float = 30.0
    host: str = "127.0.0.1"
    port: int = 1883
    client_id: str = "qingtu-simulator"
    version: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did.

    Attributes:
        totals: the same sums as in the ground-truth file.
        seconds: it took.
        refused: PUBACKs with a reason code of failure, such as not authorised: these messages are lost.
        unheard: PUBACKs by which the broker says that nobody subscribes to the topic (MQTT 5).
        connections: how many it took.
        unacknowledged: published without a PUBACK in the end: the broker may have them or not.
    """

    totals: Totals
    seconds: float
    refused: int
    unheard: int
    connections: int
    unacknowledged: int


def simulate(
    options: SimulateOptions,
    progress: Progress | None = None,
    *,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
) -> Summary:
    """Publish a simulated city.

    Args:
        options: what and where.
        progress: bars to add to; started and stopped by the caller.
        stop: when set, the run ends after the message under way, and still writes its ground truth.
        clock: wall time; history ends and live begins at the moment of the call.

    Raises:
        StartError: no broker answers, or it refuses.
        OSError: the ground-truth file cannot be written.
    """
    stop, clock = stop or threading.Event(), clock or SystemClock()
    publisher = Publisher(options)
    publisher.connect()
    now_us = clock.now_us()
    from_us = now_us - round(options.history_h * HOUR)
    plan = FaultPlan(options.seed, options.faults, begin_us=from_us, live_from_us=now_us)
    interval_s = None if options.rate is None else len(options.catalogue.devices) / options.rate
    world = World(options.catalogue, options.seed, faults=plan, interval_s=interval_s)
    try:
        with TruthWriter(options.truth) as truth:
            run = _Run(world, publisher, truth, stop, clock)
            from_us = now_us - round(options.history_h * HOUR)
            past = _bar(progress, "历史 history", options.history_h * 3600.0, world)
            to_us = run.history(from_us, now_us, past)
            if not stop.is_set():
                past.end()
            if options.live and not stop.is_set():
                end_us = None if options.for_s is None else now_us + round(options.for_s * SECOND)
                to_us = run.live(now_us, end_us, _bar(progress, "实时 live", options.for_s, world))
            unacknowledged = publisher.drain()
            totals = truth.finish(
                from_us,
                to_us,
                acknowledged=publisher.acknowledged,
                resent=publisher.resent,
                seed=options.seed,
                catalogue=options.catalogue.version,
                faults=dict(options.faults),
            )
    finally:
        publisher.close()
    seconds = (clock.now_us() - now_us) / SECOND
    return Summary(totals, seconds, publisher.refused, publisher.unheard, publisher.connections, unacknowledged)


class _Bar:
    """A progress bar, or nothing."""

    def __init__(self, progress: Progress | None, title: str, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total) if progress else None
        self._count = 0

    def advance(self) -> None:
        # drawing is cheap only when it is rare
        self._count += 1
        if self._count == 200:
            self.flush()

    def flush(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, self._count)
        self._count = 0

    def end(self) -> None:
        """All is published: the total was reckoned from intervals and rates, and faults add and take messages."""
        self.flush()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=self._progress.tasks[self._task].completed)


def _bar(progress: Progress | None, title: str, seconds: float | None, world: World) -> _Bar:
    total = None if seconds is None else seconds * world.messages_per_s
    return _Bar(progress if seconds != 0.0 else None, title, total)


@dataclass(slots=True)
class _Run:
    """The two ways to walk through simulated time."""

    world: World
    publisher: Publisher
    truth: TruthWriter
    stop: threading.Event
    clock: Clock
    # what is known of a message when it is made, a stretch ahead, becomes truth when it is published
    held: dict[str, Fact] = field(default_factory=dict)

    def witness(self, fact: Fact) -> None:
        """Take note of a fault; one that a message carries counts when the message is sent."""
        if fact.message and fact.expected != "absent":
            self.held[fact.id] = fact
        else:
            self.truth.fact(fact)

    def history(self, from_us: int, to_us: int, bar: _Bar) -> int:
        """Publish [from, to) as fast as the broker takes it; return where it ended."""
        reached = self._publish(self.world.messages(from_us, to_us, self.witness), bar)
        return to_us if reached is None else reached

    def live(self, from_us: int, end_us: int | None, bar: _Bar) -> int:
        """Publish each message when its time has come; return where it ended."""
        self.world.prepare(from_us)
        edge_us = from_us
        while end_us is None or edge_us < end_us:
            until_us = max(edge_us, self.clock.now_us() if end_us is None else min(self.clock.now_us(), end_us))
            reached = self._publish(self.world.messages(edge_us, until_us, self.witness), bar)
            bar.flush()
            if reached is not None:
                return reached
            edge_us = until_us
            if self.stop.wait(_LIVE_STEP_S):
                break
        return edge_us

    def _publish(self, messages: Iterable[Message], bar: _Bar) -> int | None:
        """Publish messages; return the end of the simulated time when it was stopped, else None."""
        for message in messages:
            if not self.publisher.publish(message.topic, message.payload, self.stop):
                return message.at_us
            self.truth.sent(message.expected)
            fact = self.held.pop(message.truth_id, None)
            if fact is not None:
                self.truth.fact(fact)
            bar.advance()
        bar.flush()
        return None
