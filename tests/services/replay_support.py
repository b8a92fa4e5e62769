"""What tests of replay on Kafka share: a history with two faults in its catalogue, on either bus, without threads."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qingtu.audit import audit
from qingtu.bus import open_bus
from qingtu.bus.kafka import KafkaBus
from qingtu.catalogue import load_catalogue
from qingtu.clock import ManualClock
from qingtu.folder import DataFolder
from qingtu.ledger import Ledger
from qingtu.orders import Orders
from qingtu.partitions import partition_of
from qingtu.records import RAW, Kind
from qingtu.replay_pass import config_of
from qingtu.replay_raw import open_raw
from qingtu.replay_settle import settle
from qingtu.settings import load_settings
from qingtu.store import open_store
from tests.process.support import command, frame_of, message, reading, tick
from tests.services.influx_support import make_buckets, settings_of
from tests.test_replay import NOW, Scene, hours, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deploy.native.influx import InfluxServer
    from qingtu.bus.sqlite import SqliteBus
    from qingtu.replay_settle import Settled
    from qingtu.settings import KafkaSettings, Settings
    from qingtu.store.contract import PrimaryStore

# Of two partitions B1 and B2 live in 0, A1 and X1 in 1. An unknown device x or y is heard in 1: B2's are elsewhere.
STATIONS = """
networks:
  - {{id: n, zh: 网, en: Net, interval_s: 600}}
rules:
  - {{id: dust, kind: threshold, zh: 尘, en: Dust, property: pm25, levels: {{blue: 75, red: 250}}, hysteresis: 5}}
stations:
  - {{id: A1, zh: 站, en: A, network: n, domain: air, kind: air, position: [120.3, 36.1], district: "370202",
     limits: {{pm25: {{suspect: [0, 500], spike: {{suspect: 60, fail: 120}}}}}},
     devices: [{{id: a, fields: {{dust: {{property: pm25, unit: {unit}}}}}}}]}}
  - {{id: B1, zh: 站, en: B, network: n, domain: air, kind: air, position: [120.4, 36.1], district: "370202",
     devices: [{{id: b, properties: [pm25]}}]}}
{more}
"""
MORE = """  - {id: B2, zh: 站, en: X, network: n, domain: air, kind: air, position: [120.5, 36.1], district: "370202",
     devices: [{id: x, properties: [pm25]}]}
  - {id: X1, zh: 站, en: Y, network: n, domain: air, kind: air, position: [120.6, 36.1], district: "370202",
     devices: [{id: y, properties: [pm25]}]}
"""
HOME = {"A1": 1, "B1": 0, "B2": 0, "X1": 1}


def history() -> list[Mapping[str, Any]]:
    """Four hours of four devices, two of them unknown at first, and one message that nobody can read.

    A sends its reading of two hours once more at 8000 s, and that of 4200 s at 11500 s.
    """
    return merged(
        hours("a", "dust", 24), hours("b", "pm25", 24), hours("x", "pm25", 12), hours("y", "pm25", 12),
        [reading("a", 7200, 8000, dust=99), reading("a", 4200, 11_500, dust=98)],
        [message("b", b"{", 700)], [tick(600 * i + 1) for i in range(40)],
    )  # fmt: skip


class Open(NamedTuple):
    """What is open while something is done by hand."""

    bus: KafkaBus | SqliteBus
    store: PrimaryStore
    data: DataFolder


class Town(Scene):
    """A scene on Kafka, or with the same history on SQLite.

    Args:
        folder: for its files.
        kafka: of an installation of its own with two partitions; None: the SQLite bus.
        more: settings, as the environment gives them.
    """

    def __init__(self, folder: Path, kafka: KafkaSettings | None, more: Mapping[str, str] | None = None) -> None:
        self._kafka = kafka
        self._more = dict(more or {})
        super().__init__(folder)

    def write(self, unit: str = "ug/m3", more: str = "") -> None:
        """Write the catalogue."""
        text = STATIONS.format(unit=unit, more=more)
        (self.folder / "stations" / "all.yaml").write_text(text, encoding="utf-8")

    @property
    def environ(self) -> dict[str, str]:
        """The settings as a command finds them."""
        out = {
            "QINGTU_DATA": str(self.folder / "data"), "QINGTU_CATALOGUE": str(self.folder / "stations"),
            "QINGTU_BUS__FREE_FLOOR_MB": "1", "QINGTU_STORE__MEMORY_LIMIT": "256MB", **self._more,
        }  # fmt: skip
        if self._kafka is not None:
            out |= {
                "QINGTU_BUS__KIND": "kafka", "QINGTU_KAFKA__SERVERS": ",".join(self._kafka.servers),
                "QINGTU_KAFKA__PREFIX": self._kafka.prefix, "QINGTU_KAFKA__PARTITIONS": str(self._kafka.partitions),
            }  # fmt: skip
        return out

    @property
    def settings(self) -> Settings:
        """As the commands load them."""
        return load_settings(Path(os.devnull), environ=self.environ)

    @contextmanager
    def open(self) -> Iterator[Open]:
        """Open bus, store and folder, as a promote does."""
        settings = self.settings
        data = DataFolder(settings.data)
        try:
            bus = open_bus(settings, ())
            try:
                store = open_store(settings, bus)
                try:
                    yield Open(bus, store, data)
                finally:
                    store.close()
            finally:
                bus.close()
        finally:
            data.close()

    def finish(self, it: Open) -> None:
        """Step all stages until nothing is left."""
        settle(self.settings, it.bus, it.store, it.data, ManualClock(NOW))

    def live(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let rows, each a raw frame, go all the way; the catalogue is said first, in every partition."""
        settings = self.settings
        catalogue = load_catalogue(settings.catalogue)
        with self.open() as it:
            it.data.archive(catalogue)
            n = it.bus.partitions
            said = command(0, "configure", **config_of(settings, catalogue))
            for row in (said, *rows):
                if row["kind"] == Kind.MESSAGE:
                    entry = catalogue.devices.get((row["network"], row["device"]))
                    name = f"{row['network']}/{row['device']}" if entry is None else entry.station.id
                    places = [partition_of(name, n)]
                else:
                    places = list(range(n))
                for place in places:
                    it.bus.append(RAW, place, [frame_of([row])]).result()
            self.finish(it)

    def fill(self) -> None:
        """Let the history go all the way; a second tick evaluates the areas that one partition told another of."""
        self.live(history())
        self.live([tick(24_050)])

    def redrive(self, at_us: int = NOW) -> int:
        """Drive all of the quarantine again, under the catalogue of now; return how many."""
        self.live([])
        catalogue = load_catalogue(self.settings.catalogue)

        def station_of(network: str, device: str) -> str | None:
            entry = catalogue.devices.get((network, device))
            return None if entry is None else entry.station.id

        with self.open() as it:
            wanted = it.store.in_quarantine()
            orders = Orders(it.bus, ManualClock(at_us), catalogue.version)
            orders.redrive(it.store, wanted, "t", station_of, reason=None, shift_s=0)
            self.finish(it)
        return len(wanted)

    def ends(self) -> list[int]:
        """Where each partition of raw ends."""
        raw = open_raw(self.settings)
        try:
            return [raw.bounds(partition)[1] for partition in range(raw.partitions)]
        finally:
            raw.close()

    def audited(self) -> dict[str, Any]:
        """Ledger and audit after everything on raw is done."""
        with self.open() as it:
            self.finish(it)
            return audit(it.bus, it.store, Ledger(it.bus, it.store))


def overtaking(town: Town) -> Callable[..., Settled]:
    """Return a ``settle`` behind which a gateway that was forgotten writes raw."""

    def settled(*given: Any) -> Settled:
        done = settle(*given)
        gateway = KafkaBus(town.settings.kafka)
        try:
            gateway.append(RAW, 1, [frame_of([tick(30_000)])]).result()
        finally:
            gateway.close()
        return done

    return settled


def influx_environ(server: InfluxServer, token: Path, prefix: str) -> dict[str, str]:
    """Make buckets of their own, and return settings of a store in them, as the environment gives them.

    Args:
        server: running.
        token: file that is written.
        prefix: of the names of the buckets.
    """
    buckets = settings_of(server, prefix)
    make_buckets(server, buckets)
    token.write_text(server.token)
    return {
        "QINGTU_STORE__KIND": "influx", "QINGTU_INFLUX__URL": server.url, "QINGTU_INFLUX__ORG": server.org,
        "QINGTU_INFLUX__BUCKET": buckets.bucket, "QINGTU_INFLUX__HOURLY": buckets.hourly,
        "QINGTU_INFLUX__DAILY": buckets.daily, "QINGTU_INFLUX__TOKEN_FILE": str(token),
    }  # fmt: skip


def told(found: dict[str, Any]) -> dict[str, Any]:
    """What two diffs must agree about; alerts stand in it by what they say, not by where they were caused."""
    names = ("empty", "readings", "by", "changes", "figures", "messages", "events")
    alerts = {
        side: sorted((a["rule"], a["station"], a["level"], a["state"], a["time_ms"]) for a in found["alerts"][side])
        for side in ("only_live", "only_replay")
    }
    return {**{name: found[name] for name in names}, "alerts": alerts}


__all__ = ["HOME", "MORE", "Town", "influx_environ", "overtaking", "reading", "told"]
