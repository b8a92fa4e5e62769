"""Link rules: nothing can be heard on a route, because our gateway, its broker or the way between them is down.

While it is so no station of the route is silent: nobody knows. One alert for each route tells of it, on ticks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from processors.alerts.batch import Unmoved
from processors.alerts.grouped import Book, Group
from qingtu.catalogue_rules import LinkRule
from qingtu.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from processors.plan import Plan
    from qingtu.contracts import Transition


class Link(Unmoved):
    """All link alerts. A group is one rule on one route; ``since`` is the first tick at which it was not heard."""

    def __init__(self) -> None:
        self._book = Book([], 0)

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        old = self._book
        self._names = plan.station_names
        groups, after_s = list[Group](), list[float]()
        for rule in plan.catalogue.rules:
            if isinstance(rule, LinkRule):
                routes: dict[str, set[int]] = {}
                for entry in plan.catalogue.devices.values():
                    if entry.station.id in plan.mine and rule.where.covers(entry.station):
                        routes.setdefault(entry.route, set()).add(plan.station_number[entry.station.id])
                groups += [Group(rule, route, np.array(sorted(found))) for route, found in sorted(routes.items())]
                after_s += [rule.after_s] * len(routes)
        self._book = Book(groups, plan.partition)
        self._after_us = np.array(after_s, np.float64) * SECOND
        return [] if source is None else self._book.adopt(old, at_us, revision)[1]

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Open for routes that were not heard for too long, resolve those that are heard."""
        del held  # what nobody can hear is not a matter of one station's maintenance
        book, out = self._book, []
        for g, group in enumerate(book.groups):
            if group.name in hearing:
                since = int(book.state["since"][g])
                if book.state["opened"][g]:
                    out.append(book.resolve(g, clock_us, revision, why="heard again", **self._seen(g, since)))
                book.state["since"][g] = 0
                continue
            # With several gateways each writes ticks with its own routes: one that is heard by any begins anew.
            since = int(book.state["since"][g]) or clock_us
            book.state["since"][g] = since
            if not book.state["opened"][g] and clock_us - since >= self._after_us[g]:
                out.append(book.open(g, clock_us, revision, **self._seen(g, since)))
        return out

    def _seen(self, g: int, since: int) -> dict[str, Any]:
        group = self._book.groups[g]
        return {
            "route": group.name,
            "since_us": since,
            "stations": [self._names[s] for s in group.stations.tolist()],
        }

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        return self._book.command(name, alert, who, note, at_us, revision)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return since when routes are not heard, and the open alerts."""
        return {"groups": self._book.state}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._book.state = arrays["groups"]
