"""A sink on a real bus with a clock that is moved by hand: alerts and ticks go in, what is sent comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processors.output import _alerts
from qingtu.bus.sqlite import SqliteBus
from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.clock import SECOND, ManualClock
from qingtu.contracts import SinkPlace, Transition
from qingtu.errors import RetryLater
from qingtu.records import ALERTS, PROCESSED, encode
from qingtu.settings import Settings, load_settings
from sinks.follow import Batching, Follower
from sinks.notify import NotifySink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

T0 = 1_795_392_000_000_000
"""2026-11-23 08:00 in Shanghai, a Monday."""
STATIONS = """
networks:
  - {id: n, zh: 网, en: Net, interval_s: 60}
  - {id: m, zh: 网乙, en: Net two, interval_s: 60}
rules:
  - {id: dust, kind: threshold, zh: 扬尘, en: Dust, property: pm25, levels: {blue: 75, red: 250}}
stations:
  - {id: A, zh: 甲站, en: Alpha, network: n, domain: air, kind: air, position: [120.3, 36.1], district: "370202",
     devices: [{id: a, properties: [pm25]}]}
  - {id: B, zh: 乙站, en: Beta, network: m, domain: air, kind: air, position: [120.3, 36.2], district: "370203",
     devices: [{id: b, properties: [pm25]}]}
"""
OPENED = Transition(
    alert="a1", rule="dust", station="A", property="pm25", channel="main", level=4, state="open", time_us=T0,
    opened_us=T0, value=300.0, limit=250.0, revision=1, known_us=T0 + SECOND, evidence={"direction": "above"},
)  # fmt: skip


def opened(alert: str = "a1", level: int = 4, at_us: int = T0, **more: Any) -> Transition:
    """An alert opens; it is known a second later."""
    return OPENED._replace(alert=alert, level=level, time_us=at_us, opened_us=at_us, known_us=at_us + SECOND)._replace(
        **more
    )


def then(row: Transition, state: str, after_s: float = 60, **more: Any) -> Transition:
    """A later transition of the same alert."""
    at = row.time_us + round(after_s * SECOND)
    level = 0 if state in ("resolved", "withdrawn") else row.level
    value = math.nan if state == "acknowledged" else row.value
    return row._replace(state=state, time_us=at, known_us=at + SECOND, level=level, value=value)._replace(**more)


@dataclass
class Bench:
    """Everything around a sink; ``restart`` lets go of the sink and makes a new one on the same files."""

    folder: Path
    settings: Settings
    bus: SqliteBus
    clock: ManualClock
    catalogue: Catalogue
    sink: NotifySink
    follower: Follower
    works: Mapping[str, Callable[[], bool]]
    origin: int = 0

    @classmethod
    def of(cls, folder: Path, text: str, now_us: int = T0, stations: str = STATIONS) -> Bench:
        """Make one.

        Args:
            folder: for bus, book and catalogue.
            text: sections ``[notify]`` and below of the settings.
            now_us: where the clock stands.
            stations: the catalogue.
        """
        (folder / "stations").mkdir(exist_ok=True)
        (folder / "stations" / "all.yaml").write_text(stations, encoding="utf-8")
        settings = settings_of(folder, text)
        bus, clock = SqliteBus(folder / "bus", free_floor_bytes=0), ManualClock(now_us)
        catalogue = load_catalogue(folder / "stations")
        place = SinkPlace(folder / "notify", settings, bus, clock, {catalogue.version: catalogue}.__getitem__)
        sink = NotifySink(place)
        return cls(folder, settings, bus, clock, catalogue, sink, *around(sink, bus, clock))

    def restart(self, text: str | None = None) -> None:
        """As after the end of the process, killed or not: nothing but the files is left."""
        self.sink.close()
        if text is not None:
            self.settings = settings_of(self.folder, text)
        versions = {self.catalogue.version: self.catalogue}
        self.sink = NotifySink(
            SinkPlace(self.folder / "notify", self.settings, self.bus, self.clock, versions.__getitem__)
        )
        self.follower, self.works = around(self.sink, self.bus, self.clock)

    def put(self, *rows: Transition) -> None:
        """Put transitions on the stream, in one frame."""
        header = {
            "stream": ALERTS, "clock": max(row.known_us for row in rows), "origin": [0, self.origin],
            "catalogue": self.catalogue.version,
        }  # fmt: skip
        self.origin += 1
        self.bus.append(ALERTS, 0, [encode(header, {"alerts": _alerts(list(rows))})]).result()

    def tick(self, at_us: int) -> None:
        """Let the stream's clock be told; the wall clock goes along."""
        header = {"stream": PROCESSED, "clock": at_us, "origin": [0, self.origin]}
        self.origin += 1
        self.bus.append(PROCESSED, 0, [encode(header, {})]).result()
        self.clock.advance(max(0, at_us - self.clock.now_us()))

    def take(self) -> None:
        """Let the sink take what stands on its stream, and the clockwork make messages."""
        while self.follower.step():
            pass
        self.works["notify"]()

    def send(self) -> None:
        """Let every channel send until it has nothing to do, or fails."""
        for name, step in self.works.items():
            if name != "notify":
                try:
                    while step():
                        pass
                except RetryLater:
                    continue

    def run(self, at_us: int, *rows: Transition) -> None:
        """Put rows and a tick, and do everything that is due."""
        if rows:
            self.put(*rows)
        self.tick(at_us)
        self.take()
        self.send()

    def count(self, table: str, where: str = "1") -> int:
        """Count rows of the book."""
        return int(self.sink._book.rows(f"SELECT count(*) AS n FROM {table} WHERE {where}")[0]["n"])

    def close(self) -> None:
        """Close files."""
        self.sink.close()
        self.bus.close()


def settings_of(folder: Path, text: str) -> Settings:
    """Load settings of a text, which has no top level."""
    file = folder / "qingtu.toml"
    file.write_text(f'sinks = ["notify"]\ndata = "{folder}"\ncatalogue = "{folder}/stations"\n{text}', encoding="utf-8")
    return load_settings(file, environ={})


def address(folder: Path, name: str, url: str) -> Path:
    """Write a file with an address."""
    path = folder / f"{name}-url"
    path.write_text(f"{url}\n", encoding="utf-8")
    return path


def channels(folder: Path, urls: Mapping[str, str], more: str = "") -> str:
    """Write ``[[notify.channels]]`` of webhooks, each with the same further keys."""
    return "\n".join(
        f'[[notify.channels]]\nname = "{name}"\nurl_file = "{address(folder, name, url)}"\nlanguage = "en"\n{more}'
        for name, url in urls.items()
    )


def route(names: Sequence[str], more: str = "") -> str:
    """Write one ``[[notify.routes]]``."""
    return f"\n[[notify.routes]]\nchannels = {list(names)}\n{more}\n"


def around(sink: NotifySink, bus: SqliteBus, clock: ManualClock) -> tuple[Follower, Mapping[str, Callable[[], bool]]]:
    follower = Follower(bus, sink, clock, batching=Batching(wait_s=0))
    return follower, sink.works(follower.behind)
