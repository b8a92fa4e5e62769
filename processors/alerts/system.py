"""System rules: what the service says of itself, such as its ledger, its outage budget, or a store that falls behind.

The service writes a fact into raw when it crosses a bound of a rule (:mod:`qingtu.facts`), so raw alone decides which
alerts there are. Each source of a fact (a gateway, the store) has its own alert. What was told last stands until its
source tells something else; time that passes is that of ticks. These alerts have no station.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from processors.alerts.batch import Unmoved
from processors.alerts.ladder import Ladder, Moment, Watch, levels_of
from processors.alerts.watching import hysteresis_of
from qingtu.catalogue_rules import SystemRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from processors.plan import Plan
    from qingtu.contracts import Transition

SYSTEM: Final = "system"
"""Name of the command that tells facts."""
UNITS: Final[Mapping[str, str]] = {"ledger_off": "{count}", "outage_used": "%", "store_behind": "s"}
"""Of each fact; UCUM."""


class System(Unmoved):
    """All alerts on facts. A watch is one rule on one source; property and channel are fact and source."""

    def __init__(self) -> None:
        self._rules: list[SystemRule] = []
        self._value: dict[tuple[str, str], float] = {}
        self._ladder = Ladder([], levels_of([]))

    def adopt(self, plan: Plan, source: NDArray[np.int64] | None, at_us: int, revision: int) -> list[Transition]:
        """Go on with another catalogue; see the contract."""
        self._rules = [rule for rule in plan.catalogue.rules if isinstance(rule, SystemRule)]
        old, self._ladder = self._ladder, self._watch()
        return [] if source is None else self._ladder.adopt(old, at_us, revision)[1]

    def _watch(self) -> Ladder:
        watches = [
            Watch(rule, property=fact, channel=source, station="")
            for rule in self._rules
            for fact, source in sorted(self._value)
            if rule.fact == fact
        ]
        return Ladder(watches, levels_of([w.rule for w in watches]), hysteresis_of(watches))

    def on_system(self, source: str, facts: Mapping[str, float], at_us: int, revision: int) -> list[Transition]:
        """Learn what a source says of itself; see the contract."""
        told = {(fact, source): float(value) for fact, value in facts.items() if fact in UNITS}
        new = told.keys() - self._value.keys()
        self._value |= told
        if new:
            old, self._ladder = self._ladder, self._watch()
            number = {watch.key(): w for w, watch in enumerate(old.watches)}
            taken = np.array([number.get(watch.key(), -1) for watch in self._ladder.watches], np.int64)
            self._ladder.take(old, taken)
        mine = [w for w, watch in enumerate(self._ladder.watches) if (watch.property, watch.channel) in told]
        return self._look(mine, Moment(at_us, revision, at_us))

    def on_tick(
        self, clock_us: int, hearing: Mapping[str, int], held: NDArray[np.bool_] | None, revision: int
    ) -> list[Transition]:
        """Open what has been beyond its level for long enough, and say again what nobody acknowledged."""
        del hearing, held
        return self._look(range(len(self._ladder)), Moment(clock_us, revision, clock_us))

    def _look(self, mine: Iterable[int], moment: Moment) -> list[Transition]:
        out = []
        for w in mine:
            watch = self._ladder.watches[w]
            value = self._value[watch.property, watch.channel]
            at, measure = np.array([w], np.int64), np.array([value])
            met, kept = int(self._ladder.met(at, measure)[0]), int(self._ladder.kept(at, measure)[0])
            done = self._ladder.step(w, met, kept, moment)
            if done is not None:
                level, state, seen = done
                more = {"source": watch.channel, "unit": UNITS[watch.property], **seen}
                limit = self._ladder.limit_of(w, level)
                out.append(self._ladder.transition(w, level, state, moment, value, limit, **more))
        return out

    def on_command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert."""
        return self._ladder.command(name, alert, who, note, at_us, revision)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was told last, and the state of all watches."""
        told = orjson.dumps([[*key, value] for key, value in sorted(self._value.items())])
        return {"told": np.frombuffer(told, np.uint8), "watches": self._ladder.state.rows()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` returned."""
        self._value = {(fact, source): value for fact, source, value in orjson.loads(arrays["told"].tobytes())}
        self._ladder = self._watch()
        self._ladder.restore(arrays["watches"])
