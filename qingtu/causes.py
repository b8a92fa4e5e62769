"""Why a published figure changed: the raw rows that changed readings of its period since it was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from processors.aggregates.periods import end_of
from processors.aggregates.rules import load_rules
from processors.indices.run import WHATS, inputs_of
from qingtu.contracts import ReadingQuery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Store

LISTED: Final = 20
"""Causes that are listed of one correction; ``causes`` of a correction says how many there are."""
_Raw = tuple[str, int]
"""Station and position in its partition."""
_SHOWN: Final = ("value", "count", "expected", "valid", "reason")


def told(row: Mapping[str, Any], store: Store, catalogue: Catalogue) -> dict[str, Any]:
    """Return one correction as people read it: what it was, what it is, and because of which messages.

    Args:
        row: of :meth:`qingtu.store.contract.PrimaryStore.figure_corrections`.
        store: has the readings.
        catalogue: tells the station's zone.

    Returns:
        ``what``, ``station``, ``property``, ``channel``, ``start`` (µs UTC); ``old`` and ``new``, each with value,
        count, expected, valid, reason, stats, revision and known_at (µs UTC); ``causes``, how many raw rows;
        ``because``, the newest of them: station, position, property and time of the reading, newest
        first. Readings that were expired since are not counted; then the newest that the figure was made of is told.
    """
    sides = {
        side: {
            **{name: row[f"{side}_{name}"] for name in _SHOWN},
            "stats": orjson.loads(row[f"{side}_inputs"] or "{}").get("stats", {}),
            "revision": row[f"{side}_revision"],
            "known_at": row["old_known_at" if side == "old" else "known_at"],
        }
        for side in ("old", "new")
    }
    names = ("what", "station", "property", "channel", "start")
    count, because = _because(row, store, catalogue)
    return {**{name: row[name] for name in names}, **sides, "causes": count, "because": because}


def _because(row: Mapping[str, Any], store: Store, catalogue: Catalogue) -> tuple[int, list[dict[str, Any]]]:
    rules = load_rules()
    level = rules.level_of(row["what"])
    number = catalogue.series_index(row["station"], row["property"], row["channel"])
    found: dict[_Raw, tuple[str, int]] = {}
    if row["what"] in WHATS.values():
        found = _behind_index(row, store, catalogue)
    elif level is not None and number is not None:
        end = end_of(level.name, catalogue.series[number].timezone, row["start"])
        # What a direction is weighed by, and how far a meter went before, belong to a figure, too.
        start = row["start"] - rules.lookback_us
        props = [row["property"], *([rules.speed_of[row["property"]]] if row["property"] in rules.speed_of else [])]
        keys = [(row["station"], prop, row["channel"]) for prop in props]
        table = store.readings(ReadingQuery(keys, start, end, as_of=row["new_revision"]))
        revision, time = np.asarray(table.column("revision")), np.asarray(table.column("time"))
        counter = orjson.loads(row["new_inputs"] or "{}").get("kind") == "counter"
        which = np.flatnonzero((revision > row["old_revision"]) & ((time >= row["start"]) | counter))
        series = np.asarray(table.column("series"))
        for i in which.tolist():
            found[row["station"], int(revision[i])] = (props[series[i]], int(time[i]))
    newest = orjson.loads(row["new_inputs"] or "{}").get("newest_revision", -1)
    if not found and newest > row["old_revision"]:
        found[row["station"], newest] = (row["property"], row["start"])
    newest_first = sorted(found.items(), key=lambda one: (one[0][1], one[0][0]), reverse=True)
    listed = [
        {"station": station, "position": at, "property": prop, "time": time}
        for (station, at), (prop, time) in newest_first
    ]
    return len(listed), listed[:LISTED]


def _behind_index(row: Mapping[str, Any], store: Store, catalogue: Catalogue) -> dict[_Raw, tuple[str, int]]:
    """Return the raw rows that changed an index, each with property and time of a reading that the index looks at.

    An area has stations in several partitions, whose positions say nothing about each other: there the time at which a
    row was known decides.
    """
    found: dict[_Raw, tuple[str, int]] = {}
    place = row["station"]
    for (station, prop), (start, end) in _spans(row, catalogue).items():
        query = ReadingQuery([(station, prop, row["channel"])], start, end, known_by_us=row["known_at"])
        table = store.readings(query)
        revision, time = np.asarray(table.column("revision")), np.asarray(table.column("time"))
        if station == place:
            new = (revision > row["old_revision"]) & (revision <= row["new_revision"])
        else:
            known = np.asarray(table.column("known_at"))
            new = (known > row["old_known_at"]) & (known <= row["known_at"])
        found |= {(station, int(revision[i])): (prop, int(time[i])) for i in np.flatnonzero(new).tolist()}
    return found


def _spans(row: Mapping[str, Any], catalogue: Catalogue) -> dict[tuple[str, str], tuple[int, int]]:
    """Return (station, property) → from when to when readings count in an index, µs UTC."""
    out: dict[tuple[str, str], tuple[int, int]] = {}
    for station, prop, level, start in inputs_of(catalogue, row["station"], row["property"], row["what"], row["start"]):
        number = catalogue.series_index(station, prop, row["channel"])
        if number is not None:
            end = end_of(level, catalogue.series[number].timezone, start)
            first, last = out.get((station, prop), (start, end))
            out[station, prop] = min(first, start), max(last, end)
    return out
