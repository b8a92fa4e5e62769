"""The stages of a city with one or several partitions, stepped by hand and killed at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processors.aggregates import DERIVED
from processors.aggregates.derive import Derive
from processors.process import Process
from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import ManualClock
from qingtu.errors import RetryLater
from qingtu.partitions import partition_of
from qingtu.records import ALERTS, FIGURES, PROCESSED, RAW, REJECTED, Kind, decode
from qingtu.stage import StageLoop
from qingtu.store.duckdb import DuckStore
from sinks.primary import StoreStage
from tests.process.support import T0, frame_of

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from qingtu.catalogue import Catalogue


class City:
    """The stages of so many partitions over one bus and one store, stepped by hand and killed at any moment."""

    def __init__(self, folder: Path, catalogue: Catalogue, partitions: int) -> None:
        self.partitions = partitions
        self._folder = folder
        self._catalogue = catalogue
        self._open()

    def _open(self) -> None:
        self.bus = SqliteBus(self._folder / "bus", partitions=self.partitions, free_floor_bytes=0)
        self.store = DuckStore(self._folder / "store.duckdb", "256MB", 1)
        archive = {self._catalogue.version: self._catalogue}.__getitem__
        n = self.partitions
        self.stages: dict[str, StageLoop | StoreStage] = {}
        for p in range(n):
            self.stages[f"process-{p}"] = StageLoop(self.bus, Process(archive, p, n), p, batch=1)
            derive = Derive(self.store, archive, 60, p, partitions=n, derived=DERIVED, tell=True)
            self.stages[f"derive-{p}"] = StageLoop(self.bus, derive, p, batch=1)
            for stream in (PROCESSED, ALERTS, REJECTED, FIGURES):
                self.stages[f"{stream}-{p}"] = StoreStage(self.bus, self.store, stream, p, ManualClock(T0), commit_ms=0)

    def kill(self) -> None:
        """Forget what was not saved, and start again."""
        self.close()
        self._open()

    def close(self) -> None:
        """Close the files, save nothing."""
        self.bus.close()
        self.store.close()

    def feed(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append readings to the partition of their station, everything else to all."""
        for p in range(self.partitions):
            own = [r for r in rows if r["kind"] != Kind.MESSAGE or self._partition(r) == p]
            if own:
                self.bus.append(RAW, p, [frame_of(own)]).result()

    def _partition(self, row: Mapping[str, Any]) -> int:
        return partition_of(str(row["device"]).upper(), self.partitions)

    def step(self, name: str) -> bool:
        """Step one stage; waiting for another counts as nothing done."""
        try:
            return self.stages[name].step()
        except RetryLater:
            return False

    def run(self) -> None:
        """Step everything until there is nothing to do."""
        while max([self.step(name) for name in self.stages]):
            pass

    def disturb(self, rng: random.Random) -> None:
        """Let stages run ahead or fall behind, save, or be killed."""
        for _ in range(rng.randrange(6)):
            act = rng.choice([*self.stages, "kill", "save"])
            if act == "kill":
                self.kill()
            elif act == "save":
                for stage in self.stages.values():
                    if isinstance(stage, StageLoop):
                        stage.save()
            else:
                for _ in range(rng.randrange(1, 8)):
                    self.step(act)

    def commands(self, name: str) -> int:
        """Count the rows of raw that carry a command."""
        wanted = f'"name":"{name}"'.encode()
        return sum(
            wanted in payload
            for p in range(self.partitions)
            for record in self.bus.read(RAW, p, 0, 100_000)
            for payload in decode(record.data).sections["rows"].column("payload").to_pylist()
        )
