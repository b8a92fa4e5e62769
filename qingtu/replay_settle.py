"""Steps the live stages, while nobody else does, until everything on raw is stored and derived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from processors.aggregates import DERIVED
from processors.aggregates.derive import Derive
from processors.process import Process
from qingtu.errors import QingtuError, RetryLater
from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED
from qingtu.stage import StageLoop
from sinks.primary import StoreStage

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue
    from qingtu.clock import Clock
    from qingtu.contracts import Bus, Store
    from qingtu.folder import DataFolder
    from qingtu.settings import Settings


class Settled(NamedTuple):
    """Up to where everything is done.

    Attributes:
        ends: behind the last raw frame, by partition.
        configs: what the last ``configure`` row of each partition said.
    """

    ends: list[int]
    configs: list[dict[str, Any]]


def settle(settings: Settings, bus: Bus, store: Store, data: DataFolder, clock: Clock) -> Settled:
    """Do what is left, in all partitions, as the running service would: it also tells through raw what that tells.

    Raises:
        QingtuError: it cannot be finished; what was done stays done.
    """

    def in_force(version: str) -> Catalogue:
        return data.catalogue_in_force(version, settings.catalogue)

    n = bus.partitions
    operators = [Process(in_force, p, n, tell=True) for p in range(n)]
    process = [StageLoop(bus, operator, p) for p, operator in enumerate(operators)]
    grace_s = settings.figures.grace_s
    derive = [
        StageLoop(bus, Derive(store, in_force, grace_s, p, partitions=n, derived=DERIVED, tell=True), p)
        for p in range(n)
    ]
    streams = [(stream, p) for p in range(n) for stream in (PROCESSED, ALERTS, REJECTED, FIGURES)]
    stores = [StoreStage(bus, store, stream, p, clock, commit_ms=0) for stream, p in streams]
    waiting = ""
    busy = True
    while busy:
        busy, waiting = False, ""
        for step in [stage.step for stage in process] + [stage.step for stage in stores]:
            busy |= step()
        for loop in derive:
            before = loop.next_offset
            try:
                busy |= loop.step()
            except RetryLater as later:
                waiting = str(later)
                busy |= loop.next_offset > before  # what it did so far may be what it waits for in the store
    behind = [stage.name for stage in stores if stage.behind()]
    behind += [
        loop.name for p, loop in enumerate(process) if store.progress(PROCESSED, p).origin < loop.next_offset - 1
    ]
    if waiting or behind:
        raise QingtuError(
            f"原始数据尚未处理完 / what is on raw cannot be finished ({waiting or ', '.join(behind)}): start the "
            "service with 'qingtu run', let it catch up, stop it, and promote then"
        )
    for loop in (*process, *derive):
        loop.save()
    return Settled([loop.next_offset for loop in process], [operator.config for operator in operators])
