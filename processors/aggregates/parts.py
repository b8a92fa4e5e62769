"""Evaluates the levels that are made of the level below, and the day and night levels of noise."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from processors.aggregates.evaluate import UNDEFINED, asked, chunks, figure, make_rows, why_not
from processors.aggregates.kinds import ALL_COUNT, KINDS, Columns
from processors.aggregates.periods import local
from qingtu.clock import HOUR
from qingtu.contracts import FigureQuery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from processors.aggregates.evaluate import Asked, Due, Row
    from processors.aggregates.plan import Key, Plan
    from qingtu.contracts import Store
    from qingtu.store.names import SeriesNames

_STATS: Final = ("min", "max", "east", "north", "length")
Made = dict[str, dict[tuple["Key", int], "Row"]]
"""what → (series, start) → figure that was made for the frame that is being worked on: newer than the store."""


class Parts:
    """Figures of the level below, a row each, in order of place and start.

    Args:
        store: holds those of earlier frames.
        made: those of this frame.
        ask: windows.
        what: the level below.
        at: position of the tick: figures count as they were before it.
    """

    def __init__(self, store: Store, made: Made, ask: Asked, what: str, at: int) -> None:
        table = store.figures_of(FigureQuery(ask.keys, ask.start, ask.end, what=what, before=at))
        place, start = np.asarray(table.column("series")).astype(np.int64), np.asarray(table.column("start"))
        columns: dict[str, list[Any]] = {
            name: table.column(name).to_pylist() for name in ("value", "valid", "reason", "inputs")
        }
        known = {key: i for i, key in enumerate(ask.keys)}
        rows = table.to_pylist()
        stored = {(row["series"], row["start"]): row for row in rows}
        own = [
            (known[key], at_us, row)
            for (key, at_us), row in made.get(what, {}).items()
            if key in known
            and ask.start <= at_us < ask.end
            # One that did not change keeps its first revision in the store, and with it what it was made of.
            and not ((old := stored.get((known[key], at_us))) and published(old) == published(row))
        ]
        place = np.concatenate([place, np.array([p for p, _, _ in own], np.int64)])
        start = np.concatenate([start, np.array([s for _, s, _ in own], np.int64)])
        inputs = [orjson.loads(text) for text in columns["inputs"]] + [row["inputs"] for _, _, row in own]
        value = [np.nan if v is None else v for v in columns["value"]] + [row["value"] for _, _, row in own]
        reason = columns["reason"] + [row["reason"] for _, _, row in own]
        valid = columns["valid"] + [row["valid"] for _, _, row in own]
        # Of two the one made last counts; it stands behind.
        code = ask.code(place, start)
        order = np.argsort(code, kind="stable")
        keep = order[np.append(code[order][1:] != code[order][:-1], True)[: len(order)]]
        self.code = code[keep]
        self.place, self.start = place[keep], start[keep]
        self.value = np.array(value, np.float64)[keep]
        judged = [v or r == UNDEFINED for v, r in zip(valid, reason, strict=True)]
        self.valid = np.array(judged, np.bool_)[keep]
        kept = [inputs[i] for i in keep.tolist()]
        self.newest = np.array([one.get("newest_revision", -1) for one in kept], np.int64)
        found = [one.get("stats", {}) for one in kept]
        self.stats: Mapping[str, NDArray[np.float64]] = {
            name: np.array([one.get(name, np.nan) for one in found], np.float64) for name in _STATS
        }


def published(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what makes a figure another one when it differs, as both stores compare it."""
    inputs = orjson.loads(row["inputs"]) if isinstance(row["inputs"], str) else row["inputs"]
    value = row["value"]
    return (
        None if value is None or value != value else value,  # noqa: PLR0124 - NaN is not equal to itself
        *(row[name] for name in ("count", "expected", "valid", "reason")),
        orjson.dumps(inputs.get("stats")),
    )


class FromParts:
    """Figures of the levels that are made of the level below.

    Args:
        store: is asked, once it has applied all figures of earlier frames.
        plan: under the catalogue of the tick.
        names: of series.
        at: position of the tick.
        made: figures of this frame.
    """

    def __init__(self, store: Store, plan: Plan, names: SeriesNames, at: int, made: Made) -> None:
        self._store = store
        self._plan = plan
        self._names = names
        self._at = at
        self._made = made

    def rows(self, due: Due) -> list[Row]:
        """Return the figures of windows of one level; a window without any part has none."""
        out: list[Row] = []
        for chunk in chunks(due, self._plan):
            ask = asked(chunk, self._plan, self._names)
            below = self._plan.rules.levels[chunk[0][0].level].below
            out += self._evaluate(ask, Parts(self._store, self._made, ask, below, self._at))
        return out

    def _evaluate(self, ask: Asked, parts: Parts) -> list[Row]:
        all_count = np.array([self._kind(ask, place) in ALL_COUNT for place in range(len(ask.keys))], np.bool_)
        has_value = ~np.isnan(parts.value) | ~np.isnan(parts.stats["length"])
        counted = has_value & (parts.valid | all_count[parts.place])
        first, last = ask.segments(parts.code, ask.place)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counted)])
        valid = np.concatenate([np.zeros(1, np.int64), np.cumsum(parts.valid & has_value)])
        stats = {name: column[counted] for name, column in parts.stats.items()}
        data = Columns(parts.value[counted], before[first], before[last], stats)
        some = np.flatnonzero(last > first)

        def inputs(i: int) -> dict[str, Any]:
            newest = int(parts.newest[first[i] : last[i]].max())
            return {"parts": int(last[i] - first[i]), "newest_revision": newest}

        out = make_rows(self._plan, ask, some, data, valid[last] - valid[first], inputs)
        level = self._plan.rules.levels[ask.windows[0].level].name
        if level == "day":
            noisy = [i for i in some.tolist() if ask.keys[ask.place[i]][1] in self._plan.rules.day_night]
            for i in noisy:
                out += self._day_night(ask, i, parts, slice(int(first[i]), int(last[i])))
        return out

    def _kind(self, ask: Asked, place: int) -> str:
        number = self._names.number(ask.keys[place])
        series = None if number is None else self._plan.series[number]
        return "" if series is None else series.kind

    def _day_night(self, ask: Asked, i: int, parts: Parts, own: slice) -> list[Row]:
        """Return Ld, Ln and Ldn of one day: energy means of its valid hours by day and by night."""
        window, key = ask.windows[ask.window[i]], ask.keys[ask.place[i]]
        by_day = self._plan.day_hours(key[0])
        value, valid = parts.value[own], parts.valid[own] & ~np.isnan(parts.value[own])
        is_day = np.array([in_day(window.zone, s, by_day) for s in parts.start[own].tolist()], np.bool_)
        hours = [in_day(window.zone, s, by_day) for s in range(window.start, window.end, HOUR)]
        newest = {"newest_revision": int(parts.newest[own].max())}
        out, levels = [], []
        for name, mine, expected in (("ld", is_day, sum(hours)), ("ln", ~is_day, len(hours) - sum(hours))):
            good = value[mine & valid]
            level = _energy(good)
            needed = self._plan.rules.needed(key[1], "day", expected)
            reason = why_not(level, len(good), needed)
            levels.append((level, expected, reason, len(good)))
            inputs = {"kind": "energy", "hours": list(by_day), "parts": int(mine.sum()), **newest}
            out.append(figure(f"day_{name}", key, window.start, level, len(good), expected, reason, inputs))
        (ld, day, why, n), (ln, night, why_night, m) = levels
        penalty = self._plan.rules.night_penalty_db
        with np.errstate(invalid="ignore"):
            ldn = float(10 * np.log10((day * 10 ** (ld / 10) + night * 10 ** ((ln + penalty) / 10)) / (day + night)))
        reason = "none_good" if "none_good" in (why, why_night) else why or why_night
        inputs = {"kind": "energy", "hours": list(by_day), "ld": ld, "ln": ln, "penalty_db": penalty, **newest}
        out.append(figure("day_ldn", key, window.start, ldn, n + m, day + night, reason, inputs))
        return out


def _energy(levels: NDArray[np.float64]) -> float:
    if not len(levels):
        return float("nan")
    return float(KINDS["energy"](Columns(levels, np.array([0]), np.array([len(levels)])))[0][0])


@lru_cache(maxsize=65536)
def in_day(zone: str, start_us: int, hours: tuple[int, int]) -> bool:
    """Say whether an hour belongs to the day: from the first hour on, before the second; it may go over midnight."""
    hour, (first, night) = local(zone, start_us).hour, hours
    return first <= hour < night if first <= night else hour >= first or hour < night
