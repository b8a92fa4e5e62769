"""Derive that only compares stations with their neighbours, over readings that are all there already.

A trial of rules asks what derive would have told of each station. Which periods are due at which tick, as of which
positions, and how far a station is from those around it, is worked out by derive itself; here stands only what a trial
leaves out: no figure is made, and nobody's flag is revised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors.aggregates.derive import Derive
from processors.alerts.facts import Watched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processors.aggregates.areas import AreaPeriod
    from processors.aggregates.evaluate import Due, Row
    from processors.aggregates.neighbours import Judged
    from processors.aggregates.plan import Plan
    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store


class Comparing(Derive):
    """See :class:`processors.aggregates.derive.Derive`; it is for partition 0, which compares for all of them.

    What :meth:`apply` returns are raw frames with command rows ``figures`` alone.

    Args:
        store: has the readings of all partitions.
        catalogues: whose rules are to be tried; stations and limits are those of the first.
        grace_s: a period is due so long after its end, twice.
        since_us: periods that begin before lack readings and are not compared, µs UTC.
        partitions: how many there are.
    """

    def __init__(
        self, store: Store, catalogues: Sequence[Catalogue], grace_s: int, since_us: int, *, partitions: int
    ) -> None:
        super().__init__(store, lambda _: catalogues[0], grace_s, partitions=partitions, tell=True)
        self._rules = Watched(*catalogues)
        self._since_us = since_us

    def _watching(self, version: str) -> Watched:
        del version
        return self._rules

    def _evaluate(self, level: int, due: Due, at: int, plan: Plan) -> list[Row]:
        del level, due, at, plan
        return []

    def _judge_groups(self, due: Sequence[AreaPeriod], clock_us: int, at: int, version: str) -> None:
        self._areas.done([period for period in due if period[2] < self._since_us])
        super()._judge_groups([period for period in due if period[2] >= self._since_us], clock_us, at, version)

    def _revise(self, periods: Sequence[AreaPeriod], judged: Judged, clock_us: int) -> None:
        # What was said of flags stands on raw. What was not said then will never show, so it is not waited for.
        del judged, clock_us
        self._areas.done(periods)


__all__ = ["Comparing"]
