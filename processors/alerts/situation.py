"""Situation rules: one alert for several alerts of one place and time, with the timeline of what led to it.

They look at what other rules say, in the order in which the pass says it. Stations live in several partitions and a
situation is decided in the first alone, so the others tell it through raw (:mod:`processors.alerts.telling`): as for
all alerts, raw of one partition decides which there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from processors.alerts.batch import Unmoved
from processors.alerts.incidents import Book
from processors.alerts.ladder import Moment
from processors.alerts.places import Scope
from qingtu.catalogue_rules import SituationRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from processors.plan import Plan
    from qingtu.contracts import Transition


class Situation(Unmoved):
    """All situations, a book for each rule."""

    def __init__(self) -> None:
        self._books: dict[str, Book] = {}

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        old, catalogue = self._books, plan.catalogue
        rules = [rule for rule in catalogue.rules if isinstance(rule, SituationRule)]
        self._books = {rule.id: Book(Scope(rule, catalogue)) for rule in rules}
        if source is None:
            return []
        moment = Moment(at_us, revision, at_us)
        out = []
        for name, book in old.items():
            out += self._books[name].carry(book, moment) if name in self._books else book.close(moment)
        return out

    def on_transitions(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Look at what other rules said; see the contract."""
        done = [book.take(one) for one in transitions for book in self._books.values() if one.rule not in self._books]
        return [one for one in done if one is not None]

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Close what has been calm for long enough."""
        del hearing, held
        moment = Moment(clock_us, revision, clock_us)
        return [done for book in self._books.values() for done in book.tick(moment)]

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment a situation that stands."""
        for book in self._books.values():
            if (done := book.command(name, alert, Moment(at_us, revision, at_us))) is not None:
                return done._replace(value=np.nan, limit=np.nan, evidence={}, who=who, note=note)
        return None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all books: few and of many parts, so as JSON in an array of bytes."""
        saved = orjson.dumps({name: book.saved() for name, book in self._books.items()})
        return {"books": np.frombuffer(saved, np.uint8)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        for name, saved in orjson.loads(arrays["books"].tobytes()).items():
            self._books[name].restore(saved)
