"""What tests of the InfluxDB store share: buckets of their own, and a store with its bus."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from qingtu.bus.sqlite import SqliteBus
from qingtu.settings import InfluxSettings
from qingtu.store.influx import InfluxStore
from qingtu.store.influx.client import InfluxClient

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.native.influx import InfluxServer

_NUMBERS = itertools.count()


def settings_of(server: InfluxServer, prefix: str, **more: object) -> InfluxSettings:
    """Return settings with buckets of their own names."""
    return InfluxSettings.model_validate(
        {
            "url": server.url, "org": server.org, "bucket": prefix, "hourly": f"{prefix}_hourly",
            "daily": f"{prefix}_daily", **more,
        }
    )  # fmt: skip


def make_buckets(server: InfluxServer, settings: InfluxSettings, keep_s: int = 0) -> None:
    """Make the buckets; ``keep_s`` is the retention of the first, 0: for ever."""
    client = InfluxClient(settings, server.token)
    org = client.call("GET", f"/api/v2/orgs?org={settings.org}")["orgs"][0]["id"]
    for name, seconds in ((settings.bucket, keep_s), (settings.hourly, 0), (settings.daily, 0)):
        rules = [{"type": "expire", "everySeconds": seconds}] if seconds else []
        client.call("POST", "/api/v2/buckets", {"orgID": org, "name": name, "retentionRules": rules})
    client.close()


class Bench:
    """A store with a bus in a folder and buckets in a server; both are kept when it is opened again.

    Args:
        server: running.
        folder: for the bus.
        more: settings.
        keep_s: see :func:`make_buckets`.
        partitions: of the bus.
    """

    def __init__(
        self, server: InfluxServer, folder: Path, *, keep_s: int = 0, partitions: int = 1, **more: object
    ) -> None:
        self.partitions = partitions
        self.server = server
        self.folder = folder
        self.settings = settings_of(server, f"t{next(_NUMBERS)}", **more)
        make_buckets(server, self.settings, keep_s)
        self.open_ones: list[tuple[InfluxStore, SqliteBus]] = []

    def open(self, settings: InfluxSettings | None = None) -> InfluxStore:
        """Open the store, after the one before was closed or killed."""
        self.close()
        bus = SqliteBus(self.folder, self.partitions, free_floor_bytes=0)
        store = InfluxStore(settings or self.settings, self.server.token, bus)
        self.open_ones.append((store, bus))
        return store

    @property
    def bus(self) -> SqliteBus:
        """The bus of the store that is open."""
        return self.open_ones[-1][1]

    @property
    def store(self) -> InfluxStore:
        """The store that is open."""
        return self.open_ones[-1][0]

    @property
    def client(self) -> InfluxClient:
        """A client of one's own, with all rights."""
        return InfluxClient(self.settings, self.server.token)

    def close(self) -> None:
        """Close what is open."""
        while self.open_ones:
            store, bus = self.open_ones.pop()
            store.close()
            bus.close()
