"""The levels of alerts, as all kinds of rules climb them: met, held, left with hysteresis, said again, withdrawn.

A *watch* is one rule on one series, or on one station. A kind measures; when a measure is at or beyond a level, and
for how long, decides this. Everything is in event time, so it does not depend on how rows were cut into passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from processors.alerts.batch import alert_id
from processors.columns import Columns
from qingtu.catalogue_words import LEVELS
from qingtu.clock import SECOND
from qingtu.contracts import Transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


SINCE: Final = tuple(f"since_{level}" for level in LEVELS)
"""Since when a level above the standing one has been met without a break, µs UTC; 0: it is not."""
STATE: Final = np.dtype(
    [("level", "u1"), ("opened", "<i8"), ("acknowledged", "u1"), *((n, "<i8") for n in SINCE), ("told", "<i8")]
)
"""``opened`` is the time of the opening reading, ``told`` of the last one that asked for attention, µs UTC."""
RANKS: Final = np.arange(1, len(LEVELS) + 1, dtype=np.uint8)


class Watch(NamedTuple):
    """One rule on one series, or on one station: then property and channel are "" and series is -1."""

    rule: Any  # of the model of its kind
    station: str
    property: str = ""
    channel: str = ""
    series: int = -1

    def key(self) -> tuple[str, str, str, str]:
        """What the watch is carried over by, and the alert's id is made of."""
        return self.rule.id, self.station, self.property, self.channel


class Moment(NamedTuple):
    """What causes a transition: a reading of event time ``time_us`` that came with a raw row."""

    time_us: int
    revision: int
    known_us: int


class Ladder:
    """The state of all watches of one kind.

    Args:
        watches: w of them.
        levels: float64 (w, levels), the measure at which each level is met; NaN where a rule has none.
        hysteresis: float64 (w,), so far below its level a measure must be for it to fall.
    """

    def __init__(
        self, watches: Sequence[Watch], levels: NDArray[np.float64], hysteresis: NDArray[np.float64] | float = 0.0
    ) -> None:
        self.watches = list(watches)
        n = len(self.watches)
        self.state = Columns(np.zeros(1, STATE), n)
        self.limits = levels.reshape(n, len(LEVELS))
        self._enter = np.where(np.isnan(self.limits), np.inf, self.limits)
        self._lowest = self._enter.min(axis=1, initial=np.inf)
        self._wake()
        self._leave = self._enter - np.broadcast_to(np.asarray(hysteresis), (n,))[:, None]
        self._hold_us = self._option("hold_s", 0.0)
        self._again_us = self._option("renotify_s", 0.0)
        self._repeats = bool(self._again_us.any())

    def _option(self, name: str, default: float) -> NDArray[np.int64]:
        return np.array([(getattr(w.rule, name, None) or default) * SECOND for w in self.watches], np.int64)

    def __len__(self) -> int:
        return len(self.watches)

    def adopt(self, old: Ladder, at_us: int, revision: int) -> tuple[NDArray[np.int64], list[Transition]]:
        """Take over from the ladder of another catalogue.

        Returns:
            for each watch its number in ``old`` or -1, and the closing of alerts whose watch is gone.
        """
        number = {watch.key(): w for w, watch in enumerate(old.watches)}
        taken = np.array([number.get(watch.key(), -1) for watch in self.watches], np.int64)
        self.take(old, taken)
        gone = set(np.flatnonzero(old.state["level"]).tolist()) - set(taken.tolist())
        moment = Moment(at_us, revision, at_us)
        out = [old.transition(w, 0, "resolved", moment, why="catalogue changed") for w in sorted(gone)]
        return taken, out

    def take(self, old: Ladder, taken: NDArray[np.int64]) -> None:
        """Take the state of watches along: ``taken`` is the number of each in ``old`` or -1."""
        self.state.take(old.state, taken)
        self._wake()

    def near(self, w: NDArray[np.int64], measure: NDArray[np.float64], unmeasured: bool = False) -> NDArray[np.int64]:
        """Return which of n measures of watches (n,) must be looked at: no other is :meth:`stirred`, whatever holds.

        Nearly all watches are at rest and far from their lowest level, so one comparison tells it of them.

        Args:
            w: int64 (n,).
            measure: float64 (n,).
            unmeasured: what cannot be measured may change something too, of watches that are not at rest.
        """
        bar = self._bar.take(w)
        out = measure >= bar
        if unmeasured:
            out |= np.isneginf(bar)
        near: NDArray[np.int64] = out.nonzero()[0]
        return near

    def _wake(self) -> None:
        """Work out anew at which measure each watch must be looked at: at any when it is not at rest."""
        self._bar = np.where(self.awake(), -np.inf, self._lowest)

    def awake(self) -> NDArray[np.bool_]:
        """Say which watches are not at rest: they stand at a level, or have begun to meet one."""
        out: NDArray[np.bool_] = self.state["level"] > 0
        for name in SINCE:
            out |= self.state[name] > 0
        return out

    def met(self, w: NDArray[np.int64], measure: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the highest level that each measure (n,) of watches (n,) meets; 0: none."""
        out: NDArray[np.uint8] = ((measure[:, None] >= self._enter[w]) * RANKS).max(axis=1, initial=0)
        return out

    def kept(self, w: NDArray[np.int64], measure: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the highest level that each measure (n,) has not left; 0: none."""
        out: NDArray[np.uint8] = ((measure[:, None] >= self._leave[w]) * RANKS).max(axis=1, initial=0)
        return out

    def stirred(
        self, w: NDArray[np.int64], met: NDArray[np.uint8], kept: NDArray[np.uint8], time_us: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Say which of n measures may change anything; to the others :meth:`step` would do nothing."""
        state, level = self.state, self.state["level"][w]
        out: NDArray[np.bool_] = (met > level) | (kept < level)
        for name in SINCE:
            out |= state[name][w] > 0
        if self._repeats:
            again = self._again_us[w]
            due = (again > 0) & (time_us - state["told"][w] >= again) & (state["acknowledged"][w] == 0)
            out |= due & (level > 0)
        return out

    def step(self, w: int, met: int, kept: int, moment: Moment) -> tuple[int, str, dict[str, Any]] | None:
        """Let one watch see a measure.

        Returns:
            (level, state, evidence) of the transition that it makes, for :meth:`transition`; None when none.
        """
        done = self._climb(w, met, kept, moment)
        awake = self.state["level"][w] > 0 or any(self.state[name][w] > 0 for name in SINCE)
        self._bar[w] = -np.inf if awake else self._lowest[w]
        return done

    def _climb(self, w: int, met: int, kept: int, moment: Moment) -> tuple[int, str, dict[str, Any]] | None:
        state, time = self.state, moment.time_us
        level = int(state["level"][w])
        # Each level above the standing one is held on its own: a higher one may have been met later.
        to, began = level, 0
        for rank, name in enumerate(SINCE, 1):
            since = state[name]
            if not level < rank <= met:
                since[w] = 0
                continue
            if not since[w]:
                since[w] = time
            if time - int(since[w]) >= self._hold_us[w]:
                to, began = rank, int(since[w])
        if to > level:
            if not level:
                state["opened"][w] = time
            state["level"][w], state["acknowledged"][w], state["told"][w] = to, 0, time
            for name in SINCE[:to]:
                state[name][w] = 0
            return to, "open", {"held_s": (time - began) / SECOND}
        if kept < level:
            state["level"][w] = kept
            name = "resolved" if not kept else "acknowledged" if state["acknowledged"][w] else "open"
            state["told"][w] = time
            return kept, name, {}
        again = int(self._again_us[w])
        if level and again and not state["acknowledged"][w] and time - int(state["told"][w]) >= again:
            state["told"][w] = time
            return level, "open", {"again": True, "stands_s": (time - int(state["opened"][w])) / SECOND}
        return None

    def withdraw(self, w: int, struck_us: int) -> bool:
        """Take back what the reading of ``struck_us`` began; say whether it had opened the alert that stands."""
        state = self.state
        for name in SINCE:
            if int(state[name][w]) == struck_us:
                state[name][w] = 0
        if not state["level"][w] or int(state["opened"][w]) != struck_us:
            return False
        state["level"][w] = 0
        for name in SINCE:
            state[name][w] = 0
        return True

    def limit_of(self, w: int, level: int) -> float:
        """Return the measure at which a level is met; of one that the rule does not have, and 0, its lowest."""
        limits = self.limits[w]
        if level and not np.isnan(limits[level - 1]):
            return float(limits[level - 1])
        known = limits[~np.isnan(limits)]
        return float(known[0]) if len(known) else np.nan

    def transition(
        self, w: int, level: int, state: str, moment: Moment, value: float = np.nan, limit: float = np.nan,
        **evidence: Any,
    ) -> Transition:  # fmt: skip
        """Write down one step of the alert of a watch."""
        watch, opened = self.watches[w], int(self.state["opened"][w])
        return Transition(
            alert_id(*watch.key(), opened), *watch.key(), level, state, moment.time_us, opened, value, limit,
            moment.revision, moment.known_us, evidence,
        )  # fmt: skip

    def command(self, name: str, alert: str, who: str, note: str, at_us: int, revision: int) -> Transition | None:
        """Acknowledge or comment an open alert; None when it is not one of these."""
        for w in np.flatnonzero(self.state["level"]).tolist():
            if alert_id(*self.watches[w].key(), int(self.state["opened"][w])) != alert:
                continue
            if name == "acknowledge":
                self.state["acknowledged"][w] = 1
            state = {"acknowledge": "acknowledged", "comment": "comment"}[name]
            level = int(self.state["level"][w])
            return self.transition(w, level, state, Moment(at_us, revision, at_us))._replace(who=who, note=note)
        return None

    def restore(self, saved: NDArray[Any]) -> None:
        """Take up saved state; columns that a state of before does not have begin as the opening."""
        self.state.restore(saved)
        if "told" not in (saved.dtype.names or ()):
            self.state["told"][:] = self.state["opened"]
        self._wake()


def levels_of(rules: Sequence[Any]) -> NDArray[np.float64]:
    """Return (rules, levels): at which measure each level is met, NaN where there is none."""
    rows = [[rule.levels.get(level, np.nan) for level in LEVELS] for rule in rules]
    return np.array(rows, np.float64).reshape(-1, len(LEVELS))


def one_level(rules: Sequence[Any], measures: Sequence[float]) -> NDArray[np.float64]:
    """Return the same for rules with a single level that is met at the given measures."""
    out = np.full((len(rules), len(LEVELS)), np.nan)
    if len(rules):
        out[np.arange(len(rules)), [LEVELS.index(rule.level) for rule in rules]] = measures
    return out
