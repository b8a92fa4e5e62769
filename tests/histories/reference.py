"""The fault-free history of the same input: raw as it became durable, frame by frame, each stage once.

And what a store holds in the end, in a form that can be compared: of the model and of the real DuckDB store.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from processors.aggregates.derive import Derive
from processors.process import Process
from qingtu.records import FIGURES, PROCESSED, Frame, decode
from qingtu.store.duckdb import DuckStore
from tests.histories import city
from tests.histories.hosts import GRACE_S
from tests.histories.store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.histories.store import FullStore

Raw = list[tuple[int, Frame]]
"""(offset, frame) of one partition, in order."""

_ALERT = ("alert", "rule", "station", "property", "level", "state", "time", "opened_at", "revision", "evidence", "who")


def replay(raw: Mapping[int, Raw]) -> ModelStore:
    """Run raw frames through every stage, without any fault, into a store."""
    store = ModelStore()
    archive = city.archive().__getitem__
    for partition, frames in raw.items():
        process, derive = Process(archive, partition, len(raw)), Derive(store, archive, GRACE_S, partition)
        process.restore(None)
        for number, (offset, frame) in enumerate(frames):
            for stream, data in process.apply(frame, offset).items():
                assert isinstance(stream, str)
                out = decode(data)
                store.apply(stream, partition, [out], number + 1)
                if stream == PROCESSED:
                    made = out
            for stream, data in derive.apply(made, number).items():
                assert stream == FIGURES
                store.apply(stream, partition, [decode(data)], number + 1)
    return store


def contents(store: FullStore) -> dict[str, list[Any]]:
    """Return what a store holds: current rows, corrections, alerts, figures and their corrections, books; sorted."""
    if isinstance(store, ModelStore):
        out = _of_model(store)
    else:
        assert isinstance(store, DuckStore)
        out = _of_duckdb(store)
    out["books"] = [(key, *sorted(row.items())) for key, row in store.ledger()[0].items()]
    out["quarantine"] = list(store.in_quarantine())
    return {name: sorted(rows, key=repr) for name, rows in out.items()}


def _of_model(store: ModelStore) -> dict[str, list[Any]]:
    chains = store.chains.items()
    return {
        "rows": [(*key, time, *chain[-1]) for (key, time), chain in chains],
        "corrections": [
            (*key, time, old.value, old.flag, old.revision, new.value, new.flag, new.revision)
            for (key, time), chain in chains
            for old, new in pairwise(chain)
        ],
        "events": [(r["station"], r["kind"], r["time"], r["attributes"], r["revision"]) for r in store.events.values()],
        "alerts": [tuple(row[name] for name in _ALERT) for row in store.alerts],
        "rejected": [(p, r["position"], r["stage"], r["reason"], r["readings_refused"]) for p, r in store.rejected],
        "figures": [
            (*key, row["value"], row["count"], row["valid"], row["revision"]) for key, row in store.figures.items()
        ],
        "figure corrections": [(*key, *rest) for key, *rest in store.figure_corrections],
    }


def _of_duckdb(store: DuckStore) -> dict[str, list[Any]]:
    name, of = "s.station, s.property, s.channel, ", " r JOIN series s ON s.id = r.series"
    alert = ", ".join({"time": "epoch_us(time)", "opened_at": "epoch_us(opened_at)"}.get(c, c) for c in _ALERT)
    figure = "what, station, property, channel, epoch_us(start), "
    queries = {
        "rows": f"SELECT {name} epoch_us(time), value, flag, tests, revision, epoch_us(known_at) FROM readings {of}",
        "corrections": f"SELECT {name} epoch_us(time), old_value, old_flag, old_revision, new_value, new_flag, "
        f"new_revision FROM corrections {of}",
        "events": "SELECT station, kind, epoch_us(time), attributes, revision FROM events",
        "alerts": f"SELECT {alert} FROM alerts",
        "rejected": "SELECT partition, position, stage, reason, refused FROM rejected",
        "figures": f"SELECT {figure} value, count, valid, revision FROM figures",
        "figure corrections": f"SELECT {figure} old_value, old_count, old_valid, old_revision, new_value, new_count, "
        "new_valid, new_revision FROM figure_corrections",
    }
    out = {}
    for what, query in queries.items():
        with store.cursor() as db:
            out[what] = [tuple(map(_plain, row)) for row in db.execute(query).fetchall()]
    return out


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def first_difference(found: Mapping[str, Sequence[Any]], wanted: Mapping[str, Sequence[Any]]) -> tuple[str, str] | None:
    """Return what differs and how, in a few words; None when nothing does."""
    for what, rows in wanted.items():
        if list(found[what]) == list(rows):
            continue
        have, want = list(map(repr, found[what])), list(map(repr, rows))
        more = [row for row in have if have.count(row) > want.count(row)][:2]
        less = [row for row in want if want.count(row) > have.count(row)][:2]
        return what, f"{len(have)} {what} against {len(want)}; too many: {more}; missing: {less}"
    return None
